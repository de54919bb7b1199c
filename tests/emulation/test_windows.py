"""The emulated CUDA kernels on windows, beyond what the tests of the ops show."""

import pytest
import torch
from emulation.values import assert_values_match_reference
from ops.cases import (
    DTYPES,
    TOLERANCE,
    assert_close,
    assert_matches_reference,
    intervals,
    normal,
    relaxation,
)
from ops.test_windows import LAYER, targets, windows

from lbp import ops, reference


# A source or an image that is not there, a window that leaves the layer on any side.
@pytest.mark.parametrize("row", [(4, 0, 0, 0), (-1, 0, 0, 0), (0, 2, 0, 0), (0, 0, 5, 0), (0, 0, 0, -1)])
def test_a_row_that_stands_nowhere_gives_nan_and_leaves_the_others_alone(emulated, row):
    A, rows = windows(rows=3)
    spoiled = rows.clone()
    spoiled[1] = torch.tensor(row)
    l, u = intervals(2, *LAYER)
    weight, corners = normal(LAYER[0], 2, 3, 3), torch.zeros(3, 2, dtype=torch.int64)
    for results in zip(
        *[
            (
                *ops.relax_windows(A, where, l, u, sides="both", **relaxation(shape=LAYER)),
                *ops.relax_backward_conv2d_windows(A, where, l, u, weight, None, corners, (5, 4), sides="both"),
                ops.concretize_windows_box(A, where, l, u, sides="both"),
                ops.concretize_windows_ball(A, where, l, 0.5, 2.0, sides="both"),
            )
            for where in (spoiled, rows)
        ],
        strict=True,
    ):
        found, expected = results
        assert found[:, 1].isnan().all()
        assert torch.equal(found[:, [0, 2]], expected[:, [0, 2]])


@pytest.mark.parametrize("sources", [3, 300])
def test_gradients_of_many_rows_find_theirs(emulated, sources):
    layer = (2, 3, 2)
    A, rows = windows(rows=300, sources=sources, window=(2, 1), layer=layer)
    if sources == len(rows):  # as results of back-substitution
        rows[:, 0] = torch.arange(sources)
    l, u = intervals(2, *layer)
    keywords = {"sides": "both", "bias": normal(2, 1, 1), **relaxation(shape=layer)}
    assert_matches_reference(ops.relax_windows, A, rows, l, u, **keywords)
    assert_matches_reference(ops.concretize_windows_box, A, rows, l, u, sides="both")
    assert_matches_reference(ops.concretize_windows_ball, A, rows, l, 0.5, 2.0, sides="both")


def test_long_rows_are_the_work_of_several_warps(emulated):
    layer = (4, 17, 16)
    A, rows = windows(rows=3, layer=layer, window=layer[1:])
    l, u = intervals(2, *layer)
    keywords = {"sides": "both", "bias": normal(4, 1, 1), **relaxation(shape=layer)}
    for found, expected in (
        (ops.relax_windows(A, rows, l, u, **keywords), reference.relax_windows(A, rows, l, u, **keywords)),
        (
            [ops.concretize_windows_ball(A, rows, l, 0.5, p, sides="both") for p in (1.0, 2.0)],
            [reference.concretize_windows_ball(A, rows, l, 0.5, p, sides="both") for p in (1.0, 2.0)],
        ),
    ):
        assert_close(found, expected, TOLERANCE[torch.float64], "output")


# Eight channels lie in whole vectors, those of two groups of six do not; few and many channels of the input.
@pytest.mark.parametrize("inputs", [3, 34])
@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (16, 1), (12, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("emulated")
def test_windows_of_channels_in_vectors_and_one_by_one(dtype, channels, groups, inputs):
    layer, size = (channels, *LAYER[1:]), (8, 7)
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": groups}
    weight = normal(channels, inputs, 4, 4, seed=50)
    A, rows = windows(layer=layer)
    corners, window = targets(rows, A.shape[2:4], geometry, weight.shape[2:], size)
    arguments = (*intervals(2, *layer), weight, None, corners, window)
    keywords = {"sides": "both", **geometry, **relaxation(shape=layer)}
    assert_values_match_reference(ops.relax_backward_conv2d_windows, A, rows, *arguments, **keywords, dtype=dtype)


@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
def test_forward_bounds_on_windows_without_entries_are_their_biases(emulated, size):
    matrix, bias, x = normal(1, 2, *size, 3, 2, 2), normal(1, 3, 2, 2), normal(1, 2, 5, 5)
    for bound in ops.concretize_forward_windows_box(matrix, None, bias, None, x, x, scale=(1, 1), offset=(0, 0)):
        assert torch.equal(bound, bias)
