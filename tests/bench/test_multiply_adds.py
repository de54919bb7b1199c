"""Multiply-adds of methods, as counted by hand on a network of two layers."""

import pytest
import torch
from torch import nn

import lbp
from lbp.bench.multiply_adds import multiply_adds

# A convolution of 3 x 3 on 4 x 4 with padding: of 48 x 48 taps per axis and position, 10 of 12 lie on the image.
ON_IMAGE = 2 * 10 * 10
LINEAR = 3 * 32


@pytest.fixture(scope="module")
def network():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    return lbp.BoundedModule(model, torch.zeros(1, 1, 4, 4))._network()


def count(network, method, **options):
    return multiply_adds(network, method, **{"windows": False, **options})


def test_intervals_multiply_centers_and_radii(network):
    assert count(network, "IBP") == 2 * (ON_IMAGE + LINEAR)


def test_rows_of_outputs_pass_the_convolution_twice_and_those_of_a_specification_once(network):
    through = 2 * 16 * 9  # channels, positions and kernel of the convolution
    assert count(network, "CROWN-IBP") == 2 * ON_IMAGE + 3 * 2 * through
    assert count(network, "CROWN-IBP", specification=5) == 2 * ON_IMAGE + 5 * (through + LINEAR)
    assert count(network, "CROWN") == 3 * 2 * through, "rows of the first layer are its weights"


def test_forward_bounds_multiply_the_center_alone_up_to_the_first_activation(network):
    assert count(network, "LBP") == 16 * (ON_IMAGE + 2 * LINEAR)
    assert count(network, "CROWN-LBP") == 16 * ON_IMAGE + count(network, "CROWN")


def test_windows_of_the_input_have_fewer_entries_than_the_input(network):
    assert count(network, "LBP", windows=True) < count(network, "LBP")
    assert count(network, "CROWN", windows=True) == count(network, "CROWN"), "every output sees all of the input"
