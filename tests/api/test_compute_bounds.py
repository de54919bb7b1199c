"""The arguments of BoundedModule.compute_bounds, one by one."""

import copy
import math

import pytest
import torch
from methods.networks import METHODS, NETWORKS, NORMS, bounded, inputs, network, paired, region, seeded
from torch import nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.errors import InvalidInputError, LbpError, StaleBoundsError, UnknownNodeError
from lbp.perturbations import PerturbationLpNorm
from lbp.specification import margins


@pytest.fixture
def net():
    model, shape = network("cnn", "leaky_param_ramp")
    return bounded(model, shape)


@pytest.fixture
def x():
    return region(inputs((2, 6, 6)), 0.1)


def _equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ibp", {"method": None, "IBP": True}),
        ("Ibp", {"method": "IBP"}),
        ("CROWN", {}),
        ("backward", {"method": "crown"}),
        ("CROWN-IBP", {"method": "ibp+backward"}),
        ("IBP+CROWN", {"method": "crown", "IBP": True}),
        ("crown-ibp", {"method": "backward", "IBP": True}),
        ("forward", {"method": "LBP"}),
        ("lbp", {"method": None, "forward": True}),
        ("CROWN-LBP", {"method": "forward+backward"}),
        ("forward+crown", {"method": "backward", "forward": True}),
        ("relaxed-CROWN-2", {"method": "Relaxed-Crown-2"}),
    ],
)
def test_method_names_and_flags_that_mean_the_same(net, x, name, same):
    assert _equal(net.compute_bounds(x, method=name), net.compute_bounds(x, **same))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"method": "crown-optimized"}, NotImplementedError, "optimised slopes"),
        ({"method": "alpha-crown"}, NotImplementedError, "optimised slopes"),
        ({"method": "forward-optimized"}, NotImplementedError, "optimised slopes"),
        ({"method": "deeppoly"}, NotImplementedError, "'deeppoly' is not known; use IBP, CROWN-IBP"),
        ({"method": "relaxed-crown-0"}, NotImplementedError, "not known"),
        ({"method": None}, ValueError, "method=None needs IBP=True"),
        ({"method": 3}, LbpError, "method must be a name or None, got 3; use IBP"),
        ({"method": "LBP", "IBP": True}, ValueError, "does not go with IBP"),
        ({"bound_lower": False, "bound_upper": False}, ValueError, "at least one"),
        ({"cutter": object()}, NotImplementedError, "cutter"),
        ({"intermediate_constr": {}}, NotImplementedError, "intermediate_constr"),
        ({"alpha_idx": 1}, NotImplementedError, "alpha_idx"),
        ({"aux": 1}, NotImplementedError, "aux"),
        ({"aux_reference_bounds": {}}, NotImplementedError, "aux_reference_bounds"),
        ({"decision_thresh": 0.0}, NotImplementedError, "decision_thresh"),
        ({"update_mask": torch.ones(2)}, NotImplementedError, "update_mask"),
        ({"ibp_nodes": ["0"]}, NotImplementedError, "ibp_nodes"),
        ({"reuse_alpha": True}, NotImplementedError, "reuse_alpha"),
        ({"average_A": True}, NotImplementedError, "average_A"),
        ({"final_node_name": "nowhere"}, KeyError, "no node is named 'nowhere'; the nodes are input_1, 0, 1"),
        ({"interm_bounds": {"nowhere": ()}}, KeyError, "no node is named"),
        ({"method": "IBP", "return_A": True}, ValueError, "IBP has no linear bounds"),
    ],
)
def test_bad_arguments_are_refused_by_name(net, x, kwargs, error, message):
    with pytest.raises(error, match=message) as caught:
        net.compute_bounds(x, **kwargs)
    assert isinstance(caught.value, LbpError)


@pytest.mark.parametrize(
    ("C", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), r"C must have shape \[2, S, 3\] .* got \[2, 3\]"),
        (torch.zeros(3, 2, 3, dtype=torch.float64), r"got \[3, 2, 3\]"),
        (torch.zeros(2, 2, 4, dtype=torch.float64), r"got \[2, 2, 4\]"),
        (torch.zeros(2, 2, 3), "C is torch.float32 .* the input x is torch.float64"),
        (torch.full((2, 2, 3), math.nan, dtype=torch.float64), "C of shape .* NaN"),
        ("C", "C must be a tensor, got str"),
    ],
)
def test_a_bad_specification_is_refused(net, x, C, message):
    with pytest.raises(InvalidInputError, match=message):
        net.compute_bounds(x, C=C)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (region(inputs((2, 6, 5))), r"must have shape \[B, 2, 6, 6\], got \[2, 2, 6, 5\]"),
        (region(inputs((2, 6, 6)).float()), "the input x is torch.float32 .* the model is torch.float64"),
        ((region(inputs((2, 6, 6))),) * 2, "x must hold one tensor, got 2"),
        ([1.0], "must be a tensor"),
        (region(inputs((2, 6, 6)) * math.nan), "NaN"),
    ],
)
def test_a_bad_input_is_refused(net, x, message):
    with pytest.raises(InvalidInputError, match=message):
        net.compute_bounds(x)


@pytest.mark.parametrize("method", METHODS)
def test_the_input_may_be_a_tensor_a_tuple_or_without_perturbation(net, x, method):
    first = net.compute_bounds(x, method=method)
    assert _equal(net.compute_bounds((x,), method=method), first)
    lower, upper = net.compute_bounds(x.as_subclass(torch.Tensor).clone(), method=method)
    torch.testing.assert_close(lower, net(x))
    torch.testing.assert_close(upper, net(x))


@pytest.mark.parametrize("method", METHODS)
def test_results_have_the_shape_of_the_output_or_of_the_specification(method):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 3, 2)))
    net, x = bounded(model, (1, 4, 4)), region(inputs((1, 4, 4)))
    assert net.compute_bounds(x, method=method)[0].shape == (2, 3, 2, 2)
    C = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64)
    assert net.compute_bounds(x, C=C, method=method)[0].shape == (2, 5)
    assert _equal(net.compute_bounds(x, C=C.flatten(2), method=method), net.compute_bounds(x, C=C, method=method))


def test_an_empty_batch_and_an_empty_specification_give_empty_bounds(net):
    empty = region(inputs((2, 6, 6))[:0])
    for method in METHODS:
        assert net.compute_bounds(empty, method=method)[0].shape == (0, 3)
        C = torch.zeros(2, 0, 3, dtype=torch.float64)
        assert net.compute_bounds(region(inputs((2, 6, 6))), C=C, method=method)[0].shape == (2, 0)


@pytest.mark.parametrize(("method", "name", "norm"), paired(METHODS, NETWORKS, NORMS))
def test_an_empty_batch_gives_empty_bounds_by_every_method_and_norm(method, name, norm):
    model, shape = network(name, "leaky_param_ramp")
    net, empty = bounded(model, shape), inputs(shape, batch=0)
    C = margins(torch.zeros(0, dtype=torch.int64), 3, dtype=torch.float64)
    for eps, clip in ((0.1, None), (torch.zeros(0, dtype=torch.float64), (0, 1))):
        x = region(empty, eps, norm, clip=clip)
        assert [side.shape for side in net.compute_bounds(x, method=method)] == [(0, 3), (0, 3)]
        assert [side.shape for side in net.compute_bounds(x, C=C, method=method)] == [(0, 2), (0, 2)]
        assert [side.shape for side in net.compute_bounds(x, C=C[:0].new_ones(1, 4, 3), method=method)] == [(0, 4)] * 2


@pytest.mark.parametrize("rounding", ["outward", "inference"])
@pytest.mark.parametrize("method", METHODS)
def test_an_empty_batch_gives_empty_bounds_that_account_for_rounding(method, rounding):
    C = margins(torch.zeros(0, dtype=torch.int64), 3, dtype=torch.float64)
    for name, norm in (("dense", 2.0), ("pooled", math.inf), ("residual", 1.0)):
        model, shape = network(name, "leaky_param_ramp")
        net, empty = bounded(model, shape), region(inputs(shape, batch=0), 0.1, norm)
        bounds = net.compute_bounds(empty, method=method, rounding=rounding)
        assert [side.shape for side in bounds] == [(0, 3), (0, 3)]
        bounds = net.compute_bounds(empty, C=C, method=method, rounding=rounding)
        assert [side.shape for side in bounds] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_no_bounds_is_zero(net, method):
    net.zero_grad()
    lower, upper = net.compute_bounds(region(inputs((2, 6, 6), batch=0), 0.1), method=method)
    (upper - lower).sum().backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool((gradient == 0).all()) for gradient in gradients)


@pytest.mark.parametrize("method", ["backward", "CROWN-IBP"])
def test_x_none_after_ibp_is_crown_ibp(net, x, method):
    C = margins(torch.tensor([0, 1]), 3, dtype=torch.float64)
    expected = net.compute_bounds(x, C=C, method="CROWN-IBP")
    net.compute_bounds(x, C=C, IBP=True, method=None)
    assert _equal(net.compute_bounds(C=C, IBP=False, method=method), expected)


def test_x_none_after_lbp_is_crown_lbp(net, x):
    expected = net.compute_bounds(x, method="CROWN-LBP")
    net.compute_bounds(x, method="LBP")
    torch.testing.assert_close(net.compute_bounds(method="backward"), expected)


@pytest.mark.parametrize("method", ["IBP", "LBP"])
def test_x_none_with_a_method_that_needs_no_hidden_bounds_takes_the_last_input(net, x, method):
    expected = net.compute_bounds(x, method=method)
    net.compute_bounds(x, method="CROWN")
    assert _equal(net.compute_bounds(method=method), expected)


def test_reuse_ibp_with_the_same_input(net, x):
    expected = net.compute_bounds(x, method="CROWN-IBP")
    net.compute_bounds(x, method="IBP")
    assert _equal(net.compute_bounds(x, IBP=True, method="backward", reuse_ibp=True), expected)
    with pytest.raises(StaleBoundsError, match="not the input of the latest call"):
        net.compute_bounds(region(inputs((2, 6, 6)), 0.2), method="CROWN-IBP", reuse_ibp=True)


@pytest.mark.parametrize("method", ["IBP", "LBP", "CROWN-LBP", "CROWN"])
def test_x_none_takes_the_input_that_the_model_was_called_with_last(net, x, method):
    other = region(inputs((2, 6, 6), batch=3), 0.2)
    expected = net.compute_bounds(other, method=method)
    net.compute_bounds(x, method="IBP")
    net(other)
    assert _equal(net.compute_bounds(method=method), expected)
    assert _equal(net.compute_bounds(method=method), expected)


def test_a_first_call_of_the_model_gives_the_input(net, x):
    expected = net.compute_bounds(x, method="CROWN-IBP")
    for fresh in (BoundedModule(net._model, x), copy.deepcopy(net)):
        fresh(x)
        fresh.compute_bounds(IBP=True, method=None)
        assert _equal(fresh.compute_bounds(IBP=False, method="backward"), expected)


def test_x_none_after_a_call_of_the_model_with_the_same_values_keeps_the_region(net, x):
    expected = net.compute_bounds(x, method="CROWN-IBP")
    net.compute_bounds(x, method="IBP")
    net(x.as_subclass(torch.Tensor))
    assert _equal(net.compute_bounds(method="backward"), expected)


def test_x_none_after_a_call_of_the_model_with_the_same_bounded_tensor_computes_everything_anew(net, x):
    net.compute_bounds(x, method="IBP")
    x.ptb.eps = 0.2
    net(x)
    found = net.compute_bounds(method="CROWN")
    assert _equal(found, net.compute_bounds(x, method="CROWN"))


def _call_vmapped(net):
    torch.func.vmap(lambda one: net(one[None])[0])(inputs((2, 6, 6)))


@pytest.mark.parametrize("call", [lambda net: net(inputs((2, 6, 6))), _call_vmapped], ids=["plain", "vmap"])
@pytest.mark.parametrize("method", ["IBP", "CROWN"])
def test_x_none_after_a_call_of_the_model_with_another_tensor_is_an_error(net, x, method, call):
    net.compute_bounds(x, method="IBP")
    call(net)
    with pytest.raises(StaleBoundsError, match="another input; pass x"):
        net.compute_bounds(method=method)
    net.compute_bounds(x, method=method)
    net.compute_bounds(method=method)


def test_reuse_ibp_after_a_call_of_the_model_with_another_input_takes_bounds_of_the_input_that_is_given(net, x):
    expected = net.compute_bounds(x, method="CROWN-IBP")
    net.compute_bounds(x, method="IBP")
    net(region(inputs((2, 6, 6)), 0.2))
    with pytest.raises(StaleBoundsError, match="another input"):
        net.compute_bounds(method="backward", reuse_ibp=True)
    assert _equal(net.compute_bounds(x, method="backward", reuse_ibp=True), expected)


def test_x_none_without_an_earlier_call_is_an_error(net):
    with pytest.raises(InvalidInputError, match="earlier call"):
        net.compute_bounds(method="backward")


@pytest.mark.parametrize(
    "change",
    [
        lambda net, x: nn.init.ones_(next(net.parameters())),
        lambda net, x: net.train(),
        lambda net, x: x.add_(0.1),
        lambda net, x: torch.optim.SGD(net.parameters(), 0.1).step(),
    ],
)
def test_stale_bounds_are_an_error(net, x, change):
    net.compute_bounds(x, method="IBP")[0].sum().backward()
    change(net, x)
    with pytest.raises(StaleBoundsError, match="stale"):
        net.compute_bounds(method="backward")
    net.compute_bounds(x, method="backward")


@pytest.mark.parametrize("change", [lambda x: x.add_(0.1), lambda x: setattr(x.ptb, "eps", 0.3)], ids=["x", "eps"])
@pytest.mark.parametrize("method", ["IBP", "LBP"])
def test_the_region_of_the_last_input_is_the_present_one(net, x, method, change):
    net.compute_bounds(x, method=method)
    change(x)
    found = net.compute_bounds(method=method), net.compute_bounds(x, method=method, reuse_ibp=True)
    expected = net.compute_bounds(x, method=method)
    assert _equal(found[0], expected)
    assert _equal(found[1], expected)


@pytest.mark.parametrize("argument", ["interm_bounds", "reference_bounds"])
@pytest.mark.parametrize("method", METHODS)
def test_given_bounds_of_the_input_do_not_replace_its_region(net, x, method, argument):
    expected = net.compute_bounds(x, method=method)
    narrow = {net.input_name[0]: (x - 0.01, x + 0.01)}
    assert _equal(net.compute_bounds(x, method=method, **{argument: narrow}), expected)


def test_intermediate_bounds_that_are_given_are_used_as_they_are(net, x):
    expected = net.compute_bounds(x, method="CROWN-IBP")
    net.compute_bounds(x, method="IBP")
    given = {node.name: (node.lower, node.upper) for node in net.get_layers_requiring_bounds()}
    assert _equal(net.compute_bounds(x, method="CROWN", interm_bounds=given), expected)
    wide = {name: (lower - 1, upper + 1) for name, (lower, upper) in given.items()}
    loose = net.compute_bounds(x, method="CROWN", interm_bounds=wide)
    assert (loose[0] <= expected[0] + 1e-12).all()
    for node in net.get_layers_requiring_bounds():
        assert _equal((node.lower, node.upper), wide[node.name])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_uses_the_intermediate_bounds_that_are_given(net, x, method):
    expected = net.compute_bounds(x, method=method)
    for node in net.get_layers_requiring_bounds():
        net.compute_bounds(x, method="IBP")
        wide = {node.name: (node.lower - 5, node.upper + 5)}
        lower, upper = net.compute_bounds(x, method=method, interm_bounds=wide)
        assert _equal((node.lower, node.upper), wide[node.name])
        assert (lower < expected[0]).all()
        assert (upper > expected[1]).all()


def test_reference_bounds_can_only_tighten(net, x):
    expected = net.compute_bounds(x, method="CROWN-IBP")
    net.compute_bounds(x, method="CROWN")
    crown = {node.name: (node.lower, node.upper) for node in net.get_layers_requiring_bounds()}
    tight = net.compute_bounds(x, method="CROWN-IBP", reference_bounds=crown)
    assert (tight[1] - tight[0]).mean() < (expected[1] - expected[0]).mean()
    wide = {name: (lower - 1e3, upper + 1e3) for name, (lower, upper) in crown.items()}
    assert _equal(net.compute_bounds(x, method="CROWN-IBP", reference_bounds=wide), expected)


@pytest.mark.parametrize("argument", ["interm_bounds", "reference_bounds"])
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (lambda l, u: (l,), "pair"),
        (lambda l, u: (l, u[:1]), r"must have shape \[2, 3, 3, 3\], got \[1, 3, 3, 3\]"),
        (lambda l, u: (u, l), "lower bounds are above"),
        (lambda l, u: (l * math.nan, u), "NaN"),
        (lambda l, u: (l.float(), u), "float32"),
    ],
)
def test_bad_bounds_of_hidden_layers_are_refused(net, x, argument, bounds, message):
    lower = torch.zeros(2, 3, 3, 3, dtype=torch.float64)
    with pytest.raises(InvalidInputError, match=message):
        net.compute_bounds(x, **{argument: {"0": bounds(lower, lower + 1)}})


@pytest.mark.parametrize("argument", ["interm_bounds", "reference_bounds"])
def test_bounds_of_hidden_layers_are_given_by_name(net, x, argument):
    with pytest.raises(InvalidInputError, match=rf"{argument} must be a dictionary .*, got list"):
        net.compute_bounds(x, **{argument: [(x, x)]})


@pytest.mark.parametrize("device", ["gpu", "cuda", 3])
def test_a_device_that_is_not_there_is_refused(device):
    if torch.cuda.is_available() and device != "gpu":
        pytest.skip("a device that is there")
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(InvalidInputError, match="device"):
        BoundedModule(model, torch.zeros(1, 2), device=device)
    assert model[0].weight.device.type == "cpu"


def test_the_example_and_the_model_have_values_or_neither():
    with pytest.raises(InvalidInputError, match="global_input is on the device meta"):
        BoundedModule(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2, device="meta"))
    shapes = BoundedModule(nn.Sequential(nn.Linear(2, 2, device="meta")), torch.zeros(1, 2, device="meta"))
    with pytest.raises(InvalidInputError, match="the input x is on the device meta"):
        shapes.compute_bounds(torch.zeros(1, 2, device="meta"))


@pytest.mark.parametrize("method", METHODS)
def test_final_node_name_bounds_another_node(net, x, method):
    lower, upper = net.compute_bounds(x, method=method, final_node_name="2")
    assert lower.shape == (2, 4, 3, 3)
    head = nn.Sequential(*list(net.children())[:3])
    torch.testing.assert_close(lower, bounded(head, (2, 6, 6)).compute_bounds(x, method=method)[0])
    assert torch.equal(net["2"].lower, lower)
    assert torch.equal(net["2"].upper, upper)


def test_names_and_nodes(net):
    assert net.input_name == [net.nodes()[0].name]
    assert net.final_name == "7"
    assert net.output_name == ["7"]
    assert net[net.final_name] is net.nodes()[-1]
    assert [node.name for node in net.get_layers_requiring_bounds()] == ["0", "2", "5"]
    with pytest.raises(UnknownNodeError, match="no node is named 'conv'"):
        net["conv"]


def test_saved_intermediate_bounds_can_be_given_back(net, x, tmp_path):
    with pytest.raises(StaleBoundsError, match="call compute_bounds first"):
        net.save_intermediate()
    expected = net.compute_bounds(x, method="CROWN")
    net.save_intermediate(tmp_path / "bounds.pt")
    saved = torch.load(tmp_path / "bounds.pt", weights_only=True)
    assert {"0", "2", "5", "7"} <= set(saved)
    given = {name: bounds for name, bounds in saved.items() if name in ("0", "2", "5")}
    torch.testing.assert_close(net.compute_bounds(x, method="CROWN", interm_bounds=given), expected)


def test_calling_the_module_is_the_clean_pass_or_compute_bounds(net, x):
    assert _equal(net(x=x, method="IBP", method_opt="compute_bounds"), net.compute_bounds(x, method="IBP"))
    torch.testing.assert_close(net(x), net.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0)))[0])
    with pytest.raises(InvalidInputError, match="method_opt"):
        net(x, method_opt="bounds")


@pytest.mark.parametrize("argument", [{"custom_ops": {"a": 1}}, {"bound_opts": {"loss_fusion": True}}])
def test_what_would_change_results_is_refused_when_the_module_is_made(argument):
    with pytest.raises(NotImplementedError):
        BoundedModule(nn.ReLU(), torch.zeros(1, 2), **argument)


def test_a_model_that_is_no_module_is_refused():
    with pytest.raises(InvalidInputError, match=r"must be a torch\.nn\.Module, got function"):
        BoundedModule(lambda x: x, torch.zeros(1, 2))
