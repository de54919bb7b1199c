"""Networks of which the bounds fit into a budget, and how much they take; the tests of memory share them."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import lbp
from lbp.errors import InvalidInputError

MIB = 2**20


SMALL = 3 * MIB / 16
"""What is taken at different times and counted together does not matter below this."""


class Scaled(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(size))

    def forward(self, x):
        return x * self.scale + 0.1


class Exchanged(nn.Module):
    def forward(self, x):
        return x.permute(0, 1, 3, 2)


class Residual(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.body = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, x):
        return x + self.body(x)


def chain():
    convolutions = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)]
    layers = [layer for conv in convolutions for layer in (conv, nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 10))


def many_outputs():
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 200))


def max_pools():
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, padding=1)
    pools = nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(first, pools[0], second, nn.ReLU(), pools[1], nn.Flatten(), nn.Linear(32, 10))


NETWORKS = {
    "chain": chain,
    "many outputs": many_outputs,
    "residual vectors": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(192, 200),
        nn.ReLU(),
        Residual(nn.Linear(200, 20), nn.Linear(20, 200)),
        nn.ReLU(),
        nn.Linear(200, 5),
    ),
    "scaled vectors": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), Scaled(256), nn.ReLU(), nn.Linear(256, 5)
    ),
    "residual images": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
        *(Residual(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 5)),
    ),
    "max pools": max_pools,
    # Rows of its last hidden layer meet a wide layer, whose forward bounds are whole, on few of its positions.
    "wide above": lambda: nn.Sequential(
        *(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2), nn.ReLU()),
        *(nn.Conv2d(4, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 16, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1024, 5)),
    ),
    "hidden vector": lambda: nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1024, 300), nn.ReLU(), nn.Linear(300, 5)),
    ),
    "rows and columns exchanged": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Exchanged(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1024, 5)),
    ),
}


def network(name):
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


def bounded(model, batch, budget, method="CROWN", C=None, eps=0.01, **options):
    torch.manual_seed(1)
    x = torch.rand(batch, 3, 8, 8)
    net = lbp.BoundedModule(model, x, bound_opts={"sparse_intermediate_bounds": False, **options})
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=eps))
    with torch.no_grad():
        return lambda: net.compute_bounds(x=(region,), method=method, C=C, memory_budget=budget)


def least_named(call):
    """The least budget that the error of a call names, whose budget is too small."""
    with pytest.raises(InvalidInputError, match=r"is too small: .* at least \d+ bytes") as error:
        call()
    return int(str(error.value).split("at least ")[1].split(" ")[0])


def least_of(*arguments, **options):
    """The least budget of `bounded`."""
    return least_named(bounded(*arguments[:2], 1000, *arguments[2:], **options))


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


def assert_close(found, expected):
    for within, whole in zip(found, expected, strict=True):
        assert torch.allclose(within, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
