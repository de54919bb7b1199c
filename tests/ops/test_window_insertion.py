"""Forward bounds on windows of the input, inserted into windowed rows: against the insertion of dense matrices."""

import pytest
import torch
from ops.cases import DTYPES, SIDES, TOLERANCE, assert_close, normal, uniform

import lbp
from lbp import ops

IMAGE, WINDOW, LAYER, SCALE, OFFSET = (2, 9, 8), (4, 5), (3, 4, 3), (2, 3), (-2, -1)
GROUP = 5  # rows at each place
PLACES = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 2, 0]])  # image, row, column
SIZE = (2, 2)  # of the rows' windows


def bounds(images, dtype):
    """Center, radius and their biases on windows, [B, C0, kh, kw, C, H, W] and [B, C, H, W]."""
    matrix, layer = (images, IMAGE[0], *WINDOW, *LAYER), (images, *LAYER)
    numbers = (normal(*matrix), uniform(*matrix, seed=1), normal(*layer, seed=2), uniform(*layer, seed=3))
    return [values.to(dtype) for values in numbers]


def by_position(values):
    """The same with the layer's dimensions first, as rows meet them."""
    return None if values is None else values.movedim((-2, -1, -3), (1, 2, 3)).contiguous()


def rows(sides, dtype):
    return normal(2 if sides == "both" else 1, GROUP * len(PLACES), *SIZE, LAYER[0], seed=4).to(dtype)


def inserted_into_whole_rows(A, matrices, sides):
    """The coefficients [K, R, n0] and constants [K, R] of the same rows over the whole layer."""
    dense = [None if values is None else values.double() for values in matrices]
    for i in range(2):
        if dense[i] is not None:
            dense[i] = ops.windows_to_dense(dense[i], IMAGE, SCALE, OFFSET)
    coefficients, constants = [], []
    for row, (image, top, left) in enumerate(PLACES.repeat_interleave(GROUP, dim=0).tolist()):
        whole = torch.zeros(len(A), 1, 1, *LAYER, dtype=torch.float64)
        whole[:, 0, 0, :, top : top + SIZE[0], left : left + SIZE[1]] = A[:, row].double().movedim(-1, 1)
        of_image = [None if values is None else values[image : image + 1] for values in dense]
        with lbp.backend("reference"):
            part, added = ops.insert_forward(whole, *of_image, sides=sides)
        coefficients.append(part[:, 0, 0].flatten(1))
        constants.append(added[:, 0, 0])
    return torch.stack(coefficients, 1), torch.stack(constants, 1)


def over_the_image(windows):
    """Windowed coefficients [K, R, rows, columns, C0] as [K, R, n0]; what lies over the padding is dropped."""
    margin = 16  # as far as any window reaches beyond the image
    padded = windows.new_zeros(*windows.shape[:2], IMAGE[0], *(size + 2 * margin for size in IMAGE[1:]))
    for row, (_, top, left) in enumerate(PLACES.repeat_interleave(GROUP, dim=0).tolist()):
        y, x = (margin + SCALE[i] * at + OFFSET[i] for i, at in enumerate((top, left)))
        height, width = windows.shape[2:4]
        padded[:, row, :, y : y + height, x : x + width] = windows[:, row].movedim(-1, 1)
    return padded[..., margin:-margin, margin:-margin].flatten(2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("has_radius_bias", [True, False])
@pytest.mark.parametrize("has_radius", [True, False])
def test_rows_on_windows_are_those_of_whole_layers(has_radius, has_radius_bias, sides, dtype):
    center, radius, center_bias, radius_bias = bounds(2, dtype)
    matrices = (center, radius if has_radius else None, center_bias, radius_bias if has_radius_bias else None)
    A = rows(sides, dtype)
    found, constants = ops.insert_into_windows(A, PLACES, *map(by_position, matrices), scale=SCALE, sides=sides)
    expected, expected_constants = inserted_into_whole_rows(A, matrices, sides)
    assert constants.dtype == torch.float64
    assert_close(over_the_image(found).double(), expected, TOLERANCE[dtype], "coefficients")
    assert_close(constants, expected_constants, TOLERANCE[dtype], "constants")


def test_images_may_share_their_bounds():
    A = rows("both", torch.float64)
    shared = [by_position(values) for values in bounds(1, torch.float64)]
    of_each = [values.expand(2, *values.shape[1:]).contiguous() for values in shared]
    one, other = (
        ops.insert_into_windows(A, PLACES, *matrices, scale=SCALE, sides="both") for matrices in (shared, of_each)
    )
    assert all(map(torch.equal, one, other))


def test_gradients_reach_rows_and_bounds():
    A = rows("both", torch.float64)[:, :, :1, :1].requires_grad_()
    matrices = [by_position(values).requires_grad_() for values in bounds(1, torch.float64)]
    some = [values[..., :1, :2].contiguous() if values.dim() == 7 else values for values in matrices]

    def insert(A, *matrices):
        return ops.insert_into_windows(A, PLACES, *matrices, scale=SCALE, sides="both")

    assert torch.autograd.gradcheck(insert, (A, *(values.detach().requires_grad_() for values in some)))


@pytest.mark.parametrize(
    ("number", "shape", "message"),
    [
        (0, (2, 15, 2, 2, 4), r"A: expected \[sides, rows, height, width, 3\] as in center"),
        (1, (3, 2), r"places: expected int64 \[places, 3\]"),
        (2, (2, 4, 3, 3, 2, 4), "center: expected"),
        (3, (2, 4, 3, 3, 2, 4, 4), "radius: expected the shape of its center"),
        (4, (2, 3, 4, 3), r"center_bias: expected a batch of the shape \[4, 3, 3\]"),
        (5, (1, 4, 3, 3), "radius_bias: expected the shape of its center"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(number, shape, message):
    arguments = [rows("both", torch.float64), PLACES, *map(by_position, bounds(2, torch.float64))]
    arguments[number] = torch.zeros(shape, dtype=arguments[number].dtype)
    with pytest.raises(RuntimeError, match=message):
        ops.insert_into_windows(*arguments, scale=SCALE, sides="both")
