"""The bound functions as one writes them in PyTorch for speed: what this package is compared with.

`lbp.reference` is what tests compare kernels with. It tells six statuses of neurons apart, rounds lines outward, adds
up in float64 and passes NaN on. Who writes bounds for an experiment does without, so that the baseline of measurements
does, too: bounds are numbers in order, lines adaptive, sums float32. What is not here is that of `lbp.reference`.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lbp import reference
from lbp.reference.relax import ForwardMatrices
from lbp.strategies import BoundingLines, side_names

_TINY = 1e-30
"""Below every denominator that is not 0."""


@contextmanager
def plain_functions() -> Iterator[None]:
    """Let the backend "reference" compute with the functions of this module inside the block."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[:2] == ["lbp", "reference"]]
    names = [(module, name) for module in modules for name in _REPLACED if hasattr(module, name)]
    before = [(module, name, getattr(module, name)) for module, name in names]
    for module, name in names:
        setattr(module, name, _REPLACED[name])
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


class _Lines(NamedTuple):
    """A line below and one above, [B, *shape]; intercepts that are 0 everywhere are None."""

    lower_slope: Tensor
    lower_intercept: Tensor | None
    upper_slope: Tensor
    upper_intercept: Tensor | None

    def unsqueezed(self) -> _Lines:
        return _Lines(*(None if line is None else line.unsqueeze(1) for line in self))  # type: ignore[arg-type]


def _relu_lines(l: Tensor, u: Tensor) -> _Lines:
    """ReLU: the chord above, below it slope 1 where u is the longer side."""
    unstable = (l < 0) & (u > 0)
    slope = torch.where(unstable, u / (u - l).clamp(min=_TINY), (u > 0).to(l.dtype))
    return _Lines((u >= -l).to(l.dtype), None, slope, torch.where(unstable, -l * slope, 0))


def _ramp_lines(l: Tensor, u: Tensor, r: Tensor | float, eta: Tensor | float) -> _Lines:
    """ParamRamp (Lyu et al. 2021, Table 2, adaptive), cases with the same formula together."""
    below, beyond = l < 0, u > r
    top = torch.where(beyond, r, u)
    crosses = below & (u > 0)
    # Above: through (l, act(l)) and the first bend that u reaches, or with slope eta from r on.
    rise = (1 - eta) * (top / (top - l).clamp(min=_TINY))
    flat = beyond & (u - r > r - l)
    stable = eta + (1 - eta) * (u > 0).to(l.dtype)
    upper_slope = torch.where(flat, eta, torch.where(crosses, eta + rise, stable))
    upper_intercept = torch.where(flat, (1 - eta) * r, torch.where(crosses, -l * rise, 0))
    # Below: through the origin where l < 0, else the chord.
    steep = torch.where(beyond, eta + (1 - eta) * (r / u.clamp(min=_TINY)), 1.0)
    chord = torch.where(beyond, eta + (1 - eta) * ((r - l).clamp(min=0) / (u - l).clamp(min=_TINY)), 1.0)
    lower_slope = torch.where(below, torch.where(-l > u, eta, steep), chord)
    bottom = l.clamp(max=r) if isinstance(r, float) else torch.minimum(l, r)
    at_l = bottom + eta * (l - bottom)
    return _Lines(lower_slope, torch.where(beyond & ~below, at_l - chord * l, 0), upper_slope, upper_intercept)


def _lines(l: Tensor, u: Tensor, options: dict[str, Any]) -> _Lines | None:
    """Return adaptive lines, None where others are asked for."""
    r, eta, strategy = options.get("r", math.inf), options.get("eta", 0.0), options.get("strategy", "adaptive")
    others = set(options) - {"r", "eta", "strategy"}
    if strategy != "adaptive" or any(options[name] is not None for name in others):
        return None
    if isinstance(r, Tensor) or r != math.inf:
        return _ramp_lines(l, u, r, eta)
    return _relu_lines(l, u) if not isinstance(eta, Tensor) and eta == 0 else None


def _bounding_lines(l: Tensor, u: Tensor, *given: Any, **options: Any) -> BoundingLines:
    options |= zip(_OPTIONS, given, strict=False)
    lines = _lines(l, u, options)
    if lines is None:
        return _REFERENCE["bounding_lines"](l, u, **options)  # type: ignore[no-any-return]
    return BoundingLines(*(torch.zeros_like(lines.lower_slope) if line is None else line for line in lines))


def _relax_backward(
    A: Tensor, l: Tensor, u: Tensor, *, sides: str, bias: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    found = _lines(l, u, options)
    if found is None:
        return _REFERENCE["relax_backward"](A, l, u, sides=sides, bias=bias, **options)  # type: ignore[no-any-return]
    lines, coefficients, constants = found.unsqueezed(), [], []
    for rows, side in zip(A, side_names(sides), strict=True):
        below, above = (lines[:2], lines[2:]) if side == "lower" else (lines[2:], lines[:2])
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        relaxed = torch.addcmul(positive * below[0], negative, above[0])
        parts = [(positive, below[1]), (negative, above[1]), (relaxed, None if bias is None else bias[None, None])]
        sums = [_row_sums(part, weights) for part, weights in parts if weights is not None]
        coefficients.append(relaxed)
        constants.append(torch.stack(sums).sum(0))
    return torch.stack(coefficients), torch.stack(constants).double()


def _row_sums(rows: Tensor, weights: Tensor) -> Tensor:
    """Return the sums over a layer of rows [B, S, *shape] times weights [B or 1, 1, *shape]: [B, S]."""
    layer = rows.shape[2:]
    vector = weights.expand(*weights.shape[:2], *layer).flatten(2).mT
    return (rows.flatten(2) @ vector).squeeze(-1)


def _relax_forward(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    l: Tensor,
    u: Tensor,
    **options: Any,
) -> ForwardMatrices:
    lines = _lines(l, u, options)
    if lines is None:
        matrices = (center, radius, center_bias, radius_bias)
        return _REFERENCE["relax_forward"](*matrices, l, u, **options)  # type: ignore[no-any-return]
    rows = lines.unsqueezed()
    lower, upper = _ends(center, radius)
    lower, upper = lower * rows.lower_slope, upper * rows.upper_slope
    lower_bias, upper_bias = _ends(center_bias, radius_bias)
    lower_bias, upper_bias = lower_bias * lines.lower_slope, upper_bias * lines.upper_slope
    if lines.lower_intercept is not None:
        lower_bias = lower_bias + lines.lower_intercept
    if lines.upper_intercept is not None:
        upper_bias = upper_bias + lines.upper_intercept
    middle, half = (upper + lower) / 2, (upper - lower) / 2
    return middle, half, (upper_bias + lower_bias) / 2, (upper_bias - lower_bias) / 2


def _ends(center: Tensor, radius: Tensor | None) -> tuple[Tensor, Tensor]:
    return (center, center) if radius is None else (center - radius, center + radius)


def _ramp(z: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0) -> Tensor:
    if not isinstance(r, Tensor) and r == math.inf:
        return _REFERENCE["ramp"](z, r, eta)  # type: ignore[no-any-return]
    above = z.clamp(min=0)
    return eta * z + (1 - eta) * (above.clamp(max=r) if isinstance(r, float) else torch.minimum(above, r))


def _ramp_interval(
    l: Tensor, u: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    return _ramp(l, r, eta), _ramp(u, r, eta)


def _concretize_box(A: Tensor, x_L: Tensor, x_U: Tensor, *, sides: str) -> Tensor:
    middle, half = ((x_U + x_L) / 2).unsqueeze(1), ((x_U - x_L) / 2).unsqueeze(1)
    return _around_center(A, middle, lambda rows: _row_sums(rows.abs(), half), sides)


def _concretize_ball(A: Tensor, x0: Tensor, eps: Tensor | float, p: float, *, sides: str) -> Tensor:
    radius = eps.to(A.dtype).reshape(-1, 1) if isinstance(eps, Tensor) else eps
    norm = functools.partial(torch.linalg.vector_norm, ord=_dual(p), dim=-1)
    return _around_center(A, x0.unsqueeze(1), lambda rows: radius * norm(rows.flatten(2)), sides)


def _around_center(A: Tensor, center: Tensor, spread: Callable[[Tensor], Tensor], sides: str) -> Tensor:
    signs = (-1 if side == "lower" else 1 for side in side_names(sides))
    bounds = [_row_sums(rows, center) + sign * spread(rows) for rows, sign in zip(A, signs, strict=True)]
    return torch.stack(bounds).double()


def _dual(p: float) -> float:
    return math.inf if p == 1 else (1.0 if math.isinf(p) else p / (p - 1))


def _concretize_forward_box(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
) -> tuple[Tensor, Tensor]:
    half = ((x_U - x_L) / 2).flatten(1).unsqueeze(1)
    matrices = (center, radius, center_bias, radius_bias)
    return _forward_bounds(matrices, (x_U + x_L) / 2, lambda rows: (half @ rows.abs()).squeeze(1))


def _concretize_forward_ball(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x0: Tensor,
    eps: Tensor | float,
    p: float,
) -> tuple[Tensor, Tensor]:
    spread = eps.to(center.dtype).reshape(-1, 1) if isinstance(eps, Tensor) else eps
    norm = functools.partial(torch.linalg.vector_norm, ord=_dual(p), dim=1)
    return _forward_bounds((center, radius, center_bias, radius_bias), x0, lambda rows: spread * norm(rows))


def _forward_bounds(
    matrices: tuple[Tensor, Tensor | None, Tensor, Tensor | None], middle: Tensor, spread: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return l and u of linear bounds [B, n0, *shape] around the middle [B, *] of the inputs."""
    center, radius, center_bias, radius_bias = matrices
    lower, upper = (end.flatten(2) for end in _ends(center, radius))
    lower_bias, upper_bias = (end.flatten(1) for end in _ends(center_bias, radius_bias))
    point = middle.flatten(1).unsqueeze(1)
    l = (point @ lower).squeeze(1) - spread(lower) + lower_bias
    u = (point @ upper).squeeze(1) + spread(upper) + upper_bias
    return l.reshape(-1, *center.shape[2:]), u.reshape(-1, *center.shape[2:])


_REPLACED: dict[str, Callable[..., Any]] = {
    "bounding_lines": _bounding_lines,
    "concretize_ball": _concretize_ball,
    "concretize_box": _concretize_box,
    "concretize_forward_ball": _concretize_forward_ball,
    "concretize_forward_box": _concretize_forward_box,
    "ramp": _ramp,
    "ramp_interval": _ramp_interval,
    "relax_backward": _relax_backward,
    "relax_forward": _relax_forward,
}
_OPTIONS = tuple(inspect.signature(reference.bounding_lines).parameters)[2:]
_REFERENCE = {name: getattr(reference, name) for name in _REPLACED}
