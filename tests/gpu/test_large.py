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
