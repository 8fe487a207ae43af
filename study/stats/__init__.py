"""Statistics of repeated runs, of evaluated sets and of their parts, with numpy and scipy alone.

Nothing here warns or raises because of the numbers themselves: what they cannot define is NaN with a reason, never a
value that only looks neutral, such as an area of 0.5.
"""

from study.stats.bootstrap import (
    BootstrapInterval,
    PairedDifference,
    bootstrap,
    bootstrap_difference,
    bootstrap_draws,
    p_from_interval,
)
from study.stats.calibration import CalibrationCurve, Temperature, calibration_curve, fit_temperature, log_probs
from study.stats.corrections import benjamini_hochberg, holm
from study.stats.effects import cliffs_delta, hedges_g, hedges_g_from_summary
from study.stats.mcnemar import McNemarResult, mcnemar, mcnemar_from_counts
from study.stats.operating import (
    OperatingPoint,
    best_mcc_point,
    operating_points,
    proportion_interval,
    triage_point,
)
from study.stats.permutation import PermutationResult, permutation_paired, permutation_unpaired
from study.stats.pooling import Pooled, PooledClasses, joint_names, pool_probabilities, pool_scores
from study.stats.ranking import area_metric, auc, midranks
from study.stats.resampling import Resampling, highest_in_group, of_rows, resampling
from study.stats.roc import bootstrap_auc, bootstrap_auc_difference, delong_interval, delong_test
from study.stats.samples import Interval, MeanInterval, WelchResult, mean_interval, welch, welch_from_summary
from study.stats.shortcut import ShortcutAlarm, shortcut_alarm
from study.stats.subgroups import Subgroup, age_bins, binary_metrics, subgroup_metrics
from study.stats.synchronisation import Synchronisation, synchronisation

__all__ = [
    "BootstrapInterval",
    "CalibrationCurve",
    "Interval",
    "McNemarResult",
    "MeanInterval",
    "OperatingPoint",
    "PairedDifference",
    "PermutationResult",
    "Pooled",
    "PooledClasses",
    "Resampling",
    "ShortcutAlarm",
    "Subgroup",
    "Synchronisation",
    "Temperature",
    "WelchResult",
    "age_bins",
    "area_metric",
    "auc",
    "benjamini_hochberg",
    "best_mcc_point",
    "binary_metrics",
    "bootstrap",
    "bootstrap_auc",
    "bootstrap_auc_difference",
    "bootstrap_difference",
    "bootstrap_draws",
    "calibration_curve",
    "cliffs_delta",
    "delong_interval",
    "delong_test",
    "fit_temperature",
    "hedges_g",
    "hedges_g_from_summary",
    "highest_in_group",
    "holm",
    "joint_names",
    "log_probs",
    "mcnemar",
    "mcnemar_from_counts",
    "mean_interval",
    "midranks",
    "of_rows",
    "operating_points",
    "p_from_interval",
    "permutation_paired",
    "permutation_unpaired",
    "pool_probabilities",
    "pool_scores",
    "proportion_interval",
    "resampling",
    "shortcut_alarm",
    "subgroup_metrics",
    "synchronisation",
    "triage_point",
    "welch",
    "welch_from_summary",
]
