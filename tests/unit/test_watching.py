"""Looking at a study from outside: the driver's note, snapshots, what happens between two, the verbs that show it."""

import contextlib
import io
import itertools
import json
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from rich.console import Console
from typer.testing import CliRunner

from study.cli import app
from study.cli import status as status_verb
from study.cli.folders import ledger_url, store_config
from study.config import load_config
from study.console import Board, PlainView, event_line
from study.console.live import board_picture
from study.console.spending import Spent, budget_text
from study.console.watched import board_of, head_lines
from study.errors import EnvironmentFault
from study.ledger import Ledger, LockHolder, Teller, lock_study
from study.ledger.now import STALE_S, Now, now_from_json, now_to_json
from study.types import EpochResult, Event, Limits, RunOutcome, TrialRow
from study.watching import events_between, is_driven, take_snapshot

METRIC = "val/auroc_macro"
FILE = """
study: seen
data: {{prepared: {root}/none, sources: [{{kind: phantom, name: a, patients: 30}}]}}
train: {{epochs: 3}}
search:
  trials: {trials}
  algorithm: random
  budget: {{hours: 2}}
  space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}
confirm: {{top: 1, seeds: [0, 1]}}
"""


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk():
    def hurry(connection, _):
        if "sqlite" in type(connection).__module__:
            connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", hurry)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", hurry)


class Driven:
    """A study that goes on by one event at a time, told to the ledger as a driver does."""

    def __init__(self, root: Path, trials: int = 4) -> None:
        file = root / "seen.yaml"
        file.write_text(FILE.format(root=root, trials=trials))
        self.config = load_config(file)
        self.storage, self.directory = str(root / "studies"), root / "studies" / "seen"
        self.directory.mkdir(parents=True)
        store_config(self.directory, self.config)
        self.url = ledger_url(self.directory)
        self.ledger = Ledger.open(self.url, config=self.config)
        self.ledger.record_file("study: seen")
        self.teller = Teller(self.ledger, epochs=3, mode="max", directory=self.directory)
        self.told: list[Event] = []
        self.reader: Ledger | None = None

    def tell(self, event: Event) -> Event:
        self.teller.observe(event)
        self.teller._write()
        self.told.append(event)
        return event

    def story(self):
        """Two trials at a time, one of them pruned; then a run of the confirmation and its test reading."""
        yield self.tell(Event(kind="stage", text="searching"))
        while (first := self.ledger.next_trial()) is not None:
            pair = [first, *([second] if (second := self.ledger.next_trial()) is not None else [])]
            for trial in pair:
                yield self.tell(Event(kind="started", trial=str(trial.number), params=trial.params))
            for epoch in (1, 2, 3):
                for trial in pair:
                    if trial.number == 1 and epoch == 3:
                        continue
                    value = 0.5 + 0.1 * trial.number + 0.01 * epoch
                    result = EpochResult(epoch=epoch, metrics={METRIC: value}, images=200, seconds=2.0)
                    self.ledger.report(trial.number, result)
                    yield self.tell(Event(kind="epoch", trial=str(trial.number), result=result, value=value))
            for trial in pair:
                state = "pruned" if trial.number == 1 else "complete"
                self.ledger.finish(trial.number, RunOutcome(state=state))
                value = self.ledger.outcome(trial.number).metrics[METRIC]
                yield self.tell(Event(kind="ended", trial=str(trial.number), state=state, value=value))
        yield self.tell(Event(kind="stage", text="confirming on the test split"))
        yield self.tell(Event(kind="started", trial="3", seed=1, params={}))
        result = EpochResult(epoch=1, metrics={METRIC: 0.7}, images=200, seconds=2.0)
        yield self.tell(Event(kind="epoch", trial="3", seed=1, result=result, value=0.7))
        outcome = RunOutcome(state="complete", best_epoch=1, metrics={METRIC: 0.7})
        self.ledger.record_run("3", 1, outcome)
        yield self.tell(Event(kind="ended", trial="3", seed=1, state="complete", value=0.7))
        self.ledger.record_run("3", 1, RunOutcome(state="complete", metrics={"test/auroc_macro": 0.6}), kind="evaluate")
        yield self.tell(Event(kind="tested", trial="3", seed=1, value=0.6))

    def look(self, *, is_running=True):
        holder = LockHolder(pid=7, host="here", since="2026-01-01T00:00:00+00:00") if is_running else None
        self.reader = self.reader or Ledger.open(self.url, config=self.config, read_only=True)
        return take_snapshot(self.reader, self.config, holder=holder, is_asked=True)

    def close(self):
        if self.reader is not None:
            self.reader.close()
        self.ledger.close()


@pytest.fixture
def driven(tmp_path):
    made = Driven(tmp_path)
    yield made
    made.close()


def lines_of(driven: Driven, events) -> list[str]:
    board = Board(study="seen", metric=METRIC, mode="max", trials_planned=4, epochs=3)
    lines = []
    for event in events:
        lines.append(event_line(event, board).replace("  lr=", "  params="))
        board.observe(event)
    return lines


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_is_missed_between_looks(driven, seed):
    """Whoever looks now and then misses an epoch or an end, sees one twice, or sees another value or speed."""
    chance, seen, before = random.Random(seed), [], driven.look()
    for _ in driven.story():
        if chance.random() < 0.3:
            seen += events_between(before, before := driven.look())
    seen += events_between(before, driven.look())

    def kept(lines):  # what runs between two looks alone is not seen while the confirmation runs
        return sorted(line.split("  params=")[0] for line in lines if "seed 1" not in line and "confirming" not in line)

    assert kept(lines_of(driven, seen)) == kept(lines_of(driven, driven.told))
    assert lines_of(driven, seen)[-1] == "trial 3 seed 1  tested  test/auroc_macro 0.600"


def test_every_event_is_seen_by_who_looks_at_once(driven):
    """A look after each event gives other lines than the driver's own view, or in another order."""
    seen, before = [], driven.look()
    for _ in driven.story():
        seen += events_between(before, before := driven.look())
    mine, theirs = lines_of(driven, seen), lines_of(driven, driven.told)
    assert [line.split("  params=")[0] for line in mine] == [line.split("  params=")[0] for line in theirs]
    assert list(events_between(before, driven.look())) == []


def test_a_board_from_a_snapshot(driven):
    """Whoever begins to look in the middle sees no speed, no estimate, no stage or another best trial."""
    story = driven.story()
    for event in story:
        if event.kind == "epoch" and event.trial == "2" and event.result.epoch == 2:
            break
    snapshot = driven.look()
    now = time.monotonic()
    board = board_of(snapshot, log="x.log", clock=lambda: now)
    assert (board.stage, board.best_label, board.trials_left) == ("searching", "trial 0", 2)
    assert [(run.label, run.epoch, run.epochs) for run in board.running.values()] == [
        ("trial 2", 2, 3),
        ("trial 3", 1, 3),
    ]
    run = next(iter(board.running.values()))
    assert (run.rate, run.epoch_s) == (100.0, 2.0)
    assert 0 < run.left_s(now) <= 2.0
    assert "driven by process 7 on here since 2026-01-01T00:00:00+00:00" in head_lines(snapshot, resume="go")
    stopped = driven.look(is_running=False)
    assert board_of(stopped, log="").running == {}
    assert head_lines(stopped, resume="study resume seen")[1] == (
        f"not running since {stopped.last_sign}; go on with: study resume seen"
    )
    (budget,) = [line for line in head_lines(stopped, resume="") if line.startswith("budget: ")]
    assert re.fullmatch(r"budget: 2 of 4 trials, (2 h 00|1 h 59) min of 2 h 00 min left", budget)


def test_who_is_alive():
    """A driver that fell silent is shown as running, or one that beats as dead, to who can ask for no lock."""
    now = Now(host="elsewhere", pid=1, directory="/s", since=0.0, told=1000.0)
    holder = LockHolder(pid=1, host="here", since="")
    for note, held, is_asked, at, expected in (
        (now, None, False, 1000.0 + STALE_S / 2, True),
        (now, None, False, 1001.0 + STALE_S, False),
        (replace(now, is_over=True), None, False, 1001.0, False),
        (now, None, True, 1001.0, False),
        (now, holder, True, 9999.0, True),
        (None, holder, True, 0.0, True),
        (None, None, False, 0.0, False),
    ):
        assert is_driven(note, holder=held, is_asked=is_asked, at=at) is expected


def test_the_note_survives_json():
    """A note is not read as it was written, or a field of a later release breaks the reader."""
    note = Now(host="h", pid=1, directory="/s", since=1.0, told=2.0, stage="searching")
    kept = json.loads(json.dumps(now_to_json(note)))
    assert now_from_json({**kept, "colour": "red"}) == note


def test_the_teller_writes_by_itself(driven):
    """What happens is not in the ledger within seconds, or the note of a driver that has ended says that it runs."""
    with driven.teller as teller:
        teller.observe(Event(kind="stage", text="preparing images"))
        deadline = time.monotonic() + 10
        while (now := driven.ledger.now()) is None or now.stage != "preparing images":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not now.is_over
    assert driven.ledger.now().is_over
    driven.ledger.begin()
    driven.close()
    assert [path.name for path in driven.directory.glob("ledger.db*")] == ["ledger.db"]


def test_a_ledger_that_is_away_does_not_end_the_study(driven, monkeypatch, caplog):
    """A note that cannot be written stops the driver."""

    def away(_):
        raise EnvironmentFault("the ledger's database did not answer: gone", "see to it")

    monkeypatch.setattr(driven.ledger, "tell_now", away)
    driven.teller._write()
    assert "gone" in caplog.text


class TestVerbs:
    def call(self, *arguments):
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        return done.exit_code, done.stdout, done.stderr

    @pytest.fixture
    def going_on(self, driven, monkeypatch):
        """Each wait of the watching verb is four events of the driver; at the end the driver lets go of the study."""
        lock = contextlib.ExitStack()
        lock.enter_context(lock_study(driven.directory))
        story = driven.story()

        def wait(_):
            for _ in range(4):
                if next(story, None) is None:
                    lock.close()

        monkeypatch.setattr(status_verb.time, "sleep", wait)
        yield driven
        lock.close()

    def test_watch(self, going_on):
        """Watching without a terminal is not one line for each event, or does not end when the study does."""
        code, out, err = self.call("status", "seen", "--watch", "--storage", going_on.storage)
        assert (code, out) == (1, "")  # the confirmation lacks its other runs
        lines = err.splitlines()
        assert lines[0] == "seen  running  0 of 4 trials"
        for line in (
            "trial 1  epoch 2/3  val/auroc_macro 0.620  100 images/s",
            "trial 1  pruned  val/auroc_macro 0.620",
            "trial 3  complete  val/auroc_macro 0.830",
            "trial 3 seed 1  tested  test/auroc_macro 0.600",
        ):
            assert lines.count(line) == 1
        assert any(line.startswith("not running since ") for line in lines)

    def test_watch_as_json(self, going_on):
        """Watching for scripts is not one JSON object a line, or repeats one that says nothing new."""
        code, out, err = self.call("status", "seen", "--watch", "--json", "--storage", going_on.storage)
        told = [json.loads(line) for line in out.splitlines()]
        assert (code, err) == (1, "")
        assert [one["state"] for one in told] == ["running"] * (len(told) - 1) + ["interrupted"]
        assert {run["images_per_second"] for one in told for run in one["runs"]} >= {100.0}
        assert all(left != right for left, right in itertools.pairwise(told))

    def test_leaving(self, going_on, monkeypatch):
        """Ctrl-C shows a traceback, or another exit code than an interruption has."""

        def interrupt(_):
            raise KeyboardInterrupt

        monkeypatch.setattr(status_verb.time, "sleep", interrupt)
        code, _, err = self.call("status", "seen", "--watch", "--storage", going_on.storage)
        assert code == 130
        assert "Traceback" not in err

    def test_a_database_that_is_away_for_a_moment(self, going_on, monkeypatch):
        """A server that starts again ends the watching."""
        looks = iter([False, True, True, False])
        look = status_verb.Looker.look

        def sometimes(self):
            if next(looks, False):
                raise EnvironmentFault("the ledger's database did not answer: restarting", "wait")
            return look(self)

        monkeypatch.setattr(status_verb.Looker, "look", sometimes)
        code, _, err = self.call("status", "seen", "--watch", "--storage", going_on.storage)
        assert (code, err.count("restarting; trying again")) == (1, 1)

    def test_by_the_ledger_alone(self, driven, monkeypatch, tmp_path):
        """Who reaches the ledger and not the study's directory sees less, or does not see that the driver lives."""
        from study.config import config_yaml

        driven.ledger.record_file(config_yaml(driven.config))
        for event in driven.story():
            if event.kind == "epoch" and event.trial == "2":
                break
        elsewhere = str(tmp_path / "elsewhere")
        monkeypatch.setenv("STUDY_LEDGER_URL", driven.url)
        code, out, _ = self.call("status", "seen", "--json", "--storage", elsewhere)
        found = json.loads(out)
        assert (code, found["state"], found["running"], found["stage"]["name"]) == (
            0,
            "running",
            ["2", "3"],
            "searching",
        )
        assert [(run["trial"], run["epoch"], run["images_per_second"]) for run in found["runs"]] == [
            ("2", 1, 100.0),
            ("3", 0, 0.0),
        ]
        assert found["log"].endswith(f":{driven.directory}/study.log")
        assert json.loads(self.call("best", "seen", "--json", "--storage", elsewhere)[1])[0]["trial"] == "0"
        (line,) = json.loads(self.call("list", "--json", "--storage", elsewhere)[1])
        assert (line["study"], line["state"], line["trials"]) == (
            "seen",
            "running",
            {"complete": 1, "pruned": 1, "running": 2},
        )
        monkeypatch.setenv("STUDY_LEDGER_URL", f"sqlite:///{tmp_path}/none.db")
        assert self.call("list", "--storage", elsewhere) == (0, "", f"no studies in {elsewhere}\n")
        monkeypatch.setenv("STUDY_LEDGER_URL", driven.url)
        refused = CliRunner().invoke(app, ["status", "sen", "--storage", elsewhere])
        assert refused.exception.fix == "did you mean seen?"


class TestBoardFits:
    @pytest.mark.parametrize("width", [60, 80, 140])
    @pytest.mark.parametrize("num_runs", [1, 5, 40])
    def test_lines(self, width, num_runs):
        """The board is wider or higher than the terminal, cuts a number, or hides the counts and the log."""
        limits = Limits(trials=99, hours=3.0, gpu_hours=40.0, target=0.9, no_better_in=9)
        board = Board(
            study="s", metric=METRIC, mode="max", trials_planned=99, epochs=20, limits=limits, log="a/study.log"
        )
        board.observe(Event(kind="stage", text="searching"))
        for number in range(num_runs):
            trial = str(number)
            board.observe(Event(kind="started", trial=trial, params={"optim.lr": 0.1, "loss.name": "cross_entropy"}))
            result = EpochResult(epoch=7, metrics={}, images=4000, seconds=33.0)
            board.observe(Event(kind="epoch", trial=trial, result=result, value=0.5))
        console = Console(file=io.StringIO(), width=width, height=24, record=True)
        console.print(board_picture(board, width=width, height=24))
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) < 24
        shown = [line for line in lines if line.startswith("trial ")]
        assert all("7/20" in line and "0.500" in line and " min " in line for line in shown)
        hidden = num_runs - len(shown)
        assert (f"and {hidden} more" in lines) == (hidden > 0)
        for word in ("trials  0 complete", "budget  99 of 99 trials", "log     a/study.log"):
            assert any(line.startswith(word) for line in lines)

    def test_budget_in_words(self):
        """A limit is left out, or what is spent is not taken off."""
        spent = Spent(mode="max", gpu_seconds=3600.0)
        for state, is_best in (("failed", False), ("complete", True), ("pruned", False), ("failed", False)):
            spent.take(state, is_best=is_best)
        limits = Limits(trials=8, hours=2.0, gpu_hours=4.0, target=0.9, no_better_in=3)
        assert budget_text(limits, spent, trials_left=5, hours=0.5) == (
            "5 of 8 trials, 1 h 30 min of 2 h 00 min, 3 of 4 GPU-hours left; "
            "ends at 0.900 or above or after 2 more trials without a better one"
        )
        assert budget_text(Limits(trials=8), spent, trials_left=5, hours=0.5) == ""

    def test_estimates(self):
        """The end of a run or of the search is not where its pace leads."""
        now = [0.0]
        row = TrialRow(
            trial="0", state="complete", value=0.5, params={}, metrics={}, seeds=(0,), epochs=4, seconds=40.0
        )
        board = Board(
            study="s", metric=METRIC, mode="max", trials_planned=6, epochs=4, clock=lambda: now[0], rows=(row,)
        )
        board.observe(Event(kind="stage", text="searching"))
        assert board.eta_s() == pytest.approx(5 * 40)
        for trial in ("1", "2"):
            board.observe(Event(kind="started", trial=trial))
            board.observe(
                Event(
                    kind="epoch",
                    trial=trial,
                    value=0.5,
                    result=EpochResult(epoch=1, metrics={}, images=9, seconds=10.0),
                )
            )
        now[0] = 4.0
        run = board.running["1-s0"]
        assert run.left_s(now[0]) == pytest.approx(26.0)
        # Two runs with 26 s each, then three trials of 40 s, on two slots.
        assert board.eta_s() == pytest.approx((2 * 26 + 3 * 40) / 2)
        now[0] = 400.0
        assert run.left_s(now[0]) == 0.0


def test_a_plain_view_takes_the_watched_events(driven):
    """The watching view breaks on an event that only a snapshot gives."""
    snapshot, stream = driven.look(), io.StringIO()
    with PlainView(stream, board_of(snapshot, log="")) as view:
        for _ in driven.story():
            pass
        for event in events_between(snapshot, driven.look()):
            view.observe(event)
    assert "trial 0  complete  val/auroc_macro 0.530" in stream.getvalue()


class Several(Driven):
    """A study whose trials have two seeds; the second trial is pruned while both train."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, trials=2)
        self.ledger.close()
        raw = self.config.model_dump(mode="json")
        self.config = type(self.config).model_validate({**raw, "search": {**raw["search"], "seeds": [4, 2]}})
        self.ledger = Ledger.open(self.url, config=self.config)
        self.teller = Teller(self.ledger, epochs=3, mode="max", directory=self.directory)

    def event(self, kind, trial, run, **more):
        return self.tell(Event(kind=kind, trial=str(trial.number), seed=run.key.seed, part=run.key.part, **more))

    def story(self):
        yield self.tell(Event(kind="stage", text="searching"))
        while (trial := self.ledger.next_trial()) is not None:
            for run in trial.runs:
                yield self.event("started", trial, run, params=trial.params)
            for epoch in (1, 2) if trial.number == 0 else (1,):
                for run in trial.runs:
                    value = 0.5 + 0.1 * run.key.seed + 0.01 * epoch
                    result = EpochResult(epoch=epoch, metrics={METRIC: value}, images=200, seconds=2.0)
                    self.ledger.report(trial.number, result, run.key)
                    yield self.event("epoch", trial, run, result=result, value=value)
            over = RunOutcome(state="pruned")
            for run in trial.runs if trial.number == 0 else ():
                done = RunOutcome(state="complete", best_epoch=2)
                over = self.ledger.end_run(trial.number, run.key, done) or over
                value = 0.52 + 0.1 * run.key.seed
                yield self.event("ended", trial, run, state="complete", value=value)
            self.ledger.finish(trial.number, over)
            for run in trial.runs if trial.number == 1 else ():
                yield self.event("ended", trial, run, state="pruned", value=0.51 + 0.1 * run.key.seed)
            value = self.ledger.outcome(trial.number).metrics[METRIC]
            yield self.tell(Event(kind="ended", trial=str(trial.number), state=over.state, value=value))


def test_runs_of_a_trial_are_seen_apart(tmp_path):
    """Whoever looks takes the runs of a trial for one, counts it at the end of the first, or misses one."""
    driven = Several(tmp_path)
    seen, before = [], driven.look()
    for number, _ in enumerate(driven.story()):
        seen += events_between(before, before := driven.look())
        if number == 3:  # both run, the first one has told an epoch
            board = board_of(before, log="")
            assert [(run.label, run.epoch) for run in board.running.values()] == [
                ("trial 0 seed 4", 1),
                ("trial 0 seed 2", 0),
            ]
            assert board.trials_left == 2
    mine, theirs = lines_of(driven, seen), lines_of(driven, driven.told)
    assert sorted(line.split("  params=")[0] for line in mine) == sorted(line.split("  params=")[0] for line in theirs)
    assert list(events_between(before, driven.look())) == []
    driven.close()
