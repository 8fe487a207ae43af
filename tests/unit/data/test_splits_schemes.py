"""Splits by rule: official, the protocol of paper ordinal, by source, one source left out."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data.splits import SplitSettings, check_no_leak, split_manifest
from study.errors import InputError
from tests.unit.data.cohorts import SPLITS, cohort, embed, inbreast, manifest_of, patients_of, vindr

KINDS = {"vindr": "vindr", "inbreast": "inbreast", "embed": "embed"}


def split(manifest, scheme, **options):
    return split_manifest(manifest, SplitSettings(scheme=scheme, **options))


def official(words, *, labels=None, source="a", prefix="p"):
    """One image per patient with an official word each."""
    patients = [f"{prefix}{number}" for number in range(len(words))]
    found = labels if labels is not None else [number % 3 for number in range(len(words))]
    return manifest_of(patients, labels=found, sources=source, split_official=pd.Series(words, dtype="str"))


class TestOfficial:
    """What the data set's own split says, completed where it lacks a part."""

    def test_words(self):
        """A spelling of the three parts is not understood."""
        words = ["Training", "train", "VAL", "valid", "validation", "test", "Testing"] * 2
        done = split(official(words), "official").manifest
        assert done["split"].tolist() == ["train", "train", "val", "val", "val", "test", "test"] * 2

    def test_a_missing_val_is_carved_out_of_train(self):
        """A data set of train and test has no val, loses test images to it, or gets another share."""
        manifest = official(["training"] * 300 + ["test"] * 75)
        done = split(manifest, "official", val_fraction=0.1).manifest
        assert (done["split"].iloc[300:] == "test").all()
        counts = done["split"].iloc[:300].value_counts()
        assert counts.to_dict() == {"train": 270, "val": 30}
        by_class = done[done["split"] == "val"]["label"].value_counts()
        assert by_class.max() - by_class.min() <= 1

    def test_a_missing_test_is_carved_too(self):
        """A data set of train alone gives no test, so that no study can end."""
        counts = split(official(["train"] * 100), "official").manifest["split"].value_counts()
        assert abs(counts - 20).loc[["val", "test"]].max() <= 1
        assert counts.sum() == 100

    def test_sources_without_an_official_split_get_fractions(self):
        """A source without words trains as a whole, or a source with words is drawn."""
        films = cohort(patients=100, sources=("films",)).assign(split_official=pd.Series(None, dtype="str"))
        manifest = pd.concat([official(["train", "val", "test"] * 10), films], ignore_index=True)
        done = split(manifest, "official").manifest
        assert done["split"].iloc[:30].tolist() == ["train", "val", "test"] * 10
        shares = patients_of(done.iloc[30:])["split"].value_counts(normalize=True)
        assert shares["val"] == pytest.approx(0.2, abs=0.03)
        assert shares["test"] == pytest.approx(0.2, abs=0.03)

    def test_patients_on_both_sides_train_and_are_counted(self):
        """The 31 patients of CBIS-DDSM leak from training to test, split up, or are moved without a word."""
        mass = official(["training"] * 100 + ["test"] * 40, source="mass")
        calc = official(["training"] * 100 + ["test"] * 40, source="calc", prefix="q")
        calc.loc[calc.index[100:131], "patient_id"] = [f"p{number}" for number in range(31)]
        manifest = pd.concat([mass, calc], ignore_index=True)
        result = split(manifest, "official")
        torn = result.manifest["patient_id"].isin([f"p{number}" for number in range(31)])
        assert result.moved == 31
        assert set(result.manifest.loc[torn, "split"]) == {"train"}
        assert "31 patients lay on several sides by their sources; all their images train" in result.notes
        check_no_leak(result.manifest)

    def test_a_dropped_image_moves_nobody(self):
        """An image that takes no part pulls its patient to train."""
        manifest = official(["train", "val", "test"] * 4)
        manifest.loc[2, "patient_id"] = "p0"
        manifest["drop_reason"] = ["", "", "a duplicate", *[""] * 9]
        assert split(manifest, "official").moved == 0

    def test_unknown_words_are_refused(self):
        """A word that nobody defined is guessed, or the message does not lead to it."""
        with pytest.raises(InputError, match=r"source 'b'.*data row 2: 'tset'; expected .*did you mean 'test'"):
            split(
                pd.concat([official(["train"] * 5), official(["train", "tset"], source="b")], ignore_index=True),
                "official",
            )


@pytest.fixture(scope="module")
def everything():
    """The three data sets of paper ordinal, EMBED in small."""
    return pd.concat([vindr(), inbreast(), embed()], ignore_index=True)


class TestOrdinal:
    """The protocol of paper ordinal on data of the published counts."""

    def test_counts(self, everything):
        """15,256 and 3,814 images of VinDr train and validate, about 267 of INbreast train and 120 test, all of EMBED
        trains; other numbers mean another protocol than the paper's.
        """
        done = split(everything, "ordinal", kinds=KINDS).manifest
        counts = done[done["drop_reason"] == ""].groupby(["source", "split"]).size().to_dict()
        assert counts[("vindr", "train")] == 15_256
        assert counts[("vindr", "val")] == 3_814
        assert counts[("inbreast", "train")] + counts[("inbreast", "test")] == 387
        assert abs(counts[("inbreast", "test")] - 120) <= 8
        assert counts[("embed", "train")] == 1200
        assert len(counts) == 5

    def test_vindr_classes(self, everything):
        """The classes of VinDr's training part are not 10,724, 3,742 and 790."""
        done = split(everything, "ordinal", kinds=KINDS).manifest
        part = done[(done["source"] == "vindr") & (done["split"] == "train")]
        assert part["label"].value_counts().sort_index().tolist() == [10_724, 3_742, 790]

    def test_inbreast_is_stratified_by_worst_class(self, everything):
        """The rare normal patients of INbreast are all on one side, or a class is off by more than its rounding."""
        done = split(everything, "ordinal", kinds=KINDS).manifest
        table = patients_of(done[(done["source"] == "inbreast") & (done["drop_reason"] == "")])
        for _, members in table.groupby("worst"):
            assert abs((members["split"] == "test").sum() - 0.3 * len(members)) <= 1

    def test_other_sources_are_refused(self):
        """A source that the paper does not have is put somewhere, or a missing part leaves val empty in silence."""
        with pytest.raises(InputError, match="no rule for source 'a' of kind phantom"):
            split(cohort(sources=("a",)), "ordinal", kinds={"a": "phantom"})
        with pytest.raises(InputError, match="no labelled image for val"):
            split(pd.concat([inbreast(), embed()], ignore_index=True), "ordinal", kinds=KINDS)

    def test_every_image_of_vindr_needs_its_word(self, everything):
        """An image of VinDr without a split is guessed to train."""
        manifest = everything.copy()
        manifest.loc[[0, 1], "split_official"] = None
        with pytest.raises(InputError, match="source 'vindr': 2 usable rows have no split_official"):
            split(manifest, "ordinal", kinds=KINDS)


RULES = {"a": "train", "b": {"train": 0.5, "val": 0.5}, "c": "test"}


class TestBySource:
    """A rule for each source."""

    def test_rules(self):
        """A source does not go where its rule says."""
        done = split(cohort(patients=90, sources=("a", "b", "c")), "by_source", by_source=RULES).manifest
        table = patients_of(done).groupby(["source", "split"]).size().to_dict()
        assert set(table) == {("a", "train"), ("b", "train"), ("b", "val"), ("c", "test")}
        assert (table["a", "train"], table["c", "test"]) == (30, 30)
        assert abs(table["b", "val"] - 15) <= 1

    def test_official(self):
        """``official`` in one source reaches another one."""
        manifest = pd.concat([official(["train", "test"] * 50), cohort(sources=("b",))], ignore_index=True)
        done = split(manifest, "by_source", by_source={"a": "official", "b": "val"}).manifest
        assert set(done.loc[done["source"] == "b", "split"]) == {"val"}
        assert done.loc[done["source"] == "a", "split"].value_counts()["test"] == 50

    def test_a_source_without_training(self):
        """Shares of val and test alone leave somebody to train."""
        rules = {"a": "train", "b": {"val": 0.4, "test": 0.6}}
        done = split(cohort(patients=40), "by_source", by_source=rules).manifest
        assert set(done.loc[done["source"] == "b", "split"]) == {"val", "test"}

    def test_patients_of_two_sources(self):
        """A patient whom two rules put on two sides is on both, or does not train."""
        one = manifest_of([f"p{n}" for n in range(20)], labels=[0, 1] * 10, sources="a")
        two = manifest_of([f"p{n}" for n in range(15, 35)], labels=[0, 1] * 10, sources="c")
        three = manifest_of([f"q{n}" for n in range(20)], labels=[0, 1] * 10, sources="b")
        result = split(pd.concat([one, two, three], ignore_index=True), "by_source", by_source=RULES)
        assert result.moved == 5
        shared = result.manifest["patient_id"].isin([f"p{n}" for n in range(15, 20)])
        assert set(result.manifest.loc[shared, "split"]) == {"train"}

    def test_a_source_without_a_rule_is_refused(self):
        """A source that no rule names is drawn or trains."""
        with pytest.raises(InputError, match="no rule for source 'c'"):
            split(cohort(sources=("a", "b", "c")), "by_source", by_source={"a": "train", "b": "val"})

    def test_an_empty_part_is_refused(self):
        """A study without a test split starts."""
        with pytest.raises(InputError, match="no labelled image for test"):
            split(cohort(), "by_source", by_source={"a": "train", "b": "val"})

    def test_too_few_patients_name_their_source(self):
        """The message does not say which source is too small."""
        manifest = pd.concat([cohort(sources=("a",)), cohort(patients=1, sources=("b",))], ignore_index=True)
        with pytest.raises(InputError, match="source 'b': 1 patients"):
            split(manifest, "by_source", by_source={"a": "train", "b": {"val": 0.5, "test": 0.5}})


class TestLeaveOneSourceOut:
    """One source is for the test alone."""

    def test_the_source_tests_and_nothing_else_does(self):
        """The source that is held out trains, or another one tests."""
        result = split(cohort(patients=90, sources=("a", "b", "c")), "leave_one_source_out", held_out="b")
        done = result.manifest
        assert set(done.loc[done["split"] == "test", "source"]) == {"b"}
        assert set(done.loc[done["source"] != "b", "split"]) == {"train", "val"}
        counts = patients_of(done)["split"].value_counts()
        assert counts["test"] == 30
        assert abs(counts["val"] - 12) <= 1

    def test_its_patients_train_nowhere(self):
        """A patient of the source that is held out trains with images of another source."""
        one = manifest_of([f"p{n}" for n in range(20)], labels=[0, 1] * 10, sources="a")
        two = manifest_of([f"p{n}" for n in range(15, 35)], labels=[0, 1] * 10, sources="b")
        result = split(pd.concat([one, two], ignore_index=True), "leave_one_source_out", held_out="b")
        shared = result.manifest["patient_id"].isin([f"p{n}" for n in range(15, 20)])
        assert set(result.manifest.loc[shared, "split"]) == {"test"}
        assert "5 patients have images in several sources; they count as one patient each" in result.notes


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    patients=st.integers(30, 60),
    scheme=st.sampled_from(["fractions", "official", "by_source", "folds", "leave_one_source_out"]),
    unit=st.sampled_from(["patient", "breast"]),
)
def test_nobody_is_on_two_sides_and_order_does_not_matter(seed, patients, scheme, unit):
    """With some scheme a patient of several sources, words or breasts is in two splits, or the order of rows counts."""
    rng = np.random.default_rng(seed)
    rows = patients * 3
    ids = rng.integers(0, patients, rows)
    manifest = manifest_of(
        [f"p{number}" for number in ids],
        labels=[None if rng.random() < 0.1 else int(label) for label in rng.choice(3, rows, p=(0.6, 0.3, 0.1))],
        sources=rng.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1]),
        drop=np.where(rng.random(rows) < 0.1, "broken", ""),
        laterality=pd.Series(rng.choice(["L", "R"], rows), dtype="str"),
        split_official=pd.Series(rng.choice(["train", "test", None], rows, p=[0.7, 0.1, 0.2]), dtype="str"),
    )
    manifest["label"] = manifest["label"].where(manifest["drop_reason"] == "")
    options = {"by_source": {"a": {"train": 0.5, "val": 0.25, "test": 0.25}, "b": "train", "c": "official"}}
    options |= {"folds": 4, "fold": 2, "held_out": "c", "seed": seed, "unit": unit}
    try:
        done = split(manifest, scheme, **options).manifest
    except InputError as error:
        assert "no labelled image" in error.message or "patients have a usable image" in error.message  # noqa: PT017 - some draws are too small
        return
    check_no_leak(done, unit=unit)
    assert set(done["split"]) <= {*SPLITS, ""}
    assert ((done["split"] == "") <= (done["drop_reason"] != "")).all()
    again = split(manifest.sample(frac=1, random_state=seed % 1000), scheme, **options).manifest
    pd.testing.assert_series_equal(done["split"], again["split"].sort_index())
