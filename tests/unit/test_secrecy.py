"""Files of secrets, texts without secrets, and the token of local clusters."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from study.cli import invocation
from study.distributed import access
from study.errors import EnvironmentFault
from study.secrecy import SECRETS, redacted, take_secret_files

STUDY = str(Path(sys.executable).parent / "study")


def secret_file(folder, text="s3cret-word\n", mode=0o600):
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("name", SECRETS)
def test_a_file_takes_the_place_of_a_variable(tmp_path, name):
    """A variable cannot be given as a file, keeps the line's end, or leaves the file's name to all processes."""
    environ = {f"{name}_FILE": str(secret_file(tmp_path))}
    take_secret_files(environ)
    assert environ == {name: "s3cret-word"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o601])
def test_a_file_that_others_can_read_is_refused(tmp_path, mode):
    """A password that everybody on the machine can read is taken without a word."""
    path = secret_file(tmp_path, mode=mode)
    with pytest.raises(EnvironmentFault) as caught:
        take_secret_files({"STUDY_LEDGER_URL_FILE": str(path)})
    assert caught.value.fix == f"chmod 600 {path}"
    assert f"{mode:03o}" in caught.value.message
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a\nb", "several lines"),
        ("a\0b", "zero byte"),
        ("x" * 70_000, "holds one secret"),
    ],
)
def test_files_that_hold_no_secret(tmp_path, text, found):
    """An empty or a wrong file becomes an empty or a wrong password."""
    with pytest.raises(EnvironmentFault, match=found):
        take_secret_files({"MLFLOW_TRACKING_PASSWORD_FILE": str(secret_file(tmp_path, text))})


def test_a_mark_of_byte_order_is_no_part_of_a_secret(tmp_path):
    """Editors of Windows put one before the text."""
    environ = {"PGPASSWORD_FILE": str(secret_file(tmp_path, "\ufeffs3cret"))}
    take_secret_files(environ)
    assert environ == {"PGPASSWORD": "s3cret"}


def test_places_that_are_no_file(tmp_path):
    """A folder or a missing file ends in an OSError; bytes that are no text in a UnicodeDecodeError."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    for place in (tmp_path, tmp_path / "missing", tmp_path / "binary"):
        with pytest.raises(EnvironmentFault):
            take_secret_files({"PGPASSWORD_FILE": str(place)})


def test_a_variable_and_its_file(tmp_path):
    """Which of the two counts is left to chance."""
    environ = {"PGPASSWORD": "a", "PGPASSWORD_FILE": str(secret_file(tmp_path))}
    with pytest.raises(EnvironmentFault, match="both set"):
        take_secret_files(environ)


def test_the_program_reads_the_files(tmp_path):
    """The verbs do not know of the files, or tell what they hold."""
    path = secret_file(tmp_path, "postgresql://user:hidden-word@127.0.0.1:1/x\n")
    for mode, code, said in ((0o644, 3, f"chmod 600 {path}"), (0o600, 3, "127.0.0.1")):
        path.chmod(mode)
        surroundings = {**os.environ, "STUDY_LEDGER_URL_FILE": str(path)}
        words = [STUDY, "list", "--storage", str(tmp_path), "--debug"]
        done = subprocess.run(words, env=surroundings, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert "hidden-word" not in done.stderr + done.stdout


ENVIRON = {
    "STUDY_LEDGER_URL": "postgresql://lena:p%40ss-one@db.example:5432/studies?password=p-four",
    "MLFLOW_TRACKING_URI": "https://max:pass-two@mlflow.example",
    "MLFLOW_TRACKING_USERNAME": "study",
    "MLFLOW_TRACKING_PASSWORD": "pass-three",
    "AWS_SECRET_ACCESS_KEY": "wJalr/XUtn",
    "RAY_AUTH_TOKEN": "0123abcd",
    "PGPASSWORD": "abc",
}


@pytest.mark.parametrize(
    "secret", ["p%40ss-one", "p@ss-one", "p-four", "pass-two", "pass-three", "wJalr/XUtn", "0123abcd"]
)
def test_texts_are_redacted(secret):
    """A secret stands in a text that is printed or kept."""
    text = f"study failed at {ENVIRON['STUDY_LEDGER_URL']} with <{secret}> and {ENVIRON['MLFLOW_TRACKING_URI']}/api"
    told = redacted(text, ENVIRON)
    assert secret not in told
    assert "lena" not in told
    assert "max" not in told
    assert "study failed at postgresql://***@db.example:5432/studies" in told
    assert "https://***@mlflow.example/api" in told


@pytest.mark.parametrize("address", ["postgresql://lena:hunter2@[::1/db", "postgresql://lena:x/hunter2@db/y"])
def test_addresses_that_are_none_are_redacted(address):
    """An address is wrong in the error that tells so."""
    told = redacted(f"cannot use {address}", {"STUDY_LEDGER_URL": address})
    assert "hunter2" not in told
    assert told.startswith("cannot use postgresql://")


def test_other_texts_stay_as_they_are():
    """Words are replaced that are no secrets: a short password, a user's name, an e-mail, a decorator."""
    text = "study abc 123, mail to a@b.example, @property, https://host/x@y, s3://bucket/a@b"
    assert redacted(text, ENVIRON) == text


def test_tracebacks_are_redacted(tmp_path, monkeypatch, capsys):
    """A traceback on the terminal or in the log quotes an address with its password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ENVIRON["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr(invocation, "INVOCATION", invocation.Invocation(debug=True, log=tmp_path / "study.log"))
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError(f"cannot reach {ENVIRON['MLFLOW_TRACKING_URI']}")
    assert invocation.exit_with(caught.value) == 1
    told = capsys.readouterr().err
    assert "RuntimeError: cannot reach https://***@mlflow.example" in told
    assert "pass-two" not in told + (tmp_path / "study.log").read_text()
    assert "mlflow.example" in (tmp_path / "study.log").read_text()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without a token, and a user whose files everybody may read."""
    for name in ("RAY_AUTH_MODE", *access.OWN_TOKENS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_private(home):
    """The token is readable by others, changes with each study, or is no token."""
    access.private_token()
    path = home / ".ray" / "auth_token"
    token = path.read_text()
    assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)
    assert len(token) == 64
    access.private_token()
    assert path.read_text() == token
    assert [each.name for each in path.parent.iterdir()] == ["auth_token"]


def test_a_token_that_ray_wrote_becomes_private(home):
    """A token stays readable by everybody, or is replaced under a running cluster."""
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("of-before")
    assert mode_of(path) == 0o644
    access.private_token()
    assert (mode_of(path), path.read_text()) == (0o600, "of-before")


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_other_tokens_are_left_alone(home, monkeypatch, name):
    """A file is written although another token is named, or tokens are switched off."""
    monkeypatch.setenv(name, "x")
    access.private_token()
    monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    access.private_token()
    assert list(home.iterdir()) == []


def test_a_home_that_cannot_be_written(home):
    """A missing right ends in an OSError."""
    (home / ".ray").write_text("a file")
    with pytest.raises(EnvironmentFault, match="cannot be made private"):
        access.private_token()
