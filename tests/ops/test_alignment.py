"""Rows of whole packs at an odd address are read and written like those at any other, forward and backward.

Kernels that read packs add in another order than those that read single numbers: sums agree to rounding.
"""

import pytest
import torch
from ops.cases import DTYPES, TOLERANCE, as_tuple, coefficients, forward_matrices, intervals, normal, uniform

from lbp import ops


def at_odd_address(values):
    return values.new_empty(values.numel() + 1)[1:].view(values.shape).copy_(values)


def calls():
    """Ops by name, and what they read; every row is of whole packs of both formats."""
    l, u = intervals(2, 64)
    A, r = coefficients("both", 2, 3, 64), uniform(64, low=0.3, high=1.5)
    matrices = forward_matrices(2, 8, 64)
    x = uniform(2, 64)
    W, image, kernel = normal(64, 32, seed=6), (4, 4, 4), normal(4, 4, 3, 3, seed=7)
    rows, bounds = (lambda A: A.unflatten(-1, image)), (lambda *ends: (end.unflatten(-1, image) for end in ends))
    return {
        "ramp": (lambda l, r: ops.ramp(l, r=r), (l, r)),
        "ramp_interval": (lambda l, u, r: ops.ramp_interval(l, u, r=r), (l, u, r)),
        "ramp_interval_with_status": (lambda l, u, r: ops.ramp_interval_with_status(l, u, r=r), (l, u, r)),
        "bounding_lines": (lambda l, u, r: ops.bounding_lines(l, u, r=r), (l, u, r)),
        "relax_backward": (lambda A, l, u, r: ops.relax_backward(A, l, u, sides="both", r=r), (A, l, u, r)),
        "relax_forward": (lambda l, u, r, *m: ops.relax_forward(*m, l, u, r=r), (l, u, r, *matrices)),
        "concretize_box": (lambda A, x: ops.concretize_box(A, x, x + 0.1, sides="both"), (A, x)),
        "concretize_ball": (lambda A, x: ops.concretize_ball(A, x, 0.1, 2.0, sides="both"), (A, x)),
        "concretize_forward_box": (lambda x, *m: ops.concretize_forward_box(*m, x, x + 0.1), (x[:, :8], *matrices)),
        "interval_linear": (lambda l, u, W: ops.interval_linear(l, u, W, None), (l, u, W.mT)),
        "forward_linear": (lambda W, *m: ops.forward_linear(*m, W, None), (W.mT, *matrices)),
        "insert_forward": (lambda A, *m: ops.insert_forward(A, *m, sides="both"), (A, *matrices)),
        "relax_backward_linear": (
            lambda A, l, u, W: ops.relax_backward_linear(A, l, u, W, None, sides="both", r=0.75),
            (A, l, u, W),
        ),
        "interval_conv2d": (
            lambda l, u, kernel: ops.interval_conv2d(*bounds(l, u), kernel, None, padding=(1, 1)),
            (l, u, kernel),
        ),
        "relax_backward_conv2d": (
            lambda A, l, u, kernel: ops.relax_backward_conv2d(
                rows(A), *bounds(l, u), kernel, None, (4, 4), sides="both", r=0.75, padding=(1, 1)
            ),
            (A, l, u, kernel),
        ),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", calls())
def test_results_do_not_depend_on_where_a_tensor_begins(name, dtype):
    op, given = calls()[name]
    results = []
    for place in (torch.clone, at_odd_address):
        tensors = [place(values.to(dtype).contiguous()).requires_grad_() for values in given]
        found = [value for value in as_tuple(op(*tensors)) if value is not None]
        outputs = [value for value in found if value.requires_grad]
        weights = [place(torch.ones_like(value)) for value in outputs]
        results.append(
            [*found, *torch.autograd.grad(outputs, tensors, weights, materialize_grads=True, allow_unused=True)]
        )
    for aligned, odd in zip(*results, strict=True):
        largest = float(aligned.detach().abs().max())
        torch.testing.assert_close(odd, aligned, rtol=0, atol=TOLERANCE[dtype] * largest)
