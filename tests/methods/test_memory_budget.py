"""A memory budget is kept, counted by the allocations themselves, and changes no verdict."""

import pytest
import torch
from methods.budgets import MIB, assert_close, bounded, least_of, many_outputs, network, peak_of
from torch import nn

import lbp
from lbp.linear import Region
from lbp.methods import Problem, problem
from lbp.methods.memory import rows_beside


@pytest.fixture(scope="module")
def model():
    return network("chain")


@pytest.mark.parametrize(("method", "batch"), [("CROWN", 1), ("CROWN", 3), ("CROWN-IBP", 16), ("CROWN-LBP", 8)])
def test_the_peak_stays_within_the_budget(model, method, batch):
    free, expected = peak_of(bounded(model, batch, "8GiB", method))
    for budget in (free / 2, free / 4):
        peak, found = peak_of(bounded(model, batch, budget, method))
        assert peak <= 1.1 * budget
        assert_close(found, expected)


@pytest.mark.parametrize("name", ["deep", "residual images"])
def test_interval_bounds_are_let_go_after_their_last_use(name):
    deep = nn.Sequential(nn.Flatten(), *(part for _ in range(8) for part in (nn.Linear(192, 192), nn.ReLU())))
    net = lbp.BoundedModule(deep if name == "deep" else network(name), torch.rand(1, 3, 8, 8))
    x = lbp.BoundedTensor(torch.rand(64, 3, 8, 8), lbp.PerturbationLpNorm(eps=0.01))
    peak, _ = peak_of(lambda: net.compute_bounds(x=(x,), method="IBP"))
    kept = {net.nodes()[0], net.nodes()[-1], *net.get_layers_requiring_bounds()}
    assert all((node.lower is not None) == (node in kept) for node in net.nodes() if not node.is_activation)
    assert any(node.is_activation and node.lower is None for node in net.nodes())
    if name == "deep":
        of_layer = 2 * 4 * 64 * 192
        assert peak <= (len(kept) + 4) * of_layer < (len(net.nodes()) - 3) * of_layer
    # Enough is left for back-substitution through the bounds of the latest call.
    with torch.no_grad():
        after = net.compute_bounds(x=None, method="backward")
        assert_close(after, net.compute_bounds(x=(x,), method="CROWN-IBP"))


def test_rows_of_the_output_count_for_the_images_of_which_a_cache_holds_them(model, monkeypatch):
    parts, part = [], Problem.part

    def counted(self, first, last):
        parts.append(last - first)
        return part(self, first, last)

    # Two sides of the rows of ten outputs over a layer of 256 neurons, for two images.
    monkeypatch.setattr(problem, "CACHED_BYTES", 2 * 2 * 10 * 256 * 4)
    free, expected = peak_of(bounded(model, 32, "8GiB", "CROWN-IBP"))
    monkeypatch.setattr(Problem, "part", counted)
    # All images together, whose rows would take more than twice as much.
    peak, found = peak_of(bounded(model, 32, 4 * free, "CROWN-IBP"))
    assert set(parts) == {2}
    assert_close(found, expected)
    # The least of these budgets for more images at a time: not yet for all.
    for budget in (free * quarters / 4 for quarters in range(5, 16)):
        parts.clear()
        peak, found = peak_of(bounded(model, 32, budget, "CROWN-IBP"))
        largest = [size for size in parts if size > 2]
        if largest:
            break
    assert len(largest) > 1
    assert max(largest) - min(largest) <= 1
    assert peak <= budget
    assert_close(found, expected)


def test_insertion_of_whole_forward_bounds_into_windows_stays_within_the_budget():
    model = network("wide above")
    least = least_of(model, 1, "Relaxed-CROWN-1")
    free, expected = peak_of(bounded(model, 1, "8GiB", "Relaxed-CROWN-1"))
    for budget in (least, 1.5 * least):
        peak, found = peak_of(bounded(model, 1, budget, "Relaxed-CROWN-1"))
        assert peak <= 1.1 * budget < free
        assert_close(found, expected)


def test_rows_of_a_specification_count_where_intervals_are_evaluated():
    torch.manual_seed(0)
    net = lbp.BoundedModule(many_outputs(), torch.rand(1, 3, 8, 8))
    x = lbp.BoundedTensor(torch.rand(8, 3, 8, 8), lbp.PerturbationLpNorm(eps=0.01))
    C = torch.eye(200).expand(8, -1, -1)
    peak, found = peak_of(lambda: net.compute_bounds(x=(x,), C=C, method="IBP", memory_budget="8MiB"))
    assert peak <= 8 * MIB
    whole, expected = peak_of(lambda: net.compute_bounds(x=(x,), C=C, method="IBP", memory_budget="8GiB"))
    assert whole > 8 * MIB
    assert_close(found, expected)


@pytest.mark.parametrize(("method", "eps"), [("IBP", 0.005), ("CROWN-IBP", 0.01), ("CROWN", 0.08)])
def test_verdicts_do_not_depend_on_the_budget(model, method, eps):
    torch.manual_seed(1)
    with torch.no_grad():
        C = lbp.margins(model(torch.rand(4, 3, 8, 8)).argmax(1), 10)
        budgets = (2 * least_of(model, 4, method, C, eps), None)
        found = [bounded(model, 4, budget, method, C, eps)()[0] > 0 for budget in budgets]
    assert torch.equal(*found)
    assert 6 <= int(found[0].sum()) <= 30


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
def test_bounds_that_were_kept_belong_to_the_same_images_when_a_budget_splits_them(model, monkeypatch, rounding):
    batches, starts = set(), Problem.starts

    def counted(self, **named):
        batches.add(self.region.batch)
        return starts(self, **named)

    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net = lbp.BoundedModule(model, x, bound_opts={"rounding": rounding})
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=torch.tensor([0.002, 0.05, 0.01, 0.03, 0.1])))
    with torch.no_grad():
        expected = net.compute_bounds(x=(region,), method="CROWN-IBP")
        net.compute_bounds(x=(region,), method="IBP")
        monkeypatch.setattr(Problem, "starts", counted)
        assert_close(net.compute_bounds(method="CROWN", memory_budget=2 * least_of(model, 5)), expected)
    assert max(batches) < 5


def test_images_take_as_many_rows_after_others_where_nobody_asked_for_a_budget(model, monkeypatch):
    """It is half of what is free, and the bounds of others are kept in the other half."""
    rows = []

    def counted(*arguments):
        rows.append(rows_beside(*arguments))
        return rows[-1]

    of_an_image = 2 * 4 * sum(node.size for node in lbp.BoundedModule(model, torch.rand(1, 3, 8, 8)).nodes())
    budget = int(1.5 * least_of(model, 1, "CROWN"))
    images = budget // of_an_image
    monkeypatch.setattr("lbp.methods.options.free_memory", lambda device: 2 * budget)
    monkeypatch.setattr(problem, "rows_beside", counted)
    with torch.no_grad():
        bounded(model, images, None)()
    of_one = rows[: len(rows) // images]
    assert max(of_one) > 1
    assert rows == of_one * images


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_rows_of_the_output_may_go_image_by_image(model, monkeypatch, method, rounding):
    images, starts = [], Problem.starts

    def counted(self, **named):
        images.append(self.region.batch)
        return starts(self, **named)

    monkeypatch.setattr(Problem, "starts", counted)
    with torch.no_grad():
        call = bounded(model, 3, "8GiB", method, rounding=rounding)
        together = call()
        monkeypatch.setattr(problem, "CACHED_BYTES", 1)
        assert_close(call(), together)
    assert images == [3, 1, 1, 1]


def test_parts_that_a_cache_holds_are_of_one_size(model, monkeypatch):
    x = torch.rand(9, 3, 8, 8)
    network = lbp.BoundedModule(model, x)._network()
    whole = Problem(network, network.output, Region(x, x))
    each = 2 * network.output.size * max(node.size for node in network.nodes) * x.itemsize
    monkeypatch.setattr(problem, "CACHED_BYTES", 4 * each)
    with torch.no_grad():
        assert [part.region.batch for part in whole.cached_parts("both")] == [3, 3, 3]
