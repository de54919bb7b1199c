"""More than 2^31 elements in one tensor: offsets are 64 bits wide."""

import pytest
import torch

from lbp import ops

N = 32_768
ROWS = 2**31 // N + 3


@pytest.fixture(autouse=True)
def memory_returns():
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
    """Assert that each of the rows of a product is what the product of that row alone is, up to the order of sums."""
    for row in rows:
        part = part_of(slice(row, row + 1))
        assert torch.allclose(whole[row], part[0], rtol=0, atol=1e-4 * N**0.5)


def test_products_of_rows_with_a_matrix():
    need(20)
    A, (l, u) = rows_of_a_layer(), layer(3)
    weight = torch.randn(N, 3, device="cuda")
    matrices = (torch.randn(1, 3, N, device="cuda"), None, torch.zeros(1, N, device="cuda"), None)
    for product in (
        lambda A: ops.relax_backward_linear(A, l, u, weight, None, sides="lower", r=0.75, eta=0.1)[0][0, 0],
        lambda A: ops.insert_forward(A, *matrices, sides="lower")[0][0, 0],
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
