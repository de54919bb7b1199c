"""Threads trace models of their own, and run others meanwhile."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import lbp

TORCHS_OWN = (nn.Module.__call__, nn.Module.__getattr__)


class Waiting(nn.Module):
    """Waits in its forward pass, where it is traced first, until others have done what they want."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.traced, self.seen = threading.Event(), threading.Event()

    def forward(self, x):
        self.traced.set()
        assert self.seen.wait(60)
        return self.linear(x)


def network(inputs):
    return nn.Sequential(nn.Linear(inputs, 5), nn.ReLU(), nn.Linear(5, 2))


def bounds_of(model, x):
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=0.1))
    return lbp.BoundedModule(model, x).compute_bounds(x=(region,), method="CROWN")


@pytest.fixture
def hasty_threads():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_models_are_traced_in_several_threads():
    models = [network(inputs) for inputs in range(1, 25)]
    inputs = [torch.rand(2, model[0].in_features) for model in models]
    expected = list(map(bounds_of, models, inputs))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(bounds_of, models, inputs))
    assert (nn.Module.__call__, nn.Module.__getattr__) == TORCHS_OWN
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shared", [False, True], ids=["a model of its own", "the traced model's layer"])
def test_a_thread_runs_a_model_while_another_is_traced(shared):
    waiting = Waiting()
    other = waiting.linear if shared else nn.Linear(3, 2)
    x = torch.rand(2, 3)
    expected = other(x)
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(bounds_of, waiting, x)
        try:
            assert waiting.traced.wait(60)
            found, weight = other(x), other.weight
        finally:
            waiting.seen.set()
        lower, upper = future.result()
    assert torch.equal(found, expected)
    assert type(weight) is nn.Parameter
    y = waiting(x)
    assert (lower <= y).all()
    assert (y <= upper).all()


@pytest.mark.usefixtures("hasty_threads")
def test_one_module_bounds_the_inputs_of_several_threads():
    net = lbp.BoundedModule(network(4), torch.rand(1, 4))
    methods = ("IBP", "CROWN-IBP", "CROWN", "LBP", "CROWN-LBP")

    def bounds(number):
        x = torch.rand(1 + number % 3, 4, generator=torch.Generator().manual_seed(number))
        region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=0.1 * (1 + number % 4)))
        with torch.no_grad():
            return net.compute_bounds(x=(region,), method=methods[number % 5])

    expected = list(map(bounds, range(60)))
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(bounds, range(60)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
