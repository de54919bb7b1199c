"""Ramp activations: ReLU, LeakyReLU, ParamRamp, and the clamps ReLU6 and Hardtanh (Lyu et al. 2021, section 5)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp import ops
from lbp.errors import UnsupportedLayerError
from lbp.graph.base import BackwardStep, BoundNode, Relaxations
from lbp.graph.elementwise import ScaleShiftNode
from lbp.graph.join import SumNode
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.values import Attribute, Expression, Literal, MethodCall, Value
from lbp.linear import (
    Coefficients,
    ForwardBounds,
    InputWindows,
    Interval,
    PendingRelaxation,
    PendingWindowRelaxation,
    ReceptiveField,
    WindowRows,
    to_dense,
    to_windows,
)
from lbp.nn import LeakyReLU, ParamRamp
from lbp.rounding import Roundings, unit_roundoff


class RampNode(BoundNode):
    """Slope `eta`, 1, `eta` on `z < 0`, `0 <= z <= r`, `z > r`; ReLU is eta = 0 and r infinite.

    Attributes:
        r: reads the present bending point: infinity, a number, or a tensor that broadcasts to the layer's shape.
        eta: reads the present outer slope, a number or a 0-dim tensor.
        ends: the two numbers of which r is the difference; None: r is no difference.
    """

    is_activation = True
    takes_windows = True
    mixes = False

    def __init__(
        self, name: str, source: BoundNode, r: Value, eta: Value, ends: tuple[float, float] | None = None
    ) -> None:
        super().__init__(name, (source,), source.shape)
        self.r = r
        self.eta = eta
        self.ends = ends

    @property
    def pre_activation(self) -> BoundNode:
        """The node whose value the activation takes; after `compute_bounds` it has `.lower` and `.upper`."""
        return self.inputs[0]

    def ramp_parameters(self) -> tuple[Tensor | float, Tensor | float]:
        """Return the present `(r, eta)`."""
        return self.r.read(), self.eta.read()

    @property
    def is_nonnegative(self) -> bool:
        eta = self.eta.read()
        return not isinstance(eta, Tensor) and eta == 0

    def receptive_field(self) -> ReceptiveField | None:
        return ReceptiveField.identity()

    def interval(self, *inputs: Interval) -> Interval:
        lower, upper = inputs[0]
        return ops.ramp_interval(lower, upper, *self.ramp_parameters())

    def roundings(self, dtype: torch.dtype) -> Roundings:
        eta = self.ramp_parameters()[1]
        # `r + eta (z - r)` rounds three times; the activation itself moves no more than r does.
        error = 0.0
        if self.ends is not None:
            error = 4 * unit_roundoff(dtype) * sum(abs(float(end)) for end in self.ends)
        return Roundings(value=0 if not isinstance(eta, Tensor) and eta in (0, 1) else 3, shift_error=error)

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        return inputs[0]

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        (b,) = inputs
        lower, upper = relaxations.before(self)
        return b.with_matrices(ops.relax_forward(*b.matrices, lower, upper, **self._keywords(relaxations)))

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        lower, upper = relaxations.before(self)
        keywords = self._keywords(relaxations)
        if relaxations.margins is not None:
            keywords |= relaxations.margins(self)
        if isinstance(coefficients, WindowRows):
            windows, added = to_windows(coefficients)
            return (PendingWindowRelaxation(windows, lower, upper, relaxations.sides, keywords),), added
        dense, constants = to_dense(coefficients)
        return (PendingRelaxation(dense, lower, upper, relaxations.sides, keywords),), constants

    def _keywords(self, relaxations: Relaxations) -> dict[str, Any]:
        r, eta = self.ramp_parameters()
        return {"r": r, "eta": eta, "strategy": relaxations.strategy}


@for_modules(nn.ReLU)
@for_functions(functional.relu, functional.relu_, torch.relu, torch.relu_, "relu", "relu_")
def _relu(call: Call) -> BoundNode:
    return RampNode(call.name, call.node(call.operand()), Literal(math.inf), Literal(0.0))


@for_modules(nn.LeakyReLU)
def _leaky_relu_module(call: Call) -> BoundNode:
    return _leaky_relu(call, call.operand(), call.attribute("negative_slope"))


@for_functions(functional.leaky_relu, functional.leaky_relu_)
def _leaky_relu_function(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, negative_slope=0.01, inplace=False)
    return _leaky_relu(call, args["input"], call.value(args["negative_slope"]))


def _leaky_relu(call: Call, operand: Any, slope: Value) -> BoundNode:
    eta = Expression(_checked_slope, (slope, Literal(call.describe())))
    eta.read()
    return RampNode(call.name, call.node(operand), Literal(math.inf), eta)


def _checked_slope(slope: float, where: str) -> float:
    if not 0.0 <= slope <= 1.0:
        raise UnsupportedLayerError(f"{where} has negative_slope={slope}; slopes in [0, 1] are supported")
    return slope


@for_modules(LeakyReLU)
def _leaky_relu_with_buffer(call: Call) -> BoundNode:
    eta = Expression(MethodCall("effective_eta"), (Attribute(call.model, call.path),))
    return RampNode(call.name, call.node(call.operand()), Literal(math.inf), eta)


@for_modules(ParamRamp)
def _param_ramp(call: Call) -> BoundNode:
    module = Attribute(call.model, call.path)
    r = Expression(MethodCall("effective_r"), (module,))
    eta = Expression(MethodCall("effective_eta"), (module,))
    return RampNode(call.name, call.node(call.operand()), r, eta)


@for_modules(nn.ReLU6, nn.Hardtanh)
def _clamp_module(call: Call) -> BoundNode:
    module = call.module
    assert isinstance(module, nn.Hardtanh)
    return _clamp(call, call.operand(), module.min_val, module.max_val)


@for_functions(functional.relu6)
def _relu6_function(call: Call) -> BoundNode:
    return _clamp(call, call.operand(), 0.0, 6.0)


@for_functions(functional.hardtanh, functional.hardtanh_)
def _hardtanh_function(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, min_val=-1.0, max_val=1.0, inplace=False)
    return _clamp(call, args["input"], call.static(args["min_val"]), call.static(args["max_val"]))


@for_functions(torch.clamp, torch.clamp_, torch.clip, torch.clip_, "clamp", "clamp_", "clip", "clip_")
def _clamp_function(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, min=None, max=None)
    low, high = call.static(args["min"]), call.static(args["max"])
    return _clamp(call, args["input"], -math.inf if low is None else low, math.inf if high is None else high)


@for_functions(torch.clamp_min, torch.clamp_min_, "clamp_min", "clamp_min_")
def _clamp_from_below(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, min=REQUIRED)
    return _clamp(call, args["input"], call.static(args["min"]), math.inf)


@for_functions(torch.clamp_max, torch.clamp_max_, "clamp_max", "clamp_max_")
def _clamp_from_above(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, max=REQUIRED)
    return _clamp(call, args["input"], -math.inf, call.static(args["max"]))


@for_modules(nn.Threshold)
def _threshold_module(call: Call) -> BoundNode:
    module: Any = call.module
    return _threshold(call, call.operand(), module.threshold, module.value)


@for_functions(functional.threshold, torch.threshold, torch.threshold_)
def _threshold_function(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, threshold=REQUIRED, value=REQUIRED, inplace=False)
    return _threshold(call, args["input"], call.static(args["threshold"]), call.static(args["value"]))


def _threshold(call: Call, operand: Any, threshold: float, value: float) -> BoundNode:
    if threshold != value:
        raise call.refuse(f"jumps from {value} to {threshold}; a threshold that is its own value is supported")
    return _clamp(call, operand, value, math.inf)


NEAR = 64.0
"""Limits up to this size may be subtracted from a value and added again; beyond, too much of a small value is lost."""


def _clamp(call: Call, operand: Any, low: float, high: float) -> BoundNode:
    """Return the nodes of `clamp(x, low, high)`, made of ramps, which bend at 0 and r."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise call.refuse("has tensors as limits; plain numbers are supported")
    if not high > low:
        raise call.refuse(f"has min_val={low} and max_val={high}; max_val must be larger")
    source = call.node(operand)
    if low == -math.inf and high == math.inf:
        return source
    if low != 0 and max(abs(low), abs(high)) <= NEAR:
        return _clamp_by_shifts(call.name, source, low, high)
    if abs(low) <= abs(high):
        return _clamp_far(call.name, source, low, high)
    negated = ScaleShiftNode(f"{call.name}/negated", source, scale=Literal(-1.0))
    clamped = _clamp_far(f"{call.name}/clamped", negated, -high, -low)
    return ScaleShiftNode(call.name, clamped, scale=Literal(-1.0))


def _clamp_far(name: str, source: BoundNode, low: float, high: float) -> BoundNode:
    """Return the nodes of `clamp(x, low, high)`, |low| <= high, where high may be far from 0 or infinite."""
    if low == 0:
        return _clamp_from_0(name, source, high)
    if high == math.inf and low >= -NEAR:
        return _clamp_by_shifts(name, source, low, high)
    if low > 0:
        return _clamp_from_0(name, _clamp_by_shifts(f"{name}/raised", source, low, math.inf), high)
    # Nothing is rounded on either side of 0.
    positive = _clamp_from_0(f"{name}/positive", source, high)
    negated = ScaleShiftNode(f"{name}/negated", source, scale=Literal(-1.0))
    return SumNode(name, positive, _clamp_from_0(f"{name}/negative", negated, -low), -1.0)


def _clamp_from_0(name: str, source: BoundNode, high: float) -> BoundNode:
    # Whole numbers count as they are, also where the format holds no such number.
    ends = (0, high) if isinstance(high, int) and high > 2**24 else None
    return RampNode(name, source, Literal(float(high)), Literal(0.0), ends=ends)


def _clamp_by_shifts(name: str, source: BoundNode, low: float, high: float) -> BoundNode:
    """Return the nodes of `low + clamp(x - low, 0, high - low)`."""
    shifted = ScaleShiftNode(f"{name}/shifted", source, shift=Literal(-low))
    ends = None if high == math.inf else (low, high)
    ramp = RampNode(f"{name}/ramp", shifted, Literal(float(high - low)), Literal(0.0), ends=ends)
    return ScaleShiftNode(name, ramp, shift=Literal(low))
