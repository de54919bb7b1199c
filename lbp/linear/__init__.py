"""Linear bounds: coefficients of back-substitution, forward bounds, and their values over the input region."""

from lbp.linear.coefficients import (
    Coefficients,
    DenseCoefficients,
    IdentityCoefficients,
    PendingRelaxation,
    add_constants,
    combine,
    to_dense,
)
from lbp.linear.forward_bounds import ForwardBounds, aligned
from lbp.linear.input_windows import InputWindows, common_windows
from lbp.linear.receptive_field import ReceptiveField, Span
from lbp.linear.region import Ball, Interval, Region, tighter
from lbp.linear.rounding import round_down, round_up, sum_down, sum_up
from lbp.linear.windows import (
    NeuronRows,
    PendingWindowRelaxation,
    WindowCoefficients,
    WindowRows,
    layer_of,
    to_windows,
    window_of,
)
from lbp.ops.window_places import move_windows

__all__ = [
    "Ball",
    "Coefficients",
    "DenseCoefficients",
    "ForwardBounds",
    "IdentityCoefficients",
    "InputWindows",
    "Interval",
    "NeuronRows",
    "PendingRelaxation",
    "PendingWindowRelaxation",
    "ReceptiveField",
    "Region",
    "Span",
    "WindowCoefficients",
    "WindowRows",
    "add_constants",
    "aligned",
    "combine",
    "common_windows",
    "layer_of",
    "move_windows",
    "round_down",
    "round_up",
    "sum_down",
    "sum_up",
    "tighter",
    "to_dense",
    "to_windows",
    "window_of",
]
