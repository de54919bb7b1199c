"""What a trace of a model depends on besides its tensors, and what no trace can show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from lbp.errors import UnsupportedLayerError

Structure = tuple[tuple[nn.Module, tuple[tuple[str, Any], ...]], ...]
"""Every module of a model with its settings; holding the modules keeps a new one from taking an old one's identity."""


_PLAIN = (bool, int, float, str, type(None))
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
"""Parameters, modules and hooks: nothing that a trace takes for constant, but the shapes of parameters and buffers."""


_NO_SETTING = object()


def _setting(value: Any) -> Any:
    """Return a plain value, or a tuple, list or dictionary of plain values, in a form that can be hashed."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        value = tuple(value.items())
    if not isinstance(value, tuple | list):
        return _NO_SETTING
    parts = tuple(map(_setting, value))
    return _NO_SETTING if _NO_SETTING in parts else parts


def structure_of(model: nn.Module) -> Structure:
    """Return the modules of a model in order, each with the plain values among its attributes.

    Tracing turns such values (a stride, a slope, a flag, the training mode, numbers in a list) into constants, so a
    trace serves only the structure that it was made from. Of tensors the shapes are, and memory is counted for the
    device where they lie.
    """
    return tuple((module, _constants_of(module)) for module in model.modules())


def _constants_of(module: nn.Module) -> tuple[tuple[str, Any], ...]:
    found: list[tuple[str, Any]] = []
    for name, value in vars(module).items():
        if name in _OF_EVERY_MODULE:
            continue
        if isinstance(value, Tensor):
            found.append((name, (value.shape, value.device)))
        elif (setting := _setting(value)) is not _NO_SETTING:
            found.append((name, setting))
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None and not is_lazy(tensor):
                found.append((name, (tensor.shape, tensor.device)))
    return tuple(found)


def tensors_of(structure: Structure) -> Iterator[Tensor]:
    """Yield the parameters and buffers of the modules."""
    for module, _ in structure:
        for tensors in (module._parameters, module._buffers):
            yield from (tensor for tensor in tensors.values() if tensor is not None)


def refuse_hooks(model: nn.Module) -> None:
    """Refuse modules whose call does more than their class's forward: a trace would not show it.

    Raises:
        UnsupportedLayerError: forward hooks (older forms of weight_norm, spectral_norm and pruning use them), or a
            forward of the instance's own.
    """
    for module in model.modules():
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
            break
    else:
        return
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if "forward" in vars(module):
            raise UnsupportedLayerError(
                f"{where} has a forward of its own, which bounds would not follow; make it a method of a class"
            )
        awaiting_shape = isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()  # type: ignore[misc]
        if (module._forward_hooks or module._forward_pre_hooks) and not awaiting_shape:
            raise UnsupportedLayerError(
                f"{where} has forward hooks, which bounds would not follow; remove them (torch.nn.utils.parametrize, "
                "remove_weight_norm, remove_spectral_norm and prune.remove turn what they compute into parameters)"
            )
