"""The bound functions as one writes them in PyTorch for speed: what this package is compared with.

`lbp.reference` is what tests compare kernels with. It tells six statuses of neurons apart, rounds lines outward, adds
up in float64, passes NaN on, and takes windows by way of dense matrices. Who writes bounds for an experiment does
without, so that the baseline of measurements does, too: bounds are numbers in order, lines adaptive, sums float32, and
windows stay windows (`plain_windows`).

What is not here is that of `lbp.reference`: products of the library and no more than adding their results
(`interval_linear`, `forward_conv2d` and their like), and `windows_to_dense`, which has no kernel.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lbp import reference
from lbp.bench import plain_windows
from lbp.bench.plain_parts import (
    Lines,
    Matrices,
    Pair,
    adaptive_lines,
    around_center,
    column_norm,
    dual,
    ends,
    inserted,
    relaxed_by,
    row_sums,
)
from lbp.precision import full_precision
from lbp.reference.affine import conv2d_output_padding
from lbp.strategies import BoundingLines


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


def _bounding_lines(l: Tensor, u: Tensor, *given: Any, **options: Any) -> BoundingLines:
    options |= zip(_OPTIONS, given, strict=False)
    lines = adaptive_lines(l, u, options)
    if lines is None:
        return _REFERENCE["bounding_lines"](l, u, **options)  # type: ignore[no-any-return]
    return BoundingLines(*(torch.zeros_like(lines.lower_slope) if line is None else line for line in lines))


def _relax_backward(
    A: Tensor, l: Tensor, u: Tensor, *, sides: str, bias: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    found = adaptive_lines(l, u, options)
    if found is None:
        return _REFERENCE["relax_backward"](A, l, u, sides=sides, bias=bias, **options)  # type: ignore[no-any-return]
    lines = found.of_sides(sides, lambda line: line.unsqueeze(-l.dim()))
    return relaxed_by(A, lines, None if bias is None else bias[None, None], row_sums)


def _relax_forward(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    l: Tensor,
    u: Tensor,
    **options: Any,
) -> Matrices:
    lines = adaptive_lines(l, u, options)
    if lines is None:
        matrices = (center, radius, center_bias, radius_bias)
        return _REFERENCE["relax_forward"](*matrices, l, u, **options)  # type: ignore[no-any-return]
    slope, spread = (lines.upper_slope + lines.lower_slope) / 2, (lines.upper_slope - lines.lower_slope) / 2
    middle, half = _scaled(center, radius, slope.unsqueeze(1), spread.unsqueeze(1))
    middle_bias, half_bias = _scaled(center_bias, radius_bias, slope, spread)
    above = lines.upper_intercept / 2
    below = None if lines.lower_intercept is None else lines.lower_intercept / 2
    middle_bias = middle_bias + (above if below is None else above + below)
    return middle, half, middle_bias, half_bias + (above if below is None else above - below)


def _scaled(center: Tensor, radius: Tensor | None, slope: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Return center and radius behind lines of slopes `slope - spread` and `slope + spread`, none below 0."""
    middle, half = center * slope, center * spread
    if radius is None:
        return middle, half
    return torch.addcmul(middle, radius, spread), torch.addcmul(half, radius, slope)


def _ramp(z: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0) -> Tensor:
    if not isinstance(r, Tensor) and r == math.inf:
        return _REFERENCE["ramp"](z, r, eta)  # type: ignore[no-any-return]
    limited = torch.clamp(z, z.new_zeros(()), r) if isinstance(r, Tensor) else z.clamp(0, r)
    return torch.lerp(limited, z, eta)


def _ramp_interval(
    l: Tensor, u: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    return _ramp(l, r, eta), _ramp(u, r, eta)


def _ramp_interval_with_status(
    l: Tensor, u: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    return *_ramp_interval(l, u, r, eta), _status_counts(l, u, r)


def _status_counts(l: Tensor, u: Tensor, r: Tensor | float = math.inf) -> Tensor:
    """Return how many neurons have each status; what three or five comparisons do not count is the rest."""
    zero = torch.zeros((), dtype=torch.int64, device=l.device)
    crosses = (l < 0) & (u > 0)
    inactive, crossing = torch.count_nonzero(u <= 0), torch.count_nonzero(crosses)
    bending, beyond, past_both = zero, zero, zero
    if isinstance(r, Tensor) or r != math.inf:
        high = u > r
        reaching = torch.count_nonzero(high)
        beyond, past_both = torch.count_nonzero(high & (l >= r)), torch.count_nonzero(high & crosses)
        bending = reaching - beyond - past_both
    linear = l.numel() - inactive - crossing - bending - beyond
    return torch.stack([inactive, crossing - past_both, linear, bending, beyond, past_both])


def _backward_linear(A: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    with full_precision():
        return A @ weight, _bias_constants(A, bias)


def _backward_conv2d(
    A: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Pair,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[Tensor, Tensor]:
    output_padding = conv2d_output_padding(A.shape[-2:], weight.shape[-2:], input_size, stride, padding, dilation)
    with full_precision():
        below = F.conv_transpose2d(A.flatten(0, 2), weight, None, stride, padding, output_padding, groups, dilation)
        constants = _bias_constants(A, None if bias is None else bias[:, None, None])
    return below.reshape(*A.shape[:3], *below.shape[1:]), constants


def _bias_constants(A: Tensor, bias: Tensor | None) -> Tensor:
    """Return the sums over a layer of A [K, B, S, *shape] times a bias that broadcasts to its shape."""
    if bias is None:
        return A.new_zeros(A.shape[:3], dtype=torch.float64)
    return (A.flatten(3) @ bias.expand(A.shape[3:]).flatten()).double()


def _concretize_box(A: Tensor, x_L: Tensor, x_U: Tensor, *, sides: str) -> Tensor:
    middle, half = ((x_U + x_L) / 2).unsqueeze(1), ((x_U - x_L) / 2).unsqueeze(1)
    return around_center(A, middle, lambda rows: row_sums(rows.abs(), half), sides, row_sums)


def _concretize_ball(A: Tensor, x0: Tensor, eps: Tensor | float, p: float, *, sides: str) -> Tensor:
    radius = eps.to(A.dtype).reshape(-1, 1) if isinstance(eps, Tensor) else eps
    norm = functools.partial(torch.linalg.vector_norm, ord=dual(p), dim=-1)
    return around_center(A, x0.unsqueeze(1), lambda rows: radius * norm(rows.flatten(2)), sides, row_sums)


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
    matrices = (center, radius, center_bias, radius_bias)
    return _forward_bounds(matrices, x0, lambda rows: spread * column_norm(rows, p, 1))


def _forward_bounds(matrices: Matrices, middle: Tensor, spread: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return l and u of linear bounds [B, n0, *shape] around the middle [B, *] of the inputs."""
    center, radius, center_bias, radius_bias = matrices
    lower, upper = (end.flatten(2) for end in ends(center, radius))
    lower_bias, upper_bias = (end.flatten(1) for end in ends(center_bias, radius_bias))
    point = middle.flatten(1).unsqueeze(1)
    l = (point @ lower).squeeze(1) - spread(lower) + lower_bias
    u = (point @ upper).squeeze(1) + spread(upper) + upper_bias
    return l.reshape(-1, *center.shape[2:]), u.reshape(-1, *center.shape[2:])


def _concretize_forward_box_with_magnitude(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    l, u = _concretize_forward_box(center, radius, center_bias, radius_bias, x_L, x_U)
    with torch.no_grad():
        largest = torch.maximum(x_L.abs(), x_U.abs()).flatten(1).unsqueeze(1)
        parts = [largest @ part.flatten(2).abs() for part in (center, radius) if part is not None]
        return l, u, torch.stack(parts).sum(0).reshape(l.shape)


def _insert_forward(
    A: Tensor,
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    *,
    sides: str,
) -> tuple[Tensor, Tensor]:
    with full_precision():
        return inserted(A, (center, radius, center_bias, radius_bias), sides, _insert_matrix)


def _insert_matrix(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return rows [B, S, *shape] times a matrix [B, n0, *shape]: [B, S, n0]."""
    return rows.flatten(2) @ matrix.flatten(2).mT


def _relax_windows(
    A: Tensor, rows: Tensor, l: Tensor, u: Tensor, *, sides: str, bias: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    offset = None if bias is None else bias.expand(l.shape)
    return plain_windows.relax_windows(A, rows, _lines_of_layer(l, u, options), offset, sides)


def _relax_backward_conv2d_windows(
    A: Tensor,
    rows: Tensor,
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    corners: Tensor,
    window: Pair,
    *,
    sides: str,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    lines = _lines_of_layer(l, u, options)
    layers = (weight, bias, corners, window)
    return plain_windows.relax_backward_conv2d_windows(A, rows, lines, *layers, sides, geometry)


def _lines_of_layer(l: Tensor, u: Tensor, options: dict[str, Any]) -> Lines:
    lines = adaptive_lines(l, u, options)
    return Lines(*torch.broadcast_tensors(*_REFERENCE["bounding_lines"](l, u, **options))) if lines is None else lines


_REPLACED: dict[str, Callable[..., Any]] = {
    "backward_conv2d": _backward_conv2d,
    "backward_conv2d_windows": plain_windows.backward_conv2d_windows,
    "backward_linear": _backward_linear,
    "bounding_lines": _bounding_lines,
    "concretize_ball": _concretize_ball,
    "concretize_box": _concretize_box,
    "concretize_forward_ball": _concretize_forward_ball,
    "concretize_forward_box": _concretize_forward_box,
    "concretize_forward_box_with_magnitude": _concretize_forward_box_with_magnitude,
    "concretize_forward_windows_ball": plain_windows.concretize_forward_windows_ball,
    "concretize_forward_windows_box": plain_windows.concretize_forward_windows_box,
    "concretize_forward_windows_box_with_magnitude": plain_windows.concretize_forward_windows_box_with_magnitude,
    "concretize_windows_ball": plain_windows.concretize_windows_ball,
    "concretize_windows_box": plain_windows.concretize_windows_box,
    "forward_conv2d_windows": plain_windows.forward_conv2d_windows,
    "forward_linear_windows": plain_windows.forward_linear_windows,
    "insert_forward": _insert_forward,
    "insert_forward_windows": plain_windows.insert_forward_windows,
    "ramp": _ramp,
    "ramp_interval": _ramp_interval,
    "ramp_interval_with_status": _ramp_interval_with_status,
    "relax_backward": _relax_backward,
    "relax_backward_conv2d_windows": _relax_backward_conv2d_windows,
    "relax_forward": _relax_forward,
    "relax_windows": _relax_windows,
    "status_counts": _status_counts,
}
_OPTIONS = tuple(inspect.signature(reference.bounding_lines).parameters)[2:]
_REFERENCE = {name: getattr(reference, name) for name in _REPLACED}
