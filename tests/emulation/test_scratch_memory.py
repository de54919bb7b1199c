"""What is counted for the scratch memory of fused products is at least what their launch functions ask for."""

from types import SimpleNamespace

import pytest
import torch

from lbp.ops._product import split_product_bytes
from lbp.ops.affine import relax_backward_conv2d_bytes
from lbp.ops.interval import interval_linear_bytes

ROWS = (1, 5, 31, 32, 33, 64, 100, 128, 129, 500, 2048, 10_000)
COLUMNS = (1, 3, 16, 17, 64, 100, 128, 129, 700, 3072)
DEPTHS = (20, 255, 256, 300, 1030, 4096, 32_768)


def assert_counted(taken, columns, depth, itemsize, **sums):
    """At least what any number of rows takes, ROWS of them or fewer, and of wide results no more than some take."""
    counted = split_product_bytes(columns, depth, itemsize, **sums)
    assert max(taken) <= counted
    for rows, of_rows in zip(ROWS, taken, strict=True):
        assert of_rows <= split_product_bytes(columns, depth, itemsize, rows=rows, **sums) <= counted
    if depth < 256:
        assert counted == 0
    elif depth >= 4096:
        assert counted <= 4 * max(taken)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_intervals_through_linear_layers(emulated, columns, depth, itemsize):
    workspace = getattr(emulated, f"interval_linear_workspace_bytes_{itemsize}")
    taken = [workspace(rows, depth, columns, False) for rows in ROWS]
    assert_counted(taken, columns, depth, itemsize, sums=2)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("outward", [False, True])
@pytest.mark.parametrize("depth", [4096, 2**17])
def test_intervals_of_few_examples_take_none(emulated, depth, outward, itemsize):
    weight = SimpleNamespace(is_cuda=True, shape=(700, depth), itemsize=itemsize)
    workspace = getattr(emulated, f"interval_linear_workspace_bytes_{itemsize}")
    assert [workspace(rows, depth, 700, outward) for rows in range(1, 5)] == [0] * 4
    assert [interval_linear_bytes(weight, rows) for rows in range(1, 5)] == [0] * 4
    assert 0 < workspace(5, depth, 700, False) <= interval_linear_bytes(weight, 5)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_insertion_into_rows(emulated, columns, depth, itemsize):
    workspace = getattr(emulated, f"insert_forward_workspace_bytes_{itemsize}")
    taken = [workspace(rows, depth, columns) for rows in ROWS]
    assert_counted(taken, columns, depth, itemsize, sums=2, constants=True)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("columns", [columns for columns in COLUMNS if columns <= 128])
def test_rows_through_linear_layers(emulated, columns, depth, itemsize):
    workspace = getattr(emulated, f"relax_backward_linear_workspace_bytes_{itemsize}")
    taken = [workspace(rows, depth, columns) for rows in ROWS]
    assert_counted(taken, columns, depth, itemsize, sums=1, constants=True)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 57), (3, 20), (16, 64), (64, 512)])
@pytest.mark.parametrize("of", ["interval", "forward"])
def test_intervals_and_forward_bounds_through_convolutions(emulated, of, outputs, inputs, groups, itemsize):
    weight = torch.zeros(outputs * groups, inputs, 3, 3).numpy()
    workspace = getattr(emulated, f"{of}_conv2d_workspace_bytes_{itemsize}")
    counted = split_product_bytes(outputs, 9 * inputs, itemsize, sums=2)
    for size in (1, 4, 16):
        geometry = [1, 1, 1, 1, 1, 1, size, size, size, size, groups]
        if itemsize == 8:
            weight = weight.astype("float64")
        for rows in ROWS:
            of_rows = split_product_bytes(outputs, 9 * inputs, itemsize, sums=2, rows=rows * size * size)
            assert workspace(rows, weight, geometry) <= of_rows <= counted


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (2, 2), (3, 2), (1, 2)])
@pytest.mark.parametrize(("outputs", "inputs"), [(57, 1), (40, 3), (64, 16), (128, 64), (32, 200)])
def test_rows_through_convolutions(emulated, outputs, inputs, stride, dilation, groups, itemsize):
    weight = torch.zeros(outputs * groups, inputs, 3, 3, dtype=torch.float32 if itemsize == 4 else torch.float64)
    on_device = SimpleNamespace(shape=weight.shape, itemsize=itemsize, is_cuda=True)
    workspace = getattr(emulated, f"relax_backward_conv2d_workspace_bytes_{itemsize}")
    taken, counted = [], []
    for size in (1, 4):  # so small that no constants are added up in parts
        convolved = (size + 2 * dilation - 2 * dilation - 1) // stride + 1
        geometry = [*[stride] * 2, *[dilation] * 2, *[dilation] * 2, *[size] * 2, *[convolved] * 2, groups]
        for rows in ROWS:
            taken.append(workspace(rows, weight.numpy(), geometry))
            layer = {"stride": (stride, stride), "dilation": (dilation, dilation)}
            counted.append(relax_backward_conv2d_bytes(on_device, groups, rows * size * size, **layer))
            assert taken[-1] <= counted[-1]
    # Layers of few channels have a kernel of their own, in float32, that takes none.
    assert 4 * max(taken) > max(counted) or (inputs < 16 and itemsize == 4)
