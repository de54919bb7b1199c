"""ParamRamp in plain PyTorch: value, interval image and status counts (Lyu et al. 2021, section 5)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def as_parameter(value: Tensor | float, like: Tensor) -> Tensor:
    """Return ``value`` as a tensor of the dtype and device of ``like``."""
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=like.dtype, device=like.device)


def invalid_parameters(r: Tensor, eta: Tensor) -> Tensor:
    """Return where the activation is undefined: r not above 0 (or NaN), eta outside [0, 1] (or NaN)."""
    return ~((r > 0) & (eta >= 0) & (eta <= 1))


def ramp(z: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0) -> Tensor:
    """See `lbp.ops.ramp`."""
    if not isinstance(r, Tensor) and not isinstance(eta, Tensor) and r == math.inf and 0 <= eta <= 1:
        return F.leaky_relu(z, float(eta)) if eta else F.relu(z)
    r, eta = as_parameter(r, z), as_parameter(eta, z)
    above = z > r
    finite_r = torch.where(torch.isinf(r), torch.zeros_like(r), r)
    # Written around the bending point so that the value stays monotone there in floating point.
    beyond = finite_r + eta * (torch.where(above, z, finite_r) - finite_r)
    value = torch.where(above, beyond, torch.where(z > 0, z, eta * z))
    return torch.where(invalid_parameters(r, eta), torch.full_like(value, math.nan), value)


def ramp_interval(
    l: Tensor, u: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.ramp_interval`."""
    return ramp(l, r, eta), ramp(u, r, eta)


def neuron_status(l: Tensor, u: Tensor, r: Tensor | float = math.inf) -> Tensor:
    """Return the index into `lbp.strategies.STATUSES` of each neuron, -1 where a bound or r is NaN; shape of ``l``."""
    r = as_parameter(r, l)
    low, high = torch.minimum(l, u), torch.maximum(l, u)
    conditions = (
        high <= 0,
        (low < 0) & (high > 0) & (high <= r),
        (low >= 0) & (high <= r),
        (low >= 0) & (low < r) & (high > r),
        r <= low,
        (low < 0) & (high > r),
    )
    status = torch.full(torch.broadcast_shapes(l.shape, u.shape, r.shape), -1, dtype=torch.int64, device=l.device)
    for index in reversed(range(len(conditions))):
        status = torch.where(conditions[index], index, status)
    return torch.where(torch.isnan(low) | torch.isnan(high) | ~(r > 0), -1, status)


def status_counts(l: Tensor, u: Tensor, r: Tensor | float = math.inf) -> Tensor:
    """Return how many neurons have each status, int64 [6]; neurons with a NaN bound are in none."""
    status = neuron_status(l, u, r).flatten()
    return torch.bincount(status[status >= 0], minlength=6)


def ramp_interval_with_status(
    l: Tensor, u: Tensor, r: Tensor | float = math.inf, eta: Tensor | float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """See `lbp.ops.ramp_interval_with_status`."""
    return *ramp_interval(l, u, r, eta), status_counts(l, u, r)
