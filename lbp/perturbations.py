"""Input regions as users state them: l_p balls, boxes, and the tensor that carries one."""

from __future__ import annotations

import copy
import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lbp.checks import Check, check_has_values, check_same_kind, known_to_hold, not_finite, raise_if_any
from lbp.errors import InvalidInputError, UnsupportedArgumentError
from lbp.linear import Ball, Region, round_down, round_up
from lbp.rounding import lowered, raised

__all__ = ["BoundedParameter", "BoundedTensor", "PerturbationL0Norm", "PerturbationLpNorm"]

ULPS = 4
"""How far, in units in the last place of the largest of x, x_L and x_U, x_L may lie above x_U by rounding."""


class PerturbationLpNorm:
    """The region around an input: `{x' : ||x' - x||_p <= eps}`, a box, or a ball cut to the range of the data.

    With `norm=inf`, `x_L` and `x_U` replace `x - eps` and `x + eps` where they are given. `clip` intersects the region
    with the valid range of the data, for every norm. Over a ball of another norm cut by `clip`, every bound is the
    tighter of the bound over the ball and the bound over the cut enclosing box: sound, and usually tighter than either
    alone, but not the exact extreme over the intersection. Theorem 2 of Lyu et al. 2021 (the order of the methods)
    speaks of balls and boxes and does not cover such an intersection.

    Args:
        eps: radius, >= 0: a number, a 0-dim tensor, or one radius per example, [B] or [B, 1, ...]. A tensor [B] is
            never broadcast over the last dimension of the input; x_L and x_U take radii that differ within an example.
        norm: p, 1 <= p <= inf.
        x_L, x_U: box [B, *shape] or broadcastable to it; only with `norm=inf`.
        eps_min: only 0.
        clip: lowest and highest value of the data, numbers or tensors that broadcast to the input.

    Raises:
        InvalidInputError: eps neither number nor tensor, negative or NaN, norm below 1 or NaN, x_L or x_U with another
            norm, clip that is not an ordered pair.
        UnsupportedArgumentError: eps_min other than 0.
    """

    def __init__(
        self,
        eps: float | Tensor = 0,
        norm: float = math.inf,
        x_L: Tensor | None = None,
        x_U: Tensor | None = None,
        eps_min: float = 0,
        clip: tuple[float | Tensor, float | Tensor] | None = None,
    ) -> None:
        if eps_min != 0:
            raise UnsupportedArgumentError(f"eps_min={eps_min!r}: only 0 is implemented")
        self.eps = eps
        self.norm = _number(norm)
        self.x_L = x_L
        self.x_U = x_U
        self.eps_min = eps_min
        self.clip = clip
        self._check()

    def _check(self) -> None:
        """Check what can be checked without the input."""
        if not self.norm >= 1:
            hint = "; PerturbationL0Norm stands for p = 0" if self.norm == 0 else ""
            raise InvalidInputError(f"norm must be at least 1, got {self.norm}{hint}")
        if not math.isinf(self.norm) and (self.x_L is not None or self.x_U is not None):
            raise InvalidInputError(
                f"x_L and x_U describe a box and need norm=inf, got norm={self.norm}; use clip=(lo, hi) to cut a ball "
                "to the range of the data"
            )
        if isinstance(self.eps, bool) or not isinstance(self.eps, Real | Tensor):
            raise InvalidInputError(
                f"eps must be a number or a tensor, got {self.eps!r} ({type(self.eps).__name__}); convert it "
                "with float() or torch.tensor()"
            )
        if not isinstance(self.eps, Tensor) and not (self.eps >= 0 and _is_finite(self.eps)):
            raise InvalidInputError(f"eps must be finite and not negative, got {self.eps}")
        if self.clip is not None and (not isinstance(self.clip, tuple | list) or len(self.clip) != 2):
            raise InvalidInputError(f"clip must be a pair (lowest, highest), got {self.clip!r}")
        if self.clip is not None and all(isinstance(end, Real) for end in self.clip) and self.clip[0] > self.clip[1]:
            raise InvalidInputError(f"clip: the lowest value is above the highest, got {self.clip}")

    def region(self, x: Tensor, *, outward: bool = False) -> Region:
        """Return the region around x.

        Args:
            x: [B, *shape], float32 or float64.
            outward: return a region that certainly holds every point of the exact one, and over which bounds may be
                added up to nearest; otherwise its ends are rounded to nearest.

        Raises:
            InvalidInputError: NaN or infinity in x, eps, x_L, x_U or clip; x_L above x_U by more than rounding; a wrong
                shape, dtype or device.
        """
        self._check()
        check_input(x)
        checks: list[Check] = [not_finite("the input x", x)]
        eps = self._eps_for(x, torch.float64 if outward else x.dtype, checks)
        radius = eps if isinstance(eps, float) else eps.reshape(-1, *[1] * (x.dim() - 1))
        low_end, high_end = _outward_ends(x, radius) if outward else (x - radius, x + radius)
        lower = low_end if self.x_L is None else _box_side("x_L", self.x_L, x, checks)
        upper = high_end if self.x_U is None else _box_side("x_U", self.x_U, x, checks)
        if self.clip is not None:
            low, high = (_clip_side(i, value, x, checks, outward=outward) for i, value in enumerate(self.clip))
            checks.append(((low > high).any(), lambda: f"clip: the lowest value is above the highest, got {self.clip}"))
            lower, upper = torch.maximum(lower, low), torch.minimum(upper, high)
        if self.x_L is not None or self.x_U is not None or self.clip is not None:
            lower, upper = self._ordered(x, lower, upper, checks)
        raise_if_any(checks)
        ball = None if math.isinf(self.norm) else Ball(x, eps, self.norm)
        region = Region(lower, upper, ball, box_counts=ball is None or self.clip is not None)
        return region.outward() if outward else region

    def _eps_for(self, x: Tensor, dtype: torch.dtype, checks: list[Check]) -> Tensor | float:
        if not isinstance(self.eps, Tensor):
            return float(self.eps)
        eps = self.eps
        check_has_values("eps", eps)
        if eps.is_complex() or eps.dtype == torch.bool:
            raise InvalidInputError(f"eps must be real numbers, got a tensor of {eps.dtype}")
        if eps.device != x.device and eps.dim() > 0:
            raise InvalidInputError(f"eps is on {eps.device}, the input on {x.device}; move eps")
        if eps.numel() != 1 and not (eps.numel() == x.shape[0] == eps.shape[0]):
            raise InvalidInputError(
                f"eps must be a number or have one value per example: shape [{x.shape[0]}], got {list(eps.shape)}; "
                "x_L and x_U take radii that differ within an example"
            )
        eps = eps.to(device=x.device, dtype=dtype)
        eps = eps.reshape(()) if eps.numel() == 1 else eps.reshape(-1)
        bad = ~((eps >= 0) & torch.isfinite(eps)).all()
        checks.append((bad, lambda: f"eps must be finite and not negative, got {self.eps}"))
        return eps

    def _ordered(self, x: Tensor, lower: Tensor, upper: Tensor, checks: list[Check]) -> tuple[Tensor, Tensor]:
        """Return the box with sides that rounding has crossed put around x."""
        crossed = lower > upper
        if known_to_hold(~crossed.any()):
            return lower, upper
        scale = torch.maximum(torch.maximum(lower.abs(), upper.abs()), x.abs())
        too_far = crossed & (lower - upper > ULPS * torch.finfo(x.dtype).eps * scale)

        def message() -> str:
            where = int(too_far.flatten().nonzero()[0])
            low, high = float(lower.flatten()[where]), float(upper.flatten()[where])
            cut = " after clip" if self.clip is not None else ""
            return (
                f"the region is empty{cut}: x_L > x_U at flat index {where} of an input of shape {list(x.shape)} "
                f"({low} > {high}); {int(too_far.sum())} such entries"
            )

        checks.append((too_far.any(), message))
        lower = torch.where(crossed, torch.minimum(torch.minimum(lower, upper), x), lower)
        upper = torch.where(crossed, torch.maximum(torch.maximum(lower, upper), x), upper)
        return lower, upper

    def __repr__(self) -> str:
        parts = [f"eps={self.eps}", f"norm={self.norm}"]
        parts += [f"{name}=..." for name in ("x_L", "x_U") if getattr(self, name) is not None]
        if self.clip is not None:
            parts.append(f"clip={self.clip}")
        return f"PerturbationLpNorm({', '.join(parts)})"


def _number(norm: float) -> float:
    try:
        return float(norm)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"norm must be a number of at least 1, or infinity, got {norm!r}") from None


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number larger than every float
        return False


def check_input(x: Tensor) -> None:
    """Check the kind of an input tensor.

    Raises:
        InvalidInputError: not a dense float32 or float64 tensor with a batch dimension.
    """
    if not isinstance(x, Tensor):
        raise InvalidInputError(f"the input must be a tensor, got {type(x).__name__}")
    check_has_values("the input x", x)
    if x.layout != torch.strided:
        raise InvalidInputError(f"the input x must be a dense tensor, got one of layout {x.layout}")
    if x.dtype not in (torch.float32, torch.float64):
        raise InvalidInputError(f"the input x has dtype {x.dtype}; float32 and float64 are supported")
    if x.dim() < 2:
        raise InvalidInputError(f"the input x needs a batch dimension and at least one more, got shape {list(x.shape)}")


def _outward_ends(x: Tensor, radius: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return x - radius and x + radius in the dtype of x, outside of the exact ends."""
    center = x.double()
    lower, upper = lowered(center - radius), raised(center + radius)
    return round_down(lower, x.dtype), round_up(upper, x.dtype)


def _box_side(name: str, values: Tensor, x: Tensor, checks: list[Check]) -> Tensor:
    """Return x_L or x_U in the shape of x."""
    check_same_kind(name, values, x, "the input x")
    checks.append(not_finite(name, values))
    return _broadcast(name, values, x)


def _clip_side(index: int, value: float | Tensor, x: Tensor, checks: list[Check], *, outward: bool) -> Tensor:
    """Return one end of the data range in the shape of x; infinite ends are allowed."""
    name = f"clip[{index}]"
    if isinstance(value, Tensor):
        check_has_values(name, value)
    if isinstance(value, Tensor) and value.dim() > 0 and value.device != x.device:
        raise InvalidInputError(f"{name} is on {value.device}, the input on {x.device}; they must agree")
    dtype = torch.float64 if outward else x.dtype
    try:
        if isinstance(value, Real):
            # Written by the device itself: a copy to it would wait, and cannot be captured in a CUDA graph. What the
            # dtype of x does not reach is no limit.
            limit = torch.full((), float(value), dtype=torch.float64, device=x.device).to(dtype)
        else:
            limit = torch.as_tensor(value, dtype=dtype, device=x.device)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"{name} must be a number or a tensor, got {value!r}") from error
    if isinstance(value, Real) and (float(value) if index == 0 else -float(value)) > torch.finfo(x.dtype).max:
        raise InvalidInputError(f"{name}={value} leaves no number of {x.dtype}")
    if outward:
        limit = round_down(limit, x.dtype) if index == 0 else round_up(limit, x.dtype)
    checks.append((torch.isnan(limit).any(), lambda: f"{name} has NaN values"))
    return _broadcast(name, limit, x)


def _broadcast(name: str, values: Tensor, x: Tensor) -> Tensor:
    try:
        return values.expand(x.shape)
    except RuntimeError:
        raise InvalidInputError(
            f"{name} of shape {list(values.shape)} does not broadcast to the input's shape {list(x.shape)}"
        ) from None


class PerturbationL0Norm:
    """Not implemented; the name exists so that scripts that ask for it get a clear answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedArgumentError("PerturbationL0Norm is not implemented; PerturbationLpNorm covers p >= 1")


class BoundedParameter:
    """Not implemented; the name exists so that scripts that ask for it get a clear answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedArgumentError("BoundedParameter is not implemented; only the input can be perturbed")


class BoundedTensor(Tensor):
    """An input together with its perturbation.

    Operations on it give plain tensors, without a region; gradients flow through it to the tensor it was made from.
    Those that only copy or convert the whole tensor (`to`, `type`, `type_as`, `float`, `double`, `half`, `bfloat16`,
    `cpu`, `cuda`, `pin_memory`, `clone`, `contiguous`, `detach`) keep the perturbation as it is.

    Attributes:
        ptb: the perturbation, None for an exact input.

    Args:
        x: [B, *shape].
        ptb: the perturbation.
    """

    ptb: PerturbationLpNorm | None

    # Operators see a plain tensor; without this every result would carry the class but not the perturbation.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(cls, x: Tensor, ptb: PerturbationLpNorm | None = None) -> BoundedTensor:
        """Return x as a BoundedTensor that shares its storage and history."""
        if not isinstance(x, Tensor):
            raise InvalidInputError(f"BoundedTensor needs a tensor, got {type(x).__name__}")
        if x.layout != torch.strided:
            raise InvalidInputError(f"BoundedTensor needs a dense tensor, got one of layout {x.layout}")
        if ptb is not None and not isinstance(ptb, PerturbationLpNorm):
            raise InvalidInputError(f"ptb must be a PerturbationLpNorm or None, got {type(ptb).__name__}")
        result = torch.Tensor.as_subclass(x, cls)
        result.ptb = ptb
        return result

    def __init__(self, x: Tensor, ptb: PerturbationLpNorm | None = None) -> None:
        super().__init__()

    def to(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a copy with another dtype or device, with the same perturbation."""
        return BoundedTensor(super().to(*args, **kwargs), self.ptb)

    def float(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a float32 copy with the same perturbation."""
        return BoundedTensor(super().float(*args, **kwargs), self.ptb)

    def double(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a float64 copy with the same perturbation."""
        return BoundedTensor(super().double(*args, **kwargs), self.ptb)

    def half(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a float16 copy with the same perturbation."""
        return BoundedTensor(super().half(*args, **kwargs), self.ptb)

    def bfloat16(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a bfloat16 copy with the same perturbation."""
        return BoundedTensor(super().bfloat16(*args, **kwargs), self.ptb)

    def type(self, *args: Any, **kwargs: Any) -> Any:
        """Return the name of the type, or a copy of another type with the same perturbation."""
        found = super().type(*args, **kwargs)
        return BoundedTensor(found, self.ptb) if isinstance(found, Tensor) else found

    def type_as(self, other: Tensor) -> BoundedTensor:
        """Return a copy of another tensor's type with the same perturbation."""
        return BoundedTensor(super().type_as(other), self.ptb)

    def pin_memory(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a copy in page-locked memory with the same perturbation."""
        return BoundedTensor(super().pin_memory(*args, **kwargs), self.ptb)

    def cpu(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a copy in host memory with the same perturbation."""
        return BoundedTensor(super().cpu(*args, **kwargs), self.ptb)

    def cuda(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a copy in device memory with the same perturbation."""
        return BoundedTensor(super().cuda(*args, **kwargs), self.ptb)

    def contiguous(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a contiguous copy with the same perturbation."""
        return BoundedTensor(super().contiguous(*args, **kwargs), self.ptb)

    def clone(self, *args: Any, **kwargs: Any) -> BoundedTensor:
        """Return a copy with the same perturbation."""
        return BoundedTensor(super().clone(*args, **kwargs), self.ptb)

    def detach(self) -> BoundedTensor:
        """Return the tensor without its history, with the same perturbation."""
        return BoundedTensor(super().detach(), self.ptb)

    def __deepcopy__(self, memo: dict[int, Any]) -> BoundedTensor:
        plain = copy.deepcopy(self.as_subclass(Tensor), memo)
        result = memo[id(self)] = BoundedTensor(plain, copy.deepcopy(self.ptb, memo))
        return result

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"BoundedTensor({torch.Tensor.as_subclass(self, Tensor)!r}, ptb={self.ptb!r})"


def region_of(x: Tensor, *, outward: bool = False) -> Region:
    """Return the region of an input; a tensor without a perturbation is a region of one point per example.

    See `PerturbationLpNorm.region` for `outward`.
    """
    ptb = getattr(x, "ptb", None) or PerturbationLpNorm(0.0)
    plain = x.as_subclass(Tensor) if isinstance(x, BoundedTensor) else x
    region: Region = ptb.region(plain, outward=outward)
    return region
