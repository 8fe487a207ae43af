"""The data: counts by source and split, the flow of exclusions, what the images are. Counts alone, never an id."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import pandas as pd

from study.data.manifest import usable_rows
from study.data.summary import SPLITS, ManifestSummary, describe_manifest
from study.failures import public_text
from study.report.page.cells import count, share, word
from study.report.page.evidence import Data, Evidence
from study.report.page.parts import Block, Cell, Flow, FlowStep, Note, Section, Table
from study.report.words import and_list

TOP_REASONS: Final = 8


def data_section(evidence: Evidence) -> Section:
    """Who was in the study, and who was not and why."""
    data = evidence.data
    if data.dataset is None or data.manifest is None:
        note = Note(
            text=f"The prepared dataset is not at hand: {data.fault}.", kind="missing", command=_prepare(evidence)
        )
        return Section(key="data", title="Data", finding="The data cannot be described here.", blocks=(note,))
    tasks = data.dataset.tasks if len(data.dataset.tasks) > 1 else None
    summary = describe_manifest(data.manifest, data.dataset.classes, tasks=tasks)
    blocks: list[Block] = [_flow(data, data.manifest, evidence), _counts(summary, data)]
    blocks += [_facts(summary)] if len(summary.facts) else []
    if tasks is not None:
        blocks.append(_tasks(summary))
    blocks.append(_exclusions(data, data.manifest))
    blocks += [Note(text=text, kind="warning") for text in summary.warnings]
    used = data.manifest[usable_rows(data.manifest)]
    patients, sources = used["patient_id"].nunique(), used["source"].nunique()
    finding = (
        f"{len(used):,} images of {patients:,} patients from {sources} {'source' if sources == 1 else 'sources'}; "
        "no patient is on two sides of a split."
    )
    return Section(key="data", title="Data", finding=finding, blocks=tuple(blocks))


def _prepare(evidence: Evidence) -> str:
    return f"{evidence.program} prepare {evidence.directory / 'study.yaml'}"


def _flow(data: Data, manifest: pd.DataFrame, evidence: Evidence) -> Flow:
    """From all images of the sources to those that were evaluated."""
    is_used = usable_rows(manifest)
    dropped = manifest.loc[~is_used, "drop_reason"]
    used = manifest[is_used]
    steps = [
        FlowStep(title="Images in the sources", detail=_sizes(manifest), leaving=_reasons(dropped)),
        FlowStep(title="Prepared and labelled", detail=_sizes(used)),
    ]
    parts = [(split, used[used["split"] == split]) for split in SPLITS]
    split_text = "; ".join(
        f"{split} {len(rows):,} ({rows['patient_id'].nunique():,} patients)" for split, rows in parts
    )
    steps.append(FlowStep(title="Split by patient", detail=split_text))
    read = max((len(fold.labels_n) for arm in evidence.arms for fold in arm.test.values()), default=0)
    detail = f"{read:,} images" if read else "not read: nothing was confirmed"
    steps.append(FlowStep(title="Evaluated on test", detail=detail))
    return Flow(steps=tuple(steps))


def _sizes(rows: pd.DataFrame) -> str:
    return f"{len(rows):,} images, {rows['patient_id'].nunique():,} patients"


def _reasons(reasons: "pd.Series[str]") -> tuple[tuple[str, int], ...]:
    sizes = reasons.map(public_text).value_counts()
    found = [(str(reason), int(images)) for reason, images in sizes.iloc[:TOP_REASONS].items()]
    rest = int(sizes.iloc[TOP_REASONS:].sum())
    return (*found, *([(f"{len(sizes) - TOP_REASONS} other reasons", rest)] if rest else []))


def _counts(summary: ManifestSummary, data: Data) -> Table:
    classes = data.dataset.classes if data.dataset is not None else ()
    has_unlabelled = bool(summary.counts["unlabelled"].sum())
    columns = ["patients", "images", *classes, *(["unlabelled"] if has_unlabelled else [])]
    rows = [_counts_row(line, columns) for line in summary.counts.to_dict("records")]
    totals = summary.counts.groupby("split", sort=False)[columns].sum().reset_index()
    rows += [_counts_row({"source": "all", **line}, columns, bold=True) for line in totals.to_dict("records")]
    return Table(
        name="data",
        caption="Patients and images by source, split and class",
        columns=("source", "split", *columns),
        rows=tuple(rows),
        words=(0, 1),
    )


def _counts_row(line: Mapping[Any, Any], columns: Iterable[str], *, bold: bool = False) -> tuple[Cell, ...]:
    numbers = [Cell(text=f"{int(str(line[name])):,}", value=int(str(line[name])), bold=bold) for name in columns]
    return (word(line["source"]), word(line["split"]), *numbers)


def _facts(summary: ManifestSummary) -> Table:
    sizes = summary.facts.groupby("source")["images"].transform("sum")
    totals = summary.facts.groupby(["source", "fact"])["images"].transform("sum")
    known = summary.facts[sizes > 0].assign(total=totals)
    lines = []
    for (source, fact), rows in known.groupby(["source", "fact"], sort=False):
        if list(rows["value"].astype(str)) == ["unknown"]:
            continue
        text = ", ".join(f"{row['value']} {row['images'] / row['total']:.0%}" for row in rows.to_dict("records")[:8])
        lines.append((word(source), word(fact), word(text)))
    return Table(
        name="images",
        caption="What the images are",
        columns=("source", "fact", "shares"),
        rows=tuple(lines),
        words=(0, 1, 2),
    )


def _tasks(summary: ManifestSummary) -> Table:
    rows = tuple(
        (word(line["task"]), word(line["class"]), *(count(line[split]) for split in SPLITS))
        for line in summary.tasks.to_dict("records")
    )
    return Table(
        name="tasks",
        caption="Images with a label, by task",
        columns=("task", "class", *SPLITS),
        rows=rows,
        words=(0, 1),
    )


def _exclusions(data: Data, manifest: pd.DataFrame) -> Table | Note:
    """Every reason with its count; files in quarantine are among those that were dropped."""
    dropped = manifest[~usable_rows(manifest)]
    held = 0 if data.quarantine is None else len(data.quarantine)
    if dropped.empty:
        return Note(
            text=f"Nothing was excluded: every image was readable and had a label. Files in quarantine: {held}."
        )
    dropped = dropped.assign(drop_reason=dropped["drop_reason"].map(public_text))
    sizes = dropped.groupby(["source", "drop_reason"], sort=False).size().reset_index(name="images")
    totals = manifest.groupby("source").size()
    rows = tuple(
        (
            word(line["source"]),
            word(line["drop_reason"]),
            count(line["images"]),
            share(line["images"] / totals[line["source"]]),
        )
        for line in sizes.sort_values("images", ascending=False).to_dict("records")
    )
    return Table(
        name="exclusions",
        caption="Images that were left out, and why",
        columns=("source", "reason", "images", "of its source"),
        rows=rows,
        words=(0, 1),
        note=f"{and_list([f'{held} files'])} could not be read or decoded and lie in quarantine." if held else "",
    )
