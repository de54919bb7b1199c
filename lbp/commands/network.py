"""A checkpoint together with the images it is to be run on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lbp import __version__, checkpoint
from lbp.data import DataError, Dataset, load
from lbp.models import ModelSettings


@dataclass(frozen=True)
class Subject:
    """A network and labelled images for it.

    Attributes:
        path: of the checkpoint.
        network: its content, on the device.
        data: the images, float32 on the CPU.
        split: of the data set.
    """

    path: Path
    network: checkpoint.Checkpoint
    data: Dataset
    split: str

    @property
    def images(self) -> Tensor:
        """The images in the type of the network's weights, on the CPU."""
        return self.data.images.to(next(self.network.model.parameters()).dtype)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.model.parameters()).device

    def identity(self) -> dict[str, Any]:
        """What results depend on, as JSON values: the release, the content of the checkpoint and of the images."""
        return {
            "lbp": __version__,
            "checkpoint": self.network.sha256,
            "data": {"name": self.data.name, "split": self.split, "images": len(self.data)},
            "data_content": self.data.fingerprint(),
        }

    def describe(self) -> dict[str, Any]:
        """What a report says about it, as JSON values."""
        return {
            "checkpoint": str(self.path),
            "model": self.network.settings.model_dump(mode="json"),
            "training": self.network.training,
            "data": {"name": self.data.name, "split": self.split},
        }


def load_subject(
    path: Path, data: str | None, split: str, data_root: Path | None, limit: int | None, device: torch.device
) -> Subject:
    """Loads a checkpoint and images for it.

    Args:
        path: of the checkpoint.
        data: name of the data set; None: the one of the training.
        split: "train" or "test".
        data_root: folder of the data files.
        limit: only the first so many images.
        device: where the network goes.

    Raises:
        CheckpointError, DataError: as the readers, and images that the network was not made for.
    """
    network = checkpoint.load(path)
    dataset = seen_in_training(load(data or trained_on(network), split, data_root).first(limit), network)
    check_fit(network.settings, dataset, path)
    network.model.to(device)
    return Subject(path, network, dataset, split)


def trained_on(network: checkpoint.Checkpoint) -> str:
    """Name of the data set that a checkpoint's training settings state.

    Raises:
        DataError: they state none.
    """
    data = network.training.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str):
        raise DataError("the checkpoint does not say what it was trained on; name the data set by --data")
    return name


def seen_in_training(data: Dataset, network: checkpoint.Checkpoint) -> Dataset:
    """The central windows of images, where the training cut windows of that size out of them; else the images.

    Raises:
        DataError: the images are smaller than the windows.
    """
    choice = network.training.get("data")
    side = choice.get("crop") if isinstance(choice, dict) else None
    return data.cropped(side, side) if isinstance(side, int) else data


def check_fit(settings: ModelSettings, data: Dataset, path: Path) -> None:
    """Refuses data that the network was not made for.

    Raises:
        DataError: another image shape or number of classes.
    """
    if settings.input_shape != data.image_shape or settings.num_classes != data.num_classes:
        raise DataError(
            f"{path} takes images of shape {settings.input_shape} and {settings.num_classes} classes; "
            f"{data.name} has {data.image_shape} and {data.num_classes}"
        )
