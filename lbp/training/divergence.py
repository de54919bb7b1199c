"""Finding the layer where a training step went wrong."""

import torch
from torch import Tensor, nn

from lbp.checks import trusted_values
from lbp.errors import LbpError
from lbp.training.objective import Objective, Parts


class TrainingDivergedError(LbpError, ArithmeticError):
    """The loss or its gradient is NaN or infinite."""


def locate(objective: Objective, images: Tensor, labels: Tensor, weights: Tensor, parts: Parts) -> str:
    """Runs a failed step again and names the first thing in it that is not finite.

    Args:
        objective: with the weights that the step failed with.
        images: the batch of the step.
        labels: of the batch.
        weights: as the objective takes them.
        parts: as the objective takes them.

    Returns:
        a phrase such as "the weight of conv2 is not finite".
    """
    for name, parameter in objective.model.named_parameters():
        if not _finite(parameter):
            return f"the parameter {name} has values that are not finite"
    layer = _first_bad_output(objective.model, images)
    if layer is not None:
        return f"in the clean pass the output of layer {layer} is not finite"
    with trusted_values():
        loss, _ = objective(images, labels, weights, parts)
    if parts.bounds:
        for node in objective.bounded.nodes():
            if node.lower is not None and node.upper is not None and not (_finite(node.lower) and _finite(node.upper)):
                return f"the bounds of layer {node.name} are not finite"
    if not _finite(loss):
        return "the loss on the output of the last layer is not finite"
    gradients = torch.autograd.grad(loss, list(objective.model.parameters()), allow_unused=True)
    # Back-propagation meets the last layer first.
    for (name, _), gradient in reversed(list(zip(objective.model.named_parameters(), gradients, strict=True))):
        if gradient is not None and not _finite(gradient):
            return f"the gradient of {name} is not finite"
    return "the step is finite when it is run again"


def _first_bad_output(model: nn.Module, images: Tensor) -> str | None:
    found: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if next(module.children(), None) is None:

            def note(module: nn.Module, inputs: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor) and not _finite(output):
                    found.append(name)

            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values.detach()).all())
