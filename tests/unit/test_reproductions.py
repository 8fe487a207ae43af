"""The papers' questions on phantoms, ``search_spaces/phantoms``: each dry-runs, on data of the papers' structure."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

from study.cli.dry_run import show_dry_run
from study.config import StudyConfig, check_study_file, load_config
from study.distributed.preflight import class_faults, network_faults, weighted_class_faults
from study.distributed.preparing_manifest import manifest_for

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "search_spaces" / "phantoms"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def read(name: str) -> StudyConfig:
    return load_config(FOLDER / f"{name}.yaml")


def data_of(name: str) -> pd.DataFrame:
    """Images of a study as they are learnt and tested, without a pixel."""
    return manifest_for(read(name).data)


def test_every_paper_has_one() -> None:
    """A question that the page answers has no study file."""
    expected = {"periodic", "ordinal_losses", "ordinal_balancing", "imbalance", "few_labels", "doubtful_labels", "alpa"}
    assert set(NAMES) == expected


@pytest.mark.parametrize("name", NAMES)
def test_dry_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study cannot start without data or a GPU, leaves a configuration out, or has fewer than five seeds."""
    monkeypatch.chdir(tmp_path)
    partial, faults = check_study_file(FOLDER / f"{name}.yaml")
    assert (faults, partial.warnings) == ([], ())
    assert [*class_faults(partial), *weighted_class_faults(partial), *network_faults(partial)] == []
    config = read(name)
    assert config.search is not None
    assert config.confirm is not None
    assert (config.confirm.seeds, config.confirm.baseline) == ((0, 1, 2, 3, 4), True)
    assert config.search.algorithm == "grid"
    assert config.resources.gpus_per_worker == 0
    show_dry_run(FOLDER / f"{name}.yaml", storage="studies", overrides=())
    told = capsys.readouterr().err
    assert "not here" not in told
    assert list(tmp_path.iterdir()) == []
    cells = next(line for line in told.splitlines() if line.startswith("Size: "))
    trained_twice = 1 if name == "imbalance" else 0  # one cell of the grid is the baseline
    assert cells.startswith(f"Size: {config.confirm.top + trained_twice} ")


def test_two_sites() -> None:
    """The sites of the periodic study do not have 35 % and 0.7 % of malignant images, or test has other looks."""
    images = data_of("periodic")
    assert (images["drop_reason"] == "").all()
    malignant = (images["biopsy"] == "malignant").groupby(images["source"])
    for part in "svt":
        assert malignant.mean()[f"{part}1"] == pytest.approx(0.35, abs=0.02)
        assert malignant.mean()[f"{part}2"] == pytest.approx(0.007, abs=0.0008)
        assert malignant.sum()[f"{part}2"] >= 12
    assert images.groupby("segment")["source"].nunique().max() == 1
    looks = {source.name: source.look for source in read("periodic").data.sources if source.kind == "phantom"}
    assert looks == {"s1": None, "s2": None, "v1": "s1", "v2": "s2", "t1": "s1", "t2": "s2"}


def test_readers() -> None:
    """Training of the ordinal study is read without error, or its test with one."""
    images = data_of("ordinal_losses")
    wrong = (images["birads"] >= 4) != (images["biopsy"] == "malignant")
    share = wrong.groupby(images["split"]).mean()
    assert share["train"] > 0.03
    assert share["test"] == 0


def test_long_tail() -> None:
    """The classes of the imbalance and ALPA studies are not those of a tail of 22 to 1, or differ between the two."""
    images = data_of("imbalance")
    counts = images[images["split"] == "test"]["birads"].value_counts()
    assert counts.max() / counts.min() == pytest.approx(22, abs=3)
    pd.testing.assert_frame_equal(images, data_of("alpa"))


def test_missing_and_doubtful_labels() -> None:
    """Labels are not missing or made as the files say, or images for the test lack the result of their biopsy."""
    few, doubtful = data_of("few_labels"), data_of("doubtful_labels")
    for images, kept in ((few, 0.25), (doubtful, 0.2)):
        assert (images[images["split"].isin(["val", "test"])]["binary_origin"] == "biopsy").all()
        training = images[~images["split"].isin(["val", "test"])]
        assert (training["binary_origin"] == "biopsy").mean() == pytest.approx(kept, abs=0.02)
    made = doubtful[doubtful["binary_origin"] == "synthetic"]
    called = made[made["binary"] == 1]
    assert (called["biopsy"] == "benign").mean() == pytest.approx(0.3, abs=0.06)
    assert (made[made["binary"] == 0]["biopsy"] == "benign").all()
    assert few[few["split"] == "train"]["acr"].notna().all()


def test_sources_of_unlike_size() -> None:
    """The largest source of the balancing study does not outweigh the small ones, or is tested."""
    images = data_of("ordinal_balancing")
    trained = images[images["split"] == "train"]["source"].value_counts()
    assert trained["embed"] > 10 * trained["vindr"] > 10 * trained["inbreast"]
    assert set(images[images["split"] == "test"]["source"]) == {"vindr_test", "inbreast_test"}


def test_the_page_has_the_tables_of_its_numbers() -> None:
    """A table of docs/reproductions.md was changed by hand, or is missing, or a run is missing in the numbers."""
    docs = ROOT / "docs"
    spec = importlib.util.spec_from_file_location("draw_reproductions", docs / "draw_reproductions.py")
    assert spec is not None
    assert spec.loader is not None
    drawn = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = drawn
    spec.loader.exec_module(drawn)
    numbers = drawn.read_numbers()
    assert {"mias", *(read(name).study for name in NAMES)} == set(drawn.STUDIES) >= set(numbers)
    page = (docs / "reproductions.md").read_text(encoding="utf-8")
    assert drawn.page_with(numbers, page) == page
    for name in NAMES:
        config = read(name)
        assert config.confirm is not None
        arms = numbers.get(config.study, {})
        assert len(arms) in {0, config.confirm.top + 1}
        for metrics in arms.values():
            assert set(metrics) == set(drawn.STUDIES[config.study].metrics)
            assert all(tuple(sorted(values)) == config.confirm.seeds for values in metrics.values())
        assert f"search_spaces/phantoms/{name}.yaml" in page
