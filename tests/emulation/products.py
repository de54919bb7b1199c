"""The emulated products as functions of tensors, with the signatures of `lbp.ops`."""

from typing import Any, NamedTuple

import torch
from emulation.arguments import array, output, relaxation
from torch import Tensor

from lbp.ops._relaxation import Lines
from lbp.strategies import side_code


class Convolution(NamedTuple):
    """Of an image of size `input`, with the keywords of `lbp.ops.interval_conv2d`."""

    input: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def output(self) -> tuple[int, int]:
        height, width = (
            (self.input[i] + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1) // self.stride[i] + 1
            for i in range(2)
        )
        return height, width

    def numbers(self) -> list[int]:
        return [*self.stride, *self.padding, *self.dilation, *self.input, *self.output, self.groups]


class Products:
    """Launch functions of the emulated module.

    Args:
        module: the module.
        split: whether float32 products are those of tensor cores with split operands.
    """

    def __init__(self, module: Any, split: bool) -> None:
        self._module, self._split = module, split

    def interval_linear(self, l, u, weight, bias):
        return self.interval_linear_outward(l, u, weight, bias, 0.0, 0.0, None, None)

    def interval_linear_outward(self, l, u, weight, bias, relative, absolute, *margins):
        lower, upper = (output(l, l.shape[0], weight.shape[0]) for _ in range(2))
        outward = self._module.Outward(relative, absolute, *map(array, margins))
        self._module.interval_linear(*map(array, (l, u, weight, bias, lower, upper)), self._split, outward)
        return lower, upper

    def interval_conv2d(self, l, u, weight, bias, **geometry):
        convolution = Convolution((0, 0), (0, 0), **geometry)[2:]
        return self.interval_conv2d_outward(l, u, weight, bias, 0.0, 0.0, None, None, *convolution)

    def interval_conv2d_outward(self, l, u, weight, bias, relative, absolute, margin, of_example, *geometry):
        convolution = Convolution(tuple(l.shape[-2:]), tuple(weight.shape[-2:]), *geometry)
        lower, upper = (output(l, l.shape[0], weight.shape[0], *convolution.output) for _ in range(2))
        outward = self._module.Outward(relative, absolute, array(margin), array(of_example))
        arrays = list(map(array, (l, u, weight, bias)))
        self._module.interval_conv2d(*arrays, convolution.numbers(), array(lower), array(upper), self._split, outward)
        return lower, upper

    def forward_linear(self, center, radius, center_bias, radius_bias, weight, bias):
        matrices = (center, radius, center_bias, radius_bias)
        out = [None if x is None else output(x, *x.shape[:-1], weight.shape[0]) for x in matrices]
        arrays = list(map(array, matrices))
        self._module.forward_linear(arrays, array(weight), array(bias), list(map(array, out)), self._split)
        return out

    def forward_conv2d(self, center, radius, center_bias, radius_bias, weight, bias, **geometry):
        convolution = Convolution(tuple(center.shape[-2:]), tuple(weight.shape[-2:]), **geometry)
        matrices = (center, radius, center_bias, radius_bias)
        out = [None if x is None else output(x, *x.shape[:-3], weight.shape[0], *convolution.output) for x in matrices]
        arrays, layer = list(map(array, matrices)), (array(weight), array(bias), convolution.numbers())
        self._module.forward_conv2d(arrays, *layer, list(map(array, out)), self._split)
        return out

    def insert_forward(self, A, center, radius, center_bias, radius_bias, *, sides):
        coefficients = output(A, *A.shape[:3], center.shape[1])
        constants = output(A, *A.shape[:3], dtype=torch.float64)
        matrices = list(map(array, (center, radius, center_bias, radius_bias)))
        self._module.insert_forward(
            A.flatten(3).numpy(), matrices, side_code(sides), array(coefficients), array(constants), self._split
        )
        return coefficients, constants

    def relax_backward_linear(self, A, l, u, weight, bias, *, sides, **keywords):
        coefficients = output(A, *A.shape[:3], weight.shape[1])
        constants = output(A, *A.shape[:3], dtype=torch.float64)
        layer, out = (array(weight), array(bias)), (array(coefficients), array(constants))
        self._module.relax_backward_linear(
            A.numpy(), _relaxation(l, u, **keywords), *layer, side_code(sides), *out, self._split
        )
        return coefficients, constants

    def relax_backward_conv2d(self, A, l, u, weight, bias, input_size, *, sides, **keywords):
        names = ("stride", "padding", "dilation", "groups")
        geometry = {name: keywords.pop(name) for name in names if name in keywords}
        return self._transposed(A, _relaxation(l, u, **keywords), weight, bias, input_size, side_code(sides), geometry)

    def backward_conv2d(self, A, weight, bias, input_size, **geometry):
        # Without an activation both sides are the same: a batch of K B images.
        coefficients, constants = self._transposed(A.flatten(0, 1)[None], None, weight, bias, input_size, 0, geometry)
        return coefficients.reshape(*A.shape[:2], *coefficients.shape[2:]), constants.reshape(A.shape[:3])

    def _transposed(self, A, relaxation, weight, bias, input_size, sides, geometry):
        convolution = Convolution(tuple(input_size), tuple(weight.shape[-2:]), **geometry)
        coefficients = output(A, *A.shape[:3], weight.shape[1] * convolution.groups, *input_size)
        constants = output(A, *A.shape[:3], dtype=torch.float64)
        layer, out = (
            (array(weight), array(bias), convolution.numbers()),
            map(array, (coefficients, constants)),
        )
        self._module.relax_backward_conv2d(A.numpy(), relaxation, *layer, sides, *out, self._split)
        return coefficients, constants


def _relaxation(l: Tensor, u: Tensor, **lines: Any) -> dict[str, Any]:
    return relaxation(l.shape[1:].numel(), *Lines(**lines).arguments(l, u))
