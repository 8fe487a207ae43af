"""The verb report: where it writes, and studies that have hardly begun."""

import pytest
from typer.testing import CliRunner

from study.cli import app
from study.cli.folders import store_config
from study.cli.invocation import INVOCATION
from study.config import load_config
from study.errors import InputError

FILE = """
study: {name}
data:
  prepared: {root}/prepared
  sources: [{{kind: phantom, name: site_a, patients: 30, seed: 1}}]
search: {{trials: 4, space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}}}
"""


@pytest.fixture
def report(tmp_path, monkeypatch):
    """`study report` in an empty folder with two studies that have not begun, one of them called losses."""
    monkeypatch.setattr(INVOCATION, "storage", "studies")
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "losses"):
        (tmp_path / f"{name}.yaml").write_text(FILE.format(name=name, root=tmp_path))
        (tmp_path / "studies" / name).mkdir(parents=True)
        store_config(tmp_path / "studies" / name, load_config(tmp_path / f"{name}.yaml"))
    return lambda *words: CliRunner().invoke(app, ["report", *words])


def test_new_study(report, tmp_path):
    """A study without a trial has a report that says so on top, methods, and its figures."""
    done = report("tiny")
    assert (done.exit_code, done.stdout) == (0, ""), done.exception
    text = (tmp_path / "studies" / "tiny" / "report" / "report.html").read_text()
    assert "This study has not begun. Go on with: study resume tiny" in text
    assert "No trial is complete yet." in text
    assert report("tiny", "--methods", "--out", "words").exit_code == 0
    assert "No test was made." in (tmp_path / "words" / "methods.txt").read_text()


def test_a_study_called_losses(report, tmp_path):
    """Both are written: the gradients of the losses, and the study of that name; with --out the picture alone."""
    assert report("losses", "--quick").exit_code == 0
    page = tmp_path / "studies" / "losses" / "report" / "report.html"
    assert (tmp_path / "losses.png").exists()
    assert page.exists()
    page.unlink()
    assert report("losses", "--out", "other.png").exit_code == 0
    assert (tmp_path / "other.png").exists()
    assert not page.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tin",), "no study is called 'tin'"),
        (("tiny", "--out", "page.html"), "expected a folder"),
        (("tiny", "--methods", "--out", "tiny.yaml"), "expected a folder"),
        (("tiny", "--quick", "--out", "/proc/nowhere"), "cannot be written"),
    ],
)
def test_refused(report, words, told):
    """What cannot be written or found is bad input, in words."""
    refused = report(*words)
    assert isinstance(refused.exception, InputError)
    assert told in refused.exception.message
