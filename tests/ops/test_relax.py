"""Coefficients and forward bounds through an activation: native against the float64 reference."""

import pytest
import torch
from ops.cases import (
    DTYPES,
    RS,
    SIDES,
    STRATEGIES,
    assert_matches_reference,
    coefficients,
    forward_matrices,
    intervals,
    normal,
    relaxation,
)

from lbp import ops
from lbp.ops._arguments import native
from lbp.ops._relaxation import NEED_BIAS, NEED_BOUNDS, NEED_MATRIX, Lines
from lbp.strategies import side_code

SHAPE = (3, 2, 3)
# A number and a tensor; of the lines themselves, which are tested with more, there is one table.
FEW_ETAS = (0.1, "tensor")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eta", FEW_ETAS)
@pytest.mark.parametrize("r", RS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_relax_backward_over_lines(strategy, r, eta, dtype):
    A = coefficients("both", 2, 4, *SHAPE)
    keywords = relaxation(strategy, r, eta, shape=SHAPE)
    assert_matches_reference(ops.relax_backward, A, *intervals(2, *SHAPE), sides="both", **keywords, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [None, (), (3, 1, 1), SHAPE, (1, 1, 3)])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("strategy", ["adaptive", "lines"])
def test_relax_backward_over_sides_and_biases(strategy, sides, bias, dtype):
    A = coefficients(sides, 2, 4, *SHAPE)
    offset = None if bias is None else normal(*bias, seed=40)
    keywords = relaxation(strategy, shape=SHAPE)
    assert_matches_reference(
        ops.relax_backward, A, *intervals(2, *SHAPE), sides=sides, bias=offset, **keywords, dtype=dtype
    )


@pytest.mark.parametrize(("bounds_batch", "lines_batch"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("strategy", ["same-slope", "slopes", "lines"])
def test_bounds_and_lines_of_one_image_serve_the_batch(strategy, bounds_batch, lines_batch):
    A = coefficients("both", 2, 4, *SHAPE)
    keywords = relaxation(strategy, batch=lines_batch, shape=SHAPE)
    assert_matches_reference(ops.relax_backward, A, *intervals(bounds_batch, *SHAPE), sides="both", **keywords)


@pytest.mark.parametrize("neurons", [0, 1, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("rows", [0, 1, 37])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_relax_backward_of_every_size(batch, rows, neurons):
    A = coefficients("both", batch, rows, neurons)
    l, u = intervals(batch, neurons)
    for strategy in ("adaptive", "slopes", "lines"):
        keywords = {"bias": normal(neurons, seed=41), **relaxation(strategy, batch=batch, shape=(neurons,))}
        assert_matches_reference(ops.relax_backward, A, l, u, sides="both", **keywords)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eta", FEW_ETAS)
@pytest.mark.parametrize("r", RS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_relax_forward_over_lines(strategy, r, eta, dtype):
    matrices = forward_matrices(2, 4, *SHAPE)
    keywords = relaxation(strategy, r, eta, shape=SHAPE)
    assert_matches_reference(ops.relax_forward, *matrices, *intervals(2, *SHAPE), **keywords, dtype=dtype)


@pytest.mark.parametrize("bias_batch", [1, 2])
@pytest.mark.parametrize("matrix_batch", [1, 2])
@pytest.mark.parametrize("exact", [True, False])
def test_relax_forward_shares_what_has_batch_one(exact, matrix_batch, bias_batch):
    matrices = forward_matrices(matrix_batch, 4, *SHAPE, bias_batch=bias_batch, exact=exact)
    assert_matches_reference(ops.relax_forward, *matrices, *intervals(2, *SHAPE), **relaxation("lines", shape=SHAPE))


@pytest.mark.parametrize("matrix_batch", [1, 2])
def test_relax_forward_takes_the_bounds_of_one_image_for_the_batch(matrix_batch):
    matrices = forward_matrices(matrix_batch, 4, *SHAPE, bias_batch=2)
    l, u = intervals(1, *SHAPE)
    repeated = [bound.expand(2, *SHAPE) for bound in (l, u)]
    for once, twice in zip(ops.relax_forward(*matrices, l, u), ops.relax_forward(*matrices, *repeated), strict=True):
        assert torch.equal(once, twice)


@pytest.mark.parametrize("neurons", [0, 1, 1023, 1025])
@pytest.mark.parametrize("inputs", [0, 1, 5])
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("matrix_batch", ["one", "all"])
def test_relax_forward_of_every_size(matrix_batch, batch, inputs, neurons):
    matrices = forward_matrices(batch if matrix_batch == "all" else 1, inputs, neurons)
    assert_matches_reference(ops.relax_forward, *matrices, *intervals(batch, neurons), r=0.75, eta=0.1)


@pytest.mark.parametrize("layout", ["shared", "images only", "sides only", "transposed", "sliced"])
@pytest.mark.parametrize("sides", SIDES)
def test_layouts_of_coefficients_do_not_matter(sides, layout):
    sizes = (2 if sides == "both" else 1, 2, 4, *SHAPE)
    A = {
        "shared": normal(1, 1, 4, *SHAPE).expand(sizes),
        "images only": normal(sizes[0], 1, 4, *SHAPE).expand(sizes),
        "sides only": normal(1, 2, 4, *SHAPE).expand(sizes),
        "transposed": normal(4, sizes[0], 2, *SHAPE[::-1]).permute(1, 2, 0, 5, 4, 3),
        "sliced": normal(sizes[0], 4, 8, 3, 2, 6)[:, ::2, ::2, ..., ::2],
    }[layout]
    l, u = intervals(2, *SHAPE)
    keywords = {"sides": sides, "bias": normal(3, 1, 1), **relaxation(shape=SHAPE)}

    def run(A):
        leaf = A.detach().requires_grad_()
        relaxed, constants = ops.relax_backward(leaf, l, u, **keywords)
        assert relaxed.is_contiguous()
        return relaxed, constants, *torch.autograd.grad(relaxed.square().sum() + constants.square().sum(), leaf)

    for strided, copied in zip(run(A), run(A.contiguous()), strict=True):
        assert torch.equal(strided, copied)


@pytest.mark.parametrize("rows", [9, 1800], ids=["in the caches", "written past them"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_the_gradient_of_the_coefficients_may_overwrite_that_of_the_relaxed_ones(with_bias, rows):
    A, relaxed = normal(1, 2, rows, 2050).float(), normal(1, 2, rows, 2050).float()
    bounds = [bound.float() for bound in intervals(2, 2050)]
    bias = normal(2050).float() if with_bias else None
    lines = Lines(r=0.75, eta=0.1).checked().arguments(*bounds)
    needs = NEED_BOUNDS | NEED_MATRIX | (NEED_BIAS if with_bias else 0)
    rest = (normal(1, 2, rows), A, *lines, bias, side_code("lower"), needs)
    to_A, *others = native("relax_backward_gradient")(relaxed, *rest)
    in_place = native("relax_backward_gradient_")(relaxed, *rest)
    assert torch.equal(relaxed, to_A)
    assert all(map(torch.equal, in_place, others))


def test_what_is_overwritten_is_contiguous():
    A, lines = normal(1, 2, 3, 4), Lines().checked().arguments(*intervals(2, 4))
    gradient = normal(1, 2, 4, 3).mT
    with pytest.raises(RuntimeError, match="relaxed_gradient: expected a contiguous tensor"):
        native("relax_backward_gradient_")(gradient, normal(1, 2, 3), A, *lines, None, side_code("lower"), NEED_MATRIX)


def test_constants_are_float64_and_nothing_aliases_the_input():
    A = torch.ones(1, 1, 1, 3)
    relaxed, constants = ops.relax_backward(A, torch.ones(1, 3), 2 * torch.ones(1, 3), sides="lower")
    assert constants.dtype == torch.float64
    assert torch.equal(relaxed, A)
    assert relaxed.data_ptr() != A.data_ptr()
