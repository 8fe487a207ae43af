"""The experiments of the papers in ``search_spaces``: each loads and dry-runs, whole and small."""

import functools
import re
from itertools import takewhile
from pathlib import Path

import pytest

from study.cli.dry_run import show_dry_run
from study.config import PartialStudy, StudyConfig, check_study_file, load_config
from study.distributed.preflight import class_faults, network_faults, weighted_class_faults
from study.standing import choose_candidates
from study.types import TrialRow

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "search_spaces"
EXPERIMENTS = (
    "ordinal/balancing",
    "ordinal/label_smoothing",
    "ordinal/losses",
    "ordinal/best_1024",
    "multitask/tasks",
    "multitask/few_labels",
    "multitask/uncertainty",
    "multitask/comparators",
    "imbalance/losses_sampling",
    "imbalance/small_batch",
    "periodic/two_segments",
    "periodic/four_segments",
    "alpa/versions",
    "alpa/hyperparameters",
    "alpa/losses",
    "everything",
)
# What a smaller scale may not change: the question that is asked.
ASKED = ("loss", "tasks", "sampler.name", "sampler.queue", "augment.policy", "search.space", "search.metric")
ASKED += ("search.algorithm", "search.pruner", "confirm.top", "confirm.baseline", "confirm.ensemble", "seed")
ASKED += ("confirm.mc_dropout", "data.scaling", "data.labels.auxiliary", "data.labels.synthesise", "optim.lr")
ASKED += ("model.tasks", "model.fusion", "model.reconstruct", "optim.name", "optim.schedule", "train.ema_decay")


@functools.cache
def read(name: str, scale: str | None = None) -> tuple[PartialStudy, StudyConfig]:
    """A file without faults and warnings."""
    partial, faults = check_study_file(FOLDER / f"{name}.yaml", scale=scale)
    assert (faults, partial.warnings) == ([], ())
    assert partial.config is not None
    return partial, partial.config


def value_at(config: StudyConfig, path: str) -> object:
    value = config.model_dump(mode="json")
    for key in path.split("."):
        value = value[key]
    return value


def test_every_experiment_has_a_file() -> None:
    """A file is missing, or one is not tested."""
    found = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml")}
    assert set(EXPERIMENTS) <= found
    assert {name for name in found if "/" in name and not name.startswith("phantoms/")} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run without the data fails, keeps silent about what is missing, or writes something."""
    monkeypatch.chdir(tmp_path)
    _, config = read(name)
    show_dry_run(FOLDER / f"{name}.yaml", storage="studies", overrides=())
    told = capsys.readouterr().err
    assert config.search is not None
    for node in config.search.space.nodes:
        assert node.path.rpartition(".")[2] in told
    told_missing = told.partition("Data that a run needs and that are not here:\n")[2]
    for number in range(len(config.data.sources)):
        assert f"  data.sources.{number}: " in told_missing
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_small(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The small scale asks another question, needs data or a GPU, or cannot start on two cores."""
    monkeypatch.chdir(tmp_path)
    file = FOLDER / f"{name}.yaml"
    (_, whole), (partial, small) = read(name), read(name, "small")
    assert [value_at(small, path) for path in ASKED] == [value_at(whole, path) for path in ASKED]
    assert small.study == f"{whole.study}-small"
    assert {source.kind for source in small.data.sources} == {"phantom"}
    assert (small.model.name, small.model.pretrained) in {("test_efficientnet", False), ("hourglass", False)}
    assert small.resources.gpus_per_worker == 0
    assert max(small.data.image_hw) <= 128
    assert [*class_faults(partial), *weighted_class_faults(partial)] == []
    show_dry_run(file, storage="studies", overrides=(), scale="small")
    told = capsys.readouterr().err
    assert "not here" not in told
    assert "trials" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_networks(name: str) -> None:
    """A network of the files is none of timm's."""
    for scale in (None, "small"):
        assert network_faults(read(name, scale)[0]) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_head(name: str) -> None:
    """The comment on top does not say what for, how, how long, and with which data."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head = "\n".join(takewhile(lambda line: line.startswith("#"), lines))
    paper = name.partition("/")[0]
    assert re.search(rf"[Pp]aper\W+{paper}", head) or name == "everything"
    assert re.search(r"\b(tables?|section) \d", head) or name == "everything"
    assert f"study run search_spaces/{name}.yaml --scale small" in head
    assert re.search(r"about \d+ hours? on 1 GPU", head)
    assert "--set data.sources.0.root=" in head or "as in search_spaces/" in head
    assert max(map(len, head.splitlines())) <= 120


def cells_of(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tables_of_the_page(name: str) -> None:
    """The tables of docs/papers.md lack a file, or tell another number of trials, hours or runs than the file."""
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    asked, costs = (cells_of(line) for line in page.splitlines() if line.startswith(f"| `{name}`"))
    _, config = read(name)
    head = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    hours = re.search(r"about (\d+) hours? on 1 GPU", head)
    assert hours is not None
    assert asked[3:5] == [str(config.num_trials), hours[1]]
    assert re.fullmatch(r"\d+|not measured", asked[5])
    assert abs(float(costs[5]) - float(hours[1])) < 1
    assert config.confirm is not None
    seeds = len(config.confirm.seeds)
    runs = config.num_trials + config.confirm.top * (seeds - 1) + seeds
    assert str(runs) in costs[4] or name.startswith(("multitask", "periodic"))


def test_the_baseline_is_confirmed_once() -> None:
    """A grid's cell that is the study file's own configuration is trained twice, as a trial and as the baseline."""
    config = load_config(FOLDER / "ordinal" / "balancing.yaml")
    cells = [
        {"sampler.name": name, "loss.class_weights": weights}
        for name in ("none", "source")
        for weights in ("none", "balanced")
    ] + [{"sampler.name": "label"}, {"sampler.name": "source_label"}]
    rows = [
        TrialRow(trial=str(i), state="complete", params=params, value=0.9 - i / 10, metrics={}, epochs=1, seeds=(0,))
        for i, params in enumerate(cells)
    ]
    chosen = choose_candidates(config, rows)
    assert [candidate.trial for candidate in chosen] == ["1", "2", "3", "4", "5", "baseline"]
    assert [candidate.trial for candidate in choose_candidates(config, rows[:1])] == ["baseline"]
