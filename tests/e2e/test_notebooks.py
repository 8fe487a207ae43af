"""The notebooks, cell by cell, on a finished study; and none of them holds outputs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import surroundings

pytestmark = pytest.mark.e2e
FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path: Path) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shown(source: str) -> str:
    """The cell as a program that prints what a notebook shows: the value of its last line."""
    tree = ast.parse(source)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = tree.body.pop()
        tree.body.append(ast.parse(f"print({ast.unparse(last)})").body[0])
    return ast.unparse(tree)


def test_there_are_four():
    """The docs name them by their numbers."""
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stripped(path):
    """No outputs and no counts: they would hold somebody's results."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, finished):
    """Every cell runs, in one process, and every cell that ends in a value shows one."""
    program = "\n".join(shown(source) for source in cells(path))
    environment = surroundings({"STUDY_NAME": "small", "MPLBACKEND": "Agg"})
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=finished.cli.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5
