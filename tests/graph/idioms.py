"""Forward passes that ask about their input.

They stand outside of tests, where pytest puts itself into every assertion: what a forward pass names is searched.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

SHAPE = (3, 2, 2)


class Net(nn.Module):
    """A convolution, an activation and a Linear layer, with a forward pass that comes from outside."""

    def __init__(self, forward=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(12, 4)
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]))
        self.given = forward
        self.double()

    def features(self, x):
        return torch.relu(self.conv(x))

    def plain(self, x):
        return self.fc(self.features(x).flatten(1))

    def forward(self, x):
        return self.plain(x) if self.given is None else self.given(self, x)


def _asserted(m, x):
    assert isinstance(x, torch.Tensor)
    assert torch.is_tensor(x)
    assert not isinstance(x, list | tuple | Sequence | nn.Parameter)
    assert isinstance(m.fc.weight, nn.Parameter)
    assert not isinstance(m.mean, nn.Parameter)
    assert isinstance(x.shape, torch.Size)
    return m.plain(x)


def _checked(m, x):
    if x.dim() != 4 or x.ndim != 4 or len(x.shape) != 4 or x.shape[1] != 3:
        raise ValueError(f"expected [B, 3, H, W], got {x.shape}")
    assert x.shape[1] == m.conv.weight.shape[1], f"{x.shape}"
    assert len(m.mean) == x.size(1)
    return m.plain(x)


def _square(m, x):
    height, width = x.shape[-2:]
    return m.plain(x) if height == width else m.plain(x).relu()


def _by_channel(m, x):
    y = m.features(x)
    parts = [y[:, i : i + 1] for i in range(int(y.shape[1]))]
    return m.fc(torch.cat(parts, 1).view(x.shape[0], -1))


def _matched(m, x):
    match x.shape:
        case (_, 3, *sizes) if sizes == [2, 2]:
            return m.plain(x)
    return m.plain(x).relu()


def _of_the_same_shape(m, x):
    y = m.features(x)
    return m.plain(x) if y.shape == x.shape and y.size() == x.size() else m.plain(x).relu()


def _unpacked(m, x):
    batch, channels, height, width = x.shape
    return m.fc(m.features(x).view(batch, channels * height * width))


def _converted(m, x):
    x = x.to(torch.float64).to(x.device).to(m.fc.weight).type_as(m.mean).double().type(torch.float64).cpu()
    return m.plain(x.contiguous() - m.mean.to(x)[:, None, None].to(x.device, x.dtype) * 0)


IDIOMS = {
    "asserted": _asserted,
    "checked": _checked,
    "square": _square,
    "by channel": _by_channel,
    "matched": _matched,
    "same shape": _of_the_same_shape,
    "unpacked": _unpacked,
    "converted": _converted,
    "dtype": lambda m, x: m.plain(x if x.dtype == torch.float64 else -x),
    "dtype in a dictionary": lambda m, x: m.plain(x) * {torch.float64: 1}.get(x.dtype, 2),
    "size in a set": lambda m, x: m.plain(x) * (1 if x.shape[1] in {3} else 2),
    "floating point": lambda m, x: m.plain(x if x.is_floating_point() and not torch.is_complex(x) else -x),
    "device": lambda m, x: m.plain(x) + torch.zeros(4, dtype=x.dtype, device=x.device),
    "zeros of a shape": lambda m, x: m.plain(x + torch.zeros(x.shape[1:], dtype=x.dtype)),
    "text": lambda m, x: m.plain(x) * (1 if f"{x.shape[1]} {x.shape[1:]}" == "3 torch.Size([3, 2, 2])" else 2),
    "len": lambda m, x: m.fc(m.features(x).reshape(len(x), -1)),
    "prod": lambda m, x: m.fc(m.features(x).view(-1, math.prod(x.shape[1:]))),
    "prod by NumPy": lambda m, x: m.fc(m.features(x).view(x.shape[0], np.prod(x.shape[1:]))),
    "numel": lambda m, x: m.fc(m.features(x).view(x.shape[0], x.numel() // x.shape[0])),
    "numel of a shape": lambda m, x: m.fc(m.features(x).view(-1, x.shape[1:].numel())),
    "part of a shape": lambda m, x: m.fc(m.features(x).view(x.shape[:1] + (-1,))),  # noqa: RUF005
    "before a shape": lambda m, x: m.fc(m.features(x.view((len(x),) + x.shape[1:])).flatten(1)),  # noqa: RUF005
    "shape as a list": lambda m, x: m.fc(m.features(x).view([*list(x.shape)[:1], -1])),
    "shape": lambda m, x: m.fc(m.features(x).flatten(2).reshape(x.shape).flatten(1)),
    "square root": lambda m, x: m.plain(x) * (math.sqrt(x.shape[1]) / 3**0.5),
    "hidden": lambda m, x: m.plain(x) if m.features(x).flatten(1).shape[1] == 12 else -x,
    "of a view": lambda m, x: m.plain(x) if m.features(x).view(len(x), -1).shape[1] == 12 else -x,
    "named squeeze": lambda m, x: m.plain(x) if x[:, :1].squeeze(1).dim() == 3 else -x,
}


def _asserts_batch(m, x):
    assert x.shape[0] == 4
    return m.plain(x)


def _matches_batch(m, x):
    match x.shape:
        case (8, *_):
            return -m.plain(x)
    return m.plain(x)


TWINS = {
    "asserted": _asserts_batch,
    "matched": _matches_batch,
    "compared": lambda m, x: m.plain(x) if x.shape[0] != 8 else -m.plain(x),
    "none": lambda m, x: m.plain(x) if x.size(0) else x.new_zeros(0, 4),
    "len": lambda m, x: m.plain(x) if len(x) > 2 else -m.plain(x),
    "len as a factor": lambda m, x: m.plain(x) * (len(x) // 4),
    "range": lambda m, x: m.plain(x) * sum(1 for _ in range(x.shape[0])),
    "range of len": lambda m, x: m.plain(x) * sum(1 for _ in range(len(x))),
    "int": lambda m, x: m.plain(x) * (int(x.shape[0]) // 4),
    "prod": lambda m, x: m.plain(x) * math.prod(x.shape),
    "largest": lambda m, x: m.plain(x) * max(x.shape),
    "contained": lambda m, x: m.plain(x) * (2 if 8 in x.shape else 1),
    "numel": lambda m, x: m.plain(x) if x.numel() > 48 else -m.plain(x),
    "text": lambda m, x: m.plain(x) * (2 if "8" in f"{x.shape}" else 1),
    "shape in a set": lambda m, x: m.plain(x) * (2 if x.shape in {(8, *SHAPE)} else 1),
    "shape": lambda m, x: m.plain(x) * (2 if x.shape == (8, *SHAPE) else 1),
    "type": lambda m, x: m.plain(x) * (2 if isinstance(x.shape[0], int) and x.shape[0] == 8 else 1),
    "zeros": lambda m, x: m.plain(x) + torch.zeros(x.shape[0], 4, dtype=x.dtype),
    "iterated": lambda m, x: torch.stack([m.plain(row[None])[0] for row in x]),
    "size of a slice": lambda m, x: m.plain(x) * x[:, : len(x)].shape[1],
    "size of a computed slice": lambda m, x: m.plain(x) * x[:, : 1 + len(x) // 4].shape[1],
    "size of a computed view": lambda m, x: m.plain(x) * (24 // x.view(len(x) - len(x) // 8 * 4, -1).shape[1]),
    "without dimensions of one entry": lambda m, x: m.plain(x) * (x.squeeze().dim() - 2),
    "without the first dimension": lambda m, x: m.plain(x) * (x.squeeze(0).dim() - 2),
    "squeezed in place": lambda m, x: (lambda y: m.plain(x) * ((y.squeeze_(), y.dim())[1] - 2))(x * 1),
    "one example": lambda m, x: m.plain(x) * x[0].dim(),
}


OF_VALUES = {
    "sum": lambda m, x: m.plain(x) if x.sum() > 100 else -m.plain(x),
    "entry": lambda m, x: m.plain(x) * int(x[0, 0, 0, 0]),
    "size of a selection": lambda m, x: m.plain(x) * x[x > 100].shape[0],
    "size of a selection of weights": lambda m, x: m.plain(x) if m.mean[m.mean > 0.15].shape[0] == 2 else -m.plain(x),
    "buffer": lambda m, x: m.plain(x) if m.mean[0] > 0 else -m.plain(x),
}


def of_size(m, x):
    return m.pool(x) if x.shape[-1] > 2 else -m.pool(x)


def of_lazy_layer(m, x):
    assert isinstance(x, torch.Tensor)
    assert x.dim() == 4
    y = m.lazy(m.features(x).view(len(x), -1))
    return m.plain(x) + y.view(y.size(0), -1)


def of_four_channels(m, x):
    assert x.shape[1] == 4, "four channels"
    return m.plain(x)


def of_matched_class(m, x):
    match x:
        case torch.Tensor():
            return m.plain(x)
    return -m.plain(x)
