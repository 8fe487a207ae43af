"""Inside the network: its features as a flat picture, and where it looks. Validation images alone; no ids."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from study.data.shards import PreparedDataset
from study.errors import StudyError
from study.explain.features import Embedding, embed
from study.explain.looking import AttentionSummary, looks, summarise
from study.explain.opening import OpenRun, open_run
from study.explain.panels import panel_rows, panels_of, panels_png
from study.failures import public_text
from study.report.page.cells import between, count, share, word
from study.report.page.drawing import COLOURS, FAINT, picture
from study.report.page.evidence import UNKNOWN, Arm, Evidence
from study.report.page.parts import Block, Note, Picture, Pictures, Section, Table

MOST_POINTS: Final = 600
LEAST_POINTS: Final = 60
MOST_PIXELS: Final = 150e6  # of all images that a network sees for the report: minutes without a GPU
SHOWN_IMAGES: Final = 6
MOST_NAMES: Final = 7
QUICK: Final = "Left out: the report was asked for without running networks."


def inside_sections(evidence: Evidence, *, quick: bool = False) -> list[Section]:
    """Both sections; ``quick`` runs no network and says so."""
    if quick:
        command = evidence.command("report")
        return [
            _missing("features", "Features", QUICK, command=command),
            _missing("looks", "Where it looks", QUICK, command=command),
        ]
    runs: list[OpenRun] = []
    reason = "no configuration is trained yet"
    for arm in (evidence.chosen, evidence.baseline):
        try:
            runs += [_open(evidence, arm)] if arm is not None else []
        except StudyError as error:
            reason = public_text(error.message)
            if not runs:
                break
    if not runs:
        text = f"No trained network can be opened here: {reason}."
        command = evidence.command("resume")
        return [
            _missing("features", "Features", text, command=command),
            _missing("looks", "Where it looks", text, command=command),
        ]
    return [_guarded(_features_section, runs, "features"), _guarded(_looks_section, runs, "looks")]


def _guarded(make, runs: list[OpenRun], key: str) -> Section:  # type: ignore[no-untyped-def]
    title = {"features": "Features", "looks": "Where it looks"}[key]
    try:
        found: Section = make(runs)
    except StudyError as error:
        return _missing(key, title, f"{public_text(error.message)}.", command="")
    return found


def _missing(key: str, title: str, text: str, *, command: str) -> Section:
    note = Note(text=text, kind="missing", command=command)
    return Section(key=key, title=title, finding="There is nothing to draw here.", blocks=(note,))


def _open(evidence: Evidence, arm: Arm) -> OpenRun:
    """The first seed of a configuration."""
    own = next((row for row in evidence.result.rows if row.trial == arm.trial), None)
    row = evidence.confirmed(arm.trial) or own
    assert row is not None  # noqa: S101 - an arm is one of the two
    fold = own.runs[0].fold if own is not None and own.runs and row is own else 0
    return open_run(
        evidence.directory,
        evidence.config,
        arm.trial,
        seed=row.seeds[0],
        fold=fold,
        params=arm.params,
        fingerprint=evidence.ledgered.fingerprint,
    )


def _some(dataset: PreparedDataset, *, most: int) -> NDArray[np.int64]:
    """Rows of validation, spread evenly when there are too many, or too large ones."""
    rows_n = dataset.rows("val")
    affordable = max(LEAST_POINTS, int(MOST_PIXELS / (dataset.image_hw[0] * dataset.image_hw[1])))
    size = min(most, affordable, len(rows_n))
    return rows_n[np.linspace(0, len(rows_n) - 1, size).round().astype(np.int64)] if size else rows_n


def _features_section(runs: list[OpenRun]) -> Section:
    run = runs[0]
    embedding = embed(run, _some(run.dataset, most=MOST_POINTS))
    labels_n = run.dataset.labels_n[embedding.rows_n]
    classes = np.array([*run.dataset.classes, "no label"])[labels_n]
    pictures = [_scatter(embedding, classes, "class", order=run.dataset.classes)]
    for column in ("view", "source"):
        if column in run.dataset.manifest:
            values = run.dataset.manifest[column].iloc[embedding.rows_n]
            names = values.astype("str").where(values.notna(), UNKNOWN).to_numpy(dtype=str)
            pictures.append(_scatter(embedding, names, column, order=sorted(set(names))))
    text = (
        f"t-SNE (perplexity {embedding.perplexity:g}) of what the head sees, {len(labels_n)} validation images, "
        f"{run.title}. "
        f"Classes should lie apart; where views or sources lie apart, the network tells them apart as well. "
        "Distances between groups mean nothing."
    )
    finding = f"The features of {len(labels_n)} validation images, coloured three ways."
    blocks: tuple[Block, ...] = (Pictures(pictures=tuple(pictures)), Note(text=text))
    return Section(key="features", title="Features", finding=finding, blocks=blocks)


def _scatter(embedding: Embedding, names_n: NDArray[np.str_], title: str, *, order: Sequence[str]) -> Picture:
    sizes = {name: int((names_n == name).sum()) for name in order}
    shown = [name for name in order if sizes[name]][:MOST_NAMES]

    def draw(axes: Axes) -> None:
        others_n = ~np.isin(names_n, shown)
        if others_n.any():
            axes.scatter(*_xy(embedding, others_n), s=9, color=FAINT, label=f"others {int(others_n.sum())}")
        for place, name in enumerate(shown):
            axes.scatter(
                *_xy(embedding, names_n == name),
                s=11,
                alpha=0.8,
                linewidths=0,
                color=COLOURS[place],
                label=f"{name} {sizes[name]}",
            )
        axes.set(title=f"by {title}", xticks=[], yticks=[])
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, markerscale=1.6, handletextpad=0.1)
        axes.grid(visible=False)

    return picture(
        f"features-{title}",
        draw,
        caption=f"Images by {title}.",
        alt=f"Scatter plot of features by {title}: {', '.join(shown)}",
        size=(4.2, 3.9),
    )


def _xy(embedding: Embedding, part_n: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points = embedding.points_n2[part_n]
    return points[:, 0], points[:, 1]


def _looks_section(runs: list[OpenRun]) -> Section:
    first = runs[0]
    classes = first.head()[2]
    labels_n = first.dataset.labels_n
    shown = panel_rows(first.dataset, first.dataset.rows("val"), count=SHOWN_IMAGES, labels_n=labels_n)
    if not shown:
        return _missing("looks", "Where it looks", "No validation image has a label.", command="")
    counted = _some(first.dataset, most=MOST_POINTS // 3).tolist()
    numbers = [(run, summarise(looks(run, counted), classes=classes)) for run in runs]
    panels = [(run.title, panels_of(run, shown)) for run in runs]
    pictures = []
    for place in range(len(shown)):
        of_image = [(title, [found[place]]) for title, found in panels]
        truth = panels[0][1][place].truth
        pictures.append(
            Picture(
                name=f"look-{place + 1}",
                caption=f"A {classes[truth]} image; {' above '.join(title for title, _ in panels)}.",
                alt=f"Grad-CAM++ of each class on a {classes[truth]} image",
                png=panels_png(of_image, classes=classes, dpi=130, form="jpeg", column_in=1.3),
                least_px=440,
            )
        )
    text = (
        "Grad-CAM++ from the last convolutional layer, one map per class, each scaled to its own largest value; the "
        "prepared picture in the geometry of the original. Lesions are boxes, where they are known."
    )
    blocks: tuple[Block, ...] = (Pictures(pictures=tuple(pictures)), Note(text=text), _numbers_table(numbers))
    return Section(key="looks", title="Where it looks", finding=_looks_finding(numbers[0][1]), blocks=blocks)


def _looks_finding(summaries: Sequence[AttentionSummary]) -> str:
    known = [(each.inside, each.num_images) for each in summaries if each.num_images]
    if not known:
        return "Whether it looks at the breast cannot be told: no breast was found in these pictures."
    mean = sum(inside * images for inside, images in known) / sum(images for _, images in known)
    hits, boxed = sum(each.hits for each in summaries), sum(each.num_boxed for each in summaries)
    text = f"{mean:.0%} of the attribution lies inside the breast"
    return f"{text}; the highest place lies in a lesion in {hits} of {boxed} images." if boxed else f"{text}."


def _numbers_table(numbers: Sequence[tuple[OpenRun, Sequence[AttentionSummary]]]) -> Table:
    rows = tuple(
        (
            word(run.title),
            word(each.name),
            count(each.num_images),
            share(each.inside),
            word(f"{each.hits} of {each.num_boxed}" if each.num_boxed else ""),
            share(each.hit_rate),
            between(each.low, each.high),
        )
        for run, summaries in numbers
        for each in summaries
    )
    return Table(
        name="attention",
        caption="Maps of the true class on validation images",
        columns=("run", "class", "images", "inside the breast", "peaks in a lesion", "rate", "95 % CI"),
        rows=rows,
        words=(0, 1, 4),
        note="Mean share of the map's sum inside the breast; peaks count images with known lesions alone (Wilson's "
        "interval).",
    )
