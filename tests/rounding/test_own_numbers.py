"""The network that is certified is the one in its own format, with every number as it is there."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from onnx_import.graphs import model, node, save
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.errors import InvalidInputError, UnsupportedLayerError
from lbp.graph.float64_copy import float64_copy
from lbp.nn import LeakyReLU
from lbp.onnx_import import load_onnx
from lbp.perturbations import PerturbationLpNorm
from lbp.verification.properties import Deadline, Verdict, verify_property
from lbp.vnnlib import parse_vnnlib


def single(value):
    """A number as float32 rounds it."""
    return Fraction(float(np.float32(value)))


def outward(network, x):
    """Bounds of a network's one output at a point, as fractions."""
    region = BoundedTensor(x, PerturbationLpNorm(0.0))
    found = BoundedModule(network, x).compute_bounds((region,), method="IBP", rounding="outward")
    return [Fraction(bound.item()) for bound in found]


W = {"w": np.array([[3.0]]), "b": np.array([3.0])}
THIRD, TENTH = float(np.float32(1 / 3)), float(np.float32(0.1))
ONNX = {
    "Div": ([node("Div", ["x", "b"])], 3.0, Fraction(1)),
    "Gemm alpha": ([node("Gemm", ["x", "w"], alpha=THIRD)], 1.0, 3 * single(1 / 3)),
    "Gemm beta": ([node("Gemm", ["x", "w", "b"], alpha=2.0, beta=TENTH)], 1.0, 6 + 3 * single(0.1)),
    "LeakyRelu default": ([node("LeakyRelu", ["x"])], -1.0, -single(0.01)),
    "HardSigmoid default": ([node("HardSigmoid", ["x"])], 1.0, single(0.2) + Fraction(1, 2)),
}


@pytest.mark.parametrize("name", ONNX)
def test_bounds_of_an_onnx_file_hold_for_its_own_numbers(tmp_path, name):
    nodes, at, expected = ONNX[name]
    network = load_onnx(save(tmp_path, model(nodes, [1, 1], W)))
    x = torch.tensor([[at]])
    lower, upper = outward(network, x)
    assert lower <= expected <= upper
    lower, upper = outward(float64_copy(network, x), x.double())
    assert lower <= expected <= upper
    assert upper - lower < 1e-12


def test_the_default_epsilon_of_an_onnx_file_is_a_float32(tmp_path):
    constants = {name: np.ones(1) for name in "sbmv"}
    network = load_onnx(save(tmp_path, model([node("BatchNormalization", ["x", *"sbmv"])], [1, 1], constants)))
    (layer,) = (part for part in network.modules() if isinstance(part, nn.BatchNorm1d))
    assert layer.eps == single(1e-5)


class Computed(nn.Module):
    """A function of the input, a parameter and numbers."""

    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.1]]))
        self.function = function

    def forward(self, x):
        return self.function(x, self.weight)


class Times(nn.Module):
    def forward(self, weight):
        return weight * 0.1


# Networks of one operation that rounds nothing at the point.
NETWORKS = {
    "LeakyReLU": lambda: nn.LeakyReLU(0.2),
    "Hardtanh": lambda: nn.Sequential(nn.Hardtanh(-0.1, 0.7)),
    "times a number": lambda: Computed(lambda x, w: x * 0.1),
    "a slope of a function": lambda: Computed(lambda x, w: functional.leaky_relu(x, negative_slope=0.3)),
    "a slope of NumPy's": lambda: nn.LeakyReLU(np.float64(0.2)),
    "a number of the input's shape": lambda: Computed(lambda x, w: x * (x.shape[1] + 2) ** -0.5),
    "a number of a weight's shape": lambda: Computed(lambda x, w: x * (w.shape[0] + 2) ** -0.5),
    "a computed weight": lambda: Computed(lambda x, w: functional.linear(x, w * 0.1)),
    "a parametrised weight": lambda: nn.Sequential(nn.Linear(1, 1, bias=False)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_copy_in_float64_is_the_same_function(name):
    network, x = NETWORKS[name]().eval(), torch.tensor([[-1.0]])
    if name == "a parametrised weight":
        parametrize.register_parametrization(network[0], "weight", Times())
    expected = network(x).item()
    copied = float64_copy(network, x)
    assert copied(x.double()).item() == expected
    lower, upper = outward(copied, x.double())
    assert lower <= Fraction(expected) <= upper
    assert network(x).item() == expected


class Picks(nn.Module):
    """Numbers by indices of every kind."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("mask", torch.tensor([True, False, True]))

    def forward(self, x):
        return self.layer(x)[:, torch.tensor([3, 1, 0])][:, self.order][:, self.mask][:, [1, 0, 1]] * 0.1


def test_a_copy_in_float64_picks_by_the_same_indices():
    torch.manual_seed(0)
    network, x = Picks(), torch.rand(1, 4)
    wide = float64_copy(network, x)
    torch.testing.assert_close(wide(x.double()), network(x).double(), rtol=1e-6, atol=1e-6)
    for lower, upper in zip(*BoundedModule(wide, x.double()).compute_bounds((BoundedTensor(x.double()),)), strict=True):
        torch.testing.assert_close(lower, upper)


class Moved(nn.Module):
    """Numbers moved or picked by a whole number that is a tensor."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("one", torch.tensor(1))
        self.function = function

    def forward(self, x):
        return self.function(self.layer(x), self.one)


MOVED = {
    "narrow": lambda x, one: torch.narrow(x, 1, one, 2),
    "a method narrow": lambda x, one: x.narrow(1, one, 2),
    "select": lambda x, one: torch.select(x, 1, one),
    "a method select": lambda x, one: x.select(1, one),
    "index_select": lambda x, one: torch.index_select(x, 1, one),
    "roll": lambda x, one: torch.roll(x, one, 1),
    "flip": lambda x, one: torch.flip(x, (one,)),
    "reshape": lambda x, one: x.reshape(-1, one + 1, 2),
    "unflatten": lambda x, one: x.unflatten(1, (one + 1, 2)),
    "unsqueeze": lambda x, one: x.unsqueeze(one),
    "expand": lambda x, one: x.unsqueeze(1).expand(-1, one + 1, -1),
    "a method repeat_interleave": lambda x, one: (x * one).repeat_interleave(torch.tensor([1, 2, 1, 2]), 1),
    "an operand too": lambda x, one: torch.narrow(x * one, 1, one, 2) + one,
}


@pytest.mark.parametrize("name", MOVED)
def test_a_copy_in_float64_keeps_whole_numbers_that_are_indices_or_sizes(name):
    torch.manual_seed(0)
    network, x = Moved(MOVED[name]).eval(), torch.rand(1, 4)
    expected = network(x).double()
    wide, point = float64_copy(network, x), BoundedTensor(x.double(), PerturbationLpNorm(0.0))
    torch.testing.assert_close(wide(x.double()), expected, rtol=1e-6, atol=1e-6)
    lower, upper = BoundedModule(wide, point).compute_bounds((point,), method="CROWN", rounding="outward")
    for side in (lower, upper):
        torch.testing.assert_close(side, expected, rtol=1e-6, atol=1e-6)


def test_a_copy_in_float64_depends_on_the_batch_where_the_network_does():
    network, x = Computed(lambda x, w: x * (x.shape[0] + 1) ** -0.5), torch.ones(1, 1)
    with pytest.raises(UnsupportedLayerError, match="depends on the input or on the batch size"):
        BoundedModule(float64_copy(network, x), x.double())


def test_no_property_is_proved_that_the_network_violates_by_the_rounding_of_its_numbers():
    assert nn.LeakyReLU(0.2)(torch.tensor(-1.0)).item() < -0.2000000001
    problem = parse_vnnlib(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 -1.0))(assert (<= X_0 -1.0))"
        "(assert (<= Y_0 -0.2000000001))"
    )
    for rounding in ("outward", "inference"):
        found = verify_property(nn.LeakyReLU(0.2), problem, (1,), rounding=rounding, deadline=Deadline(60))
        assert found.verdict is Verdict.VIOLATED


@pytest.mark.parametrize("rounding", ["outward", "inference"])
def test_no_property_is_proved_of_a_float64_network_by_what_float32_makes_of_it(rounding):
    # Its parameter is 1, a float32 number, but the weight that it computes, 2^-30, is 0 in float32.
    network = Computed(lambda x, w: functional.linear(x, (w + 2.0**-30) - w)).double()
    nn.init.ones_(network.weight)
    assert network(torch.ones(1, 1, dtype=torch.float64)) == 2.0**-30
    problem = parse_vnnlib(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 1.0))(assert (<= X_0 1.0))"
        "(assert (>= Y_0 1e-10))"
    )
    assert verify_property(network, problem, (1,), rounding=rounding).verdict is not Verdict.HOLDS
    with pytest.raises(InvalidInputError, match=r"the network is torch\.float64, .*use dtype=torch\.float64"):
        verify_property(network, problem, (1,), dtype=torch.float32, rounding=rounding)
    mixed = nn.Linear(1, 1)
    mixed.register_buffer("tenth", torch.tensor(0.1, dtype=torch.float64))
    with pytest.raises(InvalidInputError, match=r"'tenth' of shape \[\] is torch\.float64, .*use dtype=torch\.float64"):
        verify_property(mixed, problem, (1,), dtype=torch.float32, network_dtype=torch.float32, rounding=rounding)


def _at_one(unsafe):
    """The property whose one input is 1."""
    return parse_vnnlib(
        f"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 1.0))(assert (<= X_0 1.0))(assert {unsafe})"
    )


class Scaled(nn.Module):
    """The input times what is computed from a parameter in its own format."""

    def __init__(self, function, parameter):
        super().__init__()
        self.parameter = nn.Parameter(parameter)
        self.register_buffer("shift", None)
        self.function = function

    def forward(self, x):
        return (x if self.shift is None else x - self.shift) * self.function(self.parameter)


def _squared(w):
    return w * w


# A network in float32, and what holds of it at 1 but not of what float32 makes of its parameter.
OTHER_FORMATS = {
    "bfloat16": (lambda: Scaled(_squared, torch.tensor([1 + 2.0**-7], dtype=torch.bfloat16)), "(<= Y_0 1.01565)"),
    "float16": (lambda: Scaled(_squared, torch.tensor([1 + 2.0**-10], dtype=torch.float16)), "(<= Y_0 1.0019535)"),
    "a float64 number": (
        lambda: Scaled(lambda c: (c + 2.0**-30) - c, torch.tensor(1.0, dtype=torch.float64)), "(>= Y_0 1e-10)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rounding", ["outward", "inference"])
@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_no_property_is_proved_of_what_a_network_computes_in_formats_of_its_parameters(name, rounding):
    made, unsafe = OTHER_FORMATS[name]
    options = {"network_dtype": torch.float32, "rounding": rounding, "deadline": Deadline(60)}
    assert verify_property(made(), _at_one(unsafe), (1,), **options).verdict is Verdict.VIOLATED
    message = r"'parameter' of shape .* is torch\.\w+, in which .*convert the network by \.to\(torch\.float32\)"
    with pytest.raises(InvalidInputError, match=message):
        verify_property(made(), _at_one(unsafe), (1,), dtype=torch.float32, **options)


@pytest.mark.parametrize("rounding", ["outward", "inference"])
def test_no_property_is_proved_of_a_float64_network_by_what_float64_makes_of_narrower_parameters(rounding):
    network = Scaled(_squared, torch.tensor([1 + 2.0**-12]))
    network.shift = torch.zeros(1, dtype=torch.float64)
    value = 1.00048828125
    assert network(torch.ones(1, 1, dtype=torch.float64)) == value
    found = verify_property(network, _at_one("(<= Y_0 1.000488311)"), (1,), rounding=rounding)
    assert found.verdict is Verdict.VIOLATED
    wide = torch.ones(1, 1, dtype=torch.float64)
    lower, upper = outward(float64_copy(network, wide), wide)
    assert lower <= Fraction(value) <= upper
    assert upper - lower < 1e-12


def test_a_copy_of_a_float64_network_with_narrower_parameters_keeps_the_digits_of_its_numbers():
    network, x = Scaled(lambda w: w, torch.ones(1)), torch.ones(1, 1, dtype=torch.float64)
    network.shift = torch.tensor([0.1], dtype=torch.float64)
    network = nn.Sequential(network, nn.LeakyReLU(0.2)).eval()
    expected = network(-x)
    assert torch.equal(float64_copy(network, x)(-x), expected)
    assert float64_copy(network.float(), x.float())(-x).item() != expected.item()


def test_a_copy_is_the_same_function_whatever_precision_products_have_outside():
    network, x = Computed(lambda x, w: functional.linear(x, w @ w)).eval(), torch.ones(1, 1)
    expected = network(x).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(x).item() != expected
        assert float64_copy(network, x)(x.double()).item() == expected


def test_linear_bounds_of_hidden_nodes_have_the_weights_of_full_precision_whatever_products_have_outside():
    network = Computed(lambda x, w: functional.linear(functional.relu(functional.linear(x, w @ w)), w @ w)).eval()
    x = BoundedTensor(torch.ones(1, 1), PerturbationLpNorm(0.1))
    net = BoundedModule(network, x)
    wanted = {"relu": [net.input_name[0]]}

    def slope():
        found = net.compute_bounds((x,), return_A=True, needed_A_dict=wanted, need_A_only=True, rounding="outward")
        return found[2]["relu"][net.input_name[0]]["lA"]

    expected = slope()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(slope(), expected)


def test_whole_numbers_count_as_they_are_where_float32_holds_them_not():
    lower, upper = outward(nn.Sequential(nn.Hardtanh(0, 2**24 + 1)), torch.tensor([[3e7]]))
    assert lower <= 2**24 + 1 <= upper


class Combined(nn.Module):
    """Meets a constant."""

    def __init__(self, function, constant):
        super().__init__()
        self.function = function
        self.layer = nn.Linear(1, 3, bias=False)
        nn.init.constant_(self.layer.weight, 1.5)
        self.register_buffer("constant", constant)

    def forward(self, x):
        return self.function(self.layer(x), self.constant)


COMBINED = {
    "x / c": (lambda x, c: x / c, lambda x, c: x / c),
    "x * c": (lambda x, c: x * c, lambda x, c: x * c),
    "x - c": (lambda x, c: x - c, lambda x, c: x - c),
    "c - x": (lambda x, c: c - x, lambda x, c: c - x),
    "c - 3 x": (lambda x, c: torch.sub(c, x, alpha=3), lambda x, c: c - 3 * x),
    "x + 2 c": (lambda x, c: torch.add(x, c, alpha=2), lambda x, c: x + 2 * c),
}
FORMATS = {
    "int64": torch.tensor([3, 7, 11]),
    "int8": torch.tensor([-128, 3, 127], dtype=torch.int8),
    "uint8": torch.tensor([3, 200, 255], dtype=torch.uint8),
    "float16": torch.tensor([0.1, 0.3, 0.7], dtype=torch.float16),
    "bfloat16": torch.tensor([0.1, 0.3, 0.7], dtype=torch.bfloat16),
    "0-dim int64": torch.tensor(3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", COMBINED)
def test_constants_of_other_formats_count_as_the_numbers_that_they_are(name, format, dtype):
    function, exact = COMBINED[name]
    network = Combined(function, FORMATS[format]).eval()
    network.layer.to(dtype)
    x = torch.tensor([[0.75]], dtype=dtype)
    expected = [exact(Fraction(1.125), Fraction(c)) for c in FORMATS[format].double().expand(3).tolist()]
    copies = [network] if dtype == torch.float64 else [network, float64_copy(network, x)]
    for network in copies:
        own = next(network.parameters()).dtype
        point = BoundedTensor(x.to(own), PerturbationLpNorm(0.0))
        for method in ("IBP", "CROWN", "LBP"):
            found = BoundedModule(network, point).compute_bounds((point,), method=method, rounding="outward")
            lower, upper = ([Fraction(number) for number in side[0].tolist()] for side in found)
            size = max(map(abs, expected))
            for low, value, high in zip(lower, expected, upper, strict=True):
                assert low <= value <= high
                assert high - low <= size * 2 ** (-40 if point.dtype == torch.float64 else -14)


BEYOND_FLOAT32 = {
    "a float64 number": (torch.tensor(0.1, dtype=torch.float64), lambda c: c),
    "a whole number": (torch.tensor([2**24 + 1]), lambda c: c),
    "a sum of whole numbers": (torch.tensor([2**24]), lambda c: c + 1),
}


@pytest.mark.parametrize("name", BEYOND_FLOAT32)
def test_constants_that_float32_does_not_hold_count_as_it_rounds_them(name):
    constant, function = BEYOND_FLOAT32[name]
    network, x = Combined(lambda x, c: x * function(c), constant).eval(), torch.tensor([[0.75]])
    expected = Fraction(1.125) * single(function(constant).item())
    copied = float64_copy(network, x)
    assert [Fraction(value) for value in copied(x.double())[0].tolist()] == [expected] * 3
    for copy in (network, copied):
        point = BoundedTensor(x.to(next(copy.parameters()).dtype), PerturbationLpNorm(0.0))
        lower, upper = BoundedModule(copy, point).compute_bounds((point,), method="IBP", rounding="outward")
        assert Fraction(lower[0, 0].item()) <= expected <= Fraction(upper[0, 0].item())


def test_no_property_is_proved_that_the_network_violates_by_the_rounding_of_a_whole_number():
    network = Combined(lambda x, c: x * c, torch.tensor([2**24 + 1]))
    nn.init.ones_(network.layer.weight)
    assert (network(torch.ones(1, 1)) == 2**24).all()
    problem = parse_vnnlib(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)(declare-const Y_2 Real)"
        f"(assert (>= X_0 1.0))(assert (<= X_0 1.0))(assert (<= Y_0 {2**24 + 0.5}))"
    )
    assert verify_property(network, problem, (1,), deadline=Deadline(60)).verdict is Verdict.VIOLATED


BEYOND = [1 + 2.0**-30]


class Meets(nn.Module):
    """The input meets a float64 constant."""

    def __init__(self, function, kept):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))
        self.function = function
        if kept == "in a buffer":
            self.register_buffer("constant", torch.tensor(BEYOND, dtype=torch.float64))
        else:
            self.constant = torch.tensor(BEYOND, dtype=torch.float64) if kept == "in an attribute" else None

    def forward(self, x):
        constant = torch.tensor(BEYOND, dtype=torch.float64) if self.constant is None else self.constant
        return self.function(x * self.one, constant)


def _subtracted_in_place(x, c):
    x -= c
    return x


MET = {
    "minus": lambda x, c: x - c,
    "minus in place": _subtracted_in_place,
    "a method in place": lambda x, c: x.sub_(c),
    "a computed constant": lambda x, c: x - (c + 0),
    "joined": lambda x, c: torch.cat((x - c, x), 1)[:, :1],
}


@pytest.mark.parametrize("kept", ["in a buffer", "in an attribute", "nowhere"])
@pytest.mark.parametrize("name", MET)
def test_no_property_is_proved_of_a_network_that_computes_in_a_wider_format_than_its_own(name, kept):
    network, one = Meets(MET[name], kept), torch.ones(1, 1)
    assert network(one) == -(2.0**-30)
    problem = parse_vnnlib(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 1.0))(assert (<= X_0 1.0))"
        "(assert (<= Y_0 -5e-10))"
    )
    message = r"torch\.float64, but the network's input is torch\.float32, .*; convert"
    with pytest.raises(UnsupportedLayerError, match=message):
        verify_property(network, problem, (1,), network_dtype=torch.float32)
    with pytest.raises(UnsupportedLayerError, match=message):
        BoundedModule(network, one)


SLOPES = {
    "a number": lambda: nn.LeakyReLU(0.2),
    "a tensor in an attribute": lambda: nn.LeakyReLU(torch.tensor(0.2, dtype=torch.float64)),
    "a buffer": lambda: LeakyReLU(0.2, dtype=torch.float64),
}


@pytest.mark.parametrize("name", SLOPES)
def test_slopes_in_float64_count_as_float32_rounds_them(name):
    network, x = SLOPES[name](), torch.tensor([[-1.0]])
    expected = -single(0.2)
    assert network(x).item() == expected
    copied = float64_copy(network, x)
    assert copied(x.double()).item() == expected
    lower, upper = outward(copied, x.double())
    assert lower <= expected <= upper
    assert upper - lower < 1e-12


FAR = {
    "both far": (-1e30, 1e30),
    "left far": (-1e30, 2.0),
    "right far": (-2.0, 1e30),
    "both infinite": (-math.inf, math.inf),
    "left infinite": (-math.inf, 2.0),
    "right infinite": (-2.0, math.inf),
    "a thousand": (-1000.0, 1000.0),
}


@pytest.mark.parametrize("rounding", ["nearest", "outward", "inference"])
@pytest.mark.parametrize("method", ["IBP", "CROWN", "LBP"])
@pytest.mark.parametrize("name", FAR)
def test_clamps_with_far_limits_lose_nothing_of_what_lies_between(name, method, rounding):
    low, high = FAR[name]
    x = torch.tensor([[0.3, -0.7, 1e-3, 1.9]])
    point = BoundedTensor(x, PerturbationLpNorm(0.0))
    lower, upper = BoundedModule(nn.Hardtanh(low, high), x).compute_bounds((point,), method=method, rounding=rounding)
    for side in (lower, upper):
        torch.testing.assert_close(side, x, rtol=0, atol=2e-5)
    if rounding != "nearest":
        assert (lower <= x).all()
        assert (x <= upper).all()


def test_no_property_is_proved_that_the_network_violates_by_the_rounding_of_a_number_of_its_shape():
    network, x = Computed(lambda x, w: x * (x.shape[1] + 2) ** -0.5), torch.ones(1, 1)
    value = network(x).item()
    assert value < 3**-0.5 - 1e-9
    problem = parse_vnnlib(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 1.0))(assert (<= X_0 1.0))"
        f"(assert (<= Y_0 {value + 1e-9!r}))"
    )
    assert verify_property(network, problem, (1,), deadline=Deadline(60)).verdict is Verdict.VIOLATED
