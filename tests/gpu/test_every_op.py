"""One call of every op, forward and backward, in both types: the tests that compute-sanitizer watches."""

import pytest
import torch
from gpu.names import NAMES
from ops.cases import (
    DTYPES,
    TOLERANCE,
    as_tuple,
    assert_close,
    assert_matches_reference,
    converted,
    every_op,
    is_float,
)


@pytest.mark.usefixtures("native_on_cuda")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_the_reference(name, dtype):
    op, args, kwargs = every_op()[name]
    assert_matches_reference(op, *args, dtype=dtype, **kwargs)


def run(name, dtype, device="cuda"):
    """Outputs of an op, and gradients of their sum by all its tensors, on a device."""
    op, args, kwargs = every_op(dtype)[name]
    leaves = []
    args, kwargs = converted(args, dtype, leaves, device), converted(kwargs, dtype, leaves, device)
    outputs = as_tuple(op(*args, **kwargs))
    total = sum(out.double().sum() for out in outputs if is_float(out))
    return [*(out.detach() for out in outputs), *torch.autograd.grad(total, leaves, allow_unused=True)]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.equal(a.cpu(), b.cpu())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_two_runs_agree_to_the_last_bit(name, dtype):
    assert_same(run(name, dtype), run(name, dtype))


@pytest.mark.parametrize("name", NAMES)
def test_results_lie_on_the_device_and_agree_with_the_cpu(name):
    on_device, on_cpu = run(name, torch.float64), run(name, torch.float64, "cpu")
    assert all(value is None or value.is_cuda for value in on_device)
    present = [(a.cpu(), b) for a, b in zip(on_device, on_cpu, strict=True) if a is not None and b is not None]
    assert_close(*zip(*present, strict=True), 100 * TOLERANCE[torch.float64], "value")


@pytest.mark.parametrize("name", NAMES)
def test_a_device_that_is_not_the_current_one_computes_the_same(name):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    with torch.cuda.device(0):
        expected = run(name, torch.float32, "cuda:0")
        actual = run(name, torch.float32, "cuda:1")
        assert torch.cuda.current_device() == 0
    assert all(value is None or value.device.index == 1 for value in actual)
    assert_same(expected, actual)
