"""Theorem 2 of Lyu et al. 2021: which method is at least as tight as which, with tight lines."""

from itertools import chain

import pytest
import torch
from methods.networks import ACTIVATIONS, CHAINS, bounded, inputs, network, region, trained

from lbp.specification import margins

STATES = ("untrained", "trained", "trained on bounds")
SLACK = 1e-10


def _network(name, activation, state):
    model, shape = network(name, activation)
    if state == "untrained":
        return model, shape
    return trained(model, shape, steps=20, bound_loss=state == "trained on bounds"), shape


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CHAINS)
def test_tight_lines_order_the_methods(name, activation, state):
    model, shape = _network(name, activation, state)
    net, x = bounded(model, shape, "tight"), region(inputs(shape, batch=3), 0.08)
    pairs = [
        ("IBP", "LBP"),
        ("IBP", "CROWN-IBP"),
        ("LBP", "CROWN-LBP"),
        ("CROWN-IBP", "CROWN-LBP"),
        ("CROWN-LBP", "CROWN"),
    ]
    for C in (None, margins(torch.tensor([0, 1, 2]), 3, dtype=torch.float64)):
        bounds = {method: net.compute_bounds(x, C=C, method=method) for method in chain(*pairs)}
        for looser, tighter in pairs:
            (loose_lower, loose_upper), (tight_lower, tight_upper) = bounds[looser], bounds[tighter]
            assert (tight_lower >= loose_lower - SLACK).all(), f"{tighter} has a lower bound below that of {looser}"
            assert (tight_upper <= loose_upper + SLACK).all(), f"{tighter} has an upper bound above that of {looser}"


@pytest.mark.parametrize("method", ["LBP", "CROWN-IBP", "CROWN-LBP", "CROWN"])
def test_tight_lines_are_no_looser_than_constant_ones(method):
    model, shape = network("cnn", "leaky_param_ramp")
    x = region(inputs(shape), 0.1)
    tight_lower, tight_upper = bounded(model, shape, "tight").compute_bounds(x, method=method)
    lower, upper = bounded(model, shape, "constant").compute_bounds(x, method=method)
    assert (tight_lower >= lower - SLACK).all()
    assert (tight_upper <= upper + SLACK).all()
    assert (tight_upper - tight_lower).mean() < (upper - lower).mean()
