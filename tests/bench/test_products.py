"""The profiler's products are counted as the formulas of their operations say."""

import pytest
import torch
from torch.nn import functional as F

from lbp import ops
from lbp.bench.products import products_of, seconds_alone
from lbp.ops._product import matmul


def operations(call):
    return sum(product.operations for product in products_of(call))


def test_a_matrix_product_counts_two_operations_per_multiply_add():
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    products = products_of(lambda: left @ right)
    assert [product.operations for product in products] == [2 * 3 * 5 * 7]
    assert seconds_alone(products) > 0


def test_a_linear_layer_counts_its_product_and_not_its_bias():
    assert operations(lambda: F.linear(torch.ones(4, 6), torch.ones(2, 6), torch.ones(2))) == 96


def test_a_product_by_one_dnn_counts_the_same():
    left, right = torch.ones(128, 160), torch.ones(160, 144)
    assert operations(lambda: matmul(left, right)) == 2 * 128 * 160 * 144


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 2), (1, 2, 2, 4)])
def test_a_convolution_counts_every_output_times_its_kernel(stride, padding, dilation, groups):
    data, weight = torch.ones(2, 4, 9, 9), torch.ones(8, 4 // groups, 3, 3)
    output = F.conv2d(data, weight, None, stride, padding, dilation, groups)
    counted = operations(lambda: F.conv2d(data, weight, None, stride, padding, dilation, groups))
    assert counted == 2 * output.numel() * weight[0].numel()


def test_a_transposed_convolution_counts_every_input_times_its_kernel():
    data, weight = torch.ones(2, 8, 5, 5), torch.ones(8, 4, 3, 3)
    counted = operations(lambda: F.conv_transpose2d(data, weight, None, 2, 1))
    assert counted == 2 * data.numel() * weight[0].numel()


def test_gradients_of_a_convolution_count_once_for_data_and_once_for_weights():
    data, weight = torch.ones(2, 4, 9, 9, requires_grad=True), torch.ones(8, 4, 3, 3, requires_grad=True)
    output = F.conv2d(data, weight)
    both = operations(lambda: torch.autograd.grad(output.sum(), (data, weight), retain_graph=True))
    one = operations(lambda: torch.autograd.grad(output.sum(), weight, retain_graph=True))
    assert both == 2 * one == 2 * 2 * output.numel() * weight[0].numel()


@pytest.mark.parametrize("examples", [1, 40])
def test_products_are_found_inside_of_the_ops_also_where_a_kernel_computes_them(examples):
    l, weight = torch.zeros(examples, 5), torch.ones(7, 5)
    assert operations(lambda: ops.interval_linear(l, l + 1, weight, None)) == 2 * 2 * examples * 5 * 7


@pytest.mark.parametrize("examples", [40, 40000])
def test_products_of_gradients_are_found_too(examples):
    l, weight = torch.zeros(examples, 5, requires_grad=True), torch.ones(7, 5, requires_grad=True)
    lower, _ = ops.interval_linear(l, l + 1, weight, None)
    counted = operations(lambda: torch.autograd.grad(lower.sum(), (l, weight), retain_graph=True))
    assert counted == 4 * 2 * examples * 5 * 7


def test_convolutions_are_found_inside_of_the_ops():
    A, weight = torch.ones(1, 2, 3, 4, 5, 5), torch.ones(4, 6, 3, 3)
    count = 2 * A.numel() * weight[0].numel()
    assert operations(lambda: ops.backward_conv2d(A, weight, None, (7, 7))) == count
    l = torch.zeros(2, 6, 7, 7)
    assert operations(lambda: ops.interval_conv2d(l, l + 1, weight, None)) == 2 * 2 * 2 * 4 * 25 * weight[0].numel()
