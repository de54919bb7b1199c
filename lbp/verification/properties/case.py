"""A case of a property as rows of a specification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.errors import InvalidInputError
from lbp.linear import round_up
from lbp.verification.margins import certainly_above
from lbp.vnnlib import Conjunction


def middle(lower: Tensor, upper: Tensor) -> Tensor:
    """Return the middle of boxes; their width may overflow."""
    return lower / 2 + upper / 2


def half_width(lower: Tensor, upper: Tensor) -> Tensor:
    """Return half of the width of boxes, which may overflow."""
    return upper / 2 - lower / 2


@dataclass(frozen=True)
class UnsafeSets:
    """Unsafe sets over the same rows: set k is where `matrix y <= bound` in all of its rows.

    Attributes:
        matrix: [S, outputs], every row once.
        bound: [S].
        member: bool [K, S], the rows of every set.
        rounding: what lower bounds of the rows account for, one of `lbp.rounding.LEVELS`.
    """

    matrix: Tensor
    bound: Tensor
    member: Tensor
    rounding: str = "nearest"

    @staticmethod
    def of(
        conjunctions: Sequence[Conjunction], outputs: int, dtype: torch.dtype, rounding: str = "nearest"
    ) -> UnsafeSets:
        """Return conjunctions with their rows joined, in a dtype.

        Raises:
            InvalidInputError: bounds are to account for rounding, but the dtype does not hold the coefficients exactly.
        """
        places: dict[tuple[float, ...], int] = {}
        rows_of = [
            [places.setdefault((*row, bound), len(places)) for row, bound in _rows(part)] for part in conjunctions
        ]
        table = torch.tensor(list(places), dtype=torch.float64, device="cpu").reshape(len(places), outputs + 1)
        member = torch.zeros(len(conjunctions), len(places), dtype=torch.bool, device="cpu")
        for k, rows in enumerate(rows_of):
            member[k, rows] = True
        matrix, bound = table[:, :-1].to(dtype), table[:, -1]
        if rounding == "nearest":
            return UnsafeSets(matrix, bound.to(dtype), member)
        if bool((matrix.double() != table[:, :-1]).any()):
            raise InvalidInputError(
                f"rounding={rounding!r}: {dtype} does not hold the coefficients of the property exactly; compute the "
                "bounds in float64, or use rounding='nearest'"
            )
        return UnsafeSets(matrix, round_up(bound, dtype), member, rounding)

    def __len__(self) -> int:
        return len(self.member)

    def only(self, chosen: Tensor) -> UnsafeSets:
        """Return the sets that a mask [K] chooses, without rows that none of them has."""
        rows = self.member[chosen].any(0)
        return UnsafeSets(self.matrix[rows], self.bound[rows], self.member[chosen][:, rows], self.rounding)

    def excluded(self, lower: Tensor) -> Tensor:
        """Return which sets [B, K] no output can reach, from lower bounds [B, S] of `matrix y`.

        A set is excluded when one of its rows is above its bound everywhere, by more than rounding where the lower
        bounds do not account for it. NaN excludes none.
        """
        return (certainly_above(lower, self.bound, rounding=self.rounding).unsqueeze(1) & self.member).any(2)

    def excess(self, y: Tensor) -> Tensor:
        """Return the largest `matrix y - bound` [B, K] of every set; y [B, outputs] is in a set where it is <= 0."""
        margins = y @ self.matrix.T - self.bound
        return margins.unsqueeze(1).masked_fill(~self.member, -torch.inf).amax(2)

    def excess_of(self, y: Tensor, target: Tensor) -> Tensor:
        """Return the largest `matrix y - bound` [B] of outputs [B, outputs] for one set each, whose numbers are [B]."""
        margins = y @ self.matrix.T - self.bound
        return margins.masked_fill(~self.member[target], -torch.inf).amax(1)

    def best_rows(self, lower: Tensor) -> Tensor:
        """Return the row [B, K] of every set that is closest to excluding it, from lower bounds [B, S]."""
        return (lower - self.bound).unsqueeze(1).masked_fill(~self.member, -torch.inf).argmax(2)


def _rows(part: Conjunction) -> list[tuple[list[float], float]]:
    return list(zip(part.matrix.tolist(), part.bound.tolist(), strict=True))
