"""What a VNN-LIB file states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """Inputs between two ends.

    Attributes:
        lower, upper: float64 [inputs], finite, lower <= upper.
    """

    lower: Tensor
    upper: Tensor

    def contains(self, x: Tensor) -> bool:
        """Whether a point [inputs] lies in the box; NaN does not."""
        return bool(((self.lower <= x) & (x <= self.upper)).all())


@dataclass(frozen=True)
class Conjunction:
    """Outputs y with `matrix y <= bound` in every row; without rows, all outputs.

    Attributes:
        matrix: float64 [rows, outputs].
        bound: float64 [rows].
    """

    matrix: Tensor
    bound: Tensor

    def excess(self, y: Tensor) -> Tensor:
        """Return the largest `matrix y - bound` [B] of outputs [B, outputs]: y is in the set where it is <= 0."""
        if len(self.bound) == 0:
            return y.new_full(y.shape[:1], -torch.inf)
        return (y @ self.matrix.to(y).T - self.bound.to(y)).amax(1)

    def holds_all(self, lower: Tensor, upper: Tensor) -> bool:
        """Whether all outputs between two finite ends [outputs] are in the set, in exact arithmetic."""
        low, high = ([Fraction(end) for end in ends.tolist()] for ends in (lower, upper))
        return all(
            sum(Fraction(factor) * (high if factor > 0 else low)[i] for i, factor in enumerate(row) if factor) <= bound
            for row, bound in zip(self.matrix.tolist(), self.bound.tolist(), strict=True)
        )


@dataclass(frozen=True)
class Case:
    """A box, and the outputs that must not be reached from it.

    Attributes:
        box: of inputs.
        unsafe: the outputs in any of these sets.
    """

    box: Box
    unsafe: tuple[Conjunction, ...]


@dataclass(frozen=True)
class Property:
    """A property holds when no input in the box of a case gives an output in one of its unsafe sets.

    The assertions of a VNN-LIB file describe a counterexample: the property holds when they cannot all be true.

    Attributes:
        inputs, outputs: number of variables.
        cases: none: the assertions contradict each other, and the property holds for every network.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]

    def is_violated_by(self, x: Tensor, y: Tensor) -> bool:
        """Whether an input [inputs] lies in a box, and its output y [outputs] in an unsafe set of that box.

        The output is compared in float64; NaN violates nothing.
        """
        y = y.double().reshape(1, -1)
        return not bool(y.isnan().any()) and any(bool(unsafe.excess(y) <= 0) for unsafe in self._unsafe_for(x))

    def is_violated_by_all(self, x: Tensor, lower: Tensor, upper: Tensor) -> bool:
        """Whether an input [inputs] lies in a box that has an unsafe set of all outputs between two ends [outputs].

        In exact arithmetic; ends that are NaN or infinite violate nothing.
        """
        finite = bool((lower.isfinite() & upper.isfinite()).all())
        return finite and any(unsafe.holds_all(lower, upper) for unsafe in self._unsafe_for(x))

    def _unsafe_for(self, x: Tensor) -> Iterator[Conjunction]:
        """Return the unsafe sets of the boxes that an input lies in."""
        x = x.double().reshape(-1)
        return (unsafe for case in self.cases if case.box.contains(x) for unsafe in case.unsafe)
