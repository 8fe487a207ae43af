"""The records of ``loss``: one for each criterion, with its parameters; ``docs/losses.md`` explains them.

A parameter that is null takes the number of its ``preset``.
"""

from typing import Annotated, Literal

from pydantic import Field

from study.config.fields import (
    AsTuple,
    ClassWeights,
    CountSource,
    Fraction,
    NotEmpty,
    NotNegative,
    Positive,
    Rate,
    Share,
    WeightPlace,
)
from study.config.record import Section

Divisor = Literal["weight", "batch", "labelled"]
SigmoidDivisor = Literal["weight", "batch", "labelled", "sum"]
Exponent = Annotated[float, Field(ge=0.1, le=10)]
AtLeastOne = Annotated[float, Field(ge=1)]


class _Weighted(Section):
    """A loss with class weights: by which formula, from which counts; beta belongs to ``effective_number``."""

    name: str
    class_weights: ClassWeights = "none"
    class_weight_source: CountSource = "sampled"
    class_weight_beta: Rate = 0.9999


class _Additive(_Weighted):
    """A loss that adds up over rows, and what it is divided by."""

    normaliser: Divisor = "weight"


class _Placed(_Additive):
    """A loss whose class weights may multiply the classes that it sums over."""

    class_weight_on: WeightPlace = "rows"


class _Sigmoid(_Weighted):
    """A loss on one sigmoid per class."""

    class_weight_on: WeightPlace = "rows"
    normaliser: SigmoidDivisor = "weight"


class CrossEntropyConfig(_Additive):
    """Cross entropy over K outputs."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Rate = 0.0


class FocalConfig(_Additive):
    """Focal loss over K outputs; ``gamma`` 0 is cross entropy."""

    name: Literal["focal"]
    gamma: NotNegative = 2.0
    alpha: Annotated[float, Field(ge=0.01, le=1)] = 1.0


class CoralConfig(_Additive):
    """Cumulative ordinal regression, one score and K - 1 biases; ``importance_weights`` belong to thresholds."""

    name: Literal["coral"]
    importance_weights: Annotated[tuple[NotNegative, ...], NotEmpty, AsTuple] | None = None


class CornConfig(_Weighted):
    """Conditional ordinal regression over K - 1 outputs."""

    name: Literal["corn"]
    normaliser: Literal["pairs", "batch", "labelled"] = "pairs"


class CdwCeConfig(_Additive):
    """Class distance weighted cross entropy."""

    name: Literal["cdw_ce"]
    alpha: Exponent = 0.5
    margin: Rate = 0.0
    normalise_distance: bool = False


class EmdConfig(_Additive):
    """Squared earth mover's distance between cumulative distributions."""

    name: Literal["emd"]


class WkConfig(_Weighted):
    """Weighted kappa of the batch."""

    name: Literal["wk"]
    class_weight_on: WeightPlace = "rows"
    penalty: Literal["quadratic", "linear"] = "quadratic"
    log: bool = False
    legacy_pred_norm: bool = False


class MceConfig(_Placed):
    """Mean squared error of the class probabilities."""

    name: Literal["mce"]


class MceWkConfig(_Placed):
    """Mean squared error and weighted kappa; ``kappa_share`` is the kappa's share."""

    name: Literal["mce_wk"]
    kappa_share: Share = 0.5
    penalty: Literal["quadratic", "linear"] = "quadratic"
    legacy_pred_norm: bool = False


class SoftLabelBetaConfig(_Placed):
    """Cross entropy against labels spread by beta distributions; ``eta`` is their share."""

    name: Literal["soft_label_beta"]
    eta: Share = 1.0


class SoftLabelBinomialConfig(_Placed):
    """Cross entropy against labels spread by binomial distributions."""

    name: Literal["soft_label_binomial"]
    eta: Share = 1.0


class SoftLabelExponentialConfig(_Placed):
    """Cross entropy against labels that fall exponentially with distance."""

    name: Literal["soft_label_exponential"]
    eta: Share = 1.0
    exponent: Exponent = 1.0
    tau: Positive = 1.0


class SoftLabelGeometricConfig(_Placed):
    """Cross entropy against labels that fall geometrically with distance."""

    name: Literal["soft_label_geometric"]
    eta: Share = 1.0
    alpha: Fraction = 0.1


class SoftLabelPoissonConfig(_Placed):
    """Cross entropy against labels spread by Poisson distributions, of which at most half may enter."""

    name: Literal["soft_label_poisson"]
    eta: Annotated[float, Field(ge=0, le=0.5)] = 0.5


class SoftLabelTriangularConfig(_Placed):
    """Cross entropy against labels spread by triangles."""

    name: Literal["soft_label_triangular"]
    eta: Share = 1.0
    alpha2: Annotated[float, Field(ge=0.001, le=0.25)] = 0.05


class SlaceConfig(_Additive):
    """Cross entropy on probabilities accumulated by distance."""

    name: Literal["slace"]
    alpha: Positive = 1.0


class SoftF1Config(_Weighted):
    """Macro F1 of the batch, or that of one class."""

    name: Literal["soft_f1"]
    class_weight_on: WeightPlace = "rows"
    absent: Literal["skip", "zero"] = "skip"
    positive: Annotated[int, Field(ge=0)] | None = None


class SoftMccConfig(_Weighted):
    """Matthews correlation of the batch, over all classes or one versus rest."""

    name: Literal["soft_mcc"]
    kind: Literal["rk", "ovr"] = "rk"
    absent: Literal["skip", "zero"] = "skip"


class _CePlus(_Additive):
    """Cross entropy beside a metric of the batch."""

    ce_weight: Positive = 1.0
    metric_weight: NotNegative = 1.0
    metric_weighting: Literal["rows", "scale"] = "rows"


class CeF1Config(_CePlus):
    """Cross entropy and macro F1."""

    name: Literal["ce_f1"]
    absent: Literal["skip", "zero"] = "skip"


class CeMccConfig(_CePlus):
    """Cross entropy and Matthews correlation."""

    name: Literal["ce_mcc"]
    kind: Literal["rk", "ovr"] = "rk"
    absent: Literal["skip", "zero"] = "skip"


class BceConfig(_Sigmoid):
    """Binary cross entropy of each class against the rest."""

    name: Literal["bce"]


class FocalSigmoidConfig(_Sigmoid):
    """Focal loss on sigmoids; ``alpha`` null weighs both sides alike."""

    name: Literal["focal_sigmoid"]
    gamma: NotNegative = 2.0
    alpha: Share | None = 0.25


class AslConfig(_Sigmoid):
    """Asymmetric loss."""

    name: Literal["asl"]
    preset: Literal["default", "coco"] = "default"
    gamma_neg: NotNegative | None = None
    gamma_pos: NotNegative | None = None
    clip: Rate | None = None
    detach: bool | None = None
    link: Literal["sigmoid", "softmax"] = "sigmoid"
    label_smoothing: Rate = 0.0


class AlpaConfig(_Sigmoid):
    """Asymmetric loss with a linear logarithm; ``hill`` is our reading of v3."""

    name: Literal["alpa"]
    preset: Literal["v1", "v2", "v3"] = "v2"
    alpha: Positive | None = None
    beta: Positive | None = None
    gamma_pos: NotNegative | None = None
    gamma_neg: NotNegative | None = None
    clip: Rate = 0.05
    hill: bool | None = None
    hill_lambda: AtLeastOne = 1.5


class HillConfig(_Sigmoid):
    """Hill loss."""

    name: Literal["hill"]
    hill_lambda: AtLeastOne = 1.5
    margin: NotNegative = 1.0
    gamma: NotNegative = 2.0


class RalConfig(_Sigmoid):
    """Robust asymmetric loss."""

    name: Literal["ral"]
    gamma_neg: NotNegative = 4.0
    gamma_pos: NotNegative = 0.0
    clip: Rate = 0.05
    hill_lambda: AtLeastOne = 1.5
    epsilon_pos: Annotated[float, Field(ge=-1, le=1)] = 1.0
    epsilon_pos_pow: Annotated[float, Field(ge=-10, le=0)] = -2.5


class CbConfig(Section):
    """Class-balanced loss: rows weighted by the effective number of images."""

    name: Literal["cb"]
    kind: Literal["softmax", "sigmoid", "focal"] = "softmax"
    beta: Rate = 0.9999
    gamma: NotNegative = 2.0
    class_weight_source: CountSource = "sampled"
    normaliser: Divisor = "batch"


class LdamConfig(Section):
    """Margins by class frequency on cosines; ``drw`` weights the classes in the last phase."""

    name: Literal["ldam"]
    max_m: Share = 0.5
    scale: Positive = 30.0
    drw: bool = False
    drw_start: Share = 0.8
    drw_beta: Rate = 0.9999
    class_weight_source: CountSource = "sampled"
    normaliser: Divisor = "weight"


LossConfig = Annotated[
    CrossEntropyConfig
    | FocalConfig
    | CoralConfig
    | CornConfig
    | CdwCeConfig
    | EmdConfig
    | WkConfig
    | MceConfig
    | MceWkConfig
    | SoftLabelBetaConfig
    | SoftLabelBinomialConfig
    | SoftLabelExponentialConfig
    | SoftLabelGeometricConfig
    | SoftLabelPoissonConfig
    | SoftLabelTriangularConfig
    | SlaceConfig
    | SoftF1Config
    | SoftMccConfig
    | CeF1Config
    | CeMccConfig
    | BceConfig
    | FocalSigmoidConfig
    | AslConfig
    | AlpaConfig
    | HillConfig
    | RalConfig
    | CbConfig
    | LdamConfig,
    Field(discriminator="name"),
]
