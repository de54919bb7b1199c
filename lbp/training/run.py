"""A complete training run from one settings file: data, network, training, checkpoint."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import nn

from lbp import checkpoint
from lbp.data import Dataset, load
from lbp.errors import LbpError
from lbp.models import ActivationSettings, ModelSettings, Normalization, build
from lbp.settings import Settings, validation_message
from lbp.training.settings import TrainingSettings
from lbp.training.trainer import EpochRecord, StepRecord, train


class ConfigError(LbpError, ValueError):
    """A settings file is missing, not TOML, or has bad settings."""


class DataChoice(Settings):
    """Which data set: its name, and how many of its first training images (all by default)."""

    name: str = "digits"
    limit: int | None = Field(default=None, gt=0)


class ModelChoice(Settings):
    """Which network: architecture, activation, and whether it normalises its input by the data's mean and std."""

    architecture: str = "DM-Small"
    activation: ActivationSettings = ActivationSettings()
    normalize: bool = False


class RunSettings(Settings):
    """Everything that decides the result of a training run."""

    data: DataChoice = DataChoice()
    model: ModelChoice = ModelChoice()
    training: TrainingSettings


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        model: the trained network, in evaluation mode.
        model_settings: its description.
        settings: of the run.
        history: one record per epoch.
    """

    model: nn.Sequential
    model_settings: ModelSettings
    settings: RunSettings
    history: list[EpochRecord]

    def save(self, path: Path | str) -> None:
        """Writes the network and the settings of its training as a checkpoint."""
        checkpoint.save(path, self.model, self.model_settings, training=self.settings.model_dump(mode="json"))


def read_settings(path: Path | str) -> RunSettings:
    """Reads the settings of a run from a TOML file with the tables `data`, `model` and `training`.

    Raises:
        ConfigError: no such file, not TOML, or bad settings, each named.
    """
    try:
        content: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({error})") from error
    try:
        return RunSettings.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {validation_message(error)}") from error


def run(
    settings: RunSettings,
    data_root: Path | str | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> Run:
    """Loads the data, builds the network from the seed, and trains it.

    Args:
        settings: of the run.
        data_root: folder of the data files.
        on_step: called after every optimizer step.

    Raises:
        DataError, InvalidInputError, TrainingDivergedError: as `lbp.data.load`, `lbp.models.build` and `train`.
    """
    data = load(settings.data.name, "train", data_root).first(settings.data.limit)
    model_settings = settings_for(settings.model, data)
    # The global random state is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        model = build(model_settings)
    history = train(model, data, settings.training, on_step)
    return Run(model.eval(), model_settings, settings, history)


def settings_for(choice: ModelChoice, data: Dataset) -> ModelSettings:
    """Completes the choice of a network by the shapes of its data.

    Raises:
        ConfigError: unknown architecture, or normalisation of data that has no customary mean and std.
    """
    normalization = None
    if choice.normalize:
        if data.mean is None or data.std is None:
            raise ConfigError(f"model.normalize: {data.name} has no customary mean and standard deviation")
        normalization = Normalization(mean=data.mean, std=data.std)
    try:
        return ModelSettings(
            architecture=choice.architecture,
            input_shape=data.image_shape,
            num_classes=data.num_classes,
            activation=choice.activation,
            normalization=normalization,
        )
    except ValidationError as error:
        raise ConfigError(f"model: {validation_message(error)}") from error
