"""Rounding errors of floating-point bounds: units, and what a layer's arithmetic rounds."""

from lbp.rounding.roundings import EXACT, Roundings
from lbp.rounding.units import (
    LEVELS,
    SLACK,
    absolute_floor,
    gamma,
    lowered,
    raised,
    unit_roundoff,
)

__all__ = ["EXACT", "LEVELS", "SLACK", "Roundings", "absolute_floor", "gamma", "lowered", "raised", "unit_roundoff"]
