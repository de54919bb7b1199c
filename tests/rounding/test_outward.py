"""An outward bound in float32 never lies inside the true range of the network in real arithmetic.

Where every activation keeps to one piece the methods are exact, so that their bounds lie at the ends of the true range
and an error of one unit in the last place shows: there rounding to nearest does fail. Where activations bend, bounds
are compared with exact values of the network at points of small regions, of which they lie within a few units.
"""

import gc
import weakref

import pytest
import torch
from rounding.cases import (
    KINDS,
    METHODS,
    NETWORKS,
    bounds,
    box,
    case,
    dense_network,
    fill,
    flushed_subnormals,
    numbers,
    points,
)
from rounding.exact import Difference, Exact, interval_range, linear_range, value
from torch import nn

import lbp
from lbp.bounded import BoundedModule, BoundedTensor
from lbp.methods.outward import Outward
from lbp.perturbations import PerturbationLpNorm

LINEAR_METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "Relaxed-CROWN-1", "CROWN")
LEVELS = ("outward", "inference")
BATCH, INPUTS, WIDTH, OUTPUTS = 4, 6, 10, 48


def violations(found, low, high):
    """How many finite bounds [B, S] lie inside the range from low to high, and how many were compared."""
    lower, upper = (side.flatten(1) for side in found)
    finite_lower, finite_upper = torch.isfinite(lower), torch.isfinite(upper)
    inside_lower = ~(Exact.of(lower.where(finite_lower, 0)) <= low) & finite_lower.numpy()
    inside_upper = ~(high <= Exact.of(upper.where(finite_upper, 0))) & finite_upper.numpy()
    return int(inside_lower.sum() + inside_upper.sum()), int(finite_lower.sum() + finite_upper.sum())


def never_inside(found, values):
    """Whether no exact value [B, S] lies outside of the bounds."""
    return all(violations(found, reached, reached)[0] == 0 for reached in values)


def affine_chain(kind, seed=0):
    """Two affine layers without an activation between them."""
    return fill(nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, OUTPUTS)), kind, seed)


def range_of_chain(model, lower, upper, method):
    """What the method gives for two affine layers in exact arithmetic."""
    first, second = model
    low, high = Exact.of(lower), Exact.of(upper)
    if method == "IBP":
        return interval_range([first, second], low, high)
    weight = Exact.of(second.weight)
    constant = weight @ Exact.of(first.bias) + Exact.of(second.bias)
    return linear_range(weight @ Exact.of(first.weight), constant, low, high)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("method", LINEAR_METHODS)
def test_bounds_of_affine_chains_lie_outside_of_the_exact_range(method, backend):
    with lbp.backend(backend):
        for seed, kind in enumerate(KINDS):
            model, (lower, upper) = affine_chain(kind, seed), box(BATCH, INPUTS, seed=seed)
            exact = range_of_chain(model, lower, upper, method)
            wrong, compared = violations(bounds(model, lower, upper, method=method, rounding="outward"), *exact)
            assert wrong == 0, f"{wrong} of {compared} {kind} bounds"
            assert compared == 2 * BATCH * OUTPUTS


@pytest.mark.parametrize("method", LINEAR_METHODS)
def test_rounding_to_nearest_does_put_bounds_inside_of_the_exact_range(method):
    wrong = 0
    for seed, kind in enumerate(("gaussian", "cancelling", "ratios")):
        model, (lower, upper) = affine_chain(kind, seed), box(BATCH, INPUTS, seed=seed)
        exact = range_of_chain(model, lower, upper, method)
        wrong += violations(bounds(model, lower, upper, method=method, rounding="nearest"), *exact)[0]
    assert wrong > 0


@pytest.mark.parametrize("method", LINEAR_METHODS)
def test_specifications_are_bounded_outward(method):
    model, (lower, upper) = affine_chain("cancelling"), box(BATCH, INPUTS)
    C = numbers("gaussian", BATCH, 5, OUTPUTS, seed=9)
    found = bounds(model, lower, upper, C=C, method=method, rounding="outward")
    first, second = model
    for image in range(BATCH):
        rows = Exact.of(C[image]) @ Exact.of(second.weight)
        constant = rows @ Exact.of(first.bias) + Exact.of(C[image]) @ Exact.of(second.bias)
        matrix = rows @ Exact.of(first.weight)
        low, high = linear_range(
            matrix, constant, Exact.of(lower[image : image + 1]), Exact.of(upper[image : image + 1])
        )
        assert violations([side[image : image + 1] for side in found], low, high)[0] == 0


@pytest.mark.parametrize("kind", ["gaussian", "absorbing"])
@pytest.mark.parametrize("method", LINEAR_METHODS)
def test_sums_of_a_hundred_thousand_terms(method, kind):
    terms = 100_000
    model = fill(nn.Sequential(nn.Linear(2, terms), nn.Linear(terms, 1)), "gaussian")
    if kind == "absorbing":
        # Terms that are lost one by one in a sum that has reached 1, and add up to many units in its last place.
        with torch.no_grad():
            model[0].weight.fill_(1)
            model[1].weight.copy_(torch.where(torch.arange(terms) % 512 < 64, 1.0, 2.0**-22.5))
    lower, upper = box(2, 2)
    found = bounds(model, lower, upper, method=method, rounding="outward")
    exact = range_of_chain(model, lower, upper, method)
    assert violations(found, *exact)[0] == 0


def losing_row(terms, dtype=torch.float32):
    """Weights 1, t, t, ...: sums lose terms one by one, as 1 + t is rounded to 1."""
    row = torch.full((terms,), 0.99 * torch.finfo(dtype).eps / 2, dtype=dtype)
    row[0] = 1
    return torch.stack([row, -row])


def losing_network(kind, terms):
    """Such sums in back-substitution through an activation that does not bend, and in the last layer."""
    if kind == "convolutions":
        model = nn.Sequential(nn.Conv2d(1, terms, 1), nn.ReLU(), nn.Conv2d(terms, 2, 1, bias=False))
    else:
        model = nn.Sequential(nn.Linear(1, terms), nn.ReLU(), nn.Linear(terms, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.fill_(0)
        model[2].weight.copy_(losing_row(terms).reshape(model[2].weight.shape))
    return model, torch.ones(1, 1, 2, 2) if kind == "convolutions" else torch.ones(1, 1)


def losing_sums(terms, places, factor=1.0):
    """What such sums are, for every place of an image."""
    sums = Exact.of(factor * torch.ones(1, terms)) @ Exact.of(losing_row(terms)).mT
    return sums.each(lambda values: values.repeat(places, 1))


@pytest.mark.parametrize("kind", ["convolutions", "matrices"])
@pytest.mark.parametrize("method", METHODS)
def test_terms_that_sums_lose_one_by_one_are_paid_behind_activations_too(method, kind):
    model, x = losing_network(kind, 512)
    exact = losing_sums(512, x.numel())
    for mode in ("patches", "matrix"):
        for rounding in ("nearest", "outward"):
            found = bounds(model, x, x, method=method, rounding=rounding, options={"conv_mode": mode})
            assert (violations(found, exact, exact)[0] == 0) == (rounding == "outward")


@pytest.mark.parametrize("kind", ["convolutions", "matrices"])
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_terms_that_sums_lose_one_by_one_are_paid_where_inputs_change_their_sign(method, kind):
    terms = 4096
    model, x = losing_network(kind, terms)
    with torch.no_grad():
        model[0].bias.fill_(1)
    largest = losing_sums(terms, x.numel(), 2.0)
    for rounding in ("nearest", "outward"):
        found = bounds(model, -x, x, method=method, rounding=rounding)
        wrong, _ = violations(found, largest.negative(), largest.positive())
        assert (wrong == 0) == (rounding == "outward")


@pytest.mark.parametrize("argument", ["interm_bounds", "reference_bounds"])
def test_hidden_bounds_that_are_given_may_be_narrower_than_the_terms_that_sums_lose(argument):
    # Every hidden neuron is 3 x - (3 + s) x + 10: its bounds say nothing of its terms, of which rows lose their share.
    terms, s, (low, high) = 512, 2.0**-6, (1.0, 100.0)
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, terms), nn.ReLU(), nn.Linear(terms, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [3 + s]]))
        model[2].weight.copy_(torch.tensor([3.0, -1.0]))
        model[2].bias.fill_(10)
        model[4].weight.copy_(losing_row(terms))
        model[4].bias.zero_()
    ends = [torch.full((1, terms), 10 - s * x) for x in (high, low)]
    least, most = (Exact.of(end) @ Exact.of(losing_row(terms)).mT for end in ends)
    lower, upper = torch.tensor([[low]]), torch.tensor([[high]])
    for rounding in ("nearest", "outward"):
        given = {argument: {"2": tuple(ends)}}
        found = bounds(model, lower, upper, method="CROWN-IBP", rounding=rounding, **given)
        assert (violations(found, least, least)[0] == 0) == (rounding == "outward")
        assert rounding == "nearest" or violations(found, most, most)[0] == 0


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN-LBP", "CROWN"])
@pytest.mark.parametrize("kind", ["convolutions", "matrices"])
def test_sums_of_the_constants_of_constant_lines_are_paid(method, kind):
    model, x = losing_network(kind, 512)
    model, x = model.double(), x.double()
    row = losing_row(512, torch.float64)
    with torch.no_grad():
        model[2].weight.copy_(row.reshape(model[2].weight.shape))
    sums = Exact.of(torch.ones(1, 512, dtype=torch.float64)) @ Exact.of(row).mT
    exact = sums.each(lambda values: values.repeat(x.numel(), 1))
    for rounding in ("nearest", "outward"):
        options = {"activation_bound_option": "constant"}
        found = bounds(model, x, x, method=method, rounding=rounding, options=options)
        assert (violations(found, exact, exact)[0] == 0) == (rounding == "outward")


@pytest.mark.parametrize("kind", ["convolutions", "matrices"])
def test_terms_that_rows_of_hidden_neurons_lose_one_by_one_are_paid(kind):
    model, x = losing_network(kind, 512)
    net = BoundedModule(nn.Sequential(*model, nn.ReLU()), x, bound_opts={"sparse_intermediate_bounds": False})
    exact = losing_sums(512, x.numel())
    for rounding in ("nearest", "outward"):
        region = BoundedTensor(x, PerturbationLpNorm(x_L=x, x_U=x))
        with torch.no_grad():
            net.compute_bounds(x=(region,), method="CROWN", rounding=rounding)
        hidden = net.get_layers_requiring_bounds()[-1]
        assert (violations((hidden.lower, hidden.upper), exact, exact)[0] == 0) == (rounding == "outward")


@pytest.mark.parametrize("images", [1, 20])
@pytest.mark.parametrize("kind", ["convolution", "matrix"])
def test_what_biases_swallow_is_paid_by_intervals(kind, images):
    layer = nn.Conv2d(1, 2, 1) if kind == "convolution" else nn.Linear(1, 2)
    with torch.no_grad():
        layer.bias.copy_(losing_row(2)[:, 0])
        layer.weight.copy_(losing_row(2)[:, 1].reshape(layer.weight.shape))
    x = torch.ones(images, 1, 2, 2) if kind == "convolution" else torch.ones(images, 1)
    exact = losing_sums(2, x[0].numel()).each(lambda values: values.repeat(images, 0))
    for rounding in ("nearest", "outward"):
        found = bounds(nn.Sequential(layer, nn.Flatten()), x, x, method="IBP", rounding=rounding)
        assert (violations(found, exact, exact)[0] == 0) == (rounding == "outward")


@pytest.mark.parametrize("kind", ["convolutions", "matrices"])
def test_intervals_pay_for_nearly_all_that_their_sums_may_lose(kind):
    """As far as half of the constant: a smaller one would be found out."""
    terms = 16384
    model, x = losing_network(kind, terms)
    exact = losing_sums(terms, x.numel())
    lower, upper = bounds(nn.Sequential(model[0], model[2]), x, x, method="IBP", rounding="outward")
    assert violations((lower, upper), exact, exact)[0] == 0


@pytest.mark.parametrize("norm", [float("inf"), 2.0, 1.0])
@pytest.mark.parametrize("method", ["CROWN", "LBP"])
def test_evaluations_over_the_region_lose_terms_in_float64(method, norm):
    model = nn.Sequential(nn.Linear(4096, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(losing_row(4096, torch.float64))
    x = torch.ones(1, 4096, dtype=torch.float64)
    exact = Exact.of(x) @ Exact.of(model[0].weight).mT
    net = BoundedModule(model, x)
    for rounding in ("nearest", "outward"):
        region = BoundedTensor(x, PerturbationLpNorm(0.0, norm))
        with torch.no_grad():
            found = net.compute_bounds(x=(region,), method=method, rounding=rounding)
        assert (violations(found, exact, exact)[0] == 0) == (rounding == "outward")


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
def test_intervals_of_many_examples_through_a_layer_that_is_added_up_in_blocks(rounding):
    model = fill(nn.Sequential(nn.Linear(INPUTS, 600), nn.Linear(600, 3)), "cancelling")
    lower, upper = box(20, INPUTS, width=1e-3)
    found = bounds(model, lower, upper, method="IBP", rounding=rounding)
    wrong, _ = violations(found, *range_of_chain(model, lower, upper, "IBP"))
    assert (wrong == 0) == (rounding == "outward")


@pytest.mark.parametrize("method", ["IBP", "CROWN", "LBP"])
def test_a_single_layer_is_rounded_outward_where_its_sums_become_float32(method):
    model, (lower, upper) = fill(nn.Sequential(nn.Linear(INPUTS, OUTPUTS, bias=False)), "gaussian"), box(BATCH, INPUTS)
    exact = linear_range(Exact.of(model[0].weight), Exact.zeros(1), Exact.of(lower), Exact.of(upper))
    assert violations(bounds(model, lower, upper, method=method, rounding="outward"), *exact)[0] == 0


@pytest.mark.parametrize("method", METHODS)
def test_large_constants_that_cancel_between_branches_leave_their_rounding_errors(method):
    branches = [nn.Linear(INPUTS, OUTPUTS) for _ in range(2)]
    model = fill(nn.Sequential(nn.Linear(INPUTS, INPUTS), Difference(*branches)), "gaussian")
    with torch.no_grad():
        for branch in branches:
            branch.bias += 2.0**12
    lower, upper = box(BATCH, INPUTS, width=1e-3)
    values = [value(model, Exact.of(point)) for point in points(model, lower, upper, random=2)]
    assert never_inside(bounds(model, lower, upper, method=method, rounding="outward"), values)


@pytest.mark.parametrize("method", LINEAR_METHODS)
def test_numbers_that_are_flushed_to_zero_are_accounted_for(method):
    model, (lower, upper) = affine_chain("subnormal"), box(BATCH, INPUTS)
    with flushed_subnormals():
        found = bounds(model, lower, upper, method=method, rounding="outward")
    assert violations(found, *range_of_chain(model, lower, upper, method))[0] == 0


@pytest.mark.parametrize("method", METHODS)
def test_flushed_rows_lose_their_share_of_large_constants(method):
    model, x = nn.Sequential(nn.Linear(1, 2)), torch.zeros(1, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[0].bias.copy_(torch.tensor([-(2.0**100), 2.0**-30]))
    C = torch.tensor([[[2.0**-127, 1.0], [-(2.0**-127), -1.0]]])
    with flushed_subnormals():
        found = bounds(model, x, x, C=C, method=method, rounding="outward")
    exact = value(model, Exact.of(x)) @ Exact.of(C[0]).mT
    assert violations(found, exact, exact)[0] == 0


@pytest.mark.parametrize("layer", [nn.Flatten(), nn.ReLU()], ids=["flatten", "relu"])
@pytest.mark.parametrize("method", METHODS)
def test_products_of_rows_and_inputs_that_underflow_are_accounted_for_without_a_step_that_rounds(method, layer):
    x, C = torch.full((1, 1), 2.0**100), torch.full((1, 1, 1), 2.0**-127)
    with flushed_subnormals():
        found = bounds(nn.Sequential(layer), x, x, C=C, method=method, rounding="outward")
    assert violations(found, *[Exact.of(torch.full((1, 1), 2.0**-27))] * 2) == (0, 2)
    x = torch.full((1, 1), 1e-200, dtype=torch.float64)
    lower, _ = bounds(nn.Sequential(layer), x, x, C=-x.unsqueeze(0), method=method, rounding="outward")
    assert lower < 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_no_point_of_a_small_region_leaves_the_bounds(method, name):
    # So small that hardly any activation bends: bounds are then as tight as float32 allows.
    for kind in ("gaussian", "cancelling"):
        small = case(name, kind, width=1e-5)
        assert never_inside(small.bounds(method=method, rounding="outward"), small.reached)


@pytest.mark.parametrize("method", ["IBP", "CROWN", "LBP"])
def test_rounding_to_nearest_does_lose_points_of_a_small_region(method):
    cases = (case(name, kind, width=0.0) for kind in ("gaussian", "cancelling") for name in NETWORKS)
    assert not all(never_inside(small.bounds(method=method, rounding="nearest"), small.reached) for small in cases)


@pytest.mark.parametrize("strategy", ["adaptive", "tight", "constant", "same-slope", "zero-lb", "one-lb"])
@pytest.mark.parametrize("method", METHODS)
def test_every_strategy_is_outward(method, strategy):
    for name, width in (("dense", 1e-4), ("dense", 0.3), ("ramp conv", 0.1)):
        found = case(name, seed=3, width=width)
        bound = found.bounds(method=method, rounding="outward", options={"activation_bound_option": strategy})
        assert never_inside(bound, found.reached)


@pytest.mark.parametrize("method", METHODS)
def test_dense_matrices_and_textbook_rows_are_outward(method):
    for name in ("conv", "pooled"):
        small = case(name, width=1e-5)
        options = {"conv_mode": "matrix", "sparse_intermediate_bounds": False}
        assert never_inside(small.bounds(method=method, rounding="outward", options=options), small.reached)


def test_an_overflow_gives_no_finite_bound():
    model, (lower, upper) = affine_chain("large"), box(BATCH, INPUTS)
    with torch.no_grad():
        model[0].weight *= 2.0**40
    for method in LINEAR_METHODS:
        found = bounds(model, lower, upper, method=method, rounding="outward")
        exact = range_of_chain(model, lower, upper, method)
        assert violations(found, *exact)[0] == 0
        assert not torch.isfinite(torch.stack(found)).all()
        assert not (found[0] == torch.inf).any()
        assert not (found[1] == -torch.inf).any()


@pytest.mark.parametrize("method", METHODS)
def test_what_a_call_holds_is_freed_when_it_ends(method, monkeypatch):
    made = []
    prepare = Outward.__init__

    def remembered(outward, problem):
        prepare(outward, problem)
        made.append(weakref.ref(problem))

    monkeypatch.setattr(Outward, "__init__", remembered)
    small = case("conv")
    gc.disable()
    try:
        small.bounds(method=method, rounding="outward")
        assert made
        assert not any(problem() for problem in made)
    finally:
        gc.enable()


@pytest.mark.parametrize("reach", [2.0**100, 3e38])
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
def test_an_image_of_huge_numbers_leaves_the_bounds_of_others_alone(method, reach):
    model, (lower, upper) = fill(dense_network(), "gaussian"), box(2, INPUTS)
    alone = {level: bounds(model, lower[:1], upper[:1], method=method, rounding=level) for level in LEVELS}
    upper[1] = reach
    values = [value(model, Exact.of(point)) for point in (lower, upper)]
    for level in LEVELS:
        found = bounds(model, lower, upper, method=method, rounding=level)
        torch.testing.assert_close(tuple(side[:1] for side in found), alone[level])
        assert never_inside(found, values)
