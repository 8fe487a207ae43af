"""Each loss can have a learning rate, and a range of rates, of its own."""

import pytest

from study.config import StudyConfig, apply_params
from study.config.rules import View, advice
from study.distributed.runs import _settings
from study.ledger import Ledger

RAW = {
    "study": "rates",
    "data": {"prepared": "nowhere", "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}]},
    "optim": {"lr": 1e-3, "lr_for": {"wk": 1e-2}},
    "search": {
        "trials": 12,
        "algorithm": "random",
        "space": {
            "loss.name": {"choice": ["emd", "focal", "wk"]},
            "optim.lr_for.emd": {"float": [1e-5, 1e-4], "scale": "log", "when": {"loss.name": "emd"}},
            "optim.lr_for.focal": {"float": [0.1, 0.5], "when": {"loss.name": "focal"}},
        },
    },
}


def rate(config):
    return _settings(config, steps=5, seed=0, image_hw=(64, 64)).lr


def test_a_search_draws_the_rate_of_the_loss(tmp_path):
    """The rate of a trial lies outside the range of its loss, or is that of another loss."""
    config = StudyConfig.model_validate(RAW)
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db", config=config)
    ranges = {"emd": (1e-5, 1e-4), "focal": (0.1, 0.5), "wk": (1e-2, 1e-2)}
    seen = set()
    while (trial := ledger.next_trial()) is not None:
        given = apply_params(config, trial.params)
        low, high = ranges[given.loss.name]
        assert low <= rate(given) <= high
        seen.add(given.loss.name)
    ledger.close()
    assert seen == set(ranges)


def test_other_losses_take_the_common_rate():
    """A loss without a rate of its own takes that of another one."""
    fixed = {key: value for key, value in RAW.items() if key != "search"}
    assert rate(StudyConfig.model_validate({**fixed, "loss": {"name": "wk"}})) == 1e-2
    assert rate(StudyConfig.model_validate({**fixed, "loss": {"name": "corn"}})) == 1e-3


def test_a_rate_without_its_loss_is_told():
    """A misplaced rate is read by nothing, in silence."""
    fixed = {key: value for key, value in RAW.items() if key != "search"}
    told = advice(View(StudyConfig.model_validate({**fixed, "loss": {"name": "corn"}}).model_dump(mode="json")))
    assert "optim.lr_for.wk has no effect without loss.name: wk" in told
    with pytest.raises(ValueError, match="lr_for"):
        StudyConfig.model_validate({**fixed, "optim": {"lr_for": {"no_loss": 1e-3}}})
