"""A data set in memory."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lbp.errors import LbpError


class DataError(LbpError, ValueError):
    """A data file is missing, damaged, or not what it should be."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        name: the data set's name.
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N], each in [0, num_classes).
        num_classes: number of classes.
        mean, std: per channel, where networks for this data set customarily normalise their input; else None.
    """

    name: str
    images: Tensor
    labels: Tensor
    num_classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def fingerprint(self) -> str:
        """SHA-256 of images and labels, in hexadecimal."""
        content = hashlib.sha256(self.images.cpu().contiguous().numpy().data)
        content.update(self.labels.cpu().contiguous().numpy().data)
        return content.hexdigest()

    def to(self, device: torch.device | str) -> "Dataset":
        """The data set on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def chosen(self, index: Tensor) -> "Dataset":
        """The examples that an index or a mask names."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def cropped(self, height: int, width: int) -> "Dataset":
        """The central windows of the images; the data set itself where they have that size already.

        Raises:
            DataError: the images are smaller.
        """
        rows, columns = self.images.shape[2:]
        if height > rows or width > columns:
            raise DataError(f"{self.name}: cannot cut {height}x{width} out of images of {rows}x{columns}")
        if (height, width) == (rows, columns):
            return self
        top, left = (rows - height) // 2, (columns - width) // 2
        return replace(self, images=self.images[:, :, top : top + height, left : left + width])

    def first(self, count: int | None) -> "Dataset":
        """The first `count` examples, or all of them if `count` is None."""
        return self if count is None else replace(self, images=self.images[:count], labels=self.labels[:count])


def from_bytes(
    name: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    num_classes: int,
    *,
    source: str,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Dataset:
    """Makes a data set of uint8 images [N, C, H, W], after checking counts and labels.

    Args:
        name: the data set's name.
        images: uint8 [N, C, H, W].
        labels: integers [N].
        num_classes: number of classes.
        source: the files' description for error messages.
        mean: per channel, of images in [0, 1].
        std: per channel, of images in [0, 1].

    Raises:
        DataError: different numbers of images and labels, or a label outside [0, num_classes).
    """
    if len(images) != len(labels):
        raise DataError(f"{source}: {len(images)} images but {len(labels)} labels")
    if len(labels) == 0:
        raise DataError(f"{source}: no images")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(f"{source}: labels run from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}")
    scaled = np.divide(images, np.float32(255), dtype=np.float32, order="C")
    return Dataset(name, torch.from_numpy(scaled), torch.from_numpy(labels.astype(np.int64)), num_classes, mean, std)
