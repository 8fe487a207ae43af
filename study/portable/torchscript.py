"""A network as TorchScript: one file that any libtorch program runs, with outputs that were compared."""

import io
import warnings
from typing import Final

import torch
from torch import Tensor, nn

from study.errors import InputError
from study.losses.base import Criterion
from study.losses.multitask import MultiTask
from study.models.inputs import COLOUR_MEAN, COLOUR_SD, GREY_MEAN, GREY_SD
from study.portable.model import PortableModel

TORCHSCRIPT_FILE: Final = "model.torchscript.pt"
TOLERANCE: Final = 1e-5
SEED: Final = 0


class _Whole(nn.Module):
    """Pixels from 0 to 1 [N, C, H, W] to the probabilities [N, K] of the deciding task."""

    mean: Tensor
    sd: Tensor

    def __init__(self, network: nn.Module, criterion: Criterion | MultiTask, channels: int) -> None:
        super().__init__()
        self.network = network
        # Outputs of the deciding task come first.
        self.criterion: Criterion = criterion.deciding.criterion if isinstance(criterion, MultiTask) else criterion
        mean, sd = ((GREY_MEAN,), (GREY_SD,)) if channels == 1 else (COLOUR_MEAN, COLOUR_SD)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("sd", torch.tensor(sd).view(1, -1, 1, 1))

    def forward(self, pixels_nchw: Tensor) -> Tensor:
        """Probabilities [N, K]."""
        outputs_no = self.network((pixels_nchw - self.mean) / self.sd)
        return self.criterion.probabilities(outputs_no[:, : self.criterion.num_outputs])


def write_torchscript(model: PortableModel) -> bytes:
    """The traced network, whose input are prepared pictures over their largest value.

    Raises:
        InputError: it cannot be traced, or the trace gives other probabilities for other pictures or batch sizes.
    """
    whole = _Whole(model.network, model.criterion, model.record.channels).eval().cpu()
    shape = (model.record.channels, *model.record.image_hw)
    draw = torch.Generator().manual_seed(SEED)
    example, other = torch.rand((2, *shape), generator=draw), torch.rand((5, *shape), generator=draw)
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of things that tracing cannot follow; what they do is compared below
            traced = torch.jit.trace(whole, example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, buffer)
            loaded = torch.jit.load(io.BytesIO(buffer.getvalue()))  # type: ignore[no-untyped-call]
            gap = max(float((loaded(pixels) - whole(pixels)).abs().max()) for pixels in (example, other, other[:1]))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"the network cannot be written as TorchScript: {first}", "export it without") from error
    if gap > TOLERANCE:
        raise InputError(
            f"as TorchScript the network's probabilities differ by up to {gap:.2g}; at most {TOLERANCE:g} is allowed",
            "export it without",
        )
    return buffer.getvalue()
