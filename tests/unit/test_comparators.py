"""Ways to use trained networks that papers compare with: pooled views, dropout when predicting, ensembles."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from study.config import McDropoutConfig, StudyConfig
from study.console.tables import comparator_table
from study.distributed.confirming import _Stage
from study.ensembles import ensemble_of, write_ensemble
from study.errors import InputError, StudyError
from study.inference import Outputs, group_names, prediction_metrics, prediction_table, predictions_of
from study.ledger import Ledger, RunRecord, default_url
from study.losses import make_criterion
from study.models import make_model
from study.optimisation import autocast_for
from study.standing import Candidate, comparator_rows, ensemble_stage
from study.stochastic import McDropout, dropout_places, dropping, sample_split
from study.types import ComparatorRow, RunOutcome, StudyResult

CPU = torch.device("cpu")
CLASSES = ("normal", "benign", "malignant")


class Net(nn.Module):
    """A small network with batch normalisation and dropout."""

    def __init__(self, rate=0.5):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(rate), nn.Linear(128, 3))

    def forward(self, x):
        return self.head(self.body(x))


def predicted(dataset, *, seed=0, split="test"):
    """Random predictions of a split."""
    rows_n = dataset.rows(split)
    outputs_no = torch.randn(len(rows_n), 3, generator=torch.Generator().manual_seed(seed))
    return predictions_of(Outputs(rows_n=rows_n, outputs_no=outputs_no), make_criterion("emd", num_classes=3), dataset)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def sample(net, dataset, *, samples=4, rate=None, seed=0):
    settings = McDropout(samples=samples, rate=rate, seed=seed)
    criterion = make_criterion("corn" if net.head[2].out_features == 2 else "emd", num_classes=3)
    return sample_split(
        net,
        criterion,
        dataset,
        settings=settings,
        split="test",
        device=CPU,
        autocast=lambda: autocast_for(CPU, "fp32"),
    )


class TestPooling:
    def test_names_of_groups(self):
        """Breasts of two exams, or images without an exam or a side, fall into one group."""
        rows = pd.DataFrame(
            {
                "image_id": ["i0", "i1", "i2", "i3", "i4", "i5"],
                "patient_id": ["p", "p", "p", "q", "q", "q"],
                "study_id": ["s", "s", "t", pd.NA, pd.NA, pd.NA],
                "breast_id": ["p_L", "p_L", "p_L", "q_R", pd.NA, pd.NA],
            }
        )
        exams, breasts = group_names(rows, "exam"), group_names(rows, "breast")
        assert pd.factorize(exams)[0].tolist() == [0, 0, 1, 2, 2, 2]
        assert pd.factorize(breasts)[0].tolist() == [0, 0, 1, 2, 3, 4]
        assert pd.factorize(group_names(rows.drop(columns=["study_id", "breast_id"]), "exam"))[0].tolist() == [
            *(0, 0, 0),
            *(1, 1, 1),
        ]
        with pytest.raises(InputError, match="'patient'"):
            group_names(rows, "patient")

    @pytest.mark.parametrize("pooling", ["mean", "max"])
    def test_metrics_of_exams(self, tiny_dataset, pooling):
        """The metrics of exams are those of images, of other groups, or stand under another key."""
        predictions = predicted(tiny_dataset)
        found = prediction_metrics(predictions, tiny_dataset, prefix="test/", pool=["exam"], pooling=pooling)
        plain = prediction_metrics(predictions, tiny_dataset, prefix="test/")
        assert {key: found[key] for key in plain if plain[key] == plain[key]} == pytest.approx(
            {key: value for key, value in plain.items() if value == value}
        )
        patients = tiny_dataset.manifest["patient_id"].to_numpy()[predictions.rows_n]
        worst = pd.Series(predictions.labels_n).groupby(patients).max()
        score = pd.Series(predictions.probs_nk[:, 2]).groupby(patients).mean()
        area = roc_auc_score(worst == 2, score)
        assert (found["test/exam/auroc_malignant"] == pytest.approx(area)) == (pooling == "mean")
        assert not any(key.startswith("test/breast/") for key in found)
        if pooling == "max":
            expected = pd.Series(predictions.probs_nk @ [0, 1, 2]).groupby(patients).idxmax()
            area = roc_auc_score(worst == 2, predictions.probs_nk[expected.to_numpy(), 2])
            assert found["test/exam/auroc_malignant"] == pytest.approx(area)

    def test_table_names_the_groups(self, tiny_dataset):
        """A predictions file does not tell which images belong to one breast."""
        table = prediction_table(predicted(tiny_dataset), tiny_dataset)
        assert len(set(table["exam"])) == len(set(table["patient_id"])) < len(table["exam"])
        assert len(set(table["breast"])) == len(table["breast"])  # no side is known here


class TestMcDropout:
    def test_mean_and_spread(self, net, tiny_dataset):
        """The result is not the mean over the passes, or its spread not their standard deviation."""
        two, three = sample(net, tiny_dataset, samples=2), sample(net, tiny_dataset, samples=3)
        last = 3 * three.predictions.probs_nk - 2 * two.predictions.probs_nk  # sample 2 does not depend on how many
        np.testing.assert_allclose(last.sum(axis=1), 1)
        assert last.min() > -1e-12
        many = three
        assert (many.spread_n > 0).all()
        np.testing.assert_array_equal(many.predictions.decoded_n, many.predictions.probs_nk.argmax(axis=1))
        np.testing.assert_allclose(many.predictions.probs_nk.sum(axis=1), 1)

    def test_is_a_function_of_the_seed(self, net, tiny_dataset):
        """The same seed drops other units the next time, another seed the same ones, or the order of batches counts."""
        first, again = sample(net, tiny_dataset, seed=1), sample(net, tiny_dataset, seed=1)
        other = sample(net, tiny_dataset, seed=2)
        np.testing.assert_array_equal(first.predictions.probs_nk, again.predictions.probs_nk)
        assert np.abs(first.predictions.probs_nk - other.predictions.probs_nk).max() > 1e-4

    def test_ranks_drop_the_same(self, net, tiny_dataset, monkeypatch):
        """On two ranks other units are dropped than on one, or a rank predicts another's images."""
        monkeypatch.setattr("study.stochastic.BATCH_ROWS", 8)
        whole, parts = [], []
        real = predictions_of
        monkeypatch.setattr(
            "study.stochastic.predictions_of",
            lambda outputs, *rest: whole.append(outputs.outputs_no) or real(outputs, *rest),
        )
        alone = sample(net, tiny_dataset, samples=2)
        both, shape = list(whole), whole[0].shape
        for rank in (0, 1):
            ranks = SimpleNamespace(
                is_initialized=lambda: True, get_rank=lambda rank=rank: rank, get_world_size=lambda: 2
            )
            monkeypatch.setattr("study.stochastic.dist", ranks)
            monkeypatch.setattr("study.stochastic.gather", lambda part: parts.append(part) or torch.zeros(shape))
            sample(net, tiny_dataset, samples=2)
        assert [len(part) for part in parts] == [16, 16, 8, 8]
        for number in (0, 1):
            assert torch.equal(torch.cat([parts[number], parts[2 + number]]), both[number])
        assert len(alone.spread_n) == 24

    def test_nothing_stays_changed(self, net, tiny_dataset):
        """Dropout stays on, its rate or the mode of normalisation stays changed, or the random numbers move on."""
        net.train()
        net.body[1].eval()
        before = {key: value.clone() for key, value in net.state_dict().items()}
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        sample(net, tiny_dataset, rate=0.9)
        assert torch.equal(torch.rand(1), expected)
        assert (net.training, net.head[1].training, net.body[1].training, net.head[1].p) == (True, True, False, 0.5)
        assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())

    def test_small_rates_come_near_the_plain_prediction(self, net, tiny_dataset):
        """The rate of the study file is not used."""
        net.eval()
        low, high = sample(net, tiny_dataset, rate=0.001), sample(net, tiny_dataset, rate=0.9)
        assert low.spread_n.mean() < 0.2 * high.spread_n.mean()

    def test_networks_of_timm(self):
        """A timm network, which drops by a number and not by a module, is not sampled, or its normalisation is."""
        network = make_model("test_efficientnet", num_outputs=3, drop_rate=0.5).eval()
        images = torch.rand(4, 1, 32, 32)
        with dropping(network, rate=None), torch.no_grad():
            assert not any(part.training for part in network.modules() if isinstance(part, nn.BatchNorm2d))
            assert not torch.equal(network(images), network(images))
        with torch.no_grad():
            assert torch.equal(network(images), network(images))

    def test_a_network_without_dropout(self):
        """A network that drops nothing gives equal passes, and a spread of 0 looks like certainty."""
        network = make_model("test_efficientnet", num_outputs=3, drop_rate=0.0)
        assert dropout_places(network) == []
        with pytest.raises(InputError, match="no dropout"), dropping(network, rate=0.5):
            pass


@pytest.fixture
def files(tmp_path, tiny_dataset):
    """Predictions files of three runs."""
    paths = []
    for seed in range(3):
        path = tmp_path / f"0-s{seed}" / "predictions_test.parquet"
        path.parent.mkdir()
        pq.write_table(pa.table(dict(prediction_table(predicted(tiny_dataset, seed=seed), tiny_dataset))), path)
        paths.append(path)
    return paths


class TestEnsembles:
    def test_mean_of_probabilities(self, files, tiny_dataset, tmp_path):
        """The ensemble is not the mean of its members, or its metrics are theirs."""
        found = ensemble_of(files, metric="auroc_macro", pool=["exam"])
        mean_nk = np.mean([predicted(tiny_dataset, seed=seed).probs_nk for seed in range(3)], axis=0)
        columns = [f"probability_{name}" for name in CLASSES]
        np.testing.assert_allclose(found.table[columns].to_numpy(), mean_nk)
        labels_n = predicted(tiny_dataset).labels_n
        area = np.mean([roc_auc_score(labels_n == k, mean_nk[:, k]) for k in range(3)])
        assert found.value == found.metrics["auroc_macro"] == pytest.approx(area)
        assert found.low < found.value < found.high
        assert found.num_patients == 12
        assert found.table["decoded"].tolist() == [CLASSES[k] for k in mean_nk.argmax(axis=1)]
        assert "exam/auroc_macro" in found.metrics
        assert "segment/site_a/auroc_macro" in found.metrics
        write_ensemble(found, tmp_path / "new" / "predictions_test.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new" / "predictions_test.parquet"), found.table)

    @pytest.mark.parametrize("metric", ["segment/site_a/accuracy", "exam/accuracy", "pooled_minus_local_auroc"])
    def test_other_metrics(self, files, metric):
        """A metric of a segment or of pooled views has the value of all images, or no interval."""
        found = ensemble_of(files, metric=metric, pool=["exam"])
        assert found.value == pytest.approx(found.metrics[metric])
        assert found.low <= found.value <= found.high

    def test_unknown_metric_is_undefined(self, files):
        """A metric that predictions cannot give has a made-up value."""
        assert math.isnan(ensemble_of(files, metric="task/view/accuracy").value)

    def test_wrong_files(self, files, tiny_dataset):
        """One run, a file that is cut off, or files about other images are averaged."""
        with pytest.raises(StudyError, match="at least 2"):
            ensemble_of(files[:1], metric="mcc")
        pq.write_table(pa.table(dict(prediction_table(predicted(tiny_dataset, split="val"), tiny_dataset))), files[1])
        with pytest.raises(StudyError, match="other images or classes"):
            ensemble_of(files, metric="mcc")
        files[2].write_bytes(files[2].read_bytes()[:100])
        with pytest.raises(StudyError, match="cannot be read"):
            ensemble_of(files, metric="mcc")


class Notes:
    """A ledger that has what the rows are made of."""

    metric, mode = "val/auroc_macro", "max"

    def __init__(self, stages):
        self.stages = stages

    def run_records(self):
        return [
            RunRecord(
                trial="3",
                seed=seed,
                kind="evaluate",
                outcome=RunOutcome(state="complete", metrics={"test/auroc_macro": 0.5, **more}),
            )
            for seed, more in enumerate([{"test/mc_dropout/auroc_macro": 0.7}, {"test/mc_dropout/auroc_macro": 0.9}])
        ]

    def stage(self, name):
        return self.stages.get(name)


def test_rows_of_comparators():
    """Dropout's mean is that of other runs, or an ensemble of other seeds than those of the file is shown."""
    kept = {"seeds": [0, 1], "value": 0.95, "low": 0.9, "high": 0.97}
    candidates = [Candidate(trial=trial, params={}, config=None) for trial in ("3", "4")]
    dropout, ensemble = comparator_rows(Notes({ensemble_stage("3"): kept}), candidates, (0, 1))
    assert (dropout.kind, dropout.trial, dropout.seeds, dropout.value) == ("mc_dropout", "3", (0, 1), 0.8)
    assert (dropout.low, dropout.high) == (0.0, 1.0)  # two seeds: 0.8 +- 1.27, cut at the metric's range
    assert ensemble == ComparatorRow(kind="ensemble", trial="3", seeds=(0, 1), value=0.95, low=0.9, high=0.97)
    assert [row.kind for row in comparator_rows(Notes({ensemble_stage("3"): kept}), candidates, (0, 1, 2))] == [
        "mc_dropout"
    ]


def test_table_says_over_what_an_interval_is():
    """A reader takes an ensemble's interval for one over seeds."""
    row = ComparatorRow(kind="ensemble", trial="3", seeds=(0, 1, 2), value=0.9, low=0.85, high=0.94)
    result = StudyResult(
        study="s",
        state="done",
        metric="val/auroc_macro",
        mode="max",
        rows=(),
        comparators=(row, replace(row, kind="mc_dropout", low=math.nan, high=math.nan)),
    )
    lines = comparator_table(result, width=90).splitlines()
    assert lines[0] == "Other uses of the confirmed runs: test/auroc_macro"
    assert lines[2].split() == ["3", "ensemble", "3", "0.900", "0.850", "to", "0.940", "patients"]
    assert lines[3].split() == ["3", "MC", "dropout", "3", "0.900", "-", "seeds"]
    assert "not for other seeds" in lines[4]
    alone = comparator_table(replace(result, comparators=result.comparators[1:]), width=90)
    assert "not for other seeds" not in alone


@pytest.fixture
def confirmed(tmp_path, tiny_dataset):
    """The confirm stage of a study whose two seeds have been read, with their predictions."""
    raw = {"prepared": "p", "sources": [{"kind": "phantom", "name": "a", "patients": 20}]}
    config = StudyConfig.model_validate(
        {"study": "s", "data": raw, "confirm": {"top": 1, "seeds": [0, 1], "ensemble": True}}
    )
    ledger = Ledger.open(default_url(tmp_path), config=config)
    for seed in (0, 1):
        folder = tmp_path / "runs" / f"0-s{seed}"
        folder.mkdir(parents=True)
        table = prediction_table(predicted(tiny_dataset, seed=seed), tiny_dataset)
        pq.write_table(pa.table(dict(table)), folder / "predictions_test.parquet")
        outcome = RunOutcome(state="complete", metrics={"test/auroc_macro": 0.5})
        ledger.record_run("0", seed, outcome, kind="evaluate")
    told = []
    search = SimpleNamespace(
        config=config,
        ledger=ledger,
        study_dir=tmp_path,
        fingerprint="",
        observe=lambda event: told.append(event.text),
        with_past=lambda spec: spec,
    )
    candidate = Candidate(trial="0", params={}, config=config)
    yield _Stage(search, [candidate], config.confirm), told
    ledger.close()


def test_confirmation_averages_its_seeds(confirmed, tmp_path, tiny_dataset):
    """An ensemble is not recorded, made again on every resume, or of other runs than the confirmation's."""
    stage, told = confirmed
    stage.average()
    kept = stage.search.ledger.stage(ensemble_stage("0"))
    mean_nk = np.mean([predicted(tiny_dataset, seed=seed).probs_nk for seed in (0, 1)], axis=0)
    labels_n = predicted(tiny_dataset).labels_n
    assert kept["value"] == pytest.approx(np.mean([roc_auc_score(labels_n == k, mean_nk[:, k]) for k in range(3)]))
    assert kept["seeds"] == [0, 1]
    (row,) = comparator_rows(stage.search.ledger, list(stage.candidates.values()), (0, 1))
    assert (row.kind, row.value, row.low, row.high) == ("ensemble", kept["value"], kept["low"], kept["high"])
    file = tmp_path / "runs" / "0-ensemble" / "predictions_test.parquet"
    written = file.stat().st_mtime_ns
    stage.average()
    assert (file.stat().st_mtime_ns, told) == (written, [])


def test_an_ensemble_lacks_no_seed(confirmed):
    """The mean of two seeds is shown as that of three."""
    stage, told = confirmed
    stage.confirm = stage.confirm.model_copy(update={"seeds": (0, 1, 2)})
    stage.average()
    assert stage.search.ledger.stage(ensemble_stage("0")) is None
    assert told == ["no ensemble of 0: not all of its seeds could be trained"]


def test_dropout_that_is_asked_for_later_is_read(confirmed):
    """`study resume --set confirm.mc_dropout=...` finds all test readings done and samples nothing."""
    stage, _ = confirmed
    assert stage.missing_tests() == []
    stage.confirm = stage.confirm.model_copy(update={"mc_dropout": McDropoutConfig()})
    assert [(spec.seed, spec.kind) for spec in stage.missing_tests()] == [(0, "evaluate"), (1, "evaluate")]
    numbers = McDropout(samples=10, rate=None, seed=1).numbers()
    read = {"test/auroc_macro": 0.5, **{f"test/mc_dropout/{key}": number for key, number in numbers.items()}}
    stage.search.ledger.record_run("0", 1, RunOutcome(state="complete", metrics=read), kind="evaluate")
    assert [spec.seed for spec in stage.missing_tests()] == [0]
    stage.confirm = stage.confirm.model_copy(update={"mc_dropout": McDropoutConfig(samples=20)})
    assert [spec.seed for spec in stage.missing_tests()] == [0, 1]
