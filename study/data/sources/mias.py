"""The mini-MIAS films: as published (`Info.txt` beside PGM pictures), or as a `labels.csv` beside an image folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from study.data.files import is_file, join, list_files, read_bytes, shown
from study.data.manifest import finish_manifest
from study.data.sources.boxes import Box, circle_box, lesion_text
from study.data.sources.cells import parts_of, read_text_table, take
from study.errors import InputError

LABELS_FILE: Final = "labels.csv"
LESIONS_FILE: Final = "lesions.csv"
INFO_FILE: Final = "Info.txt"
COLUMNS: Final = {
    "image_id": "image_id",
    "patient_id": "patient_id",
    "laterality": "laterality",
    "label": "label3",
    "path": "path",
}
CIRCLE: Final = ("x", "y", "r")
SIDE_PX: Final = 1024  # height and width of every published film
FILM: Final = re.compile(
    r"(?P<film>mdb(?P<number>\d{3})) +[FGD] +"
    r"(?:NORM|(?:CALC|CIRC|SPIC|MISC|ARCH|ASYM) +(?P<severity>[BM])"
    r"(?: +(?P<x>\d+) +(?P<y>\d+) +(?P<radius>\d+)| +\*NOTE 3\*)?)"
)
EXPECTED: Final = "a row such as 'mdb001 G CIRC B 535 425 197' or 'mdb003 D NORM'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of `Info.txt`; ``severity`` is empty for a normal film, ``box`` None where the row has no circle."""

    film: str
    number: int
    severity: str
    box: Box | None


def read_mias(root: str | Path, *, name: str = "mias") -> pd.DataFrame:
    """Read digitised films: all MLO, one image per breast, label normal, benign or malignant.

    `labels.csv` is read where there is one, and `Info.txt` with the PGM files below the root otherwise. A film with
    several lesions is one row with the worst label. The tissue letters F, G and D (fatty, glandular, dense) are not ACR
    classes, so ``density`` stays missing.
    Source: Suckling et al., The Mammographic Image Analysis Society digital mammogram database, 1994.

    Raises:
        InputError: there is no table, it lacks a column, or it holds a value or row of an unknown form.
    """
    if is_file(join(root, LABELS_FILE)):
        films = _labelled(root)
    elif is_file(join(root, INFO_FILE)):
        films = _published(root)
    else:
        raise InputError(
            f"no table at {shown(root)}; expected {LABELS_FILE} or {INFO_FILE}", "check the root of this source"
        )
    return finish_manifest(films.assign(view="MLO", image_kind="film"), source=name)


def _labelled(root: str | Path) -> pd.DataFrame:
    """Films of `labels.csv`; circles from `lesions.csv`, in px of the picture with the origin at the top left."""
    table = join(root, LABELS_FILE)
    frame = read_text_table(table)
    counted = {"n_lesions": "n_findings"} if "n_lesions" in frame else {}
    films = take(frame, {**COLUMNS, **counted}, table=table)
    films["path"] = [join(root, path) for path in films["path"]]
    if is_file(join(root, LESIONS_FILE)):
        boxes = _circles(join(root, LESIONS_FILE), films)
        films["lesions"] = [lesion_text(boxes.get(film, [])) for film in films["image_id"]]
    return films


def _circles(table: str, films: pd.DataFrame) -> dict[str, list[Box]]:
    """Bounding boxes of each film's circles; a lesion without coordinates has none."""
    frame = read_text_table(table)
    known = set(films["image_id"])
    circles = take(frame, {"image_id": "image_id", **{edge: edge for edge in CIRCLE}}, table=table)
    boxes: dict[str, list[Box]] = {}
    for row, (film, *texts) in enumerate(circles.itertuples(index=False), start=1):
        if film not in known:
            raise InputError(
                f"{shown(table)}: column image_id, data row {row}: no such film in {LABELS_FILE}; expected one of its "
                "films",
                f"correct the cell, or add the film to {LABELS_FILE}",
            )
        if not any(texts):
            continue
        try:
            x, y, radius = (float(text) for text in texts)
        except ValueError:
            raise InputError(
                f"{shown(table)}: data row {row}: a circle in part; expected numbers in x, y and r, or three empty "
                "cells",
                "correct the row",
            ) from None
        boxes.setdefault(film, []).append(circle_box(x, y, radius=radius))
    return boxes


def _published(root: str | Path) -> pd.DataFrame:
    """Films of `Info.txt`, each once; one without a picture is dropped."""
    table = join(root, INFO_FILE)
    findings = _read_info(table)
    pictures = {parts_of(path)[-1][:-4]: path for path in list_files(root, suffixes=(".pgm",))}
    rows = [_film_row(rows, pictures, table=table) for rows in findings.values()]
    return pd.DataFrame(rows)


def _read_info(table: str) -> dict[str, list[Finding]]:
    """Rows of each film, after a header of free text."""
    findings: dict[str, list[Finding]] = {}
    lines = [" ".join(line.split()) for line in read_bytes(table).decode("latin-1").splitlines()]
    rows = [line for line in lines if re.match(r"mdb\d", line)]
    for number, line in enumerate(rows, start=1):
        match = FILM.fullmatch(line)
        if match is None:
            raise InputError(
                f"{shown(table)}: data row {number}: {line[7:40]!r} after the film; expected {EXPECTED}",
                "use the published list",
            )
        finding = _finding(match)
        findings.setdefault(finding.film, []).append(finding)
    if not findings:
        raise InputError(f"{shown(table)} lists no films", f"give the published {INFO_FILE}")
    return findings


def _finding(match: re.Match[str]) -> Finding:
    """``y`` counts from the bottom of the film."""
    box = None
    if match["x"]:
        box = circle_box(float(match["x"]), SIDE_PX - float(match["y"]), radius=float(match["radius"]))
    return Finding(film=match["film"], number=int(match["number"]), severity=match["severity"] or "", box=box)


def _film_row(findings: list[Finding], pictures: Mapping[str, str], *, table: str) -> dict[str, object]:
    first = findings[0]
    lesions = [finding for finding in findings if finding.severity]
    if 0 < len(lesions) < len(findings):
        raise InputError(
            f"{shown(table)}: a film has a row NORM and a row with a lesion", "keep the rows that are right"
        )
    severities = {lesion.severity for lesion in lesions}
    return {
        "image_id": first.film,
        "patient_id": f"mias{(first.number + 1) // 2:03d}",  # films come in pairs: the right breast, then the left
        "laterality": "R" if first.number % 2 else "L",
        "label3": "malignant" if "M" in severities else "benign" if severities else "normal",
        "n_findings": len(lesions),
        "lesions": lesion_text((lesion.box for lesion in lesions if lesion.box), size_hw=(SIDE_PX, SIDE_PX)),
        "rows": SIDE_PX,
        "cols": SIDE_PX,
        "path": pictures.get(first.film),
        "drop_reason": "" if first.film in pictures else "no picture of this film below the root",
    }
