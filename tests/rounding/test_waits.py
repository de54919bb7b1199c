"""Bounds that account for rounding read no number of a device on their way, beyond the checks of what they are given.

The host would have to wait for it.
"""

import pytest
import torch
from ops.test_waits import NothingPasses
from rounding.cases import box, dense_network, fill
from torch import nn

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm
from lbp.checks import trusted_values
from lbp.methods import outward_intervals


def convolutions():
    layers = (nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("reach", [None, 2.0**100])
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "LBP", "CROWN-LBP"])
@pytest.mark.parametrize(("make", "shape"), [(dense_network, (6,)), (convolutions, (2, 6, 6))])
def test_nothing_is_read_and_bounds_are_the_same(monkeypatch, make, shape, method, reach):
    lower, upper = box(3, *shape)
    if reach is not None:
        upper[1] = reach  # an image of huge numbers, which is told from the others
    network = BoundedModule(fill(make(), "gaussian"), lower)
    region = BoundedTensor(lower, PerturbationLpNorm(x_L=lower, x_U=upper))
    keywords = {"x": (region,), "method": method, "rounding": "outward"}
    with torch.no_grad():
        expected = network.compute_bounds(**keywords)
        monkeypatch.setattr(outward_intervals, "_waits_to_be_read", lambda values: True)
        with trusted_values(), NothingPasses():
            found = network.compute_bounds(**keywords)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
