"""The methods as Markdown, LaTeX and plain text, with the checklist beside them."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from study.report.methods.checklist import Item, checklist
from study.report.methods.data import data_paragraphs
from study.report.methods.training import training_paragraphs
from study.report.page.cells import escaped
from study.report.page.evidence import Evidence

MARKS: Final = {"study": "[x]", "authors": "[ ]", "missing": "[!]"}
WIDTH: Final = 100


def methods_of(evidence: Evidence) -> dict[str, str]:
    """All paragraphs by their headings, in the order of a paper."""
    return data_paragraphs(evidence) | training_paragraphs(evidence)


def write_methods(evidence: Evidence, folder: Path) -> list[Path]:
    """Write ``methods.md``, ``methods.tex``, ``methods.txt`` and ``checklist.md``, each replaced as a whole."""
    paragraphs, items = methods_of(evidence), checklist(evidence)
    files = {
        "methods.md": markdown(paragraphs),
        "methods.tex": latex(paragraphs),
        "methods.txt": plain(paragraphs),
        "checklist.md": checklist_text(items),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        partial = folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)
    return [folder / name for name in files]


def markdown(paragraphs: Mapping[str, str]) -> str:
    """Headings and paragraphs; names with underscores and stars stay text."""
    parts = [f"### {title}\n\n{_md(text)}" for title, text in paragraphs.items()]
    return "## Methods\n\n" + "\n\n".join(parts) + "\n"


def latex(paragraphs: Mapping[str, str]) -> str:
    """Paragraphs for a document of any class."""
    parts = [rf"\paragraph{{{escaped(title)}}} {escaped(text)}" for title, text in paragraphs.items()]
    return "\\section{Methods}\n\n" + "\n\n".join(parts) + "\n"


def plain(paragraphs: Mapping[str, str]) -> str:
    """Paragraphs of at most 100 characters a line."""
    parts = [f"{title}\n{textwrap.fill(text, WIDTH)}" for title, text in paragraphs.items()]
    return "\n\n".join(parts) + "\n"


def checklist_text(items: Sequence[Item]) -> str:
    """A line per item; what the authors have to say is open, what the study lacks is marked."""
    lines = [f"| {MARKS[item.who]} | {item.part} | {_md(item.text)} | {_md(item.where)} |" for item in items]
    counts = {who: sum(item.who == who for item in items) for who in MARKS}
    head = (
        f"{counts['study']} of {len(items)} items are answered by the study [x], {counts['authors']} are the "
        "authors' [ ], "
        f"{counts['missing']} lack something [!]. After CLAIM (Mongan, Moy and Kahn 2020), in other words."
    )
    return "\n".join(["## Checklist", "", head, "", "| | part | item | where |", "|---|---|---|---|", *lines, ""])


def _md(text: str) -> str:
    for sign in ("_", "*", "|", "<"):
        text = text.replace(sign, f"\\{sign}")
    return text
