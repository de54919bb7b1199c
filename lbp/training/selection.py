"""Choosing the epoch whose network is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule
from lbp.data import Dataset
from lbp.nn import evaluation_mode
from lbp.perturbations import PerturbationLpNorm
from lbp.precision import free_convolutions, full_precision
from lbp.training.distributed import World
from lbp.training.settings import TrainingSettings
from lbp.verification import certainly_above, margin_bounds

_BATCH = 256


@dataclass(frozen=True)
class Choice:
    """The epoch chosen so far.

    Attributes:
        epoch: counted from 0.
        rank: smaller is better: the errors on the held-out set as `rank_of` orders them.
        state: the network's state dict at the end of that epoch.
    """

    epoch: int
    rank: tuple[float, float]
    state: dict[str, Tensor]


@torch.no_grad()
def held_out_errors(
    bounded: BoundedModule, model: nn.Module, share: Dataset, settings: TrainingSettings, world: World
) -> tuple[float, float]:
    """Clean error, and IBP-verified error at the final radius, as shares; the model runs in evaluation mode.

    Args:
        bounded: of the model.
        model: network to logits.
        share: this process's held-out examples on the model's device, in the network's input size; may be empty.
        settings: of the training.
        world: the processes, whose counts are summed.
    """
    region = PerturbationLpNorm(eps=settings.eps, clip=settings.clip)
    wrong = torch.zeros((), dtype=torch.int64, device=share.labels.device)
    unverified = wrong.clone()
    with evaluation_mode(model):
        for images, labels in zip(share.images.split(_BATCH), share.labels.split(_BATCH), strict=True):
            with free_convolutions(), full_precision():
                right = model(images).argmax(1) == labels
            lower = margin_bounds(
                bounded, images, labels, num_classes=share.num_classes, perturbation=region, method="IBP"
            )
            wrong += (~right).sum()
            unverified += (~(right & certainly_above(lower).all(1))).sum()
    counts = torch.stack([wrong, unverified, torch.full_like(wrong, len(share))])
    wrong_count, unverified_count, examples = world.sum(counts).tolist()
    return wrong_count / examples, unverified_count / examples


def rank_of(settings: TrainingSettings, errors: tuple[float, float]) -> tuple[float, float]:
    """What the choice looks at, smaller is better: the error that training lowers, and for ties the other.

    Args:
        settings: of the training.
        errors: clean and verified error; natural training is ranked by the clean one, every other by the verified one.
    """
    clean, verified = errors
    return (clean, verified) if settings.loss == "natural" else (verified, clean)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state dict."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
