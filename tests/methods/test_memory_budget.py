"""A memory budget is kept, counted by the allocations themselves, and changes no verdict."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import lbp
from lbp.errors import InvalidInputError
from lbp.methods.memory import budget_in_bytes

MIB = 2**20


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, padding=1)]
    layers = [layer for conv in convolutions for layer in (conv, nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()


def bounded(model, batch, budget, method="CROWN", C=None, **options):
    torch.manual_seed(1)
    x = torch.rand(batch, 3, 16, 16)
    net = lbp.BoundedModule(model, x, bound_opts={"sparse_intermediate_bounds": False, **options})
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=0.01))
    with torch.no_grad():
        return lambda: net.compute_bounds(x=(region,), method=method, C=C, memory_budget=budget)


def peak_of(call):
    """The most bytes of tensors that are alive at a time among those that a call makes."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = call()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    assert events
    return peak, result


@pytest.mark.parametrize("budget", [3 * MIB, "8MiB"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_peak_of_crown_stays_within_the_budget(model, batch, budget):
    with torch.no_grad():
        free, expected = peak_of(bounded(model, batch, "8GiB"))
        peak, found = peak_of(bounded(model, batch, budget))
    assert peak <= 1.1 * budget_in_bytes(budget)
    assert free > 1.1 * budget_in_bytes(budget)
    for within, whole in zip(found, expected, strict=True):
        assert torch.allclose(within, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "Relaxed-CROWN-2", "CROWN"])
def test_the_least_budget_that_is_named_suffices(model, method):
    """For two images as well, which then go one by one."""
    with pytest.raises(InvalidInputError, match=r"is too small: .* at least \d+ bytes") as error:
        bounded(model, 1, 1000, method)()
    least = int(str(error.value).split("at least ")[1].split(" ")[0])
    with torch.no_grad():
        peak, _ = peak_of(bounded(model, 2, least, method))
    assert peak <= 1.1 * least
    with pytest.raises(InvalidInputError, match="too small"):
        bounded(model, 1, least - 1, method)()


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
def test_verdicts_do_not_depend_on_the_budget(model, method):
    C = lbp.margins(torch.tensor([1, 2, 3, 4]), 10)
    with torch.no_grad():
        found = [bounded(model, 4, budget, method, C)()[0] > 0 for budget in ("4MiB", None)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (12, 12),
        ("12", 12),
        ("4GiB", 2**32),
        ("1.5 MiB", 1.5 * MIB),
        ("2GB", 2 * 10**9),
        ("7b", 7),
        ("3k", 3000),
        ("2 Gi", 2**31),
    ],
)
def test_amounts_of_memory(text, expected):
    assert budget_in_bytes(text) == expected


@pytest.mark.parametrize("wrong", [0, -1, "4 apples", "", "GiB", float("nan"), float("inf"), True, None, [1]])
def test_what_is_no_amount_of_memory_is_refused(wrong):
    with pytest.raises(InvalidInputError, match="memory_budget must be"):
        budget_in_bytes(wrong)


def test_the_budget_may_be_an_option(model):
    with pytest.raises(InvalidInputError, match="too small"):
        bounded(model, 1, None, memory_budget="1kB")()
    with pytest.raises(InvalidInputError, match="memory_budget must be"):
        bounded(model, 1, None, memory_budget="much")
