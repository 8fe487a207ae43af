"""The trainer of a slot: what it leaves out of Ray's."""

import pytest
from ray.train.v2._internal.callbacks import AcceleratorSetupCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.torch.torch_trainer import TorchTrainer

from study.config import ResourcesConfig
from study.distributed.trainer import NEEDLESS, SlotController, slot_trainer


@pytest.fixture
def trainer(tmp_path):
    """A trainer of two workers that was not started."""
    return slot_trainer(
        print,
        {},
        resources=ResourcesConfig(workers=2, cpus_per_worker=0.5),
        name="slot",
        scratch=str(tmp_path),
        watch=UserCallback(),
        max_deaths=3,
    )


def test_only_the_needless_processes_are_left_out(trainer):
    """Another callback than those two is missing, or one of the two came back with a new release of Ray."""
    theirs = {type(callback) for callback in TorchTrainer._create_default_callbacks(trainer)}
    ours = {type(callback) for callback in trainer._create_default_callbacks()}
    assert set(NEEDLESS) <= theirs
    assert theirs - ours == set(NEEDLESS)
    assert AcceleratorSetupCallback in ours
    assert PlacementGroupCleanerCallback not in ours


def test_workers_get_no_runtime_environment(monkeypatch):
    """A variable that all processes have already makes Ray start Python twice for each worker and loading task."""
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    assert WorkerGroup._get_worker_runtime_env({})["env_vars"]["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.5"
    assert SlotController.worker_group_cls._get_worker_runtime_env({}) == {}


def test_as_many_deaths_as_are_borne(trainer):
    """The trainer starts its workers more or fewer times than the pool allows, or waits for its controller for ever."""
    failures = trainer.run_config.failure_config
    assert (failures.max_failures, failures.controller_failure_limit) == (3, 0)
    assert trainer.scaling_config.num_workers == 2
