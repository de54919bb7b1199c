"""Small tensors of numbers that are known to the host, made where they are used.

Copying them there would make the host wait for a GPU, and is refused while a CUDA graph is captured.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lbp.strategies import side_names


def vector(values: Sequence[float], like: Tensor) -> Tensor:
    """Return numbers as a tensor [n] of the dtype and on the device of `like`, without a copy from the host."""
    return torch.stack([like.new_full((), value) for value in values])


def side_signs(sides: str, like: Tensor) -> Tensor:
    """Return -1 for every lower and 1 for every upper side of a coefficient tensor, [K], as `vector` does."""
    return vector([-1.0 if side == "lower" else 1.0 for side in side_names(sides)], like)
