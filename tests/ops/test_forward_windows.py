"""Forward linear bounds on windows of the input: native against the float64 reference by way of dense matrices."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.cases import (
    DTYPES,
    SIDES,
    TOLERANCE,
    assert_close,
    assert_matches_reference,
    coefficients,
    evaluate,
    intervals,
    normal,
    window_matrices,
)

import lbp
from lbp import ops
from lbp.bench.memory import peak_bytes
from lbp.ops import _window_accumulation, _window_convolution, _windows
from lbp.ops._window_accumulation import FEW_ROWS, accumulation_bytes
from lbp.ops._window_convolution import ConvolvedWindows
from lbp.reference import dense_to_windows

BACKENDS = ("reference", "native")
NORMS = (1.0, 1.5, 2.0, math.inf)

MOST = 2**30
"""Sizes and steps above this are refused."""

PLACES_THAT_DO_NOT_FIT = [
    *(("scale", value) for value in [(0, 1), (1,), (1, MOST + 1), (1, 2**63 - 1)]),
    *(("offset", value) for value in [(0,), (0, MOST + 1), (-(2**63), 0)]),
    *(("image", value) for value in [(2, MOST + 1, 1), (2, 1, 2**63 - 1), (2, -1, 1), (3, 5, 5), (2, 5)]),
]

PLACES = [
    # image, window, layer, scale, offset
    ((5, 7), (3, 2), (3, 5, 7), (1, 1), (-1, 0)),
    ((9, 8), (4, 5), (2, 4, 3), (2, 3), (-2, -1)),
    ((3, 3), (5, 4), (2, 3, 3), (1, 1), (-2, -2)),
    ((6, 4), (1, 2), (2, 2, 2), (3, 2), (0, 0)),
    ((1, 1), (1, 1), (3, 1, 1), (1, 1), (0, 0)),
    ((4, 5), (2, 2), (1, 2, 2), (5, 7), (-1, 9)),
    ((3, 4), (1, 1), (2, 3, 4), (1, 1), (0, -1)),
]


@st.composite
def convolutions(draw):
    """Windows of a layer and a convolution of it, odd sizes included."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    layer = tuple(draw(st.integers(max(dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i], 1), 11)) for i in range(2))
    window = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    scale = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    channels = groups * draw(st.integers(1, 2))
    weight = normal(groups * draw(st.integers(1, 2)), channels // groups, *kernel, seed=30)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    places = {"image": None, "scale": scale}
    if draw(st.booleans()):
        image = (2, draw(st.integers(1, 20)), draw(st.integers(1, 20)))
        offset = (draw(st.integers(-9, 3)), draw(st.integers(-9, 3)))
        places = {"image": image, "scale": scale, "offset": offset}
    exact = draw(st.booleans())
    return window_matrices(draw(st.integers(1, 2)), window, (channels, *layer), exact=exact), weight, places, geometry


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_convolution(case):
    matrices, weight, places, geometry = case
    bias = normal(weight.shape[0], seed=31)
    assert_matches_reference(ops.forward_conv2d_windows, *matrices, weight, bias, **places, **geometry)
    # The library's products, which other devices take.
    at = (places["image"] or (), places["scale"], places.get("offset", (0, 0)))
    operands = (matrices[0].double(), weight.double())
    product = _window_convolution.convolve_windows(*operands, at, tuple(geometry.values()))
    expected = torch.ops.lbp.convolve_windows(*operands, *at, *geometry.values())
    assert_close(product, expected, TOLERANCE[torch.float64], "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_entries_of_a_convolution_outside_the_image_are_zero_and_pass_nothing_on(backend):
    image, scale, stride, padding, offset = (2, 7, 6), (2, 1), (1, 2), (2, 1), (-3, -2)
    center, radius, *biases = window_matrices(1, (4, 3), (2, 6, 5))
    geometry = {"scale": scale, "stride": stride, "padding": padding}
    weight = normal(3, 2, 3, 3)
    center.requires_grad_()
    with lbp.backend(backend):
        everywhere = ops.forward_conv2d_windows(center, radius, *biases, weight, None, **geometry)
        on_image = ops.forward_conv2d_windows(
            center, radius, *biases, weight, None, image=image, offset=offset, **geometry
        )
    where = (scale[0] * stride[0], scale[1] * stride[1]), (offset[0] - 4, offset[1] - 1)
    inside = entries_inside(on_image[0], image[1:], *where)
    assert 0 < inside.double().mean() < 1
    for some, whole in zip(on_image[:2], everywhere[:2], strict=True):
        assert torch.equal(some, torch.where(inside, whole, 0.0))
    (passed_on,) = torch.autograd.grad(on_image[0].sum(), center)
    (expected,) = torch.autograd.grad(torch.where(inside, everywhere[0], 0.0).sum(), center)
    assert_close(passed_on, expected, TOLERANCE[torch.float64], "")


def test_convolution_of_rows_longer_than_a_part():
    matrices = window_matrices(1, (2, 2), (2, 3, 301))
    places = {"image": (2, 4, 250), "scale": (1, 1), "offset": (-1, -3)}
    assert_matches_reference(ops.forward_conv2d_windows, *matrices, normal(3, 2, 2, 3), None, padding=(1, 1), **places)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("scale", value) for value in [(0, 1), (1,), (1, 1, 1), (1, MOST + 1), (2**62, 1)]),
        *(("offset", value) for value in [(0,), (0, MOST + 1), (-MOST - 1, 0), (-(2**63), 0)]),
        *(("image", value) for value in [(2, MOST + 1, 1), (2, 1, 2**63 - 1), (2, -1, 1), (3, 5, 5), (2, 5)]),
        *(("stride", value) for value in [(0, 1), (1, -1), (1,), (MOST + 1, 1)]),
        *(("padding", value) for value in [(-1, 0), (0,), (0, MOST + 1)]),
        *(("dilation", value) for value in [(0, 1), (1,), (1, MOST + 1)]),
        *(("groups", value) for value in [0, -1, 3]),
        *(("weight", shape) for shape in [(3, 2, 2), (3, 3, 2, 2), (3, 2, 5, 2), (3, 2, 2, 0)]),
    ],
)
def test_convolution_of_a_geometry_that_does_not_fit_is_refused(name, value, backend):
    matrices, weight = window_matrices(1, (2, 2), (2, 4, 4)), normal(3, 2, 2, 2)
    places = {"image": (2, 5, 5), "scale": (1, 1)}
    if name == "weight":
        weight = torch.ones(value).double()
    else:
        places[name] = value
    with lbp.backend(backend), pytest.raises(RuntimeError, match=f"^{name}: (expected|the kernel)"):
        ops.forward_conv2d_windows(*matrices, weight, None, **places)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "value"), PLACES_THAT_DO_NOT_FIT)
def test_products_and_copies_of_windows_at_places_that_do_not_fit_are_refused(name, value, backend):
    layer = (2, 4, 4)
    matrices = window_matrices(1, (2, 2), layer)
    places = {"image": (2, 5, 5), "scale": (1, 1), "offset": (0, 0), name: value}
    for op in (
        lambda: ops.forward_linear_windows(*matrices, normal(3, 32), None, **places),
        lambda: ops.insert_forward_windows(coefficients("both", 1, 3, *layer), *matrices, sides="both", **places),
        lambda: ops.windows_to_dense(matrices[0], **places),
    ):
        with lbp.backend(backend), pytest.raises(RuntimeError, match=f"^{name}: expected"):
            op()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, value in PLACES_THAT_DO_NOT_FIT if name != "image"]
)
def test_evaluations_of_windows_at_places_that_do_not_fit_are_refused(name, value, backend):
    matrices, ends = window_matrices(1, (2, 2), (2, 4, 4)), normal(1, 2, 5, 5)
    places = {"scale": (1, 1), "offset": (0, 0), name: value}
    for op in (
        lambda: ops.concretize_forward_windows_box(*matrices, ends, ends, **places),
        lambda: ops.concretize_forward_windows_box_with_magnitude(*matrices, ends, ends, **places),
        lambda: ops.concretize_forward_windows_ball(*matrices, ends, 0.1, 2.0, **places),
    ):
        with lbp.backend(backend), pytest.raises(RuntimeError, match=f"^{name}: expected"):
            op()


@pytest.mark.parametrize("count", [1, FEW_ROWS + 1])
@pytest.mark.parametrize(("name", "value"), PLACES_THAT_DO_NOT_FIT)
def test_kernels_for_products_refuse_places_that_do_not_fit(name, value, count):
    center, rows = normal(1, 2, 2, 2, 2, 4, 4), normal(1, count, 2, 4, 4)
    places = {"image": (2, 5, 5), "scale": (1, 1), "offset": (0, 0), name: value}.values()
    with pytest.raises(RuntimeError, match=f"{name}.*: expected"):
        torch.ops.lbp.accumulate_windows(rows, center, *places)
    with pytest.raises(RuntimeError, match=f"{name}.*: expected"):
        torch.ops.lbp.accumulate_windows_gradient(normal(1, 50, count), rows, center, *places, True, True)


def test_an_image_of_more_numbers_than_can_be_counted_is_refused():
    center, rows = torch.ones(1, 16, 1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(RuntimeError, match=r"image: expected at most \d+ numbers, got 16 x 1073741824 x 1073741824"):
        torch.ops.lbp.accumulate_windows(rows, center, (16, MOST, MOST), (1, 1), (0, 0))


def test_gradients_of_another_shape_are_refused():
    center, rows, places = normal(1, 2, 2, 2, 2, 4, 4), normal(1, 3, 2, 4, 4), ((2, 5, 5), (1, 1), (0, 0))
    with pytest.raises(RuntimeError, match=r"gradient: expected \[1, 50, 3\]"):
        torch.ops.lbp.accumulate_windows_gradient(normal(1, 3, 50), rows, center, *places, True, True)


@pytest.mark.parametrize(
    ("place", "value", "name"),
    [
        (2, (1, 2**63 - 1, 1), "image"),
        (2, (1, 1, MOST + 1), "image"),
        (3, (1, MOST + 1), "scale"),
        (4, (-MOST - 1, 0), "offset"),
        (5, (0, 1), "stride"),
        (6, (0, MOST + 1), "padding"),
        (7, (MOST + 1, 1), "dilation"),
    ],
)
def test_the_kernel_for_convolutions_refuses_a_geometry_that_does_not_fit(place, value, name):
    geometry = [(1, 9, 9), (1, 1), (-1, 0), (1, 1), (0, 0), (1, 1), 1]
    geometry[place - 2] = value
    with pytest.raises(RuntimeError, match=f"{name}.*: (expected|0 to)"):
        torch.ops.lbp.convolve_windows_laid_out(torch.ones(1, 1, 1, 1, 1, 2, 1), torch.ones(1, 1, 1, 1), *geometry, 1)


@pytest.mark.parametrize(
    ("scale", "offset", "name"),
    [
        ((1, 2**62), (0, 0), "scale"),
        ((MOST + 1, 1), (0, 0), "scale"),
        ((1, 0), (0, 0), "scale"),
        ((1,), (0, 0), "scale"),
        ((1, 1), (0, -MOST - 1), "offset"),
        ((1, 1), (2**63 - 1, 0), "offset"),
        ((MOST, 1), (1, 0), "scale"),
    ],
)
def test_bounds_of_windows_that_lie_where_nothing_can_be_counted_are_refused(scale, offset, name):
    matrices, (x_L, x_U) = window_matrices(1, (4, 1), (1, 2, 1), channels=1), intervals(1, 1, 4, 1)
    calls = (
        lambda: ops.concretize_forward_windows_box(*matrices, x_L, x_U, scale=scale, offset=offset),
        lambda: ops.concretize_forward_windows_box_with_magnitude(*matrices, x_L, x_U, scale=scale, offset=offset),
        lambda: ops.concretize_forward_windows_ball(*matrices, x_L, 0.25, 2.0, scale=scale, offset=offset),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match=f"{name}.*expected"):
            call()


def test_products_with_windows_at_the_largest_steps():
    """Far beside the image all is 0."""
    matrices, weight = window_matrices(1, (2, 2), (2, 4, 1)), normal(3, 8, seed=30)
    places = {"image": (2, 5, 5), "scale": (MOST // 4, MOST), "offset": (1, -MOST)}
    center, radius, *_ = ops.forward_linear_windows(*matrices, weight, None, **places)
    assert center.shape == radius.shape == (1, 50, 3)
    assert not center.any()
    assert not radius.any()


def test_convolution_at_the_largest_steps_over_the_largest_image():
    matrices, weight = window_matrices(1, (2, 2), (2, 4, 1)), normal(3, 2, 1, 1)
    places = {"image": (2, MOST, MOST), "scale": (MOST, MOST), "offset": (-MOST, 0)}
    everywhere = ops.forward_conv2d_windows(*matrices, weight, None, scale=(MOST, MOST))[0]
    found = ops.forward_conv2d_windows(*matrices, weight, None, **places)[0]
    # The windows of the second row alone lie on the image.
    assert torch.equal(found[..., 1, :], everywhere[..., 1, :])
    assert not found[..., [0, 2, 3], :].any()


def test_bytes_of_a_product_over_an_image_without_channels():
    """Nothing is computed, nor divided by the numbers of a row."""
    size = accumulation_bytes((0, 5, 5), (3, 3), (1, 5, 5), 7, 1, 4, torch.device("cuda"))
    assert size == 0


MEBIBYTE = 2**20


@pytest.mark.parametrize(
    ("window", "layer", "weight"),
    [
        ((1500, 1500), (1, 1, 1), (1, 1, 1, 1)),
        ((1, 1), (512, 3, 3), (512, 512, 3, 3)),
        ((1, 1), (1, 16, 8), (32768, 1, 1, 1)),
    ],
    ids=["many parts", "many weights", "many outputs"],
)
def test_bytes_of_a_convolution_are_those_that_it_takes(window, layer, weight):
    windows, kernel = torch.ones(1, 1, *window, *layer), torch.ones(weight)
    convolution = ((1, 1), (0, 0), (1, 1), 1)
    sizes = ConvolvedWindows.of(window, layer, kernel, (1, 1), convolution)
    threads = torch.get_num_threads()
    # Of several threads each has sums of its own, but on a busy machine they need not have them at the same time.
    torch.set_num_threads(1)
    try:
        counted = sizes.extra_bytes(1, windows.itemsize, windows.device)
        result, peak = peak_bytes(
            lambda: torch.ops.lbp.convolve_windows(windows, kernel, (), (1, 1), (0, 0), *convolution), windows.device
        )
    finally:
        torch.set_num_threads(threads)
    if peak is None:
        pytest.skip("this system does not tell the peak of a process's memory")
    taken = peak - result.nbytes
    assert counted >= 8 * MEBIBYTE
    assert abs(counted - taken) <= 0.1 * taken + 2 * MEBIBYTE


def test_convolution_of_no_channels_is_zero():
    center, *_ = ops.forward_conv2d_windows(
        *window_matrices(1, (2, 2), (0, 4, 4)), normal(3, 0, 1, 1), None, scale=(1, 1)
    )
    assert center.shape == (1, 2, 2, 2, 3, 4, 4)
    assert not center.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolution_in_every_dtype(dtype):
    matrices = window_matrices(2, (3, 3), (2, 6, 5))
    assert_matches_reference(
        ops.forward_conv2d_windows, *matrices, normal(3, 2, 3, 3), None, scale=(2, 1), padding=(1, 1), dtype=dtype
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolution_of_many_channels_and_positions(dtype):
    """More outputs than a block of columns, more weights than the first cache takes, more positions than a part."""
    matrices = window_matrices(1, (2, 1), (90, 12, 13))
    weight = normal(37, 90, 3, 2, seed=30)
    assert_matches_reference(
        ops.forward_conv2d_windows, *matrices, weight, None, scale=(1, 2), padding=(1, 1), dtype=dtype
    )


@pytest.mark.parametrize("size", [1, 20_000])
def test_convolution_in_several_chunks(size, monkeypatch):
    monkeypatch.setattr(_windows, "OPERAND_BYTES", size)
    matrices = window_matrices(2, (2, 3), (2, 4, 5))
    weight = normal(2, 2, 3, 3, seed=30)
    assert_matches_reference(ops.forward_conv2d_windows, *matrices, weight, None, scale=(1, 1), padding=(1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize(("image", "window", "layer", "scale", "offset"), PLACES)
def test_linear(image, window, layer, scale, offset, batch, exact, dtype):
    matrices = window_matrices(batch, window, layer, exact=exact)
    weight = normal(4, math.prod(layer), seed=30) / math.sqrt(math.prod(layer))
    places = {"image": (2, *image), "scale": scale, "offset": offset}
    assert_matches_reference(ops.forward_linear_windows, *matrices, weight, normal(4, seed=31), dtype=dtype, **places)


@pytest.mark.parametrize("matrix_batch", [1, 2])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize(("image", "window", "layer", "scale", "offset"), PLACES)
def test_insertion(image, window, layer, scale, offset, sides, matrix_batch):
    matrices = window_matrices(matrix_batch, window, layer, bias_batch=2)
    A = coefficients(sides, 2, 3, *layer)
    places = {"image": (2, *image), "scale": scale, "offset": offset}
    assert_matches_reference(ops.insert_forward_windows, A, *matrices, sides=sides, **places)


@pytest.mark.parametrize("size", [1, 2**14, 2**22])
@pytest.mark.parametrize(("matrix_batch", "row_batch"), [(1, 1), (1, 3), (3, 1), (3, 3)])
@pytest.mark.parametrize(("image", "window", "layer", "scale", "offset"), PLACES)
def test_the_librarys_products_are_those_of_the_kernels(
    image, window, layer, scale, offset, matrix_batch, row_batch, size, monkeypatch
):
    """In several chunks; entries over the padding are selected away."""
    monkeypatch.setattr(_windows, "OPERAND_BYTES", size)
    monkeypatch.setattr(_window_accumulation, "LEAST_ROWS", 2)
    center = window_matrices(matrix_batch, window, layer)[0].double()
    center = torch.where(entries_inside(center, image, scale, offset), center, math.nan)
    rows = normal(row_batch, 5, *layer, seed=30).double()
    places = ((2, *image), scale, offset)
    gradient = normal(max(matrix_batch, row_batch), 2 * math.prod(image), 5, seed=31).double()
    results = (
        _window_accumulation.accumulate_windows(rows, center, *places),
        *_window_accumulation.accumulate_windows_gradient(gradient, rows, center, *places, (True, True)),
    )
    kernels = (
        torch.ops.lbp.accumulate_windows(rows, center, *places),
        *torch.ops.lbp.accumulate_windows_gradient(gradient, rows, center, *places, True, True),
    )
    assert_close(results, kernels, TOLERANCE[torch.float64], "result")
    many = torch.ops.lbp.accumulate_windows_many_rows(rows, center, *places)
    assert_close(results[:1], (many,), TOLERANCE[torch.float64], "many rows")


def test_the_library_unfolds_and_folds_all_images_and_rows_together(monkeypatch):
    """A GPU launches a kernel for every image that is unfolded."""
    shapes = {}

    def spy(name, function):
        def call(x, *args, **kwargs):
            shapes.setdefault(name, []).append(x.shape)
            return function(x, *args, **kwargs)

        return call

    for name in ("unfold", "fold"):
        function = getattr(_window_accumulation.functional, name)
        monkeypatch.setattr(_window_accumulation.functional, name, spy(name, function))
    layer, places = (2, 4, 5), ((2, 6, 7), (1, 1), (0, 0))
    center, rows = window_matrices(3, (3, 3), layer)[0], normal(1, 5, *layer, seed=30)
    product = _window_accumulation.accumulate_windows(rows, center, *places)
    _window_accumulation.accumulate_windows_gradient(torch.ones_like(product), rows, center, *places, (True, True))
    assert shapes == {"fold": [(3 * 5, 18, 20)], "unfold": [(1, 3 * 5 * 2, 6, 7)]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 13, FEW_ROWS + 1])
@pytest.mark.parametrize("scale", [1, 2])
def test_insertion_of_any_number_of_rows_at_wide_layers(scale, count, dtype):
    """A layer of more columns than a vector has lanes, and no multiple of them."""
    layer = (3, 2, 37)
    matrices = window_matrices(2, (2, 3), layer)
    A = coefficients("lower", 2, count, *layer)
    places = {"image": (2, 3, 36 * scale + 2), "scale": (1, scale), "offset": (0, -1)}
    assert_matches_reference(ops.insert_forward_windows, A, *matrices, sides="lower", dtype=dtype, **places)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("matrix_batch", "region_batch"), [(2, 2), (1, 2), (2, 1), (0, 0)])
@pytest.mark.parametrize(("image", "window", "layer", "scale", "offset"), PLACES)
def test_bounds_over_a_box(image, window, layer, scale, offset, matrix_batch, region_batch, exact, dtype):
    matrices = window_matrices(matrix_batch, window, layer, exact=exact)
    box = intervals(region_batch, 2, *image)
    places = {"scale": scale, "offset": offset}
    for op in (ops.concretize_forward_windows_box, ops.concretize_forward_windows_box_with_magnitude):
        assert_matches_reference(op, *matrices, *box, dtype=dtype, **places)


@pytest.mark.parametrize(
    ("layer", "scale"),
    [((1, 2, 1100), 1), ((2, 40, 30), 1), ((23, 7, 14), 2), ((2, 3, 530), 3)],
    ids=["wider than a tile", "rows of one channel", "channels together", "a part of the rows"],
)
def test_bounds_of_layers_larger_than_a_tile(layer, scale):
    matrices = window_matrices(1, (2, 3), layer)
    places = {"scale": (1, scale), "offset": (-1, -2)}
    box = intervals(1, 2, layer[1], layer[2] * scale - 1)
    assert_matches_reference(ops.concretize_forward_windows_box_with_magnitude, *matrices, *box, **places)
    assert_matches_reference(ops.concretize_forward_windows_ball, *matrices, box[0], 0.25, 2.0, **places)


@pytest.mark.parametrize("eps", [0.25, "per image"])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("image", "window", "layer", "scale", "offset"), PLACES)
def test_bounds_over_a_ball(image, window, layer, scale, offset, exact, p, eps):
    matrices = window_matrices(2, window, layer, exact=exact)
    radius = torch.tensor([0.25, 0.5]) if eps == "per image" else eps
    places = {"scale": scale, "offset": offset}
    assert_matches_reference(
        ops.concretize_forward_windows_ball, *matrices, normal(2, 2, *image, seed=1), radius, p, **places
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_entries_over_the_padding_are_never_multiplied(value):
    image, window, layer, scale, offset = PLACES[1]
    center, radius, center_bias, radius_bias = window_matrices(1, window, layer)
    places = {"scale": scale, "offset": offset}
    inside = entries_inside(center, image, scale, offset)
    rows, spoiled = torch.where(inside, center, 0.0), torch.where(inside, center, value)
    assert not inside.all()
    A, weight = coefficients("both", 1, 3, *layer), normal(4, math.prod(layer))
    for op, before, after, keywords in (
        (ops.concretize_forward_windows_box_with_magnitude, (), intervals(1, 2, *image), places),
        (ops.concretize_forward_windows_ball, (), (normal(1, 2, *image), 0.25, 2.0), places),
        (ops.insert_forward_windows, (A,), (), {"image": (2, *image), "sides": "both", **places}),
        (ops.forward_linear_windows, (), (weight, None), {"image": (2, *image), **places}),
    ):
        results = [
            evaluate(
                op,
                *before,
                matrix,
                radius,
                center_bias,
                radius_bias,
                *after,
                **keywords,
                backend="native",
                dtype=torch.float64,
            )[0]
            for matrix in (rows, spoiled)
        ]
        assert_close(results[1], results[0], 0.0, op.__name__)


def entries_inside(center, image, scale, offset):
    """Whether each entry of a window matrix lies on the image."""
    ones = torch.ones(1, 2 * math.prod(image), *center.shape[4:]).double()
    return dense_to_windows(ones, center.shape[2:4], (2, *image), scale, offset) > 0


@pytest.mark.parametrize(("image", "window", "layer", "scale", "offset"), PLACES)
def test_windows_and_dense_matrices_hold_the_same(image, window, layer, scale, offset):
    center = window_matrices(2, window, layer)[0]
    inside = torch.where(entries_inside(center, image, scale, offset), center, 0.0)
    dense = ops.windows_to_dense(center, (2, *image), scale, offset)
    assert torch.equal(dense_to_windows(dense, window, (2, *image), scale, offset), inside)


def test_a_weight_of_another_size_is_refused():
    image, window, layer, scale, offset = PLACES[0]
    matrices = window_matrices(1, window, layer)
    with pytest.raises(RuntimeError, match=r"weight: expected \[n_out, 105\], got \[4, 7\]"):
        ops.forward_linear_windows(*matrices, normal(4, 7), None, image=(2, *image), scale=scale, offset=offset)


@pytest.mark.parametrize(("stride", "offset", "size"), [(2, 0, 2), (1, -1, 3), (3, 0, 1), (2, -2, 4)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("image", "window", "layer", "scale", "first"), PLACES)
def test_a_banded_matrix_multiplies_an_axis(image, window, layer, scale, first, axis, stride, offset, size):
    windows = window_matrices(2, window, layer)[0].double().requires_grad_()
    length = layer[1 + axis]
    matrix = torch.zeros(length + 1, length, dtype=torch.float64)
    for row in range(length + 1):
        band = slice(max(row * stride + offset, 0), max(row * stride + offset + size, 0))
        matrix[row, band] = normal(length, seed=row).double()[band]
    matrix.requires_grad_()
    found = ops.combine_windows(windows, axis, matrix, scale[axis], stride, offset, size)
    moved = [(scale[i] * stride, first[i] + scale[i] * offset) if i == axis else (scale[i], first[i]) for i in range(2)]
    # Entries over the padding may be anything, and are dropped here.
    dense = ops.windows_to_dense(found, (2, *image), *zip(*moved, strict=True))
    of_layer = ops.windows_to_dense(windows, (2, *image), scale, first)
    expected = torch.tensordot(of_layer, matrix, dims=([3 + axis], [1])).movedim(-1, 3 + axis)
    assert_close([dense], [expected], TOLERANCE[torch.float64], "matrix")
    weight = normal(*expected.shape, seed=9).double()
    gradients = (torch.autograd.grad(result, (windows, matrix), weight) for result in (dense, expected))
    (of_windows, of_matrix), (expected_windows, expected_matrix) = gradients
    banded = torch.where(matrix == 0, 0.0, expected_matrix)
    assert_close([of_windows, of_matrix], [expected_windows, banded], TOLERANCE[torch.float64], "gradient")


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"),
    [
        (0, torch.zeros(1, 1, 2, 2, 3, 4), RuntimeError, "expected windows"),
        (1, 2, ValueError, "axis: expected 0 for rows or 1 for columns, got 2"),
        (2, torch.zeros(2, 3), RuntimeError, r"matrix: expected \[outputs, 4\], got \[2, 3\]"),
        (6, 0, RuntimeError, "matrix: expected bands of 1 column and more, 1 and more apart, got 0 and 2"),
    ],
)
def test_matrices_that_do_not_multiply_an_axis_are_refused(argument, value, error, message):
    arguments = [torch.zeros(1, 1, 2, 2, 3, 4, 5), 0, torch.zeros(2, 4), 1, 2, 0, 2]
    arguments[argument] = value
    with pytest.raises(error, match=message):
        ops.combine_windows(*arguments)
