"""The default batch size follows the size of the coefficients."""

import pytest
import torch
from torch import nn

from lbp.models import build
from lbp.verification.batches import default_batch_size
from lbp.verification.verify import METHODS


@pytest.mark.parametrize("method", [*METHODS, "Relaxed-CROWN-5"])
@pytest.mark.parametrize("name", ["DM-Small", "DM-Large"])
def test_at_least_one_example_and_a_bounded_number(method, name):
    assert 1 <= default_batch_size(build(name, (3, 32, 32), 10), torch.zeros(1, 3, 32, 32), method) <= 512


def test_costlier_methods_get_smaller_batches():
    model, example = build("DM-Small", (1, 28, 28), 10), torch.zeros(1, 1, 28, 28)
    sizes = [default_batch_size(model, example, method) for method in ("IBP", "LBP", "CROWN")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2]


def test_networks_without_parameters_have_a_size_too():
    assert default_batch_size(nn.Flatten(), torch.zeros(1, 2, 2), "CROWN") == 512


@pytest.mark.parametrize("method", ["IBP", "LBP", "CROWN"])
def test_a_larger_budget_gives_larger_batches(method):
    model, example = build("DM-Small", (1, 28, 28), 10), torch.zeros(1, 1, 28, 28)
    sizes = [default_batch_size(model, example, method, budget) for budget in (1, 10**7, 10**8, 10**15)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, 512)
