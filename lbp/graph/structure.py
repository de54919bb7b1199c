"""What a trace of a model depends on besides its tensors, and what no trace can show."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules import module as all_modules
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from lbp.errors import UnsupportedLayerError
from lbp.graph.surroundings import read_by
from lbp.graph.updates import version_of
from lbp.graph.wrapped import refuse_without_forward, refuse_wrapped
from lbp.nn import GlobalBatchNorm, LeakyReLU, ParamRamp

Constants = tuple[tuple[str, Any], ...]

Structure = tuple[tuple[nn.Module, Constants], ...]
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
        self.version = version_of(value) if isinstance(value, Tensor) else ()

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
    modules = dict.fromkeys(model.modules())
    outside = {of_kind[0]: _outside(of_kind, modules.keys()) for of_kind in _by_class(modules)}
    return tuple((module, _constants_of(module) + outside.get(module, ())) for module in modules)


def _constants_of(module: nn.Module) -> Constants:
    """Return what a trace takes for constant of a module itself."""
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
        found.extend((name, _format_of(tensor, whole=whole)) for name, tensor in tensors.items())
    return tuple(found)


def _format_of(tensor: Tensor | None, *, whole: bool) -> tuple[Any, ...] | None:
    """Return what is constant of a parameter or buffer; nothing where there is none yet.

    Whole numbers and masks may be indices, which a trace takes for constant, outside of modules that are kept whole.
    """
    if tensor is None or is_lazy(tensor):
        return None
    numbers = None if whole or tensor.is_floating_point() or tensor.is_complex() else Identity(tensor)
    return tensor.shape, tensor.dtype, tensor.device, numbers


def _by_class(modules: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Return the modules whose forward pass a trace runs, those of a class together."""
    found: dict[type, list[nn.Module]] = {}
    for module in modules:
        if not is_kept_whole(module):
            found.setdefault(type(module), []).append(module)
    return list(found.values())


def _outside(modules: Sequence[nn.Module], own: Set[nn.Module]) -> Constants:
    """Return what a trace takes for constant of the class of some modules, and of what their forward pass reads."""
    return (*_constants_of_class(type(modules[0])), *(("", setting_of(value)) for value in read_by(modules, own)))


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, _SEQUENCES) and Tensor in map(type, value))


def _constants_of_class(kind: type) -> Constants:
    return tuple(
        (name, setting_of(value))
        for base in kind.__mro__
        if _has_constants(base)
        for name, value in vars(base).items()
        if not name.startswith("__")
    )


def _has_constants(base: type) -> bool:
    return not base.__module__.startswith(("torch.", "builtins"))


class Snapshot:
    """What a model was made of when its structure was found, for another look that costs less than finding it again.

    Attributes of most modules are compared as objects, and lists of numbers by what they hold (every convolution has
    one). Modules that keep anything else that can change inside, and what forward passes read elsewhere, are looked at
    as `structure_of` does.

    Attributes:
        structure: of the model.
    """

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self._modules = [module for module, _ in structure]
        self._own = dict.fromkeys(self._modules).keys()
        self._kinds = list(map(type, self._modules))
        self._children = _Entries(module._modules for module in self._modules)
        self._others = [(module, _constants_of(module)) for module in self._modules if _can_change_inside(module)]
        others = {module for module, _ in self._others}
        self._fixed = [module for module in self._modules if module not in others]
        self._attributes = _Entries(map(vars, self._fixed))
        self._lists = [value for module in self._fixed for value in vars(module).values() if isinstance(value, list)]
        self._in_lists = list(map(tuple, self._lists))
        # The dictionaries of tensors and hooks are attributes, and so the same ones as long as these are.
        self._hooks = [hooks for module in self._fixed for hooks in _hooks_of(module)]
        self._tensors = [tensors for module in self._fixed for tensors in (module._parameters, module._buffers)]
        self._whole = [whole for whole in map(is_kept_whole, self._fixed) for _ in range(2)]
        self._names, self._formats = self._of_tensors()
        self._by_class = [
            (of_kind, _outside(of_kind, self._own))
            for of_kind in _by_class(self._modules)
            if any(map(_has_constants, type(of_kind[0]).__mro__))
        ]

    def holds(self) -> bool:
        """Whether the structure of the model is certainly the same, and nobody has added a forward hook."""
        return (
            not _hooks_of_all_modules()
            and list(map(type, self._modules)) == self._kinds
            and self._children.are_those_of(module._modules for module in self._modules)
            and self._attributes.are_those_of(map(vars, self._fixed))
            and list(map(tuple, self._lists)) == self._in_lists
            and not any(self._hooks)
            and self._of_tensors() == (self._names, self._formats)
            and not any(any(_hooks_of(module)) for module, _ in self._others)
            and all(_constants_of(module) == constants for module, constants in self._others)
            and all(_outside(of_kind, self._own) == constants for of_kind, constants in self._by_class)
        )

    def _of_tensors(self) -> tuple[list[list[str]], list[Any]]:
        names = list(map(list, self._tensors))
        return names, [
            _format_of(tensor, whole=whole)
            for tensors, whole in zip(self._tensors, self._whole, strict=True)
            for tensor in tensors.values()
        ]


class _Entries:
    """The entries of some dictionaries, compared as objects."""

    def __init__(self, tables: Iterable[Mapping[str, Any]]) -> None:
        tables = list(tables)
        self._names = list(map(list, tables))
        self._values = [value for table in tables for value in table.values()]

    def are_those_of(self, tables: Iterable[Mapping[str, Any]]) -> bool:
        """Whether dictionaries have these entries, in this order."""
        tables = list(tables)
        if list(map(list, tables)) != self._names:
            return False
        return all(map(operator.is_, chain.from_iterable(table.values() for table in tables), self._values))


def _hooks_of_all_modules() -> bool:
    return bool(all_modules._global_forward_hooks or all_modules._global_forward_pre_hooks)


def _hooks_of(module: nn.Module) -> tuple[Mapping[int, Any], Mapping[int, Any]]:
    return module._forward_hooks, module._forward_pre_hooks


def _can_change_inside(module: nn.Module) -> bool:
    """Whether what a trace takes for constant of attributes may change inside, in other ways than a list of numbers."""
    return any(_can_change(value) for name, value in vars(module).items() if name not in _OF_EVERY_MODULE)


def _can_change(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_can_change, value))
    if type(value) is list:
        return not all(isinstance(entry, _PLAIN) for entry in value)
    return isinstance(value, list | dict | np.ndarray | Tensor)


def tensors_of(structure: Structure) -> Iterator[Tensor]:
    """Yield the parameters and buffers of the modules."""
    for module, _ in structure:
        for tensors in (module._parameters, module._buffers):
            yield from (tensor for tensor in tensors.values() if tensor is not None)


def refuse_hidden(model: nn.Module) -> None:
    """Refuse modules whose call does something else than their class's forward: a trace would not show it.

    Raises:
        UnsupportedLayerError: forward hooks (older forms of weight_norm, spectral_norm and pruning use them), of a
            module or of all modules, a forward of the instance's own or none at all, or a form that hides the network.
    """
    if _hooks_of_all_modules():
        raise UnsupportedLayerError(
            "a forward hook of all modules is registered (torch.nn.modules.module.register_module_forward_hook or "
            "..._pre_hook), which bounds would not follow; remove it"
        )
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        refuse_wrapped(module, where)
        if "forward" in vars(module):
            raise UnsupportedLayerError(
                f"{where} has a forward of its own, which bounds would not follow; make it a method of a class"
            )
        awaiting_shape = isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()  # type: ignore[misc]
        if any(_hooks_of(module)) and not awaiting_shape:
            raise UnsupportedLayerError(
                f"{where} has forward hooks, which bounds would not follow; remove them (torch.nn.utils."
                "parametrizations has weight_norm and spectral_norm without hooks; remove_weight_norm, "
                "remove_spectral_norm and prune.remove turn what they compute into parameters)"
            )
    refuse_without_forward(model)
