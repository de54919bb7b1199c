"""NaN means "not verified": whatever op it enters, no finite bound of that row, neuron or image comes out."""

import math

import pytest
import torch
from ops.cases import (
    OP_NAMES,
    as_tuple,
    coefficients,
    every_op,
    forward_matrices,
    intervals,
    is_float,
    normal,
    relaxation,
)

import lbp
from lbp import ops

BACKENDS = ("native", "reference")
STRATEGIES = ("constant", "tight", "adaptive", "same-slope", "zero", "one", "slopes")
SHAPE = (3, 2, 3)


def tensor_places():
    """Every float tensor of every op's call, by the op's name and the place among the arguments."""
    places = []
    for name, (_, args, kwargs) in every_op().items():
        values = [*args, *kwargs.values()]
        places += [(name, i) for i, value in enumerate(values) if is_float(value)]
    return places


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "place"), tensor_places())
def test_nan_throughout_an_argument_leaves_no_finite_bound(name, place, backend):
    with lbp.backend(backend):
        outputs = outputs_with_nan(name, place)
    # l' depends on l alone, a matrix not on its constants: the bound that joins them is what must be lost.
    assert any(nothing_is_left(out, name) for out in outputs if is_float(out))


def outputs_with_nan(name, place):
    """Outputs of an op one of whose arguments is NaN throughout."""
    op, args, kwargs = every_op()[name]
    values = [*args, *kwargs.values()]
    values[place] = torch.full_like(values[place], math.nan)
    return as_tuple(op(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True))))


def nothing_is_left(out, name):
    """Whether no number, of windowed matrices no neuron's row, is free of NaN; windows hold 0 beside the image."""
    if name == "forward_conv2d_windows" and out.dim() == 7:
        return out.isnan().flatten(1, 3).any(1).all()
    return out.isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("which", ["l", "u", "r"])
def test_one_nan_spoils_its_neuron_alone(which, strategy, backend):
    l, u = intervals(2, *SHAPE)
    keywords = relaxation(strategy, shape=SHAPE)
    spoiled = torch.zeros(2, *SHAPE, dtype=torch.bool)
    spoiled[(slice(None) if which == "r" else 1, 2, 0, 1)] = True
    if which == "r":
        keywords["r"] = torch.where(spoiled[0], math.nan, keywords["r"])
    l = torch.where(spoiled, math.nan, l) if which == "l" else l
    u = torch.where(spoiled, math.nan, u) if which == "u" else u
    with lbp.backend(backend):
        for line in ops.bounding_lines(l, u, **keywords):
            assert torch.equal(line.isnan(), spoiled)
        A = normal(2, 2, 4, *SHAPE)
        relaxed, constants = ops.relax_backward(A, l, u, sides="both", **keywords)
        assert torch.equal(relaxed.isnan(), spoiled[None, :, None].expand_as(relaxed))
        assert torch.equal(constants.isnan(), spoiled.flatten(1).any(1)[None, :, None].expand_as(constants))
        pushed = ops.relax_forward(*forward_matrices(2, 4, *SHAPE), l, u, **keywords)
        for matrix in pushed:
            expected = spoiled if matrix.dim() == 4 else spoiled[:, None].expand_as(matrix)
            assert torch.equal(matrix.isnan(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", ["box", 1.0, 1.5, 2.0, math.inf])
@pytest.mark.parametrize("which", ["A", "A beside 0", "x"])
def test_one_nan_spoils_its_row_or_its_image(which, p, backend):
    A, (x_L, x_U) = normal(2, 2, 3, 1030), intervals(2, 1030)
    spoiled = torch.zeros(2, 2, 3, dtype=torch.bool)
    if which == "x":
        A[..., 7] = 0.0  # 0 times NaN is NaN: nothing is known about that input
        x_L[1, 7] = math.nan
        spoiled[:, 1] = True
    else:
        A[0, 1, 2] *= 0.0 if which == "A beside 0" else 1.0
        A[0, 1, 2, 1025] = math.nan
        spoiled[0, 1, 2] = True
    with lbp.backend(backend):
        if p == "box":
            bounds = ops.concretize_box(A, x_L, x_U, sides="both")
        else:
            bounds = ops.concretize_ball(A, x_L, 0.5, p, sides="both")
        assert torch.equal(bounds.isnan(), spoiled)
        # The same rows as forward bounds: side 0 of the image is the lower matrix of its three neurons.
        center = A[0].mT
        if p == "box":
            lower, upper = ops.concretize_forward_box(center, None, torch.zeros(2, 3).double(), None, x_L, x_U)
        else:
            lower, upper = ops.concretize_forward_ball(center, None, torch.zeros(2, 3).double(), None, x_L, 0.5, p)
        assert torch.equal(lower.isnan(), spoiled[0])
        assert torch.equal(upper.isnan(), spoiled[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("r", [0.0, -1.0, math.nan])
def test_a_bending_point_that_is_not_positive_makes_the_neuron_undefined(r, backend):
    z = torch.tensor([[-1.0, 0.5, 2.0]])
    bends = torch.tensor([1.0, r, r])
    expected = [[False, True, True]]
    with lbp.backend(backend):
        assert ops.ramp(z, bends).isnan().tolist() == expected
        lower, upper, counts = ops.ramp_interval_with_status(z - 1, z, bends)
        assert lower.isnan().tolist() == upper.isnan().tolist() == expected
        assert counts.sum() == 1
        for line in ops.bounding_lines(z - 1, z, bends):
            assert line.isnan().tolist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in OP_NAMES if "eta" in every_op()[name][2]])
def test_numbers_outside_their_range_are_refused(name, backend):
    op, args, kwargs = every_op()[name]
    with lbp.backend(backend):
        for r in (0.0, -1.0, math.nan):
            with pytest.raises(ValueError, match="r must be above 0"):
                op(*args, **{**kwargs, "r": r})
        for eta in (-0.1, 1.1, math.nan):
            with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
                op(*args, **{**kwargs, "eta": eta})


@pytest.mark.parametrize("name", [name for name in OP_NAMES if "eta" in every_op()[name][2]])
@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_a_tensor_eta_outside_its_range_gives_no_bound(eta, name):
    op, args, kwargs = every_op()[name]
    kwargs = {**kwargs, "eta": torch.tensor(eta)}
    with pytest.raises(RuntimeError, match=r"eta must lie in \[0, 1\]"):
        op(*args, **kwargs)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_the_reference_makes_neurons_of_a_wrong_tensor_eta_undefined(eta):
    z = torch.tensor([[-1.0, 0.5, 2.0]])
    with lbp.backend("reference"):
        assert ops.ramp(z, 1.0, torch.tensor(eta)).isnan().all()
        assert all(line.isnan().all() for line in ops.bounding_lines(z - 1, z, 1.0, torch.tensor(eta)))


def test_coefficients_of_every_sign_are_in_the_cases():
    A = coefficients("both", 2, 3, 60)
    assert (A == 0).any()
    assert (A > 0).any()
    assert (A < 0).any()
