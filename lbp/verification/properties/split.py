"""Splitting a box of inputs until every part is decided (branch and bound on the input)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lbp.verification.properties.attack import Confirmation, Counterexample, first_confirmed
from lbp.verification.properties.bounds import BoxBounds, LinearLower
from lbp.verification.properties.case import UnsafeSets, half_width, middle
from lbp.verification.properties.deadline import Deadline
from lbp.vnnlib import Box

BATCH = 2048
"""Boxes bounded at once, where the memory budget holds them."""


class BoxStack:
    """Boxes [N, inputs] waiting for bounds; the newest come first, which keeps their number small."""

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self._chunks = [(lower, upper)]

    def __len__(self) -> int:
        return sum(len(lower) for lower, _ in self._chunks)

    def push(self, lower: Tensor, upper: Tensor) -> None:
        """Add boxes."""
        if len(lower):
            self._chunks.append((lower, upper))

    def pop(self, count: int) -> tuple[Tensor, Tensor]:
        """Take up to so many boxes."""
        taken: list[tuple[Tensor, Tensor]] = []
        while self._chunks and count > 0:
            lower, upper = self._chunks.pop()
            if len(lower) > count:
                self._chunks.append((lower[:-count], upper[:-count]))
                lower, upper = lower[-count:], upper[-count:]
            taken.append((lower, upper))
            count -= len(lower)
        return torch.cat([lower for lower, _ in taken]), torch.cat([upper for _, upper in taken])


class Splitting:
    """Branch and bound over one box.

    Args:
        network: from [B, *input_shape], in the dtype of `sets`; evaluates points of open boxes.
        bounds: bounds of boxes.
        sets: the unsafe outputs.
        confirm: accepts a counterexample or not.
        method: of the bounds, one with linear bounds in terms of the input.

    Attributes:
        bounded: number of boxes bounded so far.
        too_small: whether a box could be split no further and is still open.
    """

    def __init__(
        self, network: nn.Module, bounds: BoxBounds, sets: UnsafeSets, confirm: Confirmation, method: str
    ) -> None:
        self.network = network
        self.bounds = bounds
        self.sets = sets
        self.confirm = confirm
        self.method = method
        self.bounded = 0
        self.too_small = False

    def run(self, box: Box, deadline: Deadline) -> Counterexample | None:
        """Decide a box: a counterexample, or None; then it is safe unless `too_small`.

        Raises:
            OutOfTimeError: the time has passed.
        """
        stack = BoxStack(box.lower.unsqueeze(0), box.upper.unsqueeze(0))
        at_once = min(BATCH, self.bounds.boxes_within(len(self.sets.bound), self.method))
        while len(stack):
            deadline.check()
            lower, upper = stack.pop(at_once)
            found = self.bounds.linear_lower(lower, upper, self.sets, self.method)
            self.bounded += len(lower)
            open_sets = ~self.sets.excluded(found.lower)
            left = open_sets.any(1)
            if not bool(left.any()):
                continue
            lower, upper, open_sets = lower[left], upper[left], open_sets[left]
            found = LinearLower(found.lower[left], found.slopes[left])
            counterexample = self._try_points(lower, upper, found, box)
            if counterexample is not None:
                return counterexample
            stack.push(*self._halves(lower, upper, influence(found, self.sets, open_sets, half_width(lower, upper))))
        return None

    def _try_points(self, lower: Tensor, upper: Tensor, found: LinearLower, box: Box) -> Counterexample | None:
        """Evaluate the middle of every box, and the corner where the linear bound of its best set is smallest."""
        best = self.sets.best_rows(found.lower)
        nearest = (found.lower - self.sets.bound).gather(1, best).argmin(1, keepdim=True)
        row = best.gather(1, nearest)
        slope = found.slopes.gather(1, row[:, :, None].expand(-1, 1, lower.shape[1])).squeeze(1)
        points = torch.cat([middle(lower, upper), torch.where(slope > 0, lower, upper)])
        with torch.no_grad():
            output = self.network(points.to(self.bounds.dtype).reshape(-1, *self.bounds.input_shape)).flatten(1)
        return first_confirmed(points, self.sets.excess(output).amin(1), box, self.confirm)

    def _halves(self, lower: Tensor, upper: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return both halves of every box, cut across the dimension with the highest score that can be cut."""
        cuts = middle(lower, upper)
        divisible = (lower < cuts) & (cuts < upper)
        can = divisible.any(1)
        if not bool(can.all()):
            self.too_small = True
            lower, upper, cuts = lower[can], upper[can], cuts[can]
            score, divisible = score[can], divisible[can]
        dim = score.masked_fill(~divisible, -1.0).argmax(1, keepdim=True)
        cut = cuts.gather(1, dim)
        return torch.cat([lower, lower.scatter(1, dim, cut)]), torch.cat([upper.scatter(1, dim, cut), upper])


def influence(found: LinearLower, sets: UnsafeSets, open_sets: Tensor, width: Tensor) -> Tensor:
    """Return how much every input [B, inputs] moves the bounds that are still open: slope times width.

    For every open set the row that is closest to excluding it counts. NaN counts as 0; a little of the width is added,
    so that without any slope the widest dimension is cut.
    """
    rows = sets.best_rows(found.lower)
    slopes = found.slopes.gather(1, rows[:, :, None].expand(-1, -1, width.shape[1])).abs().nan_to_num(0.0, 0.0, 0.0)
    total = (slopes * open_sets[:, :, None]).sum(1)
    return (total + 1e-9 * (total.amax(1, keepdim=True) + 1)) * width
