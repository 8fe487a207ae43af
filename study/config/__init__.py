"""The study file: every knob, default and check.

``load_config`` reads a file and stops with all its faults; ``check_study_file`` gives what is valid beside the faults,
so that others can add theirs before ``raise_faults`` stops with all of them at once.
"""

from study.config.changes import (
    apply_params,
    changed_paths,
    config_yaml,
    flat_values,
    given_values,
    is_budget,
    without_search,
)
from study.config.comparators import EvaluateConfig, McDropoutConfig, PseudoConfig
from study.config.data import DataConfig, LabelsConfig, SplitConfig, SplitsConfig
from study.config.faults import raise_faults
from study.config.fields import checkpoint_interval, span_seconds
from study.config.load import PartialStudy, check_study_file, config_warnings, load_config
from study.config.losses import CornConfig, CrossEntropyConfig, EmdConfig, FocalConfig, LossConfig
from study.config.names import CLASS_NAMES, METRIC_MODE, mode_of
from study.config.paths import settable_paths
from study.config.resources import ResourcesConfig
from study.config.schema import (
    AugmentConfig,
    ConfirmConfig,
    ModelConfig,
    OptimConfig,
    PrunerConfig,
    SamplerConfig,
    SearchConfig,
    StudyConfig,
    TrainConfig,
)
from study.config.searching import searched_values
from study.config.sources import MiasSource, PhantomSource, SharesConfig, Source, TableSource
from study.config.task_rules import LOSS_RECORDS, chosen_tasks
from study.config.tasks import ReconstructionConfig, TaskConfig, TasksConfig
from study.space import Fault

__all__ = [
    "CLASS_NAMES",
    "LOSS_RECORDS",
    "METRIC_MODE",
    "AugmentConfig",
    "ConfirmConfig",
    "CornConfig",
    "CrossEntropyConfig",
    "DataConfig",
    "EmdConfig",
    "EvaluateConfig",
    "Fault",
    "FocalConfig",
    "LabelsConfig",
    "LossConfig",
    "McDropoutConfig",
    "MiasSource",
    "ModelConfig",
    "OptimConfig",
    "PartialStudy",
    "PhantomSource",
    "PrunerConfig",
    "PseudoConfig",
    "ReconstructionConfig",
    "ResourcesConfig",
    "SamplerConfig",
    "SearchConfig",
    "SharesConfig",
    "Source",
    "SplitConfig",
    "SplitsConfig",
    "StudyConfig",
    "TableSource",
    "TaskConfig",
    "TasksConfig",
    "TrainConfig",
    "apply_params",
    "changed_paths",
    "check_study_file",
    "checkpoint_interval",
    "chosen_tasks",
    "config_warnings",
    "config_yaml",
    "flat_values",
    "given_values",
    "is_budget",
    "load_config",
    "mode_of",
    "raise_faults",
    "searched_values",
    "settable_paths",
    "span_seconds",
    "without_search",
]
