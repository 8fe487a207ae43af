"""A headless Chromium, spoken to by its own protocol, for tests that open pages as people do."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np
import pandas as pd
import pytest

from study.config import load_config
from study.data.shards import open_dataset, read_manifest
from study.ledger import Reading, RunRecord
from study.report.page import drawing
from study.report.page.build import build_page
from study.report.page.evidence import Data, Evidence, Ledgered, read_arms
from study.stats import hedges_g, holm, mean_interval, welch
from study.types import ConfirmRow, Retry, RunOutcome, StudyResult, TrialRow

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-port=0",
)


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page: its console's errors, what it asked the network for, sizes, answers, a picture."""

    errors: list[str]
    requests: list[str]
    answers: dict
    png: bytes


class Browser:
    """One Chromium for all pages; each is opened in a tab of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def open(
        self, path: Path, *, width: int, height: int = 900, ask: dict[str, str] | None = None, whole: bool = False
    ) -> Seen:
        """Open a file at a width; ``ask`` are expressions of JavaScript by name; ``whole`` pictures all of the page."""
        return asyncio.run(self._open(path, width, height, ask or {}, whole))

    async def _open(self, path, width, height, ask, whole):
        errors, requests, waiting = [], [], {}
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{self.port}/json/new?about:blank") as answer:
                target = await answer.json(content_type=None)
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                loaded = asyncio.Event()

                async def listen():
                    async for message in socket:
                        event = json.loads(message.data)
                        if "id" in event:
                            waiting.pop(event["id"]).set_result(event)
                        elif event["method"] == "Runtime.exceptionThrown":
                            errors.append(event["params"]["exceptionDetails"]["text"])
                        elif event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in (
                            "error",
                            "warning",
                        ):
                            errors.append(str(event["params"]["args"]))
                        elif event["method"] == "Log.entryAdded":
                            errors.append(event["params"]["entry"]["text"])
                        elif event["method"] == "Network.requestWillBeSent":
                            requests.append(event["params"]["request"]["url"][:80])
                        elif event["method"] == "Page.loadEventFired":
                            loaded.set()

                async def call(method, **params):
                    number = call.last = getattr(call, "last", 0) + 1
                    waiting[number] = asyncio.get_running_loop().create_future()
                    await socket.send_json({"id": number, "method": method, "params": params})
                    answer = await asyncio.wait_for(waiting[number], 60)
                    assert "error" not in answer, answer
                    return answer["result"]

                listener = asyncio.create_task(listen())
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await call(f"{domain}.enable")
                await call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=height,
                    deviceScaleFactor=1,
                    mobile=width < 600,
                )
                await call("Page.navigate", url=path.resolve().as_uri())
                await asyncio.wait_for(loaded.wait(), 60)
                answers = {}
                for name, expression in ask.items():
                    found = await call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
                    answers[name] = found["result"].get("value")
                shot = await call("Page.captureScreenshot", captureBeyondViewport=whole)
                listener.cancel()
            async with session.get(f"http://127.0.0.1:{self.port}/json/close/{target['id']}"):
                pass
        return Seen(errors, requests, answers, base64.b64decode(shot["data"]))


@pytest.fixture(scope="session")
def browser():
    """A running headless Chromium; tests that need one are skipped, with the reason, where there is none."""
    if CHROMIUM is None:
        if os.environ.get("STUDY_NEEDS_CHROMIUM"):
            pytest.fail("no Chromium on this machine: apt-get install chromium")
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = Path(profile) / "DevToolsActivePort"
            for _ in range(600):
                if port.exists() and port.read_text().strip():
                    break
                time.sleep(0.05)
            yield Browser(int(port.read_text().split()[0]))
        finally:
            process.terminate()
            process.wait(timeout=30)


CLASSES = ("normal", "benign", "malignant")
SEEDS = (0, 1, 2)
FILE = """
study: example
data:
  prepared: {root}
  sources: [{{kind: phantom, name: site_a, patients: 30, seed: 1}}]
search:
  trials: 6
  space:
    loss.name: {{choice: [cross_entropy, emd, focal]}}
    loss.gamma: {{float: [0.5, 5.0], when: {{loss.name: focal}}}}
    optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}
confirm: {{top: 2, seeds: [0, 1, 2]}}
"""


def trial(number, state, value, **params):
    curve = (0.5, 0.6, value) if value is not None else ()
    metrics = {"val/auroc_macro": value or 0.0}
    more = {"reason": "the loss is not finite at step 7"} if state == "failed" else {}
    return TrialRow(
        trial=str(number), state=state, value=value, params=params, metrics=metrics, seeds=(0,), epochs=len(curve),
        curve=curve, seconds=30.0, device_seconds=30.0, images=900, **more,
    )  # fmt: skip


def confirm_rows(values):
    """Rows as the confirmation makes them, the baseline last."""
    base = values["baseline"]
    p = {name: welch(sample, base).p for name, sample in values.items() if name != "baseline"}
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    rows = []
    for name, sample in values.items():
        found = mean_interval(sample)
        more = {} if name == "baseline" else {"effect": hedges_g(sample, base), "p": p[name], "p_holm": corrected[name]}
        rows.append(
            ConfirmRow(
                trial=name, params={} if name == "baseline" else {"loss.name": "emd", "optim.lr": 0.004}, seeds=SEEDS,
                values=tuple(sample), mean=found.mean, sd=found.sd, low=found.low, high=found.high,
                val_mean={"4": 0.84, "1": 0.83}.get(name, 0.8), **more,
            )
        )  # fmt: skip
    return tuple(rows)


def read_on_test(value):
    metrics = {"test/auroc_macro": value, "test/f1_macro": value - 0.2, "test/grade_mae": 1 - value}
    metrics["test/task/density/auroc_macro"] = value - 0.1
    return RunOutcome(state="complete", metrics=metrics)


def write_predictions(root, dataset, *, skill, seed):
    """Predictions files of one run, better with more ``skill``."""
    rng = np.random.default_rng(seed)
    for split in ("val", "test"):
        rows_n = dataset.rows(split)
        labels_n = dataset.labels_n[rows_n]
        logits = rng.normal(size=(len(rows_n), 3)) + skill * np.eye(3)[labels_n]
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        rows = dataset.manifest.iloc[rows_n]
        table = rows[["image_id", "patient_id", "source", "segment"]].astype(str)
        table["breast"] = table["exam"] = table["patient_id"]
        table["label"] = [CLASSES[k] for k in labels_n]
        table["decoded"] = [CLASSES[k] for k in probs.argmax(axis=1)]
        for k, name in enumerate(CLASSES):
            table[f"probability_{name}"] = probs[:, k]
        root.mkdir(parents=True, exist_ok=True)
        table.reset_index(drop=True).to_parquet(root / f"predictions_{split}.parquet")


@pytest.fixture(scope="session")
def evidence(tmp_path_factory, make_dataset):
    """A finished study of six trials whose winner is better than the baseline, with real predictions files."""
    tmp_path = tmp_path_factory.mktemp("report")
    root = make_dataset(tmp_path / "data")
    manifest = pd.read_parquet(root / "manifest.parquet")
    place = np.arange(len(manifest))
    manifest = manifest.assign(
        drop_reason="", view=np.where(place % 4 < 2, "CC", "MLO"), density="B", manufacturer="Alpha",
        image_kind="FFDM", laterality="L", age=45.0 + place % 30,
    )  # fmt: skip
    lost = manifest.iloc[:5].assign(drop_reason="BI-RADS 3", label=pd.NA, shard=None, split=None)
    lost.loc[lost.index[4], "drop_reason"] = "cannot read /data/MEIER^ANNA/lostpatient00004.dcm"
    lost = lost.assign(
        image_id=[f"lostimage{i:07d}" for i in range(5)], patient_id=[f"lostpatient{i:05d}" for i in range(5)]
    )
    pd.concat([manifest, lost]).reset_index(drop=True).to_parquet(root / "manifest.parquet")
    dataset = open_dataset(root)
    data = Data(dataset=dataset, manifest=read_manifest(root))
    file = tmp_path / "example.yaml"
    file.write_text(FILE.format(root=root))
    directory = tmp_path / "studies" / "example"
    values = {"4": [0.85, 0.86, 0.87], "1": [0.80, 0.79, 0.82], "baseline": [0.78, 0.79, 0.77]}
    for name, skill in (("4", 2.5), ("1", 1.2), ("baseline", 1.0)):
        for seed in SEEDS:
            write_predictions(directory / "runs" / f"{name}-s{seed}", dataset, skill=skill, seed=seed + int(10 * skill))
    rows = (
        trial(0, "complete", 0.7, **{"loss.name": "cross_entropy", "optim.lr": 0.001}),
        trial(1, "complete", 0.83, **{"loss.name": "emd", "optim.lr": 0.002}),
        trial(2, "pruned", 0.6, **{"loss.name": "focal", "loss.gamma": 2.0, "optim.lr": 0.0002}),
        trial(3, "failed", None, **{"loss.name": "focal", "loss.gamma": 4.9, "optim.lr": 0.01}),
        trial(4, "complete", 0.84, **{"loss.name": "emd", "optim.lr": 0.004}),
        trial(5, "pruned", 0.65, **{"loss.name": "focal", "loss.gamma": 1.0, "optim.lr": 0.0003}),
    )
    result = StudyResult(
        study="example", state="done", metric="val/auroc_macro", mode="max", rows=rows, confirmed=confirm_rows(values),
        trials_planned=6,
    )  # fmt: skip
    records = [
        RunRecord(trial=name, seed=seed, kind="evaluate", outcome=read_on_test(value))
        for name, sample in values.items()
        for seed, value in zip(SEEDS, sample, strict=True)
    ]
    ledgered = Ledgered(
        records=records,
        readings=[Reading(trial="4", seed=0, time="2026-01-02T03:04:05+00:00")],
        retries={("2", 0): (Retry(parts=2, text="memory ran out, tried in 2 parts"),)},
        fingerprint=dataset.fingerprint,
    )
    found = Evidence(
        config=load_config(file), result=result, directory=directory, ledgered=ledgered, data=data, arms=()
    )
    return found.with_arms(read_arms(directory, found.rows_to_show(), data=data, classes=dataset.classes))


@pytest.fixture(scope="session")
def page(evidence):
    """The report of the example, with its figures."""
    return build_page(evidence)


@pytest.fixture
def quick(monkeypatch):
    """Figures are drawn, but not written, which takes most of the time."""
    monkeypatch.setattr(drawing, "saved", lambda figure: (b"<svg/>", b"png"))


@pytest.fixture
def own_runs(evidence, tmp_path):
    """The example with run folders that a test may damage."""
    shutil.copytree(evidence.directory, tmp_path / "example")
    return replace(evidence, directory=tmp_path / "example")
