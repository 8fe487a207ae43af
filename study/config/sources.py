"""The records of ``data.sources``: one for each kind of data set."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from study.config.fields import AsTuple, Distinct, NotEmpty, Seed, Share, ShortSlug, Slug, Text, Vendor, expected
from study.config.record import Section


def _as_patient_pattern(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise expected(f"a regular expression; {error}") from None
    if groups != 1:
        raise expected(f"one group around the patient in the file name, such as ([0-9]+)_; found {groups} groups")
    return text


Pixels = Annotated[int, Field(ge=64, le=8192)]
PatientPattern = Annotated[Text, AfterValidator(_as_patient_pattern)]


class FolderSource(Section):
    """A source whose files lie below its ``root``; ``allow_outside`` lets tables and links lead out of it."""

    allow_outside: bool = False


class SharesConfig(Section):
    """Share of each class among the phantom's breasts; together they make 1."""

    normal: Share = 0.5
    benign: Share = 0.3
    malignant: Share = 0.2


class PhantomSource(Section):
    """Synthetic patients; DICOM files that are missing are written. ``root`` null means beside ``data.prepared``.

    ``grades`` are the shares of the breasts of BI-RADS 1 to 6, in the place of ``shares``.
    """

    kind: Literal["phantom"]
    name: ShortSlug
    patients: Annotated[int, Field(ge=1, le=100_000)]
    seed: Seed = 0
    root: Text | None = None
    vendors: Annotated[tuple[Vendor, ...], NotEmpty, AsTuple, Distinct] = ("Alpha", "Beta")
    shares: SharesConfig = Field(default_factory=SharesConfig)
    rows: Pixels = 512
    cols: Pixels = 416
    grades: Annotated[tuple[Share, Share, Share, Share, Share, Share], AsTuple] | None = None
    reader_noise: Share = 0.0
    look: ShortSlug | None = None


class MiasSource(FolderSource):
    """Mini-MIAS films: ``labels.csv`` with the pictures it names, or ``Info.txt`` with PGM files, below ``root``."""

    kind: Literal["mias"]
    name: Slug = "mias"
    root: Text


class VindrSource(FolderSource):
    """VinDr-Mammo 1.0.0: the folder that holds ``images`` and the annotation tables."""

    kind: Literal["vindr"]
    name: Slug = "vindr"
    root: Text


class InbreastSource(FolderSource):
    """INbreast: a folder somewhere above ``INbreast.csv`` and ``AllDICOMs``.

    ``fb_as_cc`` counts the one full-breast view as CC; ``blank_density`` is the density of the one blank ACR cell.
    """

    kind: Literal["inbreast"]
    name: Slug = "inbreast"
    root: Text
    fb_as_cc: bool = False
    blank_density: Literal["missing", "B"] = "missing"


class RsnaSource(FolderSource):
    """RSNA screening mammography: the folder that holds ``train_images`` and the labelled ``table``."""

    kind: Literal["rsna"]
    name: Slug = "rsna"
    root: Text
    table: Text = "train.csv"
    known_defects: Literal["drop", "keep"] = "drop"


class EmbedSource(FolderSource):
    """EMBED open data: the folder that holds the folders ``tables`` and ``images``.

    The three switches also use synthetic 2D pictures (C-view), spot and magnified ones, and views besides CC and MLO.
    """

    kind: Literal["embed"]
    name: Slug = "embed"
    root: Text
    tables: Text = "tables"
    images: Text = "images"
    include_cview: bool = False
    include_spot_mag: bool = False
    include_other_views: bool = False


class CbisDdsmSource(FolderSource):
    """CBIS-DDSM: a folder somewhere above ``CBIS-DDSM``; the four case tables lie in ``tables`` below it, or in it."""

    kind: Literal["cbis_ddsm"]
    name: Slug = "cbis_ddsm"
    root: Text
    tables: Text = "tables"


class CmmdSource(FolderSource):
    """CMMD: a folder somewhere above the patients' folders; ``table`` is the clinical sheet if it is named otherwise.

    ``unlabelled``: breasts without a row in the sheet; ``known_defects``: patients with a wrong side or label.
    """

    kind: Literal["cmmd"]
    name: Slug = "cmmd"
    root: Text
    table: Text | None = None
    unlabelled: Literal["drop", "normal"] = "drop"
    known_defects: Literal["drop", "keep"] = "drop"


class ImageFolderSource(FolderSource):
    """PNG, JPEG and TIFF pictures in a folder per class; ``patient_pattern`` finds the patient in a file's name."""

    kind: Literal["image_folder"]
    name: Slug = "image_folder"
    root: Text
    patient_pattern: PatientPattern | None = None


class NpzSource(Section):
    """One array file in MedMNIST's layout; ``root`` is the file."""

    kind: Literal["npz"]
    name: Slug = "npz"
    root: Text


class TableSource(FolderSource):
    """Image files listed in a CSV or Parquet ``table`` with the manifest's columns; paths are relative to ``root``."""

    kind: Literal["table"]
    name: Slug
    root: Text = "."
    table: Text


Source = Annotated[
    PhantomSource
    | VindrSource
    | InbreastSource
    | EmbedSource
    | CbisDdsmSource
    | CmmdSource
    | RsnaSource
    | MiasSource
    | ImageFolderSource
    | NpzSource
    | TableSource,
    Field(discriminator="kind"),
]
