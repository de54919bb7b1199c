"""Intervals through layers that are rounded outward: one kernel on the device, and what the CPU gives."""

import pytest
import torch
from ops.cases import DTYPES, converted
from ops.outward_cases import (
    CALLS,
    LAYERS,
    assert_infinite_bounds_on_the_wrong_side_are_none,
    assert_outward_conv2d,
    assert_outward_linear,
)
from ops.test_affine import CONVOLUTIONS
from ops.test_registration import GRADIENT_CHECKS
from rounding.test_outward import losing_row, losing_sums, violations

import lbp
from lbp.ops import outward_intervals


@pytest.fixture(params=["fused", "library's"])
def convolutions(request, monkeypatch):
    """Convolutions by the kernel, and by the library's products between passes of kernels."""
    monkeypatch.setattr(outward_intervals, "fused_convolution_pays", lambda *_: request.param == "fused")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", [*LAYERS, (300, 1100, 130), (2, 140_000, 3)], ids=str)
def test_bounds_of_linear_layers_are_those_of_the_reference(layer, dtype):
    assert_outward_linear(*layer, dtype, "cuda")


@pytest.mark.usefixtures("convolutions")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)))
def test_bounds_of_convolutions_are_those_of_the_reference(index, dtype):
    assert_outward_conv2d(index, dtype, "cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [3, 20])
def test_infinite_bounds_on_the_wrong_side_are_none(batch, dtype):
    assert_infinite_bounds_on_the_wrong_side_are_none(batch, dtype, "cuda")


def outward_ibp(model, x, device):
    """Bounds of a network at a point, on a device."""
    net = lbp.BoundedModule(model.to(device), x.to(device))
    region = lbp.BoundedTensor(x.to(device), lbp.PerturbationLpNorm(eps=0.0))
    with torch.no_grad():
        return [side.cpu() for side in net.compute_bounds(x=(region,), method="IBP", rounding="outward")]


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("terms", [512, 4096, 140_000])
def test_terms_that_sums_lose_one_by_one_are_paid_as_on_the_cpu(batch, terms):
    model, x, exact = torch.nn.Sequential(torch.nn.Linear(terms, 2)), torch.ones(batch, terms), losing_sums(terms, 1)
    with torch.no_grad():
        model[0].weight.copy_(losing_row(terms))
        model[0].bias.zero_()
    on_device, on_cpu = outward_ibp(model, x, "cuda"), outward_ibp(model, x, "cpu")
    assert violations(on_device, exact, exact)[0] == 0
    width = float((on_cpu[1] - on_cpu[0]).max())
    assert all(torch.allclose(one, other, rtol=0, atol=width) for one, other in zip(on_device, on_cpu, strict=True))


def run(name, dtype, device="cuda"):
    """Results of an op on a device."""
    return getattr(torch.ops.lbp, name)(*converted(CALLS[name], dtype, None, device))


@pytest.mark.parametrize("name", CALLS)
def test_the_registration_of_the_op_is_complete(name):
    on_device = converted(CALLS[name], torch.float64, None, "cuda")
    torch.library.opcheck(getattr(torch.ops.lbp, name).default, on_device, test_utils=GRADIENT_CHECKS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
def test_two_runs_agree_to_the_last_bit(name, dtype):
    assert all(map(torch.equal, run(name, dtype), run(name, dtype)))


@pytest.mark.parametrize("name", CALLS)
def test_a_device_that_is_not_the_current_one_computes_the_same(name):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    with torch.cuda.device(0):
        found = run(name, torch.float32, "cuda:1")
        assert torch.cuda.current_device() == 0
    assert all(side.device.index == 1 for side in found)
    assert all(map(torch.equal, run(name, torch.float32, "cuda:0"), (side.to("cuda:0") for side in found)))
