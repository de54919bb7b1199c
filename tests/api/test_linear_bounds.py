"""Linear bounds returned with return_A: they hold at every point, and their extremes are the bounds."""

import pytest
import torch
from methods.networks import METHODS, bounded, inputs, network, region, samples, values_at

from lbp.errors import InvalidInputError
from lbp.specification import margins

LINEAR_METHODS = [method for method in METHODS if method != "IBP"]


def _value(A, points, side):
    """lA x + lbias or uA x + ubias at points [count, B, *shape]."""
    matrix, bias = (A["lA"], A["lbias"]) if side == "lower" else (A["uA"], A["ubias"])
    return torch.einsum("bsn,cbn->cbs", matrix.flatten(2), points.flatten(2)) + bias


@pytest.mark.parametrize("with_C", [False, True])
@pytest.mark.parametrize("method", LINEAR_METHODS)
@pytest.mark.parametrize("name", ["mlp", "cnn", "residual"])
def test_linear_bounds_hold_and_concretize_to_the_bounds(name, method, with_C):
    model, shape = network(name, "leaky_param_ramp")
    net, x, eps = bounded(model, shape), inputs(shape), 0.1
    C = margins(torch.tensor([0, 1]), 3, dtype=torch.float64) if with_C else None
    needed = {net.final_name: [net.input_name[0]]}
    lower, upper, found = net.compute_bounds(region(x, eps), C=C, method=method, return_A=True, needed_A_dict=needed)
    A = found[net.final_name][net.input_name[0]]
    rows = 2 if with_C else 3
    assert A["lA"].shape == A["uA"].shape == (2, rows, *shape)
    assert A["lbias"].shape == A["ubias"].shape == (2, rows)
    points = samples(x, eps, torch.inf)
    values = values_at(model, points, C)
    assert (_value(A, points, "lower") <= values + 1e-9).all()
    assert (_value(A, points, "upper") >= values - 1e-9).all()
    extreme = _value(A, x.unsqueeze(0), "lower")[0] - eps * A["lA"].flatten(2).abs().sum(-1)
    torch.testing.assert_close(extreme, lower)
    extreme = _value(A, x.unsqueeze(0), "upper")[0] + eps * A["uA"].flatten(2).abs().sum(-1)
    torch.testing.assert_close(extreme, upper)


def test_without_a_dictionary_the_output_is_given_in_terms_of_the_input():
    model, shape = network("mlp")
    net, x = bounded(model, shape), region(inputs(shape))
    _, _, found = net.compute_bounds(x, return_A=True)
    assert list(found) == [net.final_name]
    assert list(found[net.final_name]) == net.input_name


def test_the_name_of_one_node_below_is_a_list_of_one():
    model, shape = network("residual")
    net, x = bounded(model, shape), region(inputs(shape))
    for below in (net.input_name[0], "bn"):
        _, _, found = net.compute_bounds(x, return_A=True, needed_A_dict={net.final_name: below})
        _, _, expected = net.compute_bounds(x, return_A=True, needed_A_dict={net.final_name: [below]})
        assert list(found[net.final_name]) == [below]
        assert torch.equal(found[net.final_name][below]["lA"], expected[net.final_name][below]["lA"])


def test_what_is_no_dictionary_of_nodes_is_refused():
    model, shape = network("mlp")
    net, x = bounded(model, shape), region(inputs(shape))
    for needed in ([net.final_name], {net.final_name: None}):
        with pytest.raises(InvalidInputError, match="needed_A_dict must be a dictionary"):
            net.compute_bounds(x, return_A=True, needed_A_dict=needed)


def test_hidden_layers_on_either_end():
    model, shape = network("cnn", "leaky_param_ramp")
    net, x, eps = bounded(model, shape), inputs(shape), 0.1
    entry = net.input_name[0]
    _, _, found = net.compute_bounds(region(x, eps), return_A=True, needed_A_dict={"5": [entry, "2"], "7": ["2"]})
    points = samples(x, eps, torch.inf, count=100)
    layers = list(model.children())
    flat = points.flatten(0, 1)
    at2 = torch.nn.Sequential(*layers[:3])(flat)
    at5, at7 = torch.nn.Sequential(*layers[3:6])(at2), torch.nn.Sequential(*layers[3:])(at2)

    def batched(values):
        return values.unflatten(0, points.shape[:2])

    for A, source, target in [
        (found["5"][entry], points, batched(at5)),
        (found["5"]["2"], batched(at2), batched(at5)),
        (found["7"]["2"], batched(at2), batched(at7)),
    ]:
        assert (_value(A, source, "lower") <= target + 1e-9).all()
        assert (_value(A, source, "upper") >= target - 1e-9).all()


def test_one_side_and_coefficients_alone():
    model, shape = network("mlp")
    net, x = bounded(model, shape), region(inputs(shape))
    _, _, both = net.compute_bounds(x, return_A=True)
    _, upper, found = net.compute_bounds(x, return_A=True, bound_upper=False)
    A = found[net.final_name][net.input_name[0]]
    assert upper is None
    assert A["uA"] is None
    assert A["ubias"] is None
    torch.testing.assert_close(A["lA"], both[net.final_name][net.input_name[0]]["lA"])
    none, nothing, only = net.compute_bounds(x, return_A=True, need_A_only=True)
    assert none is None
    assert nothing is None
    torch.testing.assert_close(only, both)


def test_a_node_that_paths_pass_by_is_refused():
    model, shape = network("residual")
    net, x = bounded(model, shape), region(inputs(shape))
    with pytest.raises(InvalidInputError, match="not a function of 'act1' alone"):
        net.compute_bounds(x, return_A=True, needed_A_dict={net.final_name: ["act1"]})
    with pytest.raises(InvalidInputError, match="must be"):
        net.compute_bounds(x, return_A=True, needed_A_dict={"act1": [net.final_name]})


def test_gradients_reach_the_linear_bounds():
    model, shape = network("mlp")
    net, x = bounded(model, shape), region(inputs(shape))
    _, _, found = net.compute_bounds(x, return_A=True)
    found[net.final_name][net.input_name[0]]["lA"].square().sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
