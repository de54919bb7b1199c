"""What the arithmetic of a layer rounds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Roundings:
    """How often the arithmetic of a node `W a + b` rounds.

    Attributes:
        forward: terms of the sums in the node's value `W a`; 0: nothing is computed.
        backward: terms of the sums in the coefficients of its inputs, `A W`; 0: nothing is computed.
        weights: relative error of the stored W, in units of the roundoff (what is derived from stored parameters is
            rounded itself).
        value: further roundings of the value, each relative to it.
        shift: |b|, broadcastable to [*shape]; None: no b.
        shift_error: absolute error of the stored b, or of the function that an activation computes; broadcastable to
            [*shape].
        any_order: terms of the sums in the node's value where they are taken in any order and not in blocks; None: as
            many as `forward`.
        factor: of a W whose entries are products of stored numbers the largest one, 0-dim float64, or a number: what
            an entry's other factor loses below the normal range is multiplied by it. 1: the entries are stored.
    """

    forward: int = 0
    backward: int = 0
    weights: int = 0
    value: int = 0
    shift: Tensor | None = None
    shift_error: Tensor | float = 0.0
    any_order: int | None = None
    factor: Tensor | float = 1.0


EXACT = Roundings()
"""A node that moves or selects numbers without computing."""
