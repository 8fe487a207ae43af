"""How long a trial waits for its first step: in a warm slot, in a cold one, and with a TorchTrainer of its own.

Run with `make bench`. Prints seconds and ratios of one run; asserts only that the work was done.
"""

import statistics
import threading
import time

import pytest

from study.config import StudyConfig
from study.distributed.cluster import connected
from study.distributed.slots import SlotPool, run_directly
from study.distributed.specs import make_spec
from study.distributed.warming import warm_loading

RUNS = 8


@pytest.fixture
def config(make_dataset, tmp_path):
    """A run of a single step on 32-pixel images."""
    return StudyConfig.model_validate(
        {
            "study": "bench",
            "data": {
                "prepared": str(make_dataset(tmp_path / "tiny")),
                "image_size": 32,
                "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}],
            },
            "model": {"name": "test_efficientnet"},
            "augment": {"policy": "none"},
            "sampler": {"epoch_draws": 12},
            "train": {"epochs": 1, "batch_size": 12},
        }
    )


def wait_times(pool, specs):
    """Seconds from the submission of each run to its start in a worker, and to the end of its only epoch."""
    begun, started, trained = {}, {}, {}

    def hear(spec, kind, _):
        {"started": started, "epoch": trained}.get(kind, {}).setdefault(spec.run_id, time.perf_counter())

    for spec in specs:
        begun[spec.run_id] = time.perf_counter()
        run_directly(pool, [spec], concurrent=1, on_event=hear, stop=threading.Event())
    return [(started[key] - begun[key], trained[key] - begun[key]) for key in begun]


def torch_trainer_seconds(scratch):
    """A TorchTrainer with one worker that does nothing."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    begun = time.perf_counter()
    trainer = TorchTrainer(
        lambda: None,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="noop", storage_path=str(scratch)),
    )
    trainer.fit()
    return time.perf_counter() - begun


def test_trial_start(config, tmp_path):
    """A warm slot starts a trial much sooner than a TorchTrainer of its own."""
    with connected():
        trainer_s = [torch_trainer_seconds(tmp_path / f"noop{i}") for i in range(2)]
        begun = time.perf_counter()
        pool = SlotPool(1, workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
        warm_loading(1)  # as a study does on two cores
        first = wait_times(pool, [make_spec(tmp_path, "cold", 0, config=config, attempt=1)])
        cold_s = time.perf_counter() - begun
        cold_start_s = cold_s - first[0][1] + first[0][0]
        warm = wait_times(pool, [make_spec(tmp_path, str(i), 0, config=config, attempt=1) for i in range(RUNS)])
        pool.close()
    start_s, step_s = (statistics.median(values) for values in zip(*warm, strict=True))
    print(f"\nTorchTrainer that does nothing   {min(trainer_s):7.2f} s (the quicker of 2)")
    print(f"cold slot: decision to worker    {cold_start_s:7.2f} s")
    print(f"cold slot: to the first epoch    {cold_s:7.2f} s")
    print(f"warm slot: decision to worker    {start_s:7.3f} s (median of {RUNS})")
    print(f"warm slot: decision to the end of one step with validation and checkpoint {step_s:.3f} s")
    print(f"ratio TorchTrainer : warm slot   {min(trainer_s) / step_s:7.1f}")
    assert len(first) == 1
    assert len(warm) == RUNS
