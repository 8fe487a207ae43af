"""Learning rates of single losses, whose gradients differ in size: each can have a rate, and a range, of its own."""

from typing import Final

from study.config.fields import Positive
from study.config.record import Section


class LossRates(Section):
    """The peak learning rate under one loss; null takes ``optim.lr``."""

    cross_entropy: Positive | None = None
    focal: Positive | None = None
    coral: Positive | None = None
    corn: Positive | None = None
    cdw_ce: Positive | None = None
    emd: Positive | None = None
    wk: Positive | None = None
    mce: Positive | None = None
    mce_wk: Positive | None = None
    soft_label_beta: Positive | None = None
    soft_label_binomial: Positive | None = None
    soft_label_exponential: Positive | None = None
    soft_label_geometric: Positive | None = None
    soft_label_poisson: Positive | None = None
    soft_label_triangular: Positive | None = None
    slace: Positive | None = None
    soft_f1: Positive | None = None
    soft_mcc: Positive | None = None
    ce_f1: Positive | None = None
    ce_mcc: Positive | None = None
    bce: Positive | None = None
    focal_sigmoid: Positive | None = None
    asl: Positive | None = None
    alpa: Positive | None = None
    hill: Positive | None = None
    ral: Positive | None = None
    cb: Positive | None = None
    ldam: Positive | None = None


# A rate has no effect without its loss: path, default, what must be chosen, and how.
OWNED_RATES: Final = tuple((f"optim.lr_for.{name}", None, "loss.name", (name,)) for name in LossRates.model_fields)
