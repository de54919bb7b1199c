"""From what callers write to what the schema takes, and how ops are registered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lbp import _native
from lbp.ops._calls import add_composite, add_gradient, call_of
from lbp.precision import full_precision

RampParameters = tuple[float, Tensor | None, float, Tensor | None]

NO_BALL = (0.0, None, math.inf)
"""The number and the tensor of the radius, and p, where the region is a box."""


def native(name: str) -> Callable[..., Any]:
    """Return what calls the registered op `lbp::name`.

    Raises:
        NativeLibraryMissingError: the kernels are not built.
    """
    _native.require()
    return call_of(name)


def check_forward(matrices: Sequence[Tensor | None], first: int) -> None:
    """Check that center, radius, center_bias and radius_bias are of one layer: as many values are not the same neurons.

    Args:
        matrices: the four.
        first: dimension of center from which on the layer's shape stands.

    Raises:
        RuntimeError: they are not.
    """
    center, radius, center_bias, radius_bias = matrices
    assert center is not None
    assert center_bias is not None
    if center_bias.shape[1:] != center.shape[first:]:
        layer = list(center.shape[first:])
        raise RuntimeError(
            f"center_bias: expected a batch of the shape {layer} as in center, got {list(center_bias.shape)}"
        )
    check_spread(radius, center, radius_bias, center_bias)


def check_spread(radius: Tensor | None, center: Tensor, radius_bias: Tensor | None, center_bias: Tensor) -> None:
    """Check that radii have the shapes of their centers.

    Args:
        radius: None for zero, as radius_bias.
        center: that of radius.
        radius_bias: see radius.
        center_bias: that of radius_bias.

    Raises:
        RuntimeError: they have not.
    """
    for name, spread, of in (("radius", radius, center), ("radius_bias", radius_bias, center_bias)):
        if spread is not None and spread.shape != of.shape:
            raise RuntimeError(f"{name}: expected the shape of its center, {list(of.shape)}, got {list(spread.shape)}")


def ramp_parameters(r: Tensor | float, eta: Tensor | float, shape: Sequence[int]) -> RampParameters:
    """Split r and eta into the numbers and tensors of the schema.

    Args:
        r: bending point, a number or a tensor that broadcasts to `shape`.
        eta: outer slope, a number or a tensor with one element.
        shape: shape of a layer's neurons, without the batch.

    Raises:
        ValueError: r is a number not above 0, eta a number outside [0, 1], or a tensor has a shape that does not fit.
    """
    check_numbers(r, eta)
    return split_parameters(r, eta, shape)


def split_parameters(r: Tensor | float, eta: Tensor | float, shape: Sequence[int]) -> RampParameters:
    """Split what `check_numbers` has checked; see `ramp_parameters`."""
    if isinstance(eta, Tensor) and eta.numel() != 1:
        raise ValueError(f"eta must be a number or a tensor with one element, got shape {tuple(eta.shape)}")
    r_number, r_tensor = (math.inf, per_neuron(r, "r", shape)) if isinstance(r, Tensor) else (float(r), None)
    eta_number, eta_tensor = (0.0, eta) if isinstance(eta, Tensor) else (float(eta), None)
    return r_number, r_tensor, eta_number, eta_tensor


def check_numbers(r: Tensor | float, eta: Tensor | float) -> None:
    """Check r and eta where they are numbers; tensors are not read, which would stop a device.

    Raises:
        ValueError: r is not above 0, or eta lies outside [0, 1].
    """
    if not isinstance(r, Tensor) and not r > 0:
        raise ValueError(f"r must be above 0, got {r}")
    if not isinstance(eta, Tensor) and not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")


def per_neuron(values: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    """Bring a tensor that broadcasts to `shape` into one of the layouts that the kernels read.

    These are one value, one per channel ([C, 1, ...]) and one per neuron; anything else is expanded to one per neuron.

    Raises:
        ValueError: the tensor does not broadcast to `shape`.
    """
    own, shape = values.shape, tuple(shape)
    if own == shape or values.numel() == 1:
        return values
    if len(own) == len(shape) and own[:1] == shape[:1] and all(size == 1 for size in own[1:]):  # per channel
        return values
    try:
        return values.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} of shape {tuple(own)} does not broadcast to the layer's shape {shape}") from None


def radius_parameters(eps: Tensor | float, like: Tensor) -> tuple[float, Tensor | None]:
    """Split the radius of a ball into the number and the tensor of the schema.

    A number stays one: to make a tensor of it takes a device a launch of its own. Not in a compiled function: there the
    numbers of the schema are constants, and every other radius would compile it again.

    Args:
        eps: a number, or a tensor with one value or one per image.
        like: on the device of the op.

    Returns:
        The number, and the tensor in float64; the number is not read where there is a tensor.
    """
    if isinstance(eps, Tensor):
        return math.inf, eps.to(torch.float64).reshape(-1)
    if torch.compiler.is_compiling():
        return math.inf, torch.full((1,), eps, dtype=torch.float64, device=like.device)
    return float(eps), None


def sum_to(gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a gradient [B, ...] to the shape that was broadcast to it."""
    return gradient if gradient.shape == shape else gradient.sum_to_size(shape)


def add_at(total: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Add values [R, ...] to the rows of `total` that `index` [R] names, always in the same order, and return it.

    On CUDA devices `index_add` adds in the order in which threads arrive; `index_put` sorts first.
    """
    if values.is_cuda:
        return total.index_put_((index,), values, accumulate=True)
    return total.index_add_(0, index, values)


def take_at(values: Tensor, dimension: int, index: Tensor) -> Tensor:
    """Return the entries of `values` along a dimension that `index` [R] names.

    On CUDA devices the gradient of `index_select` adds in the order in which threads arrive; indexing sorts first.
    """
    if values.is_cuda:
        return values[(slice(None),) * dimension + (index,)]
    return values.index_select(dimension, index)


def common_batch(*tensors: Tensor) -> int:
    """Return the batch that the first dimensions of the tensors broadcast to: a size of 1 serves any batch."""
    for tensor in tensors:
        if tensor.shape[0] != 1:
            return tensor.shape[0]
    return 1


def register_composite(name: str, function: Callable[..., Any], *, devices: Sequence[str] = ("CPU", "CUDA")) -> None:
    """Register an op that is made of other ops and of the library's products and convolutions.

    It serves the CPU and, where lbp has kernels for them, CUDA devices; ops that the library itself registers for CUDA
    devices (csrc/torch/cuda_products.cpp) name the CPU alone.
    """
    for device in devices:
        if device == "CPU" or _native.cuda_build != "none":
            torch.library.impl(f"lbp::{name}", device, function)
            add_composite(name, device.lower(), function)


def register_gradient(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None], *, with_products: bool = True
) -> None:
    """Register the gradient of an op.

    Args:
        name: of the op.
        backward: from the gradients of its results to those of its arguments.
        setup_context: keeps what that needs.
        with_products: whether it calls the library's products, which must run in full precision.
    """
    add_gradient(name, full_precision()(backward) if with_products else backward, setup_context)


def contiguous(results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Bring the results of library calls into the layout that the fake functions promise.

    A convolution passes the memory format of its input or weight on.
    """
    return tuple(result.contiguous() for result in results)


def refuse_second_order(name: str) -> None:
    """Make differentiating a gradient op an error: the ops are differentiable once."""

    def backward(ctx: object, *gradients: Tensor) -> None:
        raise NotImplementedError(f"lbp::{name} is itself a gradient: the bound ops are differentiable once, not twice")

    torch.library.register_autograd(f"lbp::{name}", backward)
