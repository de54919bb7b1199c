"""Where two methods are the same method."""

from collections import Counter

import pytest
import torch
from methods.networks import ACTIVATIONS, CHAINS, NETWORKS, STRATEGIES, bounded, chain_mlp, inputs, network, region
from torch.utils._python_dispatch import TorchDispatchMode

from lbp.graph import pre_activations
from lbp.methods.work import insertion_points
from lbp.specification import margins

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def _bounds(net, x, method, with_C=True):
    C = margins(torch.tensor([0, 2]), 3, dtype=torch.float64) if with_C else None
    return torch.stack(net.compute_bounds(x, C=C, method=method))


@pytest.mark.parametrize("with_C", [False, True])
@pytest.mark.parametrize("method", ["LBP", "CROWN-IBP", "CROWN-LBP", "CROWN", "Relaxed-CROWN-1", "Relaxed-CROWN-2"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CHAINS)
def test_constant_lines_make_every_method_ibp_on_chains(name, activation, method, with_C):
    model, shape = network(name, activation)
    net, x = bounded(model, shape, "constant"), region(inputs(shape), 0.1)
    torch.testing.assert_close(_bounds(net, x, method, with_C), _bounds(net, x, "IBP", with_C), **EXACT)


@pytest.mark.parametrize("name", ["residual", "dense", "pooled"])
@pytest.mark.parametrize("method", ["LBP", "CROWN-IBP", "CROWN"])
def test_constant_lines_are_at_least_as_tight_as_ibp_elsewhere(name, method):
    model, shape = network(name)
    net, x = bounded(model, shape, "constant"), region(inputs(shape), 0.1)
    (lower, upper), (ibp_lower, ibp_upper) = _bounds(net, x, method, False), _bounds(net, x, "IBP", False)
    assert (lower >= ibp_lower - 1e-12).all()
    assert (upper <= ibp_upper + 1e-12).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CHAINS)
def test_relaxed_crown_1_is_lbp_on_chains(name, activation, strategy):
    model, shape = network(name, activation)
    net, x = bounded(model, shape, strategy), region(inputs(shape), 0.1)
    torch.testing.assert_close(_bounds(net, x, "Relaxed-CROWN-1"), _bounds(net, x, "LBP"), **EXACT)


@pytest.mark.parametrize("extra", [0, 5])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_relaxed_crown_as_deep_as_the_network_is_crown(name, strategy, extra):
    model, shape = network(name)
    net, x = bounded(model, shape, strategy), region(inputs(shape), 0.1)
    depth = len(net.activations()) + extra
    torch.testing.assert_close(_bounds(net, x, f"Relaxed-CROWN-{depth}"), _bounds(net, x, "CROWN"), **EXACT)


def test_relaxed_crown_is_between_lbp_and_crown_and_all_depths_differ():
    model = chain_mlp("relu", depth=4)
    net, x = bounded(model, (5,), "tight"), region(inputs((5,)), 0.2)
    gaps = [
        (torch.sub(*reversed(net.compute_bounds(x, method=method)))).mean().item()
        for method in ("LBP", "Relaxed-CROWN-2", "Relaxed-CROWN-3", "CROWN")
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert len({round(gap, 9) for gap in gaps}) == 4


def test_insertion_on_a_dag_counts_activations_on_the_longest_path():
    model, shape = network("dense")
    net = bounded(model, shape)
    graph = net._network()
    points = first, second, third = pre_activations(graph.nodes)
    assert [graph.rank[node] for node in (first, second, third, graph.output)] == [0, 1, 2, 3]
    assert insertion_points(graph, points, graph.output, 1) == [first, second, third]
    assert insertion_points(graph, points, graph.output, 2) == [first, second]
    assert insertion_points(graph, points, third, 2) == [first]
    assert insertion_points(graph, points, second, 2) == []


@pytest.mark.parametrize("rows", [1, 3, 7, 1000, torch.inf])
@pytest.mark.parametrize("method", ["CROWN", "Relaxed-CROWN-2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_number_of_rows_at_once_does_not_change_bounds(name, method, rows):
    model, shape = network(name, "leaky_param_ramp")
    net, x = bounded(model, shape), region(inputs(shape), 0.1)
    whole = _bounds(net, x, method, False)
    net.set_bound_opts({"crown_batch_size": rows})
    torch.testing.assert_close(_bounds(net, x, method, False), whole, **EXACT)


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN", "Relaxed-CROWN-1"])
@pytest.mark.parametrize("name", NETWORKS)
def test_examples_of_a_batch_do_not_influence_each_other(name, method):
    model, shape = network(name, "param_ramp")
    net, x = bounded(model, shape), inputs(shape, batch=3)
    together = torch.stack(net.compute_bounds(region(x, 0.1), method=method))
    alone = [torch.stack(net.compute_bounds(region(x[i : i + 1], 0.1), method=method)) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), **EXACT)


@pytest.mark.parametrize("method", ["CROWN", "CROWN-IBP", "CROWN-LBP", "Relaxed-CROWN-2"])
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_one_side_alone_equals_both_sides(method, side):
    model, shape = network("residual", "leaky_param_ramp")
    net, x = bounded(model, shape), region(inputs(shape), 0.1)
    lower, upper = net.compute_bounds(x, method=method)
    one = net.compute_bounds(x, method=method, bound_lower=side == "lower", bound_upper=side == "upper")
    kept, other = one if side == "lower" else reversed(one)
    assert other is None
    torch.testing.assert_close(kept, lower if side == "lower" else upper, **EXACT)


class CalledOps(TorchDispatchMode):
    """Counts the calls of ops that are not part of another op."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[function._opname] += 1
        return function(*args, **(kwargs or {}))


def test_both_sides_of_all_rows_of_a_layer_share_each_read_of_lines_and_weights():
    model, shape = network("mlp")
    net, x = bounded(model, shape), region(inputs(shape), 0.1)
    with torch.no_grad(), CalledOps() as calls:
        net.compute_bounds(x, method="CROWN")
    # From the five layers with weights down to the input: as many activations, and layers with weights below them.
    passed = 0 + 1 + 2 + 3 + 4
    assert calls.count["relax_windows"] + calls.count["relax_backward_linear"] == passed
    assert calls.count["backward_linear"] + calls.count["relax_backward_linear"] == passed


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN", "Relaxed-CROWN-2"])
def test_an_identity_specification_bounds_the_outputs(method):
    model, shape = network("mlp", "leaky_param_ramp")
    net, x = bounded(model, shape), region(inputs(shape), 0.1)
    eye = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    with_C, without = net.compute_bounds(x, C=eye, method=method), net.compute_bounds(x, method=method)
    torch.testing.assert_close(with_C, without, **EXACT)
    shared = net.compute_bounds(x, C=eye[:1], method=method)
    torch.testing.assert_close(shared, without, **EXACT)


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN", "Relaxed-CROWN-2"])
def test_merging_the_specification_beats_applying_it_to_bounds(method):
    model, shape = network("mlp")
    net, x = bounded(model, shape, "tight"), region(inputs(shape), 0.2)
    C = margins(torch.tensor([0, 2]), 3, dtype=torch.float64)
    merged, _ = net.compute_bounds(x, C=C, method=method)
    lower, upper = net.compute_bounds(x, method=method)
    applied = (C.clamp(min=0) @ lower.unsqueeze(-1) + C.clamp(max=0) @ upper.unsqueeze(-1)).squeeze(-1)
    assert (merged >= applied - 1e-12).all()
    assert (merged > applied + 1e-6).any()
