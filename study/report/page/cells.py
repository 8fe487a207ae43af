"""Fields of tables, and tables as CSV and LaTeX."""

import csv
import io
import math
import re
from typing import Final

from study.report.page.parts import Cell, Table
from study.report.words import number, probability

# Whatever LaTeX would take for a command; the order matters for the backslash alone, which one pass settles.
_SPECIAL: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "…": r"\ldots{}",
}
_SPECIAL_PATTERN: Final = re.compile("|".join(map(re.escape, _SPECIAL)))
_DASH: Final = "-"


def word(text: object) -> Cell:
    """Words as they are; missing ones are a dash."""
    shown = str(text) if text is not None and text == text else ""  # noqa: PLR0124 - NaN
    return Cell(text=shown or _DASH, value=shown)


def count(value: float) -> Cell:
    """A whole number, with commas."""
    return Cell(text=f"{int(value):,}", value=int(value))


def metric(value: float | None, *, bold: bool = False) -> Cell:
    """A number with three decimals; a dash when it is undefined."""
    if value is None or math.isnan(value):
        return Cell(text=_DASH, value="")
    return Cell(text=number(value), value=float(value), bold=bold)


def mean_sd(mean: float, sd: float, *, bold: bool = False) -> Cell:
    """``0.812 ± 0.013``; without the SD where there is none."""
    if math.isnan(mean):
        return Cell(text=_DASH, value="")
    text = number(mean) if math.isnan(sd) else f"{number(mean)} ± {number(sd)}"
    return Cell(text=text, value=text, bold=bold)


def between(low: float, high: float) -> Cell:
    """An interval."""
    if math.isnan(low) or math.isnan(high):
        return Cell(text=_DASH, value="")
    return Cell(text=f"{number(low)} to {number(high)}", value=f"{low:.6g} to {high:.6g}")


def p_value(value: float, *, bold: bool = False) -> Cell:
    """A p-value."""
    if math.isnan(value):
        return Cell(text=_DASH, value="")
    return Cell(text=probability(value), value=float(value), bold=bold)


def share(part: float, *, digits: int = 1) -> Cell:
    """A share from 0 to 1, in percent."""
    return Cell(text=_DASH, value="") if math.isnan(part) else Cell(text=f"{part:.{digits}%}", value=float(part))


def to_csv(table: Table) -> str:
    """The table as CSV: full numbers, the columns' names in the first line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([cell.text if cell.value is None else cell.value for cell in row] for row in table.rows)
    return text.getvalue()


def to_latex(table: Table) -> str:
    """The table in the form of the papers, no wider than the text; the document needs booktabs and adjustbox."""
    alignment = "".join("l" if column in table.words else "r" for column in range(len(table.columns)))
    lines = [
        r"\begin{table}[t]",
        rf"\caption{{{escaped(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\centering",
        r"\begin{adjustbox}{max width=\linewidth}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(map(escaped, table.columns)) + r" \\",
        r"\midrule",
        *(" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
    ]
    lines += [rf"\par\smallskip\footnotesize {escaped(table.note)}"] if table.note else []
    return "\n".join([*lines, r"\end{table}", ""])


def escaped(text: str) -> str:
    """Text in which LaTeX finds no command."""
    return _SPECIAL_PATTERN.sub(lambda found: _SPECIAL[found.group()], text)


def _latex_cell(cell: Cell) -> str:
    text = escaped(cell.text)
    return rf"\textbf{{{text}}}" if cell.bold else text
