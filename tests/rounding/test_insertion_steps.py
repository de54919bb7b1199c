"""Insertion of forward bounds, taking over rows, and max pooling: single steps in exact arithmetic."""

import numpy as np
import pytest
import torch
from rounding.cases import bounds as bounds_of
from rounding.cases import box, fill, flushed_subnormals, generator, numbers
from rounding.exact import Exact, linear_range
from rounding.test_forward_steps import sides
from torch import Tensor, nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.graph import Relaxations
from lbp.linear import DenseCoefficients, ForwardBounds, Region
from lbp.methods.forward import inserted
from lbp.methods.outward_forward import OutwardForward
from lbp.perturbations import PerturbationLpNorm

INPUTS, NEURONS, ROWS = 24, 40, 16
KINDS = ("gaussian", "cancelling", "ratios", "subnormal")


def magnitude(values: Exact) -> Exact:
    return values.each(abs)


def forward_bounds(kind: str, x: Tensor, *shape: int, seed: int = 0) -> ForwardBounds:
    """Bounds of a layer in terms of INPUTS, of one image, whose spread at x is not negative."""
    center, radius = (numbers(kind, 1, INPUTS, *shape, seed=seed + i) for i in range(2))
    center_bias, radius_bias = (numbers(kind, 1, *shape, seed=seed + i) for i in (2, 3))
    signs = x.sign().reshape(1, INPUTS, *[1] * len(shape))
    return ForwardBounds(center, radius.abs() / 4 * signs, center_bias, radius_bias.abs() / 4)


def flat(bounds: ForwardBounds) -> ForwardBounds:
    """The same bounds with the layer's dimensions in one."""
    center, radius, center_bias, radius_bias = bounds.matrices
    return ForwardBounds(center.flatten(2), radius.flatten(2), center_bias.flatten(1), radius_bias.flatten(1))


def linear_node():
    """A node of NEURONS neurons that no step has made yet."""
    return BoundedModule(nn.Linear(INPUTS, NEURONS), torch.zeros(1, INPUTS))._network().output


def losses_of_insertion(kind: str, *, outward: bool) -> int:
    """How many rows inserted at a point promise more than the bounds that were inserted."""
    x = numbers("gaussian", 1, INPUTS, seed=7)
    bounds = forward_bounds(kind, x, NEURONS)
    A = numbers(kind, 2, 1, ROWS, NEURONS, seed=8)
    forward, node = OutwardForward(Region(x, x)), linear_node()
    ready = forward.insertable(node, bounds) if outward else bounds
    coefficients, constants = inserted(A, ready, "both")
    if outward:
        rows = DenseCoefficients(coefficients)
        constants = constants + forward.loss_of_insertion(node, rows, "both", is_sum=False)
    low, high = sides(bounds, x[0])
    wrong = 0
    for side, sign in ((0, -1), (1, 1)):
        found = Exact.of(coefficients[side, 0]) @ Exact.of(x[0]) + Exact.of(constants[side, 0])
        rows = Exact.of(A[side, 0])
        # The middle of the bounds times A, and their spread times |A|, both doubled.
        middle, spread = rows @ (low + high), magnitude(rows) @ (high - low)
        promised, allowed = (found + found, middle + (spread if sign > 0 else -spread))
        wrong += int((~(promised <= allowed if sign < 0 else allowed <= promised)).sum())
    return wrong


@pytest.mark.parametrize("kind", KINDS)
def test_inserted_bounds_promise_no_more_than_they_did(kind):
    assert losses_of_insertion(kind, outward=True) == 0


def test_insertion_rounded_to_nearest_does_promise_more():
    assert losses_of_insertion("gaussian", outward=False) > 0


def test_flushed_rows_lose_their_share_of_the_constants_inserted():
    x, zeros = torch.zeros(1, INPUTS), torch.zeros(1, INPUTS, NEURONS)
    bounds = ForwardBounds(zeros, zeros, torch.full((1, NEURONS), 2.0**100), torch.zeros(1, NEURONS))
    A = torch.full((2, 1, ROWS, NEURONS), 2.0**-127)
    forward, node = OutwardForward(Region(x, x)), linear_node()
    with flushed_subnormals():
        coefficients, constants = inserted(A, forward.insertable(node, bounds), "both")
        rows = DenseCoefficients(coefficients)
        lower, upper = constants + forward.loss_of_insertion(node, rows, "both", is_sum=False)
    assert (lower <= NEURONS * 2.0**-27).all()
    assert (upper >= NEURONS * 2.0**-27).all()


def alive_network(seed: int = 0) -> nn.Sequential:
    """Convolutions whose activations never bend over small boxes: back-substitution from the top is exact."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2, stride=2), nn.ReLU())
    model = fill(nn.Sequential(*model, nn.Flatten(), nn.Linear(18, 12)), "cancelling", seed)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.fill_(64.0)
    return model


def matrix_of(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Exact, Exact]:
    """The exact matrix [n_out, n_in] and constants [n_out] of an affine layer whose entries float64 holds."""
    size = int(np.prod(shape))
    if isinstance(layer, nn.Linear):
        return Exact.of(layer.weight), Exact.of(layer.bias)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    rows = nn.functional.conv2d(basis, layer.weight.double(), None, layer.stride, layer.padding)
    return Exact.of(rows.flatten(1)).mT, Exact.of(layer.bias[:, None].expand(-1, rows[0, 0].numel()).flatten())


@pytest.mark.parametrize("mode", ["patches", "matrix"])
@pytest.mark.parametrize("method", ["CROWN-IBP", "LBP", "CROWN-LBP", "Relaxed-CROWN-1", "Relaxed-CROWN-2", "CROWN"])
def test_linear_bounds_of_networks_that_do_not_bend_lie_outside_of_the_exact_range(method, mode):
    shapes = ((2, 6, 6), (3, 6, 6), (18,))
    for seed in range(3):
        model = alive_network(10 * seed)
        layers = [layer for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)]
        matrix, constant = matrix_of(layers[0], shapes[0])
        for layer, shape in zip(layers[1:], shapes[1:], strict=True):
            weight, bias = matrix_of(layer, shape)
            matrix, constant = weight @ matrix, weight @ constant + bias
        x = torch.rand(1, 2, 6, 6, generator=generator(seed))
        region = BoundedTensor(x, PerturbationLpNorm(x_L=x - 1e-3, x_U=x + 1e-3))
        C = None if method.startswith("Relaxed") else torch.eye(12)[None]
        net = BoundedModule(model, x, bound_opts={"conv_mode": mode})
        with torch.no_grad():
            lower, upper = net.compute_bounds(x=(region,), C=C, method=method, rounding="outward")
        low, high = linear_range(matrix, constant, Exact.of((x - 1e-3).flatten(1)), Exact.of((x + 1e-3).flatten(1)))
        assert (Exact.of(lower) <= low).all()
        assert (high <= Exact.of(upper)).all()


def wrong_sides(low: Exact, high: Exact, exact_low: Exact, exact_high: Exact) -> int:
    return int((~(low <= exact_low)).sum() + (~(exact_high <= high)).sum())


@pytest.mark.parametrize("outward", [True, False])
def test_rows_that_are_taken_over_keep_their_sides(outward):
    wrong = 0
    for kind in KINDS:
        x = numbers("gaussian", 1, INPUTS, seed=1)
        A = numbers(kind, 2, 1, NEURONS, INPUTS, seed=2)
        constants = numbers(kind, 2, 1, NEURONS, seed=3).double() / 3
        bounds = ForwardBounds.from_sides(A, constants, (NEURONS,))
        if outward:
            bounds = OutwardForward(Region(x, x)).taken_over(linear_node(), bounds)
        exact = [Exact.of(A[side, 0]) @ Exact.of(x[0]) + Exact.of(constants[side, 0]) for side in range(2)]
        wrong += wrong_sides(*sides(bounds, x[0]), *exact)
    assert (wrong == 0) == outward


@pytest.mark.parametrize("outward", [True, False])
def test_max_pooling_follows_the_sides_of_a_pixel(outward):
    shape, wrong = (2, 4, 6), 0
    node = BoundedModule(nn.MaxPool2d(2, 2), torch.zeros(1, *shape))._network().output
    x = numbers("gaussian", 1, INPUTS, seed=9)
    for seed, kind in enumerate(KINDS):
        forward, bounds = OutwardForward(Region(x, x)), forward_bounds(kind, x, *shape, seed=seed)
        before = tuple(side.unflatten(1, shape) for side in forward.bounds(node, flat(bounds)))
        relaxations = Relaxations("adaptive", "both", {node.inputs[0]: before})
        if outward:
            found = forward.step(node, [bounds], relaxations)
        else:
            found = node.forward_linear(bounds, relaxations=relaxations)
        # Of a window's sides the largest ones: 2 channels, 2 by 3 windows of 2 by 2 pixels.
        largest = [
            side.each(lambda entries: entries.reshape(2, 2, 2, 3, 2).max((2, 4)).reshape(-1))
            for side in sides(flat(bounds), x[0])
        ]
        wrong += wrong_sides(*sides(flat(found), x[0]), *largest)
    assert (wrong == 0) == outward


@pytest.mark.parametrize("conv_mode", ["patches", "matrix"])
def test_images_that_share_rows_pay_for_their_own_numbers(conv_mode):
    layers = (nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    model = fill(nn.Sequential(*layers), "gaussian")
    lower, upper = (torch.cat([side, side * 1e6]) for side in box(1, 1, 8, 8))
    keywords = {"method": "Relaxed-CROWN-1", "rounding": "outward", "options": {"conv_mode": conv_mode}}
    together = bounds_of(model, lower, upper, **keywords)
    for i in range(2):
        alone = bounds_of(model, lower[i : i + 1], upper[i : i + 1], **keywords)
        torch.testing.assert_close([side[i : i + 1] for side in together], list(alone), rtol=2e-6, atol=0)
