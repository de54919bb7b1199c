"""Rounding errors of floating-point bounds: units, and what a layer's arithmetic rounds."""

from lbp.rounding.roundings import EXACT, Roundings
from lbp.rounding.sums import BLOCK, blocked_terms, blocks, sum_in_blocks
from lbp.rounding.units import (
    LEVELS,
    SLACK,
    absolute_floor,
    gamma,
    lowered,
    magnitude_of,
    raised,
    unit_roundoff,
)

__all__ = [
    "BLOCK",
    "EXACT",
    "LEVELS",
    "SLACK",
    "Roundings",
    "absolute_floor",
    "blocked_terms",
    "blocks",
    "gamma",
    "lowered",
    "magnitude_of",
    "raised",
    "sum_in_blocks",
    "unit_roundoff",
]
