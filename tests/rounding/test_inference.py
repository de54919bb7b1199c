"""`rounding="inference"`: every float32 evaluation of the network lies within the bounds, in any order of its sums."""

import pytest
import torch
from rounding.cases import KINDS, METHODS, NETWORKS, bounds, box, case, fill, generator, points
from rounding.test_outward import losing_row
from torch import nn

import lbp
from lbp.bounded import BoundedModule, BoundedTensor
from lbp.perturbations import PerturbationLpNorm


def any_order(values, dim, source):
    """A float32 sum along a dimension in a random order, one addition after the other."""
    order = torch.randperm(values.shape[dim], generator=source)
    total = torch.zeros_like(values.select(dim, 0))
    for index in order:
        total = total + values.select(dim, int(index))
    return total


class AnyOrder(nn.Module):
    """A Linear layer whose sums are taken in a random order, its bias being one of the terms."""

    def __init__(self, layer, source):
        super().__init__()
        self.layer, self.source = layer, source

    def forward(self, x):
        terms = torch.cat([x[:, None] * self.layer.weight, self.layer.bias.expand(len(x), -1)[..., None]], -1)
        return any_order(terms, -1, self.source)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_sums_in_any_order_lie_within_the_bounds(kind):
    source = generator(1)
    model = fill(nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 8)), kind)
    shuffled = nn.Sequential(AnyOrder(model[0], source), nn.ReLU(), AnyOrder(model[2], source))
    lower, upper = box(8, 12, width=0.0)
    for method in METHODS:
        found_lower, found_upper = bounds(model, lower, upper, method=method, rounding="inference")
        with torch.no_grad():
            for _ in range(2):
                value = shuffled(lower)
                assert ((found_lower <= value) & (value <= found_upper)).all()


def test_bounds_of_real_arithmetic_do_not_hold_for_every_evaluation():
    source = generator(2)
    model = fill(nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 8)), "gaussian")
    shuffled = nn.Sequential(AnyOrder(model[0], source), nn.ReLU(), AnyOrder(model[2], source))
    lower, upper = box(8, 12, width=0.0)
    exact = bounds(model.double(), lower.double(), upper.double(), method="CROWN", rounding="outward")
    model.float()
    with torch.no_grad():
        value = shuffled(lower).double()
    assert ((value < exact[0]) | (value > exact[1])).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_as_pytorch_runs_them_lie_within_the_bounds(name):
    small = case(name, width=1e-5)
    places = points(small.model, small.lower, small.upper, random=8)
    for method in ("IBP", "CROWN", "LBP"):
        lower, upper = small.bounds(method=method, rounding="inference")
        outward_lower, outward_upper = small.bounds(method=method, rounding="outward")
        assert ((lower < outward_lower) & (outward_upper < upper)).all()
        with torch.no_grad():
            for place in places:
                value = small.model(place).flatten(1)
                assert ((lower <= value) & (value <= upper)).all()


@pytest.mark.parametrize("normalised", [False, True], ids=["alone", "normalised"])
@pytest.mark.parametrize("method", METHODS)
def test_a_sum_may_lose_its_terms_one_by_one(method, normalised):
    # 1 + t + t + ... is 1 where terms are added one after the other.
    terms = 16384
    layers = [nn.Linear(terms, 2, bias=False), *([nn.BatchNorm1d(2)] if normalised else []), nn.ReLU(), nn.Linear(2, 1)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        model[0].weight.copy_(losing_row(terms)[:1].expand(2, -1))
        model[-1].weight.fill_(1.0)
        model[-1].bias.zero_()
    x = torch.ones(1, terms)
    lost = torch.ones(1, 2)
    with torch.no_grad():
        value = model[1:](lost)
        assert value < model.double()(x.double()) - 1e-3
    model.float()
    lower, upper = bounds(model, x, x, method=method, rounding="inference")
    assert lower <= value <= upper


@pytest.mark.parametrize("method", METHODS[1:])
def test_the_constants_of_linear_bounds_hold_the_errors_of_inference(method):
    small = case("dense", width=1e-2)
    net, region = BoundedModule(small.model, small.lower), PerturbationLpNorm(x_L=small.lower, x_U=small.upper)
    found = {}
    for rounding in ("outward", "inference"):
        with torch.no_grad():
            *sides, coefficients = net.compute_bounds(
                x=(BoundedTensor(small.lower, region),), method=method, rounding=rounding, return_A=True
            )
        (linear,) = (inner for outer in coefficients.values() for inner in outer.values())
        found[rounding] = sides, linear
    (lower, upper), linear = found["outward"]
    (least, most), wider = found["inference"]
    assert (wider["lbias"] - linear["lbias"] <= (least - lower) / 2).all()
    assert (wider["ubias"] - linear["ubias"] >= (most - upper) / 2).all()


def test_margins_lose_the_errors_of_both_logits():
    model, (lower, upper) = fill(nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)), "gaussian"), box(2, 6)
    C = torch.tensor([[[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]]]).expand(2, -1, -1)
    outward, _ = bounds(model, lower, upper, C=C, method="CROWN", rounding="outward")
    inference, _ = bounds(model, lower, upper, C=C, method="CROWN", rounding="inference")
    assert (inference < outward).all()
    assert torch.allclose(inference, outward, rtol=1e-4, atol=1e-4)


def one_output(*layers):
    """Layers, and a logit beside their one output that is a little smaller."""
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[-1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[-1].bias.copy_(torch.tensor([0.0, -(2.0**120)]))
    return model


def cancelling_layer():
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0]]) * 1.5 * 2.0**127)
    return layer


def scaled_layer():
    layer, normalisation = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)
    with torch.no_grad():
        nn.init.constant_(layer.weight, 2.0**100)
        nn.init.constant_(normalisation.weight, 2.0**-60)
    return layer, normalisation


# Networks of which some evaluation gives no number, though every output in real arithmetic is a float32 one.
OVERFLOWS = {
    "sums whose terms cancel": (lambda: one_output(cancelling_layer()), torch.ones(1, 4)),
    "a sum before it is divided": (lambda: one_output(nn.AvgPool2d(4)), torch.full((1, 1, 4, 4), 2.0**126)),
    "a value before it is scaled": (lambda: one_output(*scaled_layer()), torch.full((1, 1, 1, 1), 2.0**60)),
}


@pytest.mark.parametrize("name", OVERFLOWS)
@pytest.mark.parametrize("method", METHODS)
def test_evaluations_that_may_overflow_have_no_bounds(method, name):
    build, x = OVERFLOWS[name]
    model = build()
    lower, _ = bounds(model, x, x, method=method, rounding="inference")
    assert not torch.isfinite(lower[0, 0])
    result = lbp.verify(model, x, torch.tensor([0]), 0.0, methods=method, rounding="inference")
    assert not result.verified.any()


def test_a_scale_far_above_1_multiplies_what_a_value_loses_below_the_normal_range():
    model = one_output(*scaled_layer())
    with torch.no_grad():
        nn.init.constant_(model[0].weight, 2.0**-100)
        nn.init.constant_(model[1].weight, 2.0**120)
    x = torch.full((1, 1, 1, 1), 1.5 * 2.0**-51)
    with torch.no_grad():
        assert model(x)[0, 0] == 0
    for method in METHODS:
        lower, _ = bounds(model, x, x, method=method, rounding="inference")
        assert lower[0, 0] <= 0
