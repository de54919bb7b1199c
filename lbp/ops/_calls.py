"""Calls of the registered ops with as little as possible between caller and kernel.

An op with a gradient written in Python costs tens of microseconds more than its kernel when it goes through PyTorch's
dispatcher: once for each way through the wrapper that `torch.library` keeps for autograd, also where nothing is to be
differentiated. That is longer than a small layer takes. A call therefore goes below autograd where no argument requires
a gradient, and else through an autograd function of its own. An op that is made of other ops is called as the Python
function that it is. Tracing, dispatch modes and function transforms see the registered op.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

Backward = Callable[..., Any]
SetupContext = Callable[[Any, tuple[Any, ...], Any], None]

_composites: dict[tuple[str, str], Callable[..., Any]] = {}
_functions: dict[str, type[torch.autograd.Function]] = {}
_calls: dict[str, Callable[..., Any]] = {}


def refuse_forward_mode(what: str) -> None:
    """Refuse to compute without the tangents of forward-mode differentiation, which would be silently 0.

    Raises:
        NotImplementedError: a level of `torch.autograd.forward_ad` is open, as in `torch.func.jvp`.
    """
    if forward_ad._current_level >= 0:
        raise NotImplementedError(
            f"{what} has no forward-mode gradient (torch.autograd.forward_ad, torch.func.jvp): take reverse-mode ones"
        )


def call_of(name: str) -> Callable[..., Any]:
    """Return what calls `lbp::name`."""
    if torch.compiler.is_compiling():
        return _overload(name)
    if name not in _calls:
        _calls[name] = _make_call(name)
    return _calls[name]


def add_gradient(name: str, backward: Backward, setup_context: SetupContext) -> None:
    """Register the gradient of `lbp::name` for direct calls and for those that go through PyTorch's dispatcher."""
    torch.library.register_autograd(f"lbp::{name}", backward, setup_context=setup_context)
    _functions[name] = _make_function(name, backward, setup_context)


def add_composite(name: str, device: str, function: Callable[..., Any]) -> None:
    """Remember what `lbp::name` is made of on devices of a type."""
    _composites[name, device] = function


def composite(name: str, device: torch.device) -> Callable[..., Any] | None:
    """Return what an op is made of on a device, None where it is a kernel of its own."""
    return _composites.get((name, device.type))


def _overload(name: str) -> torch._ops.OpOverload:
    overload: torch._ops.OpOverload = getattr(torch.ops.lbp, name).default
    return overload


def _below_autograd(name: str) -> Callable[..., Any]:
    """Return what runs the op below autograd, on the CPU without the dispatcher where it is made of other ops."""
    overload, tensors_of = _overload(name), _tensors_of(name)
    # The dispatcher puts defaults in place of what is left out.
    count = len(overload._schema.arguments)

    def run(*arguments: Any) -> Any:
        on_cpu = _composites.get((name, "cpu"))
        with torch._C._AutoDispatchBelowAutograd():
            if (
                on_cpu is None
                or len(arguments) != count
                or torch._C._len_torch_dispatch_stack()
                or not are_plain(tensors_of(arguments))
            ):
                return overload(*arguments)
            return on_cpu(*arguments)

    return run


def _tensors_of(name: str) -> Callable[[tuple[Any, ...]], Iterator[Any]]:
    """Return what picks the tensors, and None for absent ones, out of the arguments of an op.

    To ask of numbers whether they are tensors takes longer than to ask of tensors.
    """
    types = [str(argument.type) for argument in _overload(name)._schema.arguments]
    chosen = [type_ in ("Tensor", "Optional[Tensor]") for type_ in types]
    return lambda arguments: compress(arguments, chosen)


def are_plain(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all tensors are PyTorch's own, on the CPU."""
    # Here and below: `all` and `any` of a generator take twice as long.
    for tensor in tensors:  # noqa: SIM110
        if tensor is not None and not (type(tensor) in _PLAIN and tensor.is_cpu):
            return False
    return True


_PLAIN = (Tensor, Parameter)


def _require_gradients(tensors: Iterable[Any]) -> bool:
    for tensor in tensors:  # noqa: SIM110
        if tensor is not None and isinstance(tensor, Tensor) and tensor.requires_grad:
            return True
    return False


def _left_by_transforms(tensors: Iterable[Any]) -> bool:
    """Whether a tensor was kept beyond the function transform that wrapped it."""
    for tensor in tensors:  # noqa: SIM110
        if tensor is not None and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return True
    return False


def _make_call(name: str) -> Callable[..., Any]:
    overload, run, tensors_of = _overload(name), _below_autograd(name), _tensors_of(name)
    function = _functions.get(name)
    # `apply` itself, without the step before it that looks for transforms, as this does.
    apply = None if function is None else super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def call(*arguments: Any) -> Any:
        if forward_ad._current_level >= 0:
            refuse_forward_mode(f"lbp::{name}")
        if torch._C._are_functorch_transforms_active():
            return overload(*arguments)
        if not torch.is_grad_enabled() or not _require_gradients(tensors_of(arguments)):
            return run(*arguments)
        if apply is None or _left_by_transforms(tensors_of(arguments)):
            return overload(*arguments)
        return apply(*arguments)

    return call


def _make_function(name: str, backward: Backward, setup_context: SetupContext) -> type[torch.autograd.Function]:
    run = _below_autograd(name)

    def forward(ctx: Any, *arguments: Any) -> Any:
        output = run(*arguments)
        setup_context(ctx, arguments, output)
        return tuple(output) if isinstance(output, list) else output

    passes = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), passes)
