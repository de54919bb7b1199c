"""Checks of networks, images and labels where users hand them in."""

from collections.abc import Sequence
from itertools import chain
from numbers import Integral

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule
from lbp.checks import check_has_values
from lbp.errors import InvalidInputError


def check_inputs(model: nn.Module, x: Tensor) -> None:
    """Refuse what is no network, and inputs that do not fit it.

    Args:
        model: the network itself.
        x: to be [N, *shape], of the type of the model's weights, on any device.

    Raises:
        InvalidInputError: one of them is not.
    """
    if isinstance(model, BoundedModule):
        raise InvalidInputError("verification takes the model itself, not a BoundedModule")
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        check_has_values(f"{name} of the model", value)
    _check_dense("x", x)
    if x.dim() < 2:
        raise InvalidInputError(f"x must be a batch of inputs [N, *shape], got shape {list(x.shape)}")
    weights = next(model.parameters(), None)
    if weights is not None and x.dtype != weights.dtype:
        raise InvalidInputError(f"x is {x.dtype}, the model's weights are {weights.dtype}; convert one")


def check_images(
    model: nn.Module, x: Tensor, labels: Tensor, batch_size: int | None = None, indices: Sequence[int] | None = None
) -> None:
    """Refuse images and labels that do not fit a model or each other.

    Args:
        model: the network itself.
        x: to be [N, *shape], of the type of the model's weights, on any device.
        labels: to be int64 [N].
        batch_size: to be at least 1, or None.
        indices: to be different ones of 0 to N - 1, or None.

    Raises:
        InvalidInputError: one of them is not.
    """
    check_inputs(model, x)
    check_labels(x, labels)
    is_number = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
    if batch_size is not None and not (is_number and batch_size >= 1):
        raise InvalidInputError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    seen: set[int] = set()
    for index in indices or ():
        if not 0 <= index < len(x):
            raise InvalidInputError(f"indices must be those of the {len(x)} images, 0 to {len(x) - 1}, got {index}")
        if index in seen:
            raise InvalidInputError(f"indices must differ, {index} is among them twice")
        seen.add(index)


def check_labels(x: Tensor, labels: Tensor) -> None:
    """Refuse labels that are not int64 [N] for inputs [N, *shape].

    Raises:
        InvalidInputError: they are not.
    """
    _check_dense("x", x)
    _check_dense("labels", labels)
    if labels.shape != x.shape[:1] or labels.dtype != torch.int64:
        raise InvalidInputError(
            f"labels must be int64 of shape [{len(x)}], got {labels.dtype} of shape {list(labels.shape)}"
        )


def checked_classes(logits: Tensor, labels: Tensor, num_classes: int | None = None) -> int:
    """Number of classes of logits that must be [B, classes >= 2].

    Raises:
        InvalidInputError: other shapes, another number than `num_classes`, or labels outside the classes.
    """
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise InvalidInputError(f"the model must give logits [B, classes >= 2], it gives shape {list(logits.shape)}")
    classes = logits.shape[1]
    if num_classes is not None and num_classes != classes:
        raise InvalidInputError(f"num_classes is {num_classes}, the model has {classes} logits")
    if len(labels) == 0:
        return classes
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InvalidInputError(f"labels run from {low} to {high}, expected 0 to {classes - 1}")
    return classes


def _check_dense(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InvalidInputError(f"{name} must be a tensor, got {type(value).__name__}; convert it by torch.as_tensor")
    if value.layout != torch.strided:
        raise InvalidInputError(f"{name} must be a dense tensor, got one of layout {value.layout}")
    check_has_values(name, value)
