"""Verdicts about properties: a proof, a confirmed counterexample, or neither; never a guess."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods.budgets import peak_of
from torch import nn
from verification.small_properties import network, stated

from lbp.errors import InvalidInputError
from lbp.verification.properties import Deadline, OutOfTimeError, Verdict, verify_property
from lbp.verification.properties.attack import Confirmation, attack, representable
from lbp.verification.properties.bounds import BoxBounds, LinearLower
from lbp.verification.properties.case import UnsafeSets
from lbp.verification.properties.split import BoxStack, Splitting, influence
from lbp.vnnlib import Box, Case, Conjunction, Property, parse_vnnlib


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def grid_values(model, low, high, count=101):
    line = torch.linspace(low, high, count, dtype=torch.float64)
    return model.double()(torch.cartesian_prod(line, line)).detach()


def test_a_bound_with_room_is_proved_and_one_that_a_point_crosses_is_violated():
    smallest = grid_values(network(), -1, 1)[:, 0].min().item()
    held = verify_property(network(), stated(-1, 1, f"(<= Y_0 {smallest - 0.05})"), (2,))
    assert held.verdict is Verdict.HOLDS
    assert held.counterexample is None
    broken = verify_property(network(), stated(-1, 1, f"(<= Y_0 {smallest + 0.01})"), (2,))
    assert broken.verdict is Verdict.VIOLATED
    point = broken.counterexample
    assert point.x.abs().max() <= 1
    assert network().double()(point.x[None])[0, 0] <= smallest + 0.01
    assert torch.equal(point.x, point.x.float().double())


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), share=st.floats(-0.3, 0.3))
def test_verdicts_agree_with_a_fine_grid(seed, share):
    values = grid_values(network(seed), -1, 1)
    spread = values[:, 0].max() - values[:, 0].min()
    limit = (values[:, 0].min() + share * spread).item()
    # With no room on either side neither proof nor counterexample need turn up: there only a false verdict would tell.
    patience = Deadline(20 if abs(share) > 0.01 else 0.2)
    found = verify_property(network(seed), stated(-1, 1, f"(<= Y_0 {limit})"), (2,), deadline=patience)
    if share < -0.01:
        assert found.verdict is not Verdict.UNKNOWN
    if share > 0.01:
        assert found.verdict is Verdict.VIOLATED
    if found.verdict is Verdict.HOLDS:
        assert values[:, 0].min() > limit


def test_a_conjunction_is_excluded_by_different_rows_in_different_parts_of_the_box():
    # y = (x0, -x0): both can be small, but never together; no row alone excludes the set on the whole box.
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    found = verify_property(model, stated(-1, 1, "(<= Y_0 -0.1)", "(<= Y_1 -0.1)"), (2,))
    assert found.verdict is Verdict.HOLDS
    assert found.decided_by == ("splitting",)
    assert found.boxes > 1
    touching = verify_property(model, stated(-1, 1, "(<= Y_0 0.1)", "(<= Y_1 0.1)"), (2,))
    assert touching.verdict is Verdict.VIOLATED


def test_every_case_and_every_alternative_counts():
    model = nn.Identity()
    text = "".join(f"(declare-const X_{i} Real)(declare-const Y_{i} Real)" for i in range(2))
    boxes = "(assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 5) (<= X_0 6))))(assert (and (>= X_1 0) (<= X_1 1)))"
    wrapped = nn.Sequential(model, nn.ReLU())
    safe = parse_vnnlib(text + boxes + "(assert (or (>= Y_0 7) (>= Y_1 2)))")
    assert verify_property(wrapped, safe, (2,)).verdict is Verdict.HOLDS
    second_box = parse_vnnlib(text + boxes + "(assert (or (>= Y_0 5.5) (>= Y_1 2)))")
    found = verify_property(wrapped, second_box, (2,))
    assert found.verdict is Verdict.VIOLATED
    assert found.counterexample.x[0] >= 5.5
    assert verify_property(wrapped, parse_vnnlib(text + boxes + "(assert (>= X_1 3))"), (2,)).verdict is Verdict.HOLDS


def test_without_constraints_of_the_output_any_point_of_the_box_violates():
    found = verify_property(network(), stated(0, 1), (2,))
    assert found.verdict is Verdict.VIOLATED


def test_nan_decides_nothing():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            nn.init.constant_(self.layer.bias, math.nan)

        def forward(self, x):
            return self.layer(x)

    found = verify_property(Broken(), stated(0, 1, "(<= Y_0 0)"), (2,), deadline=Deadline(1))
    assert found.verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT)
    assert verify_property(Broken(), stated(0, 1), (2,)).verdict is Verdict.UNKNOWN
    sets = UnsafeSets.of([Conjunction(f64([1.0, 0.0]), f64(0.0))], 2, torch.float64)
    assert not sets.excluded(f64([math.nan])).any()
    assert not sets.excluded(f64([math.inf])).any()
    assert not sets.excluded(f64([0.0])).any()
    assert not sets.excluded(f64([1e-14])).any()
    assert sets.excluded(f64([1e-13])).all()


def test_a_point_that_evaluations_disagree_about_is_no_counterexample():
    evaluations = [lambda x: f64(1.0, 1.0)]
    problem = stated(0, 1, "(<= Y_0 0)")
    constant = nn.Linear(2, 2)
    nn.init.zeros_(constant.weight)
    nn.init.constant_(constant.bias, -1)
    found = verify_property(constant, problem, (2,), evaluations=evaluations, deadline=Deadline(1))
    assert found.verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT)
    assert verify_property(constant, problem, (2,)).verdict is Verdict.VIOLATED


def single(weight, bias, limit):
    """The property that weight * x + bias is above a limit at x = 1 + 2^-23, and its network."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, weight)
    nn.init.constant_(model.bias, bias)
    point = f64(1 + 2**-23)
    return model, Property(1, 1, (Case(Box(point, point), (Conjunction(f64([1.0]), f64(limit)),)),))


def test_a_point_that_is_unsafe_by_rounding_alone_is_no_counterexample():
    # y = 2^30 + 1 + 2^-22 + 2^-46, whose last part neither float32 nor float64 hold.
    weight, bias, limit = 1 + 2**-23, 2.0**30, 2.0**30 + 1 + 2.0**-22
    assert Fraction(weight) ** 2 + Fraction(bias) > Fraction(limit)
    model, problem = single(weight, bias, limit)
    for rounding in ("outward", "inference"):
        assert verify_property(model, problem, (1,), rounding=rounding).verdict is Verdict.UNKNOWN
    assert verify_property(model, problem, (1,), rounding="nearest").verdict is Verdict.VIOLATED
    model, problem = single(weight, bias, limit + 1e-5)
    assert verify_property(model, problem, (1,)).verdict is Verdict.VIOLATED


def test_a_point_that_is_unsafe_in_float32_alone_is_no_counterexample():
    # y = 2^24 + 1/2 + 2^-24 is above the limit, and rounded to 2^24 in float32.
    model, problem = single(0.5, 2.0**24, 2.0**24 + 0.25)
    found = verify_property(model, problem, (1,), dtype=torch.float32, rounding="nearest")
    assert found.verdict is Verdict.UNKNOWN


def test_a_counterexample_with_the_very_output_of_the_limit_counts_where_it_is_exact():
    # No rounding: all neurons are off.
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    nn.init.constant_(model[0].bias, -9)
    assert verify_property(model, stated(0, 1, "(<= Y_0 Y_1)"), (2,)).verdict is Verdict.VIOLATED
    assert verify_property(model, stated(0, 1, "(<= Y_0 0)", "(>= Y_1 0)"), (2,)).verdict is Verdict.VIOLATED


def test_a_counterexample_of_a_deep_network_counts_although_its_intervals_explode():
    layers = [layer for _ in range(24) for layer in (nn.Linear(30, 30), nn.ReLU())]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers[::2]:
            nn.init.normal_(layer.weight, std=(2 / 30) ** 0.5)
    model = nn.Sequential(nn.Linear(2, 30), *layers, nn.Linear(30, 2)).double()
    point = torch.full((2,), 0.5, dtype=torch.float64)
    limit = model(point)[0].item() + 1e-6
    assert BoxBounds(model, (2,), torch.float64).outputs(point, "IBP")[1][0] > limit
    problem = Property(2, 2, (Case(Box(point, point), (Conjunction(f64([1.0, 0.0]), f64(limit)),)),))
    assert verify_property(model, problem, (2,)).verdict is Verdict.VIOLATED


def test_many_inputs_are_not_split_and_end_unknown():
    model = network(inputs=30, width=40)
    text = "".join(f"(declare-const X_{i} Real)(assert (and (>= X_{i} -1) (<= X_{i} 1)))" for i in range(30))
    wide = model.double()(torch.rand(2000, 30, dtype=torch.float64) * 2 - 1)[:, 0]
    limit = (wide.min() - 2 * (wide.max() - wide.min())).item()
    problem = parse_vnnlib(text + f"(declare-const Y_0 Real)(declare-const Y_1 Real)(assert (<= Y_0 {limit}))")
    assert verify_property(network(inputs=30, width=40), problem, (30,), methods=("IBP",)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("end", [0.1, 0.7])
def test_bounds_in_float32_hold_at_ends_of_the_box_that_float32_does_not_hold(end):
    assert f64(end).float().double() != end
    sets = UnsafeSets.of([Conjunction(f64([1.0], [-1.0]), f64(0.0, 0.0))], 1, torch.float32)
    bounds = BoxBounds(nn.Sequential(nn.Flatten()), (1,), torch.float32, rounding="nearest")
    for method in ("IBP", "CROWN", "LBP"):
        lower = bounds.lower(f64([end]), f64([end]), sets, method)
        assert (lower.double() <= f64([end, -end])).all()


def test_float32_bounds_and_other_methods_give_the_same_verdict():
    smallest = grid_values(network(), -1, 1)[:, 0].min().item()
    problem = stated(-1, 1, f"(<= Y_0 {smallest - 0.05})")
    for keywords in ({"dtype": torch.float32}, {"methods": ()}, {"split_method": "CROWN-LBP", "strategy": "tight"}):
        assert verify_property(network(), problem, (2,), **keywords).verdict is Verdict.HOLDS


def test_the_points_of_an_attack_stay_within_the_budget_and_do_not_depend_on_it():
    inputs, classes = 64, 40
    model = network(inputs=inputs, outputs=classes, width=256).double()
    box = Box(torch.zeros(inputs, dtype=torch.float64), torch.ones(inputs, dtype=torch.float64))
    # Every output below -99: no counterexample, so that all points are tried.
    rows = torch.eye(classes, dtype=torch.float64)
    sets = UnsafeSets.of([Conjunction(row[None], f64(-99.0)) for row in rows], classes, torch.float64)
    confirm = Confirmation(Property(inputs, classes, ()), ())
    tried, budget = [], 2**20

    def run(at_once):
        tried.clear()
        attack(record, (inputs,), box, sets, confirm, Deadline(), steps=1, restarts=10, at_once=at_once)
        return torch.cat(tried)

    def record(x):
        tried.append(x.detach().clone())
        return model(x)

    at_once = BoxBounds(model, (inputs,), torch.float64, memory_budget=budget).points_within(classes)
    assert 1 < at_once < 400
    assert BoxBounds(model, (inputs,), torch.float64, memory_budget=1).points_within(classes) == 1
    whole, split = run(None), run(at_once)
    assert (whole[:classes] == 0.5).all(), "every set is searched from the middle of the box first"
    assert torch.equal(torch.stack(sorted(whole, key=lambda x: x[0])), torch.stack(sorted(split, key=lambda x: x[0])))

    @torch.enable_grad()
    def run_within():
        attack(model, (inputs,), box, sets, confirm, Deadline(), steps=1, restarts=10, at_once=at_once)

    peak, _ = peak_of(run_within)
    assert peak <= 1.1 * budget


def test_the_random_starts_of_an_attack_follow_from_the_seed():
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, 1.0)
    nn.init.zeros_(model.bias)

    def found(seed):
        return verify_property(model, stated(-1, 1, "(<= Y_0 -1)", outputs=1), (2,), seed=seed).counterexample.x

    first, second, again = found(1), found(2), found(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_splitting_stays_within_the_budget():
    model = network(width=64).double()
    side = torch.linspace(-1, 1, 101, dtype=torch.float64)
    with torch.no_grad():
        smallest = float(model(torch.cartesian_prod(side, side))[:, 0].min())
    (case,) = stated(-1, 1, f"(<= Y_0 {smallest - 0.005})").cases
    sets = UnsafeSets.of(case.unsafe, 2, torch.float64, "outward")

    def decide(budget):
        bounds = BoxBounds(model, (2,), torch.float64, memory_budget=budget)
        splitting = Splitting(model, bounds, sets, Confirmation(stated(-1, 1), ()), "CROWN")
        peak, found = peak_of(lambda: splitting.run(case.box, Deadline()))
        assert found is None
        assert not splitting.too_small
        return peak, splitting.bounded

    (free, boxes), (peak, again) = decide(None), decide(2**19)
    assert peak <= 1.1 * 2**19 < free
    assert boxes == again > 100


def test_the_network_is_left_as_it_is():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verify_property(model, stated(0, 1, "(<= Y_0 -9)"), (2,))
    assert model.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_network_that_does_not_fit_is_refused_with_both_sizes():
    with pytest.raises(InvalidInputError, match=r"inputs of shape \[3\], 3 numbers.*about 2 inputs"):
        verify_property(network(inputs=3), stated(0, 1, "(<= Y_0 0)"), (3,))
    with pytest.raises(InvalidInputError, match=r"outputs of shape \[4\], 4 numbers.*about 2 outputs"):
        verify_property(network(outputs=4), stated(0, 1, "(<= Y_0 0)"), (2,))


NUMBERS = st.floats(-1e30, 1e30)


@given(ends=st.tuples(NUMBERS, NUMBERS).map(sorted), share=st.floats(0, 1))
def test_representable_points_stay_in_the_box_and_are_float32_where_the_box_holds_one(ends, share):
    box = Box(f64(ends[0]), f64(ends[1]))
    point = representable(f64(ends[0] + share * (ends[1] - ends[0])), box)
    assert box.contains(point)
    single = box.lower.float()
    candidates = [single, torch.nextafter(single, torch.full_like(single, math.inf))]
    if any(box.contains(candidate.double()) for candidate in candidates):
        assert torch.equal(point, point.float().double())


def test_confirmation_clamps_points_into_the_box():
    problem = stated(0, 1, "(<= Y_0 0)")
    confirm = Confirmation(problem, [lambda x: x - 1])
    assert confirm(f64(-5.0, 0.3), problem.cases[0].box).x.tolist() == [0.0, pytest.approx(0.3)]
    assert Confirmation(problem, [lambda x: x + 1])(f64(0.5, 0.5), problem.cases[0].box) is None


def test_a_box_whose_width_overflows_is_searched_and_split_like_any_other():
    model, (box,) = nn.Linear(2, 1), [case.box for case in stated(-1e308, 1e308).cases]
    nn.init.constant_(model.weight, 1e-30)
    found = verify_property(model, stated(-1e308, 1e308, "(<= Y_0 -1)", outputs=1), (2,))
    assert found.verdict is Verdict.VIOLATED
    assert box.contains(found.counterexample.x)
    bounds = BoxBounds(model.double(), (2,), torch.float64)
    assert bounds._region(box.lower[None], box.upper[None]).ptb.x_U.tolist() == [[1e308, 1e308]]
    sets = UnsafeSets.of([Conjunction(f64([1.0]), f64(0.0))], 1, torch.float64)
    splitting = Splitting(model, bounds, sets, Confirmation(stated(-1, 1), ()), "CROWN")
    lower, upper = splitting._halves(box.lower[None], box.upper[None], f64([2.0, 1.0]))
    assert lower.tolist() == [[-1e308, -1e308], [0, -1e308]]
    assert upper.tolist() == [[0, 1e308], [1e308, 1e308]]


def splitting_of(model):
    bounds = BoxBounds(model.double(), (2,), torch.float64)
    sets = UnsafeSets.of([Conjunction(f64([1.0]), f64(0.0))], 1, torch.float64)
    return Splitting(model, bounds, sets, Confirmation(stated(-1, 1, outputs=1), ()), "CROWN"), sets


def test_a_box_is_cut_across_a_dimension_that_has_a_middle():
    splitting, _ = splitting_of(nn.Linear(2, 1))
    for end in (1.0, math.nextafter(1.0, 2.0)):
        lower, upper = splitting._halves(f64([1.0, 0.0]), f64([end, 1.0]), f64([9.0, 1.0]))
        assert lower.tolist() == [[1, 0], [1, 0.5]]
        assert upper.tolist() == [[end, 0.5], [end, 1]]
    assert not splitting.too_small
    lower, _ = splitting._halves(f64([1.0, 0.0], [0.0, 0.0]), f64([1.0, 0.0], [1.0, 1.0]), f64([1.0, 1.0], [1.0, 0.0]))
    assert lower.tolist() == [[0, 0], [0.5, 0]]
    assert splitting.too_small


def test_slopes_that_are_nan_have_no_influence_on_where_a_box_is_cut():
    _, sets = splitting_of(nn.Linear(2, 1))
    found = LinearLower(f64([-1.0]), f64([math.nan, 0.1])[:, None])
    scores = influence(found, sets, torch.tensor([[True]]), f64([4.0, 1.0]))
    assert scores.argmax(1).tolist() == [1]


def test_splitting_ends_when_the_time_has_passed():
    splitting, _ = splitting_of(nn.Linear(2, 1))
    with pytest.raises(OutOfTimeError):
        splitting.run(Box(f64(-1.0, -1.0), f64(1.0, 1.0)), Deadline(1e-9))
    assert splitting.bounded == 0


def test_a_box_beyond_float32_is_refused_where_bounds_are_computed_in_it():
    with pytest.raises(InvalidInputError, match=r"X_0 in \[-1, 3\.5e\+38\], which torch.float32 does not hold"):
        verify_property(network(), stated(-1, 3.5e38, "(<= Y_0 0)"), (2,), dtype=torch.float32)


def test_rows_that_sets_share_are_kept_once():
    shared, own = ([1.0, 0.0], 1.0), ([0.0, 1.0], 2.0)
    parts = [Conjunction(f64(shared[0], own[0]), f64(shared[1], own[1])), Conjunction(f64(shared[0]), f64(shared[1]))]
    sets = UnsafeSets.of(parts, 2, torch.float64)
    assert sets.matrix.shape == (2, 2)
    assert sets.member.tolist() == [[True, True], [True, False]]
    y = f64([0.5, 3.0], [2.0, 1.0])
    assert sets.excess(y).tolist() == [[1.0, -0.5], [1.0, 1.0]]
    assert torch.equal(sets.excess(y), torch.stack([part.excess(y) for part in parts], dim=1))
    assert sets.only(torch.tensor([False, True])).matrix.tolist() == [[1.0, 0.0]]
    assert sets.best_rows(f64([0.5, 9.0], [3.0, 3.0])).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
def test_a_set_is_excluded_by_its_own_rows_alone(rounding):
    parts = [Conjunction(f64([1.0, 0.0]), f64(1.0)), Conjunction(f64([0.0, 1.0], [1.0, 1.0]), f64(2.0, 3.0))]
    sets = UnsafeSets.of(parts, 2, torch.float64, rounding)
    lower = f64([0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, math.nan, math.nan])
    excluded = [[False, True], [False, True], [True, False], [False, False], [True, False]]
    assert sets.excluded(lower).tolist() == excluded
    left = sets.only(torch.tensor([False, True]))
    assert left.excluded(lower[:, 1:]).tolist() == [[second] for _, second in excluded]
    assert left.rounding == rounding


def test_a_case_holds_only_where_all_of_its_sets_are_excluded():
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    # No counterexample is accepted, so that bounds alone decide.
    safe, reached = "(<= Y_0 -1)", "(<= Y_1 0.5)"
    for formula in (f"(or {safe} {reached})", f"(or {reached} {safe})"):
        found = verify_property(
            model, stated(0, 1, formula), (2,), evaluations=[lambda x: f64(9.0, 9.0)], deadline=Deadline(1)
        )
        assert found.verdict is not Verdict.HOLDS
    assert verify_property(model, stated(0, 1, f"(or {safe} (<= Y_1 -2))"), (2,)).verdict is Verdict.HOLDS


def test_the_stack_gives_back_every_box_once():
    stack = BoxStack(f64([0.0]), f64([1.0]))
    stack.push(f64([1.0], [2.0], [3.0]), f64([2.0], [3.0], [4.0]))
    stack.push(f64([9.0])[:0], f64([9.0])[:0])
    seen = []
    while len(stack):
        lower, upper = stack.pop(2)
        assert len(lower) <= 2
        assert (upper - lower == 1).all()
        seen += lower.flatten().tolist()
    assert sorted(seen) == [0.0, 1.0, 2.0, 3.0]


def test_a_property_without_cases_holds():
    empty = verify_property(network(), Property(2, 2, ()), (2,))
    assert empty.verdict is Verdict.HOLDS
    assert empty.decided_by == ("no input satisfies the assertions",)
    case = Case(Box(f64(0.0, 0.0), f64(0.0, 0.0)), (Conjunction(f64([1.0, 0.0]), f64(-99.0)),))
    assert verify_property(network(), Property(2, 2, (case,)), (2,)).verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("convert", "keywords", "words"),
    [
        (nn.Module.half, {}, r"does not run on an input of shape \[1, 2\], torch\.float32.*Convert it by \.float\(\)"),
        (nn.Module.double, {"network_dtype": torch.float32}, r"does not run .*\(network_dtype\)"),
        (nn.Module.float, {"network_dtype": torch.float64}, r"does not run .*\(network_dtype\)"),
        (nn.Module.float, {"dtype": torch.bfloat16}, "dtype must be torch.float32 or torch.float64, got torch.bfloat"),
        (nn.Module.float, {"network_dtype": torch.float16}, "network_dtype must be torch.float32 or"),
    ],
)
@pytest.mark.parametrize("rounding", ["nearest", "outward"])
def test_formats_that_do_not_fit_are_refused(convert, keywords, words, rounding):
    with pytest.raises(InvalidInputError, match=words):
        verify_property(convert(network()), stated(-1, 1, "(<= Y_0 0)"), (2,), rounding=rounding, **keywords)
