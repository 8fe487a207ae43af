"""Licences: what a text asks for, what is reached from study, and what stops the default install."""

import json

import pytest
from typer.testing import CliRunner

from study.cli import app
from study.doctor import Licence, licences, licences_exit_code, licences_table
from study.doctor.licences import kind_of


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("MIT", "permissive"),
        ("Apache Software License", "permissive"),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", "permissive"),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception", "permissive"),
        ("GPL-3.0-or-later", "copyleft"),
        ("GNU General Public License v3 (GPLv3)", "copyleft"),
        ("GNU Affero General Public License v3", "copyleft"),
        ("AGPL-3.0-only", "copyleft"),
        ("MIT AND GPL-2.0-only", "copyleft"),
        ("GPL-2.0-only OR MIT", "permissive"),
        ("(GPL-2.0-only OR LGPL-2.1)", "weak copyleft"),
        ("LGPL-2.1-or-later", "weak copyleft"),
        ("GNU Lesser General Public License v3 (LGPLv3)", "weak copyleft"),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", "weak copyleft"),
        ("MPL-2.0 AND MIT", "weak copyleft"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "weak copyleft"),
        ("", "unknown"),
        ("ask the authors", "unknown"),
        ("MIT AND ask the authors", "unknown"),
        ("LicenseRef-Proprietary", "unknown"),
        ("(MIT OR Apache-2.0) AND GPL-3.0-only", "copyleft"),
        ("((MIT) OR (GPL-3.0-only)) AND LGPL-2.1-only", "weak copyleft"),
        ("MIT OR (GPL-3.0-only AND BSD-3-Clause)", "permissive"),
        ("GPL-2.0-only AND (MIT OR BSD-3-Clause)", "copyleft"),
        ("BSD License (3-clause)", "permissive"),
    ],
)
def test_kinds(text, kind):
    """A licence is taken for another kind, such as a permissive one for what is under the GPL."""
    assert kind_of(text) == kind


@pytest.fixture(scope="module")
def found():
    """What is installed here."""
    return licences()


def test_the_default_install_is_clean(found):
    """A package under the GPL or AGPL has come into the default install, or one without a licence anywhere."""
    names = {each.package.lower() for each in found if not each.extra}
    assert {"torch", "ray", "optuna", "mlflow", "pydicom", "numpy", "aiohttp"} <= names
    assert [each.package for each in found if each.kind in ("copyleft", "unknown")] == []
    assert licences_exit_code(found) == 0
    assert {each.package for each in found if each.extra == "test"} >= {"hypothesis", "ruff"}
    assert all(each.version for each in found)


def test_libraries_in_wheels_are_named(found):
    """A wheel carries libraries under the LGPL, and nobody says so."""
    carried = {each.package: " ".join(each.bundles) for each in found}
    assert "LGPL" in carried["opencv-python-headless"]
    assert "GCC runtime" in carried["scipy"]
    assert carried["pydicom"] == ""


def one(package="x", kind="copyleft", extra=""):
    return Licence(package=package, version="1", licence="GPL-3.0-only", kind=kind, extra=extra)


@pytest.mark.parametrize(
    ("licence", "code"), [(one(), 1), (one(extra="test"), 0), (one(kind="weak copyleft"), 0), (one(kind="unknown"), 0)]
)
def test_what_stops_the_default_install(licence, code):
    """The GPL passes in the default install, or stops an extra."""
    assert licences_exit_code([licence]) == code
    assert ("not allowed in the default install: x" in licences_table([licence])) == bool(code)


def test_the_verb(found, monkeypatch):
    """The verb prints nothing that a script can read, another exit code, or hides what is refused."""
    done = CliRunner().invoke(app, ["doctor", "--licences", "--json"])
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)) == len(found)
    monkeypatch.setattr("study.doctor.licences", lambda: [*found, one("bad-package")])
    done = CliRunner().invoke(app, ["doctor", "--licences"])
    assert done.exit_code == 1
    assert "not allowed in the default install: bad-package" in done.stdout
    assert "no GPL" not in done.stdout
