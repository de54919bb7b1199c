"""The kernel for gradients of intervals through a Linear layer gives those of the library's products."""

import pytest
import torch

from lbp import ops

KERNEL = "lbp::interval_linear_small_batch_gradient"


def layer(batch, inputs, outputs, dtype):
    generator = torch.Generator().manual_seed(0)
    l = torch.randn(batch, inputs, generator=generator, dtype=dtype)
    u = l + torch.rand(batch, inputs, generator=generator, dtype=dtype)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=dtype)
    weight[:, ::3] = 0  # where |W| has no derivative: its gradient is 0
    bias = torch.randn(outputs, generator=generator, dtype=dtype)
    arriving = [torch.randn(batch, outputs, generator=generator, dtype=dtype) for _ in range(2)]
    return [tensor.requires_grad_() for tensor in (l, u, weight, bias)], arriving


def gradients(leaves, arriving, by_library):
    """A gradient that is differentiated itself is the library's."""
    with torch.profiler.profile() as profile:
        found = torch.autograd.grad(ops.interval_linear(*leaves), leaves, arriving, create_graph=by_library)
    assert (KERNEL in {event.name for event in profile.events()}) != by_library
    return found


# Less than a vector and a group of rows, parts of both, several strips of columns, more examples than a strip is for.
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (3, 70, 5), (1, 2100, 9), (16, 300, 6), (700, 37, 3), (2, 5, 0), (2, 0, 5)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_gives_the_gradient_of_the_products(sizes, dtype):
    leaves, arriving = layer(*sizes, dtype)
    pairs = zip(gradients(leaves, arriving, False), gradients(leaves, arriving, True), strict=True)
    for ours, theirs in pairs:
        tolerance = 200 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * max(sizes[0], sizes[2]))


def test_a_gradient_that_no_cache_holds_is_the_same():
    leaves, arriving = layer(1, 16384, 400, torch.float32)
    for ours, theirs in zip(gradients(leaves, arriving, False), gradients(leaves, arriving, True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)


def test_many_examples_are_left_to_the_products():
    leaves, arriving = layer(200, 300, 100, torch.float32)
    with torch.profiler.profile() as profile:
        torch.autograd.grad(ops.interval_linear(*leaves), leaves, arriving)
    assert KERNEL not in {event.name for event in profile.events()}


def test_another_dtype_is_refused():
    numbers = torch.ones(1, 3)
    with pytest.raises(RuntimeError, match="weight: expected Float like the other arguments, got Double"):
        torch.ops.lbp.interval_linear_small_batch_gradient(
            numbers[:, :2], numbers[:, :2], numbers, numbers, torch.ones(2, 3).double()
        )
