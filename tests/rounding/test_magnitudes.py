"""Magnitudes of a layer's value that are only bounded are no smaller than those that are computed."""

import pytest
import torch
from rounding.cases import box, fill
from torch import nn

from lbp.bounded import BoundedModule
from lbp.rounding import magnitude_of

LAYERS = {f"Linear, {n} inputs": (lambda n=n: nn.Linear(n, 5), (n,)) for n in (3, 255, 256, 257, 600)}
LAYERS |= {
    "convolution": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 6)),
    "groups, stride and dilation": (lambda: nn.Conv2d(4, 6, 2, 2, dilation=2, groups=2), (4, 6, 7)),
    "average pooling": (lambda: nn.AvgPool2d(2), (2, 4, 4)),
    "batch normalisation": (lambda: nn.BatchNorm2d(2), (2, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_bounds_of_magnitudes_are_no_smaller(name):
    build, shape = LAYERS[name]
    model = fill(nn.Sequential(build()).double(), "ratios")
    node = BoundedModule(model, torch.zeros(1, *shape, dtype=torch.float64))._network().output
    interval = tuple(side.double() for side in box(3, *shape, width=2.0))
    computed = node.magnitude(magnitude_of(interval))
    # Both are rounded sums.
    assert (node.magnitude_at_most(interval).expand_as(computed) >= computed * (1 - 1e-12)).all()
