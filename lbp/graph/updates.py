"""Versions of what tensors hold, updates by fused optimizers included.

Kernels of fused optimizers (`torch.optim.Adam(..., fused=True)`, those of other packages) change parameters and leave
their versions as they are, so steps of optimizers are counted here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

Version = tuple[object, ...]


def version_of(tensor: Tensor) -> Version:
    """Return what differs once somebody has changed a tensor, or a view of it, in place.

    Tensors made under inference mode have no versions: nobody knows whether they are what they were, and theirs is
    never equal to another.
    """
    if tensor.is_inference():
        return (object(),)
    storage = _storage_of(tensor)
    return tensor._version, storage, _steps[storage]


_steps: Counter[int] = Counter()
"""Steps of optimizers by the storage that they update; a new storage at an old one's address goes on with its count."""


def _storage_of(tensor: Tensor) -> int:
    """Return the identity of the memory that views share; 0 where there is none, as of sparse tensors.

    The hook below sees parameters of all optimizers of the process, whatever they are, and must not fail at any.
    """
    try:
        storage: int = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return 0
    return storage


def _count_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for group in optimizer.param_groups:
        _steps.update(map(_storage_of, group["params"]))


register_optimizer_step_post_hook(_count_step)
