"""The features before the head, and a flat picture of them (t-SNE, van der Maaten & Hinton, JMLR 2008)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.errors import InputError
from study.explain.opening import OpenRun
from study.inference import row_batches
from study.models.inputs import to_input

LEAST = 10  # fewer points have no neighbourhoods


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Images as points: ``points_n2`` of the rows ``rows_n`` of the dataset."""

    rows_n: NDArray[np.int64]
    points_n2: NDArray[np.float64]
    perplexity: float


def features_of(run: OpenRun, rows_n: NDArray[np.int64], *, batch_size: int = 32) -> NDArray[np.float32]:
    """What the head sees of each image, [N, F], in evaluation mode and full precision.

    Raises:
        InputError: the network has no head that could be told from the rest.
    """
    find = getattr(run.network, "get_classifier", None)
    head = find() if callable(find) else None
    if not isinstance(head, nn.Module) or isinstance(head, nn.Identity):
        raise InputError("this network has no head that could be told from the rest", "take another model.name")
    kept: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0].detach().float().cpu()))
    try:
        with torch.no_grad():
            for images_nchw in row_batches(run.dataset, rows_n, batch_size=batch_size):
                run.network(to_input(images_nchw.to(run.device)))
    finally:
        handle.remove()
    return torch.cat([part.flatten(1) for part in kept]).numpy()


def embed(run: OpenRun, rows_n: NDArray[np.int64], *, seed: int = 0) -> Embedding:
    """t-SNE of the features of ``rows_n``; equal features and seeds give equal points.

    Raises:
        InputError: fewer than ten images, or as ``features_of``.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(rows_n) < LEAST:
        raise InputError(
            f"{len(rows_n)} images are too few for t-SNE; expected at least {LEAST}", "take a larger split"
        )
    features_nf = features_of(run, rows_n).astype(np.float64)
    spread_f = features_nf.std(axis=0)
    scaled = (features_nf - features_nf.mean(axis=0)) / np.where(spread_f > 0, spread_f, 1.0)
    dimensions = min(50, *scaled.shape)
    reduced = PCA(n_components=dimensions, random_state=seed).fit_transform(scaled)
    perplexity = float(min(30, (len(rows_n) - 1) // 3))
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    return Embedding(rows_n=rows_n, points_n2=np.asarray(points, dtype=np.float64), perplexity=perplexity)
