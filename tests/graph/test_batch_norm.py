"""Batch normalisation: folded in evaluation, by the statistics of the clean pass in training."""

import copy

import pytest
import torch
from methods.networks import (
    METHODS,
    assert_contains,
    bounded,
    inputs,
    region,
    samples,
    seeded,
    values_at,
    with_statistics,
)
from ops.watching import Largest
from torch import nn
from torch.nn import functional as F

import lbp
from lbp import ops
from lbp.bounded import BoundedModule
from lbp.errors import MissingStatisticsError
from lbp.graph.batch_norm import BatchNormNode, Normalisation, NormalisedConv2dNode, NormalisedLinearNode
from lbp.nn import GlobalBatchNorm


def _model(**kwargs):
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, bias=False),
            nn.BatchNorm2d(3, **kwargs),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48, 6),
            nn.BatchNorm1d(6, **kwargs),
            nn.ReLU(),
            nn.Linear(6, 3),
        )
    )


def test_it_is_folded_into_the_layer_before_it():
    kinds = [type(node) for node in bounded(_model(), (2, 4, 4)).nodes()]
    assert NormalisedConv2dNode in kinds
    assert NormalisedLinearNode in kinds
    assert BatchNormNode not in kinds


def test_it_stands_alone_when_something_else_reads_that_layer():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.conv(x)
            return y + F.relu(self.bn(y))

    model = with_statistics(seeded(Fork), (2, 4, 4))
    net = bounded(model, (2, 4, 4))
    assert BatchNormNode in [type(node) for node in net.nodes()]
    x = inputs((2, 4, 4))
    for method in METHODS:
        assert_contains(net.compute_bounds(region(x), method=method), values_at(model, samples(x, 0.05, torch.inf)))


def test_intervals_scale_the_results_of_a_linear_layer_as_folding_scales_its_weight():
    nodes = bounded(with_statistics(_model(), (2, 4, 4)), (2, 4, 4)).nodes()
    (layer,) = (node for node in nodes if isinstance(node, NormalisedLinearNode))
    ends = inputs((2, 48)).sort(dim=1).values.unbind(1)
    weight, bias = layer.parameters()
    assert (layer.normalisation.scale_and_shift()[0] < 0).any()
    torch.testing.assert_close(layer.interval(ends), ops.interval_linear(*ends, weight, bias))


def test_few_rows_are_scaled_in_place_of_the_weight_of_a_linear_layer():
    layers = (nn.Linear(60, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 1))
    model = with_statistics(seeded(lambda: nn.Sequential(*layers)), (60,))
    net, x = bounded(model, (60,)), inputs((60,))
    with torch.no_grad(), Largest() as largest:
        found = net.compute_bounds(region(x), method="CROWN-IBP")
    assert largest.elements < 60 * 20
    # As many rows as inputs make folding the cheaper way; the first of them are those rows.
    with torch.no_grad():
        copies = torch.ones(len(x), 60, 1).to(x)
        folded = net.compute_bounds(region(x), method="CROWN-IBP", C=copies)
    for few, many in zip(found, folded, strict=True):
        torch.testing.assert_close(few.expand(-1, 60), many)


def test_scale_and_shift_of_a_layer_are_found_once_in_a_computation(monkeypatch):
    net, x = bounded(with_statistics(_model(), (2, 4, 4)), (2, 4, 4)), inputs((2, 4, 4))
    found, find = [], Normalisation.scale_and_shift
    monkeypatch.setattr(Normalisation, "scale_and_shift", lambda *args: (found.append(args[0].name), find(*args))[1])
    for count in (1, 2):
        net.compute_bounds(region(x), method="CROWN-IBP")
        assert sorted(found) == sorted(["1", "5"] * count)


def test_folding_follows_the_running_statistics_at_each_call():
    model = with_statistics(_model(), (2, 4, 4))
    net, x = bounded(model, (2, 4, 4)), inputs((2, 4, 4))
    before, _ = net.compute_bounds(region(x, 0.0))
    with torch.no_grad():
        model[1].running_mean += 1
        model[5].weight *= 2
    after, _ = net.compute_bounds(region(x, 0.0))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model(x))


@pytest.mark.parametrize("method", METHODS)
def test_training_uses_the_statistics_of_the_latest_clean_pass(method):
    model = _model().train()
    net = bounded(model, (2, 4, 4))
    x = inputs((2, 4, 4), batch=5)
    net(torch.rand_like(x))
    clean = net(x)
    lower, upper = net.compute_bounds(region(x, 0.0), method=method)
    torch.testing.assert_close(lower, clean)
    torch.testing.assert_close(upper, clean)


def test_the_clean_pass_through_the_bounded_module_updates_running_statistics_once():
    model = _model().train()
    twin = copy.deepcopy(model)
    net, x = bounded(model, (2, 4, 4)), inputs((2, 4, 4), batch=5)
    net(x)
    twin(x)
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    net.compute_bounds(region(x))
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_building_the_graph_leaves_buffers_and_random_numbers_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    bounded(model.double(), (4,))
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value.double(), before[key].double()), key


def test_gradients_flow_through_the_batch_statistics():
    model = _model().train()
    net, x = bounded(model, (2, 4, 4)), inputs((2, 4, 4), batch=5)

    def lower():
        net(x)
        return net.compute_bounds(region(x, 0.01), method="IBP")[0].square().sum()

    weight = model[0].weight
    (gradient,) = torch.autograd.grad(lower(), weight)
    step = 1e-6
    for index in [(0, 0, 0, 0), (2, 1, 1, 2)]:
        with torch.no_grad():
            weight[index] += step
            plus = lower()
            weight[index] -= 2 * step
            minus = lower()
            weight[index] += step
        torch.testing.assert_close(gradient[index], (plus - minus) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kwargs", [{}, {"track_running_stats": False}])
def test_missing_statistics_are_an_error_that_names_the_layer(kwargs):
    model = _model(**kwargs)
    net = bounded(model, (2, 4, 4))
    net.train(not kwargs)
    with pytest.raises(MissingStatisticsError, match=r"'5'|'1'"):
        net.compute_bounds(region(inputs((2, 4, 4))))


def test_a_shared_layer_uses_the_statistics_of_each_call():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.bn = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.bn(self.fc2(F.relu(self.bn(self.fc1(x)))))

    model = seeded(Shared).train()
    net, x = bounded(model, (4,)), inputs((4,), batch=6)
    clean = net(x)
    torch.testing.assert_close(net.compute_bounds(region(x, 0.0))[0], clean)


def test_the_functional_form_in_training_is_refused():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("var", torch.ones(4))

        def forward(self, x):
            return F.batch_norm(x, self.mean, self.var, training=self.training)

    net = bounded(Functional().double().train(), (4,))
    with pytest.raises(MissingStatisticsError, match=r"nn\.BatchNorm"):
        net.compute_bounds(region(inputs((4,))))
    net.eval().compute_bounds(region(inputs((4,))))


@pytest.mark.parametrize("synchronised", [False, True])
def test_statistics_of_a_pass_under_autocast_are_float32(synchronised):
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).train()
    if synchronised:
        model[1] = GlobalBatchNorm(model[1], lambda sums: sums)
    x = inputs((4,), batch=8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net = BoundedModule(model, x)
        net(x)
        lower, upper = net.compute_bounds(region(x, 0.0))
    assert lower.dtype == upper.dtype == torch.float32
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(lower, expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(upper, expected, rtol=0.02, atol=0.02)


def test_a_model_may_be_traced_under_autocast():
    model = nn.Sequential(nn.Linear(4, 6), lbp.nn.ParamRamp((6,)), nn.Linear(6, 3)).eval()
    x = inputs((4,)).float()
    expected = BoundedModule(model, x).compute_bounds(region(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = BoundedModule(model, x).compute_bounds(region(x))
    torch.testing.assert_close(found, expected)
