"""Training, search, confirmation and statistics in words."""

import platform
from typing import Final

from study.config import StudyConfig
from study.report.page.again import versions
from study.report.page.answer import answer, chosen_row, metric_name
from study.report.page.comparing import RESAMPLES
from study.report.page.evidence import Evidence
from study.report.ranking import BASELINE
from study.report.words import and_list, duration, params_text
from study.space import SearchSpace
from study.space.nodes import value_text, values_text

ALGORITHMS: Final = {
    "tpe": "the tree-structured Parzen estimator",
    "random": "random search",
    "quasi_random": "quasi-random (Sobol) search",
    "grid": "a grid",
    "gp": "Gaussian-process Bayesian optimisation",
    "cmaes": "CMA-ES",
    "nsga2": "NSGA-II",
}
SAMPLERS: Final = {
    "none": "Images were drawn in random order, each once an epoch",
    "label": "Batches were balanced over classes",
    "source": "Batches were balanced over sources",
    "source_label": "Batches were balanced over sources and, within each, over classes",
    "segment": "Batches were balanced over segments",
    "bal_labels": "Batches were balanced over classes",
    "bal_segments": "Batches were balanced over segments and, within each, over classes",
    "periodic": "Segments took turns in a fixed pattern by their size, with classes balanced within each",
    "class_stratified": "Every batch held equal portions of the classes",
}


def training_paragraphs(evidence: Evidence) -> dict[str, str]:
    """Network and training, search, confirmation, statistics, software, by their headings."""
    return {
        "Network and training": _network(evidence.config) + _tasks(evidence.config) + _training(evidence.config),
        "Search": _search(evidence),
        "Confirmation": _confirmation(evidence),
        "Statistics": _statistics(evidence),
        "Software and reproducibility": _software(evidence),
    }


def _network(config: StudyConfig) -> str:
    model, loss = config.model, config.loss.model_dump(mode="json", exclude_none=True)
    start = "pretrained weights" if model.pretrained else "random weights"
    params = [f"{name} {value}" for name, value in loss.items() if name != "name"]
    with_params = f" ({', '.join(params)})" if params else ""
    return (
        f"The network was {model.name}, started from {start}, with dropout {model.drop_rate:g} before its head. "
        "The baseline "
        f"was trained with the loss {config.loss.name}{with_params}. "
    )


def _tasks(config: StudyConfig) -> str:
    """Auxiliary tasks with their weights; nothing where there is one task alone."""
    own = {task: config.tasks.of(task) for task in config.data.labels.auxiliary}
    parts = [
        f"{task} ({each.loss or 'cross_entropy'}, weight {each.weight:g})" for task, each in own.items() if each.weight
    ]
    return f"Auxiliary tasks with heads of their own were {and_list(parts)}. " if parts else ""


def _training(config: StudyConfig) -> str:
    optim, train, sampler = config.optim, config.train, config.sampler
    momentum = f", momentum {optim.momentum:g}" if optim.name == "sgd" else ""
    text = (
        f"{SAMPLERS[sampler.name]} (sampler {sampler.name!r}), {train.batch_size} images a batch. The optimiser was "
        f"{optim.name} with learning rate {optim.lr:g}, weight decay {optim.weight_decay:g}{momentum} and schedule "
        f"{optim.schedule!r}"
    )
    text += f", after {optim.warmup_steps} steps of warm-up" if optim.warmup_steps else ""
    text += f"; gradients were clipped at norm {optim.clip_norm:g}" if optim.clip_norm else ""
    text += f"; the head alone was trained for the first {optim.freeze_epochs} epochs" if optim.freeze_epochs else ""
    text += f". Training took at most {train.epochs} epochs in precision {train.precision!r}"
    text += f", with weights averaged at decay {train.ema_decay:g}" if train.ema_decay else ""
    text += f", and ended after {train.patience} epochs without progress" if train.patience else ""
    return f"{text}. Of each run the epoch with the best {metric_name(config.metric)} on validation was kept."


def _search(evidence: Evidence) -> str:
    config, rows = evidence.config, evidence.result.rows
    search = config.search
    if search is None:
        return "No hyperparameter was searched."
    states = ("complete", "pruned", "failed", "running")
    counts = [f"{n} {state}" for state in states if (n := sum(row.state == state for row in rows))]
    pruner = search.pruner
    pruning = "No trial was pruned early"
    if pruner.name != "none":
        pruning = f"Weak trials were stopped by {pruner.name.replace('_', ' ')}, not before epoch {pruner.min_epochs}"
    seconds = sum(row.device_seconds for row in rows)
    repeats = f" Each trial was the mean of {search.folds} folds." if search.folds else ""
    repeats = (
        f" Each trial was the mean over seeds {and_list([str(s) for s in search.seeds])}." if search.seeds else repeats
    )
    planned = f"{config.num_trials} trials" if config.num_trials else "a budget"
    return (
        f"Hyperparameters were searched by {ALGORITHMS[search.algorithm]} (seed {config.seed}) for the "
        f"{'largest' if config.mode == 'max' else 'smallest'} {and_list([metric_name(m) for m in config.metrics])} "
        "on validation, "
        f"over {_space(search.space)}.{repeats} {pruning}. Of {planned} planned {len(rows)} were begun "
        f"({', '.join(counts) or 'none'}), "
        f"in {duration(seconds)} of device time."
    )


def _space(space: SearchSpace) -> str:
    parts = []
    for node in space.nodes:
        scale = ", logarithmic" if node.log else ""
        when = [f"{part.path} = {' or '.join(map(value_text, part.values))}" for part in node.when]
        condition = f", only when {' and '.join(when)}" if when else ""
        parts.append(f"{node.path} ({values_text(node).replace(' | ', ', ')}{scale}{condition})")
    return and_list(parts)


def _confirmation(evidence: Evidence) -> str:
    config, result = evidence.config, evidence.result
    if config.confirm is None or not result.confirmed:
        text = "No configuration was confirmed on the test split; all numbers are from validation, on which "
        return f"{text}the search chose."
    trials = [row for row in result.confirmed if row.trial != BASELINE]
    has_base = len(trials) < len(result.confirmed)
    seeds = and_list([str(seed) for seed in config.confirm.seeds])
    chosen = chosen_row(evidence)
    text = (
        f"The best {len(trials)} {'configuration' if len(trials) == 1 else 'configurations'} by validation"
        f"{', and the baseline,' if has_base else ''} were trained with seeds {seeds} and read on the test split, "
        "which the search "
        f"had never seen. Readings of the test split: {len(evidence.ledgered.readings)}, all recorded."
    )
    if config.confirm.ensemble:
        text += " The mean of the seeds' probabilities was read as an ensemble."
    if config.confirm.mc_dropout is not None:
        text += f" The test split was also read with {config.confirm.mc_dropout.samples} passes of Monte-Carlo dropout."
    if chosen is not None:
        text += f" The configuration to report was chosen by its mean on validation: {params_text(chosen.params)}."
    return text


def _statistics(evidence: Evidence) -> str:
    count = sum(row.trial != BASELINE for row in evidence.result.confirmed)
    if not count:
        return "No test was made."
    told, _ = answer(evidence)
    return (
        "Values over seeds are given as mean and sample standard deviation with Student's 95 % interval of the mean. "
        "Configurations were compared with the baseline by Welch's two-sided t-test over seeds and Hedges' g; "
        "p-values were "
        f"corrected by Holm's method over {count} {'comparison' if count == 1 else 'comparisons'}, at a level of "
        "0.05. The "
        "difference on other patients was estimated by a paired bootstrap of whole patients of the test split "
        f"({RESAMPLES:,} resamples for areas, percentile interval). {told}"
    )


def _software(evidence: Evidence) -> str:
    known = [f"{name} {version}" for name, version in versions().items() if version != "not installed"]
    resources = evidence.config.resources
    gpus = resources.most_gpus
    device = f"{gpus:g} GPUs a run" if gpus else "CPUs alone"
    fingerprint = evidence.ledgered.fingerprint or "not recorded"
    return (
        f"Experiments were run with {and_list(known)} on {platform.system()}, with {device}. The fingerprint of "
        "the prepared data "
        f"is {fingerprint}; the study file is part of the report. "
        "[to be filled in by the authors: kind of processors or GPUs; where code and data can be had]."
    )
