"""The bounds of hidden layers that a `BoundedModule` keeps for its next call, and what makes them stale."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lbp.errors import StaleBoundsError
from lbp.graph import BoundNode
from lbp.graph.registry import BatchStatistics
from lbp.graph.structure import Identity, Structure, setting_of, tensors_of
from lbp.linear import Interval, Region
from lbp.perturbations import PerturbationLpNorm, region_of
from lbp.rounding import LEVELS


@dataclass(frozen=True)
class CachedBounds:
    """The latest input, and the bounds of hidden layers found for it.

    Attributes:
        x: the input.
        region: its region.
        bounds: pre-activation bounds by node.
        stamp: versions of everything that the bounds depend on; see `stamp_of`.
        level: what region and bounds account for, one of `lbp.rounding.LEVELS`.
        input_stamp: versions of what the region depends on; see `input_stamp_of`.
    """

    x: Tensor
    region: Region
    bounds: dict[BoundNode, Interval]
    stamp: tuple[Any, ...]
    level: str
    input_stamp: tuple[Any, ...]

    def region_for(self, level: str) -> Region:
        """Return the present region of the input as bounds of that level need it."""
        if level == self.level and self.input_stamp == input_stamp_of(self.x):
            return self.region
        return region_of(self.x, outward=level != "nearest")

    def hidden(self, stamp: tuple[Any, ...], level: str) -> dict[BoundNode, Interval]:
        """Return the bounds, for a call at that level while the stamp is that one.

        Raises:
            StaleBoundsError: something has changed since, or the bounds account for less rounding.
        """
        if self.stamp != stamp:
            raise StaleBoundsError(
                "compute_bounds: the cached bounds of the hidden layers are stale: parameters, buffers, the input "
                "or the training mode have changed since they were computed, or are tensors made under "
                "torch.inference_mode(), of which that cannot be known; pass x again"
            )
        if LEVELS.index(self.level) < LEVELS.index(level):
            raise StaleBoundsError(
                f"compute_bounds: rounding={level!r}, but the cached bounds of the hidden layers were computed "
                f"with {self.level!r}; pass x again, or compute them with rounding={level!r}"
            )
        return dict(self.bounds)


def stamp_of(structure: Structure, statistics: BatchStatistics, x: Tensor) -> tuple[Any, ...]:
    """Return the versions of everything that the bounds for x of a model of that structure depend on."""
    tensors = tensors_of(structure)
    moments = chain.from_iterable(chain.from_iterable(statistics.values()))
    return (structure, *input_stamp_of(x), *map(Identity, (*tensors, *moments)))


def input_stamp_of(x: Tensor) -> tuple[Any, ...]:
    """Return the versions of everything that the region of an input depends on."""
    perturbation = getattr(x, "ptb", None) or PerturbationLpNorm()
    return tuple(map(setting_of, (*vars(perturbation).values(), x)))


def is_same_input(passed: Tensor, x: Tensor) -> bool:
    """Whether a tensor that the model was called with is the input x: itself, or its values without a region."""
    if passed is x:
        return True
    is_plain = type(passed) is Tensor and passed.layout == torch.strided and passed.device == x.device
    if not is_plain or passed.device.type not in ("cpu", "cuda"):
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(passed) and passed.is_set_to(x)
