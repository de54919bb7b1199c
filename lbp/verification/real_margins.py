"""Whether a network misclassifies a point in real arithmetic, of which outward bounds speak."""

from functools import cached_property

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.errors import InvalidInputError
from lbp.graph.float64_copy import float64_copy
from lbp.perturbations import PerturbationLpNorm
from lbp.specification import margins
from lbp.verification.batches import LARGEST_BATCH
from lbp.verification.properties.attack import POINT_METHODS
from lbp.verification.verify import bound_options


class RealMargins:
    """The margins of a network at points, as far as outward bounds in float64 know them.

    Args:
        model: network to logits, in evaluation mode; the bounds are those of its weights at the first question.
        example: an input [1, *shape] of the type of the model's weights.
        num_classes: number of logits.
        memory_budget: bytes, or text like "4GiB", that bounds may take; None: half of the memory that is free. A method
            that cannot bound one point within it is left out.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, num_classes: int, memory_budget: int | str | None = None
    ) -> None:
        self._model = model
        self._example = example
        self._classes = num_classes
        self._memory_budget = memory_budget

    @torch.no_grad()
    def certainly_misclassified(self, points: Tensor, labels: Tensor) -> Tensor:
        """Whether a margin is 0 or negative whatever rounding does.

        Intervals grow from layer to layer even at a point; what they cannot tell is left to CROWN-IBP and CROWN.

        Args:
            points: [B, *shape], of the type of the model's weights.
            labels: int64 [B].

        Returns:
            bool [B]; False where float64 cannot tell.

        Raises:
            UnsupportedLayerError, UnanalysedRoundingError: as `BoundedModule.compute_bounds`.
        """
        wrong = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for method in POINT_METHODS:
            left = (~wrong).nonzero().squeeze(1)
            size = self._points_at_once(method) if len(left) else None
            if size is None:
                continue
            for part in left.split(size):
                wrong[part] = (self._upper(points[part], labels[part], method) <= 0).any(1)
        return wrong

    def _points_at_once(self, method: str) -> int | None:
        """How many points a method takes at a time; None: the budget does not allow for one."""
        try:
            return min(self._net.images_within(method, rows=self._classes - 1), LARGEST_BATCH)
        except InvalidInputError:
            return None

    def _upper(self, points: Tensor, labels: Tensor, method: str) -> Tensor:
        """Upper bounds of the margins at points, [B, num_classes - 1]."""
        exact = BoundedTensor(points.double(), PerturbationLpNorm(0.0))
        rows = margins(labels, self._classes, dtype=torch.float64)
        _, upper = self._net.compute_bounds(x=(exact,), C=rows, method=method, bound_lower=False)[:2]
        assert upper is not None
        return upper

    @cached_property
    def _net(self) -> BoundedModule:
        options = bound_options("tight", self._memory_budget, textbook=False, rounding="outward")
        copy = float64_copy(self._model, self._example)
        return BoundedModule(copy, self._example.double(), bound_opts=options)
