"""Specification matrices: which linear functions of the output are to be bounded."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn

from lbp.checks import check_has_values, raise_if_any
from lbp.errors import InvalidInputError

_MOST_CLASSES = 2**29
"""The margins of one example over so many classes are 2^61 bytes in float64; PyTorch counts up to 2^63."""


def margins(
    labels: Tensor, num_classes: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """Return the specification of classification: the margins of the label over every other class.

    Lyu et al. 2021, section 2: the example is verified when every margin `z[y] - z[i]`, i != y, is positive.

    Args:
        labels: [B] whole numbers from 0 to num_classes - 1.
        num_classes: number of outputs K, at least 2.
        dtype: of the result; the default dtype unless given.
        device: of the result; that of the labels unless given.

    Returns:
        C [B, K-1, K] with rows `e_y - e_i`, i in increasing order.

    Raises:
        InvalidInputError: labels that are no tensor, of another shape or dtype, or outside the classes; num_classes
            that is no whole number, below 2, or more than any memory has room for.
    """
    num_classes = _whole(num_classes)
    if num_classes < 2:
        raise InvalidInputError(f"num_classes must be at least 2, got {num_classes}")
    if num_classes > _MOST_CLASSES:
        raise InvalidInputError(f"num_classes must be at most {_MOST_CLASSES:,}, got {num_classes:,}")
    if not isinstance(labels, Tensor):
        raise InvalidInputError(
            f"labels must be a tensor of int64 labels, shape [B], got {labels!r} ({type(labels).__name__}); use "
            "torch.tensor()"
        )
    if labels.dim() != 1 or labels.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise InvalidInputError(
            f"labels must be a one-dimensional tensor of whole numbers, got shape {list(labels.shape)}, {labels.dtype}"
        )
    check_has_values("labels", labels)
    labels = labels.to(torch.int64)
    outside = (labels < 0) | (labels >= num_classes)
    raise_if_any(
        [
            (
                outside.any(),
                lambda: (
                    f"labels must be between 0 and {num_classes - 1}, got {int(labels[outside][0])} at position "
                    f"{int(outside.nonzero()[0])}"
                ),
            )
        ]
    )
    labels = labels.to(device)
    others = torch.arange(num_classes - 1, device=labels.device).expand(len(labels), -1)
    others = others + (others >= labels.unsqueeze(1)).long()
    eye = torch.eye(num_classes, dtype=dtype or torch.get_default_dtype(), device=labels.device)
    return eye[labels].unsqueeze(1) - eye[others]


def _whole(num_classes: int) -> int:
    try:
        return operator.index(num_classes)
    except TypeError:
        raise InvalidInputError(f"num_classes must be a whole number, got {num_classes!r}") from None


def get_spec_matrix(X: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return `margins(y, num_classes)` with dtype and device of X [B, ...]; the name that auto_LiRPA gives it."""
    return margins(y, num_classes, dtype=X.dtype, device=X.device)


class Flatten(nn.Module):
    """Flattens every example: [B, *shape] to [B, n]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x as [B, n]."""
        return x.view(x.size(0), -1)
