"""A process per contender: what it needs of memory and time is its own."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from lbp.bench.contenders import Contender, load
from lbp.bench.failures import failure_note
from lbp.bench.memory import peak_bytes
from lbp.bench.multiply_adds import multiply_adds
from lbp.bench.networks import Network
from lbp.bench.products import Product, products_of, seconds_alone
from lbp.bench.timing import seconds_of
from lbp.host_memory import keep_freed_memory
from lbp.precision import free_convolutions
from lbp.specification import margins
from lbp.training.losses import margin_loss

_START, _LOAD, _LOAD_MORE = 120.0, 45.0, 15.0
"""Seconds beyond its limit that a run may take to import or compile code, to load libraries onto a device, and to load
more of them for other work."""

_SHORT = 0.05
"""Seconds; threads that wait for work, of the contender before, spin for less than that."""

_DISTURBED = 4 * _SHORT
"""Seconds up to which such threads make a call noticeably longer: a tenth of one of 50 ms."""

_QUICK = 2.0
"""Seconds; a run that takes less is done more than once for its peak memory."""

_PEAKS, _PEAKS_SECONDS = 5, 3.0
"""How often at most, and for how long."""


@dataclass(frozen=True)
class Work:
    """What a worker does.

    Attributes:
        task: "bounds" of all margins, or a training "step": margins, loss and gradients of all parameters.
        network: to bound.
        method: by its name in lbp.
        batch: images.
        lines: strategy of the bounding lines; None for what the contender takes by itself.
    """

    task: Literal["bounds", "step"]
    network: Network
    method: str
    batch: int
    lines: str | None = None


@dataclass(frozen=True)
class Limits:
    """What a worker may use.

    Attributes:
        seconds: per run.
        memory: bytes of data that a process on the CPU may hold.
        threads: of PyTorch.
    """

    seconds: float
    memory: int
    threads: int


class RunFailedError(Exception):
    """A run did not end: out of time, out of memory, or an error of the contender."""


class Worker:
    """A contender in a process of its own, which is started when it is first needed and again after a run that failed.

    Use as a context manager.

    Args:
        contender: who works.
        device: "cpu" or "cuda:N".
        limits: to keep.
        peer: see `lbp.bench.contenders.load`.
    """

    def __init__(self, contender: Contender, device: str, limits: Limits, peer: Path | None) -> None:
        self.contender = contender
        self.device = device
        self._arguments = (contender, device, limits, peer)
        self._limits = limits
        self._process: BaseProcess | None = None
        self._has_run = False
        self._connection: Connection

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # It waits for work, and gives back what it holds of the system as it ends; unless this was interrupted.
        self._stop(patience=5.0 if kind is None else 0.0)

    def another(self) -> Worker:
        """Returns a worker for the same contender, in a process of its own."""
        return Worker(*self._arguments)

    def first(self, work: Work) -> tuple[Tensor, int | None]:
        """Sets up the work and does it once.

        Returns:
            the lower bounds of the margins, of a step its loss and then the Euclidean norm of every parameter's
            gradient [1 + parameters], 0 where a parameter has none; and peak bytes.

        Raises:
            RunFailedError: the run did not end well.
        """
        self.start()
        self._ask(work)
        values, shape, peak = self._ask("first")
        self._has_run = True
        return torch.tensor(values).reshape(shape), peak

    def seconds(self) -> float:
        """Does the work once and returns the seconds that it took.

        Raises:
            RunFailedError: the run did not end well.
        """
        return float(self._ask("time"))

    def operations(self) -> int:
        """Returns the operations of the products of the textbook method, on windows or whole, whichever are fewer.

        Raises:
            RunFailedError: the run did not end well.
        """
        return int(self._ask("count operations"))

    def list_products(self) -> int:
        """Does the work once and returns the operations of its products, which are remembered.

        Raises:
            RunFailedError: the run did not end well.
        """
        return int(self._ask("list products"))

    def seconds_alone(self) -> float:
        """Computes the products of `list_products` alone and returns the seconds that they took.

        Raises:
            RunFailedError: the run did not end well.
        """
        return float(self._ask("time products"))

    def start(self) -> None:
        """Starts the process, if there is none, and does not wait for it: several can start at the same time."""
        if self._process is not None:
            return
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._has_run = False
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments))
        # Ctrl-C is for all processes of a terminal; this one ends its workers, which inherit that they wait for that.
        resource_tracker.ensure_running()  # its start would undo the mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def _stop(self, patience: float = 0.0) -> int | None:
        """Ends the process, which has nothing to save, and returns its exit code.

        Args:
            patience: seconds in which it may end by itself.
        """
        if self._process is None:
            return None
        self._connection.close()
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        code, self._process = self._process.exitcode, None
        return code

    def _start_seconds(self, what: Work | str) -> float:
        """Returns how much longer than its limit a request may take before or beside what is measured."""
        on_device = self.device.startswith("cuda")
        if isinstance(what, Work) or (what == "first" and self.contender.compiled):
            return _START
        if what != "first" or not on_device:
            return 0.0
        return _LOAD_MORE if self._has_run else _LOAD

    def _ask(self, what: Work | str) -> Any:
        patience = self._limits.seconds + self._start_seconds(what)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it has ended; why, it may have said before
                self._connection.send(what)
            if not self._connection.poll(patience):
                self._stop()
                raise RunFailedError(f"stopped after {patience:g} s")
            kind, answer = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            if self._process is not None:
                self._process.join(timeout=2)  # for an exit code of its own
            raise RunFailedError(f"process ended with code {self._stop()}") from None
        if kind == "failed":
            self._stop()
            raise RunFailedError(answer)
        return answer


def _serve(connection: Connection, contender: Contender, device: str, limits: Limits, peer: Path | None) -> None:
    """Answers work by setting it up, and words by doing it, or its products; ends with the connection."""
    with suppress(BrokenPipeError, ConnectionResetError):  # who asked is gone
        _answer(connection, contender, device, limits, peer)


def _answer(connection: Connection, contender: Contender, device: str, limits: Limits, peer: Path | None) -> None:
    if contender.package != "lbp" or contender.compiled:
        warnings.simplefilter("ignore")
    on = torch.device(device)

    prepared = _NOTHING
    products: list[Product] = []
    try:
        package = _load_within(contender, on, limits, peer)
        while True:
            what = connection.recv()
            answer: Any = None
            if isinstance(what, Work):
                prepared = _NOTHING  # lets go of the work before
                prepared = _prepare(package, contender, what, on)
            elif what == "first":
                if contender.compiled:
                    prepared.run()  # compiles, however long that takes
                answer = _first(prepared.run, on)
            elif what == "time":
                answer = _steady_seconds(prepared.run, on)
            elif what == "count operations":
                answer = prepared.operations()
            elif what == "list products":
                products = products_of(prepared.run)
                answer = sum(product.operations for product in products)
            else:
                answer = seconds_alone(products)
            connection.send(("done", answer))
    except EOFError:
        return
    except Exception as error:
        connection.send(("failed", failure_note(error)))


def _load_within(contender: Contender, device: torch.device, limits: Limits, peer: Path | None) -> ModuleType:
    torch.set_num_threads(limits.threads)
    keep_freed_memory()  # for all contenders alike, as in every command
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # a peer's are as exact as ours
    if device.type == "cpu" and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))
    return load(contender, peer)


def _first(run: Callable[[], _Result], device: torch.device) -> tuple[list[float], list[int], int | None]:
    """Returns numbers and shape of what is compared, and the peak: of later runs, as the first loads code, which stays.

    The resident memory of equal runs differs by a tenth and more, so that of a CPU is the median of a few.
    """
    begin = time.perf_counter()
    result, peak = peak_bytes(run, device)
    compared = result if isinstance(result, Tensor) else result.compared()
    del result
    taken = time.perf_counter() - begin
    if taken < _QUICK:
        runs = 1 if device.type == "cuda" else max(1, min(_PEAKS, int(_PEAKS_SECONDS / taken)))
        found = [peak_bytes(run, device)[1] for _ in range(runs)]
        known = [bytes_ for bytes_ in found if bytes_ is not None]
        peak = statistics.median_low(known) if known else None
    return compared.flatten().tolist(), list(compared.shape), peak


def _steady_seconds(run: Callable[[], _Result], device: torch.device) -> float:
    """Returns the seconds of a call; of a short one those of a later one, when only our threads are awake."""
    begin = time.perf_counter()
    seconds = seconds_of(run, device)
    if seconds <= _DISTURBED:
        seconds = seconds_of(run, device)
    while seconds <= _SHORT and time.perf_counter() - begin < _SHORT:
        seconds = seconds_of(run, device)
    return seconds


@dataclass(frozen=True)
class _Step:
    """What a training step gave: its loss, and the gradient of every parameter, None where it has none."""

    loss: Tensor
    gradients: tuple[Tensor | None, ...]

    def compared(self) -> Tensor:
        """Returns the loss and the norms of the gradients."""
        norms = [self.loss.new_zeros(()) if one is None else one.norm() for one in self.gradients]
        return torch.stack([self.loss, *norms])


_Result = Tensor | _Step


@dataclass(frozen=True)
class _Prepared:
    """Work that has been set up.

    Attributes:
        run: does it.
        operations: counts those of its products.
    """

    run: Callable[[], _Result]
    operations: Callable[[], int]


def _no_work() -> Any:
    raise RuntimeError("no work has been set up")


_NOTHING = _Prepared(_no_work, _no_work)


def _prepare(package: ModuleType, contender: Contender, work: Work, device: torch.device) -> _Prepared:
    if contender.compiled:
        torch.compiler.reset()  # a function may have so many graphs and no more
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()  # contenders share the device's memory
    model = work.network.model().to(device)
    images, labels = work.network.images(work.batch, device)
    lines = {} if work.lines is None else {"activation_bound_option": work.lines}
    net = package.BoundedModule(model, images, bound_opts=contender.options | lines, device=str(device))
    C = margins(labels, 10)
    eps = work.network.eps
    perturbation = package.PerturbationLpNorm(
        norm=float("inf"), eps=eps, x_L=(images - eps).clamp(0, 1), x_U=(images + eps).clamp(0, 1)
    )
    x = package.BoundedTensor(images, perturbation)
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]

    def bounds() -> Tensor:
        lower: Tensor = net.compute_bounds(x=(x,), C=C, method=contender.methods[work.method], bound_upper=False)[0]
        return lower

    plain = device.type == "cuda" and contender.backend == "reference"  # which leaves convolutions to cuDNN there

    def verify() -> Tensor:
        with torch.no_grad(), free_convolutions() if plain else nullcontext():
            return bounds()

    def step() -> _Step:
        with free_convolutions():  # as in training
            loss = margin_loss(bounds())
            return _Step(loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True))

    def operations() -> int:
        network, rows = net._network(), C.shape[1]
        counts = [multiply_adds(network, work.method, windows=windows, specification=rows) for windows in (True, False)]
        return 2 * work.batch * min(counts)

    return _Prepared(verify if work.task == "bounds" else step, operations)
