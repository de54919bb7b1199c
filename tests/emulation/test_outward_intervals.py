"""Intervals through layers, rounded outward, by the emulated CUDA kernels: never inside of the exact ones."""

import pytest
import torch
from ops.cases import DTYPES, intervals
from ops.outward_cases import (
    LAYERS,
    WIDENING,
    assert_infinite_bounds_on_the_wrong_side_are_none,
    assert_outward_conv2d,
    assert_outward_linear,
)
from ops.test_affine import CONVOLUTIONS
from rounding.cases import KINDS, bounds, box, case
from rounding.test_merged import assert_intervals_hold
from rounding.test_outward import (
    BATCH,
    INPUTS,
    OUTPUTS,
    affine_chain,
    losing_network,
    losing_row,
    losing_sums,
    never_inside,
    range_of_chain,
    violations,
)

from lbp import ops
from lbp.ops import outward_intervals
from lbp.rounding import BLOCK, blocked_terms


@pytest.fixture(autouse=True)
def on_device(emulated, monkeypatch):
    """Have outward intervals take the kernels of CUDA devices."""
    monkeypatch.setattr(outward_intervals, "has_fused_products", lambda weight: True)
    monkeypatch.setattr(outward_intervals, "fused_convolution_pays", lambda weight, groups: True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_are_those_of_the_reference(dtype):
    for layer in LAYERS:
        assert_outward_linear(*layer, dtype)
    for index in range(len(CONVOLUTIONS)):
        assert_outward_conv2d(index, dtype)


def test_intervals_of_layers_with_merged_batch_normalisation_lie_outside_of_the_exact_range():
    assert_intervals_hold(torch.float32, ["cancelling"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [3, 6])
def test_infinite_bounds_on_the_wrong_side_are_none(batch, dtype):
    assert_infinite_bounds_on_the_wrong_side_are_none(batch, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 8, 2500])
def test_intervals_are_split_and_joined(size, dtype):
    l, u = (end.to(dtype) for end in intervals(1, size))
    l[0, 1:2], u[0, 1:2] = 0, 0  # what is 0 stays 0
    l[0, 2:3], u[0, 2:3] = 0, torch.finfo(dtype).smallest_normal / 8
    center, radius = outward_intervals.split_interval(l, u, WIDENING)
    expected = (u - l) / 2
    expected = expected + (((u + l) / 2).abs() + expected) * WIDENING.relative + WIDENING.absolute
    expected[0, 1:2] = 0
    assert torch.equal(center, (u + l) / 2)
    torch.testing.assert_close(radius, expected, rtol=1e-6, atol=0)
    assert torch.equal(outward_intervals.split_interval(l, u)[1], (u - l) / 2)
    center[0, -1] = torch.inf
    lower, upper = outward_intervals.join_interval(center, radius, outward=True)
    assert torch.equal(lower[0, :-1], (center - radius)[0, :-1])
    assert torch.equal(upper, center + radius)
    assert lower[0, -1].isnan()
    assert torch.equal(outward_intervals.join_interval(center, radius)[0], center - radius)


@pytest.mark.parametrize("batch", [BATCH, 6])
def test_bounds_of_affine_chains_lie_outside_of_the_exact_range(batch):
    for seed, kind in enumerate(KINDS):
        model, (lower, upper) = affine_chain(kind, seed), box(batch, INPUTS, seed=seed)
        exact = range_of_chain(model, lower, upper, "IBP")
        wrong, compared = violations(bounds(model, lower, upper, method="IBP", rounding="outward"), *exact)
        assert wrong == 0, f"{wrong} of {compared} {kind} bounds"
        assert compared == 2 * batch * OUTPUTS


@pytest.mark.parametrize("kind", ["gaussian", "cancelling"])
def test_bounds_of_convolutions_hold_the_values_of_small_regions(kind):
    small = case("conv", kind, width=1e-6)
    assert never_inside(small.bounds(method="IBP", rounding="outward"), small.reached)


# A thread's terms, and blocks that split the depth.
@pytest.mark.parametrize(("batch", "terms"), [(1, 4096), (6, 1100)])
def test_terms_that_sums_lose_one_by_one_are_paid(batch, terms):
    row, ones = losing_row(terms), torch.ones(batch, terms)
    exact = losing_sums(terms, 1)
    assert violations(ops.interval_linear(ones, ones, row, None), exact, exact)[0] > 0
    model = torch.nn.Sequential(torch.nn.Linear(terms, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(row)
    assert violations(bounds(model, ones, ones, method="IBP", rounding="outward"), exact, exact)[0] == 0


def test_terms_that_sums_over_channels_lose_one_by_one_are_paid():
    model, x = losing_network("convolutions", 512)
    exact = losing_sums(512, x.numel())
    image = torch.ones(1, 512, *x.shape[2:])
    nearest = ops.interval_conv2d(image, image, model[2].weight, None)
    assert violations(nearest, exact, exact)[0] > 0
    assert violations(bounds(model, x, x, method="IBP", rounding="outward"), exact, exact)[0] == 0


@pytest.mark.parametrize("batch", [1, 4, 5, 100])
@pytest.mark.parametrize("outputs", [3, 64, 100, 5000, 40_000])
def test_sums_round_as_often_as_sums_in_blocks(emulated, batch, outputs):
    for inputs in (100, 512, 513, 1030, 5000, 126_500, 512 * 256, 512 * 256 + 1, 139_133, 210_000, 300_000):
        workspace = emulated.interval_linear_workspace_bytes_4(batch, inputs, outputs, True)
        parts = max(workspace // (8 * batch * outputs), 1)
        if batch <= 4 and parts == 1:
            assert -(-inputs // 256) <= BLOCK  # the terms of a thread
        else:
            terms = 8 * -(-inputs // (8 * parts)) if parts > 1 else inputs  # whole tiles, 8 deep
            assert terms + parts - 1 <= blocked_terms(inputs)
