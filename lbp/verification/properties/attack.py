"""The search for a counterexample: signed gradient steps towards the unsafe sets, and its confirmation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lbp.precision import full_precision
from lbp.verification.properties.bounds import BoxBounds
from lbp.verification.properties.case import UnsafeSets, half_width, middle
from lbp.verification.properties.deadline import Deadline
from lbp.vnnlib import Box, Property

Evaluation = Callable[[Tensor], Tensor]
"""Returns the flattened output of one input, given as float64 [inputs]."""

POINT_METHODS = ("IBP", "CROWN-IBP", "CROWN")
"""Methods that bound the output at a counterexample; intervals are wide after many layers even there."""

FIRST_STEP, LAST_STEP = 0.25, 0.002
"""Length of the first and last step of an attack, in widths of the box."""


@dataclass(frozen=True)
class Counterexample:
    """An input of a box with an unsafe output.

    Attributes:
        x: float64 [inputs], float32 numbers where the box holds any.
        y: float64 [outputs], the output by the first evaluation.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Confirmation:
    """Accepts a point only if its output is unsafe in exact arithmetic, and every evaluation of the network finds so.

    Evaluations round, so that they may all agree about an output that is safe by less than that.

    Attributes:
        problem: the property.
        evaluations: independent ways to compute the output.
        bounds: outward bounds in float64, that hold in exact arithmetic; None: evaluations alone decide.
    """

    problem: Property
    evaluations: Sequence[Evaluation]
    bounds: BoxBounds | None = None

    @full_precision()  # evaluations may be anybody's
    def __call__(self, x: Tensor, box: Box) -> Counterexample | None:
        """Return the counterexample that a point [inputs] near or in a box is, None if it is none."""
        point = representable(x, box)
        outputs = [evaluate(point).double().reshape(-1) for evaluate in self.evaluations]
        if all(self.problem.is_violated_by(point, y) for y in outputs) and self._holds_exactly(point):
            return Counterexample(point, outputs[0])
        return None

    def _holds_exactly(self, point: Tensor) -> bool:
        if self.bounds is None:
            return True
        ends = (self.bounds.outputs(point, method) for method in POINT_METHODS)
        return any(self.problem.is_violated_by_all(point, lower, upper) for lower, upper in ends)


def representable(x: Tensor, box: Box) -> Tensor:
    """Return a point of the box [inputs] near x, in float64, made of float32 numbers wherever the box holds any."""
    inside = torch.minimum(torch.maximum(x.double(), box.lower), box.upper)
    single = inside.float()
    infinity = torch.full_like(single, torch.inf)
    single = torch.where(single.double() < box.lower, torch.nextafter(single, infinity), single)
    single = torch.where(single.double() > box.upper, torch.nextafter(single, -infinity), single)
    fits = (box.lower <= single.double()) & (single.double() <= box.upper)
    return torch.where(fits, single.double(), inside)


def attack(
    network: nn.Module,
    input_shape: tuple[int, ...],
    box: Box,
    sets: UnsafeSets,
    confirm: Confirmation,
    deadline: Deadline,
    *,
    steps: int,
    restarts: int,
    at_once: int | None = None,
    seed: int = 0,
) -> Counterexample | None:
    """Search a box for an input with an unsafe output.

    Every restart goes for every unsafe set, from random points and, the first one, from the middle of the box.

    Args:
        network: differentiable, from [B, *input_shape], in the dtype of `sets`.
        input_shape: of one example.
        box: of inputs.
        sets: the unsafe outputs.
        confirm: accepts a point or not.
        deadline: checked at every step.
        steps: gradient steps.
        restarts: points for every unsafe set.
        at_once: points in memory at a time; None: all. It changes the order of the search, not the points.
        seed: of the random starts.

    Raises:
        OutOfTimeError: the time has passed.
    """
    dtype = sets.matrix.dtype
    low, high = box.lower.to(dtype), box.upper.to(dtype)
    center, half = middle(low, high), half_width(low, high)

    def into_box(points: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(points, low), high)

    generator = torch.Generator().manual_seed(seed)
    count = restarts * len(sets)
    for first in range(0, count, at_once or max(count, 1)):
        number = torch.arange(first, min(first + (at_once or count), count), device="cpu")
        start = torch.rand(len(number), len(low), generator=generator, dtype=dtype, device="cpu")
        start[number < len(sets)] = 0.5
        x, target = into_box(center + half * (2 * start - 1)), number % len(sets)
        length, shrink = FIRST_STEP, (LAST_STEP / FIRST_STEP) ** (1 / max(steps, 1))
        for _ in range(steps + 1):
            deadline.check()
            x.requires_grad_(True)
            excess = sets.excess_of(network(x.reshape(-1, *input_shape)).flatten(1), target)
            (gradient,) = torch.autograd.grad(excess.nan_to_num(0.0, 0.0, 0.0).sum(), x)
            x = x.detach()
            found = first_confirmed(x, excess.detach(), box, confirm)
            if found is not None:
                return found
            x = into_box(x - 2 * length * half * gradient.sign())
            length *= shrink
    return None


def first_confirmed(
    x: Tensor, excess: Tensor, box: Box, confirm: Confirmation, *, tries: int = 3
) -> Counterexample | None:
    """Return a confirmed counterexample among points [N, inputs] with excess [N] <= 0, deepest first."""
    for index in torch.argsort(excess)[:tries].tolist():
        if not excess[index] <= 0:
            return None
        found = confirm(x[index], box)
        if found is not None:
            return found
    return None
