"""What failed and why, and what it all cost."""

from collections.abc import Sequence
from typing import Final

from study.failures import WORDS, advice, failure_table, public_text
from study.ledger import RunRecord
from study.report.page.cells import count, share, word
from study.report.page.evidence import Evidence
from study.report.page.parts import Block, Cell, Note, Section, Table
from study.report.words import cut, duration

LONGEST: Final = 240
UNTOLD: Final = "no reason was recorded"


def failures_section(evidence: Evidence) -> Section:
    """Failed trials and runs by their reason, runs that needed more memory, trials that were stopped."""
    failed = failure_table(evidence.result.rows)
    blocks: list[Block] = []
    if failed:
        rows = tuple(
            (word(row.word), word(row.cause or UNTOLD), count(len(row.trials)), word(cut(", ".join(row.trials), 80)))
            for row in failed
        )
        caption, columns = "Trials that failed, by cause", ("kind", "cause", "trials", "which")
        blocks.append(Table(name="failures", caption=caption, columns=columns, rows=rows, words=(0, 1, 3)))
        blocks.append(Note(text=f"What can be done: {advice(failed)}."))
    lost = [record for record in evidence.ledgered.records if record.outcome.state == "failed"]
    blocks += [_lost_runs(lost)] if lost else []
    retries = evidence.ledgered.retries
    if retries:
        lines = tuple(
            (word(trial), word(seed), word(WORDS[retry.kind]), count(retry.epoch), word(public_text(retry.text)))
            for (trial, seed), tried in retries.items()
            for retry in tried
        )
        names = ("trial", "seed", "after", "epoch", "why")
        caption = "Runs that were tried again"
        blocks.append(Table(name="retries", caption=caption, columns=names, rows=lines, words=(0, 1, 2, 4)))
    num_failed = sum(row.state == "failed" for row in evidence.result.rows) + len(lost)
    finding = f"{num_failed} {'run' if num_failed == 1 else 'runs'} failed." if num_failed else "Nothing failed."
    blocks += _stopped(evidence)
    return Section(key="failures", title="What failed", finding=finding, blocks=tuple(blocks))


def _lost_runs(records: Sequence[RunRecord]) -> Table:
    lines = tuple(
        (word(record.trial), word(record.seed), word(record.kind), word(_reason(record.outcome.reason)))
        for record in records
    )
    caption, columns = "Runs of the confirmation that failed", ("trial", "seed", "run", "cause")
    return Table(name="lost-runs", caption=caption, columns=columns, rows=lines, words=(0, 1, 2, 3))


def _stopped(evidence: Evidence) -> list[Block]:
    pruned = [row for row in evidence.result.rows if row.state == "pruned"]
    missed = [row.trial for row in evidence.result.rows if row.state == "complete" and not row.is_feasible]
    blocks: list[Block] = []
    if pruned:
        planned = evidence.config.train.epochs * len(evidence.config.run_keys)
        epochs, whole = sum(row.epochs for row in pruned), len(pruned) * planned
        blocks.append(Note(text=f"{len(pruned)} trials were pruned, after {epochs} of {whole} epochs."))
    if missed:
        blocks.append(Note(text=f"{len(missed)} complete trials miss a constraint: {', '.join(missed)}."))
    return blocks


def _reason(text: str) -> str:
    return cut(public_text(text), LONGEST) or UNTOLD


def cost_section(evidence: Evidence) -> Section:
    """Time of the search by state; the confirmation is known by its runs."""
    rows = evidence.result.rows
    lines: list[tuple[Cell, ...]] = []
    total = sum(row.device_seconds for row in rows)
    for state in ("complete", "pruned", "failed", "running"):
        part = [row for row in rows if row.state == state]
        if part:
            seconds = sum(row.device_seconds for row in part)
            lines.append(
                (
                    word(state),
                    count(len(part)),
                    count(sum(row.epochs for row in part)),
                    count(sum(row.images for row in part)),
                    Cell(text=duration(seconds), value=round(seconds, 1)),
                    share(seconds / total if total else float("nan")),
                )
            )
    gpu_hours = sum(row.gpu_seconds for row in rows) / 3600
    table = Table(
        name="cost",
        caption="What the search cost, by how its trials ended",
        columns=("state", "trials", "epochs", "training images", "device time", "share"),
        rows=tuple(lines),
        note="Device time counts each GPU of a run, or each worker where there is none; in the CSV file in seconds.",
    )
    confirmed = [record for record in evidence.ledgered.records if record.kind == "train"]
    clock = (
        f" The search ran for {duration(3600 * evidence.ledgered.hours)} by the clock."
        if evidence.ledgered.hours
        else ""
    )
    more = f"Confirmation trained {len(confirmed)} more runs of up to {evidence.config.train.epochs} epochs."
    note = Note(text=(more if confirmed else "Nothing was trained for confirmation.") + clock)
    finding = f"The search took {duration(total)} of device time"
    finding += f", {gpu_hours:.2f} GPU hours." if gpu_hours else ", no GPU."
    blocks: tuple[Block, ...] = (
        (table, note)
        if lines
        else (Note(text="No trial has run.", kind="missing", command=evidence.command("resume")),)
    )
    return Section(key="cost", title="Cost", finding=finding if lines else "Nothing was spent yet.", blocks=blocks)
