"""The emulated products as functions of tensors, with the signatures of `lbp.ops`."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lbp.ops._relaxation import Lines
from lbp.strategies import side_code


def array(value: Any) -> Any:
    return None if value is None else value.detach().numpy()


def contiguous(value: Any) -> Any:
    return None if value is None else value.detach().contiguous().numpy()


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Memory that no result may be left in: NaN."""
    return torch.full(shape, torch.nan, dtype=dtype or like.dtype)


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
        lower, upper = (empty(l, l.shape[0], weight.shape[0]) for _ in range(2))
        self._module.interval_linear(*map(contiguous, (l, u, weight, bias, lower, upper)), self._split)
        return lower, upper

    def interval_conv2d(self, l, u, weight, bias, **geometry):
        convolution = Convolution(tuple(l.shape[-2:]), tuple(weight.shape[-2:]), **geometry)
        lower, upper = (empty(l, l.shape[0], weight.shape[0], *convolution.output) for _ in range(2))
        arrays = list(map(contiguous, (l, u, weight, bias)))
        self._module.interval_conv2d(*arrays, convolution.numbers(), array(lower), array(upper), self._split)
        return lower, upper

    def forward_linear(self, center, radius, center_bias, radius_bias, weight, bias):
        matrices = (center, radius, center_bias, radius_bias)
        out = [None if x is None else empty(x, *x.shape[:-1], weight.shape[0]) for x in matrices]
        arrays = list(map(contiguous, matrices))
        self._module.forward_linear(arrays, contiguous(weight), contiguous(bias), list(map(array, out)), self._split)
        return out

    def forward_conv2d(self, center, radius, center_bias, radius_bias, weight, bias, **geometry):
        convolution = Convolution(tuple(center.shape[-2:]), tuple(weight.shape[-2:]), **geometry)
        matrices = (center, radius, center_bias, radius_bias)
        out = [None if x is None else empty(x, *x.shape[:-3], weight.shape[0], *convolution.output) for x in matrices]
        arrays, layer = list(map(contiguous, matrices)), (contiguous(weight), contiguous(bias), convolution.numbers())
        self._module.forward_conv2d(arrays, *layer, list(map(array, out)), self._split)
        return out

    def insert_forward(self, A, center, radius, center_bias, radius_bias, *, sides):
        coefficients = empty(A, *A.shape[:3], center.shape[1])
        constants = empty(A, *A.shape[:3], dtype=torch.float64)
        matrices = [contiguous(None if x is None else x) for x in (center, radius, center_bias, radius_bias)]
        rows = A.flatten(3)
        self._module.insert_forward(
            array(rows), matrices, side_code(sides), array(coefficients), array(constants), self._split
        )
        return coefficients, constants

    def relax_backward_linear(self, A, l, u, weight, bias, *, sides, **keywords):
        coefficients = empty(A, *A.shape[:3], weight.shape[1])
        constants = empty(A, *A.shape[:3], dtype=torch.float64)
        relaxation = _relaxation(A.dtype, l, u, **keywords)
        layer, out = (contiguous(weight), contiguous(bias)), (array(coefficients), array(constants))
        self._module.relax_backward_linear(array(A), relaxation, *layer, side_code(sides), *out, self._split)
        return coefficients, constants

    def relax_backward_conv2d(self, A, l, u, weight, bias, input_size, *, sides, relaxation=None, **keywords):
        names = ("stride", "padding", "dilation", "groups")
        geometry = {name: keywords.pop(name) for name in names if name in keywords}
        return self._transposed(
            A, _relaxation(A.dtype, l, u, **keywords), weight, bias, input_size, side_code(sides), geometry
        )

    def backward_conv2d(self, A, weight, bias, input_size, **geometry):
        # Without an activation both sides are the same: a batch of K B images.
        coefficients, constants = self._transposed(A.flatten(0, 1)[None], None, weight, bias, input_size, 0, geometry)
        return coefficients.reshape(*A.shape[:2], *coefficients.shape[2:]), constants.reshape(A.shape[:3])

    def _transposed(self, A, relaxation, weight, bias, input_size, sides, geometry):
        convolution = Convolution(tuple(input_size), tuple(weight.shape[-2:]), **geometry)
        coefficients = empty(A, *A.shape[:3], weight.shape[1] * convolution.groups, *input_size)
        constants = empty(A, *A.shape[:3], dtype=torch.float64)
        layer, out = (
            (contiguous(weight), contiguous(bias), convolution.numbers()),
            map(array, (coefficients, constants)),
        )
        self._module.relax_backward_conv2d(array(A), relaxation, *layer, sides, *out, self._split)
        return coefficients, constants


def _relaxation(dtype: torch.dtype, l: Tensor, u: Tensor, **keywords: Any) -> tuple[Any, ...]:
    given = {name: keywords.pop(name, None) for name in _GIVEN}
    r, eta = keywords.pop("r", torch.inf), keywords.pop("eta", 0.0)
    strategy = keywords.pop("strategy", "adaptive")
    assert not keywords, keywords
    arguments = Lines(r, eta, strategy, **given).arguments(l, u)
    r_tensor = torch.tensor([arguments.r], dtype=dtype) if arguments.r_tensor is None else arguments.r_tensor
    eta_tensor = torch.tensor([arguments.eta], dtype=dtype) if arguments.eta_tensor is None else arguments.eta_tensor
    inner = 1 if r_tensor.numel() <= 1 else l.shape[1:].numel() // r_tensor.numel()
    lines = (arguments.lower_slope, arguments.lower_intercept, arguments.upper_slope, arguments.upper_intercept)
    bounds = (contiguous(arguments.l), contiguous(arguments.u))
    return *bounds, contiguous(r_tensor), inner, contiguous(eta_tensor), arguments.strategy, *map(contiguous, lines)


_GIVEN = ("lower_slope", "upper_slope", "lower_intercept", "upper_intercept")
