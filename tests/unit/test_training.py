"""The training loop: determinism, exact resumption, pruning, faults."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from study import checkpoint
from study.data.augment import make_augment
from study.data.sampling import make_plan, steps_per_epoch
from study.errors import StudyError, TrainingFault
from study.losses import make_criterion
from study.optimisation import TrainSettings, is_better, learning_rate, seed_step
from study.training import Batch, Hooks, RunParts, train_run
from study.training.batch_log import read_batches

BATCH = 8


class TinyNet(nn.Module):
    """A small network with batch normalisation and dropout, so that hidden state and random numbers matter."""

    def __init__(self, outputs):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, outputs))

    def forward(self, x):
        return self.head(self.body(x))


class Bench:
    """One run on the tiny dataset, without Ray."""

    def __init__(self, dataset, loss="cross_entropy", seed=0, **settings):
        rows = dataset.rows("train")
        labels, sources = dataset.labels_n[rows], dataset.sources_n[rows]
        steps = steps_per_epoch("source_label", labels=labels, segments=sources, batch_size=BATCH, epoch_draws=None)
        self.settings = TrainSettings(
            epochs=4, steps_per_epoch=steps, batch_size=BATCH, seed=seed, metric="val/auroc_macro", mode="max", lr=3e-3
        )
        self.settings = replace(self.settings, **settings)
        plan = make_plan(
            "source_label", labels=labels, segments=sources, batch_size=BATCH, num_steps=4 * steps, seed=seed
        )
        self.dataset, self.plan, self.rows, self.loss = dataset, plan, rows, loss
        self.identity, self.augment = "", None

    def stream(self, start_step):
        augment = make_augment("none", image_hw=(32, 32))
        for step, indices in enumerate(self.plan.indices(start_step), start_step):
            pixels = self.dataset.pixels(self.rows[indices])
            draws = step * BATCH + np.arange(BATCH)
            images = np.stack([augment(p, seed=0, draw=int(d)) for p, d in zip(pixels, draws, strict=True)])
            yield Batch(
                images_nchw=torch.from_numpy(images)[:, None],
                labels_n=torch.from_numpy(self.dataset.labels_n[self.rows[indices]]),
                ids_n=self.dataset.id_hashes_n[self.rows[indices]],
            )

    def run(self, directory, *, attempt=1, reported=0, hooks=None, stream=None):
        seed_step(self.settings.seed, 2**32)
        criterion = make_criterion(self.loss, num_classes=3)
        return train_run(
            RunParts(
                network=TinyNet(criterion.num_outputs),
                criterion=criterion,
                dataset=self.dataset,
                settings=self.settings,
                augment=self.augment,
                identity=self.identity,
            ),
            stream=stream or self.stream,
            directory=directory,
            attempt=attempt,
            reported_epoch=reported,
            hooks=hooks,
        )


def curve(directory):
    return [dict(result.metrics) for result in checkpoint.load_last(directory).history]


def same(one, other):
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(a[k] == b[k] or (math.isnan(a[k]) and math.isnan(b[k])) for k in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "emd", "corn", "focal"])
def test_every_loss_learns_the_bright_square(tiny_dataset, tmp_path, loss):
    """Each loss, with its own head, separates three classes that differ plainly."""
    outcome = Bench(tiny_dataset, loss=loss, lr=1e-2).run(tmp_path / "run")
    assert outcome.state == "complete"
    assert outcome.metrics["val/auroc_macro"] > 0.8
    assert 1 <= outcome.best_epoch <= 4


def test_same_seed_same_curve_other_seed_other_curve(tiny_dataset, tmp_path):
    """The curve is a function of the seed."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        Bench(tiny_dataset, seed=seed).run(tmp_path / name)
    assert same(curve(tmp_path / "a"), curve(tmp_path / "b"))
    assert not same(curve(tmp_path / "a"), curve(tmp_path / "c"))


@pytest.mark.parametrize("stop_after", [1, 5, 6, 7, 13])
def test_a_run_stopped_at_any_step_resumes_bit_by_bit(tiny_dataset, tmp_path, stop_after):
    """Stopping after any step, inside an epoch or at its end, changes neither curve nor final weights."""
    whole = Bench(tiny_dataset)
    whole.run(tmp_path / "whole")
    steps = 0

    def should_stop():
        nonlocal steps
        steps += 1
        return steps == stop_after

    first = whole.run(tmp_path / "cut", hooks=Hooks(should_stop=should_stop))
    assert first.state == "waiting"
    assert checkpoint.load_last(tmp_path / "cut").step == stop_after
    heard = []
    second = whole.run(tmp_path / "cut", attempt=2, hooks=Hooks(on_epoch=lambda r: heard.append(r.epoch) or True))
    assert second.state == "complete"
    assert heard == [1, 2, 3, 4]
    assert same(curve(tmp_path / "whole"), curve(tmp_path / "cut"))
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(("loss", "counted"), [("coral", True), ("soft_mcc", False), ("emd", False)])
def test_what_a_loss_counts_is_told(tiny_dataset, tmp_path, loss, counted):
    """Ranks that had to be mended, or batches that teach nothing, are counted and told nobody, or not per epoch."""
    bench = Bench(tiny_dataset, loss=loss, epochs=2)

    def one_class(start_step):
        return (replace(batch, labels_n=torch.zeros_like(batch.labels_n)) for batch in bench.stream(start_step))

    bench.run(tmp_path / "run", stream=one_class)
    for metrics in curve(tmp_path / "run"):
        assert metrics["train/empty_batches"] == 0
        assert metrics.get("train/degenerate_batches") == (
            bench.settings.steps_per_epoch if loss == "soft_mcc" else None
        )
        assert ("val/rank_violations" in metrics) == counted


def assert_same_end(one_directory, other_directory):
    """Equal weights to the last bit, and equal images in every batch of every epoch."""
    one, other = checkpoint.load_last(one_directory), checkpoint.load_last(other_directory)
    assert all(torch.equal(one.model[key], other.model[key]) for key in one.model)
    assert [epoch.batches for epoch in one.history] == [epoch.batches for epoch in other.history]
    assert read_batches(one_directory) == read_batches(other_directory)
    assert sorted(read_batches(one_directory)) == list(range(one.step))


@pytest.mark.parametrize(("crash_at", "saved"), [(1, None), (8, 6)])
def test_a_run_that_crashes_at_any_step_resumes_bit_by_bit(tiny_dataset, tmp_path, crash_at, saved):
    """With a checkpoint every three steps, at most two steps are made again, and nothing differs afterwards."""
    bench = Bench(tiny_dataset, checkpoint_steps=3, checkpoint_seconds=0.0)
    bench.run(tmp_path / "whole")

    def crashing(start_step):
        yield from itertools.islice(bench.stream(start_step), crash_at)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        bench.run(tmp_path / "cut", stream=crashing)
    state = checkpoint.load_last(tmp_path / "cut")
    assert (state.step if state else None) == saved
    assert bench.run(tmp_path / "cut", attempt=2).state == "complete"
    assert same(curve(tmp_path / "whole"), curve(tmp_path / "cut"))
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_another_image_in_a_batch_shows_in_the_digests(tiny_dataset, tmp_path):
    """A stream that swaps two images of one batch gives that step, and its epoch, another digest."""
    bench = Bench(tiny_dataset)
    bench.run(tmp_path / "right")

    def swapping(start_step):
        for step, batch in enumerate(bench.stream(start_step), start_step):
            order = np.r_[1, 0, 2:BATCH] if step == 7 else np.arange(BATCH)
            yield replace(batch, ids_n=batch.ids_n[order])

    bench.run(tmp_path / "wrong", stream=swapping)
    right, wrong = read_batches(tmp_path / "right"), read_batches(tmp_path / "wrong")
    assert [step for step in right if right[step] != wrong[step]] == [7]
    epochs = [[epoch.batches for epoch in checkpoint.load_last(tmp_path / name).history] for name in ("right", "wrong")]
    assert [number for number in range(4) if epochs[0][number] != epochs[1][number]] == [1]


def test_a_line_that_a_kill_cut_off_is_removed_and_a_false_repetition_is_refused(tiny_dataset, tmp_path):
    """The next attempt writes its own lines whole; a step made twice with other images is an error, not a choice."""
    bench = Bench(tiny_dataset)
    bench.run(tmp_path / "run", hooks=Hooks(should_stop=lambda: True))
    path = tmp_path / "run" / "batches.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    assert list(read_batches(tmp_path / "run")) == [0]
    bench.run(tmp_path / "run", attempt=2)
    assert sorted(read_batches(tmp_path / "run")) == list(range(bench.plan.num_steps))
    line = json.loads(whole)
    path.write_text(path.read_text() + json.dumps(line | {"ranks": ["0" * 15 + "1"]}) + "\n")
    with pytest.raises(StudyError, match="step 0 of run run was made twice"):
        read_batches(tmp_path / "run")


def test_a_checkpoint_of_another_configuration_is_refused(tiny_dataset, tmp_path):
    """A changed study file silently goes on with the weights of the old one."""
    bench = Bench(tiny_dataset)
    bench.identity = "one"
    bench.run(tmp_path / "run")
    bench.identity = "other"
    with pytest.raises(StudyError, match="another configuration"):
        bench.run(tmp_path / "run", attempt=2)


def test_epochs_that_the_ledger_knows_are_not_reported_again(tiny_dataset, tmp_path):
    """A finished run that is handed out again reports only what is missing, and trains nothing."""
    bench = Bench(tiny_dataset)
    bench.run(tmp_path / "run")
    heard = []

    def no_batches(start_step):
        raise AssertionError("a finished run asked for batches")

    outcome = bench.run(
        tmp_path / "run",
        attempt=2,
        reported=3,
        hooks=Hooks(on_epoch=lambda r: heard.append(r.epoch) or True),
        stream=no_batches,
    )
    assert heard == [4]
    assert outcome.state == "complete"


def test_a_refused_epoch_prunes_the_run(tiny_dataset, tmp_path):
    """When the answer to an epoch is no, no further step is taken."""
    outcome = Bench(tiny_dataset).run(tmp_path / "run", hooks=Hooks(on_epoch=lambda r: r.epoch < 2))
    assert outcome.state == "pruned"
    assert len(curve(tmp_path / "run")) == 2


@pytest.mark.parametrize(("metric", "mode"), [("val/auroc_macro", "max"), ("val/weighted_log_loss", "min")])
def test_the_best_checkpoint_is_the_best_epoch_of_the_metric(tiny_dataset, tmp_path, metric, mode):
    """The best checkpoint holds the weights of another epoch than the one with the best validation metric."""
    outcome = Bench(tiny_dataset, metric=metric, mode=mode).run(tmp_path / "run")
    values = [metrics[metric] for metrics in curve(tmp_path / "run")]
    assert outcome.best_epoch == 1 + int(np.argmax(values) if mode == "max" else np.argmin(values))
    assert checkpoint.load_best(tmp_path / "run").epoch == outcome.best_epoch


def test_a_loss_that_is_not_finite_names_step_and_loss(tiny_dataset, tmp_path):
    """An exploding run stops with the step, not with NaN metrics."""
    with pytest.raises(TrainingFault, match=r"CrossEntropy is (nan|inf) at step \d+ \(epoch 1\)"):
        Bench(tiny_dataset, lr=1e30, clip_norm=None).run(tmp_path / "run")


def test_a_stream_that_ends_early_is_a_fault(tiny_dataset, tmp_path):
    """Too few batches are an error, not a short epoch."""
    bench = Bench(tiny_dataset)
    short = list(bench.stream(0))[:3]
    with pytest.raises(TrainingFault, match="ended at step 3"):
        bench.run(tmp_path / "run", stream=lambda step: iter(short))


def test_learning_rates_by_hand():
    """Warm-up, cosine and step rates have the values worked out on paper."""
    base = TrainSettings(
        epochs=4, steps_per_epoch=5, batch_size=8, seed=0, metric="m", mode="max", lr=1.0, warmup_steps=2
    )
    assert [learning_rate(s, base) for s in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert learning_rate(11, base) == pytest.approx(0.5)
    assert learning_rate(20, base) == pytest.approx(0.0)
    stepped = replace(base, schedule="step", step_epochs=2, step_factor=0.1, warmup_steps=0)
    assert [learning_rate(s, stepped) for s in (9, 10, 20)] == pytest.approx([1.0, 0.1, 0.01])
    assert learning_rate(7, replace(base, schedule="constant")) == 1.0


def test_is_better_never_takes_nan():
    """NaN beats nothing; the first number beats nothing known."""
    assert not is_better(math.nan, None, "max")
    assert is_better(0.1, None, "min")
    assert is_better(0.2, 0.1, "max")
    assert not is_better(0.1, 0.1, "max")
    assert is_better(0.1, 0.2, "min")
