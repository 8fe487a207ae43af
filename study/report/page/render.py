"""From a page of plain records to one HTML file that needs nothing beside it, and to the files beside it."""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from study.report.page.cells import to_csv, to_latex
from study.report.page.parts import Block, Flow, Listing, Note, Page, Picture, Pictures, Table

FILE: Final = "report.html"
TABLES: Final = "tables"
FIGURES: Final = "figures"
LARGEST_SVG: Final = 120_000  # bytes; a figure of many marks is smaller as pixels
_MACROS: Final[dict[type[Any], str]] = {
    Table: "table",
    Pictures: "pictures",
    Note: "note",
    Listing: "listing",
    Flow: "flow",
}


def html_of(page: Page) -> str:
    """The page as HTML: styles and pictures inside, no script, nothing from elsewhere."""
    environment = Environment(
        loader=PackageLoader("study.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["source"] = _source
    macros = environment.get_template("blocks.html.j2").module
    css = environment.loader.get_source(environment, "page.css")[0] if environment.loader else ""

    def show(block: Block) -> Markup:
        return Markup(getattr(macros, _MACROS[type(block)])(block))  # noqa: S704 - made by the template above

    # Ours, and nothing of it comes from a study.
    return environment.get_template("page.html.j2").render(page=page, css=Markup(css), show=show)  # noqa: S704


def _source(picture: Picture) -> str:
    is_drawn = 0 < len(picture.svg) <= LARGEST_SVG
    kind, content = ("svg+xml", picture.svg) if is_drawn else (_kind(picture.png), picture.png)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _kind(content: bytes) -> str:
    return "jpeg" if content.startswith(b"\xff\xd8") else "png"


def write_page(page: Page, directory: Path) -> list[Path]:
    """Write ``report.html``, ``tables/`` and ``figures/`` below ``directory``, replacing older ones; the files' paths.

    Other files in the folder stay as they are.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for folder, files in ((TABLES, dict(_table_files(page))), (FIGURES, dict(_figure_files(page)))):
        partial = directory / f".{folder}.{os.getpid()}"
        partial.mkdir(exist_ok=True)
        for name, content in files.items():
            (partial / name).write_bytes(content)
        shutil.rmtree(directory / folder, ignore_errors=True)
        partial.rename(directory / folder)
        written += [directory / folder / name for name in files]
    path = directory / FILE
    partial = directory / f".{FILE}.{os.getpid()}"
    partial.write_text(html_of(page), encoding="utf-8")
    partial.replace(path)
    return [path, *written]


def _table_files(page: Page) -> Iterator[tuple[str, bytes]]:
    for block in _blocks(page):
        if isinstance(block, Table):
            yield f"{block.name}.csv", to_csv(block).encode()
            yield f"{block.name}.tex", to_latex(block).encode()


def _figure_files(page: Page) -> Iterator[tuple[str, bytes]]:
    for block in _blocks(page):
        if isinstance(block, Pictures):
            for picture in block.pictures:
                ending = {"jpeg": "jpg"}.get(_kind(picture.png), "png")
                yield f"{picture.name}.{ending}", picture.png
                if picture.svg:
                    yield f"{picture.name}.svg", picture.svg


def _blocks(page: Page) -> Iterator[Block]:
    for section in page.sections:
        yield from section.blocks
