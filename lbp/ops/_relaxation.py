"""The lines that enclose an activation, as ops take them: the callers' keywords, the schema's arguments, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from lbp.ops._arguments import check_numbers, common_batch, split_parameters
from lbp.strategies import STRATEGIES, strategy_code

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
        """Return the schema's arguments for pre-activation bounds l and u, of lines that were `checked`.

        Raises:
            ValueError: shapes that do not fit.
        """
        if l.shape != u.shape:
            l, u = torch.broadcast_tensors(l, u)
        shape = l.shape[1:]
        _, _, strategy, lower_slope, upper_slope, lower_intercept, upper_intercept, margin_per_slope, margin = self
        given: Sequence[Tensor | None] = (lower_slope, lower_intercept, upper_slope, upper_intercept)
        if strategy in ("slopes", "lines"):
            # Given lines may have a batch of their own (of size 1, or the one of the coefficients).
            batch = common_batch(*[line for line in given if line is not None and line.dim() == l.dim()])
            given = [None if line is None else line.expand(batch, *shape) for line in given]
        if margin_per_slope is not None and margin is not None:
            _check_margin(margin_per_slope, shape, shared=False)
            _check_margin(margin, shape, shared=True)
        parameters = split_parameters(self.r, self.eta, shape)
        return RelaxationArguments(l, u, *parameters, STRATEGIES[strategy], *[*given, margin_per_slope, margin])


def _check_margin(margin: Tensor, shape: torch.Size, *, shared: bool) -> None:
    """Refuse a margin that is not [B or 1, *shape] (`shared`: or [B or 1, 1, ...])."""
    if margin.shape[1:] != shape and not (shared and margin.dim() == 1 + len(shape) and margin.shape[1:].numel() == 1):
        name = "margin" if shared else "margin_per_slope"
        raise ValueError(f"{name}: expected a number for every neuron of {tuple(shape)}, got {tuple(margin.shape)}")


_L, _U, _R, _FIRST_GIVEN = (RelaxationArguments._fields.index(name) for name in ("l", "u", "r_tensor", _GIVEN[0]))


def needed_gradients(needs_input_grad: Sequence[bool], start: int) -> int:
    """Return the `needs` bits of a relaxation whose arguments start at position `start` of an op's inputs."""
    needs = 0
    if needs_input_grad[start + _L] or needs_input_grad[start + _U]:
        needs |= NEED_BOUNDS
    if needs_input_grad[start + _R]:
        needs |= NEED_R
    if True in needs_input_grad[start + _FIRST_GIVEN : start + _FIRST_GIVEN + len(_GIVEN)]:
        needs |= NEED_GIVEN
    return needs


def relaxation_gradients(arguments: RelaxationArguments, gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of all arguments of a relaxation from the seven tensors [B, *shape] of a gradient op."""
    of_arguments: list[Tensor | None] = [None] * RELAXATION_LENGTH
    for place, gradient in zip(_DIFFERENTIABLE, gradients, strict=True):
        to = arguments[place]
        if not isinstance(to, Tensor):
            continue
        if gradient.shape == to.shape:
            of_arguments[place] = gradient
        elif not _absent(gradient, to):
            of_arguments[place] = gradient.sum_to_size(to.shape)
    return of_arguments


_DIFFERENTIABLE = (_L, _U, _R, *range(_FIRST_GIVEN, _FIRST_GIVEN + len(_GIVEN)))


def _absent(gradient: Tensor, of: Tensor) -> bool:
    return gradient.dim() == 1 and gradient.shape[0] == 0 and of.numel() > 0


def save_relaxation(ctx: Any, arguments: Sequence[Any], *more: Tensor | None) -> None:
    """Keep a relaxation's arguments, and more tensors, for the backward pass."""
    l, u, r, r_tensor, eta, eta_tensor, strategy, *given = arguments
    ctx.save_for_backward(l, u, r_tensor, eta_tensor, *given, *more)
    ctx.numbers = (r, eta, strategy)


def saved_relaxation(ctx: Any) -> tuple[RelaxationArguments, Sequence[Tensor | None]]:
    """Return what `save_relaxation` kept."""
    l, u, r_tensor, eta_tensor, *rest = ctx.saved_tensors
    r, eta, strategy = ctx.numbers
    count = RELAXATION_LENGTH - _FIRST_GIVEN
    return RelaxationArguments(l, u, r, r_tensor, eta, eta_tensor, strategy, *rest[:count]), rest[count:]


def fake_relaxation_gradients(like: Tensor, batch: int, shape: tuple[int, ...], needs: int) -> list[Tensor]:
    """Return the seven outputs of a gradient op as fake tensors.

    Bits 1, 2, 4 of `needs` ask for bounds, r and given lines.
    """
    bits = (1, 1, 2, 4, 4, 4, 4)
    return [like.new_empty((batch, *shape)) if needs & bit else like.new_empty((0,)) for bit in bits]
