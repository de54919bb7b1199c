"""Every op is registered as PyTorch asks: schema, fake function, autograd; its gradient is the derivative."""

from functools import cache

import pytest
import torch
from ops.cases import OP_NAMES, as_tuple, converted, evaluate, every_op, is_float
from torch.utils._python_dispatch import TorchDispatchMode

FORWARD_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
# Ops whose gradients are the library's products and sums alone, which it differentiates as often as one likes.
AFFINE = (
    *("interval_linear", "interval_conv2d", "backward_linear", "backward_conv2d", "forward_linear", "forward_conv2d"),
    *("insert_forward", "backward_conv2d_windows"),
)
GRADIENT_CHECKS = ("test_schema", "test_faketensor")
# Ops that only others call, which have the checks of their own:
# - `ramp_interval_with_status` and the concretizations share their registered ops; `ramp_interval_with_status` alone
#   calls `status_counts`, and that where the rest is PyTorch's (test_activation.py).
# - On the CPU `interval_linear` alone calls `interval_linear_small_batch`, and its gradient the gradient of that;
#   `interval_conv2d` and `forward_conv2d` call `interval_conv2d_direct`, `backward_conv2d` and `relax_backward_conv2d`,
#   and their gradients, the two of `backward_conv2d_direct`, all those gradients `interval_conv2d_input_gradient` and
#   `conv2d_weight_gradient`; intervals, and their gradients, call `split_interval` and `join_interval`.
# - On the CPU `accumulate_windows` and its gradient alone call `accumulate_windows_few_rows`, the gradient of that, and
#   `accumulate_windows_many_rows`, `convolve_windows` alone `convolve_windows_laid_out`, `insert_forward` and its
#   gradient the two of `insert_forward_few_rows`.
# - On CUDA devices `interval_conv2d`, `relax_backward_linear` and `insert_forward` alone call their fused products
#   (tests/gpu/test_registration.py); intervals that are rounded outward are ops of their own there
#   (tests/gpu/test_outward_intervals.py).
PARTS = {
    *(
        "cpu_capability",
        "cuda_build",
        "interval_linear_small_batch",
        "interval_linear_small_batch_gradient",
        "interval_conv2d_direct",
        "interval_conv2d_input_gradient",
        "conv2d_weight_gradient",
        "backward_conv2d_direct",
        "backward_conv2d_direct_gradient",
        "interval_conv2d_fused",
        "relax_backward_linear_fused",
        "insert_forward_fused",
    ),
    *("interval_linear_outward", "interval_conv2d_outward", "split_interval", "join_interval"),
    *("accumulate_windows_few_rows", "accumulate_windows_few_rows_gradient", "accumulate_windows_many_rows"),
    *("convolve_windows_laid_out", "status_counts", "insert_forward_few_rows", "insert_forward_few_rows_gradient"),
}
REGISTERED = sorted(
    {schema.name.removeprefix("lbp::") for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("lbp::")}
    - PARTS
)


class Recorder(TorchDispatchMode):
    """Keeps the arguments with which the registered ops of the package are called."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "lbp":
            self.calls.setdefault(function._opname, []).append((function, args, kwargs or {}))
        return function(*args, **(kwargs or {}))


def with_gradients(value):
    return value.detach().clone().requires_grad_() if is_float(value) else value


def is_integer(value):
    return isinstance(value, torch.Tensor) and not value.is_floating_point()


def detached(value):
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


@cache
def recorded_calls(device="cpu", names=OP_NAMES):
    """Calls of all registered ops, made by the public functions and by their backward passes, on a device."""
    with Recorder() as recorder:
        for op, args, kwargs in (every_op()[name] for name in names):
            args, kwargs = converted(args, torch.float64, None, device), converted(kwargs, torch.float64, None, device)
            outputs = as_tuple(op(*map(with_gradients, args), **{k: with_gradients(v) for k, v in kwargs.items()}))
            floats = [out for out in outputs if is_float(out) and out.requires_grad]
            torch.autograd.backward(floats, [torch.ones_like(out) for out in floats])
    return recorder.calls


def test_the_public_functions_reach_every_registered_op():
    assert sorted(set(recorded_calls()) - PARTS) == REGISTERED


@pytest.mark.parametrize("name", REGISTERED)
def test_the_registration_of_the_op_is_complete(name):
    function, args, _ = recorded_calls()[name][0]
    if name.removesuffix("_").endswith("_gradient"):
        torch.library.opcheck(function, [detached(value) for value in args], test_utils=GRADIENT_CHECKS)
    else:
        torch.library.opcheck(function, [with_gradients(value) for value in args], test_utils=FORWARD_CHECKS)


@pytest.mark.parametrize("radius", [0.25, torch.tensor([0.25, 0.5]).double()], ids=["number", "per image"])
@pytest.mark.parametrize("name", [name for name in OP_NAMES if name.endswith("_ball")])
def test_a_radius_travels_as_a_number_or_as_a_tensor(name, radius):
    op, (*tensors, _, p), kwargs = every_op()[name]
    with Recorder() as recorder:
        op(*tensors, radius, p, **kwargs)
    [[(function, args, _)]] = recorder.calls.values()
    named = dict(zip((argument.name for argument in function._schema.arguments), args, strict=True))
    if isinstance(radius, torch.Tensor):
        assert torch.equal(named["eps_tensor"], radius)
    else:
        assert (named["eps"], named["eps_tensor"]) == (radius, None)
    torch.library.opcheck(function, [with_gradients(value) for value in args], test_utils=FORWARD_CHECKS)


def differentiable(name, device="cpu"):
    """An op as a function of all its float tensors, and the tensors on a device, as gradcheck wants them."""
    op, args, kwargs = every_op()[name]
    arguments = converted([*args, *kwargs.values()], torch.float64, None, device)
    places = [i for i, value in enumerate(arguments) if is_float(value)]
    # Coefficients that are exactly 0 are kinks, where differences of values say nothing.
    tensors = [torch.where(arguments[i] == 0, 0.5, arguments[i]).requires_grad_() for i in places]

    def of_tensors(*tensors):
        filled = dict(enumerate(arguments)) | dict(zip(places, tensors, strict=True))
        values = [filled[i] for i in range(len(arguments))]
        outputs = op(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))
        return tuple(out for out in as_tuple(outputs) if is_float(out))

    return of_tensors, tensors


@pytest.mark.parametrize("name", OP_NAMES)
def test_the_gradient_is_the_derivative(name):
    assert torch.autograd.gradcheck(*differentiable(name), fast_mode=True)


@pytest.mark.parametrize("name", AFFINE)
def test_the_gradient_of_products_and_sums_has_a_derivative(name):
    assert torch.autograd.gradgradcheck(*differentiable(name), fast_mode=True)


@pytest.mark.parametrize("name", [name for name in OP_NAMES if name not in AFFINE])
def test_a_second_derivative_of_a_kernel_is_refused(name):
    op, args, kwargs = every_op()[name]
    args = [with_gradients(value) for value in args]
    outputs = [out for out in as_tuple(op(*args, **kwargs)) if is_float(out) and out.requires_grad]
    leaves = [value for value in args if is_float(value)]
    gradients = torch.autograd.grad([out.sum() for out in outputs], leaves, create_graph=True, allow_unused=True)
    total = sum(gradient.double().sum() for gradient in gradients if gradient is not None)
    with pytest.raises(NotImplementedError, match="differentiable once, not twice"):
        torch.autograd.grad(total, leaves, allow_unused=True)


def without_examples(name):
    """One call of an op with the batch [B] of every argument cut to size 0; weights and parameters stay whole."""
    op, args, kwargs = every_op()[name]
    if any(is_integer(value) for value in args):
        # Rows of several examples stand side by side.
        return op, [value[:0] if is_integer(value) else value for value in args], kwargs
    batch = 2

    def cut(value, dim):
        return value.narrow(dim, 0, 0) if is_float(value) and value.dim() and value.shape[dim] == batch else value

    has_coefficients = "backward" in name or name in (
        *("insert_forward", "insert_forward_windows"),
        *("concretize_box", "concretize_ball"),
    )
    first, *rest = args
    args = (cut(first, 1 if has_coefficients else 0), *(cut(value, 0) for value in rest))
    return op, args, {key: cut(value, 0) if key in ("x_L", "x_U") else value for key, value in kwargs.items()}


@pytest.mark.parametrize("name", OP_NAMES)
def test_a_batch_without_examples_gives_a_batch_without_bounds(name):
    (whole_op, whole_args, whole_kwargs), (op, args, kwargs) = every_op()[name], without_examples(name)
    for backend in ("native", "reference"):
        whole, _ = evaluate(whole_op, *whole_args, backend=backend, dtype=torch.float64, **whole_kwargs)
        outputs, gradients = evaluate(op, *args, backend=backend, dtype=torch.float64, **kwargs)
        for output, full in zip(outputs, whole, strict=True):
            if is_float(output):
                batch = 1 if output.dim() > 1 and output.shape[1] == 0 else 0
                assert output.shape == (*full.shape[:batch], 0, *full.shape[batch + 1 :])
            else:
                assert not output.any()
        assert all(bool((gradient == 0).all()) for gradient in gradients)
