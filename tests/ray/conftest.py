"""One local Ray cluster of two CPUs for all tests of this folder."""

import os

import pytest

from study.config import StudyConfig

# Read by every Python process of the cluster when it starts: a file called killer is fatal, a hungry one eats memory.
STRANGE_FILES = """
import os, pathlib, signal
_open = pathlib.Path.open
def open_(self, *args, **options):
    if "killer" in self.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hungry" in self.name:
        bytearray(3 << 30)
    return _open(self, *args, **options)
pathlib.Path.open = open_
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A started cluster; the tests join it."""
    from study.distributed.cluster import connected

    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(STRANGE_FILES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(hook), prepend=os.pathsep)
        with connected():
            yield


@pytest.fixture(scope="module")
def study_of(make_dataset, tmp_path_factory):
    """A function that makes a study of a small network on the tiny dataset; sections of the study file are added."""

    def make(name, **sections):
        root = make_dataset(tmp_path_factory.mktemp(name) / "tiny")
        source = {"kind": "phantom", "name": "site_a", "patients": 4}
        raw = {
            "study": name,
            "data": {"prepared": str(root), "image_size": 32, "sources": [source]},
            "model": {"name": "test_efficientnet", "drop_rate": 0.2},
            "augment": {"policy": "none"},
        }
        return StudyConfig.model_validate(raw | sections)

    return make
