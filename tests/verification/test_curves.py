"""The numbers behind the pictures: widths against the radius, margins against the slope."""

import math

import pytest
import torch
from torch import nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.errors import InvalidInputError
from lbp.evaluation.slope_sweep import slope_sweep, with_slope
from lbp.evaluation.tightness import tightness
from lbp.perturbations import PerturbationLpNorm
from lbp.verification import verify

METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN")
RADII = (0.001, 0.01, 0.1)


def test_widths_grow_with_the_radius_and_shrink_with_the_method(untrained, digits):
    curves = {
        (curve.method, curve.strategy): curve.widths
        for curve in tightness(untrained, digits.images[:4].double(), RADII, clip=(0, 1), methods=METHODS)
    }
    assert len(curves) == 9, "IBP has no lines"
    for (_, strategy), widths in curves.items():
        if strategy == "tight":
            assert 0 < widths[0] < widths[1] < widths[2]
    for looser, tighter in (("IBP", "LBP"), ("IBP", "CROWN-IBP"), ("LBP", "CROWN-LBP"), ("CROWN-LBP", "CROWN")):
        pairs = zip(curves[looser, "tight"], curves[tighter, "tight"], strict=True)
        assert all(tight <= loose * (1 + 1e-9) for loose, tight in pairs)


def test_the_width_is_the_mean_over_logits_and_examples(untrained, digits):
    x = digits.images[:5].double()
    (curve,) = tightness(untrained, x, (0.01,), methods=("CROWN",), strategies=("tight",))
    net = BoundedModule(untrained, x, bound_opts={"activation_bound_option": "tight"})
    lower, upper = net.compute_bounds(x=(BoundedTensor(x, PerturbationLpNorm(eps=0.01)),), method="CROWN")
    assert curve.widths == (pytest.approx(float((upper - lower).mean().detach())),)


def test_bounds_that_are_not_finite_give_nan():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[2].bias[0] = math.nan
    (curve,) = tightness(model, torch.rand(3, 2), (0.1,), methods=("IBP",))
    assert math.isnan(curve.widths[0])


@pytest.mark.parametrize(("count", "radii"), [(0, RADII), (3, ())])
def test_nothing_to_bound_is_refused(count, radii):
    with pytest.raises(InvalidInputError, match="needs inputs and radii"):
        tightness(nn.Linear(2, 2), torch.rand(count, 2), radii, methods=("IBP",))


def relu_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 20),
        nn.ReLU(),
        nn.Sequential(nn.Linear(20, 12), nn.LeakyReLU(0.3)),
        nn.Linear(12, 10),
    ).double()


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_every_activation_of_a_copy_is_replaced(digits, slope):
    model = relu_network()
    changed = with_slope(model, slope)
    assert (changed[2].negative_slope, changed[3][1].negative_slope) == (slope, slope)
    assert isinstance(model[2], nn.ReLU)
    assert changed[1].weight is not model[1].weight
    x = digits.images.double()
    hidden = nn.functional.leaky_relu(model[1](x.flatten(1)), slope)
    expected = model[4](nn.functional.leaky_relu(model[3][0](hidden), slope))
    torch.testing.assert_close(changed(x), expected)


def test_margins_are_those_of_the_changed_networks(digits):
    model, x = relu_network(), digits.images.double()
    curves = slope_sweep(model, x, digits.labels, 0.01, (0.0, 0.4), clip=(0, 1), methods=("IBP", "CROWN-LBP"))
    wanted = [("IBP", "tight"), ("CROWN-LBP", "tight"), ("CROWN-LBP", "adaptive")]
    assert [(curve.method, curve.strategy) for curve in curves] == wanted
    for curve in curves:
        for slope, margin, clean in zip(curve.slopes, curve.margins, curve.clean_errors, strict=True):
            result = verify(
                with_slope(model, slope), x, digits.labels, 0.01,
                clip=(0, 1), methods=curve.method, strategy=curve.strategy,
            )  # fmt: skip
            assert margin == pytest.approx(result.methods[curve.method].mean_margin)
            assert clean == result.clean_error


def test_a_linear_network_has_exact_margins_by_every_method_that_uses_lines(digits):
    x = digits.images.double()
    curves = slope_sweep(relu_network(), x, digits.labels, 0.01, (1.0,), methods=("CROWN-IBP", "LBP", "CROWN"))
    margins = [curve.margins[0] for curve in curves]
    assert margins == pytest.approx([margins[0]] * len(margins), rel=1e-9)


@pytest.mark.parametrize("slopes", [(), (-0.1,), (1.5,), (math.nan,)])
def test_bad_slopes_are_refused(digits, slopes):
    with pytest.raises(InvalidInputError, match="slope"):
        slope_sweep(relu_network(), digits.images.double(), digits.labels, 0.1, slopes, methods=("IBP",))


def test_a_network_without_relu_is_refused():
    with pytest.raises(InvalidInputError, match="no ReLU, LeakyReLU or ParamRamp module"):
        with_slope(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), 0.1)
