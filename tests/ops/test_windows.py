"""Windowed coefficients: native against the float64 reference, and the reference against dense coefficients."""

from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from ops.cases import DTYPES, RS, SIDES, STRATEGIES, assert_matches_reference, intervals, normal, relaxation, uniform
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from lbp import ops
from lbp.ops.window_places import move_windows
from lbp.reference import windows as reference

LAYER = (5, 7, 6)
WINDOW = (3, 2)
# stride, padding, dilation, groups, kernel
CONVOLUTIONS = (
    ((1, 1), (1, 1), (1, 1), 1, (3, 3), 4),
    ((2, 1), (1, 2), (1, 1), 1, (3, 4), 20),
    ((2, 3), (0, 1), (1, 1), 2, (2, 2), 6),
    ((1, 2), (2, 2), (2, 1), 4, (3, 3), 4),
    ((3, 2), (1, 1), (2, 2), 2, (1, 3), 34),
    ((2, 1), (1, 0), (2, 1), 1, (3, 3), 3),
)


def windows(sides="both", rows=9, sources=4, layer=LAYER, window=WINDOW, batch=2, seed=70):
    """Coefficients of random sources, and rows of random images and places; some rows share a source and place."""
    K = 2 if sides == "both" else 1
    A = normal(K, sources, *window, layer[0], seed=seed)
    A = torch.where(uniform(*A.shape, seed=seed + 1) < 0.1, 0.0, A)
    generator = torch.Generator("cpu").manual_seed(seed + 2)
    ends = (sources, batch, layer[1] - window[0] + 1, layer[2] - window[1] + 1)
    where = torch.stack([torch.randint(0, end, (rows,), generator=generator, device="cpu") for end in ends], 1)
    where = where.to(torch.get_default_device())
    if rows > 3:
        where[1:4, 1:] = where[:1, 1:]
    return A, where


def dense(A, rows, layer=LAYER):
    """The coefficients [K, R, 1, C, h, w] that windows stand for: every row an image of its own."""
    full = torch.zeros(A.shape[0], len(rows), layer[1], layer[2], layer[0], dtype=A.dtype)
    for i, (source, _, top, left) in enumerate(rows.tolist()):
        full[:, i, top : top + A.shape[2], left : left + A.shape[3]] = A[:, source]
    return full.movedim(-1, 2).unsqueeze(2)


def convolution(index, layer=LAYER):
    """Weight, bias, geometry, and windows of the input that hold all that the windows of `LAYER` reach."""
    stride, padding, dilation, groups, kernel, inputs = CONVOLUTIONS[index]
    channels = 4
    weight, bias = normal(channels, inputs // groups, *kernel, seed=50), normal(channels, seed=51)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    size = tuple((layer[1 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(2))
    return weight, bias, {**geometry, "groups": groups}, size


def targets(rows, window, geometry, kernel, size):
    corners = rows[:, 2:] * torch.tensor(geometry["stride"]) - torch.tensor(geometry["padding"])
    reach = [
        min(geometry["stride"][i] * (window[i] - 1) + geometry["dilation"][i] * (kernel[i] - 1) + 1, size[i])
        for i in range(2)
    ]
    limit = torch.tensor([size[i] - reach[i] for i in range(2)])
    return torch.minimum(corners.clamp(min=0), limit), tuple(reach)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("r", RS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_windows_through_an_activation(strategy, r, dtype):
    A, rows = windows()
    keywords = {"sides": "both", "bias": normal(LAYER[0], 1, 1, seed=40), **relaxation(strategy, r, shape=LAYER)}
    assert_matches_reference(ops.relax_windows, A, rows, *intervals(2, *LAYER), **keywords, dtype=dtype)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize(("rows", "window", "layer"), [(0, (1, 1), LAYER), (1, (7, 6), LAYER), (6, (1, 1), (40, 1, 1))])
def test_windows_of_every_size(rows, window, layer, sides):
    A, where = windows(sides, rows, layer=layer, window=window)
    assert_matches_reference(
        ops.relax_windows, A, where, *intervals(2, *layer), sides=sides, bias=normal(*layer, seed=4), r=0.75, eta=0.1
    )


@pytest.mark.parametrize("sides", SIDES)
def test_gradients_of_rows_that_share_no_source(sides):
    """Images, places and sources in no order, one source without a row."""
    A, rows = windows(sides, 9, 10)
    rows[:, 0] = torch.randperm(10, generator=torch.Generator().manual_seed(3))[:9]
    assert_matches_reference(
        ops.relax_windows, A, rows, *intervals(2, *LAYER), sides=sides, bias=normal(*LAYER, seed=4), r=0.75, eta=0.1
    )
    assert_matches_reference(ops.concretize_windows_ball, A, rows, normal(2, *LAYER, seed=5), 0.5, 2.0, sides=sides)


class Parameters(TorchDispatchMode):
    """While it is entered: which gradients of biases, relaxed through windows, and of weights are computed."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        results = function(*arguments, **(keywords or {}))
        if function is torch.ops.lbp.relax_windows_gradient.default and results[-1].numel():
            self.found.add("bias")
        if function is torch.ops.aten.convolution_backward.default and results[1] is not None:
            self.found.add("weight")
        return results


@pytest.mark.parametrize("needed", [(), ("bias",), ("weight",), ("bias", "weight")])
def test_gradients_of_weights_and_biases_that_need_none_are_not_computed(needed):
    layer = (4, *LAYER[1:])
    weight, bias, geometry, size = convolution(0)
    A, rows = windows(layer=layer)
    corners, window = targets(rows, WINDOW, geometry, weight.shape[2:], size)
    l, u = intervals(2, *layer)
    A.requires_grad_()
    weight.requires_grad_("weight" in needed)
    bias.requires_grad_("bias" in needed)

    def computed(op, *arguments, **keywords):
        with Parameters() as parameters:
            coefficients, constants = op(*arguments, **keywords)
            (coefficients.sum() + constants.sum()).backward()
        return parameters.found

    convolved = (weight, bias, corners, window)
    relaxed = {"sides": "both", "bias": bias[:, None, None]}
    assert computed(ops.relax_windows, A, rows, l, u, **relaxed) == {"bias"} & {*needed}
    both = computed(ops.relax_backward_conv2d_windows, A, rows, l, u, *convolved, sides="both", **geometry)
    assert both == {*needed}
    affine = computed(ops.backward_conv2d_windows, A, rows, LAYER[1:], *convolved, **geometry)
    assert affine == {"weight"} & {*needed}
    assert [tensor.grad is not None for tensor in (weight, bias)] == ["weight" in needed, "bias" in needed]


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("strategy", ["adaptive", "constant", "slopes"])
def test_windows_relax_as_the_dense_rows_that_they_stand_for(strategy, sides):
    A, rows = windows(sides)
    l, u = intervals(2, *LAYER)
    bias = normal(*LAYER, seed=40)
    keywords = {"sides": sides, "bias": bias, **relaxation(strategy, shape=LAYER)}
    relaxed, constants = ops.relax_windows(A, rows, l, u, **keywords)
    image = rows[:, 1]
    for name in ("lower_slope", "upper_slope"):
        if name in keywords:
            keywords[name] = keywords[name][image]
    expected, expected_constants = ops.relax_backward(dense(A, rows), l[image], u[image], **keywords)
    ordered = torch.cat([torch.arange(len(rows))[:, None], rows[:, 1:]], 1)
    assert torch.allclose(dense(relaxed, ordered), expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(constants, expected_constants[..., 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)))
def test_windows_through_a_convolution(index, with_bias, sides, dtype):
    layer = (4, *LAYER[1:])
    weight, bias, geometry, size = convolution(index)
    A, rows = windows(sides, layer=layer)
    corners, window = targets(rows, WINDOW, geometry, weight.shape[2:], size)
    bias = bias if with_bias else None
    assert_matches_reference(
        ops.backward_conv2d_windows, A, rows, LAYER[1:], weight, bias, corners, window, **geometry, dtype=dtype
    )
    l, u = intervals(2, *layer)
    for strategy in ("adaptive", "lines"):
        keywords = {"sides": sides, **geometry, **relaxation(strategy, shape=layer)}
        assert_matches_reference(
            ops.relax_backward_conv2d_windows, A, rows, l, u, weight, bias, corners, window, **keywords, dtype=dtype
        )


@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)))
def test_windows_convolve_as_the_dense_rows_that_they_stand_for(index):
    layer = (4, *LAYER[1:])
    weight, bias, geometry, size = convolution(index)
    A, rows = windows(layer=layer)
    corners, window = targets(rows, WINDOW, geometry, weight.shape[2:], size)
    found, constants = ops.backward_conv2d_windows(A, rows, LAYER[1:], weight, bias, corners, window, **geometry)
    expected, expected_constants = ops.backward_conv2d(dense(A, rows, layer), weight, bias, size, **geometry)
    inputs = (weight.shape[1] * geometry["groups"], *size)
    place = torch.stack([torch.arange(len(rows)), rows[:, 1], *corners.T], 1)
    assert torch.allclose(dense(found, place, inputs), expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(constants, expected_constants[..., 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("index", [0, 1, 5])
@pytest.mark.parametrize("places", ["one place", "many places"])
@pytest.mark.parametrize("count", [5, 12, 61])
def test_many_rows_of_an_image(count, places, index):
    """Rows are worked on together, as many as there are, and one by one they give the same."""
    weight, bias, geometry, size = convolution(index)
    A, rows = windows("both", count, count, layer=(4, *LAYER[1:]), batch=1)
    if places == "one place":
        rows = rows[:1].expand(count, -1)
    rows = torch.cat([torch.arange(count)[:, None], rows[:, 1:]], 1)
    A[:, 3:] = torch.where(uniform(2, count - 3, *WINDOW, 1, seed=6) < 0.5, 0.0, A[:, 3:])
    corners, window = targets(rows, WINDOW, geometry, weight.shape[2:], size)
    lines = {**geometry, "sides": "both"}

    def pushed(rows, corners):
        bounds = intervals(1, 4, *LAYER[1:])
        relaxed = ops.relax_backward_conv2d_windows(A, rows, *bounds, weight, bias, corners, window, **lines)
        return *relaxed, *ops.backward_conv2d_windows(A, rows, LAYER[1:], weight, bias, corners, window, **geometry)

    found = pushed(rows, corners)
    for row in range(count):
        for together, alone in zip(found, pushed(rows[row, None], corners[row, None]), strict=True):
            assert torch.equal(together[:, row], alone[:, 0])


def test_a_weight_that_is_no_number_reaches_rows_of_zeros():
    A, rows = torch.zeros(1, 1, 2, 2, 3), torch.zeros(1, 4, dtype=torch.int64)
    weight = torch.full((3, 2, 1, 1), torch.nan)
    corners = torch.zeros(1, 2, dtype=torch.int64)
    found, _ = ops.backward_conv2d_windows(A, rows, (2, 2), weight, None, corners, (2, 2))
    assert found.isnan().all()


def test_a_coefficient_that_is_no_number_is_not_skipped():
    A, rows = torch.zeros(1, 1, 1, 1, 3), torch.zeros(1, 4, dtype=torch.int64)
    A[..., 1] = torch.nan
    corners = torch.zeros(1, 2, dtype=torch.int64)
    found, _ = ops.backward_conv2d_windows(A, rows, (1, 1), torch.ones(3, 2, 1, 1), None, corners, (1, 1))
    assert found.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("eps", [0.25, "per image"])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, torch.inf])
def test_windows_over_a_ball(p, eps, sides, dtype):
    A, rows = windows(sides)
    A = torch.where(A == 0, 0.5, A)
    x0, radius = normal(2, *LAYER, seed=80), torch.tensor([0.25, 0.5]) if eps == "per image" else eps
    assert_matches_reference(ops.concretize_windows_ball, A, rows, x0, radius, p, sides=sides, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", SIDES)
def test_windows_over_a_box(sides, dtype):
    A, rows = windows(sides)
    assert_matches_reference(ops.concretize_windows_box, A, rows, *intervals(2, *LAYER), sides=sides, dtype=dtype)
    l, u = intervals(2, *LAYER)
    image = rows[:, 1]
    expected = ops.concretize_box(dense(A, rows), l[image], u[image], sides=sides)[..., 0]
    assert torch.allclose(ops.concretize_windows_box(A, rows, l, u, sides=sides), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("row", [(4, 0, 0, 0), (0, 2, 0, 0), (0, 0, 5, 0), (0, 0, 0, 5), (-1, 0, 0, 0), (0, 0, -1, 0)])
def test_a_row_that_stands_nowhere_is_refused(row):
    A, _ = windows()
    rows = torch.tensor([row])
    with pytest.raises(RuntimeError, match="which does not fit"):
        ops.relax_windows(A, rows, *intervals(2, *LAYER), sides="both")


def test_layouts_of_windows_do_not_matter():
    shared = normal(1, 4, *WINDOW, LAYER[0])
    _, rows = windows()
    l, u = intervals(2, *LAYER)
    for A in (shared.expand(2, -1, -1, -1, -1), normal(LAYER[0], 2, 4, *WINDOW).movedim(0, -1)):
        for strided, copied in zip(
            ops.relax_windows(A, rows, l, u, sides="both"),
            ops.relax_windows(A.contiguous(), rows, l, u, sides="both"),
            strict=True,
        ):
            assert torch.equal(strided, copied)


def test_the_kernel_of_a_convolution_serves_all_places():
    """Rows that share the kernel as their source are the rows of the convolution's matrix."""
    weight = normal(3, 2, 3, 3, seed=5)
    place = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5))
    rows = torch.stack([place[:, 0], torch.zeros(60, dtype=torch.int64), *place[:, 1:].T], 1)
    x = normal(1, 2, 6, 7, seed=6)
    values = ops.concretize_windows_box(weight.movedim(1, -1)[None], rows, x, x, sides="lower")
    assert torch.allclose(values.reshape(3, 4, 5), F.conv2d(x, weight)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("distance", [0, 2, 9])
@pytest.mark.parametrize("window", [(1, 1), (4, 1), (5, 6)])
def test_rows_over_other_windows_are_zero_where_the_old_ones_have_nothing(window, distance, sides):
    A, rows = windows(sides)
    corners = rows[:, 2:]
    generator = torch.Generator().manual_seed(6)
    to = corners + torch.randint(-distance, distance + 1, corners.shape, generator=generator)
    expected = reference.move_windows(A[:, rows[:, 0]], corners, to, window)
    assert torch.equal(move_windows(A, corners, to, window, rows[:, 0]), expected)
    assert torch.equal(move_windows(A[:, rows[:, 0]], corners, to, window), expected)


@pytest.mark.parametrize("window", [(1, 1), (3, 3), (9, 9)])
def test_rows_move_at_the_memory_of_one_copy_beside_the_result(window):
    A = torch.rand(2, 512, *window, 32)
    corners = torch.zeros(512, 2, dtype=torch.int64)
    move_windows(A, corners, corners, window)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        move_windows(A, corners, corners + 1, window)
    changes = [event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert A.nbytes < max(accumulate(changes)) < 2.5 * A.nbytes
