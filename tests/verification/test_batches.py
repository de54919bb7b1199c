"""As many images at a time as the memory budget allows."""

import pytest
import torch
from torch import nn

from lbp import BoundedModule
from lbp.errors import InvalidInputError
from lbp.models import build
from lbp.verification.batches import LARGEST_BATCH, images_at_once
from lbp.verification.verify import METHODS, bound_options


def bounded(budget, model=None, shape=(1, 28, 28)):
    model = model or build("DM-Small", shape, 10)
    return BoundedModule(model, torch.zeros(1, *shape), bound_opts=bound_options("tight", budget))


@pytest.mark.parametrize("method", [*METHODS, "Relaxed-CROWN-5"])
def test_at_least_one_image_and_a_bounded_number(method):
    assert 1 <= images_at_once(bounded(None), method) <= LARGEST_BATCH


def test_costlier_methods_get_smaller_batches():
    net = bounded("200MB")
    sizes = [images_at_once(net, method) for method in ("IBP", "CROWN-IBP", "LBP")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2]


def test_networks_without_parameters_have_a_size_too():
    assert images_at_once(bounded("1GiB", nn.Flatten(), (2, 2)), "CROWN-IBP") == LARGEST_BATCH


def test_results_of_crown_come_often():
    assert images_at_once(bounded("1TB"), "CROWN") < LARGEST_BATCH


@pytest.mark.parametrize("method", ["IBP", "LBP", "CROWN-LBP"])
def test_a_larger_budget_gives_larger_batches(method):
    sizes = [images_at_once(bounded(budget), method) for budget in (10**8, 10**9, 10**12)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == LARGEST_BATCH


def test_the_choice_of_the_caller_goes_first():
    assert images_at_once(bounded("1GiB"), "IBP", 7) == 7


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_too_small_for_one_image_names_the_method_and_the_least(method):
    with pytest.raises(InvalidInputError, match=rf"memory_budget=1000 bytes is too small: {method} takes at least \d+"):
        images_at_once(bounded(1000), method)


def test_processes_on_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr("lbp.methods.options.free_memory", lambda device: 10**9)
    alone = bounded(None).images_within("LBP")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert bounded(None).images_within("LBP") in (alone // 2, alone // 2 - 1)
