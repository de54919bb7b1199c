"""What the gradient is where the bound has none: decided once, and the same with both implementations."""

import math

import pytest
import torch

import lbp
from lbp import ops

BACKENDS = ("native", "reference")


def leaf(*values):
    return torch.tensor(values, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("side", "slope", "intercept"), [("lower", 2.0, 3.0), ("upper", 5.0, 7.0)])
def test_a_coefficient_of_0_takes_the_line_of_positive_coefficients_alone(side, slope, intercept, backend):
    A = torch.zeros(1, 1, 1, 1, dtype=torch.float64).requires_grad_()
    lines = {"lower_slope": 2.0, "lower_intercept": 3.0, "upper_slope": 5.0, "upper_intercept": 7.0}
    lines = {name: leaf([value]) for name, value in lines.items()}
    with lbp.backend(backend):
        relaxed, constants = ops.relax_backward(
            A, leaf([-1.0]), leaf([1.0]), sides=side, bias=leaf(11.0), strategy="lines", **lines
        )
    assert torch.autograd.grad(relaxed.sum(), A, retain_graph=True)[0].item() == slope
    assert torch.autograd.grad(constants.sum(), A)[0].item() == intercept + 11.0 * slope


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("side", "expected"), [("lower", -2.0), ("upper", 5.0)])
def test_a_coefficient_of_0_takes_the_corner_of_positive_coefficients_alone(side, expected, backend):
    A = torch.zeros(1, 1, 1, 1, dtype=torch.float64).requires_grad_()
    with lbp.backend(backend):
        bound = ops.concretize_box(A, leaf([-2.0]), leaf([5.0]), sides=side)
    assert torch.autograd.grad(bound.sum(), A)[0].item() == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("side", "expected"), [("lower", 3.0 - 2.0), ("upper", 3.0 + 2.0)])
def test_a_coefficient_of_0_takes_the_forward_bound_of_positive_coefficients_alone(side, expected, backend):
    A = torch.zeros(1, 1, 1, 1, dtype=torch.float64).requires_grad_()
    matrices = leaf([[3.0]]), leaf([[2.0]]), leaf([30.0]), leaf([20.0])
    with lbp.backend(backend):
        coefficients, constants = ops.insert_forward(A, *matrices, sides=side)
    assert torch.autograd.grad(coefficients.sum(), A, retain_graph=True)[0].item() == expected
    assert torch.autograd.grad(constants.sum(), A)[0].item() == 10 * expected


EQUAL_ENDS = {
    "box": lambda A, l, u: ops.concretize_box(A.reshape(1, 1, 1, 1, 1, 1), l, u, sides="lower"),
    "windows": lambda A, l, u: ops.concretize_windows_box(
        A.reshape(1, 1, 1, 1, 1), torch.zeros(1, 4, dtype=torch.int64), l, u, sides="lower"
    ),
    "forward bounds": lambda A, l, u: ops.concretize_forward_box(A.reshape(1, 1, 1), None, leaf([0.0]), None, l, u)[0],
    "forward windows": lambda A, l, u: ops.concretize_forward_windows_box(
        A.reshape(1, 1, 1, 1, 1, 1, 1), None, leaf([[[0.0]]]), None, l, u, scale=(1, 1), offset=(0, 0)
    )[0],
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", EQUAL_ENDS)
@pytest.mark.parametrize(("coefficient", "expected"), [(2.0, (2.0, 0.0)), (-2.0, (0.0, -2.0))])
def test_of_equal_ends_of_an_interval_each_has_its_own_gradient(op, coefficient, expected, backend):
    l, u = leaf([[[3.0]]]), leaf([[[3.0]]])
    with lbp.backend(backend):
        lower = EQUAL_ENDS[op](torch.tensor(coefficient, dtype=torch.float64), l, u)
    to_l, to_u = torch.autograd.grad(lower.sum(), (l, u))
    assert (to_l.item(), to_u.item()) == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("eta", [0.0, 0.25])
def test_at_its_bends_the_ramp_has_the_slope_to_the_left(eta, backend):
    z, r = leaf([0.0, 1.0]), leaf(1.0)
    with lbp.backend(backend):
        to_z, to_r = torch.autograd.grad(ops.ramp(z, r, eta).sum(), (z, r))
    assert to_z.tolist() == [[eta, 1.0]]
    assert to_r.item() == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("eta", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("strategy", ["constant", "tight", "adaptive", "same-slope", "zero", "one"])
def test_an_infinite_bending_point_has_gradient_0(strategy, eta, backend):
    l, u, r = leaf([-2.0, -1.0, 1.0, -3.0]), leaf([-1.0, 2.0, 3.0, 1.0]), leaf(*[math.inf] * 4)
    with lbp.backend(backend):
        lower, upper = ops.ramp_interval(l, u, r, eta)
        outputs = (*ops.bounding_lines(l, u, r, eta, strategy), lower, upper, ops.ramp(u, r, eta))
        to_l, to_u, to_r = torch.autograd.grad(sum(out.sum() for out in outputs), (l, u, r))
    assert to_r.tolist() == [0.0] * 4
    assert to_l.isfinite().all()
    assert to_u.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slope_at_an_end_of_its_range_keeps_its_gradient(backend):
    l, u, slope = leaf([-1.0] * 4), leaf([1.0] * 4), leaf([-0.5, 0.0, 1.0, 1.5])
    with lbp.backend(backend):
        lines = ops.bounding_lines(l, u, strategy="slopes", lower_slope=slope)
        (to_slope,) = torch.autograd.grad(lines.lower_slope.sum(), slope)
    assert lines.lower_slope.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert to_slope.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_outward_rounding_is_the_identity_for_gradients(backend):
    l, u = leaf([-1.0]), leaf([3.0])
    with lbp.backend(backend):
        lines = ops.bounding_lines(l, u)
    # chord: intercept -l u/(u - l), slope u/(u - l)
    assert torch.allclose(
        torch.cat(torch.autograd.grad(lines.upper_intercept.sum(), (l, u), retain_graph=True)).flatten(),
        torch.tensor([-9 / 16, 1 / 16], dtype=torch.float64),
        rtol=1e-14,
    )
    assert torch.allclose(
        torch.cat(torch.autograd.grad(lines.upper_slope.sum(), (l, u))).flatten(),
        torch.tensor([3 / 16, 1 / 16], dtype=torch.float64),
        rtol=1e-14,
    )
