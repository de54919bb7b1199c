"""The settings file of a run."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from lbp.data import Dataset
from lbp.errors import LbpError, reason_of
from lbp.models import ActivationSettings, ModelSettings, Normalization
from lbp.settings import Settings, validation_message
from lbp.training.settings import TrainingSettings


class ConfigError(LbpError, ValueError):
    """A settings file is missing, not TOML, or has bad settings."""


class DataChoice(Settings):
    """Which data set.

    Attributes:
        name: of the data set.
        limit: only so many of its first training images.
        crop: side of the square windows that the network sees, cut at random places in training and from the middle in
            evaluation; None: whole images.
    """

    name: str = "digits"
    limit: int | None = Field(default=None, gt=0)
    crop: int | None = Field(default=None, gt=0)


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

    @model_validator(mode="after")
    def _activation_has_what_is_trained(self) -> Self:
        name, training = self.model.activation.name, self.training
        if name == "relu" and (training.eta_start or training.eta_end):
            raise ValueError("training.eta_start: model.activation is relu, which has no slope; choose another")
        if name != "ramp" and training.r_noise:
            raise ValueError(f"training.r_noise: model.activation is {name}, which has no r; choose ramp")
        return self


def read_settings(path: Path | str, changes: Mapping[str, str] | None = None) -> RunSettings:
    """Reads the settings of a run from a TOML file with the tables `data`, `model` and `training`.

    Args:
        path: of the file.
        changes: settings to use instead of the file's, such as {"training.seed": "3"}; values in TOML's notation, of
            which a bare word counts as text.

    Raises:
        ConfigError: no such file, not TOML, or bad settings, each named.
    """
    try:
        content: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({reason_of(error)})") from error
    for name, value in (changes or {}).items():
        _change(content, name, value)
    try:
        return RunSettings.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {validation_message(error)}") from error


def settings_for(choice: ModelChoice, data: Dataset, crop: int | None = None) -> ModelSettings:
    """Completes the choice of a network by the shapes of its data.

    Args:
        choice: of the network.
        data: of the training.
        crop: side of the windows that the network sees.

    Raises:
        ConfigError: unknown architecture, or normalisation of data that has no customary mean and std.
    """
    normalization = None
    if choice.normalize:
        if data.mean is None or data.std is None:
            raise ConfigError(f"model.normalize: {data.name} has no customary mean and standard deviation")
        normalization = Normalization(mean=data.mean, std=data.std)
    channels, height, width = data.image_shape
    try:
        return ModelSettings(
            architecture=choice.architecture,
            input_shape=(channels, height, width) if crop is None else (channels, crop, crop),
            num_classes=data.num_classes,
            activation=choice.activation,
            normalization=normalization,
        )
    except ValidationError as error:
        raise ConfigError(f"model: {validation_message(error)}") from error


_TABLES: dict[str, type[Settings]] = {"data": DataChoice, "model": ModelChoice, "training": TrainingSettings}


def _change(content: dict[str, Any], name: str, value: str) -> None:
    *tables, key = name.split(".")
    if not tables and key not in _TABLES:
        table = next((table for table, kind in _TABLES.items() if key in kind.model_fields), "training")
        raise ConfigError(f"{name}: settings are named with their table, such as {table}.{name}")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{name}: {table} is a value, not a table")
    try:
        content[key] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        content[key] = value
