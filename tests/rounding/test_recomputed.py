"""float32 bounds that account for rounding, held against the same step in float64.

Given the hidden bounds that float32 found, float64 bounds of the next layer are what the step gives in exact
arithmetic, to a few units of float64's last place.
"""

import copy
import math

import pytest
import torch
from methods.networks import NETWORKS, inputs, network, samples

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm

METHODS = {"IBP": "IBP", "CROWN-IBP": "IBP", "CROWN": "CROWN", "LBP": "LBP"}
"""Methods, and what each bounds hidden layers by."""

CASES = (
    (math.inf, "tight", "patches", "param_ramp"),
    (2.0, "adaptive", "matrix", "leaky_param_ramp"),
    (1.0, "same-slope", "patches", "hardtanh"),
    (3.0, "constant", "patches", "relu6"),
)
EPS = {math.inf: 0.02, 1.0: 0.4, 2.0: 0.1, 3.0: 0.05}
SPECIFICATION = torch.tensor([[[1.0, -1.0, 0.0], [0.3, 0.2, -0.7]]])


def modules(name, activation, strategy, mode):
    """A network in float32, and the same one in float64."""
    model, shape = network(name, activation)
    model = model.float()
    options = {"activation_bound_option": strategy, "conv_mode": mode, "sparse_intermediate_bounds": False}
    example = torch.zeros(1, *shape)
    single = BoundedModule(model, example, bound_opts=options)
    return single, BoundedModule(copy.deepcopy(model).double(), example.double(), bound_opts=options), shape


def around(x, norm, clip=(0.0, 0.9)):
    return BoundedTensor(x, PerturbationLpNorm(EPS[norm], norm, clip=clip))


def inside(method, name, norm, strategy, mode, activation, rounding):
    """How many float32 bounds of hidden layers, outputs and specifications lie inside the float64 ones."""
    single, double, shape = modules(name, activation, strategy, mode)
    x = 0.8 * inputs(shape).float()
    specification = SPECIFICATION if rounding == "outward" else None
    lower, upper = single.compute_bounds(x=around(x, norm), C=specification, method=method, rounding=rounding)
    hidden = single.get_layers_requiring_bounds()
    found = {node.name: (node.lower.double(), node.upper.double()) for node in hidden}
    wrong = 0
    for place, node in enumerate((*hidden, None)):
        below = {known.name: found[known.name] for known in hidden[:place]}
        ours = (lower.double(), upper.double()) if node is None else found[node.name]
        C = specification.double() if node is None and specification is not None else None
        exact = double.compute_bounds(
            x=around(x.double(), norm),
            C=C,
            method=method if node is None else METHODS[method],
            final_node_name=None if node is None else node.name,
            interm_bounds=below,
        )
        wrong += int((ours[0] > exact[0]).sum() + (ours[1] < exact[1]).sum())
        assert not any(bound.isnan().any() for bound in ours)
    return wrong


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_step_is_rounded_outward(method, name, case):
    assert inside(method, name, *case, "outward") == 0


@pytest.mark.parametrize("method", METHODS)
def test_steps_rounded_to_nearest_are_not(method):
    assert sum(inside(method, name, *CASES[0], "nearest") for name in NETWORKS) > 0


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_outward_bounds_are_little_looser(method):
    single, _, shape = modules("residual", "relu", "tight", "patches")
    x = 0.8 * inputs(shape).float()
    nearest, outward = (
        single.compute_bounds(x=around(x, math.inf), method=method, rounding=rounding)
        for rounding in ("nearest", "outward")
    )
    width = (nearest[1] - nearest[0]).min()
    for ours, theirs in zip(outward, nearest, strict=True):
        assert (ours - theirs).abs().max() < 1e-2 * width


def test_returned_linear_bounds_hold_the_errors_in_their_constants():
    single, double, shape = modules("cnn", "relu", "adaptive", "patches")
    x = 0.8 * inputs(shape).float()
    _, _, A = single.compute_bounds(x=around(x, math.inf), method="CROWN", return_A=True, rounding="outward")
    linear = {key: value.double() for key, value in A[single.final_name][single.input_name[0]].items()}
    points = samples(x.double(), EPS[math.inf], math.inf, clip=(0.0, 0.9))
    values = double(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    at = (torch.einsum("bsi,kbi->kbs", linear[side].flatten(2), points.flatten(2)) for side in ("lA", "uA"))
    lower, upper = (part + linear[bias] for part, bias in zip(at, ("lbias", "ubias"), strict=True))
    assert (lower <= values).all()
    assert (values <= upper).all()


def test_gradients_pass_through_outward_bounds():
    single, _, shape = modules("cnn", "relu", "adaptive", "patches")
    x = 0.8 * inputs(shape).float()
    gradients = []
    for rounding in ("nearest", "outward"):
        lower, _ = single.compute_bounds(x=around(x, math.inf), method="CROWN-IBP", rounding=rounding)
        parameters = list(single.parameters())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(lower.sum(), parameters)]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
