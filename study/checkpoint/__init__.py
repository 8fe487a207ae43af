"""Checkpoints of one run, without a pickle: written whole or not at all, checked on loading."""

from study.checkpoint.store import (
    StaleAttempt,
    TrainState,
    best_path,
    claim,
    load_best,
    load_last,
    load_step,
    save,
)

__all__ = ["StaleAttempt", "TrainState", "best_path", "claim", "load_best", "load_last", "load_step", "save"]
