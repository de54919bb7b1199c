"""The loss of one step: clean pass, bounds, regularisers (Lyu et al. 2021, section 6; Shi et al. 2021)."""

import sys
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.errors import InvalidInputError
from lbp.perturbations import PerturbationLpNorm
from lbp.specification import margins
from lbp.training.distributed import World
from lbp.training.fusion import fused_loss
from lbp.training.losses import margin_loss, mixed_loss
from lbp.training.regularizers import warm_up_regularization
from lbp.training.schedules import Controls
from lbp.training.settings import TrainingSettings

_NO_LIMIT = sys.maxsize
"""Bytes: gradients need every value whatever the split of a batch, and no step asks what memory is free."""


@dataclass(frozen=True)
class Parts:
    """Which parts a loss has: what a captured graph of the step is made for.

    Attributes:
        bounds: bounds take part.
        clean: the clean loss takes part beside them.
        crown: CROWN-IBP bounds are mixed with IBP bounds.
        regularized: warm-up regularisers are added.
    """

    bounds: bool
    clean: bool
    crown: bool
    regularized: bool

    @classmethod
    def of(cls, controls: Controls) -> "Parts":
        """The parts whose weight is not 0."""
        return cls(
            bounds=controls.certified,
            clean=controls.kappa > 0,
            crown=controls.beta > 0,
            regularized=controls.regularization > 0,
        )


class Outcome(NamedTuple):
    """What a step computes, on its device.

    Attributes:
        loss: 0-dim, with history; of this process's examples, weighted so that the mean over processes is the mean
            over the whole batch.
        report: [3] without history: sum over this process's examples of the loss, of the misclassified and of those
            that the bounds do not verify.
    """

    loss: Tensor
    report: Tensor


class Objective(nn.Module):
    """Maps a batch to the loss that training lowers.

    Args:
        model: network to logits.
        example: an input [1, *shape].
        num_classes: of the data.
        settings: which loss.
        world: the processes that train together.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, num_classes: int, settings: TrainingSettings, world: World
    ) -> None:
        super().__init__()
        self.model = model
        self.bounded = BoundedModule(model, example, {"memory_budget": _NO_LIMIT})
        self._classes = num_classes
        self._settings = settings
        self._world = world

    def forward(self, images: Tensor, labels: Tensor, weights: Tensor, parts: Parts, share: float = 1.0) -> Outcome:
        """Computes the loss and counts errors.

        Args:
            images: [B, *shape].
            labels: int64 [B].
            weights: [4] on the device: eps, kappa, beta, weight of the regularisers.
            parts: which of them matter.
            share: weight of this process's mean, B times the number of processes over the size of the whole batch.

        Raises:
            InvalidInputError: the network has not one output per class.
        """
        eps, kappa, beta, regularization = weights.unbind()
        logits = self.bounded(images)
        if logits.shape[1:] != (self._classes,):
            raise InvalidInputError(
                f"the data has {self._classes} classes, the network gives outputs of shape {list(logits.shape[1:])}; "
                "it must give one number per class"
            )
        wrong = (logits.argmax(1) != labels).sum()
        if not parts.bounds:
            loss = F.cross_entropy(logits, labels)
            return self._outcome(loss, loss, wrong, torch.zeros_like(wrong), len(labels), share)
        region = BoundedTensor(images, PerturbationLpNorm(eps=eps, clip=self._settings.clip))
        loss, verified = self._bound_loss(region, labels, beta if parts.crown else None)
        if parts.clean:
            loss = mixed_loss(logits, labels, loss, kappa)
        total = loss
        if parts.regularized:
            inputs = self.bounded[self.bounded.input_name[0]]
            assert inputs.lower is not None
            assert inputs.upper is not None
            penalty = warm_up_regularization(
                self.bounded.activations(),
                (inputs.lower, inputs.upper),
                self._settings.regularization_tolerance,
                self._world.sum,
            )
            # The penalty is that of the whole batch already: it has no share.
            total = loss + regularization * penalty / share
        return self._outcome(total, loss, wrong, (~verified).sum(), len(labels), share)

    def _bound_loss(self, region: BoundedTensor, labels: Tensor, beta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mean loss on the bounds, and which examples [B] they verify."""
        if self._settings.fusion:
            losses, verified = fused_loss(self.bounded, region, labels, beta)
            return losses.mean(), verified
        specification = margins(labels, self._classes, dtype=region.dtype)
        lower = self.bounded.compute_bounds(x=(region,), C=specification, method="IBP", bound_upper=False)[0]
        assert lower is not None
        if beta is not None:
            # Without x, the hidden layers keep the bounds that IBP has just found.
            by_crown = self.bounded.compute_bounds(C=specification, method="backward", bound_upper=False)[0]
            assert isinstance(by_crown, Tensor)
            lower = (1 - beta) * lower + beta * by_crown
        return margin_loss(lower), (lower > 0).all(1)

    @staticmethod
    def _outcome(total: Tensor, loss: Tensor, wrong: Tensor, unverified: Tensor, count: int, share: float) -> Outcome:
        counts = torch.stack([loss.detach() * count, wrong, unverified])
        return Outcome(total if share == 1.0 else total * share, counts)
