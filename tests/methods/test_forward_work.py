"""LBP keeps rows as windows or whole, whichever is less work by count, unless somebody has chosen."""

import itertools

import pytest
import torch
from methods.networks import seeded
from torch import nn

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm
from lbp.bench.networks import named
from lbp.graph import build_network
from lbp.graph.conv import Conv2dNode
from lbp.linear import Region
from lbp.methods import Problem
from lbp.methods.forward import propagate_forward
from lbp.methods.forward_work import (
    convolution_work,
    entries_on_image,
    forward_work,
    input_windows,
    windows_pay,
)


def chain():
    """Two convolutions and a Linear layer for every size of image."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
    )


def network(size):
    return build_network(chain(), torch.zeros(1, 1, size, size, dtype=torch.float64), {})


@pytest.mark.parametrize("batch", [1, 16])
def test_large_images_are_less_work_on_windows(batch):
    assert windows_pay(network(32).nodes, batch=batch)


def test_small_images_are_less_work_whole():
    assert not windows_pay(network(4).nodes, batch=1)


@pytest.mark.parametrize(
    ("name", "batch", "on_windows"),
    [("DM-Medium", 1, False), ("DM-Medium", 256, True), ("DM-Large", 1, True), ("CNN-7+BN", 1, True)],
)
def test_calls_count_for_more_on_a_gpu(name, batch, on_windows):
    """Of one image on an H100, dense matrices took 0.3 times as long on DM-Medium, and longer on the others."""
    network = named(name, "ReLU")
    nodes = build_network(network.model().eval(), torch.zeros(1, *network.image), {}).nodes
    assert windows_pay(nodes, batch=batch, device=torch.device("cuda")) == on_windows
    assert windows_pay(nodes, batch=batch, device=torch.device("cpu"))


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_windows_never_stop_paying_as_the_batch_grows(size):
    nodes = network(size).nodes
    chosen = [windows_pay(nodes, batch=batch) for batch in (1, 2, 8, 64, 1024)]
    assert chosen == sorted(chosen)


def test_work_of_dense_matrices_counts_every_product():
    nodes = build_network(nn.Linear(5, 3).double(), torch.zeros(1, 5, dtype=torch.float64), {}).nodes
    first, second = (forward_work(nodes, windows=False, batch=batch) for batch in (1, 7))
    assert first == second  # before the first activation all examples share one matrix
    assert first == forward_work(nodes, windows=True, batch=1)


def test_work_on_windows_counts_the_products_on_the_image():
    """Two convolutions of a kernel of 3 with padding 1 on 5 x 5: of windows of 3, 13 of 15 entries lie on an axis."""
    layers = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1), nn.Flatten(), nn.Linear(75, 7))
    nodes = build_network(layers.double(), torch.zeros(1, 2, 5, 5, dtype=torch.float64), {}).nodes
    convolutions = [node for node in nodes if isinstance(node, Conv2dNode)]
    windows = input_windows(nodes, windows=True)
    # An axis of the second: each of 5 positions has 3 taps, whose windows begin at `position + tap - 2`.
    along = sum(0 <= at + tap - 2 + entry < 5 for at, tap, entry in itertools.product(range(5), range(3), range(3)))
    assert convolution_work(convolutions[1], windows[convolutions[0]], torch.device("cpu")) == 2 * 3 * 4 * along**2
    assert entries_on_image(windows[convolutions[0]]) == 2 * 4 * 13**2


@pytest.mark.parametrize(("size", "by_work", "on_windows"), [(4, True, False), (4, False, True), (32, True, True)])
def test_matrices_follow_the_work_only_where_nobody_has_chosen(size, by_work, on_windows):
    graph = network(size)
    x = torch.zeros(1, 1, size, size, dtype=torch.float64)
    problem = Problem(graph, graph.output, Region(x - 0.1, x + 0.1), by_work=by_work)
    # Windows of the second layer would be as large as the smaller image: those of the first are unrolled there.
    first, second = (activation.pre_activation for activation in graph.activations)
    assert (propagate_forward(problem, [second], keep=[first])[first].windows is not None) == on_windows


@pytest.mark.parametrize("method", ["LBP", "CROWN-LBP"])
def test_bounds_do_not_depend_on_the_choice(method):
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = [
        BoundedModule(chain(), x, bound_opts=options).compute_bounds(
            x=(BoundedTensor(x, PerturbationLpNorm(eps=0.1)),), method=method
        )
        for options in ({}, {"conv_mode": "patches"}, {"conv_mode": "matrix"})
    ]
    for other in found[1:]:
        for bound, expected in zip(found[0], other, strict=True):
            assert torch.allclose(bound, expected, rtol=1e-10, atol=1e-12)


def test_work_is_counted_once_for_every_number_of_images(monkeypatch):
    graph, counted = network(4), []
    first, second = (activation.pre_activation for activation in graph.activations)
    pays = {1: False, 2: True}
    monkeypatch.setattr("lbp.methods.forward.windows_pay", lambda _, batch: counted.append(batch) or pays[batch])
    for batch in (1, 2, 1, 2):
        x = torch.zeros(batch, 1, 4, 4, dtype=torch.float64)
        problem = Problem(graph, graph.output, Region(x - 0.1, x + 0.1), by_work=True)
        assert (propagate_forward(problem, [second], keep=[first])[first].windows is not None) == pays[batch]
    assert counted == [1, 2]
