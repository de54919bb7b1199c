"""A network that rounding makes look safe: bounds rounded to nearest are fooled, outward ones are not."""

import pytest
import torch
from rounding.exact import Exact, number, value
from torch import nn

import lbp

SIZE = 2.0**20
METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "Relaxed-CROWN-1", "CROWN")


def deceptive_network() -> nn.Sequential:
    """A network of two inputs whose margin at (SIZE, SIZE) is negative, and positive in any float32 evaluation.

    The first path multiplies by (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24, which float32 rounds to 1 + 2^-11 whatever the
    order of sums, since no sum has another term; the second by 1 + 2^-11. The difference of the two, -2^-24 SIZE, is
    lost, and the last bias, half of it, decides.
    """
    rough = 1 + 2.0**-12
    layers = [nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2)]
    with torch.no_grad():
        layers[0].weight.copy_(torch.diag(torch.tensor([rough, 1.0])))
        layers[2].weight.copy_(torch.diag(torch.tensor([rough, 1 + 2.0**-11])))
        layers[4].weight.copy_(torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))
        layers[4].bias.copy_(torch.tensor([2.0**-25 * SIZE, 0.0]))
    return nn.Sequential(*layers).eval()


def verified(method, **keywords):
    x, labels = torch.full((1, 2), SIZE), torch.tensor([0])
    result = lbp.verify(deceptive_network(), x, labels, 0.0, methods=method, **keywords)
    return bool(result.methods[method].verified[0])


def test_the_network_is_wrong_in_exact_arithmetic_and_right_in_float32():
    model, x = deceptive_network(), torch.full((1, 2), SIZE)
    first, second = (value(model, Exact.of(x)).each(lambda logits, i=i: logits[:, i]) for i in range(2))
    assert (first - second + number(2.0**-25 * SIZE) <= number(0.0)).all()
    with torch.no_grad():
        assert model(x).argmax() == 0


@pytest.mark.parametrize("method", METHODS)
def test_only_bounds_that_account_for_rounding_see_through_it(method):
    assert verified(method, rounding="nearest")
    assert not verified(method)
    assert not verified(method, rounding="inference")
