"""Choosing the epoch whose network is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule
from lbp.data import Dataset
from lbp.nn import evaluation_mode
from lbp.perturbations import PerturbationLpNorm
from lbp.training.settings import TrainingSettings
from lbp.verification import certainly_above, margin_bounds

_BATCH = 1024


@dataclass(frozen=True)
class Choice:
    """The epoch chosen so far.

    Attributes:
        epoch: counted from 0.
        score: smaller is better: the verified error on the held-out set, the clean error in natural training.
        state: the network's state dict at the end of that epoch.
    """

    epoch: int
    score: float
    state: dict[str, Tensor]


@torch.no_grad()
def held_out_errors(
    bounded: BoundedModule, model: nn.Module, data: Dataset, settings: TrainingSettings
) -> tuple[float, float]:
    """Clean error, and IBP-verified error at the final radius, as shares; the model runs in evaluation mode.

    Args:
        bounded: of the model.
        model: network to logits.
        data: held-out examples on the model's device, in the network's input size.
        settings: of the training.
    """
    region = PerturbationLpNorm(eps=settings.eps, clip=settings.clip)
    wrong = torch.zeros((), dtype=torch.int64, device=data.labels.device)
    verified = wrong.clone()
    with evaluation_mode(model):
        for images, labels in zip(data.images.split(_BATCH), data.labels.split(_BATCH), strict=True):
            right = model(images).argmax(1) == labels
            lower = margin_bounds(
                bounded, images, labels, num_classes=data.num_classes, perturbation=region, method="IBP"
            )
            wrong += (~right).sum()
            verified += (right & certainly_above(lower).all(1)).sum()
    return int(wrong) / len(data), 1.0 - int(verified) / len(data)


def score_of(settings: TrainingSettings, errors: tuple[float, float]) -> float:
    """What the choice looks at: the clean error of natural training, else the verified error."""
    return errors[0] if settings.loss == "natural" else errors[1]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state dict."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
