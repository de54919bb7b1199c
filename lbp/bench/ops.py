"""The level of ops: every op forward and backward, against plain PyTorch and the floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import lbp
from lbp.bench import cupy_fusion
from lbp.bench.failures import failure_note
from lbp.bench.memory import peak_bytes
from lbp.bench.op_case import OpCase
from lbp.bench.op_cases import op_cases
from lbp.bench.plain import plain_functions
from lbp.bench.rates import copy_of
from lbp.bench.record import Key, Row
from lbp.bench.timing import Call, time_in_turn
from lbp.precision import free_convolutions, full_precision

RELATIVE_TOLERANCE = 1e-3
"""Largest difference of results that are compared, as a share of the largest number in them."""

CUPY = "CuPy fused"
"""Contender whose formulas `lbp.bench.cupy_fusion` has, and no kernel of this package."""


@dataclass(frozen=True)
class OpOptions:
    """What to measure of the ops.

    Attributes:
        repeats: most rounds of a case.
        seconds: of a case, after which no further round begins.
        compiled: whether the reference is also run under `torch.compile`.
        quick: a small grid.
        only: substrings of ops' names; empty for all.
        done: rows that are not to be measured again.
    """

    repeats: int = 9
    seconds: float = 1.0
    compiled: bool = True
    quick: bool = False
    only: tuple[str, ...] = ()
    done: frozenset[Key] = frozenset()


def measure_ops(device: torch.device, options: OpOptions, notify: Callable[[str], None]) -> Iterator[list[Row]]:
    """Measures the grid of ops.

    Args:
        device: to measure on.
        options: what to measure.
        notify: told the name of each case when it begins.

    Yields:
        the rows of an op at a shape, one per contender, and then those of its gradient ("... backward"); without a
        timing where the result differs from the reference's by more than rounding, or where the contender failed.
    """
    done = set(options.done)
    with plain_functions():
        for case in op_cases(device, quick=options.quick):
            keys = _keys(case, options, device)
            if (options.only and not any(name in case.op for name in options.only)) or keys <= done:
                continue
            done |= keys  # two ways through the grid may meet at a shape
            notify(f"{case.name} {case.activation}".strip())
            yield from _measure_case(case, device, options)


def _keys(case: OpCase, options: OpOptions, device: torch.device) -> set[Key]:
    """Returns the keys of all rows of a case."""
    return {
        _row(case, suffix, name).key
        for suffix in ("", *_backward_of(case))
        for name in _contenders(case, options, device)
        if _takes_part(name, suffix)
    }


def _measure_case(case: OpCase, device: torch.device, options: OpOptions) -> Iterator[list[Row]]:
    calls, failed = _made(_contenders(case, options, device))
    with torch.no_grad():
        yield _measured(case, "", calls, device, options) + _without_times(case, "", failed)
    for suffix in _backward_of(case):
        makers = {
            name: partial(_gradient_call, call, case) for name, call in calls.items() if _takes_part(name, suffix)
        }
        gradients, failed_here = _made(makers)
        notes = {name: note for name, note in (failed | failed_here).items() if _takes_part(name, suffix)}
        yield _measured(case, suffix, gradients, device, options) + _without_times(case, suffix, notes)


def _made(makers: Mapping[str, Callable[[], Call]]) -> tuple[dict[str, Call], dict[str, str]]:
    """Returns the calls of contenders, and why others have none."""
    calls: dict[str, Call] = {}
    failed: dict[str, str] = {}
    for name, make in makers.items():
        try:
            calls[name] = make()
        except Exception as error:
            failed[name] = failure_note(error)
    return calls, failed


_COPY = "copy of as many bytes"


def _takes_part(contender: str, suffix: str) -> bool:
    """Says whether a contender has rows of the op or of its gradient: what CuPy fuses has no gradient."""
    return contender != CUPY or not suffix


def _backward_of(case: OpCase) -> tuple[str, ...]:
    return (" backward",) if any(tensor.requires_grad for tensor in case.tensors) else ()


def _contenders(case: OpCase, options: OpOptions, device: torch.device) -> dict[str, Callable[[], Call]]:
    """Returns what makes the call of each contender."""
    calls: dict[str, Callable[[], Call]] = {
        "native": lambda: _on_backend("native", case.call, device),
        "reference": lambda: _on_backend("reference", case.call, device),
    }
    if options.compiled and case.compiled:
        calls["reference compiled"] = lambda: _on_backend("reference", _compiled(case.call), device)
    if cupy_fusion.takes_part(case):
        calls[CUPY] = lambda: cupy_fusion.call_of(case)
    return calls


def _compiled(call: Call) -> Call:
    """Returns the call under `torch.compile`, with graphs of its own: what earlier cases compiled is forgotten.

    What would run as plain PyTorch is an error, as the row would be called compiled. The lock that switches reduced
    precision off is none that a graph can hold: it is taken outside.
    """
    torch.compiler.reset()
    return full_precision()(torch.compile(lambda: call(), fullgraph=True, dynamic=False))


def _on_backend(backend: str, call: Call, device: torch.device) -> Call:
    """Returns the call on a backend; plain PyTorch leaves convolutions on a GPU to cuDNN, as everyone does."""
    plain = device.type == "cuda" and backend == "reference"

    def run() -> Any:
        with lbp.backend(backend), free_convolutions() if plain else nullcontext():
            return call()

    return run


def _as_tensors(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(part for part in result if part is not None)


def _gradient_call(call: Call, case: OpCase) -> Call:
    """Returns a call that takes the gradient of all outputs, weighted by ones; the forward pass is done once, here.

    As in training, whatever the contender: float32 without TF32, and cuDNN may choose how to convolve.
    """
    outputs = [part for part in _as_tensors(call()) if part.requires_grad]
    weights = [torch.ones_like(part) for part in outputs]
    inputs = [tensor for tensor in case.tensors if tensor.requires_grad]

    def run() -> tuple[Tensor, ...]:
        with free_convolutions(), full_precision():
            return torch.autograd.grad(
                outputs, inputs, weights, retain_graph=True, allow_unused=True, materialize_grads=True
            )

    return run


def _difference(result: Any, expected: Any) -> float:
    """Returns the largest difference of results as a share of the largest number in them."""
    pairs = zip(_as_tensors(result), _as_tensors(expected), strict=True)  # no difference is NaN, which max could lose
    return max((largest_difference(ours, theirs) for ours, theirs in pairs), default=0.0)


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Returns the largest difference as a share of the largest finite number of `theirs`.

    Where that is 0 whatever differs does so infinitely, and so do other shapes, and NaN where `theirs` is not NaN too.
    """
    if ours.shape != theirs.shape:
        return math.inf
    if ours.numel() == 0:
        return 0.0
    scale = torch.nan_to_num(theirs, nan=0.0, posinf=0.0, neginf=0.0).abs().max()
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    difference = torch.where(same, torch.zeros_like(theirs), (ours - theirs).abs().nan_to_num(nan=math.inf)).max()
    return 0.0 if difference == 0 else float((difference / scale).item())


def _measured(
    case: OpCase, suffix: str, calls: Mapping[str, Call], device: torch.device, options: OpOptions
) -> list[Row]:
    """Compares results, then times those that agree; who fails is noted, and leaves the others as they are."""
    notes: dict[str, str] = {}
    try:
        expected = calls["reference"]() if "reference" in calls else None
    except Exception as error:
        expected, notes["reference"] = None, failure_note(error)
    if expected is None:
        return _without_times(case, suffix, dict.fromkeys(calls, "not run: no result of reference") | notes)
    for name, call in calls.items():
        try:
            difference = _difference(call(), expected)
        except Exception as error:
            notes[name] = failure_note(error)
            continue
        if not difference <= RELATIVE_TOLERANCE:
            notes[name] = f"differs from reference by {difference:.1e} of the largest"
    del expected
    able = {name: call for name, call in calls.items() if name not in notes}
    try:
        rows = _timed(case, suffix, able, device, options)
    except Exception as error:
        rows = _without_times(case, suffix, dict.fromkeys(able, failure_note(error)))
    return rows + _without_times(case, suffix, notes)


def _timed(case: OpCase, suffix: str, calls: Mapping[str, Call], device: torch.device, options: OpOptions) -> list[Row]:
    copies = {_COPY: copy_of(_moved_bytes(case, suffix), device)} if device.type == "cuda" else {}
    timings = time_in_turn({**calls, **copies}, device, repeats=options.repeats, budget=options.seconds)
    copy_seconds = timings[_COPY].median if copies else None
    rows = []
    for name, call in calls.items():
        # CuPy takes memory from an allocator of its own, which PyTorch does not count.
        peak = None if name == CUPY else peak_bytes(call, device, collect=False)[1]
        row = _row(case, suffix, name)
        rows.append(replace(row, timing=timings[name], peak_bytes=peak, copy_seconds=copy_seconds))
    return rows


def _without_times(case: OpCase, suffix: str, notes: Mapping[str, str]) -> list[Row]:
    return [replace(_row(case, suffix, name), note=note) for name, note in notes.items()]


def _moved_bytes(case: OpCase, suffix: str) -> int:
    return case.backward_bytes if suffix else case.moved_bytes


def _row(case: OpCase, suffix: str, contender: str) -> Row:
    return Row(
        "ops",
        f"{case.op}{suffix} {case.shape}",
        case.activation,
        contender,
        moved_bytes=_moved_bytes(case, suffix),
        operations=(case.backward_operations if suffix else case.operations) or None,
        parameters={"op": case.op + suffix, **case.parameters},
    )
