"""The levels of methods and training steps, and how cost grows: contenders in processes of their own, in turn."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lbp.bench.contenders import CONTENDERS, Contender, peer_available
from lbp.bench.networks import NETWORKS, Activation, Network, named, neurons
from lbp.bench.ops import RELATIVE_TOLERANCE, DisagreementError, largest_difference
from lbp.bench.record import Row
from lbp.bench.timing import Timing
from lbp.bench.worker import Limits, RunFailedError, Work, Worker

METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN")
TRAINING_METHODS = ("IBP", "CROWN-IBP")
PRODUCT_BOUND = ("IBP", "CROWN-IBP")
"""Methods whose cost is that of the library's products, which are measured beside them."""

TRAINING_NETWORKS = ("DM-Small", "DM-Medium", "DM-Large", "CNN-7+BN")
ACTIVATIONS: tuple[Activation, ...] = ("ReLU", "ParamRamp")

_PATIENCE = 6
"""A median needs three rounds, so that the first ones may take longer than the rest."""

GROWTH_START = {"width": 8, "depth": 4, "image": 12, "batch": 1}
GROWTH = {"width": (4, 8, 16, 32), "depth": (2, 4, 8, 16), "image": (8, 12, 16, 24), "batch": (1, 2, 4, 8)}
"""Sizes of the chains: one quantity grows, the others stay at their start."""

GROWTH_CONTENDERS = {"LBP": ("native", "native, dense"), "CROWN": ("native, every row", "native, dense")}
"""Windowed and dense coefficients of each method."""


@dataclass(frozen=True)
class MethodOptions:
    """What to measure of methods and training steps.

    Attributes:
        limits: of every run.
        repeats: most rounds of a case.
        seconds: of a case, after which no further round begins; the second and third wait `_PATIENCE` times as long.
        networks, methods, batches, contenders: to take; empty for all.
        peer: folder of auto_LiRPA, None for the installed one.
    """

    limits: Limits
    repeats: int = 5
    seconds: float = 5.0
    networks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    contenders: tuple[str, ...] = ()
    peer: Path | None = None


@dataclass(frozen=True)
class _Case:
    """Work, and how its row is filed."""

    level: str
    name: str
    work: Work
    parameters: dict[str, float | str] = field(default_factory=dict)


def measure_methods(device: torch.device, options: MethodOptions, notify: Callable[[str], None]) -> Iterator[Row]:
    """Measures every method on every network.

    Args:
        device: to measure on.
        options: what to measure.
        notify: told the name of each case when it begins.

    Yields:
        a row per contender; without a timing where a run did not end within the limits.

    Raises:
        DisagreementError: results differ by more than rounding.
    """
    batches = options.batches or ((1, 16, 256) if device.type == "cpu" else (1, 32, 256))
    yield from _grid("methods", tuple(NETWORKS), METHODS, batches, device, options, notify)


def measure_training(device: torch.device, options: MethodOptions, notify: Callable[[str], None]) -> Iterator[Row]:
    """Measures training steps: bounds of all margins, loss, and gradients of all parameters; see `measure_methods`."""
    batches = options.batches or ((16,) if device.type == "cpu" else (128,))
    yield from _grid("training", TRAINING_NETWORKS, TRAINING_METHODS, batches, device, options, notify)


def measure_growth(device: torch.device, options: MethodOptions, notify: Callable[[str], None]) -> Iterator[Row]:
    """Measures chains of 3x3 convolutions of growing width, depth, image size and batch, windowed and dense.

    See `measure_methods`; only this package's contenders take part.
    """
    with _workers(device, options) as workers:
        for method, (quantity, values) in itertools.product(GROWTH_CONTENDERS, GROWTH.items()):
            if options.methods and method not in options.methods:
                continue
            taking_part = [w for w in workers if w.contender.name in GROWTH_CONTENDERS[method]]
            for value in values:
                sizes = GROWTH_START | {quantity: value}
                network = Network("chain", "ReLU", (3, sizes["image"], sizes["image"]), sizes["width"], sizes["depth"])
                work = Work("bounds", network, method, sizes["batch"])
                case = _Case("growth", f"{method} {quantity}={value}", work, {"quantity": quantity, "value": value})
                notify(f"growth: {case.name}")
                rows = _run(case, taking_part, options)
                yield from rows
                ended = {row.contender for row in rows if row.timing is not None}
                taking_part = [worker for worker in taking_part if worker.contender.name in ended]


def _grid(
    level: Literal["methods", "training"],
    networks: Sequence[str],
    methods: Sequence[str],
    batches: Sequence[int],
    device: torch.device,
    options: MethodOptions,
    notify: Callable[[str], None],
) -> Iterator[Row]:
    chosen = [method for method in methods if not options.methods or method in options.methods]
    with _workers(device, options) as workers:
        for name, activation, method in itertools.product(options.networks or networks, ACTIVATIONS, chosen):
            network = named(name, activation)
            parameters: dict[str, float | str] = {"network": name, "method": method, "neurons": neurons(network)}
            failed: dict[str, str] = {}
            for batch in batches:
                work = Work("bounds" if level == "methods" else "step", network, method, batch)
                case = _Case(level, f"{name} {method} B={batch}", work, {**parameters, "batch": batch})
                notify(f"{level}: {case.name} {activation}")
                able = [worker for worker in workers if _takes_part(worker.contender, work)]
                yield from (
                    _row(case, worker.contender, note=f"not tried: {failed[worker.contender.name]}")
                    for worker in able
                    if worker.contender.name in failed
                )
                for row in _run(case, [worker for worker in able if worker.contender.name not in failed], options):
                    if row.timing is None:
                        failed[row.contender] = row.note
                    yield row


@contextmanager
def _workers(device: torch.device, options: MethodOptions) -> Iterator[list[Worker]]:
    """Workers for the chosen contenders that are installed."""
    able = [c for c in CONTENDERS if c.package == "lbp" or peer_available(options.peer)]
    chosen = [c for c in able if not options.contenders or c.name in options.contenders]
    with ExitStack() as stack:
        yield [stack.enter_context(Worker(c, str(device), options.limits, options.peer)) for c in chosen]


def _takes_part(contender: Contender, work: Work) -> bool:
    able = work.network.activation in contender.activations and work.method in contender.methods
    return able and (work.task == "bounds" or contender.trains)


def _row(case: _Case, contender: Contender, **measured: Any) -> Row:
    row = Row(case.level, case.name, case.work.network.activation, contender.name, parameters=dict(case.parameters))
    return replace(row, **measured)


def _run(case: _Case, workers: Sequence[Worker], options: MethodOptions) -> list[Row]:
    """Runs one case by all workers: first once each, with memory and result, then in turn for the time."""
    rows: dict[str, Row] = {}
    results: dict[str, Tensor] = {}
    able: list[Worker] = []
    for worker in workers:
        contender = worker.contender
        try:
            results[contender.name], peak = worker.first(case.work)
        except RunFailedError as error:
            rows[contender.name] = _row(case, contender, note=str(error))
            continue
        rows[contender.name] = _row(case, contender, peak_bytes=peak)
        able.append(worker)
    _check_agreement(case.name, [worker.contender for worker in able], results)
    seconds = _in_turn(able, options)
    for worker in able:
        name = worker.contender.name
        rows[name] = replace(rows[name], timing=Timing.of(seconds[name]))
        if worker.contender.package == "lbp" and case.work.method in PRODUCT_BOUND:
            taken, operations = worker.products()
            rows[name] = replace(rows[name], product_seconds=taken, operations=operations)
    return list(rows.values())


def _in_turn(workers: Sequence[Worker], options: MethodOptions) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {worker.contender.name: [] for worker in workers}
    begin = time.perf_counter()
    for number in range(options.repeats):
        patience = options.seconds * (_PATIENCE if number < 3 else 1)
        if number > 0 and time.perf_counter() - begin > patience:
            break
        for worker in workers:
            seconds[worker.contender.name].append(worker.seconds())
    return seconds


def _check_agreement(case: str, contenders: Sequence[Contender], results: dict[str, Tensor]) -> None:
    """Compares lower bounds with those of the textbook method: equal to rounding; not lower where rows are skipped."""
    exact = [contender for contender in contenders if contender.exact and contender.name in results]
    if not exact:
        return
    expected = results[exact[-1].name]
    for contender in contenders:
        if contender.name not in results:
            continue
        ours = results[contender.name]
        difference = largest_difference(ours if contender.exact else torch.minimum(ours, expected), expected)
        if not difference <= RELATIVE_TOLERANCE:
            raise DisagreementError(
                f"{case}: {contender.name} and {exact[-1].name} differ by {difference:.1e} of the largest bound"
            )
