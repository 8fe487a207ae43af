"""Names that the study file mirrors from rooms that it does not import."""

import typing

from study.config import CLASS_NAMES, METRIC_MODE
from study.config.fields import ClassWeights, Vendor
from study.config.paths import find
from study.config.rates import LossRates
from study.config.schema import AugmentConfig, SamplerConfig
from study.config.searching import loss_variants


def literal_of(section: type, field: str) -> tuple[str, ...]:
    return typing.get_args(section.model_fields[field].annotation)  # type: ignore[attr-defined, no-any-return]


def test_losses() -> None:
    """The study file offers a loss, or a parameter of one, that does not exist, or hides one that does."""
    from study.losses import LOSS_PARAMS, LOSSES

    assert set(loss_variants()) == set(LOSSES)
    assert {name: set(params) for name, params in loss_variants().items()} == {
        name: set(params) for name, params in LOSS_PARAMS.items()
    }


def test_every_loss_can_be_made_from_its_defaults() -> None:
    """A default of the study file is a value that the loss refuses."""
    from study.losses import make_criterion

    place = find("loss", {})
    assert place is not None
    for name, section in place.variants.items():
        params = section.model_validate({"name": name}).model_dump(exclude={"name"})
        assert make_criterion(name, num_classes=3, class_counts=[5, 3, 2], **params).num_outputs in {2, 3}


def test_rates_of_losses() -> None:
    """A loss cannot have a learning rate of its own."""
    from study.losses import LOSSES

    assert tuple(LossRates.model_fields) == tuple(LOSSES)


def test_class_weights() -> None:
    """A class weighting of the study file is one that the losses refuse."""
    from study.losses import make_criterion

    for weights in typing.get_args(ClassWeights):
        make_criterion("emd", num_classes=2, class_counts=[5, 3], class_weights=weights)


def test_metrics() -> None:
    """The study file knows other metrics, or other directions, than the product computes."""
    from study import metrics

    assert dict(METRIC_MODE) == dict(metrics.METRIC_MODE)


def test_samplers_and_policies() -> None:
    """The study file offers a sampler or an augmentation policy that does not exist, or hides one that does."""
    from study.data.augment import POLICIES
    from study.data.sampling import SAMPLERS

    assert set(literal_of(SamplerConfig, "name")) == set(SAMPLERS)
    assert set(literal_of(AugmentConfig, "policy")) == set(POLICIES)


def test_phantom_and_sources() -> None:
    """The study file offers a vendor, a kind of source or a class that does not exist, or hides one that does."""
    from study.data.manifest import CLASSES3
    from study.data.phantom_file import VENDORS
    from study.data.sources import SOURCES

    assert set(typing.get_args(Vendor)) == set(VENDORS)
    place = find("data.sources.0", {})
    assert place is not None
    assert set(place.variants) == set(SOURCES)
    assert CLASS_NAMES["birads3"] == tuple(CLASSES3)


def test_algorithms_and_pruners() -> None:
    """The study file offers an algorithm or a pruner that does not exist, or hides one that does."""
    from study.config import PrunerConfig, SearchConfig
    from study.ledger import ALGORITHMS, PRUNERS

    assert set(literal_of(SearchConfig, "algorithm")) == set(ALGORITHMS)
    assert set(literal_of(PrunerConfig, "name")) == set(PRUNERS)
