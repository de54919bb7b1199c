"""The first affine layer over an l_p ball: the dual norm of its rows, never the box around the ball."""

import pytest
import torch
from methods.networks import METHODS, bounded, inputs, region, seeded
from torch import nn

from lbp.ops.norms import dual_norm

NORMS = (1.0, 1.5, 2.0, 3.0)


class Normalised(nn.Module):
    """Normalisation, permutation and reshaping of the input before the layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("mean", torch.tensor([0.3, 0.6]))
        self.register_buffer("std", torch.tensor([0.2, -1.7]))

    def forward(self, x):
        x = (x - self.mean.view(1, -1, 1, 1)) / self.std[None, :, None, None]
        return self.layer(2 - x.permute(0, 1, 3, 2).reshape(x.size(0), 2, 4, 5))


class TwoBranches(nn.Module):
    """The input twice, by two paths that join before and after the layer."""

    def __init__(self, cat):
        super().__init__()
        self.cat = cat
        self.fc = nn.Linear(80, 6) if cat else nn.Linear(40, 40)

    def forward(self, x):
        x = x.flatten(1)
        return self.fc(torch.cat([x, -0.5 * x], 1)) if self.cat else x - 0.5 * x


LAYERS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(40, 6)),
    "conv, stride and padding": lambda: nn.Conv2d(2, 3, 3, stride=2, padding=2),
    "conv, dilation and groups": lambda: nn.Conv2d(2, 4, (2, 3), padding=(1, 2), dilation=(2, 1), groups=2),
    "conv without bias": lambda: nn.Conv2d(2, 3, 4, padding="same", bias=False),
    "normalised linear": lambda: Normalised(nn.Sequential(nn.Flatten(), nn.Linear(40, 6))),
    "normalised conv": lambda: Normalised(nn.Conv2d(2, 3, 3, padding=1)),
    "conv and batch norm": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)),
    "linear on the input twice": lambda: TwoBranches(cat=True),
    "sum of the input with itself": lambda: TwoBranches(cat=False),
    "average pool": lambda: nn.AvgPool2d(3, stride=2, padding=1),
}


def _exact(model, x, eps, p):
    """Bounds from the Jacobian of the affine map."""
    jacobian = torch.autograd.functional.jacobian(lambda one: model(one.unsqueeze(0)).flatten(), x[0])
    spread = dual_norm(jacobian.flatten(1), p, 1) * torch.as_tensor(eps, dtype=x.dtype).reshape(-1, 1)
    value = model(x).flatten(1)
    return value - spread, value + spread


@pytest.mark.parametrize(
    "eps", [0.3, torch.tensor([0.1, 0.5], dtype=torch.float64)], ids=["one eps", "eps per example"]
)
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", LAYERS)
def test_interval_bounds_are_exact(name, p, eps):
    model = seeded(LAYERS[name])
    x = inputs((2, 5, 4) if name.startswith("normalised") else (2, 4, 5))
    net = bounded(model, tuple(x.shape[1:]))
    lower, upper = net.compute_bounds(region(x, eps, p), method="IBP")
    expected_lower, expected_upper = _exact(model, x, eps, p)
    torch.testing.assert_close(lower.flatten(1), expected_lower, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(upper.flatten(1), expected_upper, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_crown_bounds_over_a_box_are_exact_before_the_first_activation(name):
    layer = seeded(LAYERS[name])
    x = inputs((2, 5, 4) if name.startswith("normalised") else (2, 4, 5))
    net = bounded(nn.Sequential(layer, nn.ReLU()), tuple(x.shape[1:]))
    net.set_bound_opts({"sparse_intermediate_bounds": False})
    net.compute_bounds(region(x, 0.3), method="CROWN")
    (activation,) = [node for node in net.nodes() if node.is_activation]
    lower, upper = (bound.flatten(1) for bound in (activation.inputs[0].lower, activation.inputs[0].upper))
    expected_lower, expected_upper = _exact(layer, x, 0.3, torch.inf)
    torch.testing.assert_close(lower, expected_lower, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(upper, expected_upper, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("p", NORMS)
def test_the_ball_is_tighter_than_its_box_in_a_deep_network(p):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)))
    x = inputs((2, 4, 5))
    net = bounded(model, (2, 4, 5))
    lower, _ = net.compute_bounds(region(x, 0.3, p), method="IBP")
    box_lower, _ = net.compute_bounds(region(x, 0.3), method="IBP")
    assert (lower >= box_lower).all()
    assert (lower > box_lower).any()


def test_zero_rows_and_gradients_are_finite():
    layer = nn.Conv2d(1, 2, 3, padding=1).double()
    with torch.no_grad():
        layer.weight[0] = 0
    for p in NORMS:
        layer.weight.grad = None
        lower, _ = bounded(layer, (1, 3, 3)).compute_bounds(region(inputs((1, 3, 3)), 0.3, p), method="IBP")
        lower.sum().backward()
        assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("method", METHODS)
def test_over_a_clipped_ball_both_the_ball_and_the_range_bound_the_first_layer(method):
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    x = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
    lower, upper = bounded(model, (2,)).compute_bounds(region(x, 0.8, 2.0, clip=(0.0, 1.0)), method=method)
    assert lower.tolist() == [pytest.approx([0.0, 0.0], abs=1e-12)]  # of the range
    assert upper.tolist() == [pytest.approx([0.9, 0.6 + 0.8 * 2**0.5])]  # of the ball
