"""The level of ops: every op forward and backward, against plain PyTorch and the floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lbp
from lbp.bench import cupy_fusion
from lbp.bench.memory import peak_bytes
from lbp.bench.op_cases import OpCase, op_cases
from lbp.bench.record import Row
from lbp.bench.timing import Call, Timing, time_in_turn
from lbp.errors import LbpError

RELATIVE_TOLERANCE = 1e-3
"""Largest difference of results that are compared, as a share of the largest number in them."""


class DisagreementError(LbpError):
    """Contenders computed different results, so their times mean nothing."""


@dataclass(frozen=True)
class OpOptions:
    """What to measure of the ops.

    Attributes:
        repeats: most rounds of a case.
        seconds: of a case, after which no further round begins.
        compiled: whether the reference is also run under `torch.compile`.
        quick: a small grid.
        only: substrings of ops' names; empty for all.
    """

    repeats: int = 9
    seconds: float = 1.0
    compiled: bool = True
    quick: bool = False
    only: tuple[str, ...] = ()


def measure_ops(device: torch.device, options: OpOptions, notify: Callable[[str], None]) -> Iterator[Row]:
    """Measures the grid of ops.

    Args:
        device: to measure on.
        options: what to measure.
        notify: told the name of each case when it begins.

    Yields:
        a row per contender, of the op and then of its gradient ("... backward").

    Raises:
        DisagreementError: results differ by more than rounding.
    """
    for case in op_cases(device, quick=options.quick):
        if options.only and not any(name in case.op for name in options.only):
            continue
        notify(f"{case.name} {case.activation}".strip())
        calls = _contenders(case, options, device)
        with torch.no_grad():
            _check_agreement(case.name, {name: call() for name, call in calls.items()})
            yield from _rows(case, "", calls, device, options, case.moved_bytes)
        gradients = {name: _gradient_call(call, case) for name, call in calls.items() if name != "CuPy fused"}
        _check_agreement(f"{case.name} backward", {name: call() for name, call in gradients.items()})
        yield from _rows(case, " backward", gradients, device, options, None)


def _contenders(case: OpCase, options: OpOptions, device: torch.device) -> dict[str, Call]:
    calls = {name: _on_backend(name, case.call) for name in ("native", "reference")}
    if options.compiled:
        calls["reference compiled"] = _on_backend("reference", torch.compile(lambda: case.call(), dynamic=False))
    fused = case.op == "relax_backward" and case.activation == "ReLU"
    if fused and device.type == "cuda" and cupy_fusion.is_available():
        calls["CuPy fused"] = cupy_fusion.relax_backward(*case.tensors[:3])
    return calls


def _on_backend(backend: str, call: Call) -> Call:
    def run() -> Any:
        with lbp.backend(backend):
            return call()

    return run


def _as_tensors(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(part for part in result if part is not None)


def _gradient_call(call: Call, case: OpCase) -> Call:
    """Returns a call that takes the gradient of all outputs, weighted by ones; the forward pass is done once, here."""
    outputs = [part for part in _as_tensors(call()) if part.requires_grad]
    weights = [torch.ones_like(part) for part in outputs]
    inputs = [tensor for tensor in case.tensors if tensor.requires_grad]

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            outputs, inputs, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    return run


def _check_agreement(name: str, results: Mapping[str, Any]) -> None:
    expected = _as_tensors(results["reference"])
    for contender, result in results.items():
        for ours, theirs in zip(_as_tensors(result), expected, strict=True):
            difference = largest_difference(ours, theirs)
            if not difference <= RELATIVE_TOLERANCE:
                raise DisagreementError(f"{name}: {contender} and reference differ by {difference:.1e} of the largest")


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Returns the largest difference as a share of the largest finite number of `theirs` (of 1 if that is smaller)."""
    if ours.numel() == 0:
        return 0.0
    scale = torch.nan_to_num(theirs, nan=0.0, posinf=0.0, neginf=0.0).abs().max().clamp(min=1.0)
    difference = torch.where(ours == theirs, torch.zeros_like(theirs), (ours - theirs).abs())
    return float((difference.max() / scale).item())


def _rows(
    case: OpCase, suffix: str, calls: Mapping[str, Call], device: torch.device, options: OpOptions, moved: int | None
) -> Sequence[Row]:
    timings = time_in_turn(calls, device, repeats=options.repeats, budget=options.seconds)
    return [_row(case, suffix, name, call, timings[name], device, moved) for name, call in calls.items()]


def _row(
    case: OpCase, suffix: str, contender: str, call: Call, timing: Timing, device: torch.device, moved: int | None
) -> Row:
    _, peak = peak_bytes(call, device)
    return Row(
        "ops",
        f"{case.op}{suffix} {case.shape}",
        case.activation,
        contender,
        timing,
        peak,
        moved,
        case.operations if case.operations and not suffix else None,
        parameters={"op": case.op + suffix, **case.parameters},
    )
