"""Training one run, free of Ray: parts and a stream of batches in, epoch results and checkpoints out."""

from study.training.loop import predict, train_run
from study.training.parts import Batch, BatchStream, Hooks, RunParts
from study.training.state import check_identity

__all__ = ["Batch", "BatchStream", "Hooks", "RunParts", "check_identity", "predict", "train_run"]
