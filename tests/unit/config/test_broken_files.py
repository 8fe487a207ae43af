"""Every broken study file gives its whole message, all faults at once, in file order."""

from pathlib import Path

import pytest

from study.config import load_config
from study.errors import EXIT_BAD_INPUT, ConfigError

FOLDER = Path(__file__).parents[2] / "e2e" / "broken"
FILES = sorted(FOLDER.glob("*.yaml"))


def message_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert caught.value.fix
    return caught.value.message.replace(str(path), path.name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_message(path: Path) -> None:
    """A broken study file is refused with the text that stands beside it, word for word."""
    assert message_of(path) == path.with_suffix(".txt").read_text(encoding="utf-8").rstrip("\n")


def test_there_are_many() -> None:
    """The folder holds at least 20 broken files, each with its message, and no message without a file."""
    assert len(FILES) >= 20
    assert {path.stem for path in FOLDER.glob("*.txt")} == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_plain_words(path: Path) -> None:
    """No message shows the words or the addresses of the validation library."""
    text = path.with_suffix(".txt").read_text(encoding="utf-8").lower()
    assert not [
        word for word in ("pydantic", "http", "input should", "value error", "union", "discriminator") if word in text
    ]
