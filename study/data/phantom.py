"""Made-up screening sites, written as valid DICOM: for demonstrations and tests, on any machine, in seconds.

Every patient has four images (left and right, CC and MLO). The class of a breast shows in the shape of its lesions
alone: none (normal), round masses and coarse calcifications (benign), spiculated masses and fine irregular clusters
(malignant). With grades, lesions grow clearer, larger and more ragged from grade to grade instead, and readers err.
Everything follows from the settings, so two machines write the same pixels.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from study.data.manifest import CLASSES3, finish_manifest
from study.data.phantom_file import VENDORS, phantom_file, uid
from study.data.phantom_grades import CLASS_OF_GRADE, GRADES, check_grades, graded
from study.errors import InputError

LABELS_FILE: Final = "labels.csv"
SETTINGS_FILE: Final = "phantom.json"
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
DENSITIES: Final = ("A", "B", "C", "D")
DENSITY_SHARES: Final = (0.1, 0.4, 0.4, 0.1)
SAME_BOTH_SIDES: Final = 0.4  # left and right differ in 40 % of VinDr exams, but a site of that kind has few lesions
SINCE: Final = ("grades", "reader_noise", "look")  # settings that the first sites did not have
LABEL_COLUMNS: Final = (
    "path",
    "image_id",
    "patient_id",
    "study_id",
    "series_id",
    "laterality",
    "view",
    "label3",
    "birads",
    "density",
    "age",
    "manufacturer",
    "model",
    "rows",
    "cols",
    "bits_stored",
    "photometric",
    "transfer_syntax",
    "image_kind",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSettings:
    """One made-up site.

    ``shares`` are the shares of breasts (so also of images) per class; each class with a share has at least one
    patient. ``vendors`` share the patients evenly. ``rows`` and ``cols`` are the size of an image in px.

    ``grades`` are the shares of breasts of each grade 1 to 6, in the place of ``shares``; ``reader_noise`` is the share
    of breasts whose label and assessment are one grade off, while picture and biopsy are not. ``look`` is the site
    whose contrast and texture the pictures have, another one than ``name`` for other patients of the same site.
    """

    name: str
    patients: int
    seed: int = 0
    vendors: tuple[str, ...] = ("Alpha", "Beta")
    shares: Mapping[str, float] = field(default_factory=lambda: {"normal": 0.5, "benign": 0.3, "malignant": 0.2})
    rows: int = 512
    cols: int = 416
    grades: tuple[float, ...] | None = None
    reader_noise: float = 0.0
    look: str | None = None

    def __post_init__(self) -> None:
        """Check everything before the first file is written."""
        for key, name in (("name", self.name), ("look", self.look)):
            if name is not None and not NAME.fullmatch(name):
                raise InputError(f"phantom {key} {name!r}; expected 1 to 32 letters, digits, '_' or '-'")
        for vendor in self.vendors or ("",):
            if vendor not in VENDORS:
                near = get_close_matches(vendor, VENDORS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InputError(f"phantom vendor {vendor!r}; expected some of {', '.join(VENDORS)}{hint}")
        _check_shares(self.shares)
        check_grades(self.grades, self.reader_noise)
        needed = sum(share > 0 for share in (self.grades or self.shares.values()))
        if self.patients < needed:
            raise InputError(f"phantom {self.name!r} has {self.patients} patients; expected at least {needed}")
        if min(self.rows, self.cols) < 64 or max(self.rows, self.cols) > 8192:
            raise InputError(f"phantom size is {self.rows} x {self.cols} px; expected 64 to 8192")

    def as_values(self) -> dict[str, Any]:
        """The settings as plain values, without those of `SINCE` that say nothing: older sites stay what they are."""
        values = {**asdict(self), "vendors": list(self.vendors), "shares": dict(self.shares)}
        return {key: value for key, value in values.items() if key not in SINCE or value}

    def as_json(self) -> dict[str, Any]:
        """The settings as `phantom.json` holds them."""
        return {"format": 1, **self.as_values()}


def phantom_manifest(settings: PhantomSettings, root: str | Path | None = None) -> pd.DataFrame:
    """The manifest of a site, without drawing a pixel; ``path`` is relative unless the root is given."""
    frame = _drawn_table(settings)[_columns(settings)]
    frame = frame.assign(raw_view=frame["view"], raw_birads=frame["birads"].astype("str"))
    if root is not None:
        frame["path"] = [str(Path(root).absolute() / path) for path in frame["path"]]
    return finish_manifest(frame, source=settings.name)


def write_phantom(root: str | Path, settings: PhantomSettings, *, progress: Callable[[int], None] | None = None) -> int:
    """Write the images that are missing under ``root`` and the label table; returns how many were written.

    Every file appears whole or not at all, and two processes may write the same site at the same time: they write the
    same bytes. ``progress`` is called with the number of images looked at so far.

    Raises:
        InputError: ``root`` holds a site with other settings, or a label table that is not a phantom's.
    """
    folder = Path(root)
    _claim(folder, settings)
    table = _drawn_table(settings)
    written = 0
    for number, row in enumerate(table.to_dict("records"), start=1):
        path = folder / row["path"]
        if not path.exists():
            _write_whole(path, _image_file(settings, row))
            written += 1
        if progress is not None:
            progress(number)
    _write_whole(folder / LABELS_FILE, table[_columns(settings)].to_csv(index=False).encode())
    return written


def _seed(settings: PhantomSettings, *parts: str) -> int:
    """A 64-bit seed for one purpose, from the site's seed and name; nothing else is random."""
    text = json.dumps([settings.seed, settings.name, *parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _image_file(settings: PhantomSettings, row: Mapping[Hashable, Any]) -> bytes:
    breast = f"{row['patient_id']} {row['laterality']}"
    seeds = {"image_seed": _seed(settings, "image", row["image_id"]), "breast_seed": _seed(settings, "breast", breast)}
    return phantom_file({str(key): value for key, value in row.items()}, **seeds, site=settings.look or settings.name)


def _check_shares(shares: Mapping[str, float]) -> None:
    unknown = sorted(set(shares) - set(CLASSES3))
    if unknown or not shares:
        raise InputError(f"phantom shares name {unknown}; expected {', '.join(CLASSES3)}")
    values = list(shares.values())
    if min(values) < 0 or abs(sum(values) - 1) > 1e-6:
        raise InputError(f"phantom shares are {dict(shares)}; expected shares from 0 that add up to 1")


def _quotas(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to the total: largest remainders, but at least one for each share above 0."""
    present = [place for place, share in enumerate(shares) if share > 0]
    counts = [max(1, int(share * total)) if share > 0 else 0 for share in shares]
    while sum(counts) < total:
        counts[max(present, key=lambda place: shares[place] * total - counts[place])] += 1
    while sum(counts) > total:
        spare = [place for place in present if counts[place] > 1]
        counts[max(spare, key=lambda place: counts[place] - shares[place] * total)] -= 1
    return counts


def _both_sides(settings: PhantomSettings, shares: Sequence[float]) -> list[tuple[int, int]]:
    """Place among the shares of each patient's left and right breast: shares exact, sides alike in some patients."""
    counts = _quotas(shares, settings.patients)
    rng = np.random.default_rng(_seed(settings, "classes"))
    left = rng.permutation(np.repeat(np.arange(len(shares)), counts))
    right = left.copy()
    mixed = np.flatnonzero(rng.random(settings.patients) >= SAME_BOTH_SIDES)
    right[mixed] = right[rng.permutation(mixed)]
    return [(int(one), int(two)) for one, two in zip(left, right, strict=True)]


def _findings(settings: PhantomSettings, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """What is known of each breast, left and right by turns; ``rng`` draws the assessment where there are no grades.

    It is drawn when it is asked for, between the patients' other properties.
    """
    if settings.grades is None:
        sides = _both_sides(settings, [settings.shares.get(name, 0.0) for name in CLASSES3])
        for place in chain.from_iterable(sides):
            yield {"label3": CLASSES3[place], "birads": _birads(CLASSES3[place], rng)}
        return
    true = [GRADES[place] for place in chain.from_iterable(_both_sides(settings, settings.grades))]
    for breast in graded(true, settings.reader_noise, np.random.default_rng(_seed(settings, "readers"))):
        proven = "malignant" if CLASS_OF_GRADE[breast.true] == "malignant" else "benign"
        read = {"label3": CLASS_OF_GRADE[breast.read], "birads": breast.read}
        yield {**read, "biopsy": proven, "severity": breast.severity}


def _columns(settings: PhantomSettings) -> list[str]:
    """Columns of `labels.csv`: what is known of an image, not what it was drawn from."""
    return [*LABEL_COLUMNS, *(("biopsy",) if settings.grades else ())]


def _drawn_table(settings: PhantomSettings) -> pd.DataFrame:
    """All rows of `labels.csv`, patient by patient; with grades also the severity that each picture shows."""
    rng = np.random.default_rng(_seed(settings, "patients"))
    findings = _findings(settings, rng)
    rows: list[dict[str, Any]] = []
    for number in range(1, settings.patients + 1):
        patient = f"{settings.name}-p{number:04d}"
        shared = {
            "patient_id": patient,
            "study_id": uid("exam", settings.seed, patient),
            "density": str(rng.choice(DENSITIES, p=DENSITY_SHARES)),
            "age": int(rng.integers(35, 86)),
            **_vendor_columns(settings.vendors[(number - 1) % len(settings.vendors)]),
            "rows": settings.rows,
            "cols": settings.cols,
        }
        for side in ("L", "R"):
            found = next(findings)
            rows += [{**shared, **_image_columns(settings, patient, side + view), **found} for view in ("CC", "MLO")]
    return pd.DataFrame(rows)


def _vendor_columns(name: str) -> dict[str, Any]:
    vendor = VENDORS[name]
    return {
        "manufacturer": name,
        "model": vendor.model,
        "bits_stored": vendor.bits,
        "photometric": vendor.photometric,
        "transfer_syntax": vendor.transfer_syntax,
        "image_kind": "FFDM",
    }


def _image_columns(settings: PhantomSettings, patient: str, shot: str) -> dict[str, str]:
    stem = f"{patient}-{shot}"
    return {
        "path": f"images/{stem}.dcm",
        "image_id": stem,
        "series_id": uid("series", settings.seed, stem),
        "laterality": shot[0],
        "view": shot[1:],
    }


def _birads(label: str, rng: np.random.Generator) -> int:
    """BI-RADS assessment that goes with a class: 1, 2, or 4 and 5."""
    malignant = int(rng.choice((4, 5), p=(0.6, 0.4)))
    return {"normal": 1, "benign": 2, "malignant": malignant}[label]


def _claim(folder: Path, settings: PhantomSettings) -> None:
    """Mark the folder as this site's; refuse a folder that is another's."""
    marker = folder / SETTINGS_FILE
    if not marker.exists():
        if (folder / LABELS_FILE).exists():
            raise InputError(f"{folder} holds a {LABELS_FILE} that is not a phantom's", "give the phantom another root")
        _write_whole(marker, json.dumps(settings.as_json(), indent=1).encode(), replace=False)
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{marker} is not readable JSON", "delete the folder, it will be written again") from None
    wanted = json.loads(json.dumps(settings.as_json()))
    if found != wanted:
        names = sorted(key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key])
        raise InputError(f"{folder} holds a phantom with other settings ({', '.join(names)})", "give it another root")


def _write_whole(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write under a temporary name, then rename (or link, which leaves an existing file alone)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        if replace:
            Path(name).replace(path)
        elif not path.exists():
            _link_once(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def _link_once(part: Path, path: Path) -> None:
    """Give the file its name unless another process was first."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        return
    except OSError:
        part.replace(path)  # a file system without hard links
