"""What the ops say about wrong devices, and about memory that is not there."""

import pytest
import torch
from ops.cases import coefficients, intervals, normal

from lbp import ops


def on_device(*tensors):
    return [tensor.cuda() for tensor in tensors]


def test_a_tensor_of_another_device_is_named():
    l, u = on_device(*intervals(2, 5))
    A = coefficients("lower", 2, 3, 5)
    with pytest.raises(
        RuntimeError, match="r: expected a tensor on cuda:0 like the other arguments, got one on the CPU"
    ):
        ops.ramp(l, normal(5).abs())
    with pytest.raises(
        RuntimeError, match="l: expected a tensor on the CPU like the other arguments, got one on cuda:0"
    ):
        ops.relax_backward(A, l, u, sides="lower")
    with pytest.raises(RuntimeError, match="u: expected a tensor on cuda:0"):
        ops.relax_backward(A.cuda(), l, u.cpu(), sides="lower")
    with pytest.raises(RuntimeError, match="x_L: expected a tensor on cuda:0"):
        ops.concretize_box(A.cuda(), l.cpu(), u.cpu(), sides="lower")


def test_a_slope_may_be_a_number_a_tensor_of_the_cpu_or_of_the_device():
    (z,) = on_device(normal(3, 4))
    expected = ops.ramp(z, 0.75, 0.125)
    for eta in (torch.tensor(0.125), torch.tensor(0.125, device="cuda"), torch.tensor([0.125], device="cuda").double()):
        assert torch.equal(ops.ramp(z, 0.75, eta), expected)


def test_a_slope_out_of_range_on_the_device_gives_nan():
    z, eta = on_device(normal(3, 4), torch.tensor(1.5))
    assert ops.ramp(z, 0.75, eta).isnan().all()


def test_memory_that_is_not_there_is_an_error_and_nothing_else_is_lost():
    l, u = on_device(*intervals(1, 1024))
    A = torch.ones(1, 1, 1, 1024, device="cuda", dtype=torch.float64).expand(1, 1, 2**32, 1024)
    with pytest.raises(RuntimeError, match=r"cannot allocate a .* tensor of shape .* on cuda:0: out of memory"):
        ops.relax_backward(A, l, u, sides="lower")
    relaxed, _ = ops.relax_backward(A[:, :, :2], l, u, sides="lower")
    assert relaxed.isfinite().all()


def test_empty_tensors_launch_nothing_and_return_empty_tensors():
    for batch, neurons in ((0, 5), (2, 0)):
        l, u = on_device(*intervals(batch, neurons))
        assert ops.ramp(l).shape == (batch, neurons)
        lower, upper, counts = ops.ramp_interval_with_status(l, u)
        assert lower.shape == upper.shape == (batch, neurons)
        assert counts.tolist() == [0] * 6
