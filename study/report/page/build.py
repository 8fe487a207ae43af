"""The whole report: evidence in, page out."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import study
from study.errors import StudyError
from study.failures import public_text
from study.report.page.again import again_section
from study.report.page.answer import answer, compared, metric_name
from study.report.page.comparing import comparison_section
from study.report.page.dataset import data_section
from study.report.page.evidence import Evidence
from study.report.page.mistakes import calibration_section, mistakes_section
from study.report.page.parts import Note, Page, Section, Tile
from study.report.page.question import question, question_section
from study.report.page.searching import search_section
from study.report.page.trouble import cost_section, failures_section
from study.report.page.where import where_section
from study.report.ranking import ranked, test_metric
from study.report.words import duration, number, probability

STATES: Final = {
    "new": "This study has not begun.",
    "running": "This study is running: what follows is how it stood when the report was written.",
    "interrupted": "This study is not finished: what follows is how far it got.",
}
SECTIONS: Final[Sequence[tuple[str, str, Callable[[Evidence], Section]]]] = (
    ("question", "What was asked", question_section),
    ("data", "Data", data_section),
    ("comparison", "Comparison", comparison_section),
    ("search", "Search", search_section),
    ("where", "Where it works", where_section),
    ("mistakes", "Errors", mistakes_section),
    ("calibration", "Calibration", calibration_section),
)
LAST: Final[Sequence[tuple[str, str, Callable[[Evidence], Section]]]] = (
    ("failures", "What failed", failures_section),
    ("cost", "Cost", cost_section),
    ("again", "Make it again", again_section),
)


def build_page(evidence: Evidence, *, inside: Sequence[Section] = (), time: datetime | None = None) -> Page:
    """The report's page; ``inside`` are the sections that needed the network itself."""
    text, caveat = answer(evidence)
    sections = [*_made(SECTIONS, evidence), *inside, *_made(LAST, evidence)]
    moment = (time or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    return Page(
        title=evidence.result.study,
        subtitle=f"{question(evidence.config)} Written {moment}.",
        banner=banner(evidence),
        answer=text,
        caveat=caveat,
        tiles=tuple(_tiles(evidence)),
        sections=tuple(sections),
        footer=f"Written by study {study.__version__} on {moment}. Images and patients are counted, never named. "
        "A research tool, not a medical device.",
    )


def _made(parts: Sequence[tuple[str, str, Callable[[Evidence], Section]]], evidence: Evidence) -> list[Section]:
    """A file that is damaged costs its section, not the report."""
    found = []
    for key, title, make in parts:
        try:
            found.append(make(evidence))
        except StudyError as error:
            note = Note(text=public_text(error.message), kind="warning", command=public_text(error.fix))
            found.append(Section(key=key, title=title, finding="This part could not be made.", blocks=(note,)))
    return found


def banner(evidence: Evidence) -> str:
    """What stands above everything of a study that is not done; empty otherwise."""
    text = STATES.get(evidence.result.state, "")
    if not text or evidence.result.state == "running":
        return text
    return f"{text} Go on with: {evidence.command('resume')}"


def _tiles(evidence: Evidence) -> list[Tile]:
    result, found = evidence.result, compared(evidence)
    name = metric_name(test_metric(result))
    tiles = []
    if found is not None:
        tiles.append(
            Tile(label=f"trial {found.row.trial}, {name}", value=number(found.row.mean), detail=_sd(found.row.sd))
        )
        tiles.append(Tile(label=f"baseline, {name}", value=number(found.base.mean), detail=_sd(found.base.sd)))
        value = "-" if math.isnan(found.difference) else f"{found.difference:+.3f}"
        tiles.append(Tile(label="difference", value=value, detail=_interval(found.low, found.high)))
        tiles.append(
            Tile(
                label="p after Holm",
                value=probability(found.row.p_holm),
                detail=f"uncorrected {probability(found.row.p)}",
            )
        )
    else:
        best = next((row for row in ranked(result) if row.state == "complete"), None)
        if best is not None:
            tiles.append(
                Tile(
                    label=f"best, {metric_name(result.metric)}", value=number(best.value), detail="validation, one seed"
                )
            )
    complete = sum(row.state == "complete" for row in result.rows)
    planned = f" of {result.trials_planned}" if result.trials_planned else ""
    tiles.append(Tile(label="trials", value=f"{len(result.rows)}{planned}", detail=f"{complete} complete"))
    seconds = sum(row.device_seconds for row in result.rows)
    tiles.append(Tile(label="device time of the search", value=duration(seconds)))
    return tiles


def _sd(value: float) -> str:
    return "" if math.isnan(value) else f"± {number(value)} over seeds"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"95 % CI {number(low)} to {number(high)}"
