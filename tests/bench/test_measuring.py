"""What is measured is measured on results that agree, within limits, and nothing that failed counts as fast."""

import math
import multiprocessing
import os
import signal
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from torch import nn

import lbp
import lbp.ops
from lbp.bench import methods as of_methods
from lbp.bench import ops
from lbp.bench import worker as of_worker
from lbp.bench.contenders import Contender, find
from lbp.bench.grid import METHODS, Case
from lbp.bench.layers import AffineLayer, affine_layers
from lbp.bench.memory import peak_bytes
from lbp.bench.methods import (
    MethodOptions,
    _differing,
    _disagreements,
    _Earlier,
    _in_turn,
    _Runner,
    measure_methods,
    measure_training,
)
from lbp.bench.networks import NETWORKS, Network, named, neurons
from lbp.bench.op_case import Shape, multiply_adds
from lbp.bench.op_cases import _outward_interval, op_cases
from lbp.bench.ops import OpOptions, largest_difference, measure_ops
from lbp.bench.plain import plain_functions
from lbp.bench.rates import copy_of
from lbp.bench.timing import time_in_turn
from lbp.bench.window_cases import window_cases
from lbp.bench.worker import Limits, RunFailedError, Work, Worker

CPU = torch.device("cpu")
LIMITS = Limits(seconds=100.0, memory=8 * 2**30, threads=1)
TINY = Network("chain", "ReLU", (1, 6, 6), width=2, depth=2)


def test_every_op_is_measured_forward_and_backward_against_the_reference():
    options = OpOptions(repeats=1, compiled=False, quick=True, only=("ramp_interval",))
    rows = [row for case in measure_ops(CPU, options, lambda _: None) for row in case]
    assert {row.contender for row in rows} == {"native", "reference"}
    assert {row.activation for row in rows} == {"ReLU", "ParamRamp"}
    assert any(" backward " in row.case for row in rows)
    assert all(row.timing is not None and row.timing.median > 0 for row in rows)
    forward = [row for row in rows if " backward" not in row.case]
    assert all(row.moved_bytes == 4 * 4 * row.parameters["B"] * row.parameters["n"] for row in forward)


def test_a_copy_of_as_many_bytes_reads_and_writes_half_of_them():
    assert copy_of(4096, CPU)().nbytes == 2048


def test_beside_an_op_on_a_gpu_a_copy_of_as_many_bytes_is_timed(monkeypatch):
    """Measured here, on the CPU, as on a GPU."""
    copied = []
    monkeypatch.setattr(ops, "copy_of", lambda moved, device: copied.append(moved) or copy_of(moved, CPU))
    monkeypatch.setattr(ops, "time_in_turn", lambda calls, device, **options: time_in_turn(calls, CPU, **options))
    monkeypatch.setattr(ops, "peak_bytes", lambda call, device, **options: peak_bytes(call, CPU, **options))
    case = next(op_cases(CPU, quick=True))
    calls, options = {"native": case.call, "reference": case.call}, OpOptions(repeats=1)
    for suffix, moved in (("", case.moved_bytes), (" backward", case.backward_bytes)):
        rows = ops._measured(case, suffix, calls, torch.device("cuda"), options)
        assert copied.pop() == moved
        assert [row.contender for row in rows] == ["native", "reference"]
        assert all(row.copy_seconds > 0 for row in rows)


def test_every_op_is_in_the_grid_and_agrees_with_the_reference_there():
    measured, keys = set(), []
    for case in op_cases(CPU, quick=True):
        measured.add(case.op.split()[0])
        keys.append((case.name, case.activation))
        if keys.count((case.name, case.activation)) == 1 and "conv2" not in case.name:
            with torch.no_grad():
                result = case.call()
                with lbp.backend("reference"):
                    assert ops._difference(result, case.call()) <= ops.RELATIVE_TOLERANCE, case.name
    assert len(set(keys)) == len(keys)
    assert measured == {name for name in lbp.ops.__all__ if not isinstance(getattr(lbp.ops, name), type)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outward_intervals_are_measured_in_the_type_of_their_shape(dtype):
    """In the grid of a GPU, whose kernels take margins of no other type."""
    for layer in affine_layers("DM-Small"):
        shape = Shape(layer, 1, CPU, dtype=dtype)
        weight, bias = shape.weights()
        case = _outward_interval(shape, shape.bounds(*layer.input_shape), weight.detach(), bias)
        results = case.call()
        with lbp.backend("reference"):
            assert ops._difference(results, case.call()) <= ops.RELATIVE_TOLERANCE
        assert all(side.dtype == dtype for side in results)
        assert ("float64" in case.name) == (dtype == torch.float64)


class OnPaper(Shape):
    """A shape whose tensors take no memory."""

    def __init__(self, layer, batch, device, **variant):
        super().__init__(layer, batch, CPU, **variant)
        self.device = device

    def normal(self, *shape):
        return torch.empty(*shape, dtype=self.dtype, device="meta")

    uniform = normal


def test_on_a_gpu_the_sizes_that_fill_it_come_first(monkeypatch):
    monkeypatch.setattr("lbp.bench.op_cases.Shape", OnPaper)
    first = [case.parameters for case in islice(op_cases(torch.device("cuda")), 24)]
    assert {"B": 32, "n": 65536} in first
    assert {"B": 32, "S": 9, "n": 65536} in first
    assert {"B": 1, "S": 4096, "n": 32768} in first
    assert any(sizes["B"] == 1 and sizes["n"] == 32768 and "n0" in sizes for sizes in first)
    assert all(sizes["B"] * sizes["n"] * max(sizes.get("S", 1), sizes.get("n0", 1)) >= 2**21 for sizes in first)


def test_the_grid_has_both_sides_and_float64(monkeypatch):
    monkeypatch.setattr("lbp.bench.op_cases.Shape", OnPaper)
    found = {}
    for case in op_cases(torch.device("cpu")):
        key = case.name, case.activation
        assert key not in found
        assert ("float64" in case.name) == (case.tensors[0].dtype == torch.float64)
        found[key] = case
    (one,), (two,) = (
        [case for (name, activation), case in found.items() if name == of and activation == "ParamRamp"]
        for of in (f"relax_backward B=32 S=9 n=7,200{both}" for both in ("", " both sides"))
    )
    assert two.tensors[0].shape == (2, *one.tensors[0].shape[1:])
    assert two.moved_bytes - one.moved_bytes == 2 * one.tensors[0].nbytes
    one, two = (found[f"backward_conv2d DM-Medium conv2 B=1 S=9{both}", ""] for both in ("", " both sides"))
    assert two.operations == 2 * one.operations


def test_results_that_differ_are_not_timed(monkeypatch):
    genuine = ops._contenders

    def planted(case, options, device):
        calls = genuine(case, options, device)
        shifted = lambda: [part + 1 for part in ops._as_tensors(calls["reference"]()())]  # noqa: E731
        return calls | {"native": lambda: shifted}

    monkeypatch.setattr(ops, "_contenders", planted)
    rows = next(measure_ops(CPU, OpOptions(repeats=1, compiled=False, quick=True), lambda _: None))
    native, reference = (next(row for row in rows if row.contender == name) for name in ("native", "reference"))
    assert native.timing is None
    assert native.note.startswith("differs from reference")
    assert reference.timing is not None


@pytest.mark.parametrize(
    ("error", "note"), [(torch.OutOfMemoryError("CUDA"), "out of memory"), (ValueError("no"), "ValueError: no")]
)
@pytest.mark.parametrize("failing", ["native", "reference"])
def test_an_op_that_fails_is_noted_and_the_next_is_measured(monkeypatch, failing, error, note):
    genuine, fails = ops._on_backend, []

    def planted(backend, call, device):
        def run():
            if backend == failing and fails:
                raise error
            return genuine(backend, call, device)()

        return run

    monkeypatch.setattr(ops, "_on_backend", planted)
    options = OpOptions(repeats=1, compiled=False, quick=True, only=("ramp_interval",))
    measured = measure_ops(CPU, options, lambda _: fails.append(True) if not fails else fails.clear())
    (first, gradient, second) = islice(measured, 3)
    other = "reference" if failing == "native" else "native"
    for rows in (first, gradient):
        by_name = {row.contender: row for row in rows}
        assert by_name[failing].timing is None
        assert by_name[failing].note == note
        assert (by_name[other].timing is None) == (other == "native")  # nothing to compare it with
    assert all(row.timing is not None for row in second)
    done = replace(options, done=frozenset(row.key for row in (*first, *gradient)))
    assert next(measure_ops(CPU, done, lambda _: None))[0].key == second[0].key


def test_what_is_done_is_not_measured_again():
    options = OpOptions(repeats=1, compiled=False, quick=True, only=("ramp_interval",))
    rows = [row for case in measure_ops(CPU, options, lambda _: None) for row in case]
    again = replace(options, done=frozenset(row.key for row in rows[:-1]))
    missing = [row for case in measure_ops(CPU, again, lambda _: None) for row in case]
    assert rows[-1].key in {row.key for row in missing}
    assert {row.parameters["op"] for row in missing} == {
        rows[-1].parameters["op"].removesuffix(" backward") + suffix for suffix in ("", " backward")
    }
    assert not list(measure_ops(CPU, replace(options, done=frozenset(row.key for row in rows)), lambda _: None))


def test_a_case_that_the_grid_has_twice_is_measured_once(monkeypatch):
    case = next(op_cases(CPU, quick=True))
    monkeypatch.setattr(ops, "op_cases", lambda device, quick: iter([case, case]))
    begun = []
    list(measure_ops(CPU, OpOptions(repeats=1, compiled=False, quick=True), begun.append))
    assert begun == [f"{case.name} {case.activation}"]


def test_a_case_is_done_without_a_gradient_of_what_cupy_fuses(monkeypatch):
    """A stand-in for CuPy, which takes part in the forward pass only."""
    monkeypatch.setattr(ops.cupy_fusion, "takes_part", lambda case: case.op == "relax_backward")
    monkeypatch.setattr(ops.cupy_fusion, "call_of", lambda case: ops._on_backend("reference", case.call, CPU))
    options = OpOptions(repeats=1, seconds=0.0, compiled=False, quick=True, only=("relax_backward",))
    first = list(islice(measure_ops(CPU, options, lambda _: None), 2))
    fused = [row.case for rows in first for row in rows if row.contender == ops.CUPY]
    assert len(fused) == 1
    assert " backward " not in fused[0]
    done = replace(options, done=frozenset(row.key for rows in first for row in rows))
    following = next(measure_ops(CPU, done, lambda _: None))
    assert {row.key for row in following}.isdisjoint(done.done)


def planted_results(case, results):
    """Returns who differs, of runners that gave these results by contender's name."""
    runners = [_Runner(case, TINY, Worker(find(name), "cpu", LIMITS, None)) for name in results]
    given = {runner.key: results[runner.worker.contender.name] for runner in runners}
    return [(runner.worker.contender.name, note) for runner, note in _disagreements(runners, given)]


def case_of(method, level="methods"):
    return Case(level, f"chain {method}", method, 1, (TINY,), {}, 1)


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


def test_products_are_listed_on_the_cpu_where_every_kernel_that_multiplies_is_known():
    workers = [Worker(find("native"), device, LIMITS, None) for device in ("cpu", "cuda:0")]
    assert [_Runner(case_of("IBP"), TINY, worker).lists_products for worker in workers] == [True, False]


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


def test_networks_methods_and_batches_are_measured_in_the_order_in_which_they_are_named(monkeypatch):
    monkeypatch.setattr(of_methods, "_measure", lambda cases, *_: iter([[case.name for case in cases]]))
    options = MethodOptions(
        LIMITS, networks=("DM-Small", "Small MNIST"), methods=("CROWN-LBP", "CROWN"), batches=(2, 1)
    )
    (names,) = of_methods.measure_methods(CPU, options, print)
    assert names[:4] == [
        "DM-Small CROWN-LBP B=2",
        "DM-Small CROWN B=2",
        "Small MNIST CROWN-LBP B=2",
        "Small MNIST CROWN B=2",
    ]
    assert names[4] == "DM-Small CROWN-LBP B=1"


class Answering:
    """A connection whose other end answers at once; notes how long each answer might have taken."""

    def __init__(self):
        self.waits = []

    def send(self, what):
        pass

    def poll(self, seconds):
        self.waits.append(seconds)
        return True

    def recv(self):
        return "done", ([0.0], [1], 0)


@pytest.mark.parametrize(("device", "first", "later"), [("cuda:0", 45, 15), ("cpu", 0, 0)])
def test_libraries_are_loaded_onto_a_device_once(device, first, later):
    """Later a run that takes longer than its limit must not take the time of all others."""
    worker = Worker(find("native"), device, LIMITS, None)
    worker._process, worker._connection = multiprocessing.current_process(), Answering()
    for _ in range(2):
        worker.first(_Runner(case_of("IBP"), TINY, worker).work())
    waits = [seconds - LIMITS.seconds for seconds in worker._connection.waits]
    assert waits == [120, first, 120, later]


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


def test_what_took_too_long_is_not_tried_at_larger_sizes():
    earlier = _Earlier("B=1", 1, seconds=10.0)
    assert earlier.forbids(16, Limits(60.0, 0, 1)) == "not run: estimated 160 s"
    assert earlier.forbids(4, Limits(60.0, 0, 1)) is None
    failed = _Earlier("B=1", 1, seconds=None, note="out of memory")
    assert failed.forbids(16, Limits(60.0, 0, 1)) == "not run: out of memory at B=1"
    assert failed.forbids(1, Limits(60.0, 0, 1)) is None


@pytest.mark.parametrize(
    ("slow", "rounds_of_slow"),
    [
        pytest.param(2.0, 2, id="up to the third round"),
        pytest.param(0.5, 3, id="then"),
        pytest.param(9.0, 1, id="at once"),
    ],
)
def test_a_slow_contender_takes_no_rounds_from_a_fast_one(slow, rounds_of_slow):
    class Fixed(Worker):
        def seconds(self):
            return slow if self.contender.name == "reference" else 0.1

    case = case_of("CROWN")
    runners = [_Runner(case, TINY, Fixed(find(name), "cpu", LIMITS, None)) for name in ("native", "reference")]
    measured = _in_turn(runners, MethodOptions(LIMITS, repeats=7, seconds=0.75))
    assert [found["timing"].repeats for _, found in measured] == [7, rounds_of_slow]
    assert [found["timing"].median for _, found in measured] == [0.1, slow]


@pytest.mark.parametrize(
    ("answers", "taken"), [([1.0, 9.0], 1.0), ([0.1, 0.09, 9.0], 0.09), ([0.001, 0.002, 1.0, 9.0], 1.0)]
)
def test_a_short_call_is_repeated_and_a_long_one_is_not(monkeypatch, answers, taken):
    left = iter(answers)
    monkeypatch.setattr(of_worker, "seconds_of", lambda run, device: next(left))
    assert of_worker._steady_seconds(None, CPU) == taken


@pytest.mark.parametrize(("size", "difference"), [(1.0, 1e-2), (1e-6, 1e-2), (1e6, 1e-2)])
def test_results_are_compared_relative_to_the_largest_however_small_they_are(size, difference):
    expected = size * torch.tensor([1.0, -2.0, 0.5])
    assert largest_difference(torch.zeros(3), expected) == 1.0
    shifted = expected + size * torch.tensor([0.0, 0.0, 2 * difference])
    assert largest_difference(shifted, expected) == pytest.approx(difference, rel=1e-3)


def test_what_should_be_zero_is():
    assert largest_difference(torch.zeros(3), torch.zeros(3)) == 0.0
    assert largest_difference(torch.tensor([0.0, 1e-30]), torch.zeros(2)) == math.inf
    assert largest_difference(torch.zeros(0), torch.zeros(0)) == 0.0


def test_what_breaks_a_graph_is_not_measured_as_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    genuine = ops._contenders

    def planted(case, options, device):
        def breaking():
            torch._dynamo.graph_break()
            return case.call()

        return genuine(replace(case, call=breaking, compiled=True), options, device)

    monkeypatch.setattr(ops, "_contenders", planted)
    rows = next(measure_ops(CPU, OpOptions(repeats=1, quick=True), lambda _: None))
    by_name = {row.contender: row for row in rows}
    assert by_name["reference compiled"].timing is None
    assert by_name["reference compiled"].note.startswith("Unsupported")
    assert by_name["reference"].timing is not None


COMPILED_WHOLE = ("insert_forward", "interval_conv2d", "relax_backward_conv2d", "forward_conv2d_windows")


@pytest.mark.parametrize("op", [*COMPILED_WHOLE, "ramp_interval_with_status", "concretize_windows_box"])
def test_products_and_windows_are_compiled_as_one_graph(monkeypatch, op):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    case = next(case for case in op_cases(CPU, quick=True) if case.op == op)
    with plain_functions(), torch.no_grad():
        expected = ops._on_backend("reference", case.call, CPU)()
        found = ops._on_backend("reference", ops._compiled(case.call), CPU)()
    assert ops._difference(found, expected) == 0.0


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 1), groups=2),
        nn.Conv2d(1, 1, 5, padding=4),
        nn.Linear(6, 5),
    ],
)
def test_multiply_adds_are_those_of_taps_on_the_input(module):
    size = (module.in_channels, 7, 6) if isinstance(module, nn.Conv2d) else (6,)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    output = module(torch.ones(1, *size))[0].detach()
    assert multiply_adds(AffineLayer("ones", module, size, tuple(output.shape))) == output.sum()


RADIUS = {"forward_conv2d_windows": 1, "forward_linear_windows": 1, "insert_forward_windows": 2}
"""Which of the tensors of a case that is."""


@pytest.mark.parametrize("name", ["DM-Small conv1", "DM-Small conv2"])
def test_operations_on_windows_are_counted_inside_the_image(name):
    """Products of ones add up to their number; center and radius take as many."""
    (layer,) = (layer for layer in affine_layers("DM-Small") if layer.name == name)
    counted = set()
    for case in window_cases(Shape(layer, 1, CPU)):
        if case.op in {"backward_conv2d_windows", *RADIUS}:
            counted.add(case.op)
            with torch.no_grad():
                for number, tensor in enumerate(case.tensors):
                    tensor.fill_(0.0 if RADIUS.get(case.op) == number else 1.0)
                result = case.call()[0].sum(dtype=torch.float64)
            assert case.operations == (4 if case.op in RADIUS else 2) * result, case.op
    assert counted == {"backward_conv2d_windows", *RADIUS}


def test_nan_counts_in_whichever_output_it_is_and_other_shapes_do():
    one, nan = torch.ones(3), torch.full((3,), math.nan)
    assert ops._difference((one, one), (one, one)) == ops._difference((one, nan), (one, nan)) == 0.0
    for wrong in ((one, nan), (nan, one)):
        assert ops._difference(wrong, (one, one)) == math.inf
        assert ops._difference((one, one), wrong) == math.inf
    assert ops._difference((one[:1],), (one,)) == math.inf


def test_nan_counts_as_a_difference():
    assert not largest_difference(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])) <= 1.0
    assert largest_difference(torch.tensor([torch.inf]), torch.tensor([torch.inf])) == 0.0


def test_the_peak_of_a_call_is_what_it_needs_at_most():
    size = 64 * 2**20
    _, peak = peak_bytes(lambda: torch.ones(size // 4).sum(), CPU)
    if peak is None:
        pytest.skip("the operating system does not tell")
    assert 0.9 * size < peak < 1.3 * size


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_the_same_in_every_process(name):
    first, second = (named(name, "ReLU").model() for _ in range(2))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_hidden_neurons_are_counted():
    assert neurons(TINY) == 2 * 2 * 36


def test_a_worker_answers_with_bounds_time_and_products_also_after_a_failure_and_stays_within_its_memory():
    wide = Network("chain", "ReLU", (3, 64, 64), width=64, depth=2)
    with Worker(find("reference"), "cpu", Limits(100.0, 2 * 2**30, 1), None) as worker:
        with pytest.raises(RunFailedError, match="KeyError"):
            worker.first(Work("bounds", TINY, "no method", batch=2))
        lower, _ = worker.first(Work("bounds", TINY, "CROWN-IBP", batch=2))
        assert lower.shape == (2, 9)
        assert worker.seconds() > 0
        assert worker.list_products() > 0
        assert worker.seconds_alone() > 0
        assert worker.operations() > 0
        step, _ = worker.first(Work("step", TINY, "IBP", batch=2))
        assert step.shape == (1 + len(list(TINY.model().parameters())),)
        assert step.isfinite().all()
        assert (step > 0).all()
        with pytest.raises(RunFailedError, match="out of memory"):
            worker.first(Work("bounds", wide, "LBP", batch=1))


def test_ctrl_c_leaves_a_worker_to_the_process_that_it_works_for():
    """In a terminal it goes to all processes, and a worker would fill it with its traceback."""
    with Worker(find("native"), "cpu", LIMITS, None) as worker:
        worker.start()
        os.kill(worker._process.pid, signal.SIGINT)
        assert worker.first(Work("bounds", TINY, "IBP", batch=1))[0].shape[-1] == 9
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "here it still interrupts"


def test_a_worker_that_nobody_waits_for_ends_without_an_error(monkeypatch):
    ours, theirs = multiprocessing.Pipe()
    ours.send("time")
    ours.close()
    monkeypatch.setattr(of_worker, "_load_within", lambda *_: lbp)
    of_worker._serve(theirs, find("native"), "cpu", LIMITS, None)


def test_a_contender_that_is_not_installed_fails_by_name():
    absent = Contender("peer", "auto_LiRPA", methods={"IBP": "IBP"})
    with Worker(absent, "cpu", LIMITS, None) as worker, pytest.raises(RunFailedError, match="auto_LiRPA"):
        worker.first(Work("bounds", TINY, "IBP", batch=1))


@pytest.mark.parametrize("started", ["before", "with the work"])
def test_a_peer_whose_own_import_fails_says_so_whenever_its_process_was_started(tmp_path, started):
    (tmp_path / "auto_LiRPA").mkdir()
    (tmp_path / "auto_LiRPA" / "__init__.py").write_text("import a_package_that_is_missing")
    with Worker(find("auto_LiRPA patches"), "cpu", LIMITS, tmp_path) as worker:
        if started == "before":
            worker.start()
            worker._process.join()  # it has ended before any work comes
        with pytest.raises(RunFailedError, match="ModuleNotFoundError: No module named 'a_package_that_is_missing'"):
            worker.first(Work("bounds", TINY, "IBP", batch=1))


@pytest.fixture
def workers_forked(monkeypatch):
    """Workers are copies of this process: nothing is imported anew, which is most of a short test's time."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr("lbp.bench.worker.multiprocessing.get_context", lambda _: fork)


@pytest.mark.usefixtures("workers_forked")
@pytest.mark.parametrize(
    ("measure", "contenders"), [(measure_methods, ("native", "reference")), (measure_training, ("native",))]
)
def test_methods_and_steps_are_measured_with_memory_and_products(measure, contenders):
    options = MethodOptions(
        LIMITS,
        repeats=1,
        networks=("DM-Small",),
        methods=("CROWN-IBP",),
        batches=(1,),
        contenders=contenders,
    )
    rows = [row for case in measure(CPU, options, lambda _: None) for row in case]
    assert {(row.activation, row.contender) for row in rows} == {
        (activation, contender) for activation in ("ReLU", "ParamRamp") for contender in contenders
    }
    assert all(row.timing is not None for row in rows)
    assert all(row.operations and row.product_seconds for row in rows if row.contender == "native")


def test_no_bound_is_zero_or_a_bending_point():
    shape = Shape(affine_layers("DM-Large")[0], 64, CPU)
    l, u = shape.bounds(1000)
    assert bool((l < u).all())
    for bound in (l, u):
        assert torch.equal((bound * 2**15) % 2, torch.ones_like(bound))
    r = shape.bending_points(1000)
    assert torch.equal((r * 2**15) % 2, torch.zeros_like(r))
    assert float(r.min()) >= 0.5
    assert float(r.max()) < 1.5
