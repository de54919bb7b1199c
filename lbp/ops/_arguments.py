"""From what callers write to what the schema takes.

Parameters of activations, given lines, and their gradients back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lbp import _native
from lbp.precision import full_precision
from lbp.strategies import strategy_code

# Bits of `needs` in the gradient ops: which gradients are wanted.
NEED_BOUNDS, NEED_R, NEED_GIVEN, NEED_MATRIX, NEED_BIAS = 1, 2, 4, 8, 16

RampParameters = tuple[float, Tensor | None, float, Tensor | None]


def native(name: str) -> torch._ops.OpOverload:
    """Return the registered op `lbp::name`.

    Raises:
        NativeLibraryMissingError: the kernels are not built.
    """
    _native.require()
    overload: torch._ops.OpOverload = getattr(torch.ops.lbp, name).default
    return overload


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
    shape = tuple(shape)
    own = tuple(values.shape)
    per_channel = len(own) == len(shape) and own[:1] == shape[:1] and all(size == 1 for size in own[1:])
    if values.numel() == 1 or own == shape or per_channel:
        return values
    try:
        return values.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} of shape {own} does not broadcast to the layer's shape {shape}") from None


class RelaxationArguments(NamedTuple):
    """The arguments l ... upper_intercept of the schema, in its order."""

    l: Tensor
    u: Tensor
    r: float
    r_tensor: Tensor | None
    eta: float
    eta_tensor: Tensor | None
    strategy: int
    lower_slope: Tensor | None
    lower_intercept: Tensor | None
    upper_slope: Tensor | None
    upper_intercept: Tensor | None


RELAXATION_LENGTH = len(RelaxationArguments._fields)


def relaxation_arguments(
    l: Tensor,
    u: Tensor,
    r: Tensor | float,
    eta: Tensor | float,
    strategy: str,
    lower_slope: Tensor | None,
    upper_slope: Tensor | None,
    lower_intercept: Tensor | None,
    upper_intercept: Tensor | None,
) -> RelaxationArguments:
    """Bring the arguments of a relaxation into the order and shapes of the schema.

    Raises:
        ValueError: an unknown strategy, lines or slopes with a strategy that does not read them (or missing where it
            does), r or eta out of range, or shapes that do not fit.
    """
    check_given(strategy, lower_slope, upper_slope, lower_intercept, upper_intercept)
    if l.shape != u.shape:
        l, u = torch.broadcast_tensors(l, u)
    given = [lower_slope, lower_intercept, upper_slope, upper_intercept]
    present = [line for line in given if line is not None]
    if present:
        # Given lines may have a batch of their own (of size 1, or the one of the coefficients).
        batch = common_batch(*[line for line in present if line.dim() == l.dim()])
        given = [None if line is None else line.expand(batch, *l.shape[1:]) for line in given]
    return RelaxationArguments(l, u, *ramp_parameters(r, eta, l.shape[1:]), strategy_code(strategy), *given)


def check_given(
    strategy: str,
    lower_slope: Tensor | None,
    upper_slope: Tensor | None,
    lower_intercept: Tensor | None,
    upper_intercept: Tensor | None,
) -> None:
    """Check that the given lines belong to the strategy.

    Raises:
        ValueError: an unknown strategy, or given lines that it does not read, or lacks.
    """
    strategy_code(strategy)
    slopes = lower_slope is not None or upper_slope is not None
    intercepts = lower_intercept is not None or upper_intercept is not None
    if strategy == "lines":
        if any(line is None for line in (lower_slope, upper_slope, lower_intercept, upper_intercept)):
            raise ValueError(
                "strategy 'lines' takes all four of lower_slope, lower_intercept, upper_slope, upper_intercept"
            )
    elif intercepts or (slopes and strategy != "slopes"):
        raise ValueError(
            f"strategy {strategy!r} does not read given lines: use 'slopes' with lower_slope and upper_slope, "
            "or 'lines' with all four of slopes and intercepts"
        )
    elif strategy == "slopes" and not slopes:
        raise ValueError("strategy 'slopes' takes lower_slope, upper_slope or both")


def named_lines(
    lower_slope: Tensor | None,
    upper_slope: Tensor | None,
    lower_intercept: Tensor | None,
    upper_intercept: Tensor | None,
) -> dict[str, Any]:
    """Return the given lines as keywords, for the functions of `lbp.reference`."""
    return {
        "lower_slope": lower_slope,
        "upper_slope": upper_slope,
        "lower_intercept": lower_intercept,
        "upper_intercept": upper_intercept,
    }


def needed_gradients(needs_input_grad: Sequence[bool], start: int) -> int:
    """Return the `needs` bits of a relaxation whose arguments start at position `start` of an op's inputs."""
    fields = RelaxationArguments._fields
    wanted = {name: needs_input_grad[start + i] for i, name in enumerate(fields)}
    bounds = NEED_BOUNDS if wanted["l"] or wanted["u"] else 0
    bending = NEED_R if wanted["r_tensor"] else 0
    given = NEED_GIVEN if any(wanted[name] for name in fields[-4:]) else 0
    return bounds | bending | given


def relaxation_gradients(arguments: RelaxationArguments, gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of all arguments of a relaxation from the seven tensors [B, *shape] of a gradient op."""
    l, u, r, lower_slope, lower_intercept, upper_slope, upper_intercept = gradients

    def fitted(gradient: Tensor, to: Tensor | None) -> Tensor | None:
        return None if to is None or _absent(gradient, to) else sum_to(gradient, to.shape)

    return [
        fitted(l, arguments.l),
        fitted(u, arguments.u),
        None,
        fitted(r, arguments.r_tensor),
        None,
        None,
        None,
        fitted(lower_slope, arguments.lower_slope),
        fitted(lower_intercept, arguments.lower_intercept),
        fitted(upper_slope, arguments.upper_slope),
        fitted(upper_intercept, arguments.upper_intercept),
    ]


def _absent(gradient: Tensor, of: Tensor) -> bool:
    return gradient.dim() == 1 and gradient.shape[0] == 0 and of.numel() > 0


def sum_to(gradient: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum a gradient [B, ...] to the shape that was broadcast to it."""
    return gradient if tuple(gradient.shape) == tuple(shape) else gradient.sum_to_size(tuple(shape))


def added_at(total: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Return `total` with values [R, ...] added to its rows that `index` [R] names, always in the same order.

    On CUDA devices `index_add` adds in the order in which threads arrive; `index_put` sorts first.
    """
    if values.is_cuda:
        return total.index_put((index,), values, accumulate=True)
    return total.index_add(0, index, values)


def save_relaxation(ctx: Any, arguments: RelaxationArguments, *more: Tensor | None) -> None:
    """Keep a relaxation's arguments, and more tensors, for the backward pass."""
    ctx.numbers = {name: value for name, value in arguments._asdict().items() if not isinstance(value, Tensor)}
    ctx.tensor_names = [name for name, value in arguments._asdict().items() if isinstance(value, Tensor)]
    ctx.save_for_backward(*(getattr(arguments, name) for name in ctx.tensor_names), *more)


def saved_relaxation(ctx: Any) -> tuple[RelaxationArguments, tuple[Tensor | None, ...]]:
    """Return what `save_relaxation` kept."""
    count = len(ctx.tensor_names)
    tensors = dict(zip(ctx.tensor_names, ctx.saved_tensors[:count], strict=True))
    return RelaxationArguments(**ctx.numbers, **tensors), ctx.saved_tensors[count:]


def fake_relaxation_gradients(like: Tensor, batch: int, shape: tuple[int, ...], needs: int) -> list[Tensor]:
    """Return the seven outputs of a gradient op as fake tensors.

    Bits 1, 2, 4 of `needs` ask for bounds, r and given lines.
    """
    bits = (1, 1, 2, 4, 4, 4, 4)
    return [like.new_empty((batch, *shape)) if needs & bit else like.new_empty((0,)) for bit in bits]


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


def register_gradient(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Register the gradient of an op. Its products run in full precision, like those of the op itself."""
    torch.library.register_autograd(f"lbp::{name}", full_precision()(backward), setup_context=setup_context)


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
