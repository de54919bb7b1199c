"""Neuron status per layer."""

import pytest
import torch
from torch import nn

from lbp.errors import InvalidInputError
from lbp.nn import ParamRamp
from lbp.strategies import STATUSES
from lbp.verification import neuron_status


def test_every_status_is_counted_in_its_place():
    # One input in [-0.5, 0.5]; neuron k sees it shifted, so that each status occurs once for r = 2.
    model = nn.Sequential(nn.Linear(1, 6), ParamRamp(6, r=2.0), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0], [8.0]]))
        model[0].bias.copy_(torch.tensor([-3.0, 0.0, 1.0, 2.0, 4.0, 1.0]))
    (layer,) = neuron_status(model, torch.zeros(3, 1), 0.5)
    assert layer.layer == "1"
    assert list(layer.shares) == list(STATUSES)
    assert list(layer.shares.values()) == pytest.approx([1 / 6] * 6)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("method", ["IBP", "CROWN"])
def test_shares_of_every_layer_add_up_to_one(trained, digits, batch_size, method):
    x = digits.first(10).images.double()
    layers = neuron_status(trained, x, 0.02, clip=(0, 1), method=method, batch_size=batch_size)
    assert [layer.layer for layer in layers] == ["2", "4", "6"]
    for layer in layers:
        assert sum(layer.shares.values()) == pytest.approx(1)
        if not isinstance(trained[2], ParamRamp):
            assert [layer.shares[status] for status in STATUSES[3:]] == [0.0, 0.0, 0.0]


def test_a_larger_radius_leaves_fewer_neurons_linear(trained, digits):
    small, large = (neuron_status(trained, digits.images.double(), eps) for eps in (0.001, 0.1))
    stable = ("left dead", "alive", "right dead")
    for before, after in zip(small, large, strict=True):
        assert sum(after.shares[status] for status in stable) < sum(before.shares[status] for status in stable)


@pytest.mark.parametrize(
    ("x", "message"), [(torch.zeros(0, 2), "needs inputs"), (torch.zeros(2, 2, device="meta"), "on the device meta")]
)
def test_inputs_without_values_have_no_status(x, message):
    with pytest.raises(InvalidInputError, match=message):
        neuron_status(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), x, 0.1)


def test_bounds_that_are_not_numbers_have_no_status():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[0] = torch.nan
    with pytest.raises(InvalidInputError, match="1: the bounds of 5 neurons are NaN"):
        neuron_status(model, torch.rand(5, 2), 0.1)
