"""From a study file and a seed to the parts of one run: data, plan, criterion, network, numbers."""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from study import checkpoint
from study.config import StudyConfig, checkpoint_interval
from study.data.augment_device import DeviceAugment
from study.data.files import shown
from study.data.folds import with_fold
from study.data.parquet_file import write_table
from study.data.pseudo import pseudo_digest, read_pseudo_labels, with_pseudo_labels
from study.data.sampling import Plan, make_plan
from study.data.sampling_summary import PlanSummary
from study.data.shards import PreparedDataset, open_dataset
from study.data.targets import Targets
from study.distributed.objective import criterion_for, labels_to_draw, model_params, targets_for
from study.errors import InputError, StudyError
from study.inference import Predictions, prediction_metrics, prediction_table
from study.models import make_model
from study.optimisation import TrainSettings, autocast_for, resolve_precision, seed_step
from study.stochastic import McDropout, Sampled, sample_split
from study.training import RunParts, check_identity, predict
from study.training.compiling import compile_pays
from study.types import RunOutcome, SplitName

logger = logging.getLogger(__name__)

MC_DROPOUT = "mc_dropout"  # where its metrics stand, and how its files end
MOST_PICTURES = 16
SOURCE_SAMPLERS = ("source", "source_label")  # these balance sources; the others balance `data.segments`

# Pictures of plans that this process has drawn. Most trials of a search have the same plan, and drawing takes 0.4 s.
_pictures: dict[tuple[str, ...], bytes] = {}


def build_run(
    config: StudyConfig, *, seed: int, fold: int = 0, fingerprint: str = "", pseudo: Path | None = None
) -> tuple[RunParts, Plan]:
    """The parts of a run and its plan over the training rows; config and seed give the same parts in any process.

    ``pseudo`` is the file of a teacher's labels; with ``fold`` above 0 that fold of ``search.folds`` validates.

    Raises:
        InputError: the prepared dataset is missing or damaged, a name is unknown, or its patients make no such fold.
        EnvironmentFault: pretrained weights were asked for and cannot be had.
    """
    dataset = open_dataset(config.data.prepared)
    if fingerprint and dataset.fingerprint != fingerprint:
        raise InputError(
            f"{shown(config.data.prepared)} was prepared again since the study began",
            "prepare the data as the study file says, or give the study another name",
        )
    labels = None if pseudo is None else read_pseudo_labels(pseudo)
    dataset = dataset if labels is None else with_pseudo_labels(dataset, labels)
    dataset = _folded(config, dataset, fold) if fold else dataset
    targets = targets_for(config, dataset)
    plan, epoch_steps = plan_run(config, dataset, seed=seed, targets=targets)
    # The weights at the start depend on the seed alone, whatever ran in this process before.
    seed_step(seed, 2**32)
    criterion = criterion_for(config, dataset, targets, plan=plan)
    network = make_model(
        config.model.name,
        num_outputs=criterion.num_outputs,
        pretrained=config.model.pretrained,
        drop_rate=config.model.drop_rate,
        in_channels=dataset.channels,
        image_hw=dataset.image_hw,
        make_head=criterion.make_head,
        **model_params(config),
    )
    settings = _settings(config, steps=epoch_steps, seed=seed, image_hw=dataset.image_hw)
    digest = "" if labels is None else pseudo_digest(labels)
    identity = _identity(config, dataset, seed=seed, fold=fold, pseudo=digest)
    parts = RunParts(
        network=network,
        criterion=criterion,
        dataset=dataset,
        settings=settings,
        targets=targets,
        augment=DeviceAugment(config.augment.policy, seed=seed) if config.augment.device == "train" else None,
        identity=identity,
    )
    return parts, plan


def _folded(config: StudyConfig, dataset: PreparedDataset, fold: int) -> PreparedDataset:
    folds = config.search.folds if config.search else None
    if folds is None:
        raise InputError(f"fold {fold} is asked for, and the study file has no search.folds", "set it")
    return with_fold(dataset, folds=folds, fold=fold, seed=config.data.splits.seed)


def _identity(config: StudyConfig, dataset: PreparedDataset, *, seed: int, fold: int, pseudo: str) -> str:
    """Digest of all that the weights of a run depend on; where it runs and how often it saves do not count."""
    names = {"model", "loss", "tasks", "sampler", "augment", "optim", "train"}
    sections = config.model_dump(mode="json", include=names)
    sections["uncertainty"] = config.data.labels.uncertainty.model_dump(mode="json")
    del sections["train"]["checkpoint_every"], sections["train"]["metric"]
    content = {**sections, "metric": config.metric, "seed": seed, "data": dataset.fingerprint}
    if config.metric.startswith(("val/breast/", "val/exam/")):
        content["pooling"] = config.evaluate.pooling  # it decides which epoch is the best
    if pseudo:
        content["pseudo"] = pseudo
    if fold and config.search:
        content["fold"] = [fold, config.search.folds, config.data.splits.seed]
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def plan_run(
    config: StudyConfig, dataset: PreparedDataset, *, seed: int, targets: Targets | None = None
) -> tuple[Plan, int]:
    """The plan over all epochs, and the steps of one; its indices count within the rows of the train split."""
    rows_n = dataset.rows("train")
    sampler = config.sampler
    segments_n = dataset.sources_n if sampler.name in SOURCE_SAMPLERS else dataset.segments_n
    patients_n = dataset.manifest["patient_id"].to_numpy(dtype=object)[rows_n] if sampler.unit == "patient" else None
    plan = make_plan(
        sampler.name,
        labels=labels_to_draw(config, dataset, targets),
        segments=segments_n[rows_n],
        batch_size=config.train.batch_size,
        num_steps=0,
        seed=seed,
        queue=sampler.queue,
        patients=patients_n,
    )
    steps = plan.steps_per_epoch(sampler.epoch_draws)
    return plan.lasting(steps * config.train.epochs), steps


def write_plan(plan: Plan, directory: Path, *, classes: Sequence[str]) -> PlanSummary:
    """Write ``plan.png`` and ``plan.json`` into a folder: what the batches of a run hold."""
    from study.figures_plan import write_plan_figure

    summary, picture = plan.describe(), directory / "plan.png"
    record = json.dumps(summary.to_record(), indent=1)
    drawn = _pictures.get((record, *classes))
    if drawn is None:
        write_plan_figure(
            picture,
            title="\n".join(summary.lines(classes)[:2]),
            table=summary.table,
            num_draws=summary.num_steps * summary.batch_size,
            batches=summary.batches,
            classes=classes,
        )
        if len(_pictures) >= MOST_PICTURES:
            _pictures.clear()
        _pictures[(record, *classes)] = picture.read_bytes()
    else:
        _replace(picture, drawn)
    _replace(directory / "plan.json", record.encode())
    return summary


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def evaluate_best(
    parts: RunParts,
    directory: Path,
    *,
    split: SplitName,
    device: torch.device,
    write: bool,
    mc_dropout: McDropout | None = None,
) -> RunOutcome:
    """Predict one split with the run's best weights; with ``write``, leave predictions and curves in ``directory``.

    With ``mc_dropout`` also by passes with dropout, whose metrics stand under ``<split>/mc_dropout/``.

    Raises:
        StudyError: the run has no checkpoint, for example because it was never trained.
    """
    state = checkpoint.load_best(directory)
    if state is None:
        raise StudyError(f"run {directory.name} has no checkpoint", "resume the study, so that the run is trained")
    check_identity(parts, state, directory)
    parts.network.load_state_dict(state.model)
    parts.network.to(device)
    parts.criterion.to(device)
    predictions = predict(parts, split=split, device=device)
    metrics = _metrics(predictions, parts, prefix=f"{split}/")
    if mc_dropout is not None:
        sampled = _sample(parts, mc_dropout, split=split, device=device)
        metrics |= _metrics(sampled.predictions, parts, prefix=f"{split}/{MC_DROPOUT}/")
        metrics[f"{split}/{MC_DROPOUT}/spread"] = float(np.mean(sampled.spread_n))
        metrics |= {f"{split}/{MC_DROPOUT}/{key}": number for key, number in mc_dropout.numbers().items()}
        if write:
            _write_sampled(directory, sampled, parts, split=split)
    if write:
        _write_files(directory, predictions, parts, split=split)
    return RunOutcome(state="complete", best_epoch=state.best_epoch, metrics=metrics, checkpoint=str(directory))


def mc_dropout_of(config: StudyConfig, *, seed: int) -> McDropout | None:
    """How the test split is sampled with dropout; None where the study file does not ask for it."""
    wanted = config.confirm.mc_dropout if config.confirm else None
    return None if wanted is None else McDropout(samples=wanted.samples, rate=wanted.rate, seed=seed)


def _metrics(predictions: Predictions, parts: RunParts, *, prefix: str) -> dict[str, float]:
    settings = parts.settings
    return prediction_metrics(predictions, parts.dataset, prefix=prefix, pool=settings.pool, pooling=settings.pooling)


def _sample(parts: RunParts, settings: McDropout, *, split: SplitName, device: torch.device) -> Sampled:
    precision = resolve_precision(parts.settings.precision, device)
    return sample_split(
        parts.network,
        parts.criterion,
        parts.dataset,
        settings=settings,
        split=split,
        device=device,
        autocast=lambda: autocast_for(device, precision),
    )


def _write_sampled(directory: Path, sampled: Sampled, parts: RunParts, *, split: SplitName) -> None:
    """``predictions_<split>_mc_dropout.parquet``: a predictions file, and how far the passes part in each row."""
    dataset = parts.dataset
    try:
        table = dict(prediction_table(sampled.predictions, dataset)) | {"spread": sampled.spread_n.tolist()}
        write_table(pa.table(table), directory / f"predictions_{split}_{MC_DROPOUT}.parquet")
    except OSError:
        logger.exception("the files of run %s could not be written", directory.name)


def _settings(config: StudyConfig, *, steps: int, seed: int, image_hw: tuple[int, int]) -> TrainSettings:
    optim, train = config.optim, config.train
    seconds, steps_between = checkpoint_interval(train.checkpoint_every) or (0.0, 0)
    return TrainSettings(
        epochs=train.epochs,
        steps_per_epoch=steps,
        batch_size=train.batch_size,
        seed=seed,
        metric=config.metric,
        mode=config.mode,
        lr=_learning_rate(config),
        optimiser=optim.name,
        weight_decay=optim.weight_decay,
        momentum=optim.momentum,
        schedule=optim.schedule,
        warmup_steps=optim.warmup_steps,
        step_epochs=optim.step_epochs,
        step_factor=optim.step_factor,
        plateau_epochs=optim.plateau_epochs,
        freeze_epochs=optim.freeze_epochs,
        patience=train.patience,
        ema_decay=train.ema_decay,
        channels_last=train.channels_last,
        clip_norm=optim.clip_norm,
        precision=train.precision,
        checkpoint_seconds=seconds,
        checkpoint_steps=steps_between,
        accumulate=train.accumulate,
        shares=config.resources.most_workers,
        compile=train.compile,
        compile_pays=compile_pays(
            images=_epochs_before_pruning(config) * steps * train.batch_size, image_hw=image_hw, runs=_num_runs(config)
        ),
        pool=config.evaluate.pool,
        pooling=config.evaluate.pooling,
    )


def _learning_rate(config: StudyConfig) -> float:
    """The peak rate: that of the loss where it has one of its own."""
    own = getattr(config.optim.lr_for, config.loss.name, None)
    return config.optim.lr if own is None else float(own)


def _epochs_before_pruning(config: StudyConfig) -> int:
    """Epochs that every trial is sure to train."""
    pruner = config.search.pruner if config.search else None
    is_pruned = pruner is not None and pruner.name != "none"
    return min(config.train.epochs, pruner.min_epochs) if pruner is not None and is_pruned else config.train.epochs


def _num_runs(config: StudyConfig) -> int:
    """Runs of the whole study: those of its trials, and those that confirm."""
    confirm = config.confirm
    confirming = (confirm.top + confirm.baseline) * len(confirm.seeds) if confirm else 0
    return config.num_trials * len(config.run_keys) + confirming


def _write_files(directory: Path, predictions: Predictions, parts: RunParts, *, split: SplitName) -> None:
    """Predictions and picture; a full disk or a font that is missing must not cost a trained run."""
    dataset = parts.dataset
    try:
        _write_predictions(directory, predictions, dataset, classes=dataset.classes, ending=split)
        for task, other in predictions.others.items():
            _write_predictions(directory, other, dataset, classes=dataset.tasks[task], ending=f"{split}_{task}")
        _write_figure(directory, predictions, parts, split=split)
    except (OSError, ValueError, RuntimeError):
        logger.exception("the files of run %s could not be written", directory.name)


def _write_predictions(
    directory: Path, predictions: Predictions, dataset: PreparedDataset, *, classes: Sequence[str], ending: str
) -> None:
    """``predictions_<ending>.parquet`` and ``confusion_<ending>.json``, each replaced as a whole."""
    table = pa.table(dict(prediction_table(predictions, dataset, classes=classes)))
    write_table(table, directory / f"predictions_{ending}.parquet")
    size = len(classes)
    cells_kk = np.bincount(predictions.labels_n * size + predictions.decoded_n, minlength=size * size)
    confusion = {"classes": list(classes), "rows_are_labels": cells_kk.reshape(size, size).tolist()}
    partial = directory / f".confusion_{ending}.partial"
    partial.write_text(json.dumps(confusion, indent=1))
    partial.replace(directory / f"confusion_{ending}.json")


def _write_figure(directory: Path, predictions: Predictions, parts: RunParts, *, split: SplitName) -> None:
    """``<split>.png``: curves of the whole run beside what its best weights do on the split."""
    from study.figures import write_run_figure  # with what it imports, more than a second of the driver's start

    state = checkpoint.load_last(directory)
    history = state.history if state else []
    names = ("train/loss", "val/loss", parts.settings.metric)
    curves = {name: [epoch.metrics.get(name, math.nan) for epoch in history] for name in names}
    write_run_figure(
        directory / f"{split}.png",
        title=f"run {directory.name}: best epoch on the {split} split",
        curves=curves,
        labels_n=predictions.labels_n,
        decoded_n=predictions.decoded_n,
        probs_nk=predictions.probs_nk,
        classes=parts.dataset.classes,
    )
