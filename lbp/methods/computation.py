"""A computation of bounds, by what its memory depends on."""

from __future__ import annotations

from dataclasses import dataclass

from lbp.graph import BoundNode
from lbp.methods.names import Method


@dataclass(frozen=True)
class Computation:
    """A node of a network that is bounded by a method, before there are any inputs.

    Attributes:
        method: how hidden layers and the output are bounded.
        output: the bounded node.
        rows: rows of the specification; None: the output's own values.
        itemsize: bytes of a number.
        windows: whether rows are kept as windows where that is smaller.
        by_work: whether forward bounds are dense where that is less work.
        rounding: what the bounds account for, one of `lbp.rounding.LEVELS`.
    """

    method: Method
    output: BoundNode
    rows: int | None
    itemsize: int
    windows: bool
    by_work: bool
    rounding: str

    @property
    def row_count(self) -> int:
        """Number of values that are bounded, for one image."""
        return self.output.size if self.rows is None else self.rows

    @property
    def is_forward_to_output(self) -> bool:
        """Whether the output is bounded by forward bounds of its own, so that no row starts there."""
        return self.method.output == "lbp" and self.rows is None
