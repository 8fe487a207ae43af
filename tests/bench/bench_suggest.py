"""What a durable suggestion costs beside bare Optuna in memory: 12 parameters, 8 of them conditional, by trials before.

    .venv/bin/python tests/bench/bench_suggest.py

Rows: bare Optuna (the same sampler, ask in memory), this ledger on SQLite, the same rows through Optuna's own SQLite
storage, and Optuna's journal file. All alternate within one run; the goal is at most 1.1 times bare plus 6 ms.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from study.config import PrunerConfig
from study.ledger import Ledger
from study.ledger.asking import ended
from study.ledger.creating import create_trial
from study.ledger.storage import open_storage
from study.ledger.suggestion import _Ask
from study.space import SearchSpace, parse_space, walk
from study.types import EpochResult, RunKey, RunOutcome

METRIC = "val/auroc_macro"
SPACE: dict[str, Any] = {"p0": {"choice": ["a", "b", "c"]}, "p1": {"choice": ["x", "y"]}}
SPACE |= {f"p{i}": {"float": [1e-4, 1e-1], "scale": "log", "when": {"p0": "abc"[i % 3]}} for i in range(2, 8)}
SPACE |= {f"p{i}": {"int": [1, 64], "when": {"p1": "xy"[i % 2]}} for i in range(8, 10)}
SPACE |= {f"p{i}": {"float": [0.0, 1.0]} for i in range(10, 12)}


def config_of(trials: int, algorithm: str) -> Any:
    """What the ledger reads of a study file."""
    search = SimpleNamespace(
        algorithm=algorithm,
        trials=trials,
        population=None,
        budget=None,
        constraints={},
        start_with=(),
        pruner=PrunerConfig(),
        space=SPACE,
    )
    return SimpleNamespace(
        study="bench",
        seed=0,
        search=search,
        train=SimpleNamespace(epochs=1),
        metric=METRIC,
        metrics=(METRIC,),
        mode="max",
        num_trials=trials,
        run_keys=(RunKey(seed=0),),
        resources=SimpleNamespace(workers=1, gpus_per_worker=0),
    )


def value_of(params: dict[str, Any]) -> float:
    """A made-up result."""
    return sum(float(value) for value in params.values() if isinstance(value, float)) + 0.01 * random.random()


def filled(folder: Path, number: int, algorithm: str) -> Ledger:
    """A ledger with ``number`` finished trials, drawn at random."""
    ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}", config=config_of(100_000, "random"))
    for _ in range(number):
        draft, _ = ledger._asking.draft()
        assert draft is not None
        outcome = {"state": "complete", "best_epoch": 1, "metrics": {}, "checkpoint": "", "reason": ""}
        value = value_of(draft.user_attrs["params"])
        create_trial(
            ledger._storage, ledger._study_id, ended(draft, state=TrialState.COMPLETE, values=[value], outcome=outcome)
        )
        ledger._take(ended(draft, state=TrialState.COMPLETE, values=[value], outcome=outcome))
    ledger.close()
    return Ledger.open(f"sqlite:///{folder / 'ledger.db'}", config=config_of(100_000, algorithm))


def bare(ledger: Ledger, storage: Any, space: SearchSpace) -> Callable[[], dict[str, Any]]:
    """Optuna alone with the same trials and sampler in some storage; the call is one ask and its suggests."""
    sampler = optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=0)
    study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler)
    study.add_trials(
        [
            optuna.trial.create_trial(
                state=trial.state, values=trial.values, params=trial.params, distributions=trial.distributions
            )
            for trial in ledger._trials()
        ]
    )

    def ask() -> dict[str, Any]:
        trial = study.ask()
        params = walk(space, _Ask(trial, {}))
        study_tells.append((study, trial, value_of(params)))
        return params

    return ask


study_tells: list[tuple[Any, Any, float]] = []


def settle(ledger: Ledger) -> None:
    """Finish what was asked, outside of the clock."""
    for study, trial, value in study_tells:
        study.tell(trial, value)
    study_tells.clear()
    for row in ledger.rows()[-3:]:
        if row.state == "running":
            number = int(row.trial)
            result = EpochResult(epoch=1, metrics={METRIC: value_of(dict(row.params))}, images=1, seconds=1.0)
            ledger.report(number, result)
            ledger.finish(number, RunOutcome(state="complete", best_epoch=1))


def measure(number: int, repeats: int, *, others: bool) -> dict[str, Any]:
    """Milliseconds of one suggestion by way, medians and ranges of alternating repetitions."""
    folder, space = Path(tempfile.mkdtemp()), parse_space(SPACE)
    ledger = filled(folder, number, "tpe")
    ways: dict[str, Callable[[], Any]] = {
        "bare": bare(ledger, InMemoryStorage(), space),
        "ledger": ledger.next_trial,
    }
    if others:
        ways["optuna sqlite"] = bare(ledger, open_storage(f"sqlite:///{folder / 'plain.db'}", create=True), space)
        ways["optuna journal"] = bare(ledger, JournalStorage(JournalFileBackend(str(folder / "journal.log"))), space)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if repeat:  # the first one warms caches on all sides
                taken[name].append(1e3 * (time.perf_counter() - began))
        settle(ledger)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    found: dict[str, Any] = {"trials": number}
    for name, times in taken.items():
        found[name] = {"median_ms": round(medians[name], 1), "range_ms": [round(min(times), 1), round(max(times), 1)]}
    found["limit_ms"] = round(1.1 * medians["bare"] + 6, 1)
    found["within"] = medians["ledger"] <= 1.1 * medians["bare"] + 6
    return found


@pytest.mark.parametrize("number", [100, 1000])
def test_suggestion(number: int) -> None:
    """A suggestion that is stored costs at most 1.1 times bare Optuna plus 6 ms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measure(number, 15, others=False)
    print(f"\n{json.dumps(found)}")
    assert found["within"]


def main() -> None:
    """Print one JSON line per number of trials."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--others", action="store_true", help="also Optuna's own SQLite storage and journal file")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for number in given.trials:
        print(json.dumps(measure(number, given.repeats, others=given.others)), flush=True)


if __name__ == "__main__":
    main()
