"""No op makes a GPU wait: it neither copies numbers from the host to the device nor reads a tensor's values."""

import pytest
import torch
from ops.cases import OP_NAMES, as_tuple, converted, every_op, is_float
from torch.utils._python_dispatch import TorchDispatchMode


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


def test_what_passes_is_noticed():
    values = torch.ones(2)
    for passes in (lambda: values.new_tensor([1.0, 2.0]), lambda: torch.tensor(1.0), lambda: float(values[0])):
        with pytest.raises(AssertionError), NothingPasses():
            passes()
