"""What successive halving saves on the phantom, and what it costs: best validation AUROC and epochs, beside no pruning.

    .venv/bin/python tests/bench/bench_pruning.py --seeds 5

All searches go through the ledger, trial after trial; runs train in this process, without Ray. Algorithm ``random``
gives them the same configurations in the same order, so the difference is the pruner's alone, and a curve that one has
trained is read by the others. Pruning is seen in two ways: on the same trials, and with new trials for as long as half
of the epochs of the search without pruning last. The goal: the same best AUROC with at most half of the epochs (medians
over the seeds). ``--curves FILE`` keeps the curves, so that other settings of the pruner need no training.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from study.config import StudyConfig, apply_params, load_config
from study.data.sampling import Plan
from study.data.shards import PreparedDataset
from study.distributed.cluster import connected
from study.distributed.preparing import prepare_dataset
from study.distributed.runs import build_run
from study.ledger import Ledger, LedgerTrial
from study.models.inputs import to_tensor
from study.training import Batch, Hooks, train_run
from study.types import EpochResult, RunOutcome

STUDY = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"
Curves = dict[str, list[EpochResult]]


def config_of(folder: Path, options: argparse.Namespace, *, seed: int, trials: int, pruner: str) -> StudyConfig:
    """The quickstart on smaller pictures, without augmentation, which this process would make on one core."""
    halving = f"min_epochs: {options.min_epochs}, reduction_factor: {options.reduction}"
    sets = [
        f"data.prepared={folder / 'phantom-64'}",
        "data.image_size=64",
        "augment.policy=none",
        f"seed={seed}",
        f"train.epochs={options.epochs}",
        "search.algorithm=random",
        f"search.trials={trials}",
        f"search.pruner={{name: {pruner}{', ' + halving if pruner == 'successive_halving' else ''}}}",
    ]
    return load_config(STUDY, sets)


def batches(plan: Plan, dataset: PreparedDataset, start_step: int) -> Iterator[Batch]:
    """The batches of a plan, read in this process."""
    rows_n = dataset.rows("train")
    for indices_n in plan.indices(start_step):
        chosen_n = rows_n[indices_n]
        yield Batch(
            images_nchw=to_tensor(dataset.pixels(chosen_n)),
            labels_n=torch.from_numpy(dataset.labels_n[chosen_n]),
            ids_n=dataset.id_hashes_n[chosen_n],
        )


def trained(config: StudyConfig, params: Any, folder: Path, *, goes_on: Callable[[EpochResult], bool]) -> None:
    """One configuration, until ``goes_on`` says no, or to its last epoch."""
    own = apply_params(config, params)
    parts, plan = build_run(own, seed=own.seed)
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        train_run(
            parts,
            stream=lambda start: batches(plan, parts.dataset, start),
            directory=Path(directory) / "run",
            attempt=1,
            hooks=Hooks(on_epoch=goes_on),
        )


def followed(ledger: Ledger, number: int, curve: Iterable[EpochResult]) -> bool:
    """Report a curve as far as the pruner lets it go; whether it got to its end."""
    for result in curve:
        ledger.report(number, result)
        if ledger.should_prune(number):
            return False
    return True


def extended(config: StudyConfig, trial: LedgerTrial, folder: Path, *, ledger: Ledger, known: int) -> list[EpochResult]:
    """The curve of a trial as far as the pruner lets it go; the first ``known`` epochs have been reported."""
    curve: list[EpochResult] = []

    def keep(result: EpochResult) -> bool:
        curve.append(result)
        return result.epoch <= known or followed(ledger, trial.number, [result])

    trained(config, trial.params, folder, goes_on=keep)
    return curve


def searched(config: StudyConfig, folder: Path, curves: Curves, *, most_epochs: float = math.inf) -> tuple[float, int]:
    """One search, as far as ``most_epochs`` allow: its best value, and how many epochs it trained."""
    name = f"{config.search.pruner.name}-{config.seed}-{config.num_trials}"  # type: ignore[union-attr]
    ledger = Ledger.open(f"sqlite:///{folder / name}.db", config=config)
    while sum(row.epochs for row in ledger.rows()) < most_epochs and (trial := ledger.next_trial()) is not None:
        key = json.dumps([config.seed, config.train.epochs, sorted(trial.params.items())])
        known = curves.get(key, [])
        goes_on = followed(ledger, trial.number, known)
        if goes_on and len(known) < config.train.epochs:  # a curve that was cut earlier is trained from its start
            curves[key] = extended(config, trial, folder, ledger=ledger, known=len(known))
            goes_on = len(curves[key]) == config.train.epochs
        best = max(ledger.epochs(trial.number), key=lambda one: one.metrics[config.metric]).epoch
        ledger.finish(trial.number, RunOutcome(state="complete" if goes_on else "pruned", best_epoch=best))
    rows = ledger.rows()
    ledger.close()
    kept = len(rows) - (sum(row.epochs for row in rows) > most_epochs)  # the last one may have gone beyond
    values = [row.value for row in rows[:kept] if row.state == "complete" and row.value is not None]
    return max(values), sum(row.epochs for row in rows[:kept])


def compare(seeds: range, options: argparse.Namespace, curves: Curves) -> Iterator[list[tuple[float, int]]]:
    """For each seed best value and epochs: without pruning, with halving on the same trials, and on half the epochs."""
    with tempfile.TemporaryDirectory() as name:
        folder, trials = Path(name), options.trials
        with connected():
            prepare_dataset(config_of(folder, options, seed=0, trials=trials, pruner="none").data)
        for seed in seeds:
            whole = searched(config_of(folder, options, seed=seed, trials=trials, pruner="none"), folder, curves)
            halving = [
                config_of(folder, options, seed=seed, trials=count, pruner="successive_halving")
                for count in (trials, 4 * trials)
            ]
            same = searched(halving[0], folder, curves)
            budget = searched(halving[1], folder, curves, most_epochs=whole[1] / 2)
            yield [whole, same, budget]


def test_halving_saves_epochs() -> None:
    """One seed, few trials: the searches end, and the pruned one trains less."""
    options = argparse.Namespace(trials=4, epochs=3, min_epochs=1, reduction=2)
    ((whole, fewer, budget),) = list(compare(range(1), options, {}))
    assert 0 < fewer[1] < whole[1]
    assert budget[1] < whole[1]


def read_curves(file: Path | None) -> Curves:
    """The curves of an earlier call."""
    if file is None or not file.exists():
        return {}
    return {key: [EpochResult(**one) for one in epochs] for key, epochs in json.loads(file.read_text()).items()}


def main() -> None:
    """Print a line for each seed, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--min-epochs", type=int, default=2)
    parser.add_argument("--reduction", type=int, default=2)
    parser.add_argument("--curves", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, rows, curves = time.monotonic(), [], read_curves(options.curves)
    print("seed   no pruning       the same trials  half of the epochs", flush=True)
    seeds = range(options.first, options.first + options.seeds)
    for seed, row in zip(seeds, compare(seeds, options, curves), strict=True):
        print(f"{seed:>6} " + "".join(f"{value:>9.3f} in {epochs:>4}" for value, epochs in row), flush=True)
        rows.append(row)
        if options.curves:
            options.curves.write_text(json.dumps({key: [asdict(one) for one in curves[key]] for key in curves}))
    medians = [
        [statistics.median(one[part] for one in column) for part in (0, 1)] for column in zip(*rows, strict=True)
    ]
    print("median " + "".join(f"{value:>9.3f} in {epochs:>4g}" for value, epochs in medians))
    for name, place in (("the same trials", 1), ("half of the epochs", 2)):
        differences = [row[place][0] - row[0][0] for row in rows]
        spent = statistics.median(row[place][1] / row[0][1] for row in rows)
        print(f"{name}: median difference {statistics.median(differences):+.3f} with {spent:.0%} of the epochs")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
