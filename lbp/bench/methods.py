"""The levels of methods and training steps, and how cost grows: contenders in processes of their own, in turn."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import lbp
from lbp.bench.contenders import CONTENDERS, Contender, peer_available
from lbp.bench.grid import METHODS, TRAINING_METHODS, Case, all_networks, growth_cases, network_cases
from lbp.bench.networks import Network
from lbp.bench.ops import largest_difference
from lbp.bench.record import Key, Row
from lbp.bench.timing import Timing
from lbp.bench.worker import Limits, RunFailedError, Work, Worker
from lbp.specification import margins
from lbp.training.losses import margin_loss

PRODUCT_BOUND = ("IBP", "CROWN-IBP")
"""Methods whose cost is that of their products, which are timed beside them on the CPU."""

RELATIVE_TOLERANCE = 1e-4
"""Largest difference of bounds and losses that are compared, as a share of the largest number in them."""

GRADIENT_TOLERANCE = 1e-3
"""Largest difference of the norms of parameters' gradients, as a share of the largest norm."""

NORM_TOLERANCE = 1e-2
"""The same as a share of each norm, which small ones need: those of bending points say."""

SMALLEST_NORM = 1e-6
"""Share of the largest norm below which one may be rounding and nothing else."""

LARGEST_CHOICE = 0.05
"""Share of the largest bound beyond which no difference is one of lines that rounding decides."""

_PATIENCE = 4
"""A median needs three rounds, so that the first ones may take longer than all of them otherwise."""


@dataclass(frozen=True)
class MethodOptions:
    """What to measure of methods and training steps.

    Attributes:
        limits: of every run.
        repeats: most rounds of a case.
        seconds: that the runs of a contender in a case may take before it begins no further one; the second and third
            wait `_PATIENCE` times as long. A slow contender thus takes no rounds from a fast one.
        networks, methods, batches, contenders: to take, the first three in that order; empty for all.
        peer: folder of auto_LiRPA, None for the installed one.
        done: rows that are not to be measured again; what failed there is not tried at larger sizes either.
    """

    limits: Limits
    repeats: int = 5
    seconds: float = 0.75
    networks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    contenders: tuple[str, ...] = ()
    peer: Path | None = None
    done: Mapping[Key, Row] = field(default_factory=dict)


def measure_methods(device: torch.device, options: MethodOptions, notify: Callable[[str], None]) -> Iterator[list[Row]]:
    """Measures every method on every network.

    Args:
        device: to measure on.
        options: what to measure.
        notify: told the name of each case when it begins.

    Yields:
        the rows of a case, one per contender and activation; without a timing where a run did not end within the
        limits, or its result differed from the others' by more than rounding.
    """
    batches = (1, 16, 256) if device.type == "cpu" else (1, 32, 256)
    yield from _measure_grid("methods", METHODS, options.batches or batches, device, options, notify)


def measure_training(
    device: torch.device, options: MethodOptions, notify: Callable[[str], None]
) -> Iterator[list[Row]]:
    """Measures training steps: bounds of all margins, loss, and gradients of all parameters; see `measure_methods`."""
    batches = (16,) if device.type == "cpu" else (128,)
    yield from _measure_grid("training", TRAINING_METHODS, options.batches or batches, device, options, notify)


def measure_growth(device: torch.device, options: MethodOptions, notify: Callable[[str], None]) -> Iterator[list[Row]]:
    """Measures chains of 3x3 convolutions, windowed and dense, by this package's contenders; see `measure_methods`."""
    yield from _measure(growth_cases(options.methods), device, options, notify)


def _measure_grid(
    level: Literal["methods", "training"],
    methods: Sequence[str],
    batches: Sequence[int],
    device: torch.device,
    options: MethodOptions,
    notify: Callable[[str], None],
) -> Iterator[list[Row]]:
    chosen = [method for method in options.methods or methods if method in methods]
    cases = network_cases(level, options.networks or all_networks(level), chosen, batches)
    yield from _measure(cases, device, options, notify)


def _measure(
    cases: Iterable[Case], device: torch.device, options: MethodOptions, notify: Callable[[str], None]
) -> Iterator[list[Row]]:
    with _Runners(device, options) as runners:
        for case in cases:
            wanted = runners.of(case)
            if all(runner.key in options.done for runner in wanted):
                _remember(runners.history, wanted, options.done)
                continue
            notify(f"{case.level}: {case.name}")
            yield _run(wanted, runners.history, options)


@dataclass(frozen=True)
class _Runner:
    """A contender with an activation in a case."""

    case: Case
    network: Network
    worker: Worker

    @property
    def key(self) -> Key:
        return self.row().key

    @property
    def history_key(self) -> tuple[str, ...]:
        return self.case.level, *self.case.family, self.network.activation, self.worker.contender.name

    @property
    def lists_products(self) -> bool:
        on_cpu = self.worker.device.startswith("cpu")  # of kernels that multiply on a GPU nobody lists the products
        return on_cpu and self.worker.contender.name == "native" and self.case.method in PRODUCT_BOUND

    @property
    def counts_operations(self) -> bool:
        """Whether its operations are those of the textbook method on windows, which can be counted from shapes."""
        contender, bounds = self.worker.contender, self.case.level in ("methods", "growth")
        ours = contender.package == "lbp" and contender.backend == "native" and "conv_mode" not in contender.options
        return ours and bounds and self.is_exact and not self.lists_products

    @property
    def is_exact(self) -> bool:
        return self.case.method not in self.worker.contender.tighter

    def work(self) -> Work:
        task: Literal["bounds", "step"] = "step" if self.case.level == "training" else "bounds"
        return Work(task, self.network, self.case.method, self.case.batch)

    def row(self, **measured: Any) -> Row:
        name, case = self.worker.contender.name, self.case
        empty = Row(case.level, case.name, self.network.activation, name, parameters=dict(case.parameters))
        return replace(empty, **measured)


@dataclass(frozen=True)
class _Earlier:
    """How a runner fared at the smaller sizes of a case: its time, or why it has none."""

    case: str
    size: int
    seconds: float | None
    note: str = ""

    def forbids(self, size: int, limits: Limits) -> str | None:
        """Returns why a run at a larger size is not worth trying, None if it is."""
        if size <= self.size:
            return None
        if self.seconds is None:
            return f"not run: {self.note} at {self.case}"
        estimate = self.seconds * size / self.size
        return f"not run: estimated {estimate:.0f} s" if estimate > limits.seconds else None


class _Runners:
    """A worker for every contender and activation; their processes start when they are first needed."""

    def __init__(self, device: torch.device, options: MethodOptions) -> None:
        self.history: dict[tuple[str, ...], _Earlier] = {}
        self._device = device
        self._options = options
        self._workers: dict[tuple[str, str], Worker] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Runners:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, case: Case) -> list[_Runner]:
        """Returns who takes part in a case."""
        able = [c for c in CONTENDERS if c.package == "lbp" or peer_available(self._options.peer)]
        return [
            _Runner(case, network, self._worker(contender, network.activation))
            for network in case.networks
            for contender in able
            if _takes_part(contender, case, network, self._options.contenders)
        ]

    def _worker(self, contender: Contender, activation: str) -> Worker:
        key = contender.name, activation
        if key not in self._workers:
            worker = Worker(contender, str(self._device), self._options.limits, self._options.peer)
            self._workers[key] = self._stack.enter_context(worker)
        return self._workers[key]


def _takes_part(contender: Contender, case: Case, network: Network, chosen: Sequence[str]) -> bool:
    if chosen and contender.name not in chosen:
        return False
    if case.contenders and contender.name not in case.contenders:
        return False
    able = network.activation in contender.activations and case.method in contender.methods
    if case.level == "growth":
        return able
    within = bool(chosen) or contender.takes(network.name, case.batch)
    return able and within and (case.level != "training" or contender.trains)


def _run(runners: Sequence[_Runner], history: dict[tuple[str, ...], _Earlier], options: MethodOptions) -> list[Row]:
    """Runs one case: every runner once, for memory and result, then all in turn for the time."""
    rows: dict[Key, Row] = {}
    results: dict[Key, Tensor] = {}
    able: list[_Runner] = []
    for runner in runners:
        earlier = history.get(runner.history_key)
        note = None if earlier is None else earlier.forbids(runner.case.size, options.limits)
        if note is None:
            runner.worker.start()
        else:
            rows[runner.key] = runner.row(note=note)
    for runner in runners:
        if runner.key in rows:
            continue
        try:
            results[runner.key], peak = runner.worker.first(runner.work())
        except RunFailedError as error:
            rows[runner.key] = runner.row(note=str(error))
            continue
        rows[runner.key] = runner.row(peak_bytes=peak)
        able.append(runner)
    for runner, note, is_choice in _differing(able, results):
        if is_choice:
            rows[runner.key] = replace(rows[runner.key], note=note)
        else:
            rows[runner.key] = runner.row(note=note)
            able.remove(runner)
    for runner, measured in _in_turn(able, options):
        rows[runner.key] = replace(rows[runner.key], **measured)
    _remember(history, runners, rows)
    return list(rows.values())


def _remember(history: dict[tuple[str, ...], _Earlier], runners: Sequence[_Runner], rows: Mapping[Key, Row]) -> None:
    for runner in runners:
        row = rows[runner.key]
        if not row.note.startswith("not run"):
            seconds = None if row.timing is None else row.timing.median
            history[runner.history_key] = _Earlier(runner.case.name, runner.case.size, seconds, row.note)


def _in_turn(runners: Sequence[_Runner], options: MethodOptions) -> list[tuple[_Runner, dict[str, Any]]]:
    """Returns what rounds of one run each measured: times, and those of the products alone.

    Who has used up its time leaves the rounds to the others.
    """
    seconds: dict[Key, list[float]] = {runner.key: [] for runner in runners}
    alone: dict[Key, list[float]] = {runner.key: [] for runner in runners}
    operations: dict[Key, int] = {}
    failed: dict[Key, str] = {}
    for number in range(options.repeats):
        patience = options.seconds * (_PATIENCE if number < 3 else 1)
        for runner in runners:
            key = runner.key
            if key in failed or sum(seconds[key]) > patience:
                continue
            try:
                seconds[key].append(runner.worker.seconds())
                if key not in operations and (runner.lists_products or runner.counts_operations):
                    listed = runner.lists_products
                    operations[key] = runner.worker.list_products() if listed else runner.worker.operations()
                if runner.lists_products:
                    alone[key].append(runner.worker.seconds_alone())
            except RunFailedError as error:
                failed[key] = str(error)
    return [
        (runner, {"note": failed[runner.key]})
        if runner.key in failed
        else (
            runner,
            {
                "timing": Timing.of(seconds[runner.key]),
                "product_seconds": Timing.of(alone[runner.key]).median if alone[runner.key] else None,
                "operations": operations.get(runner.key),
            },
        )
        for runner in runners
    ]


def _differing(runners: Sequence[_Runner], results: dict[Key, Tensor]) -> list[tuple[_Runner, str, bool]]:
    """Returns who differs from the textbook method, how, and whether only in a choice of lines that rounding decides.

    Adaptive lines jump where the bounds of a neuron are -u and u. Of a million neurons one may lie so close to it that
    rounding decides, and what follows from either choice is right, and differs little. Tight lines do not jump. A peer,
    which has none, may differ where it agrees with one of ours that made such a choice.
    """
    chosen: list[_Runner] = []
    found = []
    for runner, note in _disagreements(runners, results):
        standard = _standard([other for other in runners if other.network.activation == runner.network.activation])
        is_choice = standard is not None and runner is not standard and _agree_on_tight_lines(runner, standard)
        is_choice = is_choice or any(_agrees_with(runner, other, results) for other in chosen)
        is_choice = is_choice and standard is not None and _is_small(runner, standard, results)
        is_choice = is_choice and not _impossible(runner, results[runner.key])
        if is_choice:
            chosen.append(runner)
        found.append((runner, f"{OTHER_LINES}: {note}" if is_choice else note, is_choice))
    return found


OTHER_LINES = "lines of its own"
"""Begins the note of a row whose bounds differ by a choice of lines that rounding decides."""


def _agrees_with(runner: _Runner, other: _Runner, results: dict[Key, Tensor]) -> bool:
    """Whether a peer's bounds are those of another with the same activation, to rounding, or tighter where they may."""
    if runner.worker.contender.package == "lbp" or runner.case.level == "training":
        return False
    if runner.network.activation != other.network.activation:
        return False
    return _difference(runner, results[runner.key], results[other.key]) <= RELATIVE_TOLERANCE


def _is_small(runner: _Runner, standard: _Runner, results: dict[Key, Tensor]) -> bool:
    return _difference(runner, results[runner.key], results[standard.key]) <= LARGEST_CHOICE


def _agree_on_tight_lines(runner: _Runner, standard: _Runner) -> bool:
    if runner.worker.contender.package != "lbp" or runner.case.level == "training":
        return False
    results: dict[Key, Tensor] = {}
    with ExitStack() as stack:
        workers = [(each, stack.enter_context(each.worker.another())) for each in (runner, standard)]
        for _, worker in workers:
            worker.start()
        for each, worker in workers:
            try:
                results[each.key], _ = worker.first(replace(each.work(), lines="tight"))
            except RunFailedError:
                return False
    return not _disagreements((runner, standard), results)


def _standard(group: Sequence[_Runner]) -> _Runner | None:
    """Returns whose results those of an activation are compared with, None if all may be tighter than the method."""
    exact = [runner for runner in group if runner.is_exact]
    plain = [runner for runner in exact if runner.worker.contender.name == "reference"]
    return next(iter(plain or exact[-1:]), None)


def _disagreements(runners: Sequence[_Runner], results: dict[Key, Tensor]) -> list[tuple[_Runner, str]]:
    """Compares lower bounds, or losses, with those of the textbook method, of each activation.

    They are equal to rounding. Where rows are skipped, or a peer chooses its own lines, they may be tighter: bounds not
    lower, losses not higher. Never are they tighter than what the images themselves give.
    """
    found = []
    for activation in dict.fromkeys(runner.network.activation for runner in runners):
        group = [runner for runner in runners if runner.network.activation == activation]
        impossible = [(runner, note) for runner in group if (note := _impossible(runner, results[runner.key]))]
        found += impossible
        standard = _standard(group)
        if standard is None:
            continue
        expected = results[standard.key]
        for runner in group:
            if any(runner is known for known, _ in impossible):
                continue
            ours, other = results[runner.key], standard.worker.contender.name
            difference = _difference(runner, _bounds_or_loss(runner, ours), _bounds_or_loss(runner, expected))
            if not difference <= RELATIVE_TOLERANCE:
                found.append((runner, f"differs from {other} by {difference:.1e} of the largest bound"))
            elif runner.case.level == "training" and (note := _gradients_differ(runner, ours[1:], expected[1:])):
                found.append((runner, f"differs from {other} {note}"))
    return found


def _bounds_or_loss(runner: _Runner, result: Tensor) -> Tensor:
    return result[0] if runner.case.level == "training" else result


def _difference(runner: _Runner, ours: Tensor, expected: Tensor) -> float:
    """Returns the difference as a share of the largest, of bounds and losses that may be tighter only where looser."""
    if ours.shape != expected.shape or ours.isnan().any():
        return math.inf
    looser = torch.maximum if runner.case.level == "training" else torch.minimum
    return largest_difference(ours if runner.is_exact else looser(ours, expected), expected)


def _impossible(runner: _Runner, result: Tensor) -> str:
    """Returns how lower bounds exceed the images' own margins, or a loss falls below theirs; nothing if they do not."""
    ours, attained = _bounds_or_loss(runner, result), _attained(runner.network, runner.case.batch)
    if runner.case.level == "training":
        attained = margin_loss(attained)
    if ours.shape != attained.shape:
        return f"gives {tuple(ours.shape)} where there are {tuple(attained.shape)} margins"
    beyond = torch.minimum if runner.case.level == "training" else torch.maximum
    share = largest_difference(beyond(ours, attained), attained)
    return "" if share <= RELATIVE_TOLERANCE else f"is tighter than the images themselves by {share:.1e} of the largest"


@functools.cache
def _attained(network: Network, batch: int) -> Tensor:
    """Returns the margins of the images, which no lower bound over a region around them exceeds."""
    images, labels = network.images(batch, torch.device("cpu"))
    with torch.no_grad(), lbp.backend("reference"):  # not by the kernels that are compared
        logits: Tensor = network.model()(images)
    return torch.einsum("bso,bo->bs", margins(labels, 10), logits)


def _gradients_differ(runner: _Runner, ours: Tensor, expected: Tensor) -> str:
    """Returns how norms of gradients differ, nothing if they agree; of tighter bounds all that is known is which are 0.

    So much that no contender gets away with gradients of fewer parameters.
    """
    if not ours.isfinite().all():
        return "in the gradients of parameters: not all are numbers"
    reached, expected_reached = int(ours.count_nonzero()), int(expected.count_nonzero())
    if reached != expected_reached:
        return f"in the gradients of parameters: {reached} are not 0, of {expected_reached}"
    if not runner.is_exact:
        return ""
    difference = largest_difference(ours, expected)
    if not difference <= GRADIENT_TOLERANCE:
        return f"by {difference:.1e} of the largest norm of a gradient"
    counted = expected > SMALLEST_NORM * expected.max()
    share = float(((ours - expected).abs() / expected)[counted].max().item()) if counted.any() else 0.0
    return "" if share <= NORM_TOLERANCE else f"by {share:.1e} of the norm of a gradient"
