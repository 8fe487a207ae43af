"""The doctor finds what is missing, says how to mend it, and gives the right exit code."""

import http.server
import importlib.metadata
import socket
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from study.doctor import Finding, exit_code, findings_table, services
from study.doctor import machine as machine_checks
from study.doctor.machine import check_decoders, check_disk, check_packages, check_python, check_shared_memory
from study.doctor.services import check_ledger, check_libraries, check_mlflow_uri, check_ray_address
from study.doctor.studyfile import check_file

OK = Finding(area="Python", state="ok", text="3.11.7")
WARNING = Finding(area="memory", state="warning", text="0.1 GiB free", fix="start it with --shm-size=8g")
MISSING = Finding(area="Ray", state="missing", text="does not import", fix="make setup")
FAULT = Finding(area="file", state="missing", text="loss.name: 'fokal'", fix="correct the study file", is_input=True)


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class TestFindings:
    @pytest.mark.parametrize(
        ("findings", "code"),
        [([], 0), ([OK, WARNING], 0), ([OK, MISSING], 3), ([WARNING, FAULT], 2), ([FAULT, MISSING], 3)],
    )
    def test_exit_code(self, findings, code):
        """Warnings pass, a broken study file is bad input, and what the machine lacks weighs more."""
        assert exit_code(findings) == code

    def test_table(self):
        """Each finding has its line and its fix below it; long texts go on under their own column."""
        long = Finding(area="file", state="missing", text="a.b: " + "word " * 20, fix="do that", is_input=True)
        assert findings_table([OK, WARNING, long], width=60).splitlines() == [
            "ok       Python  3.11.7",
            "warning  memory  0.1 GiB free",
            "                 fix: start it with --shm-size=8g",
            "missing  file    a.b: word word word word word word word",
            "                 word word word word word word word word",
            "                 word word word word word",
            "                 fix: do that",
            "",
            "1 missing, 1 to look at",
        ]

    def test_summary(self):
        """The last line says whether a study can run."""
        assert findings_table([OK]).splitlines()[-1] == "Ready."
        assert findings_table([OK, WARNING]).splitlines()[-1] == "Ready; 1 to look at."


class TestMachine:
    def test_python(self, monkeypatch):
        """A Python that study was not written for is missing, with the command that chooses another."""
        assert check_python().state == "ok"
        monkeypatch.setattr(sys, "version_info", (3, 9, 1))
        finding = check_python()
        assert (finding.state, finding.fix) == ("missing", "make PYTHON=python3.11 setup")

    def test_packages(self, monkeypatch):
        """An absent package is missing, one outside its range a warning with the range; extras are not asked for."""
        versions = {"alpha": "1.5", "beta": "3.0"}

        def version(name: str) -> str:
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        wanted = ["alpha>=1,<2", "beta>=2", "pytest>=9; extra == 'test'"]
        monkeypatch.setattr(importlib.metadata, "requires", lambda _name: wanted)
        monkeypatch.setattr(importlib.metadata, "version", version)
        assert check_packages() == Finding(area="packages", state="ok", text="2 packages within their ranges")
        versions["alpha"] = "2.1"
        assert check_packages().text == "alpha 2.1 (<2,>=1 is expected)"
        del versions["beta"]
        finding = check_packages()
        assert (finding.state, finding.text) == ("missing", "not installed: beta")

    def test_decoders(self):
        """All compressed forms are really decoded here."""
        assert [(finding.state, finding.text) for finding in check_decoders()] == [
            ("ok", "JPEG Lossless (imagecodecs)"),
            ("ok", "JPEG-LS (imagecodecs)"),
            ("ok", "JPEG 2000 (imagecodecs)"),
            ("ok", "RLE (imagecodecs)"),
        ]

    def test_broken_decoder(self, monkeypatch):
        """A decoder that fails, or that gives other pixels, is missing with the package that mends it."""
        monkeypatch.setattr(machine_checks, "_decoded", lambda *_: [0] * 64)
        assert {finding.text for finding in check_decoders()} >= {"RLE gives wrong pixels"}

        def fail(*_: object) -> list[int]:
            raise RuntimeError("no plugin")

        monkeypatch.setattr(machine_checks, "_decoded", fail)
        finding = check_decoders()[0]
        assert (finding.state, finding.text) == ("missing", "JPEG Lossless cannot be decoded (RuntimeError)")
        assert finding.fix == "pip install imagecodecs"

    @pytest.mark.parametrize(("free", "state"), [(100, "ok"), (5, "warning"), (0.5, "missing")])
    def test_disk(self, monkeypatch, tmp_path, free, state):
        """Little room is a warning, no room is missing; a folder that does not exist yet is measured by its parent."""
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda _path: usage(0, 0, int(free * 2**30)))
        assert check_disk(tmp_path / "not" / "yet").state == state

    def test_shared_memory(self, monkeypatch, tmp_path):
        """Shared memory as small as a container's default is a warning that names the option."""
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda _path: usage(0, 0, 64 * 2**20))
        assert "--shm-size" in check_shared_memory(tmp_path).fix
        assert check_shared_memory(tmp_path / "absent").state == "warning"


class TestServices:
    def test_libraries(self, monkeypatch):
        """A library that does not import is missing, with the last line of its error; GPUs are listed by name."""
        probes = {
            "PyTorch": 'print(\'{"torch": "2.13.0", "gpus": ["H200", "H200"]}\')',
            "Ray": "import no_such_library",
        }
        monkeypatch.setattr(services, "_PROBES", probes)
        assert [(finding.area, finding.state, finding.text) for finding in check_libraries()] == [
            ("PyTorch", "ok", "torch 2.13.0"),
            ("GPU", "ok", "2 x H200"),
            ("Ray", "missing", "does not import: ModuleNotFoundError: No module named 'no_such_library'"),
        ]

    def test_addresses_that_do_not_answer(self, free_port, tmp_path):
        """A server that is set but does not answer is found, and no password is shown."""
        ray = check_ray_address(f"ray://127.0.0.1:{free_port}")
        ledger = check_ledger(f"postgresql://ann:secret@127.0.0.1:{free_port}/x", tmp_path)
        mlflow = check_mlflow_uri(f"http://ann:secret@127.0.0.1:{free_port}")
        assert ray is not None
        assert mlflow is not None
        assert (ray.state, ledger.state, mlflow.state) == ("missing", "missing", "warning")
        assert "secret" not in f"{ray}{ledger}{mlflow}"
        assert ledger.text == f"127.0.0.1:{free_port} does not answer"

    @pytest.mark.parametrize("host", ["[::1", "127.0.0.1:port", "a b"])
    def test_addresses_that_are_none(self, host, tmp_path):
        """One that cannot be read is found as one that does not answer, without its password."""
        found = [
            check_ray_address(f"ray://{host}"),
            check_ledger(f"postgresql://ann:secret@{host}/x", tmp_path),
            check_mlflow_uri(f"http://ann:secret@{host}"),
        ]
        assert ["does not answer" in finding.text for finding in found if finding] == [True] * 3
        assert "secret" not in f"{found}"

    def test_addresses_that_answer(self, tmp_path):
        """A server that answers is ok; MLflow's is asked for its health."""

        class Healthy(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/health" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keeps the test quiet."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            place = f"127.0.0.1:{server.server_port}"
            found = [
                check_ray_address(place),
                check_ledger(f"postgresql://{place}/x", tmp_path),
                check_mlflow_uri(f"http://ann:secret@{place}/"),
            ]
            server.shutdown()
        assert [finding and finding.text for finding in found] == [f"{place} answers"] * 3

    def test_nothing_set(self, tmp_path):
        """Without addresses there is nothing to reach, and SQLite is tried where the studies will lie."""
        assert (check_ray_address(None), check_mlflow_uri(None)) == (None, None)
        assert check_ledger(None, tmp_path / "not" / "yet").text == f"SQLite writes in {tmp_path}"
        assert list(tmp_path.iterdir()) == []

    def test_mlflow_folder(self):
        """A folder as MLflow's address is found before MLflow refuses it."""
        finding = check_mlflow_uri("./mlruns")
        assert finding is not None
        assert finding.state == "warning"


class TestStudyFile:
    GOOD = """
        study: tiny
        data:
          prepared: {prepared}
          sources: [{{kind: phantom, name: site_a, patients: 30, seed: 1}}]
          image_size: 64
        model: {{name: test_efficientnet}}
        train: {{epochs: 2}}
        resources: {{workers: 1, cpus_per_worker: 0.5}}
    """

    def write(self, folder: Path, text: str) -> Path:
        path = folder / "tiny.yaml"
        path.write_text(text.format(prepared=folder / "prepared"))
        return path

    def test_no_faults(self, tmp_path):
        """A sound file is ok, and its data are counted without a pixel being written."""
        findings = check_file(self.write(tmp_path, self.GOOD))
        assert [(finding.area, finding.state) for finding in findings] == [("file", "ok"), ("data", "ok")]
        assert "images of 30 patients" in findings[1].text
        assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]

    def test_all_faults_at_once(self, tmp_path):
        """Faults of the file, of its model and of its resources come together, each as bad input."""
        text = self.GOOD.replace("test_efficientnet", "test_eficientnet").replace("epochs: 2", "epochs: 0")
        findings = check_file(self.write(tmp_path, text.replace("workers: 1", "workers: 4096")))
        texts = " | ".join(finding.text for finding in findings)
        for path in ("train.epochs", "model.name", "resources.workers"):
            assert path in texts
        assert exit_code(findings) == 2

    def test_no_such_file(self, tmp_path):
        """A file that is not there is one finding, not a traceback."""
        findings = check_file(tmp_path / "absent.yaml")
        assert [finding.state for finding in findings] == ["missing"]
        assert exit_code(findings) == 2
