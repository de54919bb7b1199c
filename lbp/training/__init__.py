"""Training with certified bounds (Lyu et al. 2021)."""

from lbp.training.losses import certified_loss, margin_loss
from lbp.training.run import ConfigError, DataChoice, ModelChoice, Run, RunSettings, read_settings, run
from lbp.training.settings import TrainingSettings
from lbp.training.trainer import EpochRecord, StepRecord, TrainingDivergedError, train
from lbp.training.warm_up import end_warm_up, mean_activations, start_warm_up

__all__ = [
    "ConfigError",
    "DataChoice",
    "EpochRecord",
    "ModelChoice",
    "Run",
    "RunSettings",
    "StepRecord",
    "TrainingDivergedError",
    "TrainingSettings",
    "certified_loss",
    "end_warm_up",
    "margin_loss",
    "mean_activations",
    "read_settings",
    "run",
    "start_warm_up",
    "train",
]
