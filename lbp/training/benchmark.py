"""A training step with nothing around it, for measuring its time."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lbp.models import build
from lbp.models.settings import ActivationName
from lbp.training.schedules import Controls
from lbp.training.settings import TrainingSettings
from lbp.training.step import TrainingStep


def make_step(
    architecture: str,
    activation: ActivationName,
    loss: Literal["natural", "ibp", "crown-ibp"],
    *,
    input_shape: tuple[int, int, int] = (1, 28, 28),
    num_classes: int = 10,
    batch_size: int = 256,
    eps: float = 0.2,
    device: torch.device | str = "cpu",
    capture: bool = True,
) -> Callable[[], Tensor]:
    """Makes a function that trains a network on one random batch, once per call, as in the middle of a ramp of eps.

    Clean pass, bounds, loss, backward pass, update by Adam; CROWN-IBP and IBP bounds are mixed half and half, clean and
    bound loss too. Data, schedules and reading of the results are no part of it. On a GPU a call returns before the
    device is done, and the first calls also choose algorithms and capture a CUDA graph: call it five times before
    timing, and synchronise around what is timed.

    Args:
        architecture: a name of `lbp.models.ARCHITECTURES`.
        activation: "relu", "leaky-relu" or "ramp"; the latter two with slope 0.01.
        loss: as in `TrainingSettings`.
        input_shape: (channels, height, width).
        num_classes: of the logits.
        batch_size: examples of the batch.
        eps: radius.
        device: where to train.
        capture: whether to capture the step as a CUDA graph on a GPU.

    Returns:
        a function that runs one step and returns its report [4] on the device: sum of the losses, misclassified and
        unverified examples, 1 if a step has failed.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        slope = 0.0 if activation == "relu" else 0.01
        model = build(architecture, input_shape, num_classes, activation, eta=slope).to(device).train()
        images = torch.rand(batch_size, *input_shape).to(device)
        labels = torch.randint(num_classes, (batch_size,)).to(device)
    settings = TrainingSettings(loss=loss, eps=2 * eps, epochs=1)
    step = TrainingStep(model, images[:1], num_classes, settings, capture=capture)
    controls = Controls(
        certified=loss != "natural",
        eps=eps,
        kappa=1.0 if loss == "natural" else 0.5,
        beta=0.5 if loss == "crown-ibp" else 0.0,
        regularization=0.0,
        eta=None,
        lr=1e-6,
    )
    return lambda: step(images, labels, controls, 0)
