"""Bounds that account for rounding read no number of a device on their way: the host would have to wait for it."""

import pytest
import torch
from ops.test_waits import NothingPasses
from rounding.cases import NETWORKS, box, fill

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm
from lbp.methods import outward


@pytest.mark.parametrize("reach", [None, 2.0**100])
@pytest.mark.parametrize(
    ("name", "method"), [("dense", "IBP"), *(("conv", method) for method in ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP"))]
)
def test_nothing_is_read_and_bounds_are_the_same(monkeypatch, name, method, reach):
    make, shape = NETWORKS[name]
    lower, upper = box(3, *shape)
    if reach is not None:
        upper[1] = reach  # an image of huge numbers, which is told from the others
    network = BoundedModule(fill(make(), "gaussian"), lower)
    region = BoundedTensor(lower, PerturbationLpNorm(x_L=lower, x_U=upper))
    keywords = {"x": (region,), "method": method, "rounding": "outward"}
    with torch.no_grad():
        expected = network.compute_bounds(**keywords)
        monkeypatch.setattr(outward, "_waits_to_be_read", lambda values: True)
        with NothingPasses():
            found = network.compute_bounds(**keywords)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
