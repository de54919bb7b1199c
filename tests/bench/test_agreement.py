"""Contenders whose results differ are told from those that only round, or choose lines, in another way."""

import math

import pytest
import torch
from bench.measuring import CPU, LIMITS, TINY, case_of

import lbp
from lbp.bench import methods as of_methods
from lbp.bench import worker as of_worker
from lbp.bench.contenders import find
from lbp.bench.grid import METHODS
from lbp.bench.methods import _differing, _disagreements, _Runner
from lbp.bench.worker import RunFailedError, Worker


def planted_results(case, results):
    """Returns who differs, of runners that gave these results by contender's name."""
    runners = [_Runner(case, TINY, Worker(find(name), "cpu", LIMITS, None)) for name in results]
    given = {runner.key: results[runner.worker.contender.name] for runner in runners}
    return [(runner.worker.contender.name, note) for runner, note in _disagreements(runners, given)]


BOUNDS = torch.tensor([[-10.0, 2.0, 3.0]])


@pytest.fixture
def attained(monkeypatch):
    """Margins of the image itself for planted bounds, and that of their loss for planted steps."""
    monkeypatch.setattr(of_methods, "_attained", lambda network, batch: BOUNDS + 1)
    monkeypatch.setattr(of_methods, "margin_loss", lambda margins: torch.tensor(1.0))


@pytest.mark.usefixtures("attained")
@pytest.mark.parametrize("name", ["native", "auto_LiRPA patches", "reference"])
@pytest.mark.parametrize("claimed", [BOUNDS + 1.1, BOUNDS + 1e6, BOUNDS + math.inf])
def test_no_bound_is_above_the_margins_of_the_image_itself(name, claimed):
    results = {"native": BOUNDS, "reference": BOUNDS} | {name: claimed}
    assert name in [differing for differing, _ in planted_results(case_of("CROWN"), results)]
    if name != "reference":
        assert planted_results(case_of("CROWN"), {name: claimed})


@pytest.mark.usefixtures("attained")
def test_no_loss_is_below_that_of_the_images_themselves():
    for loss, differs in ((1.5, False), (0.9, True), (-math.inf, True), (math.nan, True)):
        step = torch.cat([torch.tensor([loss]), STEP[1:]])
        found = planted_results(case_of("CROWN-IBP", "training"), {"auto_LiRPA patches": step, "reference": STEP})
        assert bool(found) == differs


@pytest.mark.parametrize("method", METHODS)
def test_margins_of_the_images_are_no_less_than_bounds(method):
    runner = _Runner(case_of(method), TINY, Worker(find("native"), "cpu", LIMITS, None))
    prepared = of_worker._prepare(lbp, runner.worker.contender, runner.work(), CPU)
    assert not of_methods._impossible(runner, prepared.run())
    assert of_methods._impossible(runner, of_methods._attained(TINY, 1) + 0.1)


@pytest.mark.usefixtures("attained")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift", [1e-2, -1e-2])
def test_bounds_that_are_too_high_differ_as_those_that_are_too_low_do_but_where_a_method_may_be_tighter(method, shift):
    shifted = BOUNDS + torch.tensor([0.0, shift, 0.0])
    differs = [("native", "differs from reference by 1.0e-03 of the largest bound")]
    tighter = method == "CROWN" and shift > 0
    assert planted_results(case_of(method), {"native": shifted, "reference": BOUNDS}) == ([] if tighter else differs)
    peers = planted_results(case_of(method), {"auto_LiRPA patches": shifted, "reference": BOUNDS})
    assert [name for name, _ in peers] == ([] if shift > 0 else ["auto_LiRPA patches"])


@pytest.mark.usefixtures("attained")
def test_rounding_is_no_difference_and_nan_is():
    rounded = BOUNDS + torch.tensor([5e-4, -5e-4, 0.0])
    for method in METHODS:
        assert not planted_results(case_of(method), {"native": rounded, "reference": BOUNDS})
        (found,) = planted_results(case_of(method), {"native": BOUNDS * torch.nan, "reference": BOUNDS})
        assert found[0] == "native"


STEP = torch.tensor([2.0, 10.0, 0.0, 5.0])
"""A loss and norms of the gradients of three parameters."""


@pytest.mark.usefixtures("attained")
def test_the_loss_of_tighter_bounds_is_not_higher():
    step = case_of("CROWN-IBP", "training")
    shift = torch.tensor([0.1, 0.0, 0.0, 0.0])
    assert not planted_results(step, {"auto_LiRPA patches": STEP - shift, "reference": STEP})
    assert planted_results(step, {"auto_LiRPA patches": STEP + shift, "reference": STEP})
    for shifted in (STEP - shift, STEP + shift):
        assert planted_results(step, {"native": shifted, "reference": STEP})


@pytest.mark.usefixtures("attained")
def test_a_step_whose_gradients_are_others_is_told_apart():
    step = case_of("CROWN-IBP", "training")
    rounded = STEP + torch.tensor([0.0, 5e-3, 0.0, -5e-3])
    assert not planted_results(step, {"native": rounded, "reference": STEP})
    (found,) = planted_results(step, {"native": STEP + torch.tensor([0.0, 0.0, 0.0, 0.1]), "reference": STEP})
    assert found == ("native", "differs from reference by 1.0e-02 of the largest norm of a gradient")
    nan = STEP + torch.tensor([0.0, torch.nan, 0.0, 0.0])
    assert planted_results(step, {"native": nan, "reference": STEP})


@pytest.mark.usefixtures("attained")
@pytest.mark.parametrize(("small", "differs"), [(1e-3, True), (1e-7, False)])
def test_a_small_gradient_must_be_right_too_unless_it_may_be_rounding(small, differs):
    """Halved, it differs by less than a thousandth of the largest either way."""
    step = case_of("CROWN-IBP", "training")
    expected, halved = (torch.tensor([2.0, 1.0, norm]) for norm in (small, small / 2))
    found = planted_results(step, {"native": halved, "reference": expected})
    assert found == ([("native", "differs from reference by 5.0e-01 of the norm of a gradient")] if differs else [])


@pytest.mark.usefixtures("attained")
def test_of_a_peer_with_lines_of_its_own_as_many_gradients_are_not_zero():
    step = case_of("CROWN-IBP", "training")
    other = STEP * torch.tensor([0.9, 0.5, 1.0, 2.0])
    assert not planted_results(step, {"auto_LiRPA patches": other, "reference": STEP})
    for lost in (other * torch.tensor([1.0, 1.0, 1.0, 0.0]), other * torch.tensor([1.0, torch.inf, 1.0, 1.0])):
        assert planted_results(step, {"auto_LiRPA patches": lost, "reference": STEP})


@pytest.mark.usefixtures("attained")
def test_without_the_reference_exact_contenders_are_compared_with_each_other():
    rest = {"native": BOUNDS + 0.1, "native, every row": BOUNDS, "native, dense": BOUNDS}
    assert not planted_results(case_of("CROWN"), rest)
    (found,) = planted_results(case_of("CROWN"), rest | {"native, every row": BOUNDS + 0.1})
    assert found == ("native, every row", "differs from native, dense by 1.0e-02 of the largest bound")
    assert not planted_results(case_of("IBP"), {"native": BOUNDS})


class PlannedWorker(Worker):
    """Gives planned results, by the lines that are asked for, without a process."""

    def __init__(self, name, results):
        super().__init__(find(name), "cpu", LIMITS, None)
        self.results = results

    def another(self):
        return self

    def start(self):
        pass

    def first(self, work):
        if work.lines not in self.results:
            raise RunFailedError("out of memory")
        return self.results[work.lines], 0


@pytest.mark.usefixtures("attained")
@pytest.mark.parametrize(
    ("tight", "is_choice"),
    [({"tight": BOUNDS}, True), ({"tight": BOUNDS + 0.1}, False), ({"tight": BOUNDS * torch.nan}, False), ({}, False)],
)
def test_only_who_agrees_on_tight_lines_may_differ_by_a_choice_of_adaptive_ones(tight, is_choice):
    case = case_of("LBP")
    native = _Runner(case, TINY, PlannedWorker("native", {None: BOUNDS + 0.1} | tight))
    reference = _Runner(case, TINY, PlannedWorker("reference", {None: BOUNDS, "tight": BOUNDS}))
    results = {runner.key: runner.worker.results[None] for runner in (native, reference)}
    note = "differs from reference by 1.0e-02 of the largest bound"
    expected = (native, f"lines of its own: {note}" if is_choice else note, is_choice)
    assert _differing([native, reference], results) == [expected]


@pytest.mark.usefixtures("attained")
@pytest.mark.parametrize(("shift", "is_choice"), [(0.0, True), (-1e-2, False)])
def test_a_peer_that_agrees_with_a_choice_of_ours_made_the_same(shift, is_choice):
    case = case_of("LBP")
    chosen = BOUNDS - 0.1
    native = _Runner(case, TINY, PlannedWorker("native", {None: chosen, "tight": BOUNDS}))
    reference = _Runner(case, TINY, PlannedWorker("reference", {None: BOUNDS, "tight": BOUNDS}))
    peer = _Runner(case, TINY, PlannedWorker("auto_LiRPA patches", {None: chosen + shift}))
    runners = [native, reference, peer]
    results = {runner.key: runner.worker.results[None] for runner in runners}
    found = [(runner.worker.contender.name, is_choice) for runner, _, is_choice in _differing(runners, results)]
    assert found == [("native", True), ("auto_LiRPA patches", is_choice)]


@pytest.mark.usefixtures("attained")
def test_a_contender_of_ours_made_a_choice_only_if_its_own_tight_lines_say_so():
    """However much its bounds are those of another one that did."""
    case, chosen = case_of("LBP"), BOUNDS - 0.1
    native = _Runner(case, TINY, PlannedWorker("native", {None: chosen, "tight": BOUNDS}))
    dense = _Runner(case, TINY, PlannedWorker("native, dense", {None: chosen, "tight": BOUNDS + 0.1}))
    reference = _Runner(case, TINY, PlannedWorker("reference", {None: BOUNDS, "tight": BOUNDS}))
    runners = [native, dense, reference]
    results = {runner.key: runner.worker.results[None] for runner in runners}
    found = [(runner.worker.contender.name, is_choice) for runner, _, is_choice in _differing(runners, results)]
    assert found == [("native", True), ("native, dense", False)]


@pytest.mark.usefixtures("attained")
@pytest.mark.parametrize(("shift", "is_choice"), [(0.4, True), (0.6, False), (math.nan, False)])
def test_a_large_difference_is_no_choice_of_lines(shift, is_choice):
    case = case_of("LBP")
    native = _Runner(case, TINY, PlannedWorker("native", {None: BOUNDS - shift, "tight": BOUNDS}))
    reference = _Runner(case, TINY, PlannedWorker("reference", {None: BOUNDS, "tight": BOUNDS}))
    results = {runner.key: runner.worker.results[None] for runner in (native, reference)}
    assert [found for _, _, found in _differing([native, reference], results)] == [is_choice]
