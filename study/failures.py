"""Why runs fail: the kinds, words for them that may leave the machine, and the table of failures by cause."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from study.types import FailureKind, Retry, TrialRow

KINDS: Final[tuple[FailureKind, ...]] = ("preempted", "out_of_memory", "crash", "bad_configuration")
WORDS: Final[Mapping[str, str]] = {
    "preempted": "preempted",
    "out_of_memory": "out of memory",
    "crash": "crash",
    "bad_configuration": "bad configuration",
    "": "other",
}
ADVICE: Final[Mapping[str, str]] = {
    "preempted": "use nodes that stay, save more often (train.checkpoint_every), or raise search.retries.preempted",
    "out_of_memory": "lower train.batch_size, raise train.accumulate, or search smaller networks",
    "crash": "look at the end of the log for what ended the workers",
    "bad_configuration": "take the values that cannot work out of search.space",
    "": "look at the reasons in `study status`",
}
CAUSE_CHARS: Final = 160

# What a message may hold of the machine it came from: places, addresses, processes, and Ray's names for its parts.
_FILES: Final = "dcm|dicom|png|jpe?g|tiff?|pgm|csv|xlsx?|npz|npy|arrow|parquet|json|yaml|safetensors"
_HIDDEN: Final = (
    (re.compile(r"(['\"])[^'\"]*[\\/][^'\"]*\1"), "<path>"),
    (re.compile(r"\b[a-z][a-z0-9+.\-]*://[^\s'\",;)\]]+", re.IGNORECASE), "<address>"),
    (re.compile(r"(?<![\w.])(?:~|[A-Za-z]:)?[\\/](?:[^\s'\",:;()\[\]<>]+[\\/])*[^\s'\",:;()\[\]<>]+"), "<path>"),
    (re.compile(r"(?<![\w.])(?:\.{0,2}[\w\-.]+/)+[\w\-.]+\.\w+"), "<path>"),
    (re.compile(rf"[\w\-]+\.(?:{_FILES})\b", re.IGNORECASE), "<file>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{16,}\b"), "<id>"),
    (re.compile(r"\bpid[ =:]+\d+", re.IGNORECASE), "pid <id>"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """Failed trials of one cause: its kind, an example in words, the trials, and how often they were tried again."""

    kind: str
    cause: str
    trials: tuple[str, ...]
    retries: int

    @property
    def word(self) -> str:
        """The kind as it is written for people."""
        return WORDS[self.kind]

    @property
    def advice(self) -> str:
        """What can be done about failures of this kind."""
        return ADVICE[self.kind]


def public_text(text: str) -> str:
    """A message in one line, without places, addresses and identifiers of the machine or of a file.

    An error of any library may name the file it was reading, and a file the patient.
    """
    line = " ".join(text.split())
    for pattern, shown in _HIDDEN:
        line = pattern.sub(shown, line)
    return line


def failure_table(rows: Sequence[TrialRow]) -> tuple[FailureRow, ...]:
    """The failed trials by kind and cause, the most frequent first; reasons that differ in numbers alone are one."""
    groups: dict[tuple[str, str], list[TrialRow]] = {}
    for row in rows:
        if row.state == "failed":
            groups.setdefault((row.failure, _shape(row.reason)), []).append(row)
    table = [
        FailureRow(
            kind=kind,
            cause=_short(public_text(group[0].reason)),
            trials=tuple(row.trial for row in group),
            retries=sum(len(row.retries) for row in group),
        )
        for (kind, _), group in groups.items()
    ]
    return tuple(sorted(table, key=lambda row: -len(row.trials)))


def failure_lines(table: Sequence[FailureRow]) -> list[str]:
    """The table as lines of text, for an error message."""
    return [f"{len(row.trials)} x {row.word}: {row.cause} (trial {_listed(row.trials)})" for row in table]


def advice(table: Sequence[FailureRow]) -> str:
    """What can be done about the most frequent kinds, one sentence each."""
    return "; ".join(dict.fromkeys(row.advice for row in table))


def retry_note(retries: Sequence[Retry]) -> str:
    """What was tried again, in a line: the text of a single retry, the numbers of several and the last one's text."""
    if len(retries) < 2:
        return retries[0].text if retries else ""
    counts = {kind: sum(retry.kind == kind for retry in retries) for kind in KINDS}
    told = ", ".join(f"{count} {WORDS[kind]}" for kind, count in counts.items() if count)
    return f"tried again {len(retries)} times ({told}); last: {retries[-1].text}"


def last_words(kind: FailureKind, reason: str, *, tries: int, parts: int) -> str:
    """Why a run has failed, when it is not tried again."""
    if kind == "out_of_memory":
        again = f", also with {parts} times as many micro-batches" if parts > 1 else ""
        return f"out of memory{again}: {reason}"
    if kind == "bad_configuration" or tries == 1:
        return reason
    return f"{reason}; {tries} times without an epoch in between"


def retry_words(kind: FailureKind, reason: str, *, turn: str, parts: int) -> str:
    """Why a run is tried again, and how."""
    if kind == "out_of_memory":
        return f"out of memory, tried again with {parts} times as many micro-batches of the same batch ({reason})"
    return f"{reason}; tried again from its last checkpoint ({turn})"


def _shape(reason: str) -> str:
    return re.sub(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", "#", public_text(reason))


def _short(text: str) -> str:
    return text if len(text) <= CAUSE_CHARS else text[: CAUSE_CHARS - 1] + "…"


def _listed(trials: Sequence[str], most: int = 5) -> str:
    more = f" and {len(trials) - most} more" if len(trials) > most else ""
    return ", ".join(trials[:most]) + more
