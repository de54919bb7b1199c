"""What forward passes ask about their input: bounds are those of the same model without the question, or none."""

import builtins
import gc
import subprocess
import sys

import pytest
import torch
from graph.idioms import (
    IDIOMS,
    OF_VALUES,
    SHAPE,
    TWINS,
    Net,
    of_four_channels,
    of_lazy_layer,
    of_matched_class,
    of_size,
)
from graph.values import bounds_are_the_value
from torch import nn

import lbp
from lbp.errors import InvalidInputError, UnsupportedLayerError
from lbp.graph.float64_copy import float64_copy

BATCHES = (1, 2, 3, 8)


def inputs(batch):
    return torch.randn(batch, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))


def bounds(net, x):
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=0.1))
    return torch.stack(net.compute_bounds(x=region, method="CROWN"))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("idiom", IDIOMS)
def test_bounds_are_those_of_the_model_without_the_question(idiom, training):
    asking, plain = Net(IDIOMS[idiom]).train(training), Net().train(training)
    net, expected = lbp.BoundedModule(asking, inputs(2)), lbp.BoundedModule(plain, inputs(2))
    for batch in BATCHES:
        x = inputs(batch)
        torch.testing.assert_close(asking(x), plain(x))
        torch.testing.assert_close(bounds(net, x), bounds(expected, x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("twin", TWINS)
def test_what_follows_from_the_batch_size_is_refused(twin, training):
    with pytest.raises(UnsupportedLayerError, match=r"batch|in place"):
        lbp.BoundedModule(Net(TWINS[twin]).train(training), inputs(2))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("question", OF_VALUES)
def test_what_follows_from_values_is_refused(question, training):
    model = Net(OF_VALUES[question]).train(training)
    with pytest.raises(UnsupportedLayerError, match=r"values of tensors|not supported"):
        lbp.BoundedModule(model, inputs(2))


def test_a_float64_copy_takes_no_answer_that_bounds_refuse():
    model = Net(OF_VALUES["size of a selection"]).float().eval()
    with pytest.raises(UnsupportedLayerError, match="not supported"):
        float64_copy(model, inputs(2).float())


@pytest.mark.parametrize("idiom", ["checked", "by channel", "converted", "prod"])
def test_a_float64_copy_has_the_bounds_of_the_model(idiom):
    # Of conversions there is one that changes nothing in float32 alone.
    forward = {"converted": lambda m, x: m.plain(x.float())}.get(idiom, IDIOMS[idiom])
    model = Net(forward).float().eval()
    net = lbp.BoundedModule(float64_copy(model, inputs(2).float()), inputs(2))
    expected = lbp.BoundedModule(Net().float().double().eval(), inputs(2))
    for batch in BATCHES:
        torch.testing.assert_close(bounds(net, inputs(batch)), bounds(expected, inputs(batch)))


def test_an_answer_about_sizes_serves_inputs_of_these_sizes_alone():
    model = Net(of_size).eval()
    model.pool = nn.AdaptiveAvgPool2d(1)
    small, large = inputs(2), inputs(2).repeat(1, 1, 2, 2)
    net = lbp.BoundedModule(model, small)
    assert bounds_are_the_value(net, model, small)
    with pytest.raises(InvalidInputError, match=r"must have shape \[B, 3, 2, 2\]"):
        net.compute_bounds(x=large, method="IBP")
    assert bounds_are_the_value(lbp.BoundedModule(model, large), model, large)


def test_an_answer_about_a_format_follows_the_model():
    model = Net(lambda m, x: m.plain(x) if x.dtype == torch.float32 else 2 * m.plain(x)).eval()
    net = lbp.BoundedModule(model, inputs(2))
    assert bounds_are_the_value(net, model, inputs(3))
    model.float()
    lower, _ = net.compute_bounds(x=inputs(3).float(), method="IBP")
    torch.testing.assert_close(lower, model(inputs(3).float()))
    torch.testing.assert_close(lower, model.double()(inputs(3)).float() / 2)


def test_an_answer_about_a_parameter_follows_it():
    model = Net(lambda m, x: m.plain(x) * m.fc.weight.shape[0] if m.fc.bias is None else m.plain(x)).eval()
    model.fc.bias = None
    net = lbp.BoundedModule(model, inputs(2))
    assert bounds_are_the_value(net, model, inputs(3))
    model.fc.weight = nn.Parameter(torch.ones(7, 12, dtype=torch.float64))
    assert bounds_are_the_value(net, model, inputs(3))


@pytest.mark.parametrize("training", [False, True])
def test_a_class_that_python_finds_by_itself_is_refused(training):
    with pytest.raises(UnsupportedLayerError, match=r"computes something else|asks for the type of the value 'x'"):
        lbp.BoundedModule(Net(of_matched_class).train(training), inputs(2))


def test_a_conversion_that_changes_values_is_refused():
    for convert in (lambda x: x.float(), lambda x: x.half(), lambda x: x.to(torch.float32)):
        with pytest.raises(UnsupportedLayerError, match="is not supported"):
            lbp.BoundedModule(Net(lambda m, x, convert=convert: m.plain(convert(x).double())).eval(), inputs(2))


def test_layers_without_parameters_get_them_from_their_first_call():
    model = Net(of_lazy_layer).eval()
    model.lazy = nn.LazyLinear(4, dtype=torch.float64)
    net = lbp.BoundedModule(model, inputs(2))
    assert model.lazy.weight.shape == (4, 12)
    for batch in BATCHES:
        assert bounds_are_the_value(net, model, inputs(batch))


def test_what_a_trace_imports_finds_the_builtins_themselves():
    """torch loads its compiler at the first operation of a trace, and could then compile nothing that calls len."""
    script = """
import torch, lbp

class Asks(torch.nn.Linear):
    def forward(self, x):
        assert isinstance(x, torch.Tensor)
        return super().forward(x.reshape(x.size(0), -1))

lbp.BoundedModule(Asks(4, 4), torch.zeros(2, 2, 2))

@torch.compile(backend="eager", fullgraph=True)
def compiled(x, names):
    return x * len(set(names)) if isinstance(names, list) else x

assert compiled(torch.ones(2), ["a", "b"]).tolist() == [2, 2]
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_a_trace_leaves_the_builtins_and_the_models_statistics_as_they_are():
    before = isinstance, len, builtins.__import__
    model = nn.Sequential(nn.BatchNorm2d(3), Net(IDIOMS["checked"]), nn.BatchNorm1d(4)).double().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    lbp.BoundedModule(model, inputs(2))
    with pytest.raises(UnsupportedLayerError):
        lbp.BoundedModule(Net(TWINS["asserted"]), inputs(2))
    assert (isinstance, len, builtins.__import__) == before
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def _tensors_kept_by_a_trace_of(model):
    def count():
        return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())

    x = inputs(2)
    gc.collect()
    gc.disable()
    try:
        before = count()
        net = lbp.BoundedModule(model, x)
        after = count()
        assert net
        return after - before
    finally:
        gc.enable()


def test_a_trace_keeps_no_tensors_for_its_answers():
    asking, plain = Net(IDIOMS["checked"]).eval(), Net().eval()
    assert _tensors_kept_by_a_trace_of(asking) == _tensors_kept_by_a_trace_of(plain)


def test_an_assertion_that_fails_is_named():
    with pytest.raises(UnsupportedLayerError, match=r"cannot trace Net: an assertion fails \(four channels\)"):
        lbp.BoundedModule(Net(of_four_channels), inputs(2))
