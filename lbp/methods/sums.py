"""Sums of constants, on the safe side of what their additions round."""

from __future__ import annotations

import torch
from torch import Tensor

from lbp.rounding import absolute_floor, unit_roundoff
from lbp.strategies import side_names


class Sum:
    """A sum of constants [K, B, S] or [K, R] float64, of which any may be absent; their K may be 1.

    Args:
        outward: whether the result accounts for the roundings of the additions.
    """

    def __init__(self, *, outward: bool) -> None:
        self._outward = outward
        self._total: Tensor | None = None
        # What the magnitudes of all results of an addition add up to.
        self._sizes: Tensor | None = None

    def add(self, *parts: Tensor | None) -> None:
        """Add constants; None stands for zero."""
        for part in parts:
            if part is None:
                continue
            if self._total is None:
                self._total = part
                continue
            self._total = self._total + part
            if self._outward:
                with torch.no_grad():
                    size = self._total.abs()
                    self._sizes = size if self._sizes is None else self._sizes + size

    def result(self, sides: str) -> Tensor | None:
        """Return the sum, with `outward` rounded to the safe side; None for zero.

        A lower bound of +infinity, or an upper one of -infinity, is no bound and becomes NaN.
        """
        if self._total is None or self._sizes is None:
            return self._total
        with torch.no_grad():
            # Every addition rounds by half a unit of its result; so does this last one.
            step = self._sizes.mul(4 * unit_roundoff(self._sizes.dtype)).add_(absolute_floor(self._sizes.dtype))
            count = len(side_names(sides))
            step = step.repeat(count, *[1] * (step.dim() - 1)) if len(step) < count else step
            if sides != "upper":
                step[0].neg_()
        return self._total + step
