"""What a report is made of: sections with findings, tables, pictures and notes; plain records without any layout."""

from dataclasses import dataclass, field
from typing import Literal

Number = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One field of a table: ``text`` is what people read, ``value`` what the CSV file gets (the text when None)."""

    text: str
    value: Number | str | None = None
    bold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with as many columns in every row; ``name`` is the stem of its CSV and LaTeX files.

    Columns whose number stands in ``words`` hold words and stand left; the others hold numbers.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: tuple[int, ...] = (0,)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure: ``name`` is the stem of its PNG and SVG files; ``alt`` says in words what is to be seen.

    Photographs have no ``svg``. A ``wide`` picture takes the whole width of the page; one that would be too small on a
    phone is shown at least ``least_px`` wide, to be moved sideways.
    """

    name: str
    caption: str
    alt: str
    png: bytes
    svg: bytes = b""
    wide: bool = False
    least_px: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Figures that stand side by side where there is room."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A paragraph. ``missing`` says what is not there and ``command`` how to get it; a ``warning`` is important."""

    text: str
    kind: Literal["plain", "missing", "warning"] = "plain"
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Text that keeps its lines (a file, commands); folded away under ``title`` when ``folded``."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Steps from all images to those that were evaluated: what was there, and below it what left and why."""

    steps: tuple["FlowStep", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStep:
    """One box of a flow, with the counts that leave after it, each with its reason."""

    title: str
    detail: str
    leaving: tuple[tuple[str, int], ...] = ()


Block = Table | Pictures | Note | Listing | Flow


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report: ``finding`` is its one-sentence result."""

    key: str
    title: str
    finding: str
    blocks: tuple[Block, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One number at the head of the page."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole report. ``banner`` is for studies that are not done; empty otherwise."""

    title: str
    subtitle: str
    banner: str
    answer: str
    caveat: str
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    footer: str
