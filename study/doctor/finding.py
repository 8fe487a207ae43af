"""What a check found, and the table of it."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from study.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_ENVIRONMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's table.

    ``missing`` means that a study cannot run before ``fix`` is done; ``warning`` that it can. ``is_input`` marks a
    fault of the study file or its data, which has an exit code of its own.
    """

    area: str
    state: Literal["ok", "warning", "missing"]
    text: str
    fix: str = ""
    is_input: bool = False


def exit_code(findings: Sequence[Finding]) -> int:
    """3 when the machine lacks something, else 2 when the study file is broken, else 0."""
    missing = [finding for finding in findings if finding.state == "missing"]
    if any(not finding.is_input for finding in missing):
        return EXIT_ENVIRONMENT
    return EXIT_BAD_INPUT if missing else EXIT_DONE


def findings_table(findings: Sequence[Finding], *, width: int = 100) -> str:
    """State, area and text of every finding, its fix below it, then a line that sums up; at most ``width`` columns."""
    size = max((len(finding.area) for finding in findings), default=0)
    indent = " " * (9 + size + 2)
    lines = []
    for finding in findings:
        head = f"{finding.state:<7}  {finding.area:<{size}}  "
        lines += _wrapped(finding.text, width=width, first=head, indent=indent)
        if finding.fix:
            lines += _wrapped(f"fix: {finding.fix}", width=width, first=indent, indent=indent + "     ")
    return "\n".join([*lines, "", _summary(findings)])


def _summary(findings: Sequence[Finding]) -> str:
    missing = sum(finding.state == "missing" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    if missing:
        return f"{missing} missing, {warnings} to look at"
    return f"Ready; {warnings} to look at." if warnings else "Ready."


def _wrapped(text: str, *, width: int, first: str, indent: str) -> list[str]:
    """Lines of a text; a line that the text has of its own starts a new one."""
    lines: list[str] = []
    for part in text.splitlines() or [""]:
        prefix = indent if lines else first
        lines += textwrap.wrap(
            part, width, initial_indent=prefix, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [prefix.rstrip()]
    return lines
