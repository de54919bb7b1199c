"""Regions: which inputs they hold, and which statements of them are refused."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lbp.bounded import BoundedTensor
from lbp.errors import InvalidInputError
from lbp.perturbations import BoundedParameter, PerturbationL0Norm, PerturbationLpNorm, region_of

X = torch.tensor([[0.1, 0.5, 0.9], [0.0, 1.0, 0.3]])


def _region(x=X, **kwargs):
    return region_of(BoundedTensor(x, PerturbationLpNorm(**kwargs)))


def test_the_infinity_ball_is_a_box():
    region = _region(eps=0.2)
    assert region.ball is None
    assert torch.equal(region.lower, X - 0.2)
    assert torch.equal(region.upper, X + 0.2)


def test_x_L_and_x_U_replace_the_sides_of_the_box():
    region = _region(eps=0.2, x_L=X - 1)
    assert torch.equal(region.lower, X - 1)
    assert torch.equal(region.upper, X + 0.2)
    region = _region(x_L=torch.zeros(3), x_U=torch.ones(1, 3))
    assert torch.equal(region.lower, torch.zeros(2, 3))
    assert torch.equal(region.upper, torch.ones(2, 3))


@pytest.mark.parametrize("clip", [(0, 1), (0.0, torch.tensor(1.0)), (torch.zeros(3), torch.ones(1, 3))])
def test_clip_intersects_with_the_range_of_the_data(clip):
    region = _region(eps=0.2, clip=clip)
    assert torch.equal(region.lower, (X - 0.2).clamp(min=0))
    assert torch.equal(region.upper, (X + 0.2).clamp(max=1))
    region = _region(eps=0.2, norm=2, clip=clip)
    assert region.ball is not None
    assert region.box_counts
    assert torch.equal(region.lower, (X - 0.2).clamp(min=0))


EPS = torch.tensor([0.1, 0.3])


@pytest.mark.parametrize("eps", [EPS, EPS.unsqueeze(1), EPS.double()])
def test_eps_per_example(eps):
    region = _region(eps=eps)
    torch.testing.assert_close(region.upper - X, torch.tensor([[0.1] * 3, [0.3] * 3]))
    region = _region(eps=eps, norm=1)
    assert region.ball.eps.shape == (2,)


def test_a_tensor_without_perturbation_is_a_point():
    for x in (X, BoundedTensor(X)):
        region = region_of(x)
        assert torch.equal(region.lower, X)
        assert torch.equal(region.upper, X)


@pytest.mark.parametrize("name", ["epsilon", "eps_max", "ratio"])
def test_unknown_keywords_are_not_taken(name):
    with pytest.raises(TypeError, match=name):
        PerturbationLpNorm(eps=0.1, **{name: 1.0})


@pytest.mark.parametrize("number", [np.float64, np.float32])
def test_radii_are_taken_from_numpy_too(number):
    assert torch.equal(_region(eps=number(0.25)).upper, X + 0.25)


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(0, 2.0**126, width=32), st.booleans())
def test_a_ball_without_sides_of_its_own_is_in_order_around_x(value, eps, as_tensor):
    x = torch.tensor([[value]], dtype=torch.float32)
    region = PerturbationLpNorm(eps=torch.tensor(eps) if as_tensor else eps).region(x)
    assert region.lower <= x <= region.upper


def test_norms_are_taken_from_numpy_too():
    assert math.isinf(PerturbationLpNorm(norm=np.inf, eps=0.1).norm)


@settings(deadline=None)
@given(st.floats(-(2.0**100), 2.0**100, width=32), st.integers(0, 8))
def test_sides_that_cross_by_a_few_ulps_are_put_around_x_and_by_more_are_refused(value, ulps):
    x = torch.tensor([[value]], dtype=torch.float32)
    upper = x.clone()
    for _ in range(ulps):
        upper = torch.nextafter(upper, torch.full_like(x, -math.inf))
    if (x - upper > 4 * torch.finfo(torch.float32).eps * torch.maximum(x.abs(), upper.abs())).any():
        with pytest.raises(InvalidInputError, match="x_L > x_U"):
            _region(x, x_L=x, x_U=upper)
        return
    region = _region(x, x_L=x, x_U=upper)
    assert (region.lower <= upper).all()
    assert (region.upper >= x).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"eps": -0.1}, "eps must be finite and not negative, got -0.1"),
        ({"eps": math.nan}, "eps must be finite"),
        ({"eps": math.inf}, "eps must be finite"),
        ({"eps": 10**400}, "eps must be finite"),
        ({"eps": "0.1"}, r"eps must be a number or a tensor, got '0.1' \(str\)"),
        ({"eps": None}, r"eps must be a number or a tensor, got None"),
        ({"eps": True}, r"eps must be a number or a tensor, got True \(bool\)"),
        ({"eps": [0.1, 0.2]}, r"eps must be a number or a tensor, got \[0.1, 0.2\] \(list\)"),
        ({"norm": 0.5}, "norm must be at least 1, got 0.5"),
        ({"norm": 0}, "PerturbationL0Norm"),
        ({"norm": math.nan}, "norm must be at least 1"),
        ({"norm": 2, "x_L": X}, "need norm=inf"),
        ({"clip": 1.0}, "clip must be a pair"),
        ({"clip": (0, 1, 2)}, "clip must be a pair"),
        ({"clip": (1, 0)}, "clip: the lowest value is above the highest"),
    ],
)
def test_a_bad_perturbation_is_refused_when_it_is_made(kwargs, message):
    with pytest.raises(InvalidInputError, match=message):
        PerturbationLpNorm(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"eps": torch.tensor([0.1, -0.2])}, "eps must be finite and not negative"),
        ({"eps": torch.tensor([0.1, math.nan])}, "eps must be finite and not negative"),
        ({"eps": torch.tensor(0.1, device="meta")}, "eps is on the device meta"),
        ({"eps": torch.tensor(0.1 + 0.2j)}, "eps must be real numbers, got a tensor of torch.complex64"),
        ({"eps": torch.tensor([0.1, 0.2, 0.3])}, r"shape \[2\], got \[3\]"),
        ({"eps": torch.tensor([[0.1, 0.2]])}, r"shape \[2\], got \[1, 2\]"),
        ({"eps": torch.full((2, 3), 0.1)}, r"shape \[2\], got \[2, 3\]"),
        ({"x_L": X + 0.1, "x_U": X}, r"x_L > x_U at flat index 0 of an input of shape \[2, 3\]"),
        ({"x_L": X * math.nan}, r"x_L of shape \[2, 3\] has 6 entries that are NaN"),
        ({"x_U": X + math.inf}, "x_U .* NaN or infinite"),
        ({"x_L": X.double()}, r"x_L is torch.float64 .* the input x is torch.float32"),
        ({"x_L": torch.zeros(4)}, r"x_L of shape \[4\] does not broadcast to the input's shape \[2, 3\]"),
        ({"x_L": 0.0}, "x_L must be a tensor, got float"),
        ({"clip": (torch.ones(3), 0)}, "clip: the lowest value is above the highest"),
        ({"clip": (math.nan, 1)}, r"clip\[0\] has NaN"),
        ({"clip": (0, None)}, r"clip\[1\] must be a number or a tensor, got None"),
        ({"clip": ("0", 1)}, r"clip\[0\] must be a number or a tensor, got '0'"),
        ({"clip": (torch.zeros((), device="meta"), 1)}, r"clip\[0\] is on the device meta"),
        ({"clip": (0, torch.ones(5))}, r"clip\[1\] of shape \[5\] does not broadcast"),
        ({"eps": 0.1, "clip": (2, 3)}, "the region is empty after clip"),
        ({"eps": 0.1, "norm": 2, "clip": (2, 3)}, "the region is empty after clip"),
    ],
)
def test_a_bad_region_is_refused_when_it_meets_the_input(kwargs, message):
    with pytest.raises(InvalidInputError, match=message):
        _region(**kwargs)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor([[0.0, math.nan]]), r"the input x of shape \[1, 2\] has 1 entries that are NaN .* flat index 1"),
        (torch.tensor([[math.inf, 0.0]]), "NaN or infinite"),
        (torch.zeros(2, 3, dtype=torch.int64), r"dtype torch.int64"),
        (torch.zeros(2, 3, dtype=torch.float16), r"dtype torch.float16"),
        (torch.zeros(2, 3, device="meta"), "the input x is on the device meta"),
        (torch.zeros(3), r"batch dimension .* \[3\]"),
    ],
)
def test_a_bad_input_is_refused(x, message):
    with pytest.raises(InvalidInputError, match=message):
        _region(x, eps=0.1)


def test_what_is_not_implemented_says_so_by_name():
    with pytest.raises(NotImplementedError, match="PerturbationL0Norm"):
        PerturbationL0Norm(1, None, None, 1.0)
    with pytest.raises(NotImplementedError, match="BoundedParameter"):
        BoundedParameter(X, None)
    with pytest.raises(NotImplementedError, match="eps_min"):
        PerturbationLpNorm(eps=0.1, eps_min=0.05)


class TestBoundedTensor:
    ptb = PerturbationLpNorm(eps=0.1)

    def test_it_is_a_tensor_with_a_perturbation_and_gives_plain_tensors(self):
        x = BoundedTensor(X, self.ptb)
        assert isinstance(x, torch.Tensor)
        assert x.ptb is self.ptb
        assert type(x + 1) is torch.Tensor
        assert type(torch.nn.functional.relu(x)) is torch.Tensor
        assert type(x[:1]) is torch.Tensor
        assert x.data_ptr() == X.data_ptr()

    def test_conversions_keep_the_perturbation(self):
        x = BoundedTensor(X, self.ptb)
        copies = [x.to(torch.float64), x.double(), x.double().float(), x.cpu(), x.clone(), x.contiguous(), x.detach()]
        copies += [x.half().float(), x.bfloat16(), x.type(torch.float64), x.type_as(X.double())]
        for kept in (*copies, BoundedTensor(X.T, self.ptb).contiguous(), BoundedTensor(x, self.ptb)):
            assert isinstance(kept, BoundedTensor)
            assert kept.ptb is self.ptb

    def test_pinning_keeps_the_perturbation(self, monkeypatch):
        monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # as on a machine with a GPU
        assert BoundedTensor(X, self.ptb).pin_memory().ptb is self.ptb

    def test_its_type_has_a_name(self):
        assert BoundedTensor(X, self.ptb).type() == X.type()

    def test_a_conversion_keeps_the_region(self):
        x = BoundedTensor(X, PerturbationLpNorm(eps=0.1)).double()
        assert torch.equal(region_of(x).lower, X.double() - 0.1)

    def test_a_deep_copy_has_a_perturbation_of_its_own(self):
        x = BoundedTensor(X, PerturbationLpNorm(eps=torch.tensor([0.1, 0.2])))
        first, second = copy.deepcopy([x, x])
        assert first is second
        assert isinstance(first, BoundedTensor)
        assert torch.equal(first, X)
        x.ptb.eps.zero_()
        assert torch.equal(first.ptb.eps, torch.tensor([0.1, 0.2]))

    def test_gradients_flow_through_it(self):
        leaf = X.clone().requires_grad_()
        (BoundedTensor(leaf, self.ptb) * 2).sum().backward()
        assert torch.equal(leaf.grad, torch.full_like(X, 2.0))

    def test_its_text_shows_the_perturbation(self):
        assert "PerturbationLpNorm(eps=0.1, norm=inf)" in repr(BoundedTensor(X, self.ptb))

    @pytest.mark.parametrize(("x", "ptb"), [([1.0], None), (X, 0.1), (X, "eps"), (X.to_sparse(), None)])
    def test_anything_else_is_refused(self, x, ptb):
        with pytest.raises(InvalidInputError):
            BoundedTensor(x, ptb)


@pytest.mark.parametrize("norm", [None, "abc", 10**400])
def test_a_norm_that_is_no_number_is_named(norm):
    with pytest.raises(InvalidInputError, match="norm must be a number"):
        PerturbationLpNorm(eps=0.1, norm=norm)


@pytest.mark.parametrize("outward", [False, True])
def test_a_limit_that_the_dtype_does_not_reach_is_none(outward):
    ptb = PerturbationLpNorm(eps=0.2, clip=(-1e39, 1e300))
    region, free = ptb.region(X, outward=outward), PerturbationLpNorm(eps=0.2).region(X, outward=outward)
    assert torch.equal(region.lower, free.lower)
    assert torch.equal(region.upper, free.upper)


def test_a_limit_larger_than_every_float_is_named():
    with pytest.raises(InvalidInputError, match=r"clip\[1\] must be a number"):
        _region(eps=0.2, clip=(0, 10**400))


@pytest.mark.parametrize("outward", [False, True])
@pytest.mark.parametrize("clip", [(1e39, 1e40), (-1e40, -1e39), (math.inf, math.inf)])
def test_limits_beyond_all_numbers_of_the_dtype_are_refused(clip, outward):
    with pytest.raises(InvalidInputError, match=r"leaves no number of torch.float32"):
        PerturbationLpNorm(eps=0.2, clip=clip).region(X, outward=outward)
