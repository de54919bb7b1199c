"""Results too large for any cache are written past them: number for number those of each image by itself."""

import math

import pytest
import torch
from ops.cases import as_tuple, normal

from lbp import ops

IMAGES, NEURONS = 3, 650_001  # an odd number of neurons: rows begin anywhere
LARGE = 24 << 20  # bytes, csrc/cpu/kernels/stream.h


def inputs(*rows):
    """[IMAGES, *rows, NEURONS], of which 509 numbers are drawn."""
    shape = torch.Size((IMAGES, *rows, NEURONS))
    drawn = normal(509, seed=len(rows)).float()
    return drawn.repeat(-(-shape.numel() // len(drawn)))[: shape.numel()].reshape(shape)


def box():
    l = inputs()
    return l, l + inputs().flip(-1).abs()


def bending():
    return 0.3 + inputs()[0].abs()


def relax_backward(images):
    r, bias, A = bending(), inputs()[0], inputs(5)
    return lambda l, u: ops.relax_backward(A[images][None], l, u, sides="lower", r=r, eta=0.1, bias=bias)


def relax_forward(images):
    r, center, radius, rest = bending(), inputs(3)[images], inputs(3).abs()[images], inputs()[images]
    return lambda l, u: ops.relax_forward(center, radius, rest, rest.abs(), l, u, r=r, eta=0.1)


def relax_forward_around_points(images):
    center, rest = inputs(3)[images], inputs()[images]
    return lambda l, u: ops.relax_forward(center, None, rest, None, l, u)


def bounding_lines(images):
    return lambda l, u: ops.bounding_lines(l, u, r=bending(), eta=0.1)


def bounding_lines_of_relu(images):
    return lambda l, u: ops.bounding_lines(l, u)


def ramp(images):
    return lambda l, u: ops.ramp(torch.cat([l] * 5, 1), r=bending().repeat(5), eta=0.1)


def ramp_interval(images):
    return lambda l, u: ops.ramp_interval(torch.cat([l] * 3, 1), torch.cat([u] * 3, 1), r=bending().repeat(3), eta=0.1)


CALLS = [
    relax_backward,
    relax_forward,
    relax_forward_around_points,
    bounding_lines,
    bounding_lines_of_relu,
    ramp,
    ramp_interval,
]


def per_image(values):
    """The images of a result in which they are the first dimension, or, behind the sides, the second."""
    return values if values.shape[0] == IMAGES else values[0]


@pytest.mark.parametrize("call", CALLS)
def test_images_together_have_the_results_of_each(call):
    l, u = box()
    together = as_tuple(call(slice(None))(l, u))
    assert sum(result.numel() * result.element_size() for result in together) >= LARGE
    for image in range(IMAGES):
        one = slice(image, image + 1)
        for whole, alone in zip(together, as_tuple(call(one)(l[one], u[one])), strict=True):
            found, expected = per_image(whole)[image], alone.reshape(per_image(whole)[image].shape)
            if whole.dtype == torch.float64 and call is relax_backward:
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)  # sums, in another order
            else:
                assert torch.equal(found, expected)


def gradients_of_relax_backward(images):
    A, l, u = (values[images].clone().requires_grad_() for values in (inputs(5), *box()))
    keywords = {"sides": "upper", "r": bending(), "eta": 0.1, "bias": inputs()[0]}
    relaxed, constants = ops.relax_backward(A[None], l, u, **keywords)
    weights = inputs(5).flip(-1)[images][None], torch.ones_like(constants)
    return torch.autograd.grad((relaxed, constants), (A, l, u), weights)


def gradients_over_a_box(images):
    A, (x_L, x_U) = inputs(5)[images].clone().requires_grad_(), box()
    bounds = ops.concretize_box(A[None], x_L[images], x_U[images], sides="lower")
    return torch.autograd.grad(bounds, A, torch.full_like(bounds, 0.7))


def gradients_over_a_ball(p):
    def gradients(images):
        A = inputs(5)[images].clone().requires_grad_()
        bounds = ops.concretize_ball(A[None], inputs()[images], 0.3, p, sides="upper")
        return torch.autograd.grad(bounds, A, torch.full_like(bounds, 0.7))

    return gradients


@pytest.mark.parametrize(
    "gradients",
    [gradients_of_relax_backward, gradients_over_a_box, gradients_over_a_ball(2.0), gradients_over_a_ball(math.inf)],
)
def test_gradients_of_images_together_are_those_of_each(gradients):
    together = gradients(slice(None))
    assert together[0].numel() * together[0].element_size() >= LARGE
    for image in range(IMAGES):
        for whole, alone in zip(together, gradients(slice(image, image + 1)), strict=True):
            assert torch.equal(whole[image], alone[0])
