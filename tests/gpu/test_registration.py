"""Registration and gradients on the device, as tests/ops/test_registration.py checks them on the CPU."""

import pytest
import torch
from gpu.names import NAMES, REGISTERED_NAMES
from ops.test_registration import (
    FORWARD_CHECKS,
    GRADIENT_CHECKS,
    detached,
    differentiable,
    recorded_calls,
    with_gradients,
)


@pytest.mark.parametrize("name", REGISTERED_NAMES)
def test_the_registration_of_the_op_is_complete(name):
    function, args, _ = recorded_calls("cuda", NAMES)[name][0]
    if name.endswith("_gradient"):
        torch.library.opcheck(function, [detached(value) for value in args], test_utils=GRADIENT_CHECKS)
    else:
        torch.library.opcheck(function, [with_gradients(value) for value in args], test_utils=FORWARD_CHECKS)


@pytest.mark.parametrize("name", ["interval_conv2d", "relax_backward_linear", "insert_forward"])
def test_the_registration_of_a_fused_product_is_complete(name):
    """What the op itself calls where that pays takes the same arguments."""
    (_, args, _) = recorded_calls("cuda", NAMES)[name][0]
    fused = getattr(torch.ops.lbp, f"{name}_fused").default
    torch.library.opcheck(fused, [detached(value) for value in args], test_utils=GRADIENT_CHECKS)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_the_derivative(name):
    assert torch.autograd.gradcheck(*differentiable(name, "cuda"), fast_mode=True)
