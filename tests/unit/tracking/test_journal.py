"""The journal: whole lines in order, each thing once, and torn ends cut off."""

import json

import pytest

from study.errors import StudyError
from study.tracking.journal import Journal

RUN = ("3", 1, 0)


def epoch(number):
    return {"epoch": number, "metrics": {"val/mcc": float("nan")}, "images": 1, "seconds": 0.5}


def start(attempt):
    return {"attempt": attempt, "params": {}}


def test_records_come_back_in_order(tmp_path):
    """What was appended is read in order, with its numbers, from any offset that was given out."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("start", run=RUN, payload=start(1))
    for number in range(1, 6):
        assert journal.append("epoch", run=RUN, payload=epoch(number))
    records = journal.read(0, limit=100)
    assert [record.sequence for record, _ in records] == [1, 2, 3, 4, 5, 6]
    assert [record.kind for record, _ in records] == ["start"] + ["epoch"] * 5
    assert [record.payload["epoch"] for record, _ in journal.read(records[2][1], limit=2)] == [3, 4]
    assert records[-1][1] == (tmp_path / "journal.jsonl").stat().st_size


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_torn_last_line_is_cut_off(tmp_path, cut):
    """A last line without its end is forgotten, whatever part of it was written, and can be told again."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("epoch", run=RUN, payload=epoch(1))
    journal.append("epoch", run=RUN, payload=epoch(2))
    study_id = journal.study_id
    journal.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path)
    assert (again.count, again.num_epochs(RUN)) == (1, 1)
    assert not again.append("epoch", run=RUN, payload=epoch(1))
    assert again.append("epoch", run=RUN, payload=epoch(2))
    assert [record.payload["epoch"] for record, _ in again.read(0, limit=9)] == [1, 2]
    assert study_id


def test_damage_inside_is_named(tmp_path):
    """A damaged line that is not the last one is refused with its number."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in (1, 2, 3):
        journal.append("epoch", run=RUN, payload=epoch(number))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"}{\n" + lines[2])
    with pytest.raises(StudyError, match="line 2 of"):
        Journal(path)


def test_each_thing_is_written_once(tmp_path):
    """Epochs, attempts and ends that were told before are not written again, also by the next process."""
    path = tmp_path / "journal.jsonl"
    end = {"state": "complete", "metrics": {}}
    steps = [
        ("start", start(1)),
        ("epoch", epoch(1)),
        ("end", end),
        ("test", {"metrics": {}}),
        ("artifact", {"path": "a"}),
    ]
    first = Journal(path)
    for make, expected in ((lambda: first, True), (lambda: first, False), (lambda: Journal(path), False)):
        journal = make()
        assert [journal.append(kind, run=RUN, payload=payload) for kind, payload in steps] == [expected] * 5
        assert journal.count == 5
    assert first.append("epoch", run=("3", 2, 0), payload=epoch(1))


def test_interrupted_run_begins_and_ends_again(tmp_path):
    """A run that was interrupted can start with the same attempt and end once more; a finished one cannot."""
    journal = Journal(tmp_path / "journal.jsonl")
    told = [("start", start(1)), ("end", {"state": "running"}), ("start", start(1)), ("end", {"state": "complete"})]
    assert [journal.append(kind, run=RUN, payload=payload) for kind, payload in told] == [True] * 4
    assert journal.open_runs() == []
    assert not journal.append("start", run=RUN, payload=start(1))
    assert not journal.append("end", run=RUN, payload={"state": "complete"})
    assert journal.append("start", run=RUN, payload=start(2))
    assert Journal(tmp_path / "journal.jsonl").open_runs() == [RUN]


def test_name_of_the_study_survives(tmp_path):
    """The random name of a study is kept by its study record; another journal has another one."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("study", payload={"study_id": journal.study_id})
    assert Journal(path).study_id == journal.study_id != Journal(tmp_path / "other.jsonl").study_id
    assert json.loads(path.read_text())["payload"]["study_id"] == journal.study_id
