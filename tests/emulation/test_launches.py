"""Layers of launch-bound sizes, as csrc/cuda/grid.h defines them, take one launch per op, and one for its gradient."""

import pytest
import torch
from emulation.shim import Shim
from emulation.values import assert_values_match_reference
from ops.cases import (
    OP_NAMES,
    assert_matches_reference,
    coefficients,
    converted,
    every_op,
    forward_matrices,
    intervals,
    normal,
    relaxation,
)
from ops.small_layers import SHARED_SUMS
from ops.test_affine import INPUT, convolution
from torch.utils._python_dispatch import TorchDispatchMode

from lbp import ops


class Launches(TorchDispatchMode):
    """Notes how many kernels every registered op that is emulated launches, by its name."""

    def __init__(self, module):
        super().__init__()
        self.module, self.by_op = module, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.module.take_launches()
        result = function(*args, **(kwargs or {}))
        if function.namespace == "lbp" and function._opname in Shim.names():
            launched = len(self.module.take_launches())
            self.by_op[function._opname] = max(launched, self.by_op.get(function._opname, 0))
        return result


@pytest.fixture(autouse=True)
def one_launch(emulated):
    emulated.set_one_launch(True)


@pytest.fixture
def launches(emulated):
    return Launches(emulated)


OF_THE_LIBRARY = ("backward_linear", "insert_forward_windows")  # by products of its own, and by other ops
OUTWARD = (2.0**-8, 2.0**-20)  # relative and absolute widening


def more_than_once(launches):
    assert launches.by_op
    return {name: count for name, count in launches.by_op.items() if count != 1}


@pytest.mark.parametrize("name", [name for name in OP_NAMES if name not in OF_THE_LIBRARY])
def test_every_op_and_its_gradient_launch_one_kernel_for_a_small_layer(launches, name):
    op, args, kwargs = every_op()[name]
    with launches:
        assert_matches_reference(op, *args, **kwargs)
    assert more_than_once(launches) == {}


@pytest.mark.parametrize("name", SHARED_SUMS)
def test_launch_bound_layers_take_one_launch(launches, name):
    op, args, kwargs = SHARED_SUMS[name]
    with launches:
        assert_matches_reference(op, *args, **kwargs)
    assert more_than_once(launches) == {}


def test_few_rows_of_many_tiles_have_a_block_for_each_tile(emulated):
    neurons = 2048 * 1024
    A, bounds = coefficients("lower", 1, 1, neurons), intervals(1, neurons)
    args, kwargs = (
        converted((A, *bounds), torch.float32),
        converted(relaxation(batch=1, shape=(neurons,)), torch.float32),
    )
    emulated.take_launches()
    with torch.no_grad():
        ops.relax_backward(*args, sides="lower", **kwargs)
    first, second = emulated.take_launches()
    assert first.startswith("lbp::cuda::relax_backward_kernel<float")
    assert second.startswith("lbp::cuda::sum_rows_kernel")


def product_calls():
    """Fused products whose depth is not split."""
    weight, bias = normal(20, 250, seed=50), normal(20, seed=51)
    for batch in (1, 4, 7):
        layer = (*intervals(batch, 250), weight, bias)
        yield f"interval_linear {batch}", ops.interval_linear, layer, {}
        outward = (*layer, *OUTWARD, bias.abs(), None)
        yield f"interval_linear {batch}, outward", torch.ops.lbp.interval_linear_outward, outward, {}
    yield "forward_linear", ops.forward_linear, (*forward_matrices(1, 30, 250), weight, bias), {}
    yield (
        "insert_forward",
        ops.insert_forward,
        (coefficients("both", 2, 9, 60), *forward_matrices(2, 50, 60)),
        {"sides": "both"},
    )
    (l, u), lines = intervals(2, 250), relaxation(shape=(250,))
    A = coefficients("both", 2, 9, 250)
    yield (
        "relax_backward_linear",
        ops.relax_backward_linear,
        (A, l, u, normal(250, 20), None),
        {"sides": "both", **lines},
    )
    weight, bias, geometry, shape = convolution(2)
    layer = (*intervals(2, *INPUT), weight, bias)
    yield "interval_conv2d", ops.interval_conv2d, layer, geometry
    outward = (*layer, *OUTWARD, bias.abs(), None, *geometry.values())
    yield "interval_conv2d, outward", torch.ops.lbp.interval_conv2d_outward, outward, {}
    yield "forward_conv2d", ops.forward_conv2d, (*forward_matrices(2, 9, *INPUT), weight, bias), geometry
    A, (l, u) = coefficients("both", 2, 9, *shape), intervals(2, *shape)
    keywords = {"sides": "both", **geometry, **relaxation(shape=shape)}
    yield "relax_backward_conv2d", ops.relax_backward_conv2d, (A, l, u, weight, bias, INPUT[1:]), keywords
    yield "backward_conv2d", ops.backward_conv2d, (A, weight, bias, INPUT[1:]), geometry


PRODUCTS = {name: call for name, *call in product_calls()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PRODUCTS)
def test_small_products_take_one_launch(emulated, name, dtype):
    op, args, kwargs = PRODUCTS[name]
    emulated.take_launches()
    op(*converted(args, dtype), **converted(kwargs, dtype))
    assert len(emulated.take_launches()) == 1


def test_sums_do_not_depend_on_other_images(emulated):
    """A layer of launch-bound size gives the same bits whatever batch it is part of."""
    center, radius, *biases = forward_matrices(3, 200, 20)
    x = intervals(3, 200, seed=3)
    alone = ops.concretize_forward_box(center[:1], radius[:1], *(bias[:1] for bias in biases), *(end[:1] for end in x))
    together = ops.concretize_forward_box(center, radius, *biases, *x)
    assert all(torch.equal(one, many[:1]) for one, many in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("launch_bound", [True, False])
@pytest.mark.parametrize(("op", "few"), [(ops.relax_backward, 2), (ops.concretize_box, 4)])
def test_a_block_has_rows_of_a_few_tiles_only_where_layers_are_launch_bound(emulated, op, few, launch_bound, dtype):
    emulated.set_one_launch(launch_bound)
    tile = 4096 // dtype.itemsize
    for neurons, in_one_block in ((few * tile - 12, launch_bound), (few * tile + 4, False)):
        A, x = coefficients("lower", 1, 2, neurons), intervals(1, neurons)
        emulated.take_launches()
        assert_values_match_reference(op, A, *x, sides="lower", dtype=dtype)
        assert len(emulated.take_launches()) == (1 if in_one_block else 2)


# Columns (input channels times entries of the kernel) that are padded and such that are not, two pixels for a thread,
# output channels that no step divides and whose weights come in two stages; then too many columns, too many pixels, and
# so few entries that a tile does as well.
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "size", "narrow"),
    [
        (3, 34, 3, 1, (23, 24), True),
        (3, 33, 4, 2, (8, 8), True),
        (6, 33, 3, 1, (8, 8), False),
        (1, 3, 2, 1, (33, 32), False),
        (4, 33, 1, 1, (8, 8), False),
    ],
)
def test_back_substitution_through_few_input_channels(emulated, channels, outputs, kernel, stride, size, narrow):
    emulated.set_one_launch(False)
    padding = (kernel - 1) // 2
    image = tuple((count - 1) * stride + kernel - 2 * padding for count in size)
    A, bounds = coefficients("both", 2, 1, outputs, *size), intervals(2, outputs, *size)
    layer = normal(outputs, channels, kernel, kernel, seed=50), normal(outputs, seed=51), image
    geometry = {"stride": (stride, stride), "padding": (padding, padding)}
    emulated.take_launches()
    keywords = {"sides": "both", "r": 0.75, **geometry, "dtype": torch.float32}
    assert_values_match_reference(ops.relax_backward_conv2d, A, *bounds, *layer, **keywords)
    assert any("relax_narrow_conv2d_kernel" in name for name in emulated.take_launches()) == narrow
