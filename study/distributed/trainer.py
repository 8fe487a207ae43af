"""The TorchTrainer of a slot: as Ray's, without the processes and second starts of Python that a slot does not need."""

from collections.abc import Callable
from typing import Any

import ray
from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
from ray.data._internal.stats import get_or_create_stats_actor
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from study.config import ResourcesConfig
from study.distributed.room import start_actor

NEEDLESS = (PlacementGroupCleanerCallback, DatasetsCallback)


class SlotWorkerGroup(WorkerGroup):
    """Workers with the environment of the cluster, or of the job: `study.distributed.cluster` has put it there.

    Ray Train hands its variables on as a runtime environment of each worker. Ray then starts Python twice for it, and
    for each loading task of the worker, and none of the processes that stand ready may be used.
    """

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return custom_runtime_env


class SlotController(TrainController):
    """The actor that starts and watches the workers of a slot."""

    worker_group_cls: type[WorkerGroup] = SlotWorkerGroup


class SlotTrainer(TorchTrainer):
    """A TorchTrainer whose placement group is given back by the slot pool, and whose workers open their own data.

    Ray's own cleaner is a detached process for each trainer. It learns of a controller's death from the dashboard's
    server, so without one it does nothing, and stays. The pool lives as long as the driver; when that dies, the
    cluster removes the placement groups of its job. Another process would hold datasets that are handed to a trainer,
    also when there are none.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, NEEDLESS)]

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        controller = start_actor(SlotController, arguments=controller_init_kwargs)
        # Both outlive the study, on the node of whoever asks first, which is never idle then: no autoscaler takes it
        # back, and draining it waits in vain. The driver's node stays anyway. The controller would start the first one,
        # and wait for it, only when it has started itself.
        get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]
        get_or_create_stats_actor()
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())


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
