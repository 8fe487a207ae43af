"""The records of ``data.sources``: one for each kind of data set."""

from typing import Annotated, Literal

from pydantic import Field

from study.config.fields import AsTuple, Distinct, NotEmpty, Seed, Share, ShortSlug, Slug, Text, Vendor
from study.config.record import Section


class SharesConfig(Section):
    """Share of each class among the phantom's breasts; together they make 1."""

    normal: Share = 0.5
    benign: Share = 0.3
    malignant: Share = 0.2


class PhantomSource(Section):
    """Synthetic patients; DICOM files that are missing are written. ``root`` null means beside ``data.prepared``."""

    kind: Literal["phantom"]
    name: ShortSlug
    patients: Annotated[int, Field(ge=1, le=100_000)]
    seed: Seed = 0
    root: Text | None = None
    vendors: Annotated[tuple[Vendor, ...], NotEmpty, AsTuple, Distinct] = ("Alpha", "Beta")
    shares: SharesConfig = Field(default_factory=SharesConfig)


class MiasSource(Section):
    """Mini-MIAS films: ``labels.csv`` with the pictures it names, or ``Info.txt`` with PGM files, below ``root``."""

    kind: Literal["mias"]
    name: Slug = "mias"
    root: Text


class VindrSource(Section):
    """VinDr-Mammo 1.0.0: the folder that holds ``images`` and the annotation tables."""

    kind: Literal["vindr"]
    name: Slug = "vindr"
    root: Text


class InbreastSource(Section):
    """INbreast: a folder somewhere above ``INbreast.csv`` and ``AllDICOMs``.

    ``fb_as_cc`` counts the one full-breast view as CC; ``blank_density`` is the density of the one blank ACR cell.
    """

    kind: Literal["inbreast"]
    name: Slug = "inbreast"
    root: Text
    fb_as_cc: bool = False
    blank_density: Literal["missing", "B"] = "missing"


class RsnaSource(Section):
    """RSNA screening mammography: the folder that holds ``train_images`` and the labelled ``table``."""

    kind: Literal["rsna"]
    name: Slug = "rsna"
    root: Text
    table: Text = "train.csv"
    known_defects: Literal["drop", "keep"] = "drop"


class TableSource(Section):
    """Image files listed in a CSV or Parquet ``table`` with the manifest's columns; paths are relative to ``root``."""

    kind: Literal["table"]
    name: Slug
    root: Text = "."
    table: Text


Source = Annotated[
    PhantomSource | VindrSource | InbreastSource | RsnaSource | MiasSource | TableSource, Field(discriminator="kind")
]
