"""What the attacks share: the box they search, the margin they lower, the best points they have seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from lbp.errors import InvalidInputError
from lbp.linear import round_down, round_up, sum_down, sum_up
from lbp.verification.answers import answers
from lbp.verification.checks import check_labels, checked_classes

Limit = float | Tensor


@dataclass(frozen=True)
class Box:
    """Where an attack may look: the l_inf ball intersected with the valid range of the data.

    Attributes:
        low, high: [B, *shape], low <= high.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, x: Tensor, eps: Limit, clip: tuple[Limit, Limit] | None) -> Self:
        """The box around inputs, its ends rounded inward: every point lies in the exact ball and the exact range.

        Args:
            x: [B, *shape].
            eps: radius, >= 0; a tensor that broadcasts to x for data normalised per channel.
            clip: valid range, numbers or tensors that broadcast to x.

        Raises:
            InvalidInputError: negative or NaN eps.
        """
        radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
        if not bool((radius >= 0).all()):
            raise InvalidInputError(f"attack: eps must be >= 0, got {eps}")
        center = x.double()
        low, high = sum_up(center, -radius, x.dtype), sum_down(center, radius, x.dtype)
        if clip is not None:
            least, greatest = (torch.as_tensor(limit, dtype=torch.float64, device=x.device) for limit in clip)
            low = torch.maximum(low, round_up(least, x.dtype))
            high = torch.minimum(high, round_down(greatest, x.dtype))
        return cls(low, high)

    def __getitem__(self, index: Tensor) -> "Box":
        return Box(self.low[index], self.high[index])

    def at(self, position: Tensor) -> Tensor:
        """The points that lie the given part [0, 1] of the way from low to high."""
        return self.project(self.low + (self.high - self.low) * position)

    def project(self, points: Tensor) -> Tensor:
        """The nearest points of the box."""
        return torch.minimum(torch.maximum(points, self.low), self.high)

    def contains(self, points: Tensor) -> Tensor:
        """Bool [B]: the whole point lies in the box; False for a point with NaN."""
        return ((points >= self.low) & (points <= self.high)).flatten(1).all(dim=1)


class ExampleRandom:
    """Random numbers that belong to an example, whatever batch it is in.

    Args:
        seed: a seed per example [B], or one number, from which those of the examples count on.
        like: inputs [B, *shape], whose dtype and device the numbers get.
    """

    def __init__(self, seed: int | Sequence[int], like: Tensor) -> None:
        seeds = range(seed, seed + len(like)) if isinstance(seed, int) else seed
        self._generators = [torch.Generator().manual_seed(one % 2**63) for one in seeds]
        self._like = like

    def uniform(self, *shape: int) -> Tensor:
        """The next numbers in [0, 1), [B, *shape]."""
        if not self._generators:
            return self._like.new_empty(0, *shape)
        dtype = self._like.dtype
        rows = [torch.rand(shape, generator=one, dtype=dtype, device="cpu") for one in self._generators]
        return torch.stack(rows).to(self._like.device)


class BestPoints:
    """For every example the point with the smallest margin seen so far, at first the example itself.

    Attributes:
        points: [B, *shape].
        margins: [B], true logit minus the largest other.
    """

    def __init__(self, model: nn.Module, x: Tensor, labels: Tensor) -> None:
        check_labels(x, labels)
        logits = answers(model, x)
        checked_classes(logits, labels)
        self.margins = smallest_margin(logits, labels)
        self.points = x.clone()

    def offer(self, index: Tensor, points: Tensor, margins: Tensor) -> Tensor:
        """Keeps what is better than before.

        Args:
            index: int64 [n], the examples that the points belong to.
            points: [n, *shape].
            margins: [n], under autocast of another dtype.

        Returns:
            bool [n]: which points were kept.
        """
        margins = margins.to(self.margins.dtype)
        better = margins < self.margins[index]
        places = index[better]
        self.points[places], self.margins[places] = points[better], margins[better]
        return better

    def open(self, *, early_stop: bool) -> Tensor:
        """Indices [n] of the examples to go on with: all, or with `early_stop` those still classified correctly."""
        if not early_stop:
            return torch.arange(len(self.margins), device=self.margins.device)
        return (~(self.margins < 0)).nonzero().squeeze(1)


def smallest_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """True logit minus the largest other, [B]; NaN where a logit is NaN."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    margin: Tensor = true - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return margin
