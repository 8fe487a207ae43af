"""The rules that keep the project small and its rooms apart; each test names every offender."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "study"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 45
MAX_POSITIONAL = 3
PRINTING_ROOMS = ("cli", "console")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def code_lines(function: Function) -> int:
    """Lines of a function without its decorators and its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def positional(function: Function) -> int:
    """Parameters that a caller may give by position, without self and cls."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    return len(arguments) - (bool(arguments) and arguments[0].arg in ("self", "cls"))


def public_without_docstring(tree: ast.Module) -> Iterator[str]:
    """Public functions, classes and methods of a module that have no docstring; the module itself as ``module``."""
    if ast.get_docstring(tree) is None:
        yield "module"
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        members = node.body if isinstance(node, ast.ClassDef) else []
        named = {node.name: node} | {f"{node.name}.{m.name}": m for m in members if is_public_method(m)}
        yield from (name for name, part in named.items() if ast.get_docstring(part) is None)


def is_public_method(node: ast.AST) -> bool:
    """A method that people call; overloads only repeat the signature of one."""
    if not isinstance(node, Function) or node.name.startswith("_"):
        return False
    return not any("overload" in ast.dump(decorator) for decorator in node.decorator_list)


def test_the_package_is_found():
    """The checks below look at the package, not at an empty list."""
    assert len(FILES) > 40
    assert name_of(PACKAGE / "types.py") in map(name_of, FILES)


def test_files_are_short():
    """A file of the package has at most 350 lines."""
    counts = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in counts.items() if count > MAX_FILE_LINES} == {}


def test_functions_are_short():
    """A function has at most 45 lines besides its docstring."""
    counts = {f"{name_of(path)}:{f.name}": code_lines(f) for path in FILES for f in functions(path)}
    assert {name: count for name, count in counts.items() if count > MAX_FUNCTION_LINES} == {}


def test_few_positional_parameters():
    """A function takes at most three parameters by position; the rest go by name."""
    counts = {f"{name_of(path)}:{f.name}": positional(f) for path in FILES for f in functions(path)}
    assert {name: count for name, count in counts.items() if count > MAX_POSITIONAL} == {}


def test_imports_are_absolute():
    """No module imports relatively: every import says where the name lives."""
    trees = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in (*FILES, *TESTS)}
    relative = {
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    }
    assert relative == set()


def test_public_names_are_documented():
    """Every module, and every public function, class and method, has a docstring."""
    bare = {
        f"{name_of(path)}:{name}"
        for path in FILES
        for name in public_without_docstring(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert bare == set()


def test_tests_say_what_would_be_false():
    """Every test has a docstring, or stands in a contract class that has one."""
    bare = {
        f"{name_of(path)}:{f.name}"
        for path in TESTS
        for f in functions(path)
        if f.name.startswith("test_") and not ast.get_docstring(f)
    }
    assert bare == set()


def test_only_the_command_line_prints():
    """No room below the console prints."""
    printing = {
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        if path.relative_to(PACKAGE).parts[0] not in PRINTING_ROOMS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == set()


def test_no_error_is_swallowed():
    """No handler consists of pass alone; ``contextlib.suppress`` with named errors says it on purpose."""
    silent = {
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and all(isinstance(statement, ast.Pass) for statement in node.body)
    }
    assert silent == set()


def test_floors():
    """Imports only go down, siblings do not know each other, and Ray stays in its room."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    "module", ["study.cli", "study.console", "study.config", "study.space", "study.types", "study.errors"]
)
def test_light_modules_stay_light(module):
    """Importing the command line, the console or the study file's schema loads none of the heavy libraries."""
    heavy = ("torch", "ray", "mlflow", "optuna", "pandas", "numpy", "matplotlib", "timm")
    code = f"import sys, {module}; print(' '.join(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_workers_import_no_ledger():
    """Each cold start of a worker takes half a second more, and each worker keeps a database's libraries in memory."""
    heavy = ("optuna", "sqlalchemy", "mlflow")
    code = f"import sys, study.distributed.worker; print(*(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_imports_little():
    """``study --help`` loads, of this package, the command line and the errors only, and neither pydantic nor rich."""
    code = (
        "import sys\nfrom study.cli import main\nsys.argv = ['study', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "rooms = ('study', 'pydantic', 'rich', 'yaml')\n"
        "print('|', *sorted(name for name in sys.modules if name.split('.')[0] in rooms))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("|")[2].split()
    light = ["app", "cluster_verbs", "invocation", "network_verbs", "options"]
    assert loaded == ["study", "study.cli", *(f"study.cli.{name}" for name in light), "study.errors"]


class TestTablesAndSchema:
    """The literal tables of parts and the study file's schema name the same things."""

    @staticmethod
    def literal(model: type, field: str) -> set[str]:
        return set(get_args(model.model_fields[field].annotation))  # type: ignore[attr-defined]

    def test_losses(self):
        """Losses have the same names and the same parameters in code and schema."""
        from study.config.searching import loss_variants
        from study.losses import LOSS_PARAMS, LOSSES

        assert set(LOSSES) == set(loss_variants())
        assert {name: set(params) for name, params in LOSS_PARAMS.items()} == {
            name: set(params) for name, params in loss_variants().items()
        }

    def test_losses_of_tasks(self):
        """An auxiliary task can be given every loss, and no other."""
        from study.config.task_rules import LOSS_RECORDS
        from study.config.tasks import LossName
        from study.losses import LOSSES

        assert set(get_args(LossName)) == set(LOSS_RECORDS) == set(LOSSES)

    def test_tasks(self):
        """The file can weigh every task that data can have, and the reconstruction."""
        from study.config.tasks import TasksConfig
        from study.data.tasks import CLASSES

        assert set(TasksConfig.model_fields) == {*CLASSES, "reconstruction"}

    def test_parameters_of_networks(self):
        """Parameters of networks have the same names in code and schema."""
        from study.config import ModelConfig
        from study.models import MODEL_PARAMS

        assert {name for params in MODEL_PARAMS.values() for name in params} <= set(ModelConfig.model_fields)

    def test_samplers(self):
        """Samplers have the same names in code and schema."""
        from study.config.schema import SamplerConfig
        from study.data.sampling import SAMPLERS

        assert set(SAMPLERS) == self.literal(SamplerConfig, "name")

    def test_policies(self):
        """Augmentation policies have the same names in code and schema."""
        from study.config.schema import AugmentConfig
        from study.data.augment import POLICIES

        assert set(POLICIES) == self.literal(AugmentConfig, "policy")

    def test_sources(self):
        """Sources have the same names in code and schema."""
        from study.config.sources import Source
        from study.data.sources import SOURCES

        records = get_args(get_args(Source)[0])
        kinds = [self.literal(record, "kind") for record in records]
        assert len(records) == len(SOURCES)
        assert set(SOURCES) == set().union(*kinds)

    def test_metrics(self):
        """Metrics have the same names and directions in code and schema."""
        from study.config.names import METRIC_MODE
        from study.metrics import METRIC_MODE as COMPUTED

        assert dict(METRIC_MODE) == {name: COMPUTED[name] for name in METRIC_MODE}
