"""Statistics of repeated runs and of ROC areas, with numpy and scipy alone.

Nothing here warns or raises because of the numbers themselves: what they cannot define is NaN, as each function says.
"""

from study.stats.roc import (
    AucDifference,
    BootstrapInterval,
    bootstrap_auc,
    bootstrap_auc_difference,
    delong_test,
    p_from_interval,
)
from study.stats.samples import (
    MeanInterval,
    WelchResult,
    hedges_g,
    holm,
    mean_interval,
    welch,
    welch_from_summary,
)

__all__ = [
    "AucDifference",
    "BootstrapInterval",
    "MeanInterval",
    "WelchResult",
    "bootstrap_auc",
    "bootstrap_auc_difference",
    "delong_test",
    "hedges_g",
    "holm",
    "mean_interval",
    "p_from_interval",
    "welch",
    "welch_from_summary",
]
