"""Bounds of the rows of unsafe sets over boxes of inputs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.linear import round_down, round_up
from lbp.methods.options import budget_of
from lbp.perturbations import PerturbationLpNorm
from lbp.verification.properties.case import UnsafeSets
from lbp.verification.verify import bound_options

COPIES = 3
"""Of a value while a gradient is computed: itself, what its operation keeps, and its gradient."""


class LinearLower(NamedTuple):
    """Lower bounds of rows, and the linear functions of the input that give them.

    Attributes:
        lower: [B, S].
        slopes: [B, S, inputs].
    """

    lower: Tensor
    slopes: Tensor


class BoxBounds:
    """Bounds a network over boxes [B, inputs].

    Args:
        network: in evaluation mode, from [B, *input_shape].
        input_shape: of one example; boxes are flattened in its order.
        dtype: of the bounds; the network's parameters have it.
        strategy: bounding lines of the activations.
        memory_budget: bytes that bounds may take; None: half of the memory that is free.
        rounding: what the bounds account for, as `lbp.verify` takes it.
    """

    def __init__(
        self,
        network: nn.Module,
        input_shape: tuple[int, ...],
        dtype: torch.dtype,
        strategy: str = "adaptive",
        memory_budget: int | str | None = None,
        rounding: str = "outward",
    ) -> None:
        self.input_shape = input_shape
        self.dtype = dtype
        example = torch.zeros(1, *input_shape, dtype=dtype, device="cpu")
        options = bound_options(strategy, memory_budget, textbook=False, rounding=rounding)
        self._net = BoundedModule(network, example, bound_opts=options)
        self._budget, _ = budget_of(self._net.bound_opts, None, example.device)

    def points_within(self, rows: int) -> int:
        """Return how many points an attack takes at a time to stay within the budget, at least one.

        Counted are all values of the network and their gradients, and the `rows` of a specification.
        """
        values = sum(node.size for node in self._net.nodes())
        inputs = math.prod(self.input_shape)
        each = (COPIES * (values + inputs) + 4 * rows) * self.dtype.itemsize
        return max(1, self._budget // each)

    def boxes_within(self, rows: int, method: str) -> int:
        """Return how many boxes to bound at a time by a method, and to search with two points each, at least one.

        Raises:
            InvalidInputError: a budget that is too small for one box.
        """
        return min(self._net.images_within(method, rows=rows), max(self.points_within(rows) // 4, 1))

    def lower(self, low: Tensor, high: Tensor, sets: UnsafeSets, method: str) -> Tensor:
        """Return lower bounds [B, S] of `matrix y` over boxes."""
        found = self._net.compute_bounds(
            x=(self._region(low, high),), C=sets.matrix.unsqueeze(0), method=method, bound_upper=False
        )
        assert found[0] is not None
        return found[0].detach()

    def outputs(self, x: Tensor, method: str) -> tuple[Tensor, Tensor]:
        """Return lower and upper bounds [outputs] of the outputs at a point [inputs]."""
        lower, upper = self._net.compute_bounds(x=(self._region(x[None], x[None]),), method=method)[:2]
        assert lower is not None
        assert upper is not None
        return lower.detach().reshape(-1), upper.detach().reshape(-1)

    def linear_lower(self, low: Tensor, high: Tensor, sets: UnsafeSets, method: str) -> LinearLower:
        """Return lower bounds with their slopes; not for IBP."""
        found = self._net.compute_bounds(
            x=(self._region(low, high),), C=sets.matrix.unsqueeze(0), method=method, bound_upper=False, return_A=True
        )
        lower, _, coefficients = found  # type: ignore[misc]
        assert lower is not None
        slopes = coefficients[self._net.final_name][self._net.input_name[0]]["lA"]
        assert isinstance(slopes, Tensor)
        return LinearLower(lower.detach(), slopes.detach().flatten(2).expand(len(low), -1, -1))

    def _region(self, low: Tensor, high: Tensor) -> BoundedTensor:
        sides = round_down(low, self.dtype), round_up(high, self.dtype)
        lower, upper = (side.reshape(-1, *self.input_shape) for side in sides)
        return BoundedTensor(lower, PerturbationLpNorm(x_L=lower, x_U=upper))  # any point of the box stands for it
