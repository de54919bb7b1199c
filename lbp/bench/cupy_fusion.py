"""The relaxations as elementwise kernels that CuPy fuses: what a user without kernels of their own would write.

The formulas are written on arrays of any library and take its module. What CuPy makes of them stays float32 because all
numbers in them are Python's own, which have no dtype; a parameter of a fused kernel would be float64.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from lbp.bench.op_case import OpCase
from lbp.bench.timing import Call

Lines = Callable[..., tuple[Any, Any, Any, Any]]
"""Takes a module, bounds and a bending point; returns slope and intercept of the lines below and above."""

_TINY = 1e-30
"""Below every denominator that is not 0."""


def relu_lines(xp: ModuleType, l: Any, u: Any) -> tuple[Any, Any, Any, Any]:
    """Returns adaptive lines of ReLU: the chord above, slope 1 below where u is the longer side.

    All four are arrays, the intercept below is one of zeros, as a fused kernel returns nothing else.
    """
    unstable = xp.logical_and(l < 0, u > 0)
    slope = xp.where(unstable, u / xp.maximum(u - l, _TINY), (u > 0).astype(l.dtype))
    return (u >= -l).astype(l.dtype), l * 0.0, slope, xp.where(unstable, -l * slope, 0.0)


def ramp_lines(xp: ModuleType, l: Any, u: Any, r: Any, *, eta: float) -> tuple[Any, Any, Any, Any]:
    """Returns adaptive lines of ParamRamp, as `lbp.bench.plain` has them: cases with the same formula together."""
    below, beyond = l < 0, u > r
    top = xp.minimum(u, r)
    crosses = xp.logical_and(below, u > 0)
    # Above: through (l, act(l)) and the first bend that u reaches, or with slope eta from r on.
    rise = (1 - eta) * (top / xp.maximum(top - l, _TINY))
    flat = xp.logical_and(beyond, u - r > r - l)
    stable = eta + (1 - eta) * (u > 0).astype(l.dtype)
    upper_slope = xp.where(flat, eta, xp.where(crosses, eta + rise, stable))
    upper_intercept = xp.where(flat, (1 - eta) * r, xp.where(crosses, -l * rise, 0.0))
    # Below: through the origin where l < 0, else the chord.
    steep = xp.where(beyond, eta + (1 - eta) * (r / xp.maximum(u, _TINY)), 1.0)
    chord = xp.where(beyond, eta + (1 - eta) * (xp.maximum(r - l, 0.0) / xp.maximum(u - l, _TINY)), 1.0)
    lower_slope = xp.where(below, xp.where(-l > u, eta, steep), chord)
    bottom = xp.minimum(l, r)
    at_l = bottom + eta * (l - bottom)
    is_chord = xp.logical_and(beyond, xp.logical_not(below))
    return lower_slope, xp.where(is_chord, at_l - chord * l, 0.0), upper_slope, upper_intercept


def bounding_lines(xp: ModuleType, lines: Lines, *bounds: Any) -> tuple[Any, Any, Any, Any]:
    """Returns slopes and intercepts of every neuron, as many as there are bounds: once for all rows that take them."""
    return lines(xp, *bounds)


def relaxed_rows(
    xp: ModuleType, a: Any, lower_slope: Any, lower_intercept: Any, upper_slope: Any, upper_intercept: Any
) -> tuple[Any, Any]:
    """Returns coefficients of the lower side behind the activation, and what their sum adds to the constant."""
    positive = a >= 0
    slope = xp.where(positive, lower_slope, upper_slope)
    return a * slope, a * xp.where(positive, lower_intercept, upper_intercept)


def relaxed_matrices(xp: ModuleType, center: Any, radius: Any, lower_slope: Any, upper_slope: Any) -> tuple[Any, Any]:
    """Returns center and radius of forward bounds behind the activation."""
    lower, upper = (center - radius) * lower_slope, (center + radius) * upper_slope
    return (upper + lower) * 0.5, (upper - lower) * 0.5


def relaxed_biases(
    xp: ModuleType,
    center: Any,
    radius: Any,
    lower_slope: Any,
    lower_intercept: Any,
    upper_slope: Any,
    upper_intercept: Any,
) -> tuple[Any, Any]:
    """Returns the constants of center and radius behind the activation."""
    lower = (center - radius) * lower_slope + lower_intercept
    upper = (center + radius) * upper_slope + upper_intercept
    return (upper + lower) * 0.5, (upper - lower) * 0.5


def is_available() -> bool:
    """Says whether CuPy is installed."""
    return importlib.util.find_spec("cupy") is not None


def takes_part(case: OpCase) -> bool:
    """Says whether CuPy can be compared in a case: a relaxation of the lower side on a GPU, where CuPy is installed."""
    if case.op not in _MAKERS or not case.tensors[0].is_cuda or not is_available():
        return False
    assert isinstance(case.call, functools.partial)
    return case.call.keywords.get("sides") != "both"


def call_of(case: OpCase) -> Call:
    """Returns a call that computes by CuPy what a case's does; its lines are not rounded outward."""
    call = case.call
    assert isinstance(call, functools.partial)
    make = _MAKERS[case.op]
    if case.activation == "ReLU":
        return make(*call.args)
    lines = functools.partial(ramp_lines, eta=call.keywords["eta"])
    return make(*call.args, lines=lines, bends=(call.keywords["r"],))


def relax_backward(
    A: Tensor, l: Tensor, u: Tensor, *, lines: Lines = relu_lines, bends: tuple[Tensor, ...] = ()
) -> Call:
    """Returns a call that relaxes the lower side of A [1, B, S, n]: the lines, a fused pass over A, and a sum.

    Args:
        A: coefficients, on a GPU.
        l: lower bounds [B, n].
        u: upper bounds, like l.
        lines: of the activation.
        bends: bending points [n], where the lines take them.
    """
    lines_of, relax = _fused(bounding_lines, lines), _fused(relaxed_rows)
    (rows,), bounds = _arrays(A), _arrays(l, u, *bends)

    def call() -> tuple[Tensor, Tensor]:
        relaxed, constants = relax(rows, *(line[:, None] for line in lines_of(*bounds)))
        return from_dlpack(relaxed), from_dlpack(constants.sum(-1, dtype="float64"))

    return _on_current_stream(call, A.device)


def relax_forward(
    center: Tensor,
    radius: Tensor,
    center_bias: Tensor,
    radius_bias: Tensor,
    l: Tensor,
    u: Tensor,
    *,
    lines: Lines = relu_lines,
    bends: tuple[Tensor, ...] = (),
) -> Call:
    """Returns a call that relaxes forward bounds: the lines, a fused pass over the matrices, one over their constants.

    Args:
        center: matrices [B, n0, n], on a GPU.
        radius: like center.
        center_bias: constants [B, n].
        radius_bias: like center_bias.
        l: lower bounds [B, n].
        u: upper bounds, like l.
        lines: of the activation.
        bends: bending points [n], where the lines take them.
    """
    lines_of, relax, relax_biases = _fused(bounding_lines, lines), _fused(relaxed_matrices), _fused(relaxed_biases)
    matrices, biases, bounds = _arrays(center, radius), _arrays(center_bias, radius_bias), _arrays(l, u, *bends)

    def call() -> tuple[Tensor, ...]:
        found = lines_of(*bounds)
        slopes = found[0][:, None], found[2][:, None]
        results = (*relax(*matrices, *slopes), *relax_biases(*biases, *found))
        return tuple(from_dlpack(result) for result in results)

    return _on_current_stream(call, center.device)


_MAKERS: dict[str, Callable[..., Call]] = {"relax_backward": relax_backward, "relax_forward": relax_forward}
"""Of the call, by op."""


def _fused(formula: Callable[..., Any], *lines: Lines) -> Callable[..., Any]:
    import cupy

    fused: Callable[..., Any] = cupy.fuse(kernel_name=formula.__name__)(functools.partial(formula, cupy, *lines))
    return fused


def _arrays(*tensors: Tensor) -> list[Any]:
    import cupy

    return [cupy.from_dlpack(tensor.detach()) for tensor in tensors]


def _on_current_stream(call: Call, device: torch.device) -> Call:
    """Returns the call on the stream of PyTorch, which measures it."""
    import cupy

    def run() -> Any:
        with cupy.cuda.Device(device.index), cupy.cuda.Stream.from_external(torch.cuda.current_stream(device)):
            return call()

    return run
