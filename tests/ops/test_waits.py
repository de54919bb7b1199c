"""No op makes a GPU wait: it neither copies numbers from the host to the device nor reads a tensor's values."""

import pytest
import torch
from ops.cases import OP_NAMES, as_tuple, converted, every_op, is_float
from ops.test_registration import recorded_calls
from torch.utils._python_dispatch import TorchDispatchMode

from lbp.ops import affine, forward, forward_windows, interval
from lbp.ops._calls import _composites


class NothingPasses(TorchDispatchMode):
    """Refuses what would pass between host and device: tensors of Python's numbers, and numbers of tensors."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function._opname not in ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select"), function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OP_NAMES)
def test_an_op_and_its_gradient_neither_read_values_nor_bring_any(name):
    op, args, kwargs = every_op()[name]
    leaves = []
    args, kwargs = converted(args, torch.float64, leaves), converted(kwargs, torch.float64, leaves)
    with NothingPasses():
        floats = [out for out in as_tuple(op(*args, **kwargs)) if is_float(out) and out.requires_grad]
        torch.autograd.grad(floats, leaves, [torch.ones_like(out) for out in floats], allow_unused=True)


def made_of_other_ops_on_gpus():
    """Names of registered ops that are the library's products and other ops there, each with what computes it."""
    for product in ("convolve_windows", "accumulate_windows"):
        yield from ((name, getattr(forward_windows, f"_{name}")) for name in (product, f"{product}_gradient"))
    yield from ((name, function) for (name, device), function in _composites.items() if device == "cuda")
    # What some of these choose between.
    yield "insert_forward", forward._insert_forward_composite
    yield "interval_conv2d", interval._interval_conv2d_composite
    yield "relax_backward_linear", affine._relax_backward_linear_composite


def elsewhere(value):
    """A tensor's shape, strides and type on a device that is not the host's, and where no tensor has values."""
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(("name", "function"), [*made_of_other_ops_on_gpus()])
def test_what_an_op_is_made_of_on_a_gpu_stays_on_its_device(name, function):
    """No tensor of the host is among operands, and no value is read."""
    for _, args, _ in recorded_calls()[name]:
        with NothingPasses(), torch.no_grad():
            results = function(*map(elsewhere, args))
        assert all(result.device.type == "meta" for result in as_tuple(results))


def test_what_passes_is_noticed():
    values = torch.ones(2)
    for passes in (lambda: values.new_tensor([1.0, 2.0]), lambda: torch.tensor(1.0), lambda: float(values[0])):
        with pytest.raises(AssertionError), NothingPasses():
            passes()


def test_a_tensor_of_the_host_among_those_of_another_device_is_noticed():
    values = torch.ones(2, device="meta")
    with pytest.raises(RuntimeError, match="device"):
        values * torch.arange(2)
    with pytest.raises(RuntimeError, match="meta"):
        float(values[0])
