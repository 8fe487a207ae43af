"""Micro-batches: loss and gradient of one batch, for every loss; and how a run hears of a loss that is no number."""

import math
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from study.errors import TrainingFault
from study.losses import LOSSES, make_criterion
from study.losses.base import AdditiveCriterion
from study.losses.multitask import MultiTask
from study.optimisation import TrainSettings, resolve_precision, seed_step
from study.training import Batch, RunParts
from study.training.losswatch import EVERY, LossWatch
from study.training.state import prepare_run, set_mode
from study.training.step import train_step
from study.types import EpochResult
from tests.unit.test_training import Bench

COUNTS = [50.0, 30.0, 20.0]
SETTINGS = TrainSettings(
    epochs=2, steps_per_epoch=5, batch_size=10, seed=3, metric="m", mode="max", lr=1e-2, clip_norm=None
)


class Net(nn.Module):
    """Without normalisation, whose statistics would see the micro-batches."""

    def __init__(self, criterion, drop=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Dropout(drop))
        self.head = criterion.make_head(8) or nn.Linear(8, criterion.num_outputs)

    def forward(self, x):
        return self.head(self.body(x))


def batch(size=10, seed=0):
    """Uneven classes, so that parts differ in their divisors."""
    images = torch.randint(0, 256, (size, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Batch(images_nchw=images, labels_n=torch.tensor([0, 0, 0, 0, 1, 1, 2, 0, 1, 2] * 2)[:size])


def prepared(directory, name, net=Net, **changes):
    seed_step(0)
    weighting = {} if name in ("cb", "ldam") else {"class_weights": "balanced"}
    criterion = make_criterion(name, num_classes=3, class_counts=COUNTS, **weighting)
    parts = RunParts(network=net(criterion), criterion=criterion, dataset=None, settings=replace(SETTINGS, **changes))
    run = prepare_run(parts, directory=directory, attempt=1, device=torch.device("cpu"))
    set_mode(run)
    return run


def step(run, given):
    """Gradients that one step leaves, and its loss."""
    train_step(run, given)
    return [parameter.grad.clone() for parameter in run.network.parameters()], run.losses.total


@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_have_the_loss_and_the_gradient_of_the_whole(name, tmp_path):
    """For some loss the gradient of three uneven parts is not that of the whole batch."""
    whole, loss = step(prepared(tmp_path / "whole", name), batch())
    parts, same_loss = step(prepared(tmp_path / "parts", name, accumulate=3), batch())
    assert same_loss == pytest.approx(loss, rel=1e-6)
    assert max(gradient.abs().max() for gradient in whole) > 0
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)


def test_more_parts_than_rows_are_rows():
    """An empty micro-batch reaches the network."""
    assert [len(part.labels_n) for part in batch(4).split(9)] == [1, 1, 1, 1]
    assert [len(part.labels_n) for part in batch(10).split(4)] == [3, 3, 2, 2]


class Normed(Net):
    """With running statistics and dropout."""

    def __init__(self, criterion):
        super().__init__(criterion, drop=0.5)
        self.body.append(nn.BatchNorm1d(8))


def test_the_second_pass_repeats_the_dropout_and_moves_the_statistics_once(tmp_path):
    """The passes over a batch-level loss drop other units, or count every image twice."""
    seen = []

    class Watched(Normed):
        def forward(self, x):
            out = super().forward(x)
            seen.append((torch.is_grad_enabled(), out.detach().clone()))
            return out

    run = prepared(tmp_path / "run", "wk", net=Watched, accumulate=2)
    train_step(run, batch())
    assert [grad for grad, _ in seen] == [False, False, True, True]
    assert torch.equal(seen[0][1], seen[2][1])
    assert torch.equal(seen[1][1], seen[3][1])
    assert int(run.network.body[-1].num_batches_tracked) == 2


class Narrow(Net):
    """A device on which more than 4 images at once do not fit."""

    def forward(self, x):
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return super().forward(x)


@pytest.mark.parametrize("name", ["cross_entropy", "mce_wk"])
def test_parts_fit_where_the_batch_does_not(name, tmp_path):
    """Accumulation does not make anything smaller."""
    with pytest.raises(torch.OutOfMemoryError):
        train_step(prepared(tmp_path / "whole", name, net=Narrow), batch())
    train_step(prepared(tmp_path / "parts", name, net=Narrow, accumulate=3), batch())


def test_fp16_scales_and_unscales_before_it_clips(tmp_path):
    """Gradients are clipped while they are 65,536 times too large."""
    run = prepared(tmp_path / "half", "cross_entropy", precision="fp16", clip_norm=1e6)
    assert run.scaler.is_enabled()
    half, _ = step(run, batch())
    single, _ = step(prepared(tmp_path / "single", "cross_entropy", precision="fp32"), batch())
    for one, other in zip(half, single, strict=True):
        assert torch.allclose(one, other, rtol=0.05, atol=2e-3)


def test_auto_precision_never_takes_emulated_bf16(monkeypatch):
    """A GPU that only emulates bf16 trains in it, slower than in fp32."""
    answers = {True: True, False: False}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: answers[including_emulation])
    assert resolve_precision("auto", torch.device("cuda")) == "fp16"
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize("bad", [3, EVERY - 1, EVERY, 2 * EVERY + 5])
def test_a_lazy_watch_names_the_first_bad_step(bad):
    """The step that is named is the one at which the fault was found."""
    watch = LossWatch("Focal", device=torch.device("cpu"), steps_per_epoch=10, lazily=True)
    added = []

    def add_all():
        for step in range(5 * EVERY):
            added.append(step)
            watch.add(step, torch.tensor(math.nan if step >= bad else 0.5))

    with pytest.raises(TrainingFault, match=rf"the loss Focal is nan at step {bad} \(epoch {bad // 10 + 1}\)"):
        add_all()
    assert added[-1] - bad < 2 * EVERY
    assert watch.total == 0.5 * bad


def test_a_lazy_watch_settles_before_a_save():
    """A checkpoint is written whose losses nobody has looked at."""
    watch = LossWatch("Focal", device=torch.device("cpu"), steps_per_epoch=10, lazily=True)
    for number in range(EVERY + 2):
        watch.add(number, torch.tensor(0.25))
    watch.settle()
    assert watch.total == 0.25 * (EVERY + 2)
    watch.add(EVERY + 2, torch.tensor(math.inf))
    with pytest.raises(TrainingFault, match=f"inf at step {EVERY + 2}"):
        watch.settle()


def test_weights_that_break_in_the_last_step_do_not_end_as_a_result(tiny_dataset, tmp_path):
    """An epoch whose last update overflowed is validated, reported and kept."""
    bench = Bench(tiny_dataset, epochs=1, steps_per_epoch=1, lr=1e38, optimiser="sgd", clip_norm=None)
    with pytest.raises(TrainingFault, match=r"outputs are not finite after step 0 \(epoch 1\), trained with .*Cross"):
        bench.run(tmp_path / "run")


RANKS = 2


def on_ranks(rank, store, directory):
    """What one of two ranks sees: gradients of micro-batches, thawing, and a fault of the other rank."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    own = slice(5 * rank, 5 * rank + 5)
    whole = batch()
    part = Batch(images_nchw=whole.images_nchw[own], labels_n=whole.labels_n[own])
    found = {}
    for name in ("cross_entropy", "mce_wk"):
        run = prepared(directory / name, name, accumulate=2, freeze_epochs=1)
        frozen = [parameter.requires_grad for parameter in run.network.body.parameters()]
        run.step, run.history = 5, [EpochResult(epoch=1, metrics={}, images=50, seconds=1.0)]
        set_mode(run)
        found[name] = (frozen, *step(run, part))
    run = prepared(directory / "nan", "cross_entropy")
    try:
        if rank == 1:
            nn.init.constant_(run.network.head.weight, math.nan)
        train_step(run, part)
    except TrainingFault as fault:
        found["fault"] = fault.message
    torch.save(found, directory / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.long
def test_two_ranks_accumulate_thaw_and_stop_together(tmp_path):
    """Ranks do not exchange the gradients of some part or after thawing, or one trains on after the other's NaN."""
    mp.spawn(on_ranks, args=(tmp_path / "store", tmp_path), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(RANKS))
    for name in ("cross_entropy", "mce_wk"):
        alone, loss = step(prepared(tmp_path / f"{name}-alone", name), batch())
        for frozen, gradients, same_loss in (first[name], second[name]):
            assert frozen == [False] * len(frozen)
            assert same_loss == pytest.approx(loss, rel=1e-6)
            assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(alone, gradients, strict=True))
    assert first["fault"] == second["fault"] == "the loss CrossEntropy is nan at step 0 (epoch 1)"


def test_only_batch_level_losses_need_the_second_pass():
    """A loss is neither summed nor batch-level, and would be accumulated wrongly."""
    for name in LOSSES:
        criterion = make_criterion(name, num_classes=3, class_counts=COUNTS)
        assert isinstance(criterion, AdditiveCriterion) is not criterion.is_batch_level
        assert bool(criterion.why_no_accumulation) is criterion.is_batch_level


def test_a_frozen_backbone_does_not_count_when_gradients_are_clipped(tmp_path):
    """The norm of gradients that nobody uses shrinks the step of the head."""
    run = prepared(tmp_path / "run", "cross_entropy", freeze_epochs=1, clip_norm=1e-3)
    train_step(run, batch())
    assert all(parameter.grad is None for parameter in run.network.body.parameters())
    norm = torch.cat([parameter.grad.flatten() for parameter in run.network.head.parameters()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_several_tasks_are_accumulated_and_named(tmp_path):
    """With several tasks a part's labels count by its own divisor, or a fault does not say which losses there were."""
    whole = batch()
    given = replace(whole, labels_n=torch.stack([whole.labels_n, whole.labels_n.flip(0)], dim=1))
    found = {}
    for count in (1, 3):
        seed_step(0)
        criteria = [(name, make_criterion(name, num_classes=3, class_counts=COUNTS), 1.0) for name in ("emd", "wk")]
        several = MultiTask(criteria)
        parts = RunParts(
            network=Side(several.num_outputs), criterion=several, dataset=None,
            settings=replace(SETTINGS, accumulate=count),
        )  # fmt: skip
        run = prepare_run(parts, directory=tmp_path / str(count), attempt=1, device=torch.device("cpu"))
        set_mode(run)
        found[count] = step(run, given)
    assert found[1][1] == pytest.approx(found[3][1], rel=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(found[1][0], found[3][0], strict=True))
    nn.init.constant_(run.network[1].weight, math.nan)
    with pytest.raises(TrainingFault, match=r"MultiTask \(emd: SquaredEmd, wk: WeightedKappa\) is nan"):
        train_step(run, given)


class Side(nn.Sequential):
    """Outputs of all tasks side by side."""

    def __init__(self, outputs):
        super().__init__(nn.Flatten(), nn.Linear(16, outputs))
