"""`study best` by conditions, with several metrics, by cost, and its reasons; dry runs; searches that grow."""

import json
import re
from pathlib import Path

import pytest
import sqlalchemy
import typer

from study.cli.app import app
from study.cli.dry_run import show_dry_run
from study.cli.folders import store_config, stored_config
from study.cli.larger import check_budget_left, space_overrides, trials_override
from study.config import load_config
from study.console import Board
from study.console.space_tables import space_tree
from study.errors import InputError, StudyError
from study.ledger import Ledger
from study.ledger.importance import reasons_of
from study.report.filters import filtered
from study.report.ranking import cost_front, per_cost_ranked, ranked
from study.space import parse_space
from study.stats.fronts import front_numbers
from study.types import EpochResult, Event, RunOutcome, StudyResult, TrialRow

METRIC, OTHER = "val/auroc_macro", "val/log_loss"
FILE = """
study: asked
data: {{prepared: {root}/none, sources: [{{kind: phantom, name: a, patients: 30}}]}}
train: {{epochs: 2}}
search:
  metric: [val/auroc_macro, val/log_loss]
  constraints: {{val/brier: {{max: 0.5}}}}
  trials: {trials}
  algorithm: random
  space:
    loss.name: {{choice: [emd, focal]}}
    loss.gamma: {{float: [0.5, 5.0], when: {{loss.name: focal}}}}
    optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}
"""


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk():
    def hurry(connection, _):
        if "sqlite" in type(connection).__module__:
            connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", hurry)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", hurry)


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Path:
    """A study of two metrics whose 12 trials differ in value, cost and constraint."""
    root = tmp_path_factory.mktemp("asked")
    file = root / "asked.yaml"
    file.write_text(FILE.format(root=root, trials=12))
    directory = root / "studies" / "asked"
    directory.mkdir(parents=True)
    config = load_config(file)
    store_config(directory, config)
    ledger = Ledger.open(f"sqlite:///{directory / 'ledger.db'}", config=config)
    for n in range(12):
        ledger.next_trial()
        metrics = {METRIC: 0.5 + 0.01 * n, OTHER: 1.0 - abs(n - 6) / 10, "val/brier": 0.9 if n == 11 else 0.1}
        ledger.report(n, EpochResult(epoch=1, metrics=metrics, images=100, seconds=10.0 * (n + 1)))
        ledger.finish(n, RunOutcome(state="complete", best_epoch=1))
    ledger.close()
    return root / "studies"


def call(*arguments: str) -> str:
    """What a verb prints to standard output."""
    from typer.testing import CliRunner

    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return done.stdout


def asked(storage: Path, *more: str) -> list[dict]:
    return json.loads(call("best", "asked", "--storage", str(storage), "--json", *more))


def test_the_pareto_front_comes_first(storage):
    """With two metrics a trial that another one beats in both stands before one of the front."""
    rows = asked(storage, "--top", "12")
    values = [tuple(row["values"]) for row in rows]
    kept = values[:-1]
    front = [v for v in kept if not any(o != v and o[0] >= v[0] and o[1] <= v[1] for o in kept)]
    assert kept[: len(front)] == sorted(front, reverse=True)
    assert 1 <= len(front) < len(kept)
    assert rows[0]["trial"] == "10"
    assert rows[-1]["trial"] == "11"
    assert rows[-1]["violations"] == {"val/brier max": pytest.approx(0.4)}
    assert "violations" not in rows[0]


def test_where(storage):
    """A condition is not met by exactly the trials that meet it."""
    everything = asked(storage, "--top", "12")
    emd = asked(storage, "--top", "12", "--where", "loss.name=emd")
    assert [row for row in everything if row["params"]["loss.name"] == "emd"] == emd
    assert 0 < len(emd) < 12
    late = asked(storage, "--top", "12", "--where", "val/auroc_macro>=0.58", "--where", "trial != 9")
    assert sorted(int(row["trial"]) for row in late) == [8, 10, 11]
    assert asked(storage, "--top", "12", "--where", "train.epochs=2") == everything
    assert asked(storage, "--where", "optim.name = sgd") == []
    gamma = asked(storage, "--top", "12", "--where", "loss.gamma>0")
    assert [row for row in everything if "loss.gamma" in row["params"]] == gamma
    assert asked(storage, "--top", "12", "--where", "loss.gamma=null") == emd
    assert asked(storage, "--where", "loss.name=emd", "--where", "loss.gamma=null", "--top", "1") == emd[:1]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("loss.nam=emd", "did you mean 'loss.name'"),
        ("loss.name", "expected NAME=VALUE"),
        ("optim.lr<fast", "no number"),
    ],
)
def test_conditions_that_cannot_be(condition, words):
    """A misspelt condition filters everything away in silence."""
    row = TrialRow(
        trial="0",
        state="complete",
        value=1.0,
        params={"loss.name": "emd", "optim.lr": 1},
        metrics={},
        seeds=(0,),
        epochs=1,
    )
    with pytest.raises(InputError) as caught:
        filtered([row], [condition], {})
    assert words in caught.value.message


KINDS = (
    {"loss.name": "focal", "loss.gamma": 2.0, "model.pretrained": True},
    {"loss.name": "emd", "model.pretrained": False},
    {"loss.name": "focal", "loss.gamma": 3, "model.pretrained": True},
)


def kinds() -> list[TrialRow]:
    """Three trials with text, numbers, truth values, an absent parameter and an undefined metric."""
    return [
        made_row(str(n), 0.5 + n / 10, 1.0, params=params, metrics={"val/mcc": float("nan") if n == 1 else 0.3})
        for n, params in enumerate(KINDS)
    ]


@pytest.mark.parametrize(
    ("conditions", "trials"),
    [
        (["loss.gamma=null"], "1"),
        (["loss.gamma!=null"], "02"),
        (["loss.gamma!=2"], "12"),
        (["loss.gamma>=2", "loss.gamma<3"], "0"),
        (["loss.gamma = 2.0"], "0"),
        (["loss.name='emd'"], "1"),
        (["loss.name=corn"], ""),
        (["model.pretrained=True"], "02"),
        (["val/mcc=nan"], "1"),
        (["val/mcc>0.1", "loss.name==focal", "trial!=0"], "2"),
        (["data.segments=['source']"], "012"),
        (["optim.lr=1e-3"], "012"),
        (["value>0.55", "value<=0.6"], "1"),
    ],
)
def test_conditions_of_every_kind(conditions, trials):
    """Text, numbers, truth values or what is absent compare in another way than people mean."""
    fixed = {"optim.lr": 0.001, "data.segments": ["source"]}
    assert "".join(row.trial for row in filtered(kinds(), conditions, fixed)) == trials


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("loss.gamma=two", "the value is a number, 'two' is none"),
        ("model.pretrained=1", "the value is true or false"),
        ("model.pretrained>0", "the value is true or false"),
        ("loss.name>3", "the value is text (emd, focal)"),
        ("value>nan", "'nan' is no number"),
        ("value>0.5 and trial=1", "no number"),
        ("loss.name=", "expected NAME=VALUE"),
        ("", "expected NAME=VALUE"),
    ],
)
def test_conditions_of_another_kind(condition, words):
    """A comparison that nothing can meet filters everything away in silence."""
    with pytest.raises(InputError) as caught:
        filtered(kinds(), [condition], {})
    assert words in caught.value.message


def test_per_cost(storage):
    """The order by cost is not the metric per device-hour, or the cost is not that of the epochs."""
    rows = asked(storage, "--top", "12", "--per-cost")
    for row in rows:
        assert row["cost"] == {
            "seconds": 10.0 * (int(row["trial"]) + 1),
            "device_seconds": row["cost"]["seconds"],
            "images": 100,
        }
        assert row["value_per_device_hour"] == pytest.approx(row["value"] * 3600 / row["cost"]["device_seconds"])
    assert [row["trial"] for row in rows] == [str(n) for n in range(12)]
    made = [made_row("0", 0.9, 100.0), made_row("1", 0.89, 10.0), made_row("2", 0.8, 50.0), made_row("3", 0.9, 0.0)]
    assert [row.trial for row in per_cost_ranked(made[:3], mode="max")] == ["1", "2", "0"]
    assert cost_front(made, mode="max") == {"0", "1"}
    assert [row.seconds for row in per_cost_ranked(made, mode="max")][-1] == 0.0
    losses = [made_row("0", 0.2, 100.0), made_row("1", 0.5, 10.0)]
    assert [row.trial for row in per_cost_ranked(losses, mode="min")] == ["1", "0"]


def made_row(trial, value, seconds, **more):
    fields = {"params": {}, "metrics": {}, "seeds": (0,), "epochs": 1, "state": "complete"} | more
    return TrialRow(trial=trial, value=value, seconds=seconds, device_seconds=seconds, **fields)


def test_fronts_by_hand():
    """A dominated point is on the first front, or equal points are on different ones."""
    points = [(0.9, 0.5), (0.8, 0.1), (0.7, 0.3), (0.9, 0.5), (0.6, 0.9)]
    assert front_numbers(points, ("max", "min")) == [1, 1, 2, 1, 3]
    assert front_numbers([], ("max",)) == []


def test_constraints_rank_last():
    """A trial that misses a bound stands before one that keeps it."""
    rows = (made_row("0", 0.9, 1.0, violations={"val/ece max": 0.1}), made_row("1", 0.5, 1.0))
    result = StudyResult(study="s", state="done", metric=METRIC, mode="max", rows=rows)
    assert [row.trial for row in ranked(result)] == ["1", "0"]


def test_reasons():
    """The parameter that decides is not important, an interaction is not found, or too few trials are told."""
    space = parse_space(
        {
            "loss.name": {"choice": ["emd", "corn"]},
            "optim.lr": {"float": [0.0, 1.0]},
            "model.drop_rate": {"float": [0.0, 1.0]},
            "optim.weight_decay": {"float": [0.0, 1.0]},
            "loss.beta": {"float": [0.0, 1.0], "when": {"loss.name": "corn"}},
        }
    )
    rows = []
    for n in range(80):
        part = [(n * step % 80) / 80 for step in (1, 3, 7, 11)]
        params = {"loss.name": ["emd", "corn"][n % 2], "optim.lr": part[1], "model.drop_rate": part[2]}
        params |= {"optim.weight_decay": part[3]} | ({"loss.beta": part[0]} if n % 2 else {})
        value = -3 * abs(part[1] - 0.3) + (part[2] if n % 2 else -part[2])
        rows.append(made_row(str(n), value, 1.0, params=params))
    reasons = reasons_of(rows, space, mode="max")
    assert reasons.trials == 80
    assert {one.parameter for one in reasons.importances} == set(space.paths)
    assert sum(one.share for one in reasons.importances) == pytest.approx(1)
    assert next(one.trials for one in reasons.importances if one.parameter == "loss.beta") == 40
    shares = {one.parameter: one.share for one in reasons.importances}
    assert max(shares, key=lambda name: shares[name]) in ("optim.lr", "model.drop_rate", "loss.name")
    assert shares["optim.lr"] > 3 * shares["optim.weight_decay"]
    strengths = {frozenset(one.parameters): one.strength for one in reasons.interactions}
    assert max(strengths, key=lambda pair: strengths[pair]) == {"loss.name", "model.drop_rate"}
    slices = {(one.parameter, one.values): one for one in reasons.slices}
    assert slices["loss.name", "corn"].trials == 40
    assert slices["loss.name", "corn"].best == max(row.value for row in rows if row.params["loss.name"] == "corn")
    few = reasons_of(rows[:6], space, mode="max")
    assert (few.importances, few.interactions) == ((), ())
    assert "too few" in few.note
    narrow = parse_space({"optim.lr": {"float": [0.0, 0.5]}})
    outside = sum(row.params["optim.lr"] > 0.5 for row in rows)
    assert f"{outside} complete trials lie outside" in reasons_of(rows, narrow, mode="max").note
    assert reasons_of([], space, mode="max").note == "no trial is complete"


def test_the_live_best_keeps_the_constraints():
    """While a study runs, a trial that misses a bound is shown as the best."""
    board = Board(study="s", metric=METRIC, mode="max", rows=(made_row("0", 0.9, 1.0, violations={"x max": 1.0}),))
    assert board.best_value is None
    for trial, feasible in (("1", True), ("2", False)):
        board.observe(Event(kind="started", trial=trial))
        value = 0.5 + 0.1 * int(trial)
        board.observe(Event(kind="ended", trial=trial, state="complete", value=value, is_feasible=feasible))
    assert (board.best_label, board.best_value) == ("trial 1", 0.6)


def test_why(storage):
    """The reasons of a study are not those of its ledger, or `--where` does not limit them."""
    found = json.loads(call("best", "asked", "--storage", str(storage), "--why", "--json"))
    assert found["trials"] == 12
    assert {one["parameter"] for one in found["importances"]} == {"loss.name", "loss.gamma", "optim.lr"}
    assert "30" in found["note"]
    some = json.loads(call("best", "asked", "--storage", str(storage), "--why", "--json", "--where", "trial<5"))
    assert (some["trials"], some["importances"]) == (5, [])


def test_tree():
    """A parameter does not hang below the one whose value makes it exist."""
    raw = {
        "loss": {"choice": [{"name": "focal", "gamma": {"float": [0.5, 5]}}, {"name": "emd"}]},
        "optim.schedule": {"choice": ["step", "cosine"]},
        "optim.step_epochs": {"int": [1, 3], "when": {"optim.schedule": "step", "loss.name": "emd"}},
        "optim.lr": {"float": [1e-4, 1e-2], "scale": "log"},
    }
    assert space_tree(parse_space(raw)) == [
        "├─ loss: {name=focal} | {name=emd}",
        "│  └─ loss.gamma: float 0.5 to 5   when {name=focal}",
        "├─ optim.schedule: step | cosine",
        "│  └─ optim.step_epochs: int 1 to 3   when optim.schedule = step and loss.name = emd",
        "└─ optim.lr: float 0.0001 to 0.01 (log)",
    ]


def test_dry_run(storage, tmp_path, capsys):
    """A dry run writes something, shows another space, or claims a time that nobody has measured."""
    file = tmp_path / "asked.yaml"
    file.write_text(FILE.format(root=tmp_path, trials=40))
    show_dry_run(file, storage=str(tmp_path / "st"), overrides=())
    told = capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["asked.yaml"]
    assert "loss.name: emd | focal" in told
    assert "infinite" in told
    assert len(re.findall(r"^ +\d+  loss=", told, flags=re.MULTILINE)) == 10
    assert "time: unknown" in told
    file.write_text(FILE.format(root=storage.parent, trials=40))
    show_dry_run(file, storage=str(storage), overrides=["resources.concurrent=1"])
    told = capsys.readouterr().err
    assert "28 trials x 2 epochs x 100 images = 5,600 images at most" in told
    assert "as 12 trials of study asked" in told
    assert "time: 2 min 10 s per trial" in told  # 200 images at 1,200 images in 780 s
    grid = ["search.algorithm=grid", "search.space={loss.name: {choice: [emd, corn]}, seed: {grid: [0, 1]}}"]
    show_dry_run(file, storage=str(tmp_path / "st"), overrides=grid)
    told = capsys.readouterr().err
    assert "Size: 4 configurations" in told
    assert "The first 4 configurations" in told
    with pytest.raises(InputError):
        show_dry_run(file, storage=str(tmp_path), overrides=["search=null"])


def test_more_trials(storage):
    """`--trials +20` is not 20 more, or a number that is none is taken."""
    config = stored_config(storage / "asked")
    assert trials_override(config, None) == []
    assert trials_override(config, "+20") == ["search.trials=32"]
    assert trials_override(config, "50") == ["search.trials=50"]
    grid = ["search.algorithm=grid", "search.space={loss.name: {choice: [emd, corn]}}", "search.trials=null"]
    with pytest.raises(InputError, match="all 2 cells"):
        trials_override(stored_config(storage / "asked", grid), "+5")
    for wrong in ("20+", "-3", "+0", "many", "1.5"):
        with pytest.raises(InputError):
            trials_override(config, wrong)


def test_another_space(storage, tmp_path):
    """Another space is not taken from a file, not recorded, or begun although the budget is spent."""
    file = tmp_path / "space.yaml"
    lines = "loss.name: {choice: [emd, corn]}\n"
    for text in (lines, f"space:\n  {lines}", f"search:\n  start_with: [{{loss.name: corn}}]\n  space:\n    {lines}"):
        file.write_text(text)
        config = stored_config(storage / "asked", space_overrides(file))
        assert config.search.space.to_raw() == {"loss.name": {"choice": ["emd", "corn"]}}
        assert len(config.search.start_with) == ("start_with" in text)
    with pytest.raises(InputError, match="is over"):
        check_budget_left(config, storage / "asked", name="asked", storage=str(storage))
    more = stored_config(storage / "asked", [*space_overrides(file), "search.trials=14"])
    check_budget_left(more, storage / "asked", name="asked", storage=str(storage))
    import shutil

    shutil.copytree(storage / "asked", tmp_path / "asked")
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'asked' / 'ledger.db'}", config=more)
    assert [(one["from_trial"], sorted(one["space"])) for one in ledger.spaces()] == [
        (0, ["loss.gamma", "loss.name", "optim.lr"]),
        (12, ["loss.name"]),
    ]
    assert ledger.next_trial().params == {"loss.name": "corn"}
    for wrong in ("", "- a\n", "study: x\ndata: {}\n", "space: 3\n"):
        file.write_text(wrong)
        with pytest.raises(StudyError):
            space_overrides(file)
    with pytest.raises(StudyError):
        space_overrides(tmp_path / "missing.yaml")


def test_options_that_contradict(storage):
    """`--why` with `--yaml` prints something."""
    from study.cli.app import best

    with pytest.raises(typer.BadParameter):
        best("asked", why=True, yaml=True, storage=str(storage))
