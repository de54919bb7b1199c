"""Training with certified bounds (Lyu et al. 2021)."""

from lbp.training.config import ConfigError, DataChoice, ModelChoice, RunSettings, read_settings
from lbp.training.distributed import World, joined_world
from lbp.training.divergence import TrainingDivergedError
from lbp.training.losses import certified_loss, margin_loss
from lbp.training.records import EpochRecord, StepRecord, read_history
from lbp.training.run import Run, RunPausedError, run
from lbp.training.schedules import Controls, controls_at
from lbp.training.settings import Augmentation, TrainingSettings
from lbp.training.state import StateError
from lbp.training.step import TrainingStep
from lbp.training.trainer import Trainer, train
from lbp.training.warm_up import end_warm_up, mean_activations, start_warm_up

__all__ = [
    "Augmentation",
    "ConfigError",
    "Controls",
    "DataChoice",
    "EpochRecord",
    "ModelChoice",
    "Run",
    "RunPausedError",
    "RunSettings",
    "StateError",
    "StepRecord",
    "Trainer",
    "TrainingDivergedError",
    "TrainingSettings",
    "TrainingStep",
    "World",
    "certified_loss",
    "controls_at",
    "end_warm_up",
    "joined_world",
    "margin_loss",
    "mean_activations",
    "read_history",
    "read_settings",
    "run",
    "start_warm_up",
    "train",
]
