"""What the device is told to do for an op on a small layer, as the profiler sees it: PyTorch's own fills count, too.

`tests/emulation/test_launches.py` counts the kernels of this package alone.
"""

import pytest
import torch
from ops.cases import DTYPES, as_tuple, converted, is_float
from ops.small_layers import SHARED_SUMS
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# The gradient of a bias that images share is added up by the library.
WITH_SUMS_OF_THE_LIBRARY = ("relax_windows",)


def profiled(call):
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    return [event.name for event in seen.events() if event.device_type == DeviceType.CUDA]


def launched(call):
    """Names of the kernels, copies and fills of a call on the device, whose kernels and handles are loaded before."""
    call()
    torch.cuda.synchronize()
    return profiled(call) or profiled(call)  # what the profiler hands out at the start may be lost


@pytest.fixture(scope="module", autouse=True)
def profiler():
    profiled(lambda: torch.zeros(1, device="cuda"))
    if len(launched(lambda: torch.full((1,), 0.5, device="cuda"))) != 1:
        pytest.skip("PyTorch's profiler does not see what the device does")


def arguments(name, dtype):
    """An op with its arguments on the device; images of windowed rows lie channels last, as the kernels read them."""
    op, args, kwargs = SHARED_SUMS[name]
    args, kwargs = converted(args, dtype, None, "cuda"), converted(kwargs, dtype, None, "cuda")
    if name.startswith("windows"):
        args = [
            value.to(memory_format=torch.channels_last) if is_float(value) and value.dim() == 4 else value
            for value in args
        ]
    return op, args, kwargs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHARED_SUMS)
def test_an_op_on_a_small_layer_is_one_launch(name, dtype):
    op, args, kwargs = arguments(name, dtype)
    with torch.no_grad():
        names = launched(lambda: op(*args, **kwargs))
    assert len(names) == 1, names


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in SHARED_SUMS if name not in WITH_SUMS_OF_THE_LIBRARY])
def test_its_gradient_is_one_launch(name, dtype):
    op, (first, *rest), kwargs = arguments(name, dtype)
    first.requires_grad_()
    outputs = [out for out in as_tuple(op(first, *rest, **kwargs)) if is_float(out) and out.requires_grad]
    ones = [torch.ones_like(out) for out in outputs]
    names = launched(lambda: torch.autograd.grad(outputs, [first], ones, retain_graph=True))
    assert len(names) == 1, names
