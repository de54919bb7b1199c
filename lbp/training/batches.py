"""Batches: the order of every epoch, random crops and flips, and where the images lie.

Everything random is drawn from the seed, the epoch and the purpose alone, so that a run resumed at any epoch, on any
number of processes and on any device sees the same images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lbp.data import Dataset
from lbp.errors import InvalidInputError
from lbp.training.settings import Augmentation

_DEVICE_SHARE = 0.5
"""Share of a GPU's free memory that the training images may take."""


def seed_for(seed: int, purpose: str, *position: int) -> int:
    """A seed for one use of random numbers, independent of those for all others.

    Args:
        seed: of the run.
        purpose: a word.
        position: epoch, step, ...
    """
    state = np.random.SeedSequence([seed, *purpose.encode(), *position]).generate_state(2, np.uint32)
    return int(state[0]) | int(state[1] & 0x7FFFFFFF) << 32


def split_off(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Divides a data set at random into two, of which the second has that share of the examples, at least one.

    Returns:
        what is left for training, and what is held out; both in the original order.

    Raises:
        InvalidInputError: nothing would be left.
    """
    count = max(1, round(share * len(data)))
    if count >= len(data):
        raise InvalidInputError(
            f"{data.name}: to hold out a share of {share:g}, {count} of {len(data)} examples, leaves none to train on; "
            "take more data, a smaller validation_share, or another selection"
        )
    generator = torch.Generator().manual_seed(seed_for(seed, "split"))
    held_out = torch.zeros(len(data), dtype=torch.bool, device="cpu")
    held_out[torch.randperm(len(data), generator=generator, device="cpu")[:count]] = True
    return data.chosen(~held_out), data.chosen(held_out)


@dataclass(frozen=True)
class EpochPlan:
    """What is drawn for one epoch, on the device of the images.

    Attributes:
        order: the examples [N] in the order of the epoch, on the device.
        order_on_host: the same, in host memory.
        top, left: corners [N] of the windows, by position in the order; None without crops.
        flipped: [N] whether to mirror, by position in the order; None without flips.
    """

    order: Tensor
    order_on_host: Tensor
    top: Tensor | None
    left: Tensor | None
    flipped: Tensor | None


class Batches:
    """Training batches of a data set, augmented on the device where the images lie.

    Args:
        data: the training set.
        size: (height, width) of the images that the network takes; windows of that size are cut out at random places.
        augmentation: how.
        batch_size: examples of a step; the last batch of an epoch may be smaller.
        seed: of the run.
        device: where batches are wanted. The images are moved there as a whole if they take at most half of its free
            memory; otherwise they stay in page-locked host memory and are copied batch by batch.

    Raises:
        InvalidInputError: so wide a border of zeros that a window could hold nothing else.
    """

    def __init__(
        self,
        data: Dataset,
        size: tuple[int, int],
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        if augmentation.padding >= min(size):
            raise InvalidInputError(
                f"training.augmentation.padding must be less than the sides of the windows {size}, "
                f"got {augmentation.padding}"
            )
        self._device = device
        self._images, self._labels = _placed(data.images, device), data.labels.to(device)
        self._size, self._padding = size, augmentation.padding
        self._flip = augmentation.flip
        self._seed = seed
        self.batch_size = batch_size
        self.steps_per_epoch = -(-len(data) // batch_size)
        height, width = data.images.shape[2:]
        self._places = (height + 2 * self._padding - size[0] + 1, width + 2 * self._padding - size[1] + 1)

    def __len__(self) -> int:
        return self._labels.shape[0]

    def plan(self, epoch: int) -> EpochPlan:
        """Draws the order, windows and flips of an epoch."""
        generator = torch.Generator().manual_seed(seed_for(self._seed, "epoch", epoch))
        count = len(self)

        def draw(high: int) -> Tensor:
            return torch.randint(high, (count,), generator=generator, device="cpu").to(self._device)

        order = torch.randperm(count, generator=generator, device="cpu")
        crops = self._places != (1, 1)
        top, left = (draw(places) if crops else None for places in self._places)
        return EpochPlan(order.to(self._device), order, top, left, draw(2).bool() if self._flip else None)

    def batch(self, plan: EpochPlan, index: int) -> tuple[Tensor, Tensor]:
        """The images [B, C, *size] and labels [B] of a step of the epoch."""
        place = slice(index * self.batch_size, (index + 1) * self.batch_size)
        chosen = plan.order[place]
        if self._images.device == chosen.device:
            images = self._images[chosen]
        else:
            images = self._from_host(plan.order_on_host[place])
        corners = None if plan.top is None or plan.left is None else (plan.top[place], plan.left[place])
        flipped = None if plan.flipped is None else plan.flipped[place]
        return augmented(images, self._size, self._padding, corners, flipped), self._labels[chosen]

    def _from_host(self, chosen: Tensor) -> Tensor:
        """Copy images to the device, which goes on meanwhile."""
        shape = (len(chosen), *self._images.shape[1:])
        images = torch.empty(shape, dtype=self._images.dtype, device="cpu", pin_memory=True)
        torch.index_select(self._images, 0, chosen, out=images)
        return images.to(self._device, non_blocking=True)


def augmented(
    images: Tensor,
    size: tuple[int, int],
    padding: int,
    corners: tuple[Tensor, Tensor] | None,
    flipped: Tensor | None,
) -> Tensor:
    """Cuts windows out of images with a border of zeros, and mirrors some, by one gather.

    Args:
        images: [B, C, H, W].
        size: (height, width) of the windows.
        padding: width of the border.
        corners: rows and columns [B] of the windows' upper left corners in the padded image; None: at (0, 0).
        flipped: [B], which windows to mirror left to right; None: none.

    Returns:
        [B, C, *size].
    """
    if corners is None and flipped is None:
        return images
    batch, channels = images.shape[:2]
    rows = torch.arange(size[0], device=images.device).expand(batch, -1)
    columns = torch.arange(size[1], device=images.device).expand(batch, -1)
    if flipped is not None:
        columns = torch.where(flipped[:, None], size[1] - 1 - columns, columns)
    if corners is not None:
        images = F.pad(images, (padding,) * 4) if padding else images
        rows, columns = rows + corners[0][:, None], columns + corners[1][:, None]
    example = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[example, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _placed(images: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda" or images.device == device:
        return images.to(device)
    free, _ = torch.cuda.mem_get_info(device)
    return images.to(device) if images.numel() * images.element_size() <= _DEVICE_SHARE * free else images.pin_memory()
