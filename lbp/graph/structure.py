"""What a trace of a model depends on besides its tensors, and what no trace can show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules import module as all_modules
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from lbp.errors import UnsupportedLayerError
from lbp.graph.surroundings import read_by
from lbp.nn import GlobalBatchNorm, LeakyReLU, ParamRamp

Structure = tuple[tuple[nn.Module, tuple[tuple[str, Any], ...]], ...]
"""Every module of a model with its settings; holding the modules keeps a new one from taking an old one's identity."""


_OWN_LAYERS = (GlobalBatchNorm, LeakyReLU, ParamRamp)
_PLAIN = (bool, int, float, complex, str, type(None), np.generic)
_SEQUENCES = (tuple, list)
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
"""Parameters, modules and hooks: nothing that a trace takes for constant, but the shapes of parameters and buffers."""


class Identity:
    """An object itself; a tensor in its present version. It is held, so that no other takes its address."""

    __slots__ = ("value", "version")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.version: float = 0
        if isinstance(value, Tensor):
            # Tensors made under inference mode have no versions: nobody knows whether they are what they were.
            self.version = math.nan if value.is_inference() else value._version

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.value is other.value and self.version == other.version

    def __hash__(self) -> int:
        return id(self.value)


def setting_of(value: Any) -> Any:
    """Return what is equal as long as a value is what it is, and can be hashed.

    Plain values and arrays, and tuples, lists and dictionaries of them, are compared by what they hold, all others by
    identity.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype, value.tobytes()
    if isinstance(value, dict):
        value = tuple(value.items())
    return tuple(map(setting_of, value)) if isinstance(value, _SEQUENCES) else Identity(value)


def is_kept_whole(module: nn.Module) -> bool:
    """Whether a trace keeps a module whole: PyTorch's own layers and lbp's. It runs the forward pass of all others."""
    if type(module).__module__.startswith(("torch.nn.", "torch.ao.nn.")):
        # Of a parametrised layer the forward pass shows where its weights come from.
        return not isinstance(module, nn.Sequential) and "parametrizations" not in module._modules
    return isinstance(module, _OWN_LAYERS)


def structure_of(model: nn.Module) -> Structure:
    """Return the modules of a model in order, each with everything that a trace of it takes for constant.

    Tracing turns the attributes of a module and of its class (a stride, a slope, a flag, the training mode, numbers in
    a list, what is computed from a tensor in an attribute) into constants, and so what its forward pass reads elsewhere
    (`lbp.graph.surroundings`). A trace serves only the structure that it was made from. Of parameters and buffers
    shapes and formats are constant, and memory is counted for the device where they lie.
    """
    classes: dict[type, tuple[tuple[str, Any], ...]] = {}
    modules = dict.fromkeys(model.modules())
    return tuple((module, _constants_of(module, modules.keys(), classes)) for module in modules)


def _constants_of(
    module: nn.Module, modules: Set[nn.Module], classes: dict[type, tuple[tuple[str, Any], ...]]
) -> tuple[tuple[str, Any], ...]:
    found: list[tuple[str, Any]] = []
    whole = is_kept_whole(module)
    for name, value in vars(module).items():
        if name in _OF_EVERY_MODULE:
            continue
        if isinstance(value, _PLAIN):
            found.append((name, value))
        # Layers that are kept whole are asked for their tensors at every use.
        elif not (whole and _holds_tensor(value)):
            found.append((name, setting_of(value)))
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None and not is_lazy(tensor):
                found.append((name, (tensor.shape, tensor.dtype, tensor.device)))
    if not whole:
        kind = type(module)
        if kind not in classes:
            classes[kind] = _constants_of_class(kind)
        found.extend(classes[kind])
        found.extend(("", setting_of(value)) for value in read_by(module, modules))
    return tuple(found)


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, _SEQUENCES) and Tensor in map(type, value))


def _constants_of_class(kind: type) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, setting_of(value))
        for base in kind.__mro__
        if not base.__module__.startswith(("torch.", "builtins"))
        for name, value in vars(base).items()
        if not name.startswith("__")
    )


def tensors_of(structure: Structure) -> Iterator[Tensor]:
    """Yield the parameters and buffers of the modules."""
    for module, _ in structure:
        for tensors in (module._parameters, module._buffers):
            yield from (tensor for tensor in tensors.values() if tensor is not None)


def refuse_hooks(model: nn.Module) -> None:
    """Refuse modules whose call does more than their class's forward: a trace would not show it.

    Raises:
        UnsupportedLayerError: forward hooks (older forms of weight_norm, spectral_norm and pruning use them), of a
            module or of all modules, or a forward of the instance's own.
    """
    if all_modules._global_forward_hooks or all_modules._global_forward_pre_hooks:
        raise UnsupportedLayerError(
            "a forward hook of all modules is registered (torch.nn.modules.module.register_module_forward_hook or "
            "..._pre_hook), which bounds would not follow; remove it"
        )
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
                f"{where} has forward hooks, which bounds would not follow; remove them (torch.nn.utils."
                "parametrizations has weight_norm and spectral_norm without hooks; remove_weight_norm, "
                "remove_spectral_norm and prune.remove turn what they compute into parameters)"
            )
