"""Several tasks at once: labels and weights of a dataset, their sum of losses, metrics and files."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import study
from study import checkpoint
from study.config import StudyConfig
from study.data.shards import DATASET_FILE, MANIFEST_FILE, open_dataset
from study.data.targets import TargetRules, make_targets
from study.distributed.runs import build_run, evaluate_best
from study.distributed.specs import artifacts
from study.errors import InputError
from study.inference import Outputs, prediction_metrics, prediction_table, predictions_of
from study.losses import make_criterion
from study.losses.multitask import MultiTask, TaskHeads
from study.models import make_model
from study.models.inputs import to_tensor
from study.training import Batch, Hooks, train_run

A = [[2, 0.5, -1], [0.25, 1.5, -0.5], [-1, 0.75, 2.25], [1, 1.25, 0], [-0.5, 0, -0.25], [3, -2, 1]]
LABELS_A = [0, 1, 2, 0, 1, 2]
DOUBT = torch.tensor([0, 0.5, 0.9, 0.25, 0, 0.75])
KNOWN = torch.tensor([1, 1, 1, 0, 1, 0])


@pytest.fixture
def tasks_dataset(tmp_path, make_dataset):
    """The tiny dataset with a second task, view, and a third of the deciding labels missing."""
    root = make_dataset(tmp_path / "tasks")
    table = pd.read_parquet(root / MANIFEST_FILE)
    number = np.arange(len(table))
    table["label"] = table["label"].mask(number % 5 == 0)
    table["birads3"] = table["label"]
    table["birads3_origin"] = np.where(number % 5 == 0, "missing", np.where(number % 7 == 0, "flipped", "reader"))
    table["birads3_uncertainty"] = np.where(number % 5 == 0, 1.0, np.where(number % 7 == 0, 0.3, 0.0))
    table["view_label"] = pd.array(number // 2 % 2, dtype="Int64")
    table["view_label"] = table["view_label"].mask(number % 4 == 1)
    table["view_origin"] = np.where(number % 4 == 1, "missing", "synthetic")
    table["view_uncertainty"] = np.where(number % 4 == 1, 1.0, 0.5)
    table.to_parquet(root / MANIFEST_FILE)
    about = json.loads((root / DATASET_FILE).read_text())
    about["settings"] = {"labels": {"task": "birads3", "auxiliary": ["view"]}}
    (root / DATASET_FILE).write_text(json.dumps(about))
    return open_dataset(root)


def criterion_of(*, reconstruction=0.0, **weights):
    parts = [("birads3", make_criterion("cross_entropy", num_classes=3), weights.get("birads3", 1.0))]
    parts.append(("view", make_criterion("cross_entropy", num_classes=2), weights.get("view", 1.0)))
    return MultiTask(parts, reconstruction=reconstruction)


def test_an_image_with_any_label_is_used(tasks_dataset):
    """Images without the deciding label are lost, although another task has one; one without any label trains."""
    labels = tasks_dataset.labels_n
    view = tasks_dataset.task_labels("view")
    assert list(tasks_dataset.tasks) == ["birads3", "view"]
    assert (labels < 0).any()
    assert (view < 0).any()
    assert ((labels >= 0) | (view >= 0)).all()
    assert len(tasks_dataset) == 96 - sum(n % 5 == 0 and n % 4 == 1 for n in range(96))
    with pytest.raises(InputError, match="no labels of task 'acr'; expected one of birads3, view"):
        tasks_dataset.task_labels("acr")


def test_weights_are_one_minus_the_doubt_of_the_origin(tasks_dataset):
    """Doubts are those of the preparation although the study file has others; a missing label has a weight."""
    prepared = make_targets(tasks_dataset, ("birads3", "view"))
    number = tasks_dataset.manifest["image_id"].map(lambda text: int(text, 16)).to_numpy()
    wanted = np.where(number % 5 == 0, 0.0, np.where(number % 7 == 0, 0.7, 1.0))
    np.testing.assert_allclose(prepared.weights_nt[:, 0], wanted, rtol=1e-6)
    np.testing.assert_allclose(prepared.weights_nt[:, 1], np.where(number % 4 == 1, 0.0, 0.5))
    given = make_targets(tasks_dataset, ("birads3", "view"), TargetRules(uncertainty={"reader": 0.1, "synthetic": 0.9}))
    np.testing.assert_allclose(given.weights_nt[:, 1], np.where(number % 4 == 1, 0.0, 0.1), rtol=1e-5)
    is_flipped = (number % 7 == 0) & (number % 5 != 0)
    np.testing.assert_allclose(given.weights_nt[is_flipped, 0], 0.7, rtol=1e-6)
    own = make_targets(tasks_dataset, ("birads3",), TargetRules(uncertainty={"flipped": 1.0}))
    assert (own.weights_nt[is_flipped, 0] == 0).all()
    labels, weights = own.of(np.array([0, 3]))
    assert labels.shape == weights.shape == (2,)


def test_factors_go_by_class_of_this_or_another_task(tasks_dataset):
    """The factor of paper multitask, 20 for some grades, reaches the wrong images or the wrong task."""
    rules = TargetRules(factors={"view": (20.0, ("malignant",)), "birads3": (3.0, ("benign", "malignant"))})
    plain = make_targets(tasks_dataset, ("birads3", "view"))
    targets = make_targets(tasks_dataset, ("birads3", "view"), rules)
    labels = tasks_dataset.labels_n
    np.testing.assert_allclose(targets.weights_nt[:, 1], plain.weights_nt[:, 1] * np.where(labels == 2, 20, 1))
    np.testing.assert_allclose(targets.weights_nt[:, 0], plain.weights_nt[:, 0] * np.where(labels >= 1, 3, 1))
    with pytest.raises(InputError, match="'acr_4'"):
        make_targets(tasks_dataset, ("birads3", "view"), TargetRules(factors={"view": (20.0, ("acr_4",))}))


@pytest.mark.parametrize(("normaliser", "wanted"), [("batch", 0.218315), ("weight", 0.503803), ("labelled", 0.327472)])
def test_one_task_has_the_reference_values(normaliser, wanted):
    """The three normalisers of one masked and doubted task, against numbers made with another library."""
    criterion = MultiTask([("a", make_criterion("cross_entropy", num_classes=3, normaliser=normaliser), 1.0)])
    labels = torch.where(KNOWN > 0, torch.tensor(LABELS_A), -1)
    assert float(criterion(torch.tensor(A), labels, (1 - DOUBT) * KNOWN)) == pytest.approx(wanted, abs=1e-6)


def test_the_sum_by_hand():
    """Equation 3: factors, masks, doubts and the reconstruction of two images, worked out on paper."""
    criterion = criterion_of(view=0.5, reconstruction=2.0)
    outputs = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0, 0.0, 0.3]], requires_grad=True)
    labels = torch.tensor([[2, -1], [-1, -1]])
    weights = torch.tensor([[0.25, 0.0], [0.0, 0.0]])
    loss = criterion(outputs, labels, weights)
    assert float(loss.detach()) == pytest.approx(math.log(3) + 0.0 + 2.0 * 0.2, rel=1e-6)
    loss.backward()
    assert bool(outputs.grad.isfinite().all())
    assert float(outputs.grad[:, 3:5].abs().sum()) == 0
    assert outputs.grad[:, 5].tolist() == [1.0, 1.0]


def test_outputs_that_belong_to_a_missing_label_do_not_matter():
    """A missing label's NaN gets into the sum."""
    criterion = criterion_of()
    outputs = torch.zeros(3, 5)
    outputs[1, 3:] = math.nan
    labels = torch.tensor([[0, 1], [1, -7], [2, 0]])
    weights = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert float(criterion(outputs, labels, weights)) == pytest.approx(math.log(3) + math.log(2), rel=1e-6)


@pytest.mark.parametrize(
    ("outputs", "labels", "words"),
    [((2, 4), (2, 2), r"expected \[N, 5\]"), ((2, 5), (2,), "one column per task"), ((2, 5), (2, 3), "one column")],
)
def test_shapes_that_do_not_fit_are_refused(outputs, labels, words):
    """Columns of a network without one of the heads are read as another task's."""
    with pytest.raises(InputError, match=words):
        criterion_of()(torch.zeros(outputs), torch.zeros(labels, dtype=torch.int64))


def test_tasks_that_make_no_sum_are_refused():
    """A weight of 0 trains a head by nothing; two tasks of one name share a column."""
    loss = make_criterion("cross_entropy", num_classes=2)
    for parts in ([], [("a", loss, 1.0), ("a", loss, 1.0)], [("a", loss, 0.0)], [("a", loss, math.nan)]):
        with pytest.raises(InputError):
            MultiTask(parts)
    with pytest.raises(InputError, match=r"tasks\.reconstruction\.weight"):
        MultiTask([("a", loss, 1.0)], reconstruction=-1.0)


def test_every_task_has_the_head_that_its_loss_wants():
    """CORAL's shared score is lost beside another task."""
    criterion = MultiTask(
        [
            ("acr", make_criterion("coral", num_classes=6), 1.0),
            ("view", make_criterion("cross_entropy", num_classes=2), 1.0),
        ]
    )
    heads = criterion.make_head(7)
    assert isinstance(heads, TaskHeads)
    assert type(heads.layers["task_acr"]).__name__ == "CoralHead"
    assert heads(torch.zeros(2, 7)).shape == (2, criterion.num_outputs) == (2, 7)


def test_metrics_and_files_of_all_tasks(tasks_dataset):
    """The deciding task's metrics count images that have no such label, or the other task's are missing."""
    rows = tasks_dataset.rows("val")
    outputs = Outputs(rows_n=rows, outputs_no=torch.randn(len(rows), 5, generator=torch.Generator().manual_seed(0)))
    predictions = predictions_of(outputs, criterion_of(), tasks_dataset)
    assert predictions.rows_n.tolist() == rows[tasks_dataset.labels_n[rows] >= 0].tolist()
    view = predictions.others["view"]
    assert view.rows_n.tolist() == rows[tasks_dataset.task_labels("view")[rows] >= 0].tolist()
    metrics = prediction_metrics(predictions, tasks_dataset, prefix="val/")
    assert metrics["val/task/view/accuracy"] == np.mean(view.decoded_n == view.labels_n)
    assert metrics["val/accuracy"] == np.mean(predictions.decoded_n == predictions.labels_n)
    assert "val/task/view/auroc_MLO" in metrics
    table = prediction_table(view, tasks_dataset, classes=tasks_dataset.tasks["view"])
    assert list(table)[-2:] == ["probability_CC", "probability_MLO"]
    assert len(table["label"]) == len(view.rows_n)


def _losses_and_gradients(rank, world_size):
    torch.manual_seed(0)
    inputs, labels = torch.randn(8, 1, 40, 64, dtype=torch.float64), torch.randint(0, 2, (8, 2))
    weights = torch.rand(8, 2)
    weights[:4, 1] = 0  # the first rank has no label of the second task
    labels[:4, 1] = -1
    weights[7, 0] = 0
    kinds = {"birads3": ("wk", {}), "view": ("cross_entropy", {"class_weights": "balanced", "class_counts": [3, 9]})}
    criterion = MultiTask(
        [
            (name, make_criterion(loss, num_classes=classes, **more), factor)
            for (name, (loss, more)), classes, factor in zip(kinds.items(), (3, 2), (1.0, 0.3), strict=True)
        ],
        reconstruction=0.7,
    )
    network = make_model("hourglass", num_outputs=5, make_head=criterion.make_head, reconstruct=True).double()
    if world_size > 1:
        network = DistributedDataParallel(network)
    share = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    loss = criterion(network(inputs[share]), labels[share], weights[share])
    (world_size * loss).backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in network.parameters()])


def _on_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        torch.save(_losses_and_gradients(rank, 2), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.long
def test_two_ranks_are_one_process_on_the_union(tmp_path):
    """Loss or gradient depends on how the batch is cut, with one task's labels missing on a whole rank."""
    alone, gradient = _losses_and_gradients(0, 1)
    environment = os.environ | {"PYTHONPATH": str(Path(study.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    for rank in range(2):
        loss, found = torch.load(tmp_path / f"{rank}.pt")
        assert loss == pytest.approx(alone, rel=1e-12)
        torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-12)


def config_of(dataset, **sections):
    """A study on the dataset of two tasks."""
    data = {"prepared": dataset.root, "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}]}
    labels = {"task": "birads3", "auxiliary": ["view"], "uncertainty": sections.pop("uncertainty", {})}
    plain = {
        "study": "tasks",
        "data": {**data, "labels": labels},
        "model": {"name": "hourglass"},
        "sampler": {"name": "none"},
        "train": {"epochs": 2, "batch_size": 8},
    }
    return StudyConfig.model_validate(plain | sections)


def stream_of(parts, plan):
    """The batches of a plan without Ray."""

    def stream(start_step):
        rows = parts.dataset.rows("train")
        for indices in plan.indices(start_step):
            labels, weights = parts.targets.of(rows[indices])
            yield Batch(
                images_nchw=to_tensor(parts.dataset.pixels(rows[indices])),
                labels_n=torch.from_numpy(labels),
                weights_n=torch.from_numpy(weights),
            )

    return stream


def trained(config, folder, **options):
    parts, plan = build_run(config, seed=3)
    outcome = train_run(parts, stream=stream_of(parts, plan), directory=folder, **{"attempt": 1, **options})
    return parts, outcome


def test_a_run_of_two_tasks_stops_resumes_and_is_evaluated(tasks_dataset, tmp_path):
    """A run that was stopped inside an epoch ends elsewhere; metrics or files of a task are missing."""
    config = config_of(tasks_dataset, tasks={"view": {"weight": 0.5, "normaliser": "batch"}})
    trained(config, tmp_path / "whole")
    steps = iter(range(100))
    _, first = trained(config, tmp_path / "cut", hooks=Hooks(should_stop=lambda: next(steps) == 6))
    assert first.state == "waiting"
    parts, second = trained(config, tmp_path / "cut", attempt=2)
    assert second.state == "complete"
    one, other = checkpoint.load_last(tmp_path / "whole"), checkpoint.load_last(tmp_path / "cut")
    assert all(torch.equal(one.model[name], other.model[name]) for name in one.model)
    metrics = one.history[-1].metrics
    assert [epoch.metrics["train/loss"] for epoch in one.history] == [
        epoch.metrics["train/loss"] for epoch in other.history
    ]
    parts_of = [metrics[f"val/task/{name}/loss"] for name in ("birads3", "view", "reconstruction")]
    assert metrics["val/loss"] == pytest.approx(parts_of[0] + 0.5 * parts_of[1] + parts_of[2], rel=1e-6)
    assert "val/task/view/auroc_macro" in metrics
    found = evaluate_best(parts, tmp_path / "cut", split="val", device=torch.device("cpu"), write=True)
    best = other.history[other.best_epoch - 1].metrics
    assert metrics["val/task/reconstruction/mse"] == pytest.approx(metrics["val/task/reconstruction/loss"], rel=1e-5)
    assert found.metrics["val/task/view/log_loss"] == pytest.approx(best["val/task/view/log_loss"], rel=1e-6)
    table = pd.read_parquet(tmp_path / "cut" / "predictions_val_view.parquet")
    assert set(table["label"]) == {"CC", "MLO"}
    names = [path.name for path in artifacts(tmp_path / "cut")]
    assert {"predictions_val.parquet", "predictions_val_view.parquet", "confusion_val_view.json"} <= set(names)


def test_micro_batches_give_the_step_of_the_whole_batch(tasks_dataset, tmp_path):
    """Tasks whose labels are spread unevenly over micro-batches are added up as if they were even."""
    states = []
    for count in (1, 3):
        sections = {
            "train": {"epochs": 1, "batch_size": 8, "accumulate": count},
            "sampler": {"name": "none", "epoch_draws": 8},
            "optim": {"name": "sgd", "momentum": 0.0, "lr": 0.1, "schedule": "constant", "weight_decay": 0.0},
            "model": {"name": "hourglass", "drop_rate": 0.0},
            "tasks": {"view": {"loss": "corn"}},
        }
        trained(config_of(tasks_dataset, **sections), tmp_path / str(count))
        states.append(checkpoint.load_last(tmp_path / str(count)))
    assert states[0].history[0].metrics["train/loss"] == pytest.approx(states[1].history[0].metrics["train/loss"], 1e-5)
    for name, tensor in states[0].model.items():
        torch.testing.assert_close(tensor, states[1].model[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("sections", "tasks", "columns", "drawn"),
    [
        ({}, ["birads3", "view"], 6, "any"),
        ({"model": {"name": "hourglass", "tasks": "none"}}, ["birads3"], 4, "all"),
        ({"model": {"name": "hourglass", "tasks": "none", "reconstruct": False}}, None, 3, "own"),
        ({"tasks": {"view": {"weight": 0.0}, "reconstruction": {"weight": 0.0}}}, None, 3, "own"),
        ({"model": {"name": "test_efficientnet"}}, ["birads3", "view"], 5, "any"),
        ({"model": {"name": "hourglass", "fusion": False}, "loss": {"name": "coral"}}, ["birads3", "view"], 5, "any"),
    ],
)
def test_switches_and_what_is_drawn(tasks_dataset, sections, tasks, columns, drawn):
    """A switch leaves its head or its images in; images without the deciding label are lost, or drawn for nothing."""
    parts, plan = build_run(config_of(tasks_dataset, **sections), seed=0)
    assert (list(parts.criterion.tasks) if isinstance(parts.criterion, MultiTask) else None) == tasks
    assert parts.network.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, columns)
    labels = tasks_dataset.labels_n[tasks_dataset.rows("train")]
    is_drawn = plan.repeats() > 0
    assert is_drawn[labels >= 0].all()
    assert is_drawn[labels < 0].all() == (drawn != "own")


def test_doubts_of_a_trial_reach_the_targets(tasks_dataset):
    """A searched uncertainty or factor changes the trial's parameters and nothing else."""
    plain, _ = build_run(config_of(tasks_dataset), seed=0)
    tasks = {"birads3": {"factor": 5.0, "factor_classes": ["malignant"]}}
    other, _ = build_run(config_of(tasks_dataset, uncertainty={"synthetic": 0.75}, tasks=tasks), seed=0)
    is_malignant = tasks_dataset.labels_n == 2
    np.testing.assert_allclose(other.targets.weights_nt[:, 1], plain.targets.weights_nt[:, 1] / 2)
    np.testing.assert_allclose(
        other.targets.weights_nt[:, 0], plain.targets.weights_nt[:, 0] * np.where(is_malignant, 5, 1), rtol=1e-6
    )
    assert plain.identity != other.identity


if __name__ == "__main__":  # fork the ranks from one process that has imported torch
    ranks = [multiprocessing.get_context("fork").Process(target=_on_rank, args=(n, sys.argv[1])) for n in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=100)
    sys.exit(max(1 if process.exitcode is None else abs(process.exitcode) for process in ranks))
