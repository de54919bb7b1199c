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


GEOMETRIES = {
    "stride 2": {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 1), "groups": 1},
    "dilation and groups": {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 1), "groups": 2},
}
PLACES = {"scale": (2, 1), "offset": (-1, -2)}
WINDOW, LAYER, IMAGE = (3, 2), (4, 5, 6), (2, 7, 6)


def positive(*shape, seed):
    return normal(*shape, seed=seed).abs() + 0.1


def window_rows():
    """Rows of windows of 3 x 2 pixels of a layer of 5 x 6; two share a source."""
    return torch.tensor([[0, 0, 0, 0], [1, 2, 2, 4], [0, 1, 1, 3], [2, 1, 2, 0]])


def window_matrices(with_radius):
    size = (B, IMAGE[0], *WINDOW, *LAYER)
    biases = (normal(B, *LAYER, seed=22), positive(B, *LAYER, seed=23))
    if with_radius:
        return normal(*size, seed=20), positive(*size, seed=21), *biases
    return normal(*size, seed=20), None, biases[0], None


def size_below(geometry, kernel):
    return tuple(
        geometry["stride"][i] * (LAYER[1 + i] - 1)
        - 2 * geometry["padding"][i]
        + geometry["dilation"][i] * (kernel - 1)
        + 1
        for i in range(2)
    )


def affine_cases():
    """The functions of layers and of dense matrices: name, function and tensors."""
    A, weight, bias = normal(2, B, S, 6, seed=30), normal(6, 4, seed=31), normal(6, seed=32)
    yield "backward_linear", ops.backward_linear, (A, weight, bias)
    yield "backward_linear without bias", ops.backward_linear, (A, weight, None)
    for name, geometry in GEOMETRIES.items():
        A, bias = normal(1, B, S, *LAYER, seed=33), normal(LAYER[0], seed=34)
        weight = normal(LAYER[0], 6 // geometry["groups"], 3, 3, seed=35)
        below = lambda A, w, b, g=geometry: ops.backward_conv2d(A, w, b, size_below(g, 3), **g)  # noqa: E731
        yield f"backward_conv2d {name}", below, (A, weight, bias)
    for with_radius in (True, False):
        for sides in ("lower", "upper", "both"):
            A = normal(2 if sides == "both" else 1, B, S, *SHAPE, seed=36)
            insert = functools.partial(ops.insert_forward, sides=sides)
            yield f"insert_forward {sides} {with_radius}", insert, (A, *matrices(with_radius))
        sized = ops.concretize_forward_box_with_magnitude
        yield f"with_magnitude {with_radius}", sized, (*matrices(with_radius), *bounds(N0))


def window_cases():
    """The functions of rows on windows."""
    rows = window_rows()
    A, (l, u) = normal(2, 3, *WINDOW, LAYER[0], seed=40), bounds(*LAYER)
    r = positive(*LAYER, seed=41)
    lines = {"ReLU": {}, "tight": {"strategy": "tight"}, "one r": {"r": 0.5, "eta": 0.1}}
    for name, options in lines.items():
        relax = lambda A, l, u, bias, o=options: ops.relax_windows(A, rows, l, u, sides="both", bias=bias, **o)  # noqa: E731
        for bias in (None, normal(LAYER[0], 1, 1, seed=42), normal(*LAYER, seed=43)):
            yield f"relax_windows {name} {None if bias is None else tuple(bias.shape)}", relax, (A, l, u, bias)
    ramp = lambda A, l, u, r: ops.relax_windows(A, rows, l, u, sides="both", r=r, eta=0.1)  # noqa: E731
    yield "relax_windows ParamRamp", ramp, (A, l, u, r)
    corners = torch.tensor([[-1, 0], [1, 3], [0, 2], [4, -2]])
    for name, geometry in GEOMETRIES.items():
        weight, bias = normal(LAYER[0], 6 // geometry["groups"], 3, 3, seed=44), normal(LAYER[0], seed=45)
        for b in (bias, None):
            layer = (corners, (5, 4))
            below = lambda A, w, b, k=layer, g=geometry: ops.backward_conv2d_windows(A, rows, LAYER[1:], w, b, *k, **g)  # noqa: E731
            yield f"backward_conv2d_windows {name} bias={b is not None}", below, (A, weight, b)
            fused = lambda A, l, u, w, b, k=layer, g=geometry: ops.relax_backward_conv2d_windows(  # noqa: E731
                A, rows, l, u, w, b, *k, sides="both", **g
            )
            yield f"relax_backward_conv2d_windows {name} bias={b is not None}", fused, (A, l, u, weight, b)
    for sides in ("lower", "both"):
        sided = A if sides == "both" else A[:1]
        box = lambda A, x_L, x_U, k=sides: ops.concretize_windows_box(A, rows, x_L, x_U, sides=k)  # noqa: E731
        yield f"concretize_windows_box {sides}", box, (sided, l, u)
        for p in (1.0, 1.5, 2.0, math.inf):
            for eps in (torch.tensor(0.2).double(), torch.tensor([0.1, 0.2, 0.3]).double()):
                ball = lambda A, x, e, k=sides, p=p: ops.concretize_windows_ball(A, rows, x, e, p, sides=k)  # noqa: E731
                yield f"concretize_windows_ball {sides} p={p} {tuple(eps.shape)}", ball, (sided, l, eps)


def forward_window_cases():
    """The functions of forward bounds on windows."""
    x_L, x_U = bounds(*IMAGE)
    for with_radius in (True, False):
        given = window_matrices(with_radius)
        box = functools.partial(ops.concretize_forward_windows_box, **PLACES)
        yield f"concretize_forward_windows_box {with_radius}", box, (*given, x_L, x_U)
        sized = functools.partial(ops.concretize_forward_windows_box_with_magnitude, **PLACES)
        yield f"concretize_forward_windows_box_with_magnitude {with_radius}", sized, (*given, x_L, x_U)
        for p in (1.0, 1.5, 2.0, math.inf):
            for eps in (torch.tensor(0.2).double(), torch.tensor([0.1, 0.2, 0.3]).double()):
                ball = functools.partial(ops.concretize_forward_windows_ball, p=p, **PLACES)
                yield (
                    f"concretize_forward_windows_ball {with_radius} p={p} {tuple(eps.shape)}",
                    ball,
                    (*given, x_L, eps),
                )
        for name, geometry in GEOMETRIES.items():
            weight, bias = normal(6, LAYER[0] // geometry["groups"], 3, 3, seed=50), normal(6, seed=51)
            for image in (IMAGE, None):
                options = {"image": image, **PLACES, **geometry}
                convolve = functools.partial(ops.forward_conv2d_windows, **options)
                yield f"forward_conv2d_windows {name} {with_radius} {image}", convolve, (*given, weight, bias)
        weight = normal(3, math.prod(LAYER), seed=52)
        linear = functools.partial(ops.forward_linear_windows, image=IMAGE, **PLACES)
        yield f"forward_linear_windows {with_radius}", linear, (*given, weight, normal(3, seed=53))
        A = normal(2, B, S, *LAYER, seed=54)
        insert = functools.partial(ops.insert_forward_windows, image=IMAGE, sides="both", **PLACES)
        yield f"insert_forward_windows {with_radius}", insert, (A, *given)
        thin = tuple(None if part is None else part.narrow(-3, 0, 1) for part in given)
        yield f"insert_forward_windows of one channel {with_radius}", insert, (A[:, :, :, :1], *thin)


DIFFERENTIATED = {
    name: (function, tensors)
    for family in (affine_cases, window_cases, forward_window_cases)
    for name, function, tensors in family()
}


def value_and_gradients(function, tensors):
    """What a function returns, and the gradients of a sum of it with respect to all tensors."""
    inputs = [None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors]
    given = function(*inputs)
    values = [given] if isinstance(given, torch.Tensor) else [part for part in given if part is not None]
    weighted = [(part * normal(*part.shape, seed=60)).sum() for part in values if part.requires_grad]
    wanted = [tensor for tensor in inputs if tensor is not None]
    return values, torch.autograd.grad(sum(weighted), wanted, materialize_grads=True)


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_plain_functions_give_the_bounds_and_gradients_of_the_reference(name):
    with lbp.backend("reference"):
        expected = value_and_gradients(*DIFFERENTIATED[name])
        with plain_functions():
            found = value_and_gradients(*DIFFERENTIATED[name])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


EDGES = [-math.inf, -2.0, -1.0, -0.3, 0.0, 0.3, 1.0, 1.7, 2.0, math.inf]


NO_CHOICE = [(0.0, 0.0), (-math.inf, -math.inf), (math.inf, math.inf), (-math.inf, math.inf)]


@pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("r", [math.inf, 1.0, torch.tensor(1.0).double(), torch.tensor(math.inf).double()])
def test_lines_at_edges_are_those_of_the_reference_where_that_has_some(r, eta):
    """But at the point 0, where any slope is right, and where neither end is a number."""
    pairs = [(l, u) for l in EDGES for u in EDGES if l <= u and (l, u) not in NO_CHOICE]
    l, u = torch.tensor(pairs, dtype=torch.float64).T.unsqueeze(1)
    if isinstance(r, torch.Tensor):
        r = r.expand(l.shape[1:])
    with lbp.backend("reference"):
        expected = ops.bounding_lines(l, u, r=r, eta=eta)
        with plain_functions():
            found = ops.bounding_lines(l, u, r=r, eta=eta)
    for ours, theirs in zip(found, expected, strict=True):
        known = theirs.isfinite()
        torch.testing.assert_close(ours[known], theirs[known], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("r", [1.0, math.inf])
def test_gradients_of_lines_and_of_the_activation_are_those_of_the_reference(r):
    l, u = bounds(*SHAPE)
    l, u = torch.cat([l, l]), torch.cat([u, l])
    given = (l, u, torch.full(SHAPE, r, dtype=torch.float64))
    for function in (
        lambda l, u, r: ops.bounding_lines(l, u, r=r, eta=0.1),
        lambda l, u, r: ops.ramp_interval(l, u, r=r, eta=0.1),
    ):
        with lbp.backend("reference"):
            expected = value_and_gradients(function, given)
            with plain_functions():
                found = value_and_gradients(function, given)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("r", [math.inf, 1.0, torch.tensor([0.5, 1.0, 2.0, 1.0])], ids=["ReLU", "r", "r per neuron"])
def test_neurons_are_counted_as_the_reference_does_on_ties_as_well(r):
    points = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0])
    l, u = torch.meshgrid(points, points, indexing="ij")
    l, u = (bound[l <= u].unsqueeze(1).expand(-1, 4) for bound in (l, u))
    with lbp.backend("reference"):
        *_, expected = ops.ramp_interval_with_status(l, u, r=r)
        with plain_functions():
            *_, found = ops.ramp_interval_with_status(l, u, r=r)
    assert found.tolist() == expected.tolist()
    assert found.sum() == l.numel()


@pytest.mark.parametrize("op", ["forward_conv2d_windows", "forward_linear_windows", "insert_forward_windows"])
def test_windows_are_not_made_dense(monkeypatch, op):
    dense = []
    monkeypatch.setattr(reference.forward_windows, "windows_to_dense", lambda *_: dense.append(op))
    function, tensors = next(case for name, case in DIFFERENTIATED.items() if name.startswith(op))
    with lbp.backend("reference"), plain_functions():
        function(*tensors)
    assert not dense


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
