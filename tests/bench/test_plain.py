"""What measurements call PyTorch computes the same bounds as the reference, and only where it is asked to."""

import functools
import math

import pytest
import torch

import lbp
from lbp import ops, reference
from lbp.backend import current_backend
from lbp.bench import contenders, worker
from lbp.bench.networks import Network
from lbp.bench.plain import plain_functions

B, S, N0, SHAPE = 3, 4, 5, (2, 3)
ACTIVATIONS = {
    "ReLU": {},
    "ParamRamp": {"r": torch.tensor([[0.3, 0.6, 1.0], [0.1, 2.0, 0.5]], dtype=torch.float64), "eta": 0.01},
    "one r": {"r": 0.5, "eta": 0.1},
    "eta in a tensor": {"r": 0.5, "eta": torch.tensor(0.1, dtype=torch.float64)},
    "LeakyReLU": {"eta": 0.2},
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bounds(*shape):
    l = normal(B, *shape, seed=1)
    return l, l + 2 * normal(B, *shape, seed=2).abs()


def matrices(with_radius):
    center, center_bias = normal(B, N0, *SHAPE, seed=3), normal(B, *SHAPE, seed=4)
    radius, radius_bias = normal(B, N0, *SHAPE, seed=5).abs(), normal(B, *SHAPE, seed=6).abs()
    return (center, radius, center_bias, radius_bias) if with_radius else (center, None, center_bias, None)


def cases():
    l, u = bounds(*SHAPE)
    for name, activation in ACTIVATIONS.items():
        yield f"{name} ramp", lambda a=activation: ops.ramp(l, **a)
        yield f"{name} ramp_interval", lambda a=activation: ops.ramp_interval(l, u, **a)
        for strategy in ("adaptive", "tight"):
            lines = activation | {"strategy": strategy}
            yield f"{name} {strategy} bounding_lines", lambda o=lines: ops.bounding_lines(l, u, **o)
            for sides in ("lower", "upper", "both"):
                A, bias = normal(2 if sides == "both" else 1, B, S, *SHAPE, seed=7), normal(2, 1, 1 + 2, seed=8)[:, 0]
                for b in (None, bias):
                    call = lambda o=lines, A=A, b=b, k=sides: ops.relax_backward(A, l, u, sides=k, bias=b, **o)  # noqa: E731
                    yield f"{name} {strategy} relax_backward {sides} bias={b is not None}", call
            for with_radius in (True, False):
                forward = lambda o=lines, w=with_radius: ops.relax_forward(*matrices(w), l, u, **o)  # noqa: E731
                yield f"{name} {strategy} relax_forward radius={with_radius}", forward
    x_L, x_U = bounds(N0)
    eps = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    for sides in ("lower", "upper", "both"):
        A = normal(2 if sides == "both" else 1, B, S, N0, seed=9)
        yield f"concretize_box {sides}", lambda A=A, k=sides: ops.concretize_box(A, x_L, x_U, sides=k)
        for p in (1.0, 1.5, 2.0, math.inf):
            for e in (0.1, eps):
                ball = lambda A=A, k=sides, e=e, p=p: ops.concretize_ball(A, x_L, e, p, sides=k)  # noqa: E731
                yield f"concretize_ball {sides} p={p} {type(e).__name__}", ball
    for with_radius in (True, False):
        yield f"forward_box {with_radius}", lambda w=with_radius: ops.concretize_forward_box(*matrices(w), x_L, x_U)
        for p in (1.0, 2.0, math.inf):
            for e in (0.1, eps):
                ball = lambda w=with_radius, e=e, p=p: ops.concretize_forward_ball(*matrices(w), x_L, e, p)  # noqa: E731
                yield f"forward_ball {with_radius} p={p} {type(e).__name__}", ball


CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_plain_functions_give_the_bounds_of_the_reference(name):
    with lbp.backend("reference"):
        expected = CASES[name]()
        with plain_functions():
            found = CASES[name]()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_they_take_the_place_of_the_reference_inside_the_block_only():
    before = reference.relax_backward, reference.affine.relax_backward
    with plain_functions():
        assert reference.relax_backward is not before[0]
        assert reference.affine.relax_backward is reference.relax_backward
    assert (reference.relax_backward, reference.affine.relax_backward) == before


@pytest.fixture
def loaded():
    """Loads a contender into this process and takes it back."""
    backend = current_backend()
    yield lambda name: contenders.load(contenders.find(name), None)
    contenders._FOR_THIS_PROCESS.close()
    lbp.backend(backend)


@pytest.mark.parametrize("name", ["reference", "reference compiled"])
def test_plain_pytorch_as_a_contender_computes_with_them(loaded, name):
    before = reference.relax_backward
    loaded(name)
    assert reference.relax_backward is not before
    contenders._FOR_THIS_PROCESS.close()
    assert reference.relax_backward is before


@pytest.fixture
def compiled_for(monkeypatch):
    """The inputs of every graph that `torch.compile` makes; the graphs run as they are."""
    found = []

    def backend(graph, inputs):
        found.append(inputs)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch.compiler.reset()
    yield found
    torch.compiler.reset()


SHAPES = [(2, 6, 6), (4, 3, 3), (2, 5, 5)]


def relax(shape):
    return reference.relax_backward(normal(1, B, S, *shape), *bounds(*shape), sides="lower")


def test_compiled_pytorch_has_a_graph_of_fixed_sizes_for_every_shape(loaded, compiled_for):
    loaded("reference compiled")
    for shape in (*SHAPES, *SHAPES):
        relax(shape)
    assert len(compiled_for) == len(SHAPES)
    sizes = {size for inputs in compiled_for for tensor in inputs for size in tensor.shape}
    assert all(type(size) is int for size in sizes)


@pytest.mark.usefixtures("compiled_for")
def test_what_is_not_compiled_does_not_run_as_if_it_were_and_every_case_begins_with_no_graph(loaded):
    package = loaded("reference compiled")
    work = worker.Work("bounds", Network("chain", "ReLU", (1, 6, 6), width=2, depth=1), "CROWN-IBP", batch=2)
    with torch._dynamo.config.patch(recompile_limit=2):
        relax(SHAPES[0])
        relax(SHAPES[1])
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            relax(SHAPES[2])
        worker._prepare(package, contenders.find("reference compiled"), work, torch.device("cpu"))
        relax(SHAPES[2])


def test_reference_outside_and_kernels_always_are_what_they_were():
    l, u = (bound.float() for bound in bounds(*SHAPE))
    expected = ops.bounding_lines(l, u)
    with plain_functions():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(ops.bounding_lines(l, u), expected, strict=True))
