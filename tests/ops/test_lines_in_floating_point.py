"""Bounding lines in float32, evaluated in exact rational arithmetic: valid, touching, finite, at every edge."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lbp
from lbp import ops
from lbp.reference import neuron_status

EDGES = [0.0, 1e-45, 1e-40, 1.1754943508222875e-38, 1e-37, 1e-30, 1e-4, 0.75, 1.0, 1.0000001192092896, 3.0, 1e20, 1e38]
STRATEGIES = ("constant", "tight", "adaptive", "same-slope", "zero", "one", "slopes")
ETAS = (0.0, 1e-3, 0.01, 0.5, 1.0)
TINY = Fraction(1.1754943508222875e-38)
EPSILON = Fraction(2) ** -23


def float32(value):
    return float(np.float32(value))


edges = st.sampled_from(EDGES).map(float32)
positive = st.one_of(edges.filter(lambda x: x > 0), st.floats(2.0**-13, 8, width=32), st.just(math.inf))
slopes = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), st.floats(-0.5, 1.5, width=32))


@st.composite
def neurons(draw):
    """l, u, r and two slopes asked for; l and u often on the bend, at 0, equal, or next to one another."""
    r = draw(positive)
    bend = [] if math.isinf(r) else [r, float32(np.nextafter(np.float32(r), np.float32(math.inf)))]
    some = st.one_of(
        st.floats(0, 2, width=32),
        st.sampled_from([0.0, *bend]),
        edges,
        edges.map(lambda x: -x),
        st.floats(-10, 10, width=32),
        st.floats(0, 2, width=32),
    )
    l = draw(some)
    close = st.sampled_from([l, float32(np.nextafter(np.float32(l), np.float32(1e38)))])
    l, u = sorted((l, draw(st.one_of(some, close))))
    return l, u, r, draw(slopes), draw(slopes)


layers = st.lists(neurons(), min_size=1, max_size=12)


def tensors(layer, requires_grad=False):
    """l, u [1, n], r [n] and the slopes [1, n] of a layer."""
    l, u, r, lower, upper = (torch.tensor(column, dtype=torch.float32) for column in zip(*layer, strict=True))
    columns = [l[None], u[None], r, lower[None], upper[None]]
    return [column.requires_grad_(requires_grad) for column in columns]


def lines_of(columns, eta, strategy):
    l, u, r, lower, upper = columns
    given_slopes = {"lower_slope": lower, "upper_slope": upper} if strategy == "slopes" else {}
    return ops.bounding_lines(l, u, r, eta, strategy, **given_slopes)


def activation(z, r, eta):
    if z < 0:
        return eta * z
    return z if math.isinf(r) or z <= r else eta * z + (1 - eta) * Fraction(r)


def check_line(l, u, r, eta, line):
    """The line is on its side of the activation where that bends and at both ends, and touches it somewhere."""
    points = {Fraction(l), Fraction(u)} | {Fraction(z) for z in (0.0, r) if l <= z <= u and not math.isinf(z)}
    lower = [activation(z, r, eta) - (Fraction(line[0]) * z + Fraction(line[1])) for z in points]
    upper = [Fraction(line[2]) * z + Fraction(line[3]) - activation(z, r, eta) for z in points]
    assert min(lower) >= 0, "the lower line crosses the activation"
    assert min(upper) >= 0, "the upper line crosses the activation"
    slack = 64 * (EPSILON * max(abs(Fraction(l)), abs(Fraction(u))) + TINY)
    assert min(lower) <= slack, "the lower line stays away from the activation"
    assert min(upper) <= slack, "the upper line stays away from the activation"


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(layers, st.sampled_from(ETAS))
def test_every_line_is_valid_in_exact_arithmetic(strategy, backend, layer, eta):
    exact_eta = Fraction(float32(eta))
    columns = tensors(layer)
    with lbp.backend(backend):
        lines = lines_of(columns, eta, strategy)
        swapped = lines_of([columns[1], columns[0], *columns[2:]], eta, strategy)
    for line, other in zip(lines, swapped, strict=True):
        assert line.isfinite().all()
        assert torch.equal(line, other)
    for (l, u, r, *_), *line in zip(layer, *(line[0].tolist() for line in lines), strict=True):
        check_line(l, u, r, exact_eta, line)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(layers, st.sampled_from(ETAS))
def test_every_gradient_is_finite(strategy, backend, layer, eta):
    columns = tensors(layer, requires_grad=True)
    with lbp.backend(backend):
        lines = lines_of(columns, eta, strategy)
        for line in lines:
            if not line.requires_grad:
                continue
            gradients = torch.autograd.grad(line.sum(), columns, retain_graph=True, allow_unused=True)
            assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def status(l, u, r):
    """The first match in the order of the table (Lyu et al. 2021, section 5)."""
    if u <= 0:
        return 0
    if l < 0 < u <= r:
        return 1
    if l >= 0 and u <= r:
        return 2
    if 0 <= l < r < u:
        return 3
    return 4 if r <= l else 5


@settings(max_examples=50, deadline=None, derandomize=True)
@given(layers)
def test_the_first_match_decides_the_status(layer):
    l, u, r, *_ = tensors(layer)
    expected = [status(*neuron[:3]) for neuron in layer]
    assert neuron_status(l, u, r)[0].tolist() == expected
    counts = ops.ramp_interval_with_status(l, u, r)[2].tolist()
    assert counts == [expected.count(index) for index in range(6)]


@pytest.mark.parametrize("backend", ["native", "reference"])
@settings(max_examples=50, deadline=None, derandomize=True)
@given(positive.filter(math.isfinite), st.one_of(st.sampled_from(ETAS), st.floats(0, 1, width=32)))
def test_the_ramp_is_monotone_around_its_bends(backend, r, eta):
    points = [np.float32(r), np.float32(0)]
    for point in tuple(points):
        for towards in (-math.inf, math.inf):
            step = point
            for _ in range(40):
                step = np.nextafter(step, np.float32(towards))
                points.append(step)
    z = torch.tensor(sorted(map(float, points)), dtype=torch.float32)[None]
    with lbp.backend(backend):
        values = ops.ramp(z, r, eta)[0]
    assert (values.diff() >= 0).all()


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("eta", ETAS)
def test_an_infinite_bending_point_is_the_leaky_relu(backend, eta):
    z = torch.tensor([[-2.0, -1e-45, 0.0, 1e-45, 3.0, 1e38]])
    with lbp.backend(backend):
        assert torch.equal(ops.ramp(z, eta=eta), torch.nn.functional.leaky_relu(z, eta))
        for strategy in STRATEGIES[:-1]:
            number = ops.bounding_lines(z - 1, z, math.inf, eta, strategy)
            tensor = ops.bounding_lines(z - 1, z, torch.tensor(math.inf), eta, strategy)
            huge = ops.bounding_lines(z - 1, z, 3e38, eta, strategy)
            for line, same, almost in zip(number, tensor, huge, strict=True):
                assert torch.equal(line, same)
                assert torch.equal(line, almost)
