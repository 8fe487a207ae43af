"""Records that cross room borders: frozen, plain, JSON-able data without numpy or torch."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TrialState = Literal["running", "complete", "pruned", "failed", "waiting"]
SplitName = Literal["train", "val", "test"]
FailureKind = Literal["preempted", "out_of_memory", "crash", "bad_configuration"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """What one epoch of one run gave.

    ``metrics`` has the keys of the metric table (``train/loss``, ``val/auroc_macro``, ...); ``epoch`` counts from 1;
    ``seconds`` is wall time of the epoch with its evaluation; ``images`` counts training images over all ranks;
    ``batches`` is the digest of which image stood where, equal for equal epochs on any number of ranks; ``workers`` is
    how many ranks ended the epoch, 0 where that was not kept. ``step`` is the run's step at its end, ``node`` the
    machine of rank 0, and ``system`` has what the machine did (``system/...``): no metric, for two runs that are equal
    bit by bit have other times.
    """

    epoch: int
    metrics: Mapping[str, float]
    images: int
    seconds: float
    batches: str = ""
    system: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    node: str = ""
    workers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RunKey:
    """Which of the runs of a trial: its seed, and the fold that validates (from 1; 0 where there are no folds)."""

    seed: int
    fold: int = 0

    @property
    def name(self) -> str:
        """The run as its folder has it, after the trial: ``s0``, ``f2-s0``."""
        return f"f{self.fold}-s{self.seed}" if self.fold else f"s{self.seed}"

    @property
    def part(self) -> str:
        """The run in words: ``seed 0``, ``fold 2``."""
        return f"fold {self.fold}" if self.fold else f"seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """All that a worker needs for one run: one configuration, one seed, and with ``fold`` above 0 one fold.

    ``trial`` is the ledger's number as text, or ``baseline``; ``config`` is the resolved study file with the trial's
    parameters applied; ``fingerprint`` is that of its dataset; epochs up to ``reported_epoch`` are in the ledger
    already; ``attempt`` fences off older tries. Each rank's share of a batch is cut into ``parts`` times as many
    micro-batches as the study file says, since memory ran out before. ``retries`` says how often the run is tried again
    after a failure of each kind without an epoch in between, ``failed`` how often it was so already. ``label`` lets a
    ``teacher`` (``config``, ``seed``, ``directory`` and ``store`` of its run) label training images. ``store`` is the
    URI below which the study lies, empty where ``directory`` is one that all nodes share.
    """

    trial: str
    seed: int
    attempt: int
    directory: str
    config: Mapping[str, Any]
    fingerprint: str = ""
    reported_epoch: int = 0
    kind: Literal["train", "evaluate", "label"] = "train"
    parts: int = 1
    retries: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)
    fold: int = 0
    store: str = ""

    @property
    def place(self) -> str:
        """Where its checkpoints are kept, for records: its directory, or its place in the store."""
        parts = self.directory.rstrip("/").split("/")[-3:]
        return "/".join([self.store.partition("?")[0], *parts]) if self.store else self.directory

    @property
    def key(self) -> RunKey:
        """Which of its trial's runs it is."""
        return RunKey(seed=self.seed, fold=self.fold)

    @property
    def run_id(self) -> str:
        """Name of the run inside its study, as in ``runs/<trial>-s<seed>`` or ``runs/<trial>-f<fold>-s<seed>``."""
        return f"{self.trial}-{self.key.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended. ``metrics`` are those of the best epoch (train) or of the test split (evaluate).

    ``failure`` is the kind of a failure; empty for a run that has not failed, or for a reason of no kind.
    """

    state: TrialState
    best_epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str = ""
    reason: str = ""
    failure: FailureKind | Literal[""] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A run that is tried again from its last checkpoint: after which kind of failure, and why, in words.

    ``parts``: in how many times more micro-batches it goes on. ``attempt`` is the one that failed, ``epoch`` the last
    one that was known then, ``workers`` how many it had (0 where that was not kept).
    """

    text: str
    kind: FailureKind = "out_of_memory"
    parts: int = 1
    attempt: int = 0
    epoch: int = 0
    workers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of a trial that has several; ``state`` is ``waiting`` before it begins, all else as in `TrialRow`."""

    seed: int
    fold: int = 0
    state: TrialState
    value: float | None = None
    epochs: int = 0
    checkpoint: str = ""
    curve: tuple[float, ...] = ()
    seconds: float = 0.0
    images: int = 0

    @property
    def part(self) -> str:
        """The run in words, as `RunKey.part`."""
        return RunKey(seed=self.seed, fold=self.fold).part


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One line of the result table, for the terminal, for JSON and for figures.

    ``value`` is the study's metric at the best epoch, ``values`` all that are optimised; ``metrics`` those of that
    epoch; ``curve`` is the metric of every epoch; NaN where a metric is undefined. ``violations`` says by how much
    which constraint is missed. ``repeats`` is the trial whose configuration and result this one has again, without
    any training. ``seconds`` and ``images`` sum over the epochs; ``device_seconds`` count each GPU of the run, or each
    worker where there is none. ``note`` tells what a run needed that the study file does not say. ``attempts`` counts
    how often the trial was begun, ``retries`` are those after a failure; ``failure`` is the kind of the last one of a
    failed trial.

    A trial of several seeds or folds has them in ``runs``, else empty: its ``value``, ``values`` and ``metrics`` are
    means over its complete runs, ``curve`` is that of the first one, and epochs, time and images are sums.
    """

    trial: str
    state: TrialState
    value: float | None
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    seeds: tuple[int, ...]
    epochs: int
    curve: tuple[float, ...] = ()
    mlflow_run_ids: tuple[str, ...] = ()
    checkpoint: str = ""
    reason: str = ""
    values: tuple[float, ...] = ()
    violations: Mapping[str, float] = field(default_factory=dict)
    repeats: str = ""
    seconds: float = 0.0
    device_seconds: float = 0.0
    gpu_seconds: float = 0.0
    images: int = 0
    note: str = ""
    attempts: int = 1
    retries: tuple[Retry, ...] = ()
    failure: str = ""
    runs: tuple[RunRow, ...] = ()

    @property
    def sd(self) -> float:
        """Sample standard deviation of the metric over the complete runs; NaN with fewer than two."""
        values = [run.value for run in self.runs if run.state == "complete" and run.value is not None]
        return statistics.stdev(values) if len(values) > 1 else math.nan

    @property
    def is_feasible(self) -> bool:
        """Whether the trial keeps every constraint."""
        return not self.violations


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The budget of a search; None where there is no such limit.

    ``trials`` counts every trial, ``hours`` the time that the search ran, ``gpu_hours`` those of all GPUs together,
    ``configurations`` is the size of a finite space.
    """

    trials: int | None = None
    hours: float | None = None
    gpu_hours: float | None = None
    target: float | None = None
    no_better_in: int | None = None
    configurations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmRow:
    """What several seeds of one configuration gave on the test split.

    ``values`` holds the study's metric on the test split, one per seed in the order of ``seeds``; ``low`` and ``high``
    bound the 95 % interval of the mean (Student's t); ``effect`` is Hedges' g against the baseline, ``p`` Welch's
    p-value against it and ``p_holm`` the same after Holm's correction over the confirmed trials. NaN where undefined.
    """

    trial: str
    params: Mapping[str, Any]
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    sd: float
    low: float
    high: float
    val_mean: float
    effect: float = float("nan")
    p: float = float("nan")
    p_holm: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparatorRow:
    """What another way to use the confirmed runs of one configuration gave on the test split.

    ``mc_dropout`` has a value for each of ``seeds``: ``value`` is their mean, ``low`` to ``high`` its 95 % interval
    (Student's t). An ``ensemble`` of all ``seeds`` is one network with one value; its 95 % interval is a bootstrap over
    patients, and must not be compared with the others as if it had been repeated. NaN where undefined.
    """

    kind: Literal["ensemble", "mc_dropout"]
    trial: str
    seeds: tuple[int, ...]
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a study, for whoever shows it.

    ``stage`` announces a phase (``text``); ``progress`` moves it (``done`` of ``total``, and a ``note`` such as the
    speed); ``epoch`` carries ``result``; ``started`` and ``ended`` frame a run; ``tested`` carries the value on the
    test split; ``warning`` is for the user's eyes. A trial that misses a constraint ends with ``is_feasible`` false.
    Where a trial has several runs, ``part`` says of which one the event speaks (``seed 1``, ``fold 2``); without it
    the event is the trial's own. ``run`` is the name of the run's folder, where the event is of one; ``attempt``, from
    1, comes with its start and each retry.
    """

    kind: Literal["stage", "progress", "started", "epoch", "ended", "tested", "warning"]
    text: str = ""
    trial: str = ""
    seed: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    result: EpochResult | None = None
    value: float | None = None
    state: TrialState = "running"
    done: int = 0
    total: int = 0
    note: str = ""
    is_feasible: bool = True
    part: str = ""
    run: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """Where a study stands: its table, its confirmation, and whether its budget is spent.

    ``metric`` and ``mode`` are the study's; ``state`` is ``new``, ``running``, ``interrupted`` or ``done``. ``metrics``
    has all that are optimised when there are several; ``over`` says what ended the search.
    """

    study: str
    state: Literal["new", "running", "interrupted", "done"]
    metric: str
    mode: Literal["max", "min"]
    rows: tuple[TrialRow, ...]
    confirmed: tuple[ConfirmRow, ...] = ()
    comparators: tuple[ComparatorRow, ...] = ()
    trials_planned: int = 0
    did_work: bool = True
    metrics: tuple[str, ...] = ()
    over: str = ""
