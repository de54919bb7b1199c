"""The scratch memory of products, insertions and windows counts in a budget, also that of other devices."""

from types import SimpleNamespace

import pytest
import torch
from methods.budgets import MIB, SMALL, bounded, least_of, network, peak_of
from torch import nn

import lbp
from lbp.graph import pre_activations
from lbp.methods import byte_counts, forward_work, insertion_bytes
from lbp.ops import _window_accumulation, _window_convolution, _windows, forward_windows


@pytest.fixture
def by_library(monkeypatch):
    """Have windows multiplied and convolved as on other devices."""
    for module in (_windows, _window_accumulation, _window_convolution, forward_windows, forward_work):
        monkeypatch.setattr(module, "has_kernel", lambda device: False)


@pytest.mark.usefixtures("by_library")
@pytest.mark.parametrize("images", [1, 4])
def test_rows_of_hidden_vectors_take_no_more_where_the_library_multiplies_them_with_windows(images):
    model = network("hidden vector")
    least = least_of(model, images, "Relaxed-CROWN-1")
    for budget in (least, 1.5 * least, 2 * least, 4 * least):
        peak, _ = peak_of(bounded(model, images, budget, "Relaxed-CROWN-1"))
        assert peak <= 1.1 * budget


@pytest.mark.usefixtures("by_library")
@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("images", [1, 4])
def test_rows_take_no_more_where_the_library_multiplies_them_with_windows(rows, images):
    model = network("residual images")
    C = torch.randn(images, rows, 5, generator=torch.Generator().manual_seed(0))
    least = least_of(model, images, "LBP", C)
    for budget in (least, 2 * least):
        peak, _ = peak_of(bounded(model, images, budget, "LBP", C))
        assert peak <= 1.1 * budget


@pytest.fixture
def scratch_of_gpu(monkeypatch):
    """Have the scratch memory of Linear layers counted as on a CUDA device."""

    def as_there(count):
        def counted(weight, *arguments):
            return count(SimpleNamespace(is_cuda=True, shape=weight.shape, itemsize=weight.itemsize), *arguments)

        return counted

    for name in ("interval_linear_bytes", "relax_backward_linear_bytes"):
        monkeypatch.setattr(byte_counts, name, as_there(getattr(byte_counts, name)))


@pytest.mark.usefixtures("scratch_of_gpu")
@pytest.mark.parametrize("widths", [(784, 500, 500, 10), (784, 500, 100, 10)])
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP"])
def test_scratch_memory_of_few_images_and_rows_fits_into_a_budget_that_is_small(widths, method):
    layers = [part for i in range(3) for part in (nn.Linear(*widths[i : i + 2]), nn.ReLU())][:-1]
    net = lbp.BoundedModule(nn.Sequential(*layers), torch.rand(1, 784))
    assert net.images_within(method, memory_budget="16MiB") >= 4
    x = lbp.BoundedTensor(torch.rand(1, 784), lbp.PerturbationLpNorm(eps=0.01))
    with torch.no_grad():
        net.compute_bounds(x=(x,), method=method, memory_budget="16MiB")


def test_scratch_memory_of_a_specification_counts_where_its_rows_meet_convolutions_above_intervals(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    C = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))

    def counted(weight, groups, rows, **_):
        return rows * MIB

    alone, together = least_of(model, 1, "IBP"), least_of(model, 1, "IBP", C)
    monkeypatch.setattr(byte_counts, "relax_backward_conv2d_bytes", counted)
    assert least_of(model, 1, "IBP") == alone
    # Two sides of three rows, over the pixels of the wider layer's input.
    assert least_of(model, 1, "IBP", C) >= together + 2 * 3 * 8 * 8 * MIB - SMALL


@pytest.mark.usefixtures("by_library")
def test_images_leave_room_for_scratch_memory_of_as_many(monkeypatch):
    """Products with windows of many more images would take all of the budget at a time."""
    budget = 64 * MIB
    monkeypatch.setattr(_window_accumulation, "operand_bytes", lambda device: budget)
    model = network("residual images")
    assert lbp.BoundedModule(model, torch.rand(1, 3, 8, 8)).images_within("LBP", rows=5, memory_budget=budget) >= 4
    C = torch.randn(12, 5, 5, generator=torch.Generator().manual_seed(0))
    peak, _ = peak_of(bounded(model, 12, budget, "LBP", C))
    assert peak <= budget


def test_rows_are_fitted_into_a_budget_without_reading_parameters_for_every_number_of_them(monkeypatch):
    asked, device_of = [], insertion_bytes.device_of

    def counted(nodes):
        asked.append(nodes)
        return device_of(nodes)

    monkeypatch.setattr(insertion_bytes, "device_of", counted)
    net = lbp.BoundedModule(network("chain"), torch.rand(1, 3, 8, 8))._network()

    def scratch(stops):
        rows = range(1, 9)
        return [insertion_bytes.insertion_scratch_bytes(net, stops, n, 4, windows=True, batch=2) for n in rows]

    assert set(scratch(())) == {0}
    assert not asked
    found = scratch(tuple(pre_activations(net.nodes)))
    assert found == sorted(found)
    assert found[0] > 0
    assert len(asked) == 1
