"""The clean warm-up of ParamRamp networks (Lyu et al. 2021)."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from lbp.errors import InvalidInputError
from lbp.nn import ParamRamp, evaluation_mode
from lbp.precision import free_convolutions, full_precision
from lbp.training.distributed import World


def param_ramps(model: nn.Module) -> Iterator[tuple[str, ParamRamp]]:
    """Every ParamRamp of a model with its module path."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, ParamRamp))


def start_warm_up(model: nn.Module) -> None:
    """Makes every ParamRamp act as LeakyReLU."""
    for _, module in param_ramps(model):
        module.warm_up = True


@torch.no_grad()
def mean_activations(
    model: nn.Module, images: Tensor, batch_size: int = 1024, world: World | None = None
) -> dict[str, Tensor]:
    """Mean post-activation of every neuron that has its own r, over the given images.

    Args:
        model: network with ParamRamp activations; run in evaluation mode and put back as it was.
        images: un-augmented training set [N, C, H, W], on any device.
        batch_size: images at a time.
        world: the processes among which the images are divided, all of which get the means; None: this one alone.

    Returns:
        float64 mean by module path, each with the shape of the module's r.

    Raises:
        InvalidInputError: no images.
    """
    if len(images) == 0:
        raise InvalidInputError("mean activations of an empty set of images")
    ramps, world = dict(param_ramps(model)), world or World()
    if not ramps:
        return {}
    device = next(iter(model.parameters())).device
    sums = {name: torch.zeros_like(module.r, dtype=torch.float64) for name, module in ramps.items()}
    terms = {name: torch.zeros_like(total) for name, total in sums.items()}

    def add(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        sums[name] += output.double().sum(0).sum_to_size(sums[name].shape)
        terms[name] += output.numel() / sums[name].numel()

    handles = [module.register_forward_hook(partial(add, name)) for name, module in ramps.items()]
    try:
        with evaluation_mode(model), free_convolutions(), full_precision():
            for batch in images.tensor_split(world.size)[world.rank].split(batch_size):
                if len(batch) > 0:
                    model(batch.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: world.sum(total) / world.sum(terms[name]) for name, total in sums.items()}


def end_warm_up(model: nn.Module, images: Tensor, batch_size: int = 1024, world: World | None = None) -> None:
    """Sets r of every ParamRamp to its neurons' mean activations over the training set and makes it a ramp.

    Args:
        model: network whose ParamRamps are in the warm-up.
        images: un-augmented training set [N, C, H, W], on any device.
        batch_size: images at a time.
        world: as for `mean_activations`.
    """
    ramps = dict(param_ramps(model))
    for name, mean in mean_activations(model, images, batch_size, world).items():
        ramps[name].end_warm_up(mean)
