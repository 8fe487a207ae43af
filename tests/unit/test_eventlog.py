"""``events.jsonl``: one sound line for each event, after kills too, within bounds, and nothing private in it."""

import json
import logging
import math
import multiprocessing
import os
import re
import signal
from dataclasses import fields
from pathlib import Path

import pytest

from study.console import eventlog
from study.console.eventlog import FIELDS, NAMES, event_log
from study.errors import InputError, InterruptedStudy
from study.types import EpochResult, Event

PAGE = Path(__file__).parents[2] / "docs" / "events.md"
RESULT = EpochResult(
    epoch=2,
    metrics={"val/auroc_macro": 0.75, "val/mcc": math.nan},
    images=64,
    seconds=1.5,
    system={"system/images_per_second": 50.0},
    step=16,
    node="node-3",
)
EVENTS = (
    Event(kind="stage", text="searching", total=8),
    Event(kind="progress", text="reading images", done=1, total=9),
    Event(kind="started", trial="4", seed=1, run="4-s1", attempt=2, params={"optim.lr": 1e-3, "loss.name": "emd"}),
    Event(kind="epoch", trial="4", seed=1, run="4-s1", result=RESULT, value=0.75),
    Event(kind="warning", trial="4", seed=1, run="4-s1", attempt=3, text="run 4-s1: out of memory (1 of 2)"),
    Event(kind="ended", trial="4", seed=1, run="4-s1", state="failed", text="loss is nan at step 3"),
    Event(kind="ended", trial="5", seed=1, state="pruned", value=0.5),
    Event(kind="tested", trial="4", seed=1, run="4-s1", value=math.nan),
    Event(kind="warning", text="3 files are in quarantine"),
)


def read(path):
    """The lines of a log; each has to be an object with known keys and values of JSON alone."""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        assert {"v", "time", "level", "event", "study", "message"} <= set(line) <= set(FIELDS)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["event"] in NAMES
        assert line["level"] in ("info", "warning", "error")
    return lines


def test_each_event_is_a_line(tmp_path):
    """What is known of an event stands under its own key; progress is left out, and no number is lost."""
    path = tmp_path / "events.jsonl"
    with event_log(path, study="mine") as log:
        for event in EVENTS:
            log.observe(event)
    lines = read(path)
    assert [line["event"] for line in lines] == [
        "log.opened",
        "stage",
        "run.started",
        "run.epoch",
        "run.retried",
        "run.ended",
        "trial.ended",
        "run.tested",
        "warning",
        "log.closed",
    ]
    assert {line["study"] for line in lines} == {"mine"}
    started, epoch, retried, ended, other, tested = lines[2:8]
    assert started["params"] == {"optim.lr": 1e-3, "loss.name": "emd"}
    assert (started["trial"], started["run"], started["attempt"]) == ("4", "4-s1", 2)
    assert (epoch["epoch"], epoch["step"], epoch["rank"], epoch["node"], epoch["attempt"]) == (2, 16, 0, "node-3", 2)
    assert epoch["numbers"] == {
        "val/auroc_macro": 0.75,
        "val/mcc": None,
        "system/images_per_second": 50.0,
        "images": 64.0,
        "seconds": 1.5,
    }
    assert (retried["level"], retried["attempt"], ended["attempt"]) == ("warning", 3, 3)
    assert (ended["state"], ended["level"], ended["message"]) == ("failed", "error", "loss is nan at step 3")
    assert (other["state"], other["numbers"]) == ("pruned", {"value": 0.5})
    assert "run" not in other
    assert tested["numbers"] == {"value": None}
    assert (lines[0]["pid"], lines[-1]["state"]) == (os.getpid(), "done")


def test_the_page_has_the_same_tables():
    """docs/events.md promises every name and every key, in the same words."""
    text = PAGE.read_text(encoding="utf-8").split("## `system/")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", text, re.MULTILINE)
    assert rows == [*NAMES.items(), *FIELDS.items()]


def test_every_kind_of_event_has_a_name(tmp_path):
    """A kind of event that is added later is not written under a name that nobody knows."""
    kinds = next(each for each in fields(Event) if each.name == "kind").type.__args__
    path = tmp_path / "events.jsonl"
    with event_log(path, study="mine") as log:
        for kind in kinds:
            log.observe(Event(kind=kind, trial="1", run="1-s0"))
    assert len(read(path)) == len(kinds) + 1  # without progress, with the first line and the last


def test_nothing_private(tmp_path):
    """Places, addresses with their passwords, and what looks like an identifier of a file reach no line."""
    path = tmp_path / "events.jsonl"
    private = "no shard /data/PAT-0042/1.2.840.113619.dcm at postgresql://me:hunter2@db:5432/x, PAT0042.dcm"
    uid = "1.2.840.113619.2.5.1762583153.215519"

    def live():
        with event_log(path, study="mine") as log:
            log.observe(Event(kind="warning", text=private))
            log.observe(
                Event(kind="ended", trial="1", run="1-s0", state="failed", text=f"{private} 0123456789abcdef01")
            )
            logging.getLogger("study.ledger.storage").warning("does not answer: %s", private)
            raise InputError(private, "look at /data/PAT-0042")

    with pytest.raises(InputError):
        live()
    text = path.read_text()
    assert not re.search(r"hunter2|PAT|/data|db:5432|0123456789abcdef", text)
    assert uid not in text
    lines = read(path)
    assert (lines[-1]["state"], lines[-1]["level"]) == ("failed", "error")
    assert [line["logger"] for line in lines if line["event"] == "log.record"] == ["study.ledger.storage"]


def test_an_interruption_says_so_and_logging_is_as_before(tmp_path):
    """The last line tells how the driver ended, and its handlers are gone afterwards."""
    path, package = tmp_path / "events.jsonl", logging.getLogger("study")
    before = package.handlers[:]
    with pytest.raises(InterruptedStudy), event_log(path, study="mine"):
        raise InterruptedStudy("study mine; a run that had begun has a checkpoint")
    assert package.handlers == before
    assert [line.get("state") for line in read(path)] == [None, "interrupted"]
    logging.getLogger("study.anything").warning("not written any more")
    assert len(read(path)) == 2


def _write_for_ever(path, begun):
    with event_log(path, study="mine") as log:
        for number in range(10**9):
            log.observe(Event(kind="epoch", trial=str(number), run=f"{number}-s0", result=RESULT))
            if number == 200:
                begun.set()


def test_a_kill_costs_no_line_and_the_next_driver_goes_on(tmp_path):
    """After SIGKILL all lines that were told are whole; one torn by hand stays alone, and what follows is sound."""
    path = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=_write_for_ever, args=(path, begun))
    process.start()
    assert begun.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lines = path.read_bytes().split(b"\n")
    assert lines[-1] == b"" or lines.pop()  # at most the last one is torn
    numbers = [json.loads(line).get("trial") for line in lines if line]
    assert numbers == [None, *map(str, range(len(numbers) - 1))]
    assert len(numbers) > 200
    with path.open("ab") as file:
        file.write(b'{"v":1,"time":"2026-')
    with event_log(path, study="mine") as log:
        log.observe(EVENTS[0])
    end = path.read_text().splitlines()[-4:]
    assert end[0] == '{"v":1,"time":"2026-'
    assert [json.loads(line)["event"] for line in end[1:]] == ["log.opened", "stage", "log.closed"]


def test_nothing_happens_and_nothing_is_written(tmp_path):
    """A study that is done already stays as it is; one that cannot begin tells why."""
    path = tmp_path / "events.jsonl"
    with event_log(path, study="mine") as log:
        log.observe(EVENTS[1])
    assert not path.exists()
    with pytest.raises(InputError), event_log(path, study="mine"):
        raise InputError("no room", "make room")
    assert [(line["event"], line["message"]) for line in read(path)] == [
        ("log.opened", "a driver begins"),
        ("log.closed", "no room"),
    ]


def test_is_bounded(tmp_path, monkeypatch):
    """However long a study lives, its files are of a bounded number and size, and no line is cut in two."""
    monkeypatch.setattr(eventlog, "MOST_BYTES", 4000)
    path = tmp_path / "events.jsonl"
    with event_log(path, study="mine") as log:
        for number in range(200):
            log.observe(Event(kind="epoch", trial=str(number), run=f"{number}-s0", result=RESULT))
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["events.jsonl", *(f"events.jsonl.{i}" for i in (1, 2, 3))]
    assert all(file.stat().st_size <= 4000 for file in files)
    lines = [line for file in (*files[:0:-1], files[0]) for line in read(file)]
    kept = [int(line["trial"]) for line in lines if "trial" in line]
    assert kept == list(range(kept[0], 200))


def test_a_long_message_is_cut(tmp_path):
    """A traceback in a reason does not fill the file, nor does a word without end take a time without end."""
    path = tmp_path / "events.jsonl"
    with event_log(path, study="mine") as log:
        log.observe(Event(kind="warning", text="word " * 10_000))
        log.observe(Event(kind="warning", text="x" * 70_000))
    words, word = (line["message"] for line in read(path)[1:3])
    assert words == " ".join(["word"] * (eventlog.MESSAGE_CHARS // 5))
    assert word == "x" * eventlog.MESSAGE_CHARS
