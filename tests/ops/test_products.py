"""Matrix products by either library of the CPU are sums of products of the operands."""

import pytest
import torch
from torch.func import vmap
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lbp.ops import _product
from lbp.ops._product import batched_linear, linear, matmul
from lbp.precision import full_precision

SIZES = (128, 160, 144)
"""Rows, terms and columns of a product that is large enough for oneDNN."""


class Watching(TorchDispatchMode):
    """Keeps the names of the operations that run inside."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))

    @property
    def one_dnn(self):
        return "mkldnn::_linear_pointwise" in self.names


@pytest.fixture
def operands():
    if _product._one_dnn is None:
        pytest.skip("PyTorch without oneDNN, or another processor than x86-64")
    n, k, m = SIZES
    return torch.randn(n, k), torch.randn(m, k), torch.randn(m)


def by_one_dnn(call):
    with Watching() as watching, full_precision():
        call()
    return watching.one_dnn


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_large_products_are_those_of_exact_arithmetic(operands, transposed, batch, has_bias):
    x, weight, bias = operands
    x, bias = x.expand(*batch, *x.shape), bias if has_bias else None
    weight = weight.mT.contiguous().mT if transposed else weight
    assert by_one_dnn(lambda: linear(x, weight, bias))
    exact = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    magnitudes = functional.linear(
        x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs()
    )
    terms = x.shape[-1] + 1
    assert ((linear(x, weight, bias) - exact).abs() <= terms * 2**-24 / (1 - terms * 2**-24) * magnitudes).all()
    assert torch.equal(matmul(x, weight.mT), linear(x, weight))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("matrices", [1, 3])
@pytest.mark.parametrize("sides", ["own", "shared"])
def test_large_products_with_a_matrix_of_every_image_are_those_of_exact_arithmetic(
    operands, transposed, matrices, sides
):
    rows, weight, _ = operands
    x = torch.stack([rows, 2 * rows.flip(0), rows.flip(1)])
    x = torch.stack([x, -x.flip(2)]) if sides == "own" else x.expand(2, *x.shape)
    weights = torch.stack([weight, weight.flip(0), weight.exp()])[:matrices]
    weights = weights.mT.contiguous().mT if transposed else weights
    assert by_one_dnn(lambda: batched_linear(x, weights))
    exact, magnitudes = x.double() @ weights.double().mT, x.double().abs() @ weights.double().abs().mT
    terms = x.shape[-1]
    assert ((batched_linear(x, weights) - exact).abs() <= terms * 2**-24 / (1 - terms * 2**-24) * magnitudes).all()


def test_small_products_with_a_matrix_of_every_image_are_one_call_of_pytorch(operands):
    rows, weight, _ = operands
    for images in (0, 1, 64):
        x, weights = rows[:2].expand(1, images, -1, -1), weight.expand(images, -1, -1)
        assert not by_one_dnn(lambda x=x, weights=weights: batched_linear(x, weights))
        torch.testing.assert_close(batched_linear(x, weights), x @ weights.mT)


def test_reduced_precision_of_one_dnn_reaches_no_product_in_full_precision(operands):
    x, weight, _ = operands
    with full_precision():
        expected = linear(x, weight)
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with full_precision():
            assert torch.equal(linear(x, weight), expected)
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_what_one_dnn_does_not_take_goes_to_pytorch(operands):
    x, weight, bias = operands
    assert not by_one_dnn(lambda: linear(x[:2], weight, bias))
    assert not by_one_dnn(lambda: linear(x.double(), weight.double()))
    for rows, terms in ((1, 2048), (2048, 1)):
        assert not by_one_dnn(lambda rows=rows, terms=terms: linear(x.new_ones(rows, terms), x.new_ones(1024, terms)))
    assert not by_one_dnn(lambda: linear(x, weight[:, :1].expand_as(weight)))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not by_one_dnn(lambda: linear(x, weight))
    mapped = vmap(lambda row: linear(row, weight))(x.unflatten(0, (2, -1)))
    torch.testing.assert_close(mapped.flatten(0, 1), functional.linear(x, weight))


def test_gradients_pass_through_products(operands):
    x, weight, bias = (value.requires_grad_() for value in operands)
    arriving = torch.randn(SIZES[0], SIZES[2])
    own, plain = (
        torch.autograd.grad(product(x, weight, bias), (x, weight, bias), arriving)
        for product in (linear, functional.linear)
    )
    for mine, expected in zip(own, plain, strict=True):
        assert torch.equal(mine, expected)


def test_gradients_pass_through_products_with_a_matrix_of_every_image(operands):
    x, weight = (value.expand(2, *value.shape).clone().requires_grad_() for value in operands[:2])
    arriving = torch.randn(1, 2, SIZES[0], SIZES[2])
    found = torch.autograd.grad(batched_linear(x[None], weight), (x, weight), arriving)
    expected = torch.autograd.grad(x[None] @ weight.mT, (x, weight), arriving)
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)
