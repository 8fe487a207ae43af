"""The study file's labels and splits: mirrors of the data room, and faults that need two fields at once."""

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.config import CLASS_NAMES, config_warnings
from study.config.data import FlipConfig, LabelsConfig, LeaveOutConfig, OriginsConfig, SplitsConfig, SynthesiseConfig
from study.config.fields import Task, Treatment
from study.config.load import check_raw
from study.config.names import SPLITS, SUB_GRADES, class_names

PAGE = Path(__file__).parents[3] / "docs" / "labels-and-splits.md"
PHANTOM = {"kind": "phantom", "name": "a", "patients": 9}
FILMS = {"kind": "mias", "name": "films", "root": "x"}


def raw(*, labels: Any = None, splits: Any = None, metric: str = "val/auroc_macro") -> dict[str, Any]:
    data = {"prepared": "p", "sources": [PHANTOM, FILMS], "labels": labels or {}, "splits": splits or {}}
    return {"study": "s", "data": data, "train": {"metric": metric}}


def faults_of(**parts: Any) -> dict[str, str]:
    return {fault.path: fault.message for fault in check_raw(raw(**parts))[1]}


class TestMirrors:
    """Names of the study file are those of the data room."""

    def test_tasks_and_classes(self) -> None:
        """The file offers a task or a class that does not exist, or hides one that does."""
        from study.data import tasks

        assert {name: tuple(names) for name, names in CLASS_NAMES.items()} == dict(tasks.CLASSES)
        assert tuple(SUB_GRADES) == tasks.SUB_GRADES
        assert typing.get_args(Task) == tuple(tasks.CLASSES)
        assert typing.get_args(Treatment) == tasks.TREATMENTS
        for task in tasks.CLASSES:
            for sub in (False, True):
                options: Any = {"classes": ("x", "y"), "sub_grades": sub}
                assert class_names(task, **options) == tasks.class_names(task, **options)

    def test_sections_by_task(self) -> None:
        """A task's labels cannot be left out or flipped, or those of none can."""
        from study.data.experiments import SYNTHESIS
        from study.data.tasks import CLASSES

        assert tuple(FlipConfig.model_fields) == tuple(CLASSES)
        assert tuple(LeaveOutConfig.model_fields) == ("all", *CLASSES)
        assert tuple(SynthesiseConfig.model_fields) == tuple(SYNTHESIS)
        for task, field in SynthesiseConfig.model_fields.items():
            (choices, _) = typing.get_args(field.annotation)
            assert typing.get_args(choices) == tuple(SYNTHESIS[task])

    def test_settings_have_the_same_fields(self) -> None:
        """A knob of the file does not reach the data room, or its default differs."""
        from study.data.tasks import LabelSettings

        assert set(LabelsConfig.model_fields) == {field.name for field in dataclasses.fields(LabelSettings)}
        plain, settings = LabelsConfig(), LabelSettings()
        for name in ("task", "auxiliary", "classes", "birads_0", "birads_3", "birads_sub", "binary_truth", "seed"):
            assert getattr(plain, name) == getattr(settings, name)
        assert plain.other_views == settings.other_views

    def test_uncertainty(self) -> None:
        """An origin has another usual uncertainty in the file than in the data room."""
        from study.data.uncertainty import NO_LABEL, ORIGINS, USUAL

        assert OriginsConfig().model_dump(exclude_none=True) == dict(USUAL)
        assert set(OriginsConfig.model_fields) == set(ORIGINS) - set(NO_LABEL)

    def test_schemes(self) -> None:
        """The file offers a scheme, a unit or a split that does not exist, or hides one that does."""
        from study.data import splits

        fields = SplitsConfig.model_fields
        assert typing.get_args(fields["scheme"].annotation) == typing.get_args(splits.Scheme)
        assert typing.get_args(fields["unit"].annotation) == typing.get_args(splits.Unit)
        assert SPLITS == splits.SPLITS


class TestOldFiles:
    """Files that were written before there was a choice mean what they meant."""

    def test_defaults(self) -> None:
        """A file with fractions alone is refused or split by another scheme."""
        partial, faults = check_raw(raw(splits={"val": {"fraction": 0.2}, "test": {"fraction": 0.2}}))
        assert faults == []
        assert partial.data is not None
        assert (partial.data.splits.scheme, partial.data.splits.unit) == ("fractions", "patient")
        assert partial.data.labels.class_names == ("normal", "benign", "malignant")
        assert partial.warnings == ()


class TestLabels:
    """Rules of ``data.labels``."""

    def test_several_tasks(self) -> None:
        """A file with several tasks and experiments on them is refused."""
        labels = {"task": "binary", "auxiliary": ["acr", "density", "view"], "leave_out": {"all": 0.5}}
        labels |= {"flip": {"binary": 0.1}, "synthesise": {"binary": "acr"}, "uncertainty": {"synthetic": 0.75}}
        assert faults_of(labels=labels) == {}

    def test_a_task_twice(self) -> None:
        """A task beside itself is accepted."""
        found = faults_of(labels={"task": "binary", "auxiliary": ["density", "binary"]})
        assert set(found) == {"data.labels.auxiliary.1"}
        assert "it is data.labels.task already" in found["data.labels.auxiliary.1"]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ({"task": "classes"}, "missing; expected all classes of task classes, in order of grade"),
            ({"auxiliary": ["classes"]}, "missing; expected all classes of task classes, in order of grade"),
            ({"task": "classes", "classes": ["one"]}, "1 named; expected all classes of task classes"),
            ({"classes": ["one", "two"]}, "no effect: expected task classes, found birads3"),
        ],
    )
    def test_classes_are_named_where_they_are_needed(self, labels: Any, message: str) -> None:
        """Task ``classes`` goes without names, or names without the task are taken for a setting."""
        found = faults_of(labels=labels)
        assert set(found) == {"data.labels.classes"}
        assert found["data.labels.classes"].startswith(message)

    @pytest.mark.parametrize("name", ["a/b", "", " a", "a:b", "é", "x" * 65, 3])
    def test_class_names_fit_into_metrics(self, name: Any) -> None:
        """A class whose name breaks the name of its metric is accepted."""
        assert "data.labels.classes.1" in faults_of(labels={"task": "classes", "classes": ["ok", name]})

    def test_experiments_belong_to_tasks_of_the_file(self) -> None:
        """A fraction for a task that the file does not have is ignored in silence."""
        labels = {"leave_out": {"density": 0.5}, "flip": {"view": 0.5}, "synthesise": {"binary": "acr"}}
        found = faults_of(labels=labels)
        assert set(found) == {
            *("data.labels.leave_out.density", "data.labels.flip.view", "data.labels.synthesise.binary")
        }
        assert "density is no task of this file; expected one of birads3" in found["data.labels.leave_out.density"]

    def test_spelling(self) -> None:
        """A misspelt task, origin or fraction has no hint, or hides another fault."""
        found = faults_of(
            labels={"auxiliary": ["densty"], "leave_out": {"bnary": 0.1, "birads3": 2}, "uncertainty": {"biopsie": 0}}
        )
        assert "did you mean 'density'?" in found["data.labels.auxiliary.0"]
        assert "did you mean 'binary'?" in found["data.labels.leave_out.bnary"]
        assert "did you mean 'biopsy'?" in found["data.labels.uncertainty.biopsie"]
        assert found["data.labels.leave_out.birads3"] == "2: expected a number from 0 to 1"


class TestMetrics:
    """A metric of one class belongs to the file's task."""

    @pytest.mark.parametrize(
        ("labels", "metric"),
        [
            ({"task": "binary"}, "val/auroc_malignant"),
            ({"task": "birads"}, "val/auroc_birads_4"),
            ({"task": "birads", "birads_sub": True}, "val/auroc_birads_4a"),
            ({"task": "density"}, "val/segment/films/auroc_D"),
            ({"task": "classes", "classes": ["none", "mild"]}, "val/auroc_mild"),
        ],
    )
    def test_exists(self, labels: Any, metric: str) -> None:
        """The metric of a class that the task has is refused."""
        assert faults_of(labels=labels, metric=metric) == {}

    @pytest.mark.parametrize(
        ("labels", "metric", "hint"),
        [
            ({"task": "binary"}, "val/auroc_normal", ""),
            ({"task": "birads"}, "val/auroc_birads_4a", "val/auroc_birads_4"),
            ({"task": "classes", "classes": ["none", "mild"]}, "val/auroc_milt", "val/auroc_mild"),
        ],
    )
    def test_does_not_exist(self, labels: Any, metric: str, hint: str) -> None:
        """The metric of a class that the task does not have is accepted, or has no hint."""
        found = faults_of(labels=labels, metric=metric)
        assert set(found) == {"train.metric"}
        assert hint in found["train.metric"]

    def test_a_fault_in_the_task_is_told_once(self) -> None:
        """Classes that cannot be known yet make every metric of a class a fault of its own."""
        for labels in ({"task": "classes"}, {"task": "brads"}):
            assert "train.metric" not in faults_of(labels=labels, metric="val/auroc_mild")


class TestSplits:
    """Rules of ``data.splits``."""

    @pytest.mark.parametrize(
        "splits",
        [
            {"scheme": "official"},
            {"scheme": "folds", "folds": 5, "fold": 5},
            {"scheme": "leave_one_source_out", "held_out": "films"},
            {"scheme": "by_source", "by_source": {"a": "train", "films": {"val": 0.5, "test": 0.5}}},
            {"scheme": "by_source", "by_source": {"a": "official", "films": {"train": 1}}},
        ],
    )
    def test_schemes(self, splits: Any) -> None:
        """A scheme with all that it needs is refused."""
        assert faults_of(splits=splits) == {}

    @pytest.mark.parametrize(
        ("scheme", "missing"),
        [("folds", {"folds", "fold"}), ("leave_one_source_out", {"held_out"}), ("by_source", {"by_source"})],
    )
    def test_keys_and_schemes_belong_together(self, scheme: str, missing: set[str]) -> None:
        """A scheme goes without its keys, or a key without its scheme is ignored."""
        found = faults_of(splits={"scheme": scheme})
        assert found == {f"data.splits.{key}": f"missing; scheme {scheme} needs it" for key in missing}
        keys = {"folds": 5, "fold": 1, "held_out": "films", "by_source": {"a": "train", "films": "test"}}
        alone = faults_of(splits=keys)
        assert set(alone) == {f"data.splits.{key}" for key in keys}
        assert alone["data.splits.folds"] == "belongs to scheme folds; the file has fractions"

    def test_folds(self) -> None:
        """A fold that does not exist is accepted, or one fold is called a cross-validation."""
        assert "from 1 to 5" in faults_of(splits={"scheme": "folds", "folds": 5, "fold": 6})["data.splits.fold"]
        assert "data.splits.folds" in faults_of(splits={"scheme": "folds", "folds": 1, "fold": 1})

    def test_fractions_that_leave_nobody(self) -> None:
        """Shares that leave no patient to train are accepted, or held against a scheme that does not use both."""
        large = {"val": {"fraction": 0.6}, "test": {"fraction": 0.6}}
        assert "leave no patients to train" in faults_of(splits=large)["data.splits"]
        assert "data.splits" in faults_of(splits={**large, "scheme": "official"})
        assert faults_of(splits={**large, "scheme": "folds", "folds": 3, "fold": 1}) == {}

    def test_sources_have_names(self) -> None:
        """A rule for a source that is not there is accepted, or a source without a rule."""
        found = faults_of(splits={"scheme": "by_source", "by_source": {"a": "train", "film": "test"}})
        assert "did you mean 'films'?" in found["data.splits.by_source.film"]
        assert found["data.splits.by_source"] == "no rule for films; expected one for every source"
        held = faults_of(splits={"scheme": "leave_one_source_out", "held_out": "film"})
        assert "did you mean 'films'?" in held["data.splits.held_out"]

    @pytest.mark.parametrize(
        ("rule", "path", "message"),
        [
            ("tran", "a", "did you mean 'train'?"),
            ({"train": 0.5, "test": 0.4}, "a", "make 0.9: expected 1 together"),
            ({"train": 0.5, "tests": 0.5}, "a.tests", "unknown key; did you mean 'test'?"),
            ({"train": "half"}, "a.train", "'half': expected a number from 0 to 1"),
            ({"train": True}, "a.train", "expected a number from 0 to 1"),
            ({}, "a", "no shares make 0: expected 1 together"),
            (["train"], "a", "a list: expected one of train, val, test, official"),
            (None, "a", "null: expected one of train, val, test, official"),
        ],
    )
    def test_rules_of_sources(self, rule: Any, path: str, message: str) -> None:
        """A rule that means nothing is accepted, or the message does not lead to it."""
        found = faults_of(splits={"scheme": "by_source", "by_source": {"a": rule, "films": "test"}})
        assert set(found) == {f"data.splits.by_source.{path}"}
        assert message in found[f"data.splits.by_source.{path}"]

    def test_by_source_is_a_mapping(self) -> None:
        """A list of rules stops the program."""
        found = faults_of(splits={"scheme": "by_source", "by_source": ["a"]})
        assert set(found) == {"data.splits.by_source"}

    def test_the_protocol_of_paper_ordinal_needs_its_sources(self) -> None:
        """Other data than the paper's are split by its protocol, or what is missing is not named."""
        message = faults_of(splits={"scheme": "ordinal"})["data.splits.scheme"]
        assert "no source of kind vindr, inbreast, embed" in message
        assert "no rule for a source of kind phantom, mias" in message

    def test_one_source_cannot_be_left_out(self) -> None:
        """Leaving out the only source leaves nothing to train."""
        study = raw(splits={"scheme": "leave_one_source_out", "held_out": "a"})
        study["data"]["sources"] = [PHANTOM]
        assert [fault.path for fault in check_raw(study)[1]] == ["data.splits.scheme"]


class TestAdvice:
    """Settings that work but hardly mean what they say."""

    def warnings(self, splits: Any) -> list[str]:
        partial, faults = check_raw(raw(splits=splits))
        assert faults == []
        assert partial.config is not None
        assert list(partial.warnings) == config_warnings(partial.config)
        return list(partial.warnings)

    def test_breasts(self) -> None:
        """Breasts of a patient part without a warning."""
        (text,) = self.warnings({"unit": "breast"})
        assert "look better than new patients will" in text

    def test_fractions_without_effect(self) -> None:
        """A share that the scheme does not use is taken for a setting."""
        splits = {"scheme": "by_source", "by_source": {"a": "train", "films": {"val": 0.5, "test": 0.5}}}
        assert self.warnings({**splits, "val": {"fraction": 0.3}}) == [
            "data.splits.val have no effect with scheme by_source"
        ]
        official = {"scheme": "by_source", "by_source": {"a": "official", "films": "test"}}
        assert self.warnings({**official, "val": {"fraction": 0.3}}) == []
        assert self.warnings({"scheme": "official", "val": {"fraction": 0.3}}) == []


def test_snippets_of_the_page() -> None:
    """An example on the page about labels and splits is refused by the program."""
    found = re.findall(r"```yaml\n((?:labels|splits):.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) >= 8
    sites = [{**PHANTOM, "name": name} for name in ("site_1", "site_2", "site_3")]
    for text in found:
        inbreast = [{"kind": "inbreast", "root": "x"}] if "inbreast" in text else []
        data = {"prepared": "p", "sources": [*sites, *inbreast], **yaml.safe_load(text)}
        partial, faults = check_raw({"study": "s", "data": data})
        assert (faults, partial.warnings) == ([], ())
