"""Whether a network misclassifies a point in real arithmetic, of which outward bounds speak."""

from functools import cached_property

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.graph.float64_copy import float64_copy
from lbp.perturbations import PerturbationLpNorm
from lbp.specification import margins


class RealMargins:
    """The margins of a network at points, as far as outward bounds in float64 know them.

    Args:
        model: network to logits, in evaluation mode; the bounds are those of its weights at the first question.
        example: an input [1, *shape] of the type of the model's weights.
        num_classes: number of logits.
        at_once: points at a time; None: all.
    """

    def __init__(self, model: nn.Module, example: Tensor, num_classes: int, at_once: int | None = None) -> None:
        self._model = model
        self._example = example
        self._classes = num_classes
        self._at_once = at_once

    def certainly_misclassified(self, points: Tensor, labels: Tensor) -> Tensor:
        """Whether a margin is 0 or negative whatever rounding does.

        Args:
            points: [B, *shape], of the type of the model's weights.
            labels: int64 [B].

        Returns:
            bool [B]; False where float64 cannot tell.

        Raises:
            UnsupportedLayerError, UnanalysedRoundingError: as `BoundedModule.compute_bounds`.
        """
        size = self._at_once or max(len(points), 1)
        parts = zip(points.split(size), labels.split(size), strict=True)
        return torch.cat([(self._upper(*part) <= 0).any(1) for part in parts])

    def _upper(self, points: Tensor, labels: Tensor) -> Tensor:
        """Upper bounds of the margins at points, [B, num_classes - 1]."""
        exact = BoundedTensor(points.double(), PerturbationLpNorm(0.0))
        rows = margins(labels, self._classes, dtype=torch.float64)
        _, upper = self._net.compute_bounds(x=(exact,), C=rows, method="IBP", bound_lower=False, rounding="outward")[:2]
        assert upper is not None
        return upper

    @cached_property
    def _net(self) -> BoundedModule:
        return BoundedModule(float64_copy(self._model, self._example), self._example.double())
