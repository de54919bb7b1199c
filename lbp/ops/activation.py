"""ParamRamp and its bounding lines."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.ops._arguments import (
    check_numbers,
    native,
    ramp_parameters,
    refuse_second_order,
    register_gradient,
    sum_to,
)
from lbp.ops._relaxation import (
    RELAXATION_LENGTH,
    Lines,
    fake_relaxation_gradients,
    needed_gradients,
    relaxation_gradients,
    save_relaxation,
    saved_relaxation,
)
from lbp.strategies import BoundingLines


def is_leaky_relu(r: Tensor | float, eta: Tensor | float) -> bool:
    """Return whether ParamRamp never bends, for an eta in range that is a number."""
    return not isinstance(r, Tensor) and not isinstance(eta, Tensor) and r == math.inf and 0 <= eta <= 1


def leaky_relu(z: Tensor, eta: float) -> Tensor:
    """Return PyTorch's own activation, one pass there and one back."""
    return functional.leaky_relu(z, eta) if eta else functional.relu(z)


def ramp(z: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0) -> Tensor:
    """ParamRamp: `eta z` below 0, `z` on [0, r], `eta z + (1 - eta) r` beyond r (Lyu et al. 2021, section 5).

    ReLU is `eta = 0, r = inf`, LeakyReLU `r = inf`. At 0 and at r the gradient is that of the piece to the left.

    Args:
        z: pre-activations [B, *shape], float32 or float64.
        r: bending point above 0, a number or a tensor that broadcasts to [*shape]; may be infinite.
        eta: outer slope in [0, 1], a number or a tensor with one element; not differentiated.

    Returns:
        The activations, like z. NaN where z is NaN, or where a tensor r is not above 0.

    Raises:
        ValueError: r not above 0 or eta outside [0, 1] as numbers, or shapes that do not fit.
        RuntimeError: dtypes or devices that differ.
    """
    if current_backend() == "reference":
        check_numbers(r, eta)
        return reference.ramp(z, r, eta)
    if is_leaky_relu(r, eta):
        return leaky_relu(z, float(eta))
    result: Tensor = native("ramp")(z, *ramp_parameters(r, eta, z.shape[1:]))
    return result


def ramp_interval(
    l: Tensor, u: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Images of both ends of [l, u] under ParamRamp, which is monotone, in one pass.

    Args:
        l: lower bounds [B, *shape], float32 or float64.
        u: upper bounds, like l.
        r: see `ramp`.
        eta: see `ramp`.

    Returns:
        Bounds of the activations, each like l.

    Raises:
        ValueError: see `ramp`.
        RuntimeError: see `ramp`.
    """
    if current_backend() == "reference":
        check_numbers(r, eta)
        return reference.ramp_interval(l, u, r, eta)
    if _is_library_interval(l, u, r, eta):
        return leaky_relu(l, float(eta)), leaky_relu(u, float(eta))
    lower, upper, _ = native("ramp_interval")(l, u, *ramp_parameters(r, eta, l.shape[1:]), False)
    return lower, upper


def ramp_interval_with_status(
    l: Tensor, u: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """`ramp_interval`, and how many neurons have each of the six statuses.

    Args:
        l: lower bounds [B, *shape], float32 or float64.
        u: upper bounds, like l.
        r: see `ramp`.
        eta: see `ramp`.

    Returns:
        Lower and upper bounds, each like l, and counts, int64 [6], in the order of `lbp.strategies.STATUSES`: left
        dead, left unstable, alive, right unstable, right dead, unstable. A neuron with a NaN bound is counted nowhere.

    Raises:
        ValueError: see `ramp`.
        RuntimeError: see `ramp`.
    """
    if current_backend() == "reference":
        check_numbers(r, eta)
        return reference.ramp_interval_with_status(l, u, r, eta)
    parameters = ramp_parameters(r, eta, l.shape[1:])
    differentiable = torch.is_grad_enabled() and (l.requires_grad or u.requires_grad)
    if differentiable and _is_library_interval(l, u, r, eta):
        # Reading the bounds once more takes less time than a gradient's way through Python.
        counts = native("status_counts")(l.detach(), u.detach(), *parameters[:2])
        return leaky_relu(l, float(eta)), leaky_relu(u, float(eta)), counts
    lower, upper, counts = native("ramp_interval")(l, u, *parameters, True)
    return lower, upper, counts


def _is_library_interval(l: Tensor, u: Tensor, r: Tensor | float, eta: Tensor | float) -> bool:
    """Say whether PyTorch's own activation bounds an interval as fast as a kernel for both ends.

    Its gradients spare small layers the way through Python. Where the caches hold no result, it reads what it writes
    first, which the kernel does not. On a device it would be two launches instead of one.
    """
    if not is_leaky_relu(r, eta) or not (l.is_cpu and u.is_cpu) or l.nbytes >= _LARGE:
        return False
    return l.dtype is u.dtype and l.shape == u.shape


_LARGE = 12 * 2**20
"""Bytes of a bound from which on the kernel writes both past the caches (`is_streamed`): 0.75 to 0.9 of the time."""


def bounding_lines(
    l: Tensor,
    u: Tensor,
    r: Tensor | float = math.inf,
    eta: Tensor | float = 0.0,
    strategy: str = "adaptive",
    lower_slope: Tensor | None = None,
    upper_slope: Tensor | None = None,
    lower_intercept: Tensor | None = None,
    upper_intercept: Tensor | None = None,
    margin_per_slope: Tensor | None = None,
    margin: Tensor | None = None,
) -> BoundingLines:
    """The lines that enclose ParamRamp on [l, u] (Lyu et al. 2021, section 5, Table 2).

    The lines are valid in floating point: whatever rounding makes of a slope, the intercept is rounded outward for
    it. Bounds out of order by rounding (l > u) are swapped; NaN bounds give NaN lines.

    Args:
        l: lower bounds of the pre-activations [B, *shape], float32 or float64.
        u: upper bounds, like l.
        r: see `ramp`.
        eta: see `ramp`.
        strategy: one of `lbp.strategies.STRATEGIES`. With ``"zero"`` and ``"one"`` the upper lines are the adaptive
            ones.
        lower_slope: for ``"slopes"``: slopes of the lower lines through the origin, broadcastable to l, clamped to the
            admissible range; absent: the adaptive choice. For ``"lines"``: the lower lines' slopes as they are.
        upper_slope: likewise, of the upper lines through (r, r).
        lower_intercept: for ``"lines"`` only.
        upper_intercept: for ``"lines"`` only.
        margin_per_slope: [B or 1, *shape], not negative. Lines move outward by `|slope| margin_per_slope + margin`,
            room for the rounding errors of what is computed with them (docs/rounding.md, section 4).
        margin: [B or 1, *shape] or [B or 1, 1, ...], not negative; together with margin_per_slope.

    Returns:
        Slopes and intercepts, each [B, *shape]. Differentiable with respect to l, u, r and the given lines; outward
        rounding, and moving outward, count as the identity.

    Raises:
        ValueError: an unknown strategy, given lines that do not belong to it, one margin alone, or see `ramp`.
        RuntimeError: see `ramp`.
    """
    given = (lower_slope, upper_slope, lower_intercept, upper_intercept)
    lines = Lines(r, eta, strategy, *given, margin_per_slope, margin).checked()
    if current_backend() == "reference":
        return reference.bounding_lines(l, u, *lines)
    return BoundingLines(*native("bounding_lines")(*lines.arguments(l, u)))


def _save_ramp(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    z, r, r_tensor, eta, eta_tensor = inputs
    ctx.save_for_backward(z, r_tensor, eta_tensor)
    ctx.numbers = (r, eta)


def _ramp_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    z, r_tensor, eta_tensor = ctx.saved_tensors
    r, eta = ctx.numbers
    need_z, need_r = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
    to_z, to_r = native("ramp_gradient")(gradient, z, r, r_tensor, eta, eta_tensor, need_z, need_r)
    return to_z if need_z else None, None, sum_to(to_r, r_tensor.shape) if need_r else None, None, None


def _save_ramp_interval(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    l, u, r, r_tensor, eta, eta_tensor, _ = inputs
    ctx.save_for_backward(l, u, r_tensor, eta_tensor)
    ctx.numbers = (r, eta)
    ctx.set_materialize_grads(False)  # counts have none: on a GPU zeros in its place would be a launch


def _ramp_interval_backward(
    ctx: Any, lower: Tensor | None, upper: Tensor | None, _: object
) -> tuple[Tensor | None, ...]:
    l, u, r_tensor, eta_tensor = ctx.saved_tensors
    r, eta = ctx.numbers
    lower = torch.zeros_like(l) if lower is None else lower
    upper = torch.zeros_like(l) if upper is None else upper
    need_r = ctx.needs_input_grad[3]
    to_l, to_u, to_r = native("ramp_interval_gradient")(lower, upper, l, u, r, r_tensor, eta, eta_tensor, need_r)
    return to_l, to_u, None, sum_to(to_r, r_tensor.shape) if need_r else None, None, None, None


def _save_lines(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    save_relaxation(ctx, inputs)


def _lines_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    arguments, _ = saved_relaxation(ctx)
    needs = needed_gradients(ctx.needs_input_grad, 0)
    return tuple(relaxation_gradients(arguments, native("bounding_lines_gradient")(*gradients, *arguments, needs)))


def _register() -> None:
    def ramp(z: Tensor, *parameters: Any) -> Tensor:
        return z.new_empty(z.shape)

    def ramp_gradient(
        gradient: Tensor, z: Tensor, r: Any, r_tensor: Any, eta: Any, eta_tensor: Any, need_z: bool, need_r: bool
    ) -> Any:
        return z.new_empty(z.shape if need_z else (0,)), z.new_empty(z.shape[1:] if need_r else (0,))

    def ramp_interval(
        l: Tensor, u: Tensor, r: Any, r_tensor: Any, eta: Any, eta_tensor: Any, count_status: bool
    ) -> Any:
        return l.new_empty(l.shape), l.new_empty(l.shape), l.new_empty((6 if count_status else 0,), dtype=torch.int64)

    def status_counts(l: Tensor, *rest: Any) -> Tensor:
        return l.new_empty((6,), dtype=torch.int64)

    def ramp_interval_gradient(
        lower: Tensor,
        upper: Tensor,
        l: Tensor,
        u: Tensor,
        r: Any,
        r_tensor: Any,
        eta: Any,
        eta_tensor: Any,
        need_r: bool,
    ) -> Any:
        return l.new_empty(l.shape), l.new_empty(l.shape), l.new_empty(l.shape[1:] if need_r else (0,))

    def bounding_lines(l: Tensor, *rest: Any) -> Any:
        return tuple(l.new_empty(l.shape) for _ in range(4))

    def bounding_lines_gradient(g1: Tensor, g2: Tensor, g3: Tensor, g4: Tensor, *rest: Any) -> Any:
        l, needs = rest[0], rest[RELAXATION_LENGTH]
        return tuple(fake_relaxation_gradients(l, l.shape[0], l.shape[1:], needs))

    intervals = (ramp_interval, ramp_interval_gradient, status_counts)
    for fake in (ramp, ramp_gradient, *intervals, bounding_lines, bounding_lines_gradient):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)
    register_gradient("ramp", _ramp_backward, _save_ramp, with_products=False)
    register_gradient("ramp_interval", _ramp_interval_backward, _save_ramp_interval, with_products=False)
    register_gradient("bounding_lines", _lines_backward, _save_lines, with_products=False)
    for name in ("ramp_gradient", "ramp_interval_gradient", "bounding_lines_gradient"):
        refuse_second_order(name)


if _native.missing is None:
    _register()
