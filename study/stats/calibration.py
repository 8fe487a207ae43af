"""Do probabilities mean what they say? Calibration curve, expected calibration error, temperature scaling."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from study.errors import InputError
from study.stats.ranking import checked_scores
from study.stats.samples import NAN, Floats

BINS: Final = 15
SMALLEST_PROBABILITY: Final = float(np.finfo(np.float32).eps)
HOTTEST: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationCurve:
    """What was predicted and what came out, bin by bin (NaN in an empty bin).

    ``edges`` has one number more than there are bins, a bin holds its lower edge; ``expected_error`` (ECE) is the mean
    gap weighted by rows, ``maximum_error`` the largest. NaN without a row, and ``reason`` says so.
    """

    edges: tuple[float, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    counts: tuple[int, ...]
    expected_error: float
    maximum_error: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """One number that divides logits (Guo et al. 2017), fitted on validation and applied to other data by ``apply``.

    Above 1 it softens probabilities, below 1 it sharpens them; ranking and decisions stay. ``log_loss_before`` and
    ``log_loss_after`` are those of the rows it was fitted on. NaN when no temperature is best; ``reason`` says why.
    """

    value: float
    log_loss_before: float
    log_loss_after: float
    num_rows: int
    reason: str = ""

    def apply(self, logits: ArrayLike) -> Floats:
        """Calibrated probabilities of logits of the kind that it was fitted on, shape [N] or [N, K].

        Raises:
            InputError: the temperature is undefined, or other dimensions.
        """
        if not np.isfinite(self.value):
            raise InputError(f"the temperature is undefined: {self.reason}", "report uncalibrated probabilities")
        values = np.asarray(logits, dtype=np.float64)
        if values.ndim not in (1, 2):
            raise InputError(f"logits have shape {values.shape}; expected [N] or [N, K]", "pass one row per image")
        scaled = values / self.value
        probs: Floats = special.expit(scaled) if values.ndim == 1 else special.softmax(scaled, axis=1)
        return probs


def calibration_curve(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    bins: int = BINS,
    binning: Literal["uniform", "quantile"] = "uniform",
) -> CalibrationCurve:
    """Calibration of probabilities.

    Args:
        probs: shape [N], of class 1, whose share is what is observed; or class probabilities [N, K], of which the
            highest of each row is compared with the share of rows in which it is right.
        labels: 0 and 1 (or False and True), or 0..K-1, shape [N].
        bins: how many.
        binning: ``uniform`` has bins of equal width, ``quantile`` of equal numbers of rows, for rare classes.

    Raises:
        InputError: shapes or labels that do not fit, probabilities outside [0, 1], no bin, or an unknown binning.
    """
    values, classes = checked_scores(probs, labels)
    if len(values) and not (values.min() >= 0 and values.max() <= 1):
        raise InputError(
            f"probabilities range from {values.min():g} to {values.max():g}; expected 0 to 1",
            "pass probabilities, not logits",
        )
    said_n = values if values.ndim == 1 else values.max(axis=1)
    is_so_n = classes == 1 if values.ndim == 1 else values.argmax(axis=1) == classes
    edges, bin_n = _bins(said_n, bins=bins, binning=binning)
    num_bins = len(edges) - 1
    counts = np.bincount(bin_n, minlength=num_bins)
    is_used = counts > 0
    predicted, observed = (
        np.divide(np.bincount(bin_n, part, minlength=num_bins), counts, out=np.full(num_bins, np.nan), where=is_used)
        for part in (said_n, is_so_n.astype(np.float64))
    )
    gaps = np.abs(observed - predicted)[is_used]
    return CalibrationCurve(
        edges=tuple(map(float, edges)),
        predicted=tuple(map(float, predicted)),
        observed=tuple(map(float, observed)),
        counts=tuple(map(int, counts)),
        expected_error=float(gaps @ counts[is_used] / len(values)) if len(values) else NAN,
        maximum_error=float(gaps.max()) if len(values) else NAN,
        reason="" if len(values) else "there is no row",
    )


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> Temperature:
    """Fit a temperature by maximum likelihood. Pass validation rows only: on test rows it would be cheating.

    Args:
        logits: shape [N, K]; or [N], log odds of class 1. Probabilities go in as ``log_probs(probs)``, and then also
            into ``Temperature.apply``.
        labels: 0..K-1, or 0 and 1, shape [N].

    Returns:
        NaN without a row; when the true classes do not have higher logits than chance, so that no finite temperature
        is soft enough; and when sharpening never hurts, because every row is right.

    Raises:
        InputError: shapes or labels that do not fit, or logits that are not finite.
    """
    values, classes = checked_scores(logits, labels)
    num_rows = len(values)
    if num_rows == 0:
        return Temperature(value=NAN, log_loss_before=NAN, log_loss_after=NAN, num_rows=0, reason="there is no row")
    # Log odds z of class 1 are the logits (0, z) of two classes.
    logits_nk = np.stack([np.zeros(num_rows), values], axis=1) if values.ndim == 1 else values
    before = _log_loss(logits_nk, classes)
    reason = ""
    # The loss is convex in 1/T, so its slope has at most one zero.
    if _slope(1 / HOTTEST, logits_nk, classes) >= 0:
        reason = "the logits tell the classes no better than chance"
    elif _slope(HOTTEST, logits_nk, classes) <= 0:
        reason = "sharper probabilities always fit better, because every row is right"
    if reason:
        return Temperature(value=NAN, log_loss_before=before, log_loss_after=NAN, num_rows=num_rows, reason=reason)
    from scipy import optimize  # half of what importing statistics would cost, for this one function

    inverse = float(optimize.brentq(_slope, 1 / HOTTEST, HOTTEST, args=(logits_nk, classes), xtol=1e-12))
    after = _log_loss(inverse * logits_nk, classes)
    return Temperature(value=1 / inverse, log_loss_before=before, log_loss_after=after, num_rows=num_rows)


def log_probs(probs: ArrayLike) -> Floats:
    """Logits of any head's probabilities: log odds of [N], logarithms of [N, K]; 0 and 1 are kept 1.2e-7 away.

    Raises:
        InputError: other dimensions, or numbers outside [0, 1].
    """
    values = np.asarray(probs, dtype=np.float64)
    if values.ndim not in (1, 2) or (values.size and not (values.min() >= 0 and values.max() <= 1)):
        raise InputError("probabilities are not [N] or [N, K] in [0, 1]", "pass probabilities of one or all classes")
    inside = np.clip(values, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    logits: Floats = special.logit(inside) if values.ndim == 1 else np.log(inside)
    return logits


def _bins(said_n: Floats, *, bins: int, binning: Literal["uniform", "quantile"]) -> tuple[Floats, NDArray[np.int64]]:
    if bins < 1 or binning not in ("uniform", "quantile"):
        raise InputError(f"{bins} bins, {binning!r}; expected at least 1, 'uniform' or 'quantile'", "choose those")
    if binning == "uniform" or len(said_n) == 0:
        # The product is how study.metrics finds its bins, to the last digit.
        return np.linspace(0, 1, bins + 1), np.minimum((said_n * bins).astype(np.int64), bins - 1)
    # Many equal probabilities make quantiles fall together; the bins between them would be empty.
    edges = np.unique(np.quantile(said_n, np.linspace(0, 1, bins + 1)))
    if len(edges) == 1:
        edges = np.repeat(edges, 2)
    return edges, np.searchsorted(edges[1:-1], said_n, side="right").astype(np.int64)


def _slope(inverse: float, logits_nk: Floats, classes: NDArray[np.int64]) -> float:
    """Derivative of the log loss by 1/T: mean expected logit minus mean true logit."""
    probs_nk = special.softmax(inverse * logits_nk, axis=1)
    expected_n = (probs_nk * logits_nk).sum(axis=1)
    return float((expected_n - logits_nk[np.arange(len(classes)), classes]).mean())


def _log_loss(logits_nk: Floats, classes: NDArray[np.int64]) -> float:
    return -float(special.log_softmax(logits_nk, axis=1)[np.arange(len(classes)), classes].mean())
