"""The bounding-line table in plain PyTorch (Lyu et al. 2021, sections 3 and 5, Table 2).

The kernels hold the same table in ``csrc/math/bounding_lines.h``; this is the independent second writing that the tests
compare it with. In floating point every line is valid in exact arithmetic: its slope is whatever rounding made of it,
and its intercept is then rounded outward (a line that is pinned to a point has its slope rounded outward first).
Gradients treat that rounding as the identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.reference.ramp import as_parameter, invalid_parameters, neuron_status, ramp
from lbp.strategies import STATUSES, BoundingLines, strategy_code

# No formula below makes more roundings, each of at most eps / 2, than this between its inputs and its result.
_ROUNDINGS = 8


def _rounded(value: Tensor, direction: int) -> Tensor:
    """Move ``value`` up (+1) or down (-1) by more than the rounding errors it carries; the gradient is the identity."""
    info = torch.finfo(value.dtype)
    return value + direction * (_ROUNDINGS / 2 * info.eps * value.detach().abs() + info.tiny)


def _share(part: Tensor, rest: Tensor) -> Tensor:
    """Return part / (part + rest) of positive numbers, with a denominator that keeps value and gradient finite."""
    return part / _floored(part + rest)


def _floored(total: Tensor) -> Tensor:
    floor = 4 * torch.finfo(total.dtype).tiny
    return torch.where(total < floor, torch.full_like(total, floor), total)


@dataclass(frozen=True)
class _Neurons:
    """The pre-activation bounds of a layer's neurons, their bending points, and which of them have a status."""

    l: Tensor
    u: Tensor
    r: Tensor
    eta: Tensor
    status: Tensor

    def with_status(self, *names: str) -> Tensor:
        mask = torch.zeros_like(self.status, dtype=torch.bool)
        for name in names:
            mask = mask | (self.status == STATUSES.index(name))
        return mask

    def restricted(self, mask: Tensor) -> _Neurons:
        """Replace what is outside of the mask by harmless numbers, so that no gradient of an unused branch is NaN."""
        one = torch.ones_like(self.l)
        reached = torch.where(torch.isinf(self.r), self.u.detach(), self.r)  # an infinite r bends nothing below u
        r = torch.where(mask, reached, one)
        return _Neurons(torch.where(mask, self.l, -one), torch.where(mask, self.u, one), r, self.eta, self.status)


def _rising_chord_slope(neurons: _Neurons, hinge: Tensor) -> Tensor:
    """Slope of the line through (l, eta l) and (hinge, hinge), l < 0 < hinge."""
    return (neurons.eta + (1 - neurons.eta) * _share(hinge, -neurons.l)).clamp(max=1)


def _upper_intercept(neurons: _Neurons, slope: Tensor, hinge: Tensor, exact: Tensor) -> Tensor:
    """Smallest intercept, rounded up, that keeps a line of this slope above the activation at l and at the hinge.

    ``exact`` is the same number as a differentiable formula; it supplies the gradient.
    """
    with torch.no_grad():
        at_l = (slope - neurons.eta) * -neurons.l
        at_hinge = (1 - slope) * hinge
        value = _rounded(torch.maximum(at_l, at_hinge), +1)
    return exact + (value - exact.detach())


def _steepest_lower_slope(neurons: _Neurons) -> Tensor:
    """Slope of the line through the origin and (u, act(u)), the largest admissible one of a lower line.

    1 where u <= r.
    """
    r, u, eta = neurons.r, neurons.u, neurons.eta
    beyond = u > r
    slope = eta + (1 - eta) * (r / _floored(torch.where(beyond, u, r)))
    slope = torch.maximum(_rounded(slope, -1), eta)
    return torch.where(beyond, slope, torch.ones_like(slope))


def _clamped(slope: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """Clamp a given slope; the gradient goes to the slope inside the range, ends included, else to that end."""
    clamped = torch.where(slope < least, least, torch.where(slope > most, most, slope))
    return torch.where(torch.isnan(slope), slope, clamped)


def _lower_slope(neurons: _Neurons, strategy: str, given: Tensor | None) -> Tensor:
    """Slope of the lower line through the origin, for neurons with l < 0 < u (left unstable or unstable)."""
    eta = neurons.eta.expand_as(neurons.l)
    if strategy in ("tight", "zero"):
        return eta
    most = _steepest_lower_slope(neurons)
    if strategy == "one":
        return most
    if strategy == "same-slope":
        return _clamped(_chord_slope_across(neurons), eta, most)
    if given is not None:
        return _clamped(given.expand_as(neurons.l), eta, most)
    return torch.where(-neurons.l > neurons.u, eta, most)


def _chord_slope_across(neurons: _Neurons) -> Tensor:
    """Slope of the chord from l < 0 to u > 0: over both bends where u > r."""
    reached = torch.where(neurons.u <= neurons.r, neurons.u, neurons.r)
    return neurons.eta + (1 - neurons.eta) * _share(reached, (neurons.u - reached) - neurons.l)


def _upper_line(neurons: _Neurons, strategy: str, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """Upper line of neurons with u > r > l (right unstable or unstable)."""
    l, u, r = neurons.l, neurons.u, neurons.r
    eta = neurons.eta.expand_as(l)
    offset = _bend_offset(neurons, +1)
    if strategy == "tight":
        return eta, offset
    one = torch.ones_like(l)
    steepest = torch.where(l < 0, _rising_chord_slope(_below_zero(neurons), r), one)
    if strategy == "same-slope" or (strategy == "slopes" and given is not None):
        slope = _clamped(_chord_slope(neurons) if given is None else given.expand_as(l), eta, steepest)
        return slope, _upper_intercept(neurons, slope, r, (1 - slope) * r)
    # Adaptive: of the lines through (r, r), the one of slope eta where the part beyond r is the longer one.
    through_l = (1 - eta) * -torch.where(l < 0, l, -one) * _share(r, -torch.where(l < 0, l, -one))
    intercept = _upper_intercept(neurons, steepest, r, torch.where(l < 0, through_l, torch.zeros_like(l)))
    intercept = torch.where(l < 0, intercept, torch.zeros_like(l))
    flat = u - r > r - l
    return torch.where(flat, eta, steepest), torch.where(flat, offset, intercept)


def _below_zero(neurons: _Neurons) -> _Neurons:
    return neurons.restricted(neurons.l < 0)


def _chord_slope(neurons: _Neurons) -> Tensor:
    """Slope of the chord of a neuron with u > r > l, whether or not l is below 0."""
    across = _chord_slope_across(_below_zero(neurons))
    return torch.where(neurons.l < 0, across, _falling_chord_slope(neurons))


def _falling_chord_slope(neurons: _Neurons) -> Tensor:
    """Slope of the chord of a right unstable neuron, 0 <= l < r < u."""
    return neurons.eta + (1 - neurons.eta) * _share(neurons.r - neurons.l, neurons.u - neurons.r)


def _bend_offset(neurons: _Neurons, direction: int) -> Tensor:
    """Intercept b = (1 - eta) r of the line beyond the bending point; exact, hence not rounded, where eta is 0 or 1."""
    offset = (1 - neurons.eta) * neurons.r
    exact = (neurons.eta == 0) | (neurons.eta == 1)
    return torch.where(exact, offset, _rounded(offset, direction)).expand_as(neurons.l)


def _constant_lines(neurons: _Neurons, r: Tensor) -> BoundingLines:
    """Lines of slope 0 at act(l) and act(u): interval bound propagation in the form of lines."""
    zero = torch.zeros_like(neurons.l)

    def level(z: Tensor, direction: int) -> Tensor:
        value = ramp(z, r, neurons.eta)
        exact = ((z >= 0) & (z <= r)) | (neurons.eta == 0)
        return torch.where(exact, value, _rounded(value, direction))

    return BoundingLines(zero, level(neurons.l, -1), zero, level(neurons.u, +1))


def _leaky_lines(neurons: _Neurons, strategy: str, lower_slope: Tensor | None) -> BoundingLines:
    """The table where nothing bends above 0 (ReLU, LeakyReLU): three of its columns, written without the others."""
    unstable = neurons.with_status("left unstable")
    some = neurons.restricted(unstable)
    stable = torch.where(neurons.with_status("alive"), torch.ones_like(neurons.l), neurons.eta)
    zero = torch.zeros_like(neurons.l)
    slope = _rising_chord_slope(some, some.u)
    intercept = _upper_intercept(some, slope, some.u, (1 - some.eta) * -some.l * _share(some.u, -some.l))
    return BoundingLines(
        torch.where(unstable, _lower_slope(some, strategy, lower_slope), stable),
        zero,
        torch.where(unstable, slope, stable),
        torch.where(unstable, intercept, zero),
    )


def _table(neurons: _Neurons, strategy: str, lower_slope: Tensor | None, upper_slope: Tensor | None) -> BoundingLines:
    eta = neurons.eta.expand_as(neurons.l)
    zero, one = torch.zeros_like(neurons.l), torch.ones_like(neurons.l)
    lower = [torch.where(neurons.with_status("alive"), one, eta), zero]
    upper = [lower[0], zero]

    def assign(line: list[Tensor], mask: Tensor, slope: Tensor, intercept: Tensor) -> None:
        line[0], line[1] = torch.where(mask, slope, line[0]), torch.where(mask, intercept, line[1])

    left = neurons.with_status("left unstable")
    some = neurons.restricted(left)
    exact = (1 - eta) * -some.l * _share(some.u, -some.l)
    slope = _rising_chord_slope(some, some.u)
    assign(upper, left, slope, _upper_intercept(some, slope, some.u, exact))

    right = neurons.with_status("right unstable")
    # Harmless numbers here must satisfy 0 <= l < r < u.
    some = _Neurons(
        torch.where(right, neurons.l, zero),
        torch.where(right, neurons.u, 2 * one),
        torch.where(right, neurons.r, one),
        neurons.eta,
        neurons.status,
    )
    slope = torch.maximum(_rounded(_falling_chord_slope(some), -1), eta)
    exact = (1 - eta) * _share(some.u - some.r, some.r - some.l) * some.l
    with torch.no_grad():
        intercept = _rounded((1 - slope) * some.l, -1)
    assign(lower, right, slope, exact + (intercept - exact.detach()))

    through_origin = neurons.with_status("left unstable", "unstable")
    assign(lower, through_origin, _lower_slope(neurons.restricted(through_origin), strategy, lower_slope), zero)

    bent = neurons.with_status("right unstable", "unstable")
    some = _Neurons(
        torch.where(bent, neurons.l, zero),
        torch.where(bent, neurons.u, 2 * one),
        torch.where(bent, neurons.r, one),
        neurons.eta,
        neurons.status,
    )
    assign(upper, bent, *_upper_line(some, strategy, upper_slope))

    dead = neurons.with_status("right dead")
    some = neurons.restricted(dead)
    assign(upper, dead, eta, _bend_offset(some, +1))
    assign(lower, dead, eta, _bend_offset(some, -1))
    return BoundingLines(lower[0], lower[1], upper[0], upper[1])


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
    """See `lbp.ops.bounding_lines`."""
    lines = _lines(l, u, r, eta, strategy, lower_slope, upper_slope, lower_intercept, upper_intercept)
    if margin_per_slope is None or margin is None:
        return lines

    def room(slope: Tensor) -> Tensor:
        return slope.detach().abs() * margin_per_slope.detach() + margin.detach()

    return BoundingLines(
        lines.lower_slope,
        lines.lower_intercept - room(lines.lower_slope),
        lines.upper_slope,
        lines.upper_intercept + room(lines.upper_slope),
    )


def _lines(
    l: Tensor,
    u: Tensor,
    r: Tensor | float,
    eta: Tensor | float,
    strategy: str,
    lower_slope: Tensor | None,
    upper_slope: Tensor | None,
    lower_intercept: Tensor | None,
    upper_intercept: Tensor | None,
) -> BoundingLines:
    strategy_code(strategy)
    if strategy == "lines":
        given = (lower_slope, lower_intercept, upper_slope, upper_intercept)
        if any(line is None for line in given):
            raise ValueError(
                "strategy 'lines' takes all four of lower_slope, lower_intercept, upper_slope, upper_intercept"
            )
        return BoundingLines(*(line.expand_as(l) for line in given if line is not None))
    never_bends = not isinstance(r, Tensor) and r == math.inf
    r, eta = as_parameter(r, l), as_parameter(eta, l)
    ordered = l <= u
    low, high = torch.where(ordered, l, u), torch.where(ordered, u, l)
    neurons = _Neurons(low, high, r.expand_as(low), eta, neuron_status(low, high, r))
    if strategy == "constant":
        lines = _constant_lines(neurons, r)
    elif never_bends:
        lines = _leaky_lines(neurons, strategy, lower_slope)
    else:
        lines = _table(neurons, strategy, lower_slope, upper_slope)
    undefined = torch.isnan(low) | torch.isnan(high) | invalid_parameters(r, eta)
    return BoundingLines(*(torch.where(undefined, torch.full_like(line, math.nan), line) for line in lines))
