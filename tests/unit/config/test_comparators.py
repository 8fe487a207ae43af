"""Comparison methods in the study file: pooled views, ensembles, dropout when predicting, teachers."""

from pathlib import Path

import pytest

from study.config import check_study_file, config_yaml, load_config

FILE = """
study: mine
data:
  prepared: data/p
  sources: [{kind: phantom, name: s, patients: 20, seed: 1}]
  labels: {task: birads3, keep_unlabelled: true}
pseudo: {teacher: other/3-s0, threshold: 0.5}
evaluate: {pool: [breast, exam], pooling: max}
search:
  metric: val/breast/auroc_macro
  trials: 2
  space: {optim.lr: {float: [0.1, 0.2]}}
confirm: {top: 1, seeds: [0, 1], ensemble: true, mc_dropout: {samples: 5}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def test_whole_file(file: Path) -> None:
    """A file with all of them has faults, or loses one of them when it is written out."""
    config = load_config(file)
    assert (config.evaluate.pool, config.evaluate.pooling) == (("breast", "exam"), "max")
    assert config.pseudo is not None
    assert (config.pseudo.teacher, config.pseudo.threshold, config.pseudo.doubt) == ("other/3-s0", 0.5, True)
    assert config.confirm is not None
    assert config.confirm.mc_dropout is not None
    assert (config.confirm.mc_dropout.samples, config.confirm.mc_dropout.rate) == (5, None)
    assert config.mode == "max"
    file.write_text(config_yaml(config))
    assert load_config(file) == config


@pytest.mark.parametrize(
    ("override", "path", "words"),
    [
        ("pseudo.teacher=other", "pseudo.teacher", "expected <study>/<trial>-s<seed>"),
        ("pseudo.teacher=other/3", "pseudo.teacher", "expected <study>/<trial>-s<seed>"),
        ("pseudo.teacher=mine/3-s0", "pseudo.teacher", "a study cannot teach itself"),
        ("pseudo.threshold=1.5", "pseudo.threshold", "a number from 0 to 1"),
        ("pseudo={threshold: 0.5}", "pseudo.teacher", "missing"),
        ("data.labels.keep_unlabelled=false", "data.labels.keep_unlabelled", "no images to label"),
        ("evaluate.pool=[breat]", "evaluate.pool.0", "did you mean 'breast'"),
        ("evaluate.pool=[exam, exam]", "evaluate.pool", "stands there twice"),
        ("evaluate.pool=[exam]", "search.metric", "expected breast in evaluate.pool"),
        ("evaluate.pooling=median", "evaluate.pooling", "expected one of mean, max"),
        ("search.metric=val/exam/auroc_macr", "search.metric", "did you mean 'val/exam/auroc_macro'"),
        ("confirm.seeds=[1]", "confirm.ensemble", "at least 2 seeds"),
        ("confirm.mc_dropout={samples: 1}", "confirm.mc_dropout.samples", "from 2 to 1000"),
        ("confirm.mc_dropout={rate: 1.0}", "confirm.mc_dropout.rate", "above 0 and below 1"),
        ("model.drop_rate=0", "confirm.mc_dropout", "leaves nothing to drop"),
    ],
)
def test_faults(file: Path, override: str, path: str, words: str) -> None:
    """A comparison that cannot be made is found out when the study has run."""
    _, faults = check_study_file(file, [override])
    assert [fault.path for fault in faults] == [path]
    assert words in faults[0].message


@pytest.mark.parametrize(
    "name", ["/x/studies/other/runs/baseline-s3/", "studies/other/runs/12-s0", "other/baseline-s1"]
)
def test_names_of_teachers(file: Path, name: str) -> None:
    """A run of another study cannot be named by its folder, or the baseline cannot teach."""
    assert check_study_file(file, [f"pseudo.teacher={name}"])[1] == []


def test_none_of_them_by_default(file: Path) -> None:
    """A file that asks for nothing is measured in other ways than before."""
    file.write_text(
        "study: plain\ndata: {prepared: p, sources: [{kind: phantom, name: s, patients: 20}]}\nconfirm: {}\n"
    )
    config = load_config(file)
    assert (config.pseudo, config.evaluate.pool) == (None, ())
    assert config.confirm is not None
    assert (config.confirm.ensemble, config.confirm.mc_dropout) == (False, None)
    assert "pseudo" not in config_yaml(config)


def test_data_are_not_prepared_again_for_them(file: Path) -> None:
    """Pooling or a teacher can be searched, although both are fixed before the first trial."""
    for path in ("evaluate.pooling", "pseudo.threshold", "confirm.mc_dropout.rate"):
        _, faults = check_study_file(file, [f"search.space={{{path}: {{choice: [mean, max]}}}}"])
        assert [fault.path for fault in faults] == [f"search.space.{path}"]
        assert "stays fixed during a search" in faults[0].message
