"""Coefficients of back-substitution: linear functions of one layer's values, one row per bounded quantity.

Every representation answers `dense()`. Layers look at the representation where a cheaper step exists: a Linear layer
multiplies nothing when it receives the identity, and fuses a pending relaxation into its own product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lbp.linear.windows import WindowCoefficients, WindowRows, to_windows
from lbp.ops import relax_backward
from lbp.strategies import side_names


@dataclass(frozen=True)
class DenseCoefficients:
    """A matrix with one column per neuron.

    Attributes:
        A: [K, B, S, *shape]. K and B may be 1 where both sides, or all examples, share the rows.
    """

    A: Tensor

    def expanded(self, sides: str, batch: int) -> Tensor:
        """Return A as [K, B, S, *shape] for the given sides and batch size, without a copy.

        Args:
            sides: "lower", "upper" or "both".
            batch: the batch size; 1 keeps that of A.
        """
        return self.A.expand(len(side_names(sides)), -1 if batch == 1 else batch, *self.A.shape[2:])


@dataclass(frozen=True)
class IdentityCoefficients:
    """Rows `start` to `stop` of the identity of a layer: the start of back-substitution, never stored as a matrix.

    Attributes:
        shape: the layer's shape without the batch dimension.
        start, stop: which neurons, in the layer's flattened order.
        dtype, device: of the dense matrix, where one is needed.
    """

    shape: tuple[int, ...]
    start: int
    stop: int
    dtype: torch.dtype
    device: torch.device

    def dense(self) -> DenseCoefficients:
        """Return the rows as a matrix [1, 1, S, *shape]."""
        rows = self.stop - self.start
        columns = torch.Size(self.shape).numel()
        A = torch.zeros(rows, columns, dtype=self.dtype, device=self.device)
        A.diagonal(self.start).fill_(1)
        return DenseCoefficients(A.reshape(1, 1, rows, *self.shape))


@dataclass(frozen=True)
class PendingRelaxation:
    """Coefficients of an activation's output that are not yet pushed through the activation.

    The layer below takes them together with its own affine step, in one fused op, when nothing else reaches it;
    otherwise `relaxed` does the activation's step alone.

    Attributes:
        coefficients: of the activation's output.
        lower, upper: pre-activation bounds [B, *shape].
        sides: "lower", "upper" or "both".
        relaxation: keywords of the relaxation ops (r, eta, strategy, ...).
    """

    coefficients: DenseCoefficients
    lower: Tensor
    upper: Tensor
    sides: str
    relaxation: dict[str, Any]

    def expanded(self) -> Tensor:
        """Return the coefficients [K, B, S, *shape] for the batch that coefficients and bounds span together."""
        return self.coefficients.expanded(self.sides, self.lower.shape[0])

    def relaxed(self, bias: Tensor | None = None) -> tuple[DenseCoefficients, Tensor]:
        """Return the coefficients of the pre-activation, and the constants [K, B, S] that the lines add.

        Args:
            bias: of the affine layer below, broadcastable to its shape, that joins the constants; None: none.
        """
        A, constants = relax_backward(
            self.expanded(), self.lower, self.upper, sides=self.sides, bias=bias, **self.relaxation
        )
        return DenseCoefficients(A), constants


Coefficients = DenseCoefficients | IdentityCoefficients | PendingRelaxation


def to_dense(coefficients: Coefficients) -> tuple[DenseCoefficients, Tensor | None]:
    """Return any representation as a matrix, with the constants [K, B, S] that this adds (None: none)."""
    if isinstance(coefficients, PendingRelaxation):
        return coefficients.relaxed()
    if isinstance(coefficients, IdentityCoefficients):
        return coefficients.dense(), None
    return coefficients, None


def add_constants(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Add two constants [K, B, S] of which either may be absent."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


class Combined(NamedTuple):
    """Coefficients that reach one node over several paths, added up.

    Attributes:
        total: their sum.
        constants: what bringing them into one form added, [K, B, S] or [K, R] each.
        sums: the sum after every addition.
    """

    total: Coefficients | WindowRows
    constants: Sequence[Tensor | None]
    sums: Sequence[DenseCoefficients | WindowCoefficients]


def combine(parts: Sequence[Coefficients | WindowRows]) -> Combined:
    """Add the coefficients that reach one node over several paths; a single one stays as it is."""
    if len(parts) == 1:
        return Combined(parts[0], [], [])
    if isinstance(parts[0], WindowRows):
        return _combine_windows(parts)
    total, first = to_dense(parts[0])
    constants: list[Tensor | None] = [first]
    sums: list[DenseCoefficients | WindowCoefficients] = []
    for part in parts[1:]:
        assert not isinstance(part, WindowRows)
        dense, more = to_dense(part)
        total = DenseCoefficients(total.A + dense.A)
        constants.append(more)
        sums.append(total)
    return Combined(total, constants, sums)


def _combine_windows(parts: Sequence[Coefficients | WindowRows]) -> Combined:
    total: WindowCoefficients | None = None
    constants: list[Tensor | None] = []
    sums: list[DenseCoefficients | WindowCoefficients] = []
    for part in parts:
        assert isinstance(part, WindowRows)
        windows, more = to_windows(part)
        constants.append(more)
        if total is None:
            total = windows
        else:
            total = total.added(windows)
            sums.append(total)
    assert total is not None
    return Combined(total, constants, sums)
