"""The documents speak of a program that exists: its commands, targets, files, knobs and messages."""

import re
import shlex
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from study.cli import app
from study.cli.app import EPILOG
from study.cli.invocation import INVOCATION
from study.config import check_study_file, load_config, settable_paths
from study.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELLS = ("console", "bash", "sh", "shell", "")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
OPERATORS = re.compile(r"[|&;<>]+")
GROUP: Any = typer.main.get_command(app)

Command = tuple[str, tuple[str, ...]]


def fences(text: str, languages: tuple[str, ...]) -> list[tuple[str, str]]:
    """Language and content of the code fences in some languages."""
    return [(language, content) for language, content in FENCE.findall(text) if language in languages]


def shell_lines(text: str) -> Iterator[str]:
    """Lines of the shell fences behind a ``$``; all lines of a fence that has none, indented ones as they are."""
    for language, content in fences(text, SHELLS):
        lines = content.replace("\\\n", " ").splitlines()
        prompted = [line.lstrip()[2:] for line in lines if line.lstrip().startswith("$ ")]
        yield from prompted or (line if language == "" else line.strip() for line in lines)


def simple_commands(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line, without variables before them, comments, redirections and pipes between them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in (tokens := iter([*lexer, ";"])):
        if word in (">", ">>", "<"):
            next(tokens)
        elif not OPERATORS.fullmatch(word):
            words += [word] if words or "=" not in word else []
        elif words:
            yield tuple(words)
            words = []


def commands(text: str, *programs: str) -> list[tuple[str, ...]]:
    """The arguments of all commands in the shell fences that call one of the programs."""
    starts = re.compile(rf"([A-Z_]+=\S* )*(\.venv/bin/)?({'|'.join(programs)})\b")
    found = [words for line in shell_lines(text) if starts.match(line) for words in simple_commands(line)]
    return [words[1:] for words in found if Path(words[0]).name in programs]


def on_pages(*programs: str) -> list[Command]:
    """The commands of every page, with the page's name."""
    return [(page.name, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"), *programs)]


class Refused(Exception):
    """The program does not accept a command."""


def parse(words: tuple[str, ...]) -> None:
    """Parse the arguments of `study` as the program does, and run nothing.

    Raises:
        Refused: there is no such verb, argument or option.
    """
    if words == ("--help",):
        return
    verb, *arguments = words or ("",)
    if verb not in GROUP.commands:
        raise Refused(f"no such verb: {verb}")
    command = GROUP.commands[verb]
    try:
        command.make_context(verb, list(arguments))
    except Exception as error:
        raise Refused(f"{verb}: {error}") from error


@pytest.fixture(autouse=True)
def _fresh_invocation(monkeypatch):
    """Options of the parsed commands do not reach other tests."""
    for name, value in {"debug": False, "storage": "studies", "log": None}.items():
        monkeypatch.setattr(INVOCATION, name, value)


class TestReader:
    """The reader of the pages sees what it should, so the tests below look at something."""

    PAGE = (
        "```console\n$ make run   # all of it\n$ A=1 study run a.yaml \\\n  --set b.c=[1,2]\nrank  trial\n```\n"
        "```bash\nstudy best x --yaml > best.yaml && study run best.yaml\n```\n"
        "```\n   study prepare (Ray Data)\nmake test\n```\n```text\nstudy fly\n```\n`study inline`\n"
    )

    def test_commands(self):
        """Prompts, comments, continued lines, redirections and pictures are told apart."""
        assert commands(self.PAGE, "make") == [("run",), ("test",)]
        assert commands(self.PAGE, "study") == [
            ("run", "a.yaml", "--set", "b.c=[1,2]"),
            ("best", "x", "--yaml"),
            ("run", "best.yaml"),
        ]

    def test_the_readme_has_some(self):
        """The README calls both programs, the main verbs among them."""
        verbs = {words[0] for page, words in on_pages("study") if page == "README.md"}
        assert {"run", "resume", "best"} <= verbs
        assert {("README.md", ("run",)), ("README.md", ("test",))} <= set(on_pages("make"))

    @pytest.mark.parametrize(
        "line", ["fly", "run", "run a.yaml --fast", "best x --top none", "list more", "submit a.yaml --near", ""]
    )
    def test_wrong_commands_are_seen(self, line):
        """A verb, argument or option that the program does not have is refused by the parser used here."""
        with pytest.raises(Refused):
            parse(tuple(line.split()))


@pytest.mark.parametrize(
    ("page", "words"), on_pages("study"), ids=lambda part: part if isinstance(part, str) else " ".join(part)
)
def test_study_commands(page, words):
    """A command of `study` on a page is accepted by the program."""
    parse(words)


def test_examples_of_the_help():
    """The examples in the program's own help are accepted by it."""
    lines = [re.split(r"\s{2,}", line.strip())[0] for line in EPILOG.splitlines() if line.startswith("  study ")]
    found = [words for line in lines for words in simple_commands(line)]
    assert len(found) >= 5
    for words in found:
        assert words[0] == "study"
        parse(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_verbs_in_the_text(page):
    """A verb that is named in running text is one of the program's."""
    verbs = set(re.findall(r"`study ([a-z]+)[^`]*`", page.read_text(encoding="utf-8")))
    assert verbs - set(GROUP.commands) == set()


def test_make_targets():
    """Every target that a page names is in the Makefile."""
    targets = set(
        re.findall(r"^([a-z0-9-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    assert {"run", "test"} <= targets
    named = {word for _, words in on_pages("make") for word in words if "=" not in word and not word.startswith("-")}
    for page in PAGES:
        named |= set(re.findall(r"`make ([a-z0-9-]+)[^`]*`", page.read_text(encoding="utf-8")))
    assert named - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page):
    """Every study file, test, module, page and picture of the project that a page names or links to is there."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])(?:search_spaces|tests|docs|study)/[\w./-]+\.(?:yaml|py|md|png)\b", text))
    missing = {name for name in named if not (ROOT / name).exists()}
    links = set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text))
    missing |= {link for link in links if not (page.parent / link).exists()}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_find_what_they_import(page):
    """A file that is run by its path does not see the folder `tests`; it is run as a module then, and it is there."""
    text = page.read_text()
    for name in re.findall(r"python (tests/\S+\.py)", text):
        assert "from tests" not in (ROOT / name).read_text(), name
    for name in re.findall(r"python -m (tests\.[\w.]+)", text):
        assert (ROOT / f"{name.rstrip('.').replace('.', '/')}.py").exists(), name


def test_study_files_on_pages(tmp_path):
    """A whole study file on a page has no faults and no warnings."""
    checked = 0
    for page in PAGES:
        for _, content in fences(page.read_text(encoding="utf-8"), ("yaml",)):
            if not content.startswith("study:"):
                continue
            path = tmp_path / f"{checked}.yaml"
            path.write_text(content)
            partial, faults = check_study_file(path)
            assert (page.name, faults, partial.warnings) == (page.name, [], ())
            checked += 1
    assert checked >= 1


class TestStudyFilePage:
    """docs/study-file.md promises every knob with its default."""

    PAGE = ROOT / "docs" / "study-file.md"

    def rows(self) -> list[tuple[str, Any, str]]:
        """Path, default and meaning of each line of the table; a line with two paths counts twice."""
        text = self.PAGE.read_text(encoding="utf-8")
        rows = []
        for names, default, meaning in re.findall(r"^\| (`.+?) \| (.+?) \| (.+) \|$", text, flags=re.MULTILINE):
            paths = re.findall(r"`([\w.]+)`", names)
            section = paths[0].rpartition(".")[0]  # a name without a section belongs to that of the name before it
            whole = [path if "." in path or not section else f"{section}.{path}" for path in paths]
            defaults = yaml.safe_load(f"[{default.strip('`')}]")
            rows += [(path, value, meaning) for path, value in zip_longest(whole, defaults[: len(whole)])]
        return rows

    def test_every_knob(self):
        """Every knob of the schema stands on the page, by itself or with its group; every path on it exists."""
        knobs = set(settable_paths())
        groups = {knob.rsplit(".", depth)[0] for knob in knobs for depth in (1, 2)}
        rows = self.rows()
        paths = {path for path, _, _ in rows}
        assert len(paths) > 40
        assert paths - knobs - groups == set()
        for path, _, meaning in rows:
            paths |= {f"{path.rpartition('.')[0]}.{name}" for name in re.findall(r"`(\w+)`", meaning)}
        missing = {knob for knob in knobs if not any(f"{knob}.".startswith(f"{path}.") for path in paths)}
        # docs/losses.md has a test of its own
        assert {knob for knob in missing if not knob.startswith("loss.")} == set()

    def test_defaults(self, tmp_path):
        """The defaults on the page are those of the schema."""
        (tmp_path / "my.yaml").write_text(
            "study: my\ndata: {prepared: x, sources: [{kind: mias, root: y}]}\nconfirm: {}\n"
            "search: {trials: 3, space: {optim.lr: {float: [1.0e-4, 1.0e-2]}}}\n"
        )
        tree = load_config(tmp_path / "my.yaml").model_dump(mode="json")
        experiments = {f"data.labels.{name}" for name in ("uncertainty", "leave_out", "flip", "synthesise")}
        told_in_words = {"data.splits", "search.mode", "search.pruner", "search.budget", "search.trials", *experiments}
        checked = 0
        for path, default, _ in self.rows():
            if default == "needed" or path in told_in_words:
                continue
            value: Any = tree
            for key in path.split("."):
                value = value[key]
            told = float(default) if isinstance(value, float) else default
            assert (path, told) == (path, value)
            checked += 1
        assert checked > 30

    def test_faults_are_told_like_that(self, tmp_path, monkeypatch):
        """The example of a faulty file is what the program says of such a file."""
        ((_, shown),) = fences(self.PAGE.read_text(encoding="utf-8"), ("text",))
        (tmp_path / "my.yaml").write_text(
            "study: my\ndata: {prepared: x, sources: [{kind: mias, root: y}]}\noptim: {schedule: cosin}\n"
            "train: {epoch: 3}\nsearch: {trials: 0, space: {optim.lr: {float: [1.0e-4, 1.0e-2]}}}\n"
        )
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError) as error:
            load_config(Path("my.yaml"))
        assert str(error.value) == shown.rstrip("\n")
