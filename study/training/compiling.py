"""When a network is compiled, and where what the compiler made is kept.

Compiling costs the first run of a node ``COLD_S``, and every later one of the same network, image size, batch and
precision ``WARM_S``, because all runs of a node share the compiler's cache. It gains ``GAIN_S`` for every megapixel of
training images. The three numbers are those of EfficientNet-B3 at 512 px in bf16 on an H200
(``tests/bench/bench_gpu.py``); another network gains and costs other seconds, in about the same proportion.
"""

import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import torch

from study.errors import TrainingFault

logger = logging.getLogger(__name__)

COLD_S: Final = 82.5
WARM_S: Final = 5.7
GAIN_S: Final = 2.3e-3
CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"


def compile_pays(*, images: int, image_hw: tuple[int, int], runs: int) -> bool:
    """Whether compiling gains more time than it takes.

    A function of the study file alone, so that a run which is resumed decides as before.

    Args:
        images: training images of all ranks that a run sees before it can be pruned for the first time.
        image_hw: height and width of an image, in pixels.
        runs: how many runs share the cost of the first compilation.
    """
    gained_s = images * image_hw[0] * image_hw[1] / 1e6 * GAIN_S
    return gained_s > WARM_S + (COLD_S - WARM_S) / max(1, runs)


def wants_compile(wanted: Literal["auto"] | bool, *, pays: bool, device: torch.device) -> bool:
    """Whether a run compiles its network: ``auto`` does so on a GPU with Triton and a C compiler, where it pays."""
    if wanted != "auto":
        return wanted
    if device.type != "cuda" or not pays:
        return False
    has_tools = importlib.util.find_spec("triton") is not None and _c_compiler() is not None
    if not has_tools:
        logger.warning("compiling would pay, but Triton or a C compiler is missing: training goes on without")
    return has_tools


def prepare_compiler() -> None:
    """Forget what this process compiled for earlier runs, and name the folder that all processes of a node share.

    A process keeps a limited number of compiled variants of the same code; once they are used up by other networks, new
    ones would run uncompiled.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"study-compiled-{user}-torch{torch.__version__}"
    os.environ.setdefault(CACHE_VARIABLE, str(folder))
    torch.compiler.reset()


@contextmanager
def compiler_faults() -> Iterator[None]:
    """What the compiler cannot do is told as a fault of the run.

    Raises:
        TrainingFault: compiling failed; the message carries the compiler's first line.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TrainingFault(
            f"the network could not be compiled: {reason[:300]}", "set train.compile to false"
        ) from error


def _c_compiler() -> str | None:
    return next(
        (found for name in (os.environ.get("CC"), "gcc", "cc", "clang") if name and (found := shutil.which(name))), None
    )
