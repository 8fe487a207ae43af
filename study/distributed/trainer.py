"""The TorchTrainer of a slot: as Ray's, without the process that it starts to tidy up after a controller."""

from collections.abc import Callable
from typing import Any

from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from study.config import ResourcesConfig


class SlotTrainer(TorchTrainer):
    """A TorchTrainer whose placement group is given back by the slot pool.

    Ray's own cleaner is a detached process for each trainer. It learns of a controller's death from the dashboard's
    server, so without one it does nothing, and stays. The pool lives as long as the driver; when that dies, the
    cluster removes the placement groups of its job.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]


def slot_trainer(
    loop: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    *,
    resources: ResourcesConfig,
    name: str,
    scratch: str,
    watch: Any,
    max_deaths: int,
) -> SlotTrainer:
    """A trainer that runs ``loop`` with ``config`` in one worker group, which it starts again ``max_deaths`` times.

    ``watch`` is a callback that hears of deaths; a group that finds no place is the caller's business.
    """
    gpus, workers = resources.gpus_per_worker, resources.most_workers
    per_worker = {"CPU": resources.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
    return SlotTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=per_worker),
        run_config=RunConfig(
            name=name,
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=max_deaths, controller_failure_limit=0),
            callbacks=[watch],
        ),
    )
