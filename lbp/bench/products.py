"""The matrix products and convolutions of a call, and how long they take alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from lbp.bench.timing import Call, seconds_of
from lbp.ops._calls import composite
from lbp.ops._convolution import rows_beyond
from lbp.ops._product import matmul
from lbp.precision import full_precision

_MATRIX_PRODUCTS = {
    "aten::mm": (0, 1),
    "aten::addmm": (1, 2),
    "aten::addmm_": (1, 2),
    "aten::bmm": (0, 1),
    "aten::baddbmm": (1, 2),
}
_FORWARD, _BACKWARD = "aten::convolution", "aten::convolution_backward"
_MADE_OF_PRODUCTS = ("aten::conv2d", "aten::conv_transpose2d", "aten::linear", "aten::matmul")
"""What PyTorch takes apart into the above, but not before this list sees it where autograd is out of the way."""

_ONE_DNN = "mkldnn::_linear_pointwise"
_SMALL_BATCH, _DIRECT = "lbp::interval_linear_small_batch", "lbp::interval_conv2d_direct"
_TRANSPOSED, _CONVOLVED = "lbp::backward_conv2d_direct", "lbp::backward_conv2d_direct_gradient"
_SMALL_BATCH_GRADIENT = "lbp::interval_linear_small_batch_gradient"
_INPUT_GRADIENT, _WEIGHT_GRADIENT = "lbp::interval_conv2d_input_gradient", "lbp::conv2d_weight_gradient"


@dataclass(frozen=True)
class _Layout:
    """A tensor without its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> _Layout:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def filled(self) -> Tensor:
        """Returns a tensor of ones of that layout."""
        numbers = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return torch.ones(numbers, dtype=self.dtype, device=self.device).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Product:
    """One product of a call.

    Attributes:
        operation: of PyTorch, which computes it.
        arguments: with layouts in place of tensors.
        named: arguments by name, likewise.
        operations: that it does; a multiply-add counts as two.
    """

    operation: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    operations: int


def products_of(call: Call) -> list[Product]:
    """Runs a call on the CPU and returns its products: the library's, and those that kernels of lbp compute instead."""
    found: list[Product] = []
    with _Listing(found):
        call()
    return found


def seconds_alone(products: Sequence[Product]) -> float:
    """Computes products one after the other, on ones, and returns the seconds that they took together."""
    total = 0.0
    with full_precision(), torch.no_grad():
        for product in products:
            arguments = tree_map_only(_Layout, _Layout.filled, product.arguments)
            named = tree_map_only(_Layout, _Layout.filled, dict(product.named))
            device = next(value.device for value in arguments if isinstance(value, Tensor))
            total += seconds_of(partial(product.operation, *arguments, **named), device)
    return total


class _Listing(TorchDispatchMode):
    """Lists the products of what runs under it, also of ops of this package that are made of library calls."""

    def __init__(self, found: list[Product]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name, named = func._schema.name, dict(kwargs or {})  # type: ignore[attr-defined]
        if name in _MADE_OF_PRODUCTS:
            with self:
                return func.decompose(*args, **named)  # type: ignore[attr-defined]
        first = next((value for value in args if isinstance(value, Tensor)), None)
        parts = None if first is None else composite(name.removeprefix("lbp::"), first.device)
        if name.startswith("lbp::") and parts is not None:
            with self:
                return parts(*args, **named)
        if name == _SMALL_BATCH:
            self.found += _pair_of_products(*args)
        elif name == _SMALL_BATCH_GRADIENT:
            self.found += _products_of_gradient(*args)
        elif name == _DIRECT:
            self.found += _pair_of_convolutions(*args)
        elif name == _TRANSPOSED:
            self.found.append(_transposed(*args))
        elif name == _CONVOLVED:
            coefficients, _, weight, _, *convolution = args
            self.found.append(_convolved(coefficients.flatten(0, 2), weight, convolution))
        elif name == _INPUT_GRADIENT:
            first, _, weight, input_size, _, *convolution = args
            self.found += [_transposed(first[None, None], weight, None, input_size, *convolution) for _ in range(2)]
        elif name == _WEIGHT_GRADIENT:
            self.found += _products_of_weights(*args)
        elif name in _MATRIX_PRODUCTS or name in (_ONE_DNN, _FORWARD, _BACKWARD):
            layouts, by_name = tree_map_only(Tensor, _Layout.of, (args, named))
            self.found.append(Product(func, layouts, by_name, _operations(name, args)))
        return func(*args, **named)


def _pair_of_products(center: Tensor, radius: Tensor, weight: Tensor, *rest: Tensor | None) -> list[Product]:
    """Returns the two products, by the faster library, that a kernel computes in one pass over the weights."""
    count = 2 * center.numel() * weight.shape[0]
    arguments = tree_map_only(Tensor, _Layout.of, (center, weight.mT))
    return [Product(matmul, arguments, {}, count) for _ in range(2)]


def _products_of_gradient(lower: Tensor, upper: Tensor, l: Tensor, u: Tensor, weight: Tensor) -> list[Product]:
    """Returns the four products of gradients that a kernel computes in one pass over the weights."""
    count = 2 * lower.numel() * weight.shape[1]
    pairs = tree_map_only(Tensor, _Layout.of, [(lower, weight), (lower.mT, l)])
    return [Product(matmul, pair, {}, count) for pair in pairs for _ in range(2)]


def _products_of_weights(
    gradient: Tensor, other: Tensor | None, like: Tensor, also: Tensor | None, weight: Tensor, *rest: Any
) -> list[Product]:
    """Returns the gradients by a weight, one or two, that a kernel computes."""
    stride, padding, dilation, groups = rest[1:]
    sizes = (stride, padding, dilation, False, [0, 0], groups)
    arguments = (gradient, like, weight, None, *sizes, [False, True, False])
    layouts = tree_map_only(Tensor, _Layout.of, arguments)
    product = Product(torch.ops.aten.convolution_backward.default, layouts, {}, _operations(_BACKWARD, arguments))
    return [product] if other is None else [product] * 2


def _pair_of_convolutions(first: Tensor, second: Tensor, weight: Tensor, *rest: Any) -> list[Product]:
    """Returns the two convolutions that a kernel computes in one pass over the weights."""
    return [_convolved(first, weight, rest[-4:]) for _ in range(2)]


def _convolved(images: Tensor, weight: Tensor, convolution: Sequence[Any]) -> Product:
    """Returns the convolution that a kernel computes."""
    stride, padding, dilation, groups = convolution
    return _convolution_product((images, weight, None, stride, padding, dilation, False, [0, 0], groups))


def _transposed(A: Tensor, weight: Tensor, bias: Tensor | None, input_size: Sequence[int], *rest: Any) -> Product:
    """Returns the transposed convolution that a kernel computes."""
    stride, padding, dilation, groups = rest
    beyond = rows_beyond(input_size, A.shape[4:], weight, rest)
    return _convolution_product((A.flatten(0, 2), weight, None, stride, padding, dilation, True, beyond, groups))


def _convolution_product(arguments: tuple[Any, ...]) -> Product:
    layouts = tree_map_only(Tensor, _Layout.of, arguments)
    return Product(torch.ops.aten.convolution.default, layouts, {}, _operations(_FORWARD, arguments))


def _operations(name: str, arguments: Sequence[Any]) -> int:
    if name in _MATRIX_PRODUCTS:
        left, right = (arguments[i].shape for i in _MATRIX_PRODUCTS[name])
        return 2 * int(math.prod(left)) * int(right[-1])
    if name == _ONE_DNN:
        return 2 * int(arguments[0].numel()) * int(arguments[1].shape[0])
    if name == _FORWARD:
        return 2 * _convolution(arguments[0].shape, arguments[1].shape, arguments)
    # The gradient of a convolution: a product for each of input and weight that is wanted.
    output, data, weight = (tensor.shape for tensor in arguments[:3])
    places = data if arguments[7] else output
    return 2 * int(sum(arguments[10][:2])) * int(math.prod(places)) * int(math.prod(weight[1:]))


def _convolution(data: Sequence[int], weight: Sequence[int], arguments: Sequence[Any]) -> int:
    """Multiply-adds: of a convolution, every output times the kernel; of a transposed one, every input."""
    stride, padding, dilation, transposed = arguments[3], arguments[4], arguments[5], arguments[6]
    if transposed:
        return math.prod(data) * math.prod(weight[1:])
    sizes: list[int] = [
        (size + 2 * pad - step * (kernel - 1) - 1) // jump + 1
        for size, kernel, jump, pad, step in zip(data[2:], weight[2:], stride, padding, dilation, strict=True)
    ]
    return int(data[0]) * math.prod(weight) * math.prod(sizes)
