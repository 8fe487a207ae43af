"""What a study's driver does for a trial, and what a checkpoint costs: the constants of `simulate_cluster.py`.

    .venv/bin/python -m tests.bench.bench_driver --trials 1000 [--postgresql] [--checkpoint]

One thread drives a study: it suggests, keeps each epoch and asks the pruner, and ends trials. Trials with 12 parameters
(`bench_suggest.py`) and 60 metrics an epoch go through the ledger one after the other; medians of the last tenth, and
beside them the processor time of this process (``cpu``), which other work on the machine does not lengthen. One JSON
line for each store.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from study.config import PrunerConfig
from study.ledger import Ledger
from study.types import EpochResult, RunKey, RunOutcome
from tests.bench.bench_suggest import METRIC, config_of, value_of

KEY = RunKey(seed=0)
EPOCHS, METRICS, SUGGESTIONS = 2, 60, 15
MOST_S = 75  # of filling a store; what was measured until then counts


def settings(algorithm: str) -> Any:
    """A study with successive halving."""
    config = config_of(100_000, algorithm)
    config.search.pruner = PrunerConfig(name="successive_halving", min_epochs=1)
    config.train.epochs = 30
    return config


def ledger_times(url: str, trials: int) -> dict[str, Any]:
    """Milliseconds of each operation after so many trials."""
    taken: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began, cpu_began = time.perf_counter(), time.process_time()
        found = call()
        taken[f"{name}_cpu"].append(1e3 * (time.process_time() - cpu_began))
        taken[name].append(1e3 * (time.perf_counter() - began))
        return found

    ledger = Ledger.open(url, config=settings("random"))
    began, done = time.perf_counter(), 0
    while done < trials and time.perf_counter() - began < MOST_S:
        trial = ledger.next_trial()
        assert trial is not None
        value = value_of(dict(trial.params))
        metrics = {METRIC: value} | {f"val/segment/site_{i}/auroc": value / (i + 3) for i in range(METRICS)}
        stops = False
        for epoch in range(1, EPOCHS + 1):
            result = EpochResult(epoch=epoch, metrics=metrics, images=1, seconds=1.0)
            timed("report", partial(ledger.report, trial.number, result, KEY))
            stops = timed("prune", partial(ledger.should_prune, trial.number, KEY))
            if stops:
                break
        outcome = RunOutcome(state="pruned" if stops else "complete", best_epoch=1, metrics=metrics)
        timed("finish", partial(ledger.finish, trial.number, outcome))
        done += 1
    ledger.close()
    ledger = Ledger.open(url, config=settings("tpe"))
    for _ in range(SUGGESTIONS):
        timed("suggest", ledger.next_trial)
    ledger.close()
    last = {name: times[-max(1, len(times) // 10) :] for name, times in taken.items()}
    last |= {name: taken[name][1:] for name in ("suggest", "suggest_cpu")}
    return {"trials": done} | {f"{name}_ms": round(statistics.median(times), 2) for name, times in last.items()}


def checkpoint_speed() -> dict[str, float]:
    """Megabytes of a checkpoint of EfficientNet-B3 with AdamW, and how many are written in a second."""
    import torch

    from study import checkpoint
    from study.checkpoint import TrainState
    from study.models import make_model

    network = make_model("efficientnet_b3", num_outputs=3, pretrained=False, in_channels=1, image_hw=(512, 512))
    optimiser = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    with tempfile.TemporaryDirectory() as folder:
        spent = []
        for step in range(1, 6):
            state = TrainState(
                model=network.state_dict(),
                raw={},
                optimiser=optimiser.state_dict(),
                scaler={},
                step=step,
                epoch=step,
                partial={},
                history=[],
                best_epoch=0,
                best_value=None,
                identity="",
            )
            checkpoint.claim(Path(folder), 1)
            began = time.perf_counter()
            written = checkpoint.save(Path(folder), state, attempt=1, is_best=False)
            spent.append(time.perf_counter() - began)
        size = sum(file.stat().st_size for file in written.iterdir())
    seconds = statistics.median(spent)
    return {"checkpoint_mb": size / 1e6, "seconds": seconds, "mb_per_s": size / 1e6 / seconds}


def main() -> None:
    """Print a JSON line for each store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--postgresql", action="store_true", help="also a server that is started for it")
    parser.add_argument("--checkpoint", action="store_true", help="also a checkpoint of EfficientNet-B3")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"store": "sqlite"} | ledger_times(f"sqlite:///{folder}/ledger.db", given.trials)), flush=True)
    if given.postgresql:
        from tests.servers import PostgresServer

        server = PostgresServer()
        try:
            server.start()
            print(json.dumps({"store": "postgresql"} | ledger_times(server.url, given.trials)), flush=True)
        finally:
            server.remove()
    if given.checkpoint:
        print(json.dumps(checkpoint_speed()), flush=True)


if __name__ == "__main__":
    main()
