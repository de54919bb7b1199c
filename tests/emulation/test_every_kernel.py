"""Every CUDA kernel in both dtypes, in every way in which a launcher cuts the work, at the smallest sizes that do.

`make test-emulated` fails where a kernel is launched by no test.
"""

import math

import pytest
import torch
from emulation.values import assert_values_match_reference
from ops.cases import (
    DTYPES,
    assert_matches_reference,
    coefficients,
    forward_matrices,
    intervals,
    normal,
    relaxation,
    window_matrices,
)
from ops.test_windows import windows

from lbp import _native, ops

NORMS = (1.0, 1.5, 2.0, math.inf)
PACKED = (7, 8)  # rows that are no whole packs of 16 bytes, and such that are


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request, emulated):
    return request.param


@pytest.fixture(params=["one launch", "several"])
def launches(request, emulated):
    """Kernels of small layers, and of large ones."""
    emulated.set_one_launch(request.param == "one launch")


def beyond_one_block(dtype):
    """Numbers of a row for which a launch leaves sums to a second one."""
    return 8 * {torch.float32: 1024, torch.float64: 512}[dtype] + 1


def test_the_emulator_has_the_kernels_that_are_compiled_just_in_time(emulated):
    if _native.jit is None:
        pytest.skip("this library has its kernels ahead of time")
    assert sorted(emulated.kernels()) == _native.jit.kernels()


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("neurons", PACKED)
def test_activations(neurons, dtype):
    bounds, lines = intervals(33, neurons), relaxation(shape=(neurons,))
    ramp = {name: lines[name] for name in ("r", "eta")}
    assert_matches_reference(ops.ramp, bounds[0], **ramp, dtype=dtype)
    assert_matches_reference(ops.ramp_interval, *bounds, **ramp, dtype=dtype)
    assert_matches_reference(ops.ramp_interval_with_status, *bounds, **ramp, dtype=dtype)
    assert_matches_reference(ops.bounding_lines, *bounds, **lines, dtype=dtype)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("neurons", PACKED)
def test_relaxations_of_many_rows(neurons, dtype):
    bounds, lines = intervals(1, neurons), relaxation(batch=1, shape=(neurons,))
    A = coefficients("lower", 1, 37, neurons)
    assert_matches_reference(ops.relax_backward, A, *bounds, sides="lower", **lines, dtype=dtype)
    assert_matches_reference(ops.relax_forward, *forward_matrices(1, 37, neurons), *bounds, **lines, dtype=dtype)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("size", PACKED)
def test_bounds_over_regions(size, dtype):
    A, x = coefficients("both", 2, 2, size), intervals(2, size)
    matrices, inputs = forward_matrices(1, 40, size), intervals(1, 40, seed=3)
    assert_matches_reference(ops.concretize_box, A, *x, sides="both", dtype=dtype)
    for op in (ops.concretize_forward_box, ops.concretize_forward_box_with_magnitude):
        assert_matches_reference(op, *matrices, *inputs, dtype=dtype)
    for p in NORMS:
        assert_matches_reference(ops.concretize_ball, A, x[0], 0.5, p, sides="both", dtype=dtype)
        assert_matches_reference(ops.concretize_forward_ball, *matrices, inputs[0], 0.5, p, dtype=dtype)


@pytest.mark.parametrize(
    ("rows", "beyond"), [(1, 0), (11, 3), (9, 3)], ids=["no whole packs", "whole packs", "few rows of whole packs"]
)
def test_rows_of_many_tiles(rows, beyond, dtype):
    size = beyond_one_block(dtype) + beyond
    A, x = coefficients("lower", 1, rows, size), intervals(1, size)
    lines = {"r": 0.75, "bias": normal(size, seed=8)}
    assert_values_match_reference(ops.relax_backward, A, *x, sides="lower", **lines, dtype=dtype)
    assert_values_match_reference(ops.concretize_box, A, *x, sides="lower", dtype=dtype)
    for p in NORMS:
        assert_values_match_reference(ops.concretize_ball, A, x[0], 0.5, p, sides="lower", dtype=dtype)


# Blocks of three tiles, the last one's of fewer neurons; an even and an odd number of rows.
@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(("sides", "rows"), [("both", 1), ("upper", 3)])
def test_few_rows_of_blocks_with_several_tiles(sides, rows):
    batch, size, dtype = 53, beyond_one_block(torch.float32) + 3, torch.float32
    A, x = coefficients(sides, batch, rows, size), intervals(batch, size)
    lines = {**relaxation(batch=batch, shape=(size,)), "bias": normal(size, seed=8)}
    assert_values_match_reference(ops.relax_backward, A, *x, sides=sides, **lines, dtype=dtype)
    assert_values_match_reference(ops.concretize_box, A, *x, sides=sides, dtype=dtype)
    for p in (1.0, 2.0, math.inf):
        assert_values_match_reference(ops.concretize_ball, A, x[0], 0.5, p, sides=sides, dtype=dtype)


@pytest.mark.usefixtures("launches")
def test_windows_over_regions(dtype):
    layer = (2, 4, 3)
    A, rows = windows(rows=5, layer=layer)
    l, u = intervals(2, *layer)
    matrices, places = window_matrices(1, (2, 3), (2, 3, 2)), {"scale": (2, 1), "offset": (-1, 0)}
    x = intervals(1, 2, 5, 4, seed=5)
    assert_matches_reference(ops.concretize_windows_box, A, rows, l, u, sides="both", dtype=dtype)
    for op in (ops.concretize_forward_windows_box, ops.concretize_forward_windows_box_with_magnitude):
        assert_matches_reference(op, *matrices, *x, **places, dtype=dtype)
    for p in NORMS:
        assert_matches_reference(ops.concretize_windows_ball, A, rows, l, 0.5, p, sides="both", dtype=dtype)
        assert_matches_reference(ops.concretize_forward_windows_ball, *matrices, x[0], 0.5, p, **places, dtype=dtype)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("channels", [3, 4])
def test_windows_through_an_activation(channels, dtype):
    layer = (channels, 4, 3)
    A, rows = windows(rows=5, layer=layer)
    bounds, lines = intervals(2, *layer), relaxation(shape=layer)
    assert_matches_reference(ops.relax_windows, A, rows, *bounds, sides="both", **lines, dtype=dtype)
    weight, corners = normal(channels, 2, 3, 3, seed=52), torch.zeros(len(rows), 2, dtype=torch.int64)
    assert_values_match_reference(
        *(ops.relax_backward_conv2d_windows, A, rows, *bounds, weight, None, corners, (5, 4)),
        **{"sides": "both", **lines, "dtype": dtype},
    )


def test_windows_through_a_convolution_of_many_channels(dtype):
    channels = 57  # with a kernel of nine entries so many numbers that blocks share them
    weight, bounds = normal(channels, 1, 3, 3, seed=52) / 16, intervals(1, channels, 1, 1)
    A, rows = windows(rows=2, sources=2, layer=(channels, 1, 1), window=(1, 1), batch=1)
    corners = torch.zeros(2, 2, dtype=torch.int64)
    assert_values_match_reference(
        ops.relax_backward_conv2d_windows, A, rows, *bounds, weight, None, corners, (3, 3), sides="both", dtype=dtype
    )
