"""What logging costs the thread that logs, against MLflow's own call.

Run with `make bench`, or alone: `python -m pytest -q -s tests/bench/bench_logging.py`. The tracker writes an epoch as
one line into its journal and returns; another thread brings it to MLflow. Prints microseconds of one run, and asserts
that everything arrived and that no number takes more than 5. The clock of a run's steps, and the line of an epoch in
``events.jsonl``, are timed alike.
"""

import statistics
import time

import torch
from mlflow import MlflowClient

from study.config import StudyConfig
from study.console.eventlog import event_log
from study.tracking import Tracker
from study.training.clock import PHASES, StepClock, Usage, system_numbers
from study.types import EpochResult, Event

EPOCHS, METRICS, PLAIN = 400, 60, 20
CONFIG = {"study": "bench", "data": {"prepared": "d", "sources": [{"kind": "phantom", "name": "a", "patients": 4}]}}


def test_logging(tmp_path):
    """Microseconds for each metric of an epoch."""
    metrics = METRICS
    values = {f"val/segment/site_{i}/auroc": 1 / (i + 3) for i in range(metrics)}
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(tmp_path, uri, StudyConfig.model_validate(CONFIG))
    tracker.start_run("0", 0, params={})
    spent = []
    for epoch in range(1, EPOCHS + 1):
        result = EpochResult(epoch=epoch, metrics=values, images=64, seconds=1.0)
        begun = time.perf_counter()
        tracker.log_epoch("0", 0, result)
        spent.append(time.perf_counter() - begun)
    left = tracker.close(300)
    assert left == 0
    ours = 1e6 * statistics.median(spent) / metrics
    print(f"\ntracker, while its other thread writes to MLflow: {ours:.2f} us for each of {metrics} metrics (median)")
    plain = 1e6 * statistics.median(seconds_of_mlflow(uri, values)) / metrics
    print(f"MLflow's log_batch on the same store: {plain:.0f} us a metric, {plain / ours:.0f} times as much")
    assert ours < 5.0


def test_system_numbers():
    """Microseconds that the clock costs a step, and what an epoch's numbers of the machine cost, each."""
    clock, usage = StepClock(), Usage(torch.device("cpu"))
    step, epoch = [], []
    for _ in range(EPOCHS):
        clock.restart()
        begun = time.perf_counter()
        for phase in PHASES:
            clock.mark(phase)
        usage.look()
        clock.count_step()
        step.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        found = system_numbers(clock, usage, images=64)
        epoch.append((time.perf_counter() - begun) / len(found))
    ours = 1e6 * statistics.median(epoch)
    print(f"\nclock: {1e6 * statistics.median(step):.2f} us a step; system/...: {ours:.2f} us a number and epoch")
    assert ours < 5.0


def test_event_log(tmp_path):
    """Microseconds of a line with an epoch, in the driver; no worker waits for it."""
    values = {f"val/segment/site_{i}/auroc": 1 / (i + 3) for i in range(METRICS)}
    result, spent = EpochResult(epoch=1, metrics=values, images=64, seconds=1.0), []
    with event_log(tmp_path / "events.jsonl", study="bench") as log:
        for number in range(EPOCHS):
            event = Event(kind="epoch", trial=str(number), run=f"{number}-s0", result=result, value=0.5)
            begun = time.perf_counter()
            log.observe(event)
            spent.append(time.perf_counter() - begun)
    ours, size = 1e6 * statistics.median(spent), (tmp_path / "events.jsonl").stat().st_size / EPOCHS
    print(f"\nevents.jsonl: {ours:.0f} us a line of {METRICS} metrics, {ours / METRICS:.2f} us each; {size:.0f} bytes")
    assert ours / METRICS < 5.0


def seconds_of_mlflow(uri, values):
    """Seconds of each of some calls of MLflow with the same metrics."""
    from mlflow.entities import Metric

    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("plain")).info.run_id
    spent = []
    for step in range(PLAIN):
        begun = time.perf_counter()
        client.log_batch(run, metrics=[Metric(name, value, 0, step) for name, value in values.items()])
        spent.append(time.perf_counter() - begun)
    return spent
