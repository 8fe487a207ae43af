"""A small phantom site to prepare, as itself and as a table of files, and watchers of what a preparation does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from study.config import DataConfig
from study.distributed import preparing
from study.distributed.preparing import PrepareProgress, manifest_for

SIZE = 64


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory):
    """Folder of the phantom's files, written once."""
    return tmp_path_factory.mktemp("site") / "dicom"


@pytest.fixture
def make_config(tmp_path, phantom_root):
    """Six patients of one phantom site, to be prepared below ``tmp_path``; takes changes of the data section."""

    def make(root=phantom_root, **changes):
        source = {"kind": "phantom", "name": "site_a", "patients": 6, "seed": 3, "vendors": ["Alpha", "Beta"]}
        raw = {
            "prepared": str(tmp_path / "data"),
            "sources": [source | {"root": str(root)}],
            "image_size": SIZE,
            "segments": ["source", "manufacturer"],
            "splits": {"val": {"fraction": 0.34}, "test": {"fraction": 0.34}},
        }
        return DataConfig.model_validate(raw | changes)

    return make


@pytest.fixture
def config(make_config):
    """The phantom site."""
    return make_config()


@pytest.fixture
def make_table_config(tmp_path, make_config):
    """The files listed in ``tmp_path / "list.csv"``; takes changes of the data section."""

    def make(**changes):
        source = {
            "kind": "table",
            "name": "listed",
            "root": str(tmp_path / "files"),
            "table": "../list.csv",
            "allow_outside": True,
        }
        return make_config(sources=[source], **changes)

    return make


@pytest.fixture
def table_config(tmp_path, config, make_table_config):
    """The phantom's images as a table source in a folder of its own."""
    preparing._write_phantoms(config, None)
    columns = ["path", "patient_id", "study_id", "series_id", "image_id", "laterality", "view", "birads"]
    table = manifest_for(config)[[*columns, "manufacturer", "model"]]
    files = tmp_path / "files"
    files.mkdir()
    names = [f"{place:03d}-secret.dcm" for place in range(len(table))]
    for name, path in zip(names, table["path"], strict=True):
        (files / name).write_bytes(Path(path).read_bytes())
    table["path"] = names
    table.to_csv(tmp_path / "list.csv", index=False)
    return make_table_config()


@pytest.fixture
def watch():
    """Makes a collector of progress, which raises once ``stop_at`` images are read."""
    return Steps


class Steps:
    """Collects the progress; raises once ``stop_at`` images are read."""

    def __init__(self, stop_at=None):
        self.seen: list[PrepareProgress] = []
        self.stop_at = stop_at

    def __call__(self, step):
        if step.stage == "reading images":
            self.seen.append(step)
            if self.stop_at is not None and step.done >= self.stop_at:
                raise KeyboardInterrupt

    @property
    def read(self):
        return self.seen[-1].done if self.seen else 0


@pytest.fixture
def no_ray(monkeypatch):
    """A function after whose call nobody may ask for Ray."""

    def forbid():
        def refuse():
            raise AssertionError("Ray was asked for")

        monkeypatch.setattr(preparing, "connected", refuse)

    return forbid


@pytest.fixture
def start_process():
    """Starts a preparation, in blocks of four files, in a process with a cluster of its own; a line for each block."""

    def start(config):
        code = (
            "import sys; from study.config import DataConfig; from study.distributed import preparing, preparing_run;"
            "preparing_run.BLOCK_FILES = 4;"
            "tell = lambda p: print(p.stage.split()[0], p.done, flush=True) if p.stage.startswith('read') else None;"
            "preparing.prepare_dataset(DataConfig.model_validate_json(sys.argv[1]), progress=tell, workers=1)"
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.Popen(
            [sys.executable, "-c", code, config.model_dump_json()],
            env=environment | {"PYTHONPATH": str(Path(preparing.__file__).parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )

    return start
