"""Checks of a study file against the world, before anything starts: its data, its network, the cluster."""

import math
import os
from typing import Final

from study.config import DataConfig, Fault, PartialStudy, ResourcesConfig, StudyConfig, searched_values
from study.data.files import is_file, is_remote, join, list_files, local_path, shown, why
from study.data.labels import label_column
from study.data.manifest import usable_rows
from study.data.shards import DATASET_FILE
from study.distributed.cluster import Capacity
from study.distributed.sizes import arrange, fewest, fitting_slots, most_slots, slot_cpus
from study.errors import InputError, StudyError

NEEDS_ALL_CLASSES: Final = frozenset(
    f"val/{name}"
    for name in ("auroc_macro", "f1_macro", "balanced_accuracy", "precision_macro", "recall_macro", "specificity_macro")
)

WEIGHS_BY_COUNT: Final = ("cb", "ldam")  # losses that need counts of classes by their nature


def check_world(partial: PartialStudy, *, available: Capacity | None) -> list[Fault]:
    """Faults that the file alone does not show; sections with faults of their own are left out.

    Reads tables, never pixels. ``available`` is what the cluster has; ``None`` leaves resources unchecked.
    """
    faults: list[Fault] = []
    if partial.data is not None:
        faults += data_faults(partial.data) or [
            *class_faults(partial),
            *weighted_class_faults(partial),
            *fold_faults(partial),
        ]
        faults += place_faults(partial.data)
    if partial.model is not None:
        faults += network_faults(partial)
    if partial.resources is not None and available is not None:
        faults += resource_faults(partial.resources, available)
    return faults


def data_faults(data: DataConfig) -> list[Fault]:
    """Sources that cannot be read, and splits that would stay empty."""
    from study.distributed.preparing_manifest import arrange, read_table

    faults, tables = [], []
    for number, source in enumerate(data.sources):
        try:
            tables.append(read_table(data, source))
        except StudyError as error:
            faults.append(Fault(f"data.sources.{number}", _with_fix(error)))
    if faults:
        return faults
    try:
        arrange(data, tables)
    except StudyError as error:
        return [Fault("data.splits", _with_fix(error))]
    return []


def class_faults(partial: PartialStudy) -> list[Fault]:
    """Splits that lack a class, when the metric is undefined without it; call with data that can be read.

    Training would run to its end and leave NaN.
    """
    from study.distributed.preparing_manifest import manifest_for

    if partial.data is None or partial.config is None or not NEEDS_ALL_CLASSES & {partial.config.metric}:
        return []
    manifest = manifest_for(partial.data)
    names = partial.data.labels.class_names
    kept = manifest[manifest["label"].notna()]
    needed = ("train", "val", "test") if partial.config.confirm else ("train", "val")
    lacking = [
        f"{split} has no image of class {name}"
        for split in needed
        for label, name in enumerate(names)
        if not ((kept["split"] == split) & (kept["label"] == label)).any()
    ]
    if not lacking:
        return []
    text = f"{'; '.join(lacking)}; {partial.config.metric} needs every class: more patients, or another splits.seed"
    return [Fault("data.splits", text)]


def weighted_class_faults(partial: PartialStudy) -> list[Fault]:
    """Auxiliary tasks whose classes are weighed by their counts, although one has no training image."""
    from study.distributed.preparing_manifest import manifest_for

    config = partial.config
    if config is None:
        return []
    own = {task: config.tasks.of(task) for task in config.data.labels.auxiliary}
    by_count = {
        task: "loss" if settings.loss in WEIGHS_BY_COUNT else "class_weights"
        for task, settings in own.items()
        if settings.loss in WEIGHS_BY_COUNT or settings.class_weights not in (None, "none")
    }
    if not by_count:
        return []
    manifest = manifest_for(config.data)
    training = manifest[(manifest["split"] == "train") & usable_rows(manifest)]
    faults = []
    for task, key in by_count.items():
        labels, names = training[label_column(task)], config.data.labels.class_names_of(task)
        lacking = [name for label, name in enumerate(names) if not (labels == label).any()]
        if lacking:
            found = f"{getattr(own[task], key)!r} needs training images of every class"
            faults.append(Fault(f"tasks.{task}.{key}", f"{found}; there is none of {', '.join(lacking)}"))
    return faults


def fold_faults(partial: PartialStudy) -> list[Fault]:
    """More folds than there are patients of a class; call with data that can be read."""
    from study.data.folds import fold_problem
    from study.distributed.preparing_manifest import manifest_for

    if partial.data is None or partial.search is None or partial.search.folds is None:
        return []
    manifest, seed = manifest_for(partial.data), partial.data.splits.seed
    classes = partial.data.labels.class_names
    text = fold_problem(manifest, folds=partial.search.folds, seed=seed, classes=classes)
    return [Fault("search.folds", text)] if text else []


def place_faults(data: DataConfig) -> list[Fault]:
    """A prepared dataset that could not be written where the file wants it, or masks that are not there."""
    return [*_prepared_faults(data), *_mask_faults(data)]


def _prepared_faults(data: DataConfig) -> list[Fault]:
    if is_remote(data.prepared):
        try:
            is_file(join(data.prepared, DATASET_FILE))
        except InputError as error:
            return [Fault("data.prepared", error.message)]
        except OSError as error:
            return [Fault("data.prepared", f"{shown(data.prepared)}: {why(error)}; expected a place that answers")]
        return []
    parent = local_path(data.prepared).parent
    while not parent.exists():
        parent = parent.parent
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return []
    return [Fault("data.prepared", f"{data.prepared!r}: {parent} cannot be written to; expected a folder of yours")]


def _mask_faults(data: DataConfig) -> list[Fault]:
    """A folder of masks without a single one."""
    if data.masks is None:
        return []
    try:
        found = list_files(data.masks, suffixes=(".png",))
    except InputError as error:
        return [Fault("data.masks", error.message)]
    return [] if found else [Fault("data.masks", f"{shown(data.masks)}: no PNG file there; expected a mask per image")]


def network_faults(partial: PartialStudy) -> list[Fault]:
    """Networks that nobody has: the file's own, and those that the search may draw."""
    faults = model_faults(partial.model.name) if partial.model is not None else []
    for path, name in searched_values("model.name", partial.search.space) if partial.search is not None else ():
        faults += model_faults(str(name), path=path)
    return faults


def model_faults(name: str, *, path: str = "model.name") -> list[Fault]:
    """A network that is neither ours nor a backbone of timm."""
    from study.models import is_model, nearest_models

    if is_model(name):
        return []
    near = ", ".join(repr(other) for other in nearest_models(name))
    message = f"{name!r}: expected a timm model or hourglass"
    return [Fault(path, message + (f"; did you mean {near}?" if near else ""))]


def resource_faults(resources: ResourcesConfig, available: Capacity) -> list[Fault]:
    """Requests that the cluster cannot give, with the fewest workers. Ray Train alone would wait for them for ever."""
    faults, resources = [], fewest(resources)
    where = "this machine" if available.address == "local" else "the cluster"
    if resources.cpus_per_worker > available.node_cpus:
        faults.append(
            Fault(
                "resources.cpus_per_worker",
                f"{resources.cpus_per_worker:g}: expected at most {available.node_cpus:g} (CPUs of the largest node)",
            )
        )
    if resources.gpus_per_worker > available.node_gpus:
        faults.append(
            Fault(
                "resources.gpus_per_worker",
                f"{resources.gpus_per_worker:g}: expected at most {available.node_gpus:g} (GPUs of the largest node)",
            )
        )
    if faults:  # what is left is judged with the share of a worker that would fit
        gpus = min(resources.gpus_per_worker, available.node_gpus)
        resources = resources.model_copy(update={"cpus_per_worker": 1.0, "gpus_per_worker": gpus})
    fitting = fitting_slots(resources, available)
    if fitting < 1:
        return [*faults, Fault("resources.workers", _too_large(resources, available, where))]
    if resources.concurrent != "auto" and resources.concurrent > fitting:
        faults.append(
            Fault(
                "resources.concurrent",
                f"{resources.concurrent}: expected at most {fitting} on {where} ({available.cpus:g} CPUs, "
                f"{available.gpus:g} GPUs; one run takes {slot_cpus(resources):g} CPUs with its data loading)",
            )
        )
    return faults


def count_slots(config: StudyConfig, available: Capacity, part: Capacity | None = None) -> int:
    """Slots to start: what the study file asks for, or as many as fit and have work; with ``part`` in that part alone.

    Raises:
        InputError: the connected cluster cannot give the resources.
    """
    faults = resource_faults(config.resources, available)
    if faults:
        raise InputError(
            f"{faults[0].path}: {faults[0].message}", "lower it in the study file, or use a larger cluster"
        )
    return max(1, len(arrange(config.resources, part or available, most_slots(config))))


def _too_large(resources: ResourcesConfig, available: Capacity, where: str) -> str:
    if resources.gpus_per_worker and resources.most_gpus > available.gpus:
        wanted = resources.most_gpus
        most = f"expected at most {available.gpus:g}, all that {where} has"
        return f"{resources.most_workers}: one run needs {wanted:g} GPUs; {most}"
    share = math.floor(100 * available.cpus / (resources.most_workers + 1)) / 100
    return (
        f"{resources.most_workers}: one run needs {slot_cpus(resources):g} CPUs with its data loading; expected at "
        f"most {available.cpus:g}, all that {where} has; resources.cpus_per_worker: {min(share, 1.0):g} would fit"
    )


def _with_fix(error: StudyError) -> str:
    return f"{error.message}; {error.fix}" if error.fix else error.message
