"""ParamRamp, the activation whose bending point is trained (Lyu et al. 2021)."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from lbp.errors import InvalidInputError
from lbp.ops import ramp

R_MIN = 9.999999747378752e-05
"""Smallest bending point that a forward pass or a bound ever uses: 1e-4, as a number that float32 holds."""


class ParamRamp(nn.Module):
    """Ramp with slope `eta`, 1, `eta` on `z < 0`, `0 <= z <= r`, `z > r`, and one trainable `r` per neuron.

    Lyu et al. 2021: `eta z` left of 0, `z` between 0 and `r`, `eta z + (1 - eta) r` right of `r`.

    The parameter `r` may take any value during training; forward passes and bounds use `effective_r()`, which is
    at least `R_MIN`. Where `r < R_MIN` the clamp passes no gradient, so such a neuron stays at the minimum.

    While `warm_up` is set the module acts as LeakyReLU(eta) and `r` takes part in nothing. The flag belongs to the
    state dict (as a tensor), beside `r` and `eta`.

    Args:
        shape: shape of the layer's neurons without the batch dimension. Dimensions of size 1 share `r`
            (`(C, 1, 1)` gives one bending point per channel).
        eta: slope left of 0 and right of `r`, in [0, 1]. Kept as a 0-dim buffer; `set_eta` changes it.
        r: initial bending point, > 0 and finite; a number, or a tensor that broadcasts to `shape`.
        warm_up: start as LeakyReLU(eta).
        device, dtype: of `r` and `eta`.

    Raises:
        InvalidInputError: `eta` outside [0, 1], `r` not positive and finite, or `shape` not made of positive integers.
    """

    r: nn.Parameter
    eta: Tensor
    warm_up: bool

    def __init__(
        self,
        shape: int | Iterable[int],
        eta: float = 0.0,
        r: float | Tensor = 1.0,
        *,
        warm_up: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dims = _checked_shape(shape)
        initial = torch.empty(dims, device=device, dtype=dtype)
        _fill(initial, _checked_r(r))
        self.r = nn.Parameter(initial)
        self.register_buffer("eta", torch.tensor(checked_eta(eta), device=device, dtype=initial.dtype))
        self.warm_up = bool(warm_up)

    @property
    def shape(self) -> torch.Size:
        """Shape of `r`, without the batch dimension."""
        return self.r.shape

    def effective_r(self) -> Tensor | float:
        """Bending point that forward passes and bounds use.

        Returns:
            `max(r, R_MIN)` with the shape of `r`, differentiable with respect to `r`; `math.inf` during the warm-up.
        """
        return math.inf if self.warm_up else self.r.clamp(min=R_MIN)

    def effective_eta(self) -> Tensor:
        """Slope left of 0 and right of the bending point, a 0-dim tensor."""
        return self.eta

    @torch.no_grad()
    def set_eta(self, eta: float) -> None:
        """Sets the outer slope in place, for schedules.

        Raises:
            InvalidInputError: `eta` outside [0, 1].
        """
        self.eta.fill_(checked_eta(eta))

    @torch.no_grad()
    def end_warm_up(self, r: float | Tensor) -> None:
        """Leaves the warm-up: sets `r` in place and acts as a ramp from here on.

        Args:
            r: new bending points, broadcastable to `shape`; Lyu et al. 2021 take every neuron's mean
                post-activation over the training set. Values below `R_MIN` are allowed: see `effective_r`.

        Raises:
            InvalidInputError: a value that is not finite, or a shape that does not broadcast.
        """
        if not _all_finite(r):
            raise InvalidInputError("ParamRamp.end_warm_up: r has values that are NaN or infinite")
        _fill(self.r, r)
        self.warm_up = False

    def forward(self, z: Tensor) -> Tensor:
        """Applies the ramp.

        Args:
            z: pre-activation [B, *shape].

        Returns:
            post-activation, same shape and dtype as `z`.

        Raises:
            InvalidInputError: `z` does not have the shape that the module was made for.
        """
        if not _shares(self.r.shape, z.shape[1:]):
            raise InvalidInputError(
                f"ParamRamp was made for inputs of shape [B, {', '.join(map(str, self.r.shape))}], "
                f"got {list(z.shape)}; give it the layer's shape without the batch dimension, or use LazyParamRamp"
            )
        return ramp(z, self.effective_r(), self.effective_eta())

    def get_extra_state(self) -> Tensor:
        """The warm-up flag, as a tensor so that tensor-only file formats can hold it."""
        return torch.tensor(self.warm_up)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the warm-up flag from a state dict."""
        self.warm_up = bool(state)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        error_msgs += eta_complaints(state_dict, prefix)
        r = state_dict.get(f"{prefix}r")
        if r is not None and not is_lazy(r) and not bool(torch.isfinite(r).all()):
            error_msgs.append(f"{prefix}r has values that are NaN or infinite in the state dict")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Shape, outer slope, range of r and the warm-up flag."""
        shape = "unknown" if is_lazy(self.r) else str(tuple(self.r.shape))
        parts = [shape, f"eta={self.eta.item():g}"]
        if not is_lazy(self.r) and self.r.numel() and not self.r.is_meta:
            low, high = (value.item() for value in torch.aminmax(self.r.detach()))
            parts.append(f"r={low:g}" if low == high else f"r in [{low:g}, {high:g}]")
        if self.warm_up:
            parts.append("warm_up=True")
        return ", ".join(parts)


class LazyParamRamp(LazyModuleMixin, ParamRamp):
    """ParamRamp that takes its shape from the first input and then becomes a plain ParamRamp.

    One forward pass with real data (or loading a state dict) gives `r` its shape `[*shape]`, one bending point per
    neuron. Optimizers and bounds need the shape, so run the pass first.

    Args:
        eta, r, warm_up, device, dtype: as for ParamRamp; `r` a number.
    """

    cls_to_become = ParamRamp

    def __init__(
        self,
        eta: float = 0.0,
        r: float = 1.0,
        *,
        warm_up: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__((), eta, r, warm_up=warm_up, device=device, dtype=dtype)
        self._initial_r = float(r)
        self.r = UninitializedParameter(device=device, dtype=dtype)  # type: ignore[assignment, call-arg]

    def initialize_parameters(self, z: Tensor) -> None:
        """Gives `r` the shape of `z` without its batch dimension."""
        if self.has_uninitialized_params():
            if z.dim() < 1:
                raise InvalidInputError("LazyParamRamp needs an input with a batch dimension, got a 0-dim tensor")
            with torch.no_grad():
                self.r.materialize(tuple(z.shape[1:]))  # type: ignore[attr-defined]
                self.r.fill_(self._initial_r)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        # The mixin saves parameters and buffers only.
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}_extra_state"] = self.get_extra_state()


def _checked_shape(shape: int | Iterable[int]) -> tuple[int, ...]:
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(dim, int) and not isinstance(dim, bool) and dim > 0 for dim in dims):
        raise InvalidInputError(f"ParamRamp: shape must be made of positive integers, got {shape!r}")
    return dims


def checked_eta(eta: float) -> float:
    """An outer slope as a number.

    Raises:
        InvalidInputError: outside [0, 1].
    """
    value = float(eta)
    if not 0.0 <= value <= 1.0:
        raise InvalidInputError(f"eta must be in [0, 1], got {value}")
    return value


def eta_complaints(state_dict: Mapping[str, Any], prefix: str) -> list[str]:
    """What is wrong with the outer slope in the state dict of an activation; nothing if it holds none."""
    eta = state_dict.get(f"{prefix}eta")
    if eta is None or bool(((eta >= 0) & (eta <= 1)).all()):
        return []
    return [f"{prefix}eta must be in [0, 1], the state dict holds {eta.tolist()}"]


def _checked_r(r: float | Tensor) -> float | Tensor:
    positive = bool((r > 0).all()) if isinstance(r, Tensor) else r > 0
    if not (positive and _all_finite(r)):
        raise InvalidInputError(
            f"ParamRamp: r must be positive and finite, got {r}; for no bending point use nn.LeakyReLU"
        )
    return r


def _all_finite(values: float | Tensor) -> bool:
    return bool(torch.isfinite(values).all()) if isinstance(values, Tensor) else math.isfinite(values)


def _fill(target: Tensor, values: float | Tensor) -> None:
    if not isinstance(values, Tensor):
        target.fill_(values)
    elif _shares(values.shape, target.shape):
        target.copy_(values)
    else:
        raise InvalidInputError(
            f"ParamRamp: r of shape {list(values.shape)} does not broadcast to {list(target.shape)}"
        )


def _shares(small: torch.Size, large: torch.Size) -> bool:
    """Whether `small` broadcasts to exactly `large`."""
    offset = len(large) - len(small)
    return offset >= 0 and all(dim in (1, large[offset + i]) for i, dim in enumerate(small))
