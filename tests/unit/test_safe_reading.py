"""Nothing of ours runs code that it reads: every call that could is looked for in the source."""

import ast
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from study.config import check_study_file
from study.config.yamlfile import read_yaml
from study.data.arrays import array_picture
from study.errors import ConfigError, DicomError, InputError, StudyError
from study.models import make_model
from study.models.weights import load_weights

ROOT = Path(__file__).resolve().parents[2] / "study"
MODULES = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"),
    *("xmlrpc", "tarfile", "telnetlib", "ftplib"),
}
ALLOWED = {("pickle", "UnpicklingError")}  # the name of an error
NEVER = {
    *("eval", "exec", "compile", "__import__", "execfile"),
    *("os.system", "os.popen", "pd.read_pickle", "pandas.read_pickle", "shutil.unpack_archive", "torch.hub.load"),
    *("torch.jit.load", "torch.package.PackageImporter", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
    *("ray.cloudpickle.loads", "mlflow.pyfunc.load_model", "mlflow.pytorch.load_model", "runpy.run_path"),
}
OWN_BYTES = {"portable/torchscript.py": ["torch.jit.load"]}  # what it has made itself, to compare before it is kept
METHODS = {"extractall", "load_module", "read_pickle"}  # whatever they are called on


def dangers(source):
    """Every call or import in a text that could run what it reads, with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        found += [(node.lineno, what) for what in _of_import(node)]
        if isinstance(node, ast.Call) and (what := _of_call(node)):
            found.append((node.lineno, what))
    return found


def _of_import(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
        return [node.module for alias in node.names if (node.module, alias.name) not in ALLOWED]
    return []


def _of_call(node):
    name = ast.unparse(node.func)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    last = name.rpartition(".")[2]
    if name in NEVER or last in METHODS or given.get("shell", "False") != "False":
        return name
    if name == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only"
    if name.endswith(("np.load", "numpy.load", "read_array")) and given.get("allow_pickle") != "False":
        return f"{name} without allow_pickle=False"
    if given.get("allow_pickle", "False") != "False" or given.get("weights_only", "True") != "True":
        return name
    if name == "yaml.load" and "Safe" not in given.get("Loader", "") and "StudyLoader" not in given.get("Loader", ""):
        return "yaml.load without a safe loader"
    return ""


def test_no_call_runs_what_it_reads():
    """A module unpickles, evaluates, unpacks, or reads arrays, weights or YAML in a way that may run code."""
    modules = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    assert len(modules) > 100
    found = {name: what for name, text in modules.items() if (what := dangers(text))}
    assert {name: [what for _, what in each] for name, each in found.items()} == OWN_BYTES


@pytest.mark.parametrize(
    "line",
    [
        *(
            "import pickle",
            "from pickle import loads",
            "import joblib as j",
            "from cloudpickle import load",
            "eval('1')",
        ),
        *("torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)", "np.load(p, allow_pickle=True)"),
        *("npy.read_array(f)", "yaml.load(t)", "yaml.load(t, Loader=yaml.Loader)", "yaml.unsafe_load(t)", "exec(t)"),
        *("pd.read_pickle(p)", "archive.extractall(p)", "subprocess.run(t, shell=True)", "os.system(t)"),
        *("torch.hub.load(a, b)", "torch.jit.load(p)", "read_state(p, weights_only=False)", "import tarfile"),
    ],
)
def test_dangers_are_seen(line):
    """The search itself is blind."""
    assert dangers(f"def f():\n    {line}\n")


def test_harmless_calls_are_not_meant():
    """The search finds what runs nothing."""
    text = (
        "network.eval()\nre.compile(t)\nnp.load(p, allow_pickle=False)\nyaml.load(t, Loader=StudyLoader)\njson.loads(t)"
    )
    assert dangers(text + "\nfrom pickle import UnpicklingError\ntorch.load(p, weights_only=True)") == []


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns of pickles that it refuses
def test_weights_run_nothing(tmp_path):
    """A file of weights runs code, in a network of ours or in timm's."""
    mark = tmp_path / "ran"
    torch.save({"weight": Bomb(mark)}, tmp_path / "w.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(mark)))
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(Bomb(mark)))
    for name in ("w.pth", "raw.pth", "w.safetensors"):
        with pytest.raises(InputError):
            load_weights(torch.nn.Linear(2, 2), tmp_path / name)
        with pytest.raises(StudyError):
            make_model("test_efficientnet", num_outputs=3, in_channels=1, pretrained=str(tmp_path / name))
        assert not mark.exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert mark.exists(), "the bomb itself does not work"


def test_arrays_run_nothing(tmp_path):
    """An array of objects is unpickled."""
    mark = tmp_path / "ran"
    np.savez(tmp_path / "a.npz", train_images=np.array([Bomb(mark)], dtype=object))
    with pytest.raises(DicomError):
        array_picture(f"{tmp_path}/a.npz::train_images::0", colour="grey")
    assert not mark.exists()


def bomb_of_aliases(depth=9):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb_of_aliases(), "aliases are not read"),
        ("a: &a [*a]", "aliases are not read"),
        ("a: !!python/object/apply:os.mkdir [ran]", "tag"),
        ("[" * 33 + "]" * 33, "nested too deeply"),
        ("{a: " * 40 + "1" + "}" * 40, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("\n".join(f"{' ' * i}k{i}:" for i in range(200)), "nested too deeply"),
        ("a: 1\n" * 300_000, "larger than 1 MiB"),
        (f"a: [{'1, ' * 501}]", "501 entries"),
        (f"a: {{{', '.join(f'k{i}: 1' for i in range(501))}}}", "501 entries"),
        (f"a: [{', '.join(['[' + '1, ' * 450 + ']'] * 24)}]", "more than 10,000 keys and values"),
        ("a: 1\na: 2", "twice"),
    ],
)
def test_yaml_that_would_grow_or_run(tmp_path, monkeypatch, text, said):
    """A study file runs code, grows, or loses a key that stands there twice."""
    monkeypatch.chdir(tmp_path)
    try:
        document = read_yaml(text, name="s.yaml")
    except ConfigError as error:
        found = error.message
    else:
        found = " ".join(fault.message for fault in document.faults)
    assert said in found
    assert list(tmp_path.iterdir()) == []


def test_yaml_of_usual_depth_is_read():
    """A file is refused that is nested no deeper than a limit of 32 levels, or as wide as a list may be."""
    assert read_yaml("[" * 32 + "1" + "]" * 32, name="s.yaml").value
    assert len(read_yaml(f"[{'1, ' * 500}]", name="s.yaml").value) == 500


def test_many_faults_are_found_in_little_time(tmp_path):
    """Time grows with the square of the faults: a file of kilobytes holds the command for minutes."""
    document = yaml.safe_load((ROOT.parent / "search_spaces" / "ordinal" / "label_smoothing.yaml").read_text())
    document["data"]["sources"], document["augmentation"] = [1] * 500, 1
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(document))
    begun = time.process_time()
    _, faults = check_study_file(file)
    assert time.process_time() - begun < 2, "it takes a third of a second"
    assert sum(fault.path.startswith("data.sources") for fault in faults) == 500
