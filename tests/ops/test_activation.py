"""ParamRamp, its image of an interval and its bounding lines: native against the float64 reference."""

import math

import pytest
import torch
from ops.cases import (
    DTYPES,
    ETAS,
    RS,
    STRATEGIES,
    assert_matches_reference,
    bending,
    intervals,
    margins,
    outer_slope,
    relaxation,
)

from lbp import ops, reference

SHAPE = (3, 4, 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("r", RS)
def test_ramp_and_its_gradients(r, eta, dtype):
    z, _ = intervals(4, *SHAPE)
    assert_matches_reference(ops.ramp, z, r=bending(r, SHAPE), eta=outer_slope(eta), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("r", RS)
def test_image_of_an_interval_with_statuses(r, eta, dtype):
    keywords = {"r": bending(r, SHAPE), "eta": outer_slope(eta)}
    assert_matches_reference(ops.ramp_interval, *intervals(4, *SHAPE), **keywords, dtype=dtype)
    assert_matches_reference(ops.ramp_interval_with_status, *intervals(4, *SHAPE), **keywords, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("r", RS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bounding_lines_and_their_gradients(strategy, r, eta, dtype):
    l, u = intervals(2, *SHAPE)
    assert_matches_reference(ops.bounding_lines, l, u, **relaxation(strategy, r, eta, 2, SHAPE), dtype=dtype)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("strategy", ["slopes", "slopes below", "lines"])
def test_given_lines_may_serve_the_whole_batch(strategy, batch):
    l, u = intervals(2, *SHAPE)
    assert_matches_reference(ops.bounding_lines, l, u, **relaxation(strategy, batch=batch, shape=SHAPE))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("strategy", ["constant", "slopes", "lines"])
def test_margins_of_neurons_may_serve_the_whole_batch(strategy, batch):
    keywords = relaxation(strategy, shape=SHAPE) | margins(batch, SHAPE, shared=False)
    assert_matches_reference(ops.bounding_lines, *intervals(2, *SHAPE), **keywords)


@pytest.mark.parametrize("strategy", ["adaptive", "tight", "same-slope", "constant"])
def test_intervals_out_of_order_are_swapped(strategy):
    l, u = intervals(2, *SHAPE)
    keywords = relaxation(strategy, shape=SHAPE)
    assert_matches_reference(ops.bounding_lines, u, l, **keywords)
    for swapped, ordered in zip(
        ops.bounding_lines(u, l, **keywords), ops.bounding_lines(l, u, **keywords), strict=True
    ):
        assert torch.equal(swapped, ordered)


@pytest.mark.parametrize("shape", [(0,), (1,), (1023,), (1024,), (1025,), (2500,), (3, 0, 2), (1, 1, 1), (5, 21, 23)])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_every_size(batch, shape):
    l, u = intervals(batch, *shape)
    for r in ("neuron", "channel", "row"):
        keywords = {"r": bending(r, shape), "eta": 0.1}
        assert_matches_reference(ops.ramp, l, **keywords)
        assert_matches_reference(ops.ramp_interval_with_status, l, u, **keywords)
        assert_matches_reference(ops.bounding_lines, l, u, **keywords)


def test_strided_and_expanded_inputs_have_the_values_of_their_copies():
    l, u = (bound.permute(0, 3, 1, 2) for bound in intervals(2, 4, 5, 3))
    r = bending("row", (3, 4, 5)).expand(3, 4, 5)
    for strided, copied in zip(
        (ops.ramp(l, r), *ops.ramp_interval_with_status(l, u, r), *ops.bounding_lines(l, u, r)),
        (
            ops.ramp(l.contiguous(), r.contiguous()),
            *ops.ramp_interval_with_status(l.contiguous(), u.contiguous(), r.contiguous()),
            *ops.bounding_lines(l.contiguous(), u.contiguous(), r.contiguous()),
        ),
        strict=True,
    ):
        assert torch.equal(strided, copied)
        assert strided.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_six_statuses_are_counted(dtype):
    l = torch.tensor([[-2.0, -1.0, 0.0, 0.5, 1.0, -1.0, float("nan")]], dtype=dtype)
    u = torch.tensor([[0.0, 1.0, 1.0, 1.5, 2.0, 1.5, 1.0]], dtype=dtype)
    assert ops.ramp_interval_with_status(l, u, 1.0)[2].tolist() == [1, 1, 1, 1, 1, 1]
    swapped = ops.ramp_interval_with_status(u, l, 1.0)[2].tolist()
    assert swapped == [1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("r", [1.0, math.inf, math.nan])
def test_statuses_are_counted_alike_beside_the_interval_and_alone(r, dtype):
    ends = torch.tensor([-math.inf, -1.5, -0.0, 0.0, 0.5, 1.0, 1.5, math.inf, math.nan], dtype=dtype)
    l, u = (end.repeat(1, 3) for end in torch.cartesian_prod(ends, ends).mT)
    expected = reference.status_counts(l, u, r).tolist()
    assert torch.ops.lbp.status_counts(l, u, r, None).tolist() == expected
    assert torch.ops.lbp.ramp_interval(l, u, r, None, 0.0, None, True)[2].tolist() == expected
    assert torch.ops.lbp.status_counts(l, u, 0.5, torch.full(l.shape[1:], r, dtype=dtype)).tolist() == expected


def test_bounds_of_relu_with_a_gradient_have_the_statuses_of_those_without():
    l, u = intervals(4, *SHAPE)
    without = ops.ramp_interval_with_status(l, u)
    *bounds, counts = ops.ramp_interval_with_status(l.clone().requires_grad_(), u)
    assert torch.equal(counts, without[2])
    assert int(counts.sum()) == l.numel()
    assert all(torch.equal(bound, expected) for bound, expected in zip(bounds, without, strict=False))
    torch.library.opcheck(torch.ops.lbp.status_counts.default, (l, u, math.inf, None))


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("image", [ops.ramp_interval, ops.ramp_interval_with_status])
def test_an_end_alone_has_the_gradient_of_its_number(image, end):
    bounds = [bound.requires_grad_() for bound in intervals(3, 5)]
    image(*bounds, r=0.75, eta=0.25)[end].sum().backward()
    z = bounds[end].detach().requires_grad_()
    ops.ramp(z, r=0.75, eta=0.25).sum().backward()
    assert torch.equal(bounds[end].grad, z.grad)
    assert not bounds[1 - end].grad.any()
