"""Ops are measured on results that agree, and one that fails does not count as fast."""

import math
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from bench.measuring import CPU

from lbp.bench import ops
from lbp.bench.memory import peak_bytes
from lbp.bench.op_cases import op_cases
from lbp.bench.ops import OpOptions, largest_difference, measure_ops
from lbp.bench.plain import plain_functions
from lbp.bench.rates import copy_of
from lbp.bench.timing import time_in_turn


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
