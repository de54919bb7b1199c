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
from lbp.ops import _window_accumulation, _window_convolution, _windows
from lbp.ops._window_accumulation import FEW_ROWS
from lbp.reference import dense_to_windows

BACKENDS = ("reference", "native")
NORMS = (1.0, 1.5, 2.0, math.inf)


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
@pytest.mark.parametrize("image", [(1, 5, 5), (2, -1, 5), (2, 5)])
def test_convolution_over_an_image_of_another_kind_is_refused(image, backend):
    matrices = window_matrices(1, (2, 2), (2, 4, 4))
    with lbp.backend(backend), pytest.raises(RuntimeError, match="image: expected 2 channels, rows and columns"):
        ops.forward_conv2d_windows(*matrices, normal(3, 2, 2, 2), None, image=image, scale=(1, 1))


@pytest.mark.parametrize(
    ("places", "stride"),
    [({"scale": (2**40, 1)}, 1), ({"scale": (1, 1)}, 2**40), ({"scale": (1, 1), "offset": (0, 2**40)}, 1)],
)
def test_steps_whose_products_are_no_numbers_are_refused(places, stride):
    matrices = window_matrices(1, (2, 2), (2, 4, 4))
    with pytest.raises(RuntimeError, match="expected"):
        ops.forward_conv2d_windows(*matrices, normal(3, 2, 1, 1), None, stride=(stride, 1), **places)


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
