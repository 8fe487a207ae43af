"""What a study costs beyond the training itself: slots, Tune, ledger, checkpoints' notes and MLflow.

Run with `make bench`, or alone with `python -m pytest -q -s tests/bench/bench_overhead.py`: about 18 minutes on two
cores. A study of equal trials runs as users run it, by `study run` in a process of its own. Then some of the same
trials are trained one after the other by the same loop over the same stream in one process, without all of the above.
Two lengths of trials: about 2 s and about 60 s on two cores. What a study costs once, before its first trial and after
its last, is told apart from what each trial costs. Prints ratios of one run; asserts only that the work was the same.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
import ray
import torch

from study.config import apply_params, load_config
from study.data.augment import tune_malloc
from study.distributed.cluster import connected
from study.distributed.loading import TASK_CPUS
from study.distributed.runs import build_run, evaluate_best
from study.distributed.stream import StreamSettings, batch_stream
from study.ledger import Ledger, default_url
from study.training import Hooks, train_run

STUDY = Path(sys.executable).parent / "study"
IMAGES, SIDE = 288, 64
TEXT = """\
study: bench
data:
  prepared: {prepared}
  image_size: {side}
  sources: [{{kind: phantom, name: site_a, patients: 12}}]
model: {{name: test_efficientnet}}
sampler: {{name: none, epoch_draws: {draws}}}
train: {{epochs: 3, batch_size: 32}}
search:
  trials: {trials}
  algorithm: random
  pruner: {{name: none}}
  space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}
resources: {{concurrent: 1}}
"""


@dataclass(frozen=True)
class Case:
    """Trials of one length; so many of them are trained alone, for they are equal."""

    trials: int
    alone: int
    draws: int


CASES = {"2 s": Case(trials=100, alone=40, draws=256), "60 s": Case(trials=8, alone=2, draws=8_000)}


def seconds_of_study(folder):
    """Seconds of `study run` from its start to its end."""
    begun = time.perf_counter()
    with (folder / "out.txt").open("w") as out:
        subprocess.run([STUDY, "run", "bench.yaml"], cwd=folder, stdout=out, stderr=out, check=True)
    return time.perf_counter() - begun


def seconds_of_trial(directory):
    """Seconds from the end of a trial to that of the next one, on average, as the study's events tell."""
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    ends = [datetime.fromisoformat(event["time"]).timestamp() for event in events if event["event"] == "run.ended"]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def seconds_of_training(config, spots, folder):
    """Seconds of the same trials, and their last losses."""
    losses, spent = {}, 0.0
    for trial, params in spots.items():
        begun = time.perf_counter()
        own = apply_params(config, params)
        parts, plan = build_run(own, seed=own.seed)
        settings = StreamSettings(
            root=own.data.prepared,
            fingerprint=parts.dataset.fingerprint,
            policy=own.augment.policy,
            mode=own.augment.mode,
            seed=own.seed,
            task_cpus=TASK_CPUS,
        )

        def stream(start, plan=plan, settings=settings, parts=parts):
            return batch_stream(plan, settings, rank=0, world_size=1, start_step=start, targets=parts.targets)

        epochs = []
        train_run(parts, stream=stream, directory=folder / trial, attempt=1, hooks=hooks(epochs))
        evaluate_best(parts, folder / trial, split="val", device=torch.device("cpu"), write=True)
        spent += time.perf_counter() - begun
        losses[trial] = epochs[-1].metrics["train/loss"]
    return spent, losses


def seconds_when_warm(config, spots, count, folder):
    """Seconds and losses of the first ``count`` trials, after one that starts processes and imports modules."""
    tune_malloc()  # as a slot's worker does: large batches are as fast as there
    seconds_of_training(config, dict(list(spots.items())[:1]), folder / "warm")
    return seconds_of_training(config, dict(list(spots.items())[:count]), folder / "alone")


def hooks(epochs):
    """Hooks that keep the epochs and stop nothing."""
    return Hooks(on_epoch=lambda result: epochs.append(result) or True)


@pytest.mark.parametrize("length", CASES)
def test_overhead(length, make_dataset, tmp_path):
    """A whole study against its training alone."""
    case = CASES[length]
    prepared = make_dataset(tmp_path / "data", images=IMAGES, size=SIDE)
    (tmp_path / "bench.yaml").write_text(
        TEXT.format(prepared=prepared, side=SIDE, draws=case.draws, trials=case.trials)
    )
    whole = seconds_of_study(tmp_path)
    directory = tmp_path / "studies" / "bench"
    config = load_config(directory / "study.yaml")
    ledger = Ledger.open(default_url(directory), config=config, read_only=True)
    rows = list(ledger.rows())
    spots = {row.trial: row.params for row in rows}
    kept = {row.trial: ledger.epochs(int(row.trial))[-1].metrics["train/loss"] for row in rows}
    with connected():
        spent, losses = ray.get(ray.remote(num_cpus=1)(seconds_when_warm).remote(config, spots, case.alone, tmp_path))
    assert losses == {trial: kept[trial] for trial in losses}
    alone, each = spent / case.alone, seconds_of_trial(directory)
    print(f"\n{case.trials} trials of {alone:.2f} s: study {whole:.1f} s, training alone {case.trials * alone:.1f} s,")
    print(
        f"  so {100 * (whole / case.trials / alone - 1):.1f} % more, from the start of the study's process to its end:"
    )
    print(f"  {whole - case.trials * each:.1f} s once, and {each - alone:.2f} s for each trial")
