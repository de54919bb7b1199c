"""Linear bounds over boxes and l_p balls: native against the float64 reference, and against the extreme points."""

import math

import pytest
import torch
from ops.cases import (
    DTYPES,
    SIDES,
    assert_close,
    assert_matches_reference,
    coefficients,
    evaluate,
    forward_matrices,
    intervals,
    normal,
    uniform,
)

from lbp import ops

NORMS = (1.0, 1.5, 2.0, 3.0, math.inf)
SIZES = (0, 1, 7, 1023, 1024, 1025)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("region_batch", [1, 2])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("inputs", SIZES)
def test_box(inputs, sides, region_batch, dtype):
    A = coefficients(sides, 2, 3, inputs)
    x_L, x_U = intervals(region_batch, inputs)
    assert_matches_reference(ops.concretize_box, A, x_L, x_U, sides=sides, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 0.25, "per image", "0-dim"])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("sides", SIDES)
def test_ball(sides, p, eps, dtype):
    A = coefficients(sides, 2, 3, 2, 5)
    radius = {"per image": torch.tensor([0.25, 0.5]), "0-dim": torch.tensor(0.25)}.get(eps, eps)
    assert_matches_reference(ops.concretize_ball, A, normal(2, 2, 5, seed=1), radius, p, sides=sides, dtype=dtype)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("inputs", SIZES)
@pytest.mark.parametrize(("batch", "rows"), [(0, 2), (2, 0), (1, 1), (3, 2)])
def test_ball_of_every_size(batch, rows, inputs, p):
    A = coefficients("both", batch, rows, inputs)
    assert_matches_reference(ops.concretize_ball, A, normal(batch, inputs), 0.25, p, sides="both")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("matrix_batch", "bias_batch", "region_batch"), [(2, 2, 2), (1, 1, 2), (1, 2, 2), (2, 2, 1)])
def test_forward_box(matrix_batch, bias_batch, region_batch, exact, dtype):
    matrices = forward_matrices(matrix_batch, 6, 3, 4, bias_batch=bias_batch, exact=exact)
    box = intervals(region_batch, 2, 3)
    for op in (ops.concretize_forward_box, ops.concretize_forward_box_with_magnitude):
        assert_matches_reference(op, *matrices, *box, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 0.25, "per image", "0-dim"])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("exact", [True, False])
def test_forward_ball(exact, p, eps, dtype):
    matrices = forward_matrices(2, 6, 3, 4, exact=exact)
    radius = {"per image": torch.tensor([0.25, 0.5]), "0-dim": torch.tensor(0.25)}.get(eps, eps)
    assert_matches_reference(ops.concretize_forward_ball, *matrices, normal(2, 2, 3, seed=1), radius, p, dtype=dtype)


@pytest.mark.parametrize("neurons", [0, 1, 511, 1024, 1025])
@pytest.mark.parametrize("inputs", [0, 1, 5])
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("matrix_batch", ["one", "all"])
def test_forward_bounds_of_every_size(matrix_batch, batch, inputs, neurons):
    matrices = forward_matrices(batch if matrix_batch == "all" else 1, inputs, neurons)
    assert_matches_reference(ops.concretize_forward_box_with_magnitude, *matrices, *intervals(batch, inputs))
    for p in (1.0, 2.0, 3.0):
        assert_matches_reference(ops.concretize_forward_ball, *matrices, normal(batch, inputs), 0.25, p)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize(("inputs", "neurons"), [(129, 1025), (700, 300), (1100, 130)])
def test_forward_bounds_over_many_inputs(inputs, neurons, p):
    matrices = forward_matrices(1, inputs, neurons)
    assert_matches_reference(ops.concretize_forward_ball, *matrices, normal(2, inputs), 0.25, p)


@pytest.mark.parametrize("op", [ops.concretize_box, ops.concretize_forward_box])
def test_corners_out_of_order_by_rounding_are_swapped(op):
    x_L, x_U = intervals(2, 6)
    arguments = (coefficients("both", 2, 3, 6),) if op is ops.concretize_box else forward_matrices(2, 6, 4)
    keywords = {"sides": "both"} if op is ops.concretize_box else {}
    values, _ = evaluate(op, *arguments, x_U, x_L, **keywords, backend="native", dtype=torch.float64)
    expected, _ = evaluate(op, *arguments, x_L, x_U, **keywords, backend="native", dtype=torch.float64)
    assert_close(values, expected, 0.0, "output")


@pytest.mark.parametrize("p", NORMS)
def test_no_point_of_the_ball_leaves_the_bounds_and_one_attains_them(p):
    A, x0, eps = coefficients("both", 1, 4, 9), normal(1, 9, seed=1), 0.5
    lower, upper = ops.concretize_ball(A, x0, eps, p, sides="both")
    direction = normal(500, 9, seed=3)
    points = x0 + eps * direction / torch.linalg.vector_norm(direction, p, dim=-1, keepdim=True)
    assert ((A[0, 0] @ points.T).amin(-1) >= lower[0] - 1e-12).all()
    assert ((A[1, 0] @ points.T).amax(-1) <= upper[0] + 1e-12).all()
    for side, sign, bound in ((0, -1.0, lower), (1, 1.0, upper)):
        rows = A[side, 0]
        if p == 1:
            worst = torch.nn.functional.one_hot(rows.abs().argmax(-1), 9) * rows.sign()
        else:
            q = 1.0 if math.isinf(p) else p / (p - 1)
            worst = rows.sign() * (rows.abs() / rows.abs().amax(-1, keepdim=True)) ** (q - 1)
            worst = worst / torch.linalg.vector_norm(worst, p, dim=-1, keepdim=True)
        attained = (rows * (x0 + sign * eps * worst)).sum(-1)
        assert torch.allclose(attained, bound[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-30), (torch.float32, 1e-44), (torch.float64, 1e-320)])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_norms_of_tiny_rows_do_not_underflow(backend, p, dtype, size):
    entry = float(torch.tensor(size, dtype=dtype))
    q = math.inf if p == 1 else (1.0 if math.isinf(p) else p / (p - 1))
    expected = entry * (1.0 if math.isinf(q) else 16 ** (1 / q))
    A = torch.full((2, 1, 1, 16), entry, dtype=dtype)
    (bounds,), _ = evaluate(
        ops.concretize_ball, A, torch.zeros(1, 16), 1.0, p, sides="both", backend=backend, dtype=dtype
    )
    assert float(bounds[1]) == pytest.approx(expected, rel=1e-2 if dtype == torch.float64 else 1e-6)
    assert float(bounds[0]) == -float(bounds[1])
    matrices = (A[0], None, torch.zeros(1, 1), None)
    matrices = (torch.full((1, 16, 1), entry, dtype=dtype), *matrices[1:])
    (lower, upper), _ = evaluate(
        ops.concretize_forward_ball, *matrices, torch.zeros(1, 16), 1.0, p, backend=backend, dtype=dtype
    )
    assert float(upper) == pytest.approx(expected, rel=1e-2)
    assert float(lower) == -float(upper)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_gradient_of_a_tiny_row_is_a_unit_vector_of_the_other_norm(backend, p):
    A = torch.full((1, 1, 1, 16), 1e-30)
    _, (to_A, *_) = evaluate(
        ops.concretize_ball, A, torch.zeros(1, 16), 1.0, p, sides="upper", backend=backend, dtype=torch.float32
    )
    weight = normal(1, 1, 1, seed=100).abs()
    norm = torch.linalg.vector_norm(to_A.double().flatten(), p)
    assert float(norm) == pytest.approx(float(weight), rel=1e-6)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_gradient_of_a_row_of_zeros_is_the_center(backend, p):
    x0 = uniform(1, 5, low=-1.0, high=1.0)
    for op, arguments, keywords in (
        (ops.concretize_ball, (torch.zeros(1, 1, 1, 5), x0, 0.5, p), {"sides": "upper"}),
        (ops.concretize_forward_ball, (torch.zeros(1, 5, 1), None, torch.zeros(1, 1), None, x0, 0.5, p), {}),
    ):
        _, (to_rows, *_) = evaluate(op, *arguments, **keywords, backend=backend, dtype=torch.float64)
        weight = sum(float(normal(1, 1, seed=100 + i)) for i in range(1 if keywords else 2))
        assert torch.allclose(to_rows.flatten(), weight * x0.flatten(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("layout", ["shared", "transposed"])
def test_layouts_of_coefficients_do_not_matter(layout):
    A = {"shared": normal(1, 1, 3, 6).expand(2, 2, 3, 6), "transposed": normal(6, 2, 2, 3).permute(1, 2, 3, 0)}[layout]
    x_L, x_U = intervals(2, 6)
    assert torch.equal(
        ops.concretize_box(A, x_L, x_U, sides="both"), ops.concretize_box(A.contiguous(), x_L, x_U, sides="both")
    )
    assert torch.equal(
        ops.concretize_ball(A, x_L, 0.5, 3, sides="both"),
        ops.concretize_ball(A.contiguous(), x_L, 0.5, 3, sides="both"),
    )
