"""Small networks, and properties of them."""

import torch
from torch import nn

from lbp.vnnlib import parse_vnnlib


def network(seed=0, inputs=2, outputs=2, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
        ).eval()


def stated(low, high, *formulas, outputs=2):
    """The property over the box [low, high]^2 whose counterexamples satisfy all formulas."""
    lines = [f"(declare-const X_{i} Real)(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i in range(2)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    return parse_vnnlib("\n".join([*lines, *(f"(assert {formula})" for formula in formulas)]))
