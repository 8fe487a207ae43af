"""What successive halving saves on the phantom, and what it costs: best validation AUROC and epochs, beside no pruning.

    .venv/bin/python tests/bench/bench_pruning.py --seeds 5

Both searches go through the ledger, trial after trial; runs train in this process, without Ray. Algorithm ``random``
gives both the same configurations, so the difference is the pruner's alone, and a curve that the one has trained is
read by the other. The goal: the same best AUROC with at most half of the epochs (medians over the seeds).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from study.config import StudyConfig, apply_params, load_config
from study.data.sampling import Plan
from study.data.shards import PreparedDataset
from study.distributed.cluster import connected
from study.distributed.preparing import prepare_dataset
from study.distributed.runs import build_run
from study.ledger import Ledger
from study.models.inputs import to_tensor
from study.training import Batch, Hooks, train_run
from study.types import EpochResult, RunOutcome

STUDY = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"
Curves = dict[str, list[EpochResult]]


def config_of(folder: Path, *, seed: int, trials: int, epochs: int, pruner: str, min_epochs: int = 2) -> StudyConfig:
    """The quickstart on smaller pictures, without augmentation, which this process would make on one core."""
    sets = [
        f"data.prepared={folder / 'phantom-64'}",
        "data.image_size=64",
        "augment.policy=none",
        f"seed={seed}",
        f"train.epochs={epochs}",
        "search.algorithm=random",
        f"search.trials={trials}",
        f"search.pruner={{name: {pruner}, min_epochs: {min_epochs}}}",
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


def trained(config: StudyConfig, params: Any, folder: Path) -> list[EpochResult]:
    """All epochs of one configuration."""
    own = apply_params(config, params)
    parts, plan = build_run(own, seed=own.seed)
    epochs: list[EpochResult] = []

    def keep(result: EpochResult) -> bool:
        epochs.append(result)
        return True

    with tempfile.TemporaryDirectory(dir=folder) as directory:
        train_run(
            parts,
            stream=lambda start: batches(plan, parts.dataset, start),
            directory=Path(directory) / "run",
            attempt=1,
            hooks=Hooks(on_epoch=keep),
        )
    return epochs


def searched(config: StudyConfig, folder: Path, curves: Curves) -> tuple[float, int]:
    """One search: its best value, and how many epochs it trained."""
    ledger = Ledger.open(f"sqlite:///{folder / f'{config.search.pruner.name}-{config.seed}.db'}", config=config)  # type: ignore[union-attr]
    while (trial := ledger.next_trial()) is not None:
        key = f"{config.seed} {sorted(trial.params.items())}"
        if key not in curves:
            curves[key] = trained(config, trial.params, folder)
        state = "complete"
        for result in curves[key]:
            ledger.report(trial.number, result)
            if ledger.should_prune(trial.number):
                state = "pruned"
                break
        best = max(ledger.epochs(trial.number), key=lambda one: one.metrics[config.metric]).epoch
        ledger.finish(trial.number, RunOutcome(state=state, best_epoch=best))  # type: ignore[arg-type]
    rows, best_row = ledger.rows(), ledger.best()
    ledger.close()
    assert best_row is not None
    assert best_row.value is not None
    return best_row.value, sum(row.epochs for row in rows)


def compare(seeds: range, *, trials: int, epochs: int) -> Iterator[tuple[float, int, float, int]]:
    """For each seed: best value and epochs without pruning, then with successive halving."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with connected():
            prepare_dataset(config_of(folder, seed=0, trials=trials, epochs=epochs, pruner="none").data)
        for seed in seeds:
            curves: Curves = {}
            pairs = [
                searched(config_of(folder, seed=seed, trials=trials, epochs=epochs, pruner=pruner), folder, curves)
                for pruner in ("none", "successive_halving")
            ]
            yield (*pairs[0], *pairs[1])


def test_halving_saves_epochs() -> None:
    """One seed, few trials: both searches end, and the pruned one trains less."""
    ((_, whole, _, fewer),) = list(compare(range(1), trials=4, epochs=3))
    assert 0 < fewer < whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    rows = []
    print("seed  none: AUROC epochs  successive halving: AUROC epochs", flush=True)
    seeds = range(options.first, options.first + options.seeds)
    for seed, row in zip(seeds, compare(seeds, trials=options.trials, epochs=options.epochs), strict=True):
        print(f"{seed:>4}  {row[0]:>11.3f} {row[1]:>6}  {row[2]:>25.3f} {row[3]:>6}", flush=True)
        rows.append(row)
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    difference = statistics.median(row[2] - row[0] for row in rows)
    print(
        f"median: {medians[0]:.3f} in {medians[1]:g} epochs, {medians[2]:.3f} in {medians[3]:g} "
        f"({medians[3] / medians[1]:.0%}); median difference {difference:+.3f}; {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
