"""The profiler's products are counted as the formulas of their operations say."""

import pytest
import torch
from torch.nn import functional as F

from lbp.bench.products import measure_products

CPU = torch.device("cpu")


def test_a_matrix_product_counts_two_operations_per_multiply_add():
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    products = measure_products(lambda: left @ right, CPU)
    assert products.operations == 2 * 3 * 5 * 7
    assert products.seconds > 0


def test_a_linear_layer_counts_its_product_and_not_its_bias():
    assert measure_products(lambda: F.linear(torch.ones(4, 6), torch.ones(2, 6), torch.ones(2)), CPU).operations == 96


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 2), (1, 2, 2, 4)])
def test_a_convolution_counts_every_output_times_its_kernel(stride, padding, dilation, groups):
    data, weight = torch.ones(2, 4, 9, 9), torch.ones(8, 4 // groups, 3, 3)
    output = F.conv2d(data, weight, None, stride, padding, dilation, groups)
    products = measure_products(lambda: F.conv2d(data, weight, None, stride, padding, dilation, groups), CPU)
    assert products.operations == 2 * output.numel() * weight[0].numel()


def test_a_transposed_convolution_counts_every_input_times_its_kernel():
    data, weight = torch.ones(2, 8, 5, 5), torch.ones(8, 4, 3, 3)
    products = measure_products(lambda: F.conv_transpose2d(data, weight, None, 2, 1), CPU)
    assert products.operations == 2 * data.numel() * weight[0].numel()


def test_gradients_of_a_convolution_count_once_for_data_and_once_for_weights():
    data, weight = torch.ones(2, 4, 9, 9, requires_grad=True), torch.ones(8, 4, 3, 3, requires_grad=True)
    output = F.conv2d(data, weight)
    both = measure_products(lambda: torch.autograd.grad(output.sum(), (data, weight), retain_graph=True), CPU)
    one = measure_products(lambda: torch.autograd.grad(output.sum(), weight, retain_graph=True), CPU)
    assert both.operations == 2 * one.operations == 2 * 2 * output.numel() * weight[0].numel()
