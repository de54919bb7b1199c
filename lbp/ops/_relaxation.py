"""The lines that enclose an activation, as ops take them: the callers' keywords, the schema's arguments, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from lbp.ops._arguments import check_numbers, common_batch, ramp_parameters, sum_to
from lbp.strategies import strategy_code

# Bits of `needs` in the gradient ops: which gradients are wanted.
NEED_BOUNDS, NEED_R, NEED_GIVEN, NEED_MATRIX, NEED_BIAS = 1, 2, 4, 8, 16


class LineOptions(TypedDict, total=False):
    """The keywords by which an op is told the lines: those of `lbp.ops.bounding_lines`, with its defaults."""

    r: Tensor | float
    eta: Tensor | float
    strategy: str
    lower_slope: Tensor | None
    upper_slope: Tensor | None
    lower_intercept: Tensor | None
    upper_intercept: Tensor | None
    margin_per_slope: Tensor | None
    margin: Tensor | None


class RelaxationArguments(NamedTuple):
    """The arguments l ... margin of the schema, in its order."""

    l: Tensor
    u: Tensor
    r: float
    r_tensor: Tensor | None
    eta: float
    eta_tensor: Tensor | None
    strategy: int
    lower_slope: Tensor | None
    lower_intercept: Tensor | None
    upper_slope: Tensor | None
    upper_intercept: Tensor | None
    margin_per_slope: Tensor | None
    margin: Tensor | None


RELAXATION_LENGTH = len(RelaxationArguments._fields)
_GIVEN = ("lower_slope", "lower_intercept", "upper_slope", "upper_intercept")


class Lines(NamedTuple):
    """The lines that an op was told; see `LineOptions`."""

    r: Tensor | float = math.inf
    eta: Tensor | float = 0.0
    strategy: str = "adaptive"
    lower_slope: Tensor | None = None
    upper_slope: Tensor | None = None
    lower_intercept: Tensor | None = None
    upper_intercept: Tensor | None = None
    margin_per_slope: Tensor | None = None
    margin: Tensor | None = None

    def checked(self) -> Lines:
        """Return these lines, if r and eta are in range and the given lines belong to the strategy.

        Raises:
            ValueError: an unknown strategy, lines or slopes with a strategy that does not read them (or missing where
                it does), r or eta out of range, or one margin without the other.
        """
        check_numbers(self.r, self.eta)
        strategy_code(self.strategy)
        slopes = self.lower_slope is not None or self.upper_slope is not None
        intercepts = self.lower_intercept is not None or self.upper_intercept is not None
        if self.strategy == "lines":
            if any(line is None for line in self[3:7]):
                raise ValueError(
                    "strategy 'lines' takes all four of lower_slope, lower_intercept, upper_slope, upper_intercept"
                )
        elif intercepts or (slopes and self.strategy != "slopes"):
            raise ValueError(
                f"strategy {self.strategy!r} does not read given lines: use 'slopes' with lower_slope and upper_slope, "
                "or 'lines' with all four of slopes and intercepts"
            )
        elif self.strategy == "slopes" and not slopes:
            raise ValueError("strategy 'slopes' takes lower_slope, upper_slope or both")
        if (self.margin_per_slope is None) != (self.margin is None):
            raise ValueError("margin_per_slope and margin go together: give both, or none")
        return self

    def arguments(self, l: Tensor, u: Tensor) -> RelaxationArguments:
        """Return the schema's arguments for pre-activation bounds l and u.

        Raises:
            ValueError: shapes that do not fit.
        """
        if l.shape != u.shape:
            l, u = torch.broadcast_tensors(l, u)
        given = [self.lower_slope, self.lower_intercept, self.upper_slope, self.upper_intercept]
        present = [line for line in given if line is not None]
        if present:
            # Given lines may have a batch of their own (of size 1, or the one of the coefficients).
            batch = common_batch(*[line for line in present if line.dim() == l.dim()])
            given = [None if line is None else line.expand(batch, *l.shape[1:]) for line in given]
        parameters = ramp_parameters(self.r, self.eta, l.shape[1:])
        for margin, shared in ((self.margin_per_slope, False), (self.margin, True)):
            if margin is not None:
                _check_margin(margin, l.shape[1:], shared=shared)
        code = strategy_code(self.strategy)
        return RelaxationArguments(l, u, *parameters, code, *[*given, self.margin_per_slope, self.margin])


def _check_margin(margin: Tensor, shape: torch.Size, *, shared: bool) -> None:
    """Refuse a margin that is not [B or 1, *shape] (`shared`: or [B or 1, 1, ...])."""
    if margin.shape[1:] != shape and not (shared and margin.dim() == 1 + len(shape) and margin.shape[1:].numel() == 1):
        name = "margin" if shared else "margin_per_slope"
        raise ValueError(f"{name}: expected a number for every neuron of {tuple(shape)}, got {tuple(margin.shape)}")


def needed_gradients(needs_input_grad: Sequence[bool], start: int) -> int:
    """Return the `needs` bits of a relaxation whose arguments start at position `start` of an op's inputs."""
    fields = RelaxationArguments._fields
    wanted = {name: needs_input_grad[start + i] for i, name in enumerate(fields)}
    bounds = NEED_BOUNDS if wanted["l"] or wanted["u"] else 0
    bending = NEED_R if wanted["r_tensor"] else 0
    given = NEED_GIVEN if any(wanted[name] for name in _GIVEN) else 0
    return bounds | bending | given


def relaxation_gradients(arguments: RelaxationArguments, gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of all arguments of a relaxation from the seven tensors [B, *shape] of a gradient op."""
    l, u, r, lower_slope, lower_intercept, upper_slope, upper_intercept = gradients

    def fitted(gradient: Tensor, to: Tensor | None) -> Tensor | None:
        return None if to is None or _absent(gradient, to) else sum_to(gradient, to.shape)

    return [
        fitted(l, arguments.l),
        fitted(u, arguments.u),
        None,
        fitted(r, arguments.r_tensor),
        None,
        None,
        None,
        fitted(lower_slope, arguments.lower_slope),
        fitted(lower_intercept, arguments.lower_intercept),
        fitted(upper_slope, arguments.upper_slope),
        fitted(upper_intercept, arguments.upper_intercept),
        None,
        None,
    ]


def _absent(gradient: Tensor, of: Tensor) -> bool:
    return gradient.dim() == 1 and gradient.shape[0] == 0 and of.numel() > 0


def save_relaxation(ctx: Any, arguments: RelaxationArguments, *more: Tensor | None) -> None:
    """Keep a relaxation's arguments, and more tensors, for the backward pass."""
    ctx.numbers = {name: value for name, value in arguments._asdict().items() if not isinstance(value, Tensor)}
    ctx.tensor_names = [name for name, value in arguments._asdict().items() if isinstance(value, Tensor)]
    ctx.save_for_backward(*(getattr(arguments, name) for name in ctx.tensor_names), *more)


def saved_relaxation(ctx: Any) -> tuple[RelaxationArguments, tuple[Tensor | None, ...]]:
    """Return what `save_relaxation` kept."""
    count = len(ctx.tensor_names)
    tensors = dict(zip(ctx.tensor_names, ctx.saved_tensors[:count], strict=True))
    return RelaxationArguments(**ctx.numbers, **tensors), ctx.saved_tensors[count:]


def fake_relaxation_gradients(like: Tensor, batch: int, shape: tuple[int, ...], needs: int) -> list[Tensor]:
    """Return the seven outputs of a gradient op as fake tensors.

    Bits 1, 2, 4 of `needs` ask for bounds, r and given lines.
    """
    bits = (1, 1, 2, 4, 4, 4, 4)
    return [like.new_empty((batch, *shape)) if needs & bit else like.new_empty((0,)) for bit in bits]
