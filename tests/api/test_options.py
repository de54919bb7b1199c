"""bound_opts: valid names and values, and what a misspelling says."""

import pytest
import torch
from methods.networks import STRATEGIES, bounded, inputs, network, region
from torch import nn

from lbp.bounded import BoundedModule
from lbp.errors import InvalidInputError
from lbp.methods.options import OPEN_ROWS

HARMLESS = {
    "conv_mode": "matrix",
    "crown_batch_size": float("inf"),
    "optimize_bound_args": {"iteration": 20, "lr_alpha": 0.5, "enable_beta_crown": False, "fix_interm_bounds": True},
    "loss_fusion": False,
    "verbosity": 1,
    "deterministic": True,
}


@pytest.mark.parametrize("key", HARMLESS)
def test_harmless_options_of_scripts_change_nothing(key):
    model, shape = network("cnn")
    x = region(inputs(shape))
    options = {"sparse_intermediate_bounds": False, key: HARMLESS[key]}
    net = BoundedModule(model, inputs(shape), bound_opts=options)
    tolerance = 1e-12 if key == "conv_mode" else 0.0  # whole rows add up in another order
    expected = bounded(model, shape).compute_bounds(x)
    torch.testing.assert_close(net.compute_bounds(x), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("key", OPEN_ROWS)
def test_each_switch_of_open_rows_gives_the_textbooks_bounds(key):
    model, shape = network("cnn")
    x = region(inputs(shape), 0.02)
    net = BoundedModule(model, inputs(shape), bound_opts={key: False})
    net.compute_bounds(x, method="CROWN")
    for node in net.get_layers_requiring_bounds():
        assert node.lower is not None
        alone = bounded(model, shape).compute_bounds(x, method="CROWN", final_node_name=node.name)
        for bound, expected in zip((node.lower, node.upper), alone, strict=True):
            torch.testing.assert_close(bound, expected, rtol=1e-12, atol=1e-12)
    everything = BoundedModule(model, inputs(shape))
    everything.compute_bounds(x, method="CROWN")
    pairs = zip(net.get_layers_requiring_bounds(), everything.get_layers_requiring_bounds(), strict=True)
    assert any(not torch.equal(node.lower, other.lower) for node, other in pairs)


def test_windows_change_bounds_beyond_rounding_only_where_hidden_neurons_are_left_out():
    model, shape = network("cnn")
    x = region(inputs(shape), 0.02)
    apart = {}
    for sparse in (True, False):
        found = []
        for mode in ("patches", "matrix"):
            options = {"conv_mode": mode, "sparse_intermediate_bounds": sparse}
            net = BoundedModule(model, inputs(shape), bound_opts=options)
            net.compute_bounds(x, method="CROWN")
            found.append(torch.cat([node.lower.flatten() for node in net.get_layers_requiring_bounds()]))
        apart[sparse] = float((found[0] - found[1]).detach().abs().max())
    assert apart[False] < 1e-12
    assert apart[True] > 1e-3


def test_every_strategy_can_be_set_and_all_differ():
    model, shape = network("cnn", "leaky_param_ramp")
    net, x = bounded(model, shape), region(inputs(shape), 0.2)
    default = net.compute_bounds(x, method="CROWN")[0]
    seen = {}
    for strategy in (*STRATEGIES, None):
        net.set_bound_opts({"activation_bound_option": strategy})
        seen[strategy] = net.compute_bounds(x, method="CROWN")[0]
    assert torch.equal(seen["adaptive"], default)
    assert torch.equal(seen.pop(None), default)
    assert len({tuple(lower.flatten().tolist()) for lower in seen.values()}) >= len(STRATEGIES) - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_bound_options": "tight"}, r"Did you mean 'activation_bound_option'\? Valid options: activation"),
        (
            {"activation_bound_option": "tigth"},
            "same-slope, zero-lb, one-lb, or None for adaptive, got 'tigth'",
        ),
        ({"conv_mode": "patch"}, r"conv_mode must be 'patches' or 'matrix' \(.*, unless sparse_intermediate_bounds is"),
        ({"crown_batch_size": 0}, "crown_batch_size must be a number of rows >= 1"),
        ({"crown_batch_size": "all"}, "crown_batch_size"),
        ({"sparse_intermediate_bounds": "no"}, "True or False, got 'no'"),
        ({"optimize_bound_args": 3}, "a dictionary"),
        ({"optimize_bound_args": {"iterationn": 3}}, r"'iterationn'\. Did you mean 'iteration'\? .*fix_interm_bounds"),
        ({"optimize_bound_args": {3: 3}}, "optimize_bound_args: unknown option 3"),
        ({"relu": "adaptive"}, "unknown option 'relu'"),
        (["a"], r"bound_opts must be a dictionary .* got \['a'\] \(list\)"),
    ],
)
def test_misspelt_names_and_values_are_errors(options, message):
    with pytest.raises(InvalidInputError, match=message):
        BoundedModule(nn.ReLU(), torch.zeros(1, 2), bound_opts=options)
    net = BoundedModule(nn.ReLU(), torch.zeros(1, 2))
    with pytest.raises(InvalidInputError, match=message):
        net.set_bound_opts(options)
