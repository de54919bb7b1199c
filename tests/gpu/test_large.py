"""More than 2^31 elements in one tensor: offsets are 64 bits wide."""

import fcntl
import math
import tempfile
from pathlib import Path

import pytest
import torch

from lbp import ops

N = 32_768
ROWS = 2**31 // N + 3


@pytest.fixture(autouse=True)
def alone():
    """One of these tests at a time, also of several processes, lets each count on the memory that it finds free."""
    with (Path(tempfile.gettempdir()) / "lbp-tests-of-large-tensors").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        torch.cuda.empty_cache()
        yield
        torch.cuda.empty_cache()


def need(gigabytes):
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GiB of device memory, {free / 2**30:.0f} are free")


def layer(seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    l = torch.randn(1, N, device="cuda", generator=generator) - 0.5
    return l, l + torch.rand(1, N, device="cuda", generator=generator) * 2


def rows_beyond(A):
    """The first and last rows, and those on both sides of element 2^31."""
    middle = 2**31 // N
    return [0, middle - 1, middle, middle + 1, A.shape[2] - 1]


def test_relax_backward():
    need(22)
    A = torch.randn(1, 1, ROWS, N, device="cuda")
    assert A.numel() > 2**31
    l, u = layer()
    relaxed, constants = ops.relax_backward(A, l, u, sides="lower", r=0.75, eta=0.1)
    for row in rows_beyond(A):
        part, constant = ops.relax_backward(A[:, :, row : row + 1].clone(), l, u, sides="lower", r=0.75, eta=0.1)
        assert torch.equal(relaxed[:, :, row : row + 1], part)
        assert torch.allclose(constants[:, :, row], constant[:, :, 0], rtol=1e-12, atol=1e-9)


def test_concretize():
    need(12)
    A = torch.randn(1, 1, ROWS, N, device="cuda")
    x_L, x_U = layer(1)
    bounds = ops.concretize_box(A, x_L, x_U, sides="upper")
    for row in rows_beyond(A):
        part = ops.concretize_box(A[:, :, row : row + 1].clone(), x_L, x_U, sides="upper")
        assert torch.allclose(bounds[:, :, row], part[:, :, 0], rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_concretize_over_a_ball(p):
    need(12)
    A, (x, _) = rows_of_a_layer(), layer(1)
    bounds = ops.concretize_ball(A, x, 0.5, p, sides="lower")
    for row in rows_beyond(A):
        part = ops.concretize_ball(A[:, :, row : row + 1].clone(), x, 0.5, p, sides="lower")
        assert torch.allclose(bounds[:, :, row], part[:, :, 0], rtol=1e-12, atol=1e-9)


def test_forward_bounds_over_a_box():
    need(24)
    center = torch.randn(1, ROWS, N, device="cuda")
    assert center.numel() > 2**31
    bias = torch.zeros(1, N, device="cuda")
    x = torch.randn(1, ROWS, device="cuda")
    whole = ops.concretize_forward_box(center, None, bias, None, x, x + 0.5)
    for neuron in (0, 1, N // 2, N - 1):
        part = center[:, :, neuron : neuron + 1].clone(), None, bias[:, :1], None
        for found, expected in zip(whole, ops.concretize_forward_box(*part, x, x + 0.5), strict=True):
            assert torch.allclose(found[:, neuron], expected[:, 0], rtol=1e-6, atol=1e-4)


def test_bounding_lines():
    need(60)
    l = torch.randn(ROWS, N, device="cuda")
    u = l + 0.5
    lines = ops.bounding_lines(l, u, 0.75, 0.1)
    for row in rows_beyond(l[None, None]):
        for found, expected in zip(lines, ops.bounding_lines(l[row], u[row], 0.75, 0.1), strict=True):
            assert torch.equal(found[row], expected)


def test_ramp_and_its_image_of_intervals():
    need(44)
    l = torch.randn(ROWS, N, device="cuda")
    u = l + 0.5
    image = ops.ramp(l, 0.75, 0.1)
    for row in rows_beyond(l[None, None]):
        assert torch.equal(image[row], ops.ramp(l[row], 0.75, 0.1))
    del image
    lower, upper, counts = ops.ramp_interval_with_status(l, u, 0.75, 0.1)
    assert int(counts.sum()) == l.numel()
    for row in rows_beyond(l[None, None]):
        part = ops.ramp_interval(l[row], u[row], 0.75, 0.1)
        assert torch.equal(lower[row], part[0])
        assert torch.equal(upper[row], part[1])


def test_relax_forward():
    need(40)
    l, u = layer(2)
    center = torch.randn(1, ROWS, N, device="cuda")
    bias = torch.zeros(1, N, device="cuda")
    new_center, new_radius, *_ = ops.relax_forward(center, None, bias, None, l, u, r=0.75, eta=0.1)
    for row in rows_beyond(center[None]):
        part = ops.relax_forward(center[:, row : row + 1].clone(), None, bias, None, l, u, r=0.75, eta=0.1)
        assert torch.equal(new_center[:, row], part[0][:, 0])
        assert torch.equal(new_radius[:, row], part[1][:, 0])


def rows_of_a_layer():
    """Rows [1, 1, ROWS, N] beyond 2^31 elements."""
    A = torch.randn(1, 1, ROWS, N, device="cuda")
    assert A.numel() > 2**31
    return A


def assert_rows_are(whole, rows, part_of):
    """Assert that each of the rows of a product is what the product of that row alone is, up to the order of sums.

    Terms are about 1, and in the radius of a box all of one sign, so that N roundings of sums up to N add up.
    """
    for row in rows:
        part = part_of(slice(row, row + 1))
        assert torch.allclose(whole[row], part[0], rtol=0, atol=torch.finfo(torch.float32).eps * N**1.5 / 4)


def test_products_of_rows_with_a_matrix():
    need(20)
    A, (l, u) = rows_of_a_layer(), layer(3)
    weight = torch.randn(N, 3, device="cuda")
    matrices = (torch.randn(1, 3, N, device="cuda"), None, torch.zeros(1, N, device="cuda"), None)
    for product in (
        lambda A: ops.relax_backward_linear(A, l, u, weight, None, sides="lower", r=0.75, eta=0.1)[0][0, 0],
        lambda A: ops.insert_forward(A, *matrices, sides="lower")[0][0, 0],
        lambda A: torch.ops.lbp.insert_forward_fused(A, *matrices, 1)[0][0, 0],
        lambda A: ops.forward_linear(A[0], None, matrices[2], None, weight.mT.contiguous(), None)[0][0],
    ):
        assert_rows_are(product(A), rows_beyond(A), lambda rows, product=product: product(A[:, :, rows].clone()))


def test_a_transposed_convolution_of_rows():
    need(20)
    A, (l, u) = rows_of_a_layer().view(1, 1, ROWS, 8, 64, 64), (x.view(1, 8, 64, 64) for x in layer(4))
    weight = torch.randn(8, 1, 3, 3, device="cuda")

    def product(A):
        keywords = {"sides": "lower", "padding": (1, 1), "r": 0.75, "eta": 0.1}
        return ops.relax_backward_conv2d(A, l, u, weight, None, (64, 64), **keywords)[0][0, 0]

    assert_rows_are(product(A), rows_beyond(A), lambda rows: product(A[:, :, rows].clone()))


def test_a_linear_layer_of_many_boxes():
    need(30)
    l = rows_of_a_layer()[0, 0]
    u = l + 0.5
    weight = torch.randn(3, N, device="cuda")
    for whole, bound in zip(ops.interval_linear(l, u, weight, None), (0, 1), strict=True):
        assert_rows_are(
            whole,
            rows_beyond(l[None, None]),
            lambda rows, bound=bound: ops.interval_linear(l[rows].clone(), u[rows].clone(), weight, None)[bound],
        )


CONVOLUTIONS = {
    "read": ((8, 64, 64), (8, 8, 3, 3), {"stride": (4, 4)}),
    "written": ((1, 64, 64), (8, 1, 3, 3), {"padding": (1, 1)}),
}
"""Image, weight and geometry of convolutions that read, or write, N numbers for an image."""


def images_of_a_convolution(large):
    """ROWS images, a weight, and keywords; the numbers read, or written, are more than 2^31."""
    image, weight, geometry = CONVOLUTIONS[large]
    assert ROWS * max(math.prod(image), N) > 2**31
    return torch.randn(ROWS, *image, device="cuda"), torch.randn(weight, device="cuda"), geometry


@pytest.mark.parametrize("large", CONVOLUTIONS)
def test_a_convolution_of_many_boxes(large):
    need(30)
    l, weight, geometry = images_of_a_convolution(large)
    u = l + 0.5
    for whole, bound in zip(ops.interval_conv2d(l, u, weight, None, **geometry), (0, 1), strict=True):
        assert_rows_are(
            whole,
            rows_beyond(l.flatten(1)[None, None]),
            lambda rows, bound=bound: ops.interval_conv2d(l[rows].clone(), u[rows].clone(), weight, None, **geometry)[
                bound
            ],
        )


@pytest.mark.parametrize("large", CONVOLUTIONS)
def test_forward_bounds_through_a_convolution(large):
    need(20)
    center, weight, geometry = images_of_a_convolution(large)
    bias = torch.zeros(1, *center.shape[1:], device="cuda")

    def product(center):
        return ops.forward_conv2d(center[None], None, bias, None, weight, None, **geometry)[0][0]

    assert_rows_are(
        product(center), rows_beyond(center.flatten(1)[None, None]), lambda rows: product(center[rows].clone())
    )


WINDOW, LAYER = (8, 8), (512, 16, 16)


def rows_on_windows(height, width, channels):
    """Rows [1, ROWS, height, width, channels], each a source of its own, and where their windows lie in a layer."""
    A = torch.randn(1, ROWS, height, width, channels, device="cuda")
    source = torch.arange(ROWS, device="cuda")
    return A, torch.stack([source, torch.zeros_like(source), source % 9, source // 9 % 9], 1)


def one_of(A, rows, row):
    """A row alone, and its place."""
    place = rows[row : row + 1].clone()
    place[:, 0] = 0
    return A[:, row : row + 1].clone(), place


def layer_of(channels, height, width):
    generator = torch.Generator("cuda").manual_seed(5)
    l = torch.randn(1, channels, height, width, device="cuda", generator=generator) - 0.5
    return l, l + torch.rand(1, channels, height, width, device="cuda", generator=generator) * 2


def test_rows_on_windows_through_an_activation_and_over_a_box():
    need(22)
    (A, rows), (l, u) = rows_on_windows(*WINDOW, LAYER[0]), layer_of(*LAYER)
    assert A.numel() > 2**31
    relaxed, constants = ops.relax_windows(A, rows, l, u, sides="lower", r=0.75, eta=0.1)
    bounds = ops.concretize_windows_box(A, rows, l, u, sides="upper")
    for row in rows_beyond(A[None]):
        part, place = one_of(A, rows, row)
        of_row, constant = ops.relax_windows(part, place, l, u, sides="lower", r=0.75, eta=0.1)
        assert torch.equal(relaxed[:, row], of_row[:, 0])
        assert torch.allclose(constants[:, row], constant[:, 0], rtol=1e-12, atol=1e-9)
        bound = ops.concretize_windows_box(part, place, l, u, sides="upper")
        assert torch.allclose(bounds[:, row], bound[:, 0], rtol=1e-12, atol=1e-9)


# Window of the rows and its channels; kernel and channels of the layer below; window of the result.
@pytest.mark.parametrize(
    ("window", "channels", "kernel", "below", "result"),
    [(WINDOW, 512, 3, 8, (10, 10)), ((2, 2), 8, 7, 512, WINDOW)],
    ids=["read", "written"],
)
def test_a_transposed_convolution_of_rows_on_windows(window, channels, kernel, below, result):
    need(14)
    (A, rows), (l, u) = rows_on_windows(*window, channels), layer_of(channels, 16, 16)
    weight = torch.randn(channels, below, kernel, kernel, device="cuda")

    def product(A, rows):
        corners = rows[:, 2:].contiguous()  # without padding the window of the result begins where that of A does
        found, _ = ops.relax_backward_conv2d_windows(
            A, rows, l, u, weight, None, corners, result, sides="lower", r=0.75, eta=0.1
        )
        return found[0]

    whole = product(A, rows)
    assert max(A.numel(), whole.numel()) > 2**31
    assert_rows_are(whole, rows_beyond(A[None]), lambda part: product(*one_of(A, rows, part.start)))


def test_forward_bounds_on_windows_over_a_box():
    need(12)
    channels, height, width = 128, 16, 16
    assert channels * height * width == N
    side = math.isqrt(ROWS // 3) + 1
    center = torch.randn(1, 3, side, side, channels, height, width, device="cuda")
    assert center.numel() > 2**31
    bias = torch.zeros(1, channels, height, width, device="cuda")
    x_L = torch.randn(1, 3, side + height - 1, side + width - 1, device="cuda")

    def bounds(center, bias):
        return ops.concretize_forward_windows_box(center, None, bias, None, x_L, x_L + 0.5, scale=(1, 1), offset=(0, 0))

    whole = bounds(center, bias)
    for channel in (0, channels - 1):
        part = slice(channel, channel + 1)
        for found, expected in zip(whole, bounds(center[:, :, :, :, part].clone(), bias[:, part]), strict=True):
            assert torch.allclose(found[:, part], expected, rtol=1e-6, atol=1e-4)


def test_rows_times_windows():
    need(40)
    channels, height, width = 128, 16, 16
    side = math.isqrt(ROWS // 3) + 1
    center = torch.randn(1, 3, side, side, channels, height, width, device="cuda")
    assert center.numel() > 2**31
    weight = torch.randn(2, channels, height, width, device="cuda")
    places = {"image": (3, side + height - 1, side + width - 1), "scale": (1, 1), "offset": (0, 0)}

    def product(center, weight):
        bias = torch.zeros(1, *center.shape[4:], device="cuda")
        return ops.forward_linear_windows(center, None, bias, None, weight.flatten(1), None, **places)[0]

    halves = [slice(0, channels // 2), slice(channels // 2, channels)]
    parts = [product(center[:, :, :, :, half].clone(), weight[:, half].contiguous()) for half in halves]
    tolerance = torch.finfo(torch.float32).eps * N**1.5 / 4
    assert torch.allclose(product(center, weight), parts[0] + parts[1], rtol=0, atol=tolerance)


def test_the_gradient_of_relax_backward():
    need(46)
    A, (l, u) = rows_of_a_layer().requires_grad_(), layer()
    relaxed, _ = ops.relax_backward(A, l, u, sides="lower", r=0.75, eta=0.1)
    (gradient,) = torch.autograd.grad(relaxed, A, A.detach())
    for row in rows_beyond(A):
        part = A.detach()[:, :, row : row + 1].clone().requires_grad_()
        of_row, _ = ops.relax_backward(part, l, u, sides="lower", r=0.75, eta=0.1)
        assert torch.equal(gradient[:, :, row : row + 1], torch.autograd.grad(of_row, part, part.detach())[0])


def test_the_gradient_of_a_box():
    need(24)
    A, (x, x_U) = rows_of_a_layer().requires_grad_(), layer(1)
    bounds = ops.concretize_box(A, x, x_U, sides="lower")
    (gradient,) = torch.autograd.grad(bounds, A, torch.ones_like(bounds))
    for row in rows_beyond(A):
        ends = torch.where(A.detach()[0, 0, row] >= 0, x[0], x_U[0])
        assert torch.equal(gradient[0, 0, row], ends)


def test_the_gradient_of_relax_forward():
    need(46)
    l, u = layer(2)
    center = torch.randn(1, ROWS, N, device="cuda").requires_grad_()
    bias = torch.zeros(1, N, device="cuda")
    new_center, *_ = ops.relax_forward(center, None, bias, None, l, u, r=0.75, eta=0.1)
    (gradient,) = torch.autograd.grad(new_center, center, center.detach())
    for row in rows_beyond(center[None]):
        part = center.detach()[:, row : row + 1].clone().requires_grad_()
        of_row, *_ = ops.relax_forward(part, None, bias, None, l, u, r=0.75, eta=0.1)
        assert torch.equal(gradient[:, row], torch.autograd.grad(of_row, part, part.detach())[0][:, 0])


def test_the_gradient_of_an_interval():
    need(56)
    l = torch.randn(ROWS, N, device="cuda").requires_grad_()
    u = (l.detach() + 0.5).requires_grad_()
    lower, upper = ops.ramp_interval(l, u, 0.75, 0.1)
    gradients = torch.autograd.grad((lower, upper), (l, u), (l.detach(), u.detach()))
    del lower, upper
    for row in rows_beyond(l[None, None]):
        ends = [x.detach()[row].clone().requires_grad_() for x in (l, u)]
        of_row = torch.autograd.grad(ops.ramp_interval(*ends, 0.75, 0.1), ends, [x.detach() for x in ends])
        for found, expected in zip(gradients, of_row, strict=True):
            assert torch.equal(found[row], expected)
