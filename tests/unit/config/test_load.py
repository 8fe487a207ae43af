"""Reading study files: defaults, numbers, environment, unreadable files, partial results."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study.config import (
    Fault,
    PhantomSource,
    StudyConfig,
    check_study_file,
    checkpoint_interval,
    config_warnings,
    config_yaml,
    load_config,
    raise_faults,
)
from study.errors import ConfigError

Write = Callable[[Any], Path]
SMALLEST = "study: s\ndata: {prepared: p, sources: [{kind: phantom, name: a, patients: 9}]}\n"


def faults_of(path: Path, **options: Any) -> list[tuple[str, str]]:
    return [(fault.path, fault.message) for fault in check_study_file(path, **options)[1]]


def test_defaults(write: Write) -> None:
    """A default differs from the one that is documented."""
    config = load_config(write(SMALLEST))
    assert (config.seed, config.data.image_size, config.data.crop, config.data.flip) == (0, 512, "breast", True)
    assert (config.data.segments, config.data.max_quarantined) == (("source",), 0.2)
    assert config.data.splits.val.fraction == config.data.splits.test.fraction == 0.2
    assert (config.model.name, config.model.pretrained, config.model.drop_rate) == ("efficientnet_b3", False, 0.2)
    assert (config.loss.name, config.sampler.name, config.augment.policy) == (
        "cross_entropy",
        "source_label",
        "mammogram",
    )
    assert (config.optim.lr, config.optim.weight_decay, config.optim.schedule) == (1e-3, 0.01, "cosine")
    assert (config.train.epochs, config.train.batch_size, config.train.checkpoint_every) == (20, 32, "10 minutes")
    assert config.search is None
    assert config.confirm is None
    assert (config.resources.workers, config.resources.concurrent) == (1, "auto")
    source = config.data.sources[0]
    assert isinstance(source, PhantomSource)
    assert source.vendors == ("Alpha", "Beta")
    assert source.shares.normal == 0.5


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", ".001", "1E-3", "0.001", "+1e-3"])
def test_numbers_that_yaml_1_1_takes_for_text(write: Write, text: str) -> None:
    """A way to write one thousandth is read as text."""
    assert load_config(write(f"{SMALLEST}optim: {{lr: {text}}}\n")).optim.lr == 1e-3


def test_leading_zero_is_decimal(write: Write) -> None:
    """``010`` is read as eight."""
    assert load_config(write(f"{SMALLEST}seed: 010\n")).seed == 10


def test_mode_follows_the_metric(write: Write, raw: dict[str, Any]) -> None:
    """A metric that is better when lower is maximised because ``mode`` was left out."""
    raw["search"]["metric"] = "val/brier"
    config = load_config(write(raw))
    assert config.search is not None
    assert config.search.mode == "min"


@pytest.mark.parametrize(
    "metric", ["val/auroc_benign", "val/segment/site_a/auroc_normal", "val/segment/films/qwk", "val/qwk"]
)
def test_metrics_that_exist(write: Write, raw: dict[str, Any], metric: str) -> None:
    """A metric that the product computes cannot steer a search."""
    raw["search"]["metric"] = metric
    assert faults_of(write(raw)) == []


def test_segment_needs_a_part_for_each_column(write: Write, raw: dict[str, Any]) -> None:
    """A segment's name with too few parts is let through."""
    raw["data"]["segments"] = ["manufacturer", "source"]
    raw["search"]["metric"] = "val/segment/Alpha.site_a/qwk"
    assert faults_of(write(raw)) == []
    raw["search"]["metric"] = "val/segment/site_a/qwk"
    assert faults_of(write(raw))[0][0] == "search.metric"


def test_environment(write: Write) -> None:
    """A variable in a path is not replaced by its value."""
    path = write("study: s\ndata: {prepared: '${BASE}/p', sources: [{kind: mias, root: '${BASE}/${SUB}'}]}\n")
    partial, faults = check_study_file(path, environ={"BASE": "/disk", "SUB": "films"})
    assert not faults
    assert partial.data is not None
    assert partial.data.prepared == "/disk/p"
    assert partial.data.sources[0].root == "/disk/films"


def test_environment_value_is_taken_as_it_is(write: Write) -> None:
    """The value of a variable is read as YAML or expanded again."""
    path = write("study: s\ndata: {prepared: '${BASE}', sources: [{kind: mias, root: x}]}\n")
    partial, _ = check_study_file(path, environ={"BASE": "true"})
    assert partial.data is not None
    assert partial.data.prepared == "true"
    assert faults_of(path, environ={"BASE": "${HOME}"})[0][0] == "data.prepared"
    assert faults_of(path, environ={"BASE": ""}) == [("data.prepared", "environment variable BASE is not set")]


def test_no_such_file(tmp_path: Path) -> None:
    """A missing file gives a traceback, or no hint at its neighbour."""
    (tmp_path / "quickstart.yaml").write_text(SMALLEST)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "quikstart.yaml")
    assert caught.value.message == f"{tmp_path / 'quikstart.yaml'}: no such file"
    assert caught.value.fix == f"did you mean {tmp_path / 'quickstart.yaml'}?"


def test_directory(tmp_path: Path) -> None:
    """A directory in place of the file gives a traceback."""
    with pytest.raises(ConfigError, match="a directory; expected a study file"):
        load_config(tmp_path)


def test_file_below_a_file(tmp_path: Path) -> None:
    """A path through a file gives a traceback."""
    (tmp_path / "a").write_text("")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "a" / "b.yaml")


def test_huge_file(write: Write) -> None:
    """A file over 1 MiB is read."""
    assert load_config(write(SMALLEST + "#" * (2**20 - len(SMALLEST)))).study == "s"
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_config(write(SMALLEST + "#" * 2**20))


def test_deep_nesting(write: Write) -> None:
    """Thousands of brackets exhaust the stack."""
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_config(write("a: " + "[" * 20_000))


def test_byte_order_mark(tmp_path: Path) -> None:
    """A file saved by an editor that adds a byte order mark is refused."""
    path = tmp_path / "s.yaml"
    path.write_text(SMALLEST, encoding="utf-8-sig")
    assert load_config(path).study == "s"


def test_valid_sections_beside_faulty_ones(write: Write, raw: dict[str, Any]) -> None:
    """A fault in one section hides the others, so their faults cannot be found at the same time."""
    raw["train"]["epochs"] = 0
    raw["loss"]["name"] = "fokal"
    raw["search"]["space"]["optim.rl"] = {"float": [0, 1]}
    partial, faults = check_study_file(write(raw))
    assert [fault.path for fault in faults] == ["loss.name", "train.epochs", "search.space.optim.rl"]
    assert partial.config is None
    assert partial.valid == set(StudyConfig.model_fields) - {"loss", "train", "search"}
    assert partial.data is not None
    assert partial.data.sources[1].kind == "mias"
    assert partial.resources is not None
    assert partial.confirm is not None
    assert partial.confirm.top == 2
    assert partial.loss is None
    assert partial.train is None
    assert partial.search is None


def test_foreign_faults_in_file_order(write: Write, raw: dict[str, Any]) -> None:
    """Faults that other checks add stand behind the file's own instead of at their place."""
    raw["train"]["epochs"] = 0
    path = write(raw)
    partial, faults = check_study_file(path)
    others = [Fault("data.splits", "too few patients"), Fault("resources.workers", "too many")]
    with pytest.raises(ConfigError) as caught:
        raise_faults(path, [*faults, *others], places=partial.places)
    lines = caught.value.message.splitlines()
    assert lines[0] == f"{path}: 3 problems"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["resources.workers", "data.splits", "train.epochs"]


def test_a_whole_file_is_complete(write: Write, raw: dict[str, Any]) -> None:
    """A file without faults leaves sections out."""
    partial, faults = check_study_file(write(raw))
    assert not faults
    assert partial.valid == set(StudyConfig.model_fields)
    assert partial.config == load_config(write(raw))
    assert partial.search is not None


def test_no_consequential_faults(write: Write, raw: dict[str, Any]) -> None:
    """A faulty number also gives a fault of the rule that compares it."""
    raw["search"]["trials"] = 0
    raw["train"]["epochs"] = "many"
    assert [path for path, _ in faults_of(write(raw))] == ["train.epochs", "search.trials"]


def test_warnings(write: Write, raw: dict[str, Any]) -> None:
    """Class weights beside a balancing sampler pass in silence, fixed or searched."""
    raw["loss"]["class_weight_source"] = "raw"
    assert config_warnings(load_config(write(raw))) == []
    raw["search"]["space"]["sampler.name"] = {"choice": ["none", "label"]}
    partial, faults = check_study_file(write(raw))
    assert not faults
    text = "loss.class_weights balanced together with sampler.name label: rare classes are favoured twice"
    assert list(partial.warnings) == [f"{text}; use one of the two unless that is the question"]
    assert partial.config is not None
    assert config_warnings(partial.config) == list(partial.warnings)


def test_warning_of_unused_steps(write: Write) -> None:
    """Settings of another schedule pass in silence."""
    config = load_config(write(f"{SMALLEST}optim: {{step_epochs: 3}}\n"))
    assert config_warnings(config) == ["optim.step_epochs has no effect without optim.schedule: step"]
    assert config_warnings(load_config(write(f"{SMALLEST}optim: {{step_epochs: 3, schedule: step}}\n"))) == []


def test_import_is_light() -> None:
    """Importing the study file's room pulls in a heavy library, so that ``study --help`` becomes slow."""
    code = "import sys, study.config, study.space; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "study.config" in loaded
    assert not loaded & {"torch", "ray", "mlflow", "optuna", "numpy", "pandas", "scipy", "typer", "rich"}


def test_a_head_that_learns_alone_for_ever_is_a_fault(write: Write) -> None:
    """Freezing for all epochs trains the head alone, and nobody is told."""
    faults = faults_of(write(f"{SMALLEST}train: {{epochs: 3}}\noptim: {{freeze_epochs: 3}}\n"))
    assert faults == [("optim.freeze_epochs", "3: expected less than train.epochs, which is 3")]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ("[{column: age, bins: [60, 50]}]", "with bins that ascend"),
        ("[{column: age, bins: []}]", "with bins that ascend"),
        ("[{column: age, bins: [50, sixty]}]", "with bins that ascend"),
        ("[{column: vendor, bins: [1]}]", "the column one of age, rows"),
        ("[{column: age}]", "the column one of age, rows"),
        ("[manufacturers]", "did you mean 'manufacturer'?"),
        ("[age]", "or as {column: age, bins: [50, 60]}"),
    ],
)
def test_segments_that_cannot_be(write: Write, segments: str, message: str) -> None:
    """A wrong grouping shows only after the images were prepared."""
    faults = faults_of(write(SMALLEST.replace("}]}", f"}}], segments: {segments}}}")))
    assert [path for path, _ in faults] == ["data.segments.0"]
    assert message in faults[0][1]


def test_segments_by_intervals_of_a_number(write: Write) -> None:
    """Ages cannot be grouped, or the study file that is kept says something else."""
    text = SMALLEST.replace("}]}", "}], segments: [source, {column: age, bins: [50, 60.5]}]}")
    config = load_config(write(text))
    assert list(config.data.segments) == ["source", {"column": "age", "bins": [50, 60.5]}]
    assert load_config(write(config_yaml(config))) == config


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10 minutes", (600.0, 0)),
        ("0.5 minutes", (30.0, 0)),
        ("1 step", (0.0, 1)),
        ("500 steps", (0.0, 500)),
        ("epoch", (0.0, 0)),
        ("0 steps", None),
        ("-1 minutes", None),
        ("1.5 steps", None),
        ("10", None),
        ("2 hours", None),
    ],
)
def test_when_checkpoints_are_saved(text, found):
    """A time, a number of steps or the epoch's end; whatever else stands there is a fault."""
    assert checkpoint_interval(text) == found
