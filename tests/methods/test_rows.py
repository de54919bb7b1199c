"""Which neurons get rows of back-substitution, and where their bounds go."""

import itertools
import math

import pytest
import torch
from methods.networks import seeded
from torch import nn

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm
from lbp.graph import build_network
from lbp.linear import Region
from lbp.methods import Problem, rows
from lbp.methods.rows import Decision, Neurons

ENDS = (-math.inf, -1.0, -0.0, 0.0, 0.25, 0.5, 2.0, math.inf, math.nan)


def is_on_one_piece(lower, upper, r):
    """Of x -> min(max(x, 0), r): whether it is one line between the bounds."""
    return upper <= 0 or lower >= r or (lower >= 0 and upper <= r)


@pytest.mark.parametrize("r", [0.0, 0.5, math.inf])
def test_bounds_settle_a_neuron_where_they_lie_on_one_piece(r):
    pairs = [(a, b) for a, b in itertools.product(ENDS, repeat=2) if not b < a]
    lower, upper = torch.tensor(pairs, dtype=torch.float64).T
    expected = [math.isnan(a) or math.isnan(b) or not is_on_one_piece(a, b, r) for a, b in pairs]
    bend = torch.full((len(pairs),), r, dtype=torch.float64)
    which = torch.arange(len(pairs))
    for decision in (Decision((r,)), Decision((bend,))):
        assert decision.open(lower, upper, which).tolist() == expected
        assert decision.open(lower[None], upper[None]).tolist() == [expected]


def test_a_neuron_is_open_where_one_of_its_activations_is_not_settled():
    lower, upper, which = torch.tensor([0.1, 0.1]), torch.tensor([0.4, 0.9]), torch.tensor([1, 0])
    for bends, expected in [((math.inf,), [0, 0]), ((math.inf, 0.5), [0, 1]), ((torch.tensor([1.0, 0.3]),), [1, 0])]:
        assert Decision(bends).open(lower, upper, which).int().tolist() == expected


def small():
    return seeded(
        lambda: (
            nn.Sequential(
                nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten()
            )
            .append(nn.Linear(80, 7))
            .append(nn.ReLU())
            .append(nn.Linear(7, 2))
        )
    )


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("name", ["2", "5"])
def test_values_of_all_neurons_are_arranged_as_their_layer_is(batch, name):
    x = torch.zeros(batch, 1, 4, 5, dtype=torch.float64)
    network = build_network(small(), x.new_zeros(1, 1, 4, 5), {})
    node = network[name]
    every = Neurons.every(Problem(network, network.output, Region(x, x)), node)
    chosen = Neurons.chosen(node, torch.ones(batch, *node.shape, dtype=torch.bool))
    assert torch.equal(every.images, chosen.images)
    assert torch.equal(every.neurons, chosen.neurons)
    values = torch.rand(2, batch, *node.shape)
    assert torch.equal(every.arranged(every.of(values)), values)
    assert torch.equal(every.put(torch.zeros_like(values), every.of(values)), values)
    parts = [part.of(values) for part in every.chunks(8)]
    assert torch.equal(torch.cat(parts, 1), every.of(values))


def hidden_bounds(x):
    net = BoundedModule(small(), x)
    net.compute_bounds(x=(BoundedTensor(x, PerturbationLpNorm(eps=0.1)),), method="CROWN")
    return [torch.stack((node.lower, node.upper)) for node in net.get_layers_requiring_bounds()]


def test_bounds_do_not_depend_on_whether_decided_neurons_have_rows(monkeypatch):
    x = torch.rand(2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masks = []
    chosen = Neurons.chosen
    monkeypatch.setattr(Neurons, "chosen", lambda node, mask: masks.append(mask) or chosen(node, mask))
    monkeypatch.setattr(rows, "HARDLY", 0.0)
    without = hidden_bounds(x)
    assert any(mask.any() and not mask.all() for mask in masks)
    masks.clear()
    monkeypatch.setattr(rows, "HARDLY", 1.0)
    for found, expected in zip(hidden_bounds(x), without, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not masks
