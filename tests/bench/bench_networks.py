"""Sizes of the networks, and what a training step costs: forward, loss of all tasks, backward.

Run with `make bench`, or alone with `pytest -q -s tests/bench/bench_networks.py`. Five tasks as in paper multitask
(malignancy, ACR, density, view and, with the hourglass, reconstruction). On a GPU in bf16, else in float32.
"""

import time

import pytest
import torch

from study.losses import make_criterion
from study.losses.multitask import MultiTask
from study.models import make_model
from study.optimisation import autocast_for

CLASSES = {"binary": 2, "acr": 6, "density": 4, "view": 2}
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
REPEATS = 10 if GPU else 3
# Network, whether features of all levels are joined, whether it reconstructs, and height and width of the pictures.
SIZED = [
    ("hourglass", True, True, (2048, 1664) if GPU else (512, 384)),
    ("hourglass", False, False, (2048, 1664) if GPU else (512, 384)),
    ("efficientnet_b3", None, False, (1024, 1024) if GPU else (256, 256)),
    ("convnext_base", None, False, (512, 512) if GPU else (128, 128)),
]


def built(name, fusion, reconstruct):
    torch.manual_seed(0)
    criterion = MultiTask(
        [(task, make_criterion("cross_entropy", num_classes=size), 1.0) for task, size in CLASSES.items()],
        reconstruction=float(reconstruct),
    )
    own = {} if fusion is None else {"fusion": fusion, "reconstruct": reconstruct}
    model = make_model(name, num_outputs=criterion.num_outputs, make_head=criterion.make_head, drop_rate=0.5, **own)
    return model.to(DEVICE).train(), criterion.to(DEVICE)


def step(model, criterion, images, labels):
    with autocast_for(DEVICE, "bf16" if GPU else "fp32"):
        outputs = model(images)
    criterion(outputs, labels).backward()
    model.zero_grad(set_to_none=True)
    if GPU:
        torch.cuda.synchronize()


@pytest.mark.parametrize(("name", "fusion", "reconstruct", "hw"), SIZED)
def test_size_and_step(name, fusion, reconstruct, hw):
    """One line per network: parameters, of which the decoder's, and images a second."""
    model, criterion = built(name, fusion, reconstruct)
    count = 8 if GPU else 2
    images = torch.randn(count, 1, *hw, device=DEVICE)
    labels = torch.zeros(count, len(CLASSES), dtype=torch.int64, device=DEVICE)
    step(model, criterion, images, labels)
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(REPEATS):
        step(model, criterion, images, labels)
    speed = REPEATS * count / (time.perf_counter() - started)
    size = sum(parameter.numel() for parameter in model.parameters())
    decoder = getattr(model, "decoder", None)
    drawn = sum(parameter.numel() for parameter in decoder.parameters()) if decoder is not None else 0
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:6.1f} GiB" if GPU else ""
    print(
        f"\n{name:16} fusion {fusion!s:5} decoder {reconstruct!s:5} {size:>11,} parameters ({drawn:,} of the decoder)"
        f"  {hw[0]} x {hw[1]}, batch {count}: {speed:7.1f} images/s {memory}"
    )
