"""How many examples at a time."""

import torch
from torch import Tensor, nn

DEFAULT_BUDGET = 1 << 30
"""Bytes for the coefficients of a batch where nobody says otherwise."""

_LARGEST = 512


def default_batch_size(model: nn.Module, example: Tensor, method: str, memory_budget: int = DEFAULT_BUDGET) -> int:
    """Examples whose largest coefficient matrices stay within a budget, by the number of neurons of the layers.

    Args:
        model: network; its modules with parameters count as layers.
        example: one input [1, *shape].
        method: canonical name of the method.
        memory_budget: bytes; an estimate from shapes that counts whole matrices, so that one example is the least.

    Returns:
        between 1 and 512.
    """
    neurons = _layer_sizes(model, example)
    inputs, widest, outputs = example[0].numel(), max(neurons), neurons[-1]
    match method:
        case "IBP":
            entries = sum(neurons)
        case "CROWN-IBP":
            entries = 2 * outputs * widest
        case "LBP" | "CROWN-LBP":
            entries = 2 * inputs * widest + 2 * outputs * widest
        case _:
            below = [max([inputs, *neurons[:position]]) for position in range(len(neurons))]
            entries = 2 * max(rows * columns for rows, columns in zip(neurons, below, strict=True))
    # A pass holds about three such matrices: the one before, the one after, and a temporary.
    size = 3 * entries * example.element_size()
    return max(1, min(_LARGEST, memory_budget // size))


def _layer_sizes(model: nn.Module, example: Tensor) -> list[int]:
    sizes: list[int] = []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    handles = [module.register_forward_hook(note) for module in layers]
    try:
        with torch.no_grad():
            output = model(example)
    finally:
        for handle in handles:
            handle.remove()
    return sizes or [output.numel()]
