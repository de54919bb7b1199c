"""Images that float32 bounds leave open by no more than rounding outward may cost them, decided in float64."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule
from lbp.graph.float64_copy import float64_copy
from lbp.linear import round_down
from lbp.perturbations import PerturbationLpNorm
from lbp.verification.margins import margin_bounds

CLOSE = 0.05
"""How far below 0 the least bound of a close call lies at most, as a share of the least margin at the image itself.

Outward bounds in float32 lose about a thousandth of it, and more only where the lines of a neuron change their kind: of
20,000 verdicts on MNIST one missed 0 by 0.03 of it.
"""


class CloseCalls:
    """Decides what rounding outward in float32 leaves open and rounding to nearest does not.

    Such an image is bounded again in float64, rounded outward, as the same function (`lbp.graph.float64_copy`) over the
    same region: the certificate is as rigorous, and few images pay for it.

    Args:
        model: network to logits, in evaluation mode.
        example: an image [1, *shape].
        options: of `BoundedModule`.
        perturbation: the region around every image.
        num_classes: number of logits.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        options: Mapping[str, Any],
        perturbation: PerturbationLpNorm,
        num_classes: int,
    ) -> None:
        self._model = model
        self._example = example
        self._options = dict(options)
        self._question: dict[str, Any] = {"num_classes": num_classes, "perturbation": perturbation}

    def bounds(self, net: BoundedModule, x: Tensor, labels: Tensor, at_image: Tensor, method: str) -> Tensor:
        """Return lower bounds [B, S] of the margins by a network's bounds, and what `settled` makes of them."""
        lower = margin_bounds(net, x, labels, method=method, **self._question)
        return self.settled(lower, x, labels, at_image, method)

    def settled(self, lower: Tensor, x: Tensor, labels: Tensor, at_image: Tensor, method: str) -> Tensor:
        """Return the bounds of margins, those of close calls as high as float64 shows.

        Args:
            lower: [B, S], by the method.
            x: images [B, *shape]; where they are float64 already, or the level is not "outward", nothing is close.
            labels: int64 [B].
            at_image: [B], the least margin at the image itself.
            method: as `compute_bounds` takes it.
        """
        if x.dtype != torch.float32 or self._options["rounding"] != "outward":
            return lower
        least, at_image = lower.amin(1), at_image.to(lower.device)
        close = ((least <= 0) & (-least < CLOSE * at_image)).nonzero().squeeze(1)
        if not len(close):
            return lower
        images, of_images = x[close.to(x.device)], labels[close.to(labels.device)]
        nearest = margin_bounds(self._nearest, images, of_images, method=method, **self._question)
        lost = (nearest > 0).all(1).to(close.device).nonzero().squeeze(1)
        if not len(lost):
            return lower
        images, of_images = images[lost.to(x.device)], of_images[lost.to(labels.device)]
        in_float64 = margin_bounds(self._in_float64, images.double(), of_images, method=method, **self._question)
        places = close[lost]
        found = round_down(in_float64, lower.dtype).to(lower.device)
        return lower.index_copy(0, places, torch.fmax(lower[places], found))

    @cached_property
    def _nearest(self) -> BoundedModule:
        return BoundedModule(self._model, self._example, bound_opts={**self._options, "rounding": "nearest"})

    @cached_property
    def _in_float64(self) -> BoundedModule:
        copy = float64_copy(self._model, self._example)
        return BoundedModule(copy, self._example.double(), bound_opts=self._options)
