"""A convolution written as a matrix: the start of back-substitution from its neurons."""

import pytest
import torch
from torch.nn import functional

from lbp.graph.conv import Geometry, convolution_rows
from lbp.linear import IdentityCoefficients


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (2, 1), (4, 4)])
@pytest.mark.parametrize("dilation", [(1, 1), (1, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_rows_times_image_is_the_convolution(stride, padding, dilation, groups):
    geometry = Geometry(stride, padding, dilation, groups)
    weight = torch.randn(4, 4 // groups, 3, 2, dtype=torch.float64)
    image = torch.randn(1, 4, 7, 6, dtype=torch.float64)
    expected = functional.conv2d(image, weight, **geometry.keywords())[0]
    start, stop = 3, expected.numel() - 2
    identity = IdentityCoefficients(tuple(expected.shape), start, stop, image.dtype, image.device)
    rows = convolution_rows(weight, (4, 7, 6), tuple(expected.shape), geometry, identity)
    assert rows.shape == (1, 1, stop - start, 4, 7, 6)
    torch.testing.assert_close(rows.flatten(3)[0, 0] @ image.flatten(), expected.flatten()[start:stop])


def test_rows_are_differentiable_in_the_kernel():
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    identity = IdentityCoefficients((2, 4, 4), 0, 32, torch.float64, weight.device)
    torch.autograd.gradcheck(
        lambda w: convolution_rows(w, (1, 4, 4), (2, 4, 4), Geometry(padding=(1, 1)), identity), (weight,)
    )
