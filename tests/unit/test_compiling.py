"""When a network is compiled, and that a compiled run is the same run."""

import functools
import os

import pytest
import torch

from study import checkpoint
from study.config import StudyConfig
from study.distributed import runs
from study.errors import TrainingFault
from study.optimisation import TrainSettings
from study.training import Hooks, compiling
from study.training.compiling import compile_pays, wants_compile
from tests.unit.test_training import Bench, curve, same

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_when_compiling_pays() -> None:
    """Short rungs pay for the compiler, or the cost of the first compilation is forgotten or counted for every run."""
    gained_s = 512 * 512 / 1e6 * compiling.GAIN_S
    warm, cold = (round(seconds / gained_s) for seconds in (compiling.WARM_S, compiling.COLD_S))
    assert not compile_pays(images=int(0.9 * warm), image_hw=(512, 512), runs=1000)
    assert compile_pays(images=int(1.1 * warm), image_hw=(512, 512), runs=1000)
    assert not compile_pays(images=int(0.9 * cold), image_hw=(512, 512), runs=1)
    assert compile_pays(images=int(1.1 * cold), image_hw=(512, 512), runs=1)
    assert compile_pays(images=int(1.1 * cold) // 4, image_hw=(1024, 1024), runs=1)


def test_auto_compiles_on_a_gpu_with_tools_alone(monkeypatch) -> None:
    """Auto compiles on a CPU, or where the compiler's own tools are missing; true and false are not obeyed."""
    monkeypatch.setattr(compiling, "_c_compiler", lambda: "/usr/bin/cc")
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: name)
    assert wants_compile("auto", pays=True, device=GPU)
    assert not wants_compile("auto", pays=False, device=GPU)
    assert not wants_compile("auto", pays=True, device=CPU)
    assert wants_compile(True, pays=False, device=CPU)
    assert not wants_compile(False, pays=True, device=GPU)
    monkeypatch.setattr(compiling, "_c_compiler", lambda: None)
    assert not wants_compile("auto", pays=True, device=GPU)


def pays(monkeypatch, **sections) -> dict[str, object]:
    """What the study file makes of the rule."""
    asked: dict[str, object] = {}
    monkeypatch.setattr(runs, "compile_pays", lambda **numbers: asked.update(numbers) or True)
    raw = {
        "study": "s",
        "data": {"prepared": "nowhere", "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}]},
        "train": {"epochs": 9, "batch_size": 8},
        "search": {"trials": 10, "space": {"optim.lr": {"float": [1e-4, 1e-2]}}},
    }
    config = StudyConfig.model_validate({**raw, **sections})
    settings: TrainSettings = runs._settings(config, steps=5, seed=0, image_hw=(64, 32))
    assert settings.compile == "auto"
    assert settings.compile_pays
    return asked


def test_the_rung_counts(monkeypatch) -> None:
    """A trial that is pruned after one epoch has paid for a compiler that counted on nine."""
    assert pays(monkeypatch) == {"images": 9 * 5 * 8, "image_hw": (64, 32), "runs": 10}
    pruned = {"trials": 10, "space": {"optim.lr": {"float": [1e-4, 1e-2]}}}
    pruned |= {"pruner": {"name": "successive_halving", "min_epochs": 2}}
    confirm = {"top": 2, "seeds": [0, 1, 2]}
    asked = pays(monkeypatch, search=pruned, confirm=confirm)
    assert asked == {"images": 2 * 5 * 8, "image_hw": (64, 32), "runs": 10 + 9}


def test_a_compiled_run_resumes_bit_by_bit_and_predicts_uncompiled(tiny_dataset, tmp_path, monkeypatch) -> None:
    """A resumed run is not compiled, validation goes through the compiled form, or checkpoints have other keys."""
    monkeypatch.setenv(compiling.CACHE_VARIABLE, str(tmp_path / "cache"))
    calls = {True: 0, False: 0}

    def compile_(model, **options):
        assert options == {"dynamic": False}

        def forward(x):
            calls[model.training] += 1
            return model(x)

        return forward

    monkeypatch.setattr(torch, "compile", compile_)
    bench = Bench(tiny_dataset, compile=True)
    steps = 4 * bench.settings.steps_per_epoch
    bench.run(tmp_path / "whole")
    assert calls == {True: steps, False: 0}
    left = iter([False] * 6 + [True])
    assert bench.run(tmp_path / "cut", hooks=Hooks(should_stop=lambda: next(left))).state == "waiting"
    assert bench.run(tmp_path / "cut", attempt=2).state == "complete"
    assert calls == {True: 2 * steps, False: 0}
    assert same(curve(tmp_path / "whole"), curve(tmp_path / "cut"))
    assert "head.2.weight" in checkpoint.load_last(tmp_path / "cut").model
    assert os.environ[compiling.CACHE_VARIABLE] == str(tmp_path / "cache")


def test_all_runs_of_a_node_share_one_cache(monkeypatch) -> None:
    """Every trial compiles for itself."""
    monkeypatch.delenv(compiling.CACHE_VARIABLE, raising=False)
    compiling.prepare_compiler()
    first = os.environ[compiling.CACHE_VARIABLE]
    compiling.prepare_compiler()
    assert os.environ[compiling.CACHE_VARIABLE] == first
    assert f"torch{torch.__version__}" in first
    monkeypatch.delenv(compiling.CACHE_VARIABLE)


def test_what_the_compiler_cannot_do_is_told(tiny_dataset, tmp_path, monkeypatch) -> None:
    """A run whose network cannot be compiled ends with a stack of the compiler's own words."""
    from torch._dynamo.exc import Unsupported

    def compile_(model, **options):
        def forward(x):
            raise Unsupported("Attempted to call function marked as skipped\nmore lines")

        return forward

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setenv(compiling.CACHE_VARIABLE, str(tmp_path / "cache"))
    with pytest.raises(TrainingFault, match="could not be compiled: Attempted to call") as caught:
        Bench(tiny_dataset, compile=True).run(tmp_path / "run")
    assert "train.compile" in caught.value.fix


def test_a_network_is_really_compiled(tiny_dataset, tmp_path, monkeypatch) -> None:
    """The compiler's own wrapper cannot be trained, or trains another network."""
    monkeypatch.setenv(compiling.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    Bench(tiny_dataset, compile=True, epochs=1).run(tmp_path / "compiled")
    Bench(tiny_dataset, epochs=1).run(tmp_path / "eager")
    one, other = (checkpoint.load_last(tmp_path / name).model for name in ("compiled", "eager"))
    assert all(torch.allclose(one[key], other[key]) for key in other)
