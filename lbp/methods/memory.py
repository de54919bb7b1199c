"""How many rows and images fit into a budget of bytes, and what a budget is where nobody gives one.

A budget covers the tensors that `compute_bounds` makes; parameters and inputs are the caller's. Sizes are counted from
shapes before anything is computed (`lbp.methods.byte_counts`), so that splits depend on nothing but the network, the
method and the budget.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lbp.errors import InvalidInputError
from lbp.graph import Network
from lbp.methods.byte_counts import (
    carries_forward,
    hidden_row_bytes,
    image_bytes,
    interval_bytes,
    joined_numbers,
    kept_numbers,
    least_rows,
    output_row_bytes,
    output_scratch_bytes,
    shared_bytes,
)
from lbp.methods.computation import Computation
from lbp.methods.names import Method
from lbp.methods.work import counted_once

if TYPE_CHECKING:
    from lbp.methods.problem import Problem

CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}
"""Rows at once take no more than this even where the budget allows: more does not make them faster.

A GPU computes many rows in the time that the host needs to start the kernels of few.
"""

CACHED_BYTES = 20 * 2**20
"""Rows of the output of so many bytes stay in a processor's cache from layer to layer."""


def budget_in_bytes(value: int | float | str) -> int:
    """Return a budget given as a number of bytes or as text like "4GiB".

    Raises:
        InvalidInputError: something else, or nothing above 0.
    """
    number: float | None = None
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(i?))?b?", value.strip().lower())
        if match:
            number = float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    if number is None or not 1 <= number < float("inf"):
        raise InvalidInputError(
            f"memory_budget must be a number of bytes above 0 or text like '4GiB' or '512MiB', got {value!r}"
        )
    return int(number)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device, for the CPU those that the system could hand out."""
    if device.type == "cuda":
        return _free_device_memory(device)
    match = re.search(rb"MemAvailable:\s*(\d+) kB", _contents(_SYSTEM))
    available = int(match[1]) * 1024 if match else 8 * 2**30
    limit, used = (_contents(path).strip() for path in _CONTAINER)
    if limit.isdigit() and used.isdigit():
        available = min(available, max(int(limit) - int(used), 2**20))
    return available


def _free_device_memory(device: torch.device) -> int:
    """Return the bytes that a CUDA device has for this process's tensors.

    The driver takes longer to say what is free than a small layer takes, so it is asked once in a while. What this
    process allocates in between is counted: it leaves the sum of what the driver has free and what PyTorch has reserved
    as it is. What others allocate is not, until the driver is asked again.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    asked_at, available = _available.get(index, (-math.inf, 0))
    now = time.monotonic()
    free = torch.cuda.mem_get_info(device)[0] if now - asked_at > ASK_DRIVER_AFTER_S else None
    # After the driver: what another thread gives back to it in between counts nowhere, rather than twice.
    statistics = torch.cuda.memory_stats_as_nested_dict(device)
    reserved, allocated = (
        statistics.get(f"{name}_bytes", {}).get("all", {}).get("current", 0) for name in ("reserved", "allocated")
    )
    if free is not None:
        available = free + reserved
        _available[index] = now, available
    return int(max(available - allocated, 0))


ASK_DRIVER_AFTER_S = 1.0

_available: dict[int, tuple[float, int]] = {}
"""By device: when the driver was asked, and what it had free together with what PyTorch had reserved."""

_SYSTEM = Path("/proc/meminfo")

_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


def _contents(path: Path) -> bytes:
    """Return what a file of the system says; nothing where there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def rows_within(budget: int | None, taken: int, each: int, device: torch.device) -> int:
    """Return how many rows of `each` bytes fit beside what is taken, at least one and no more than are useful."""
    useful = CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"])
    return max(1, (useful if budget is None else min(budget - taken, useful)) // each)


def rows_beside(budget: int, each: int, most: int, scratch: Callable[[int], int]) -> int:
    """Return how many rows fit into a budget with the scratch memory that they take together, at least one.

    Args:
        budget: bytes.
        each: bytes of a row.
        most: rows that are wanted.
        scratch: returns the bytes of scratch memory of some rows.
    """
    few, many = 1, max(min(most, budget // each), 1) + 1
    if (many - 1) * each + scratch(many - 1) <= budget:
        return many - 1
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if middle * each + scratch(middle) <= budget else (few, middle)
    return few


def images_at_once(problem: Problem, method: Method, *, keep_linear: bool = False) -> int:
    """Return how many images to bound at a time, at least one.

    Args:
        problem: the question.
        method: how it is answered.
        keep_linear: whether the rows of the output are kept.

    Raises:
        InvalidInputError: the budget is strict and too small for images one by one; the least that is needed is named.
    """
    batch = max(1, problem.region.batch)
    if problem.budget is None:
        return batch
    in_cached_parts = method.output == "crown" and not keep_linear
    computation = problem.computation(method)

    def within(kept_images: int, *, strict: bool) -> int:
        assert problem.budget is not None
        return images_within(
            problem.budget,
            problem.network,
            computation,
            kept_images=kept_images,
            with_rows=problem.cached_images(problem.sides) if in_cached_parts else None,
            strict=strict,
            wanted=batch,
        )

    asked = problem.budget_is_strict
    together = within(0, strict=asked and batch == 1)
    # A budget that nobody asked for is half of what is free, and leaves the rest to what is kept.
    return within(batch, strict=True) if asked and together < batch else together


def images_within(
    budget: int,
    network: Network,
    computation: Computation,
    *,
    kept_images: int = 0,
    with_rows: int | None = None,
    strict: bool,
    wanted: int = sys.maxsize,
) -> int:
    """Return how many images at a time stay within a budget, at least one.

    Args:
        budget: bytes.
        network: the graph.
        computation: of the bounds.
        kept_images: of which the bounds of hidden layers are kept while others are bounded.
        with_rows: images of which rows of the output are held at a time; None: all.
        strict: whether a budget that is too small for a single image is an error.
        wanted: images, of which more are not asked for.

    Raises:
        InvalidInputError: such a budget; the least that is needed is named.
    """
    if strict:
        _check_budget(budget, network, computation, kept_images)
    windows, hidden = computation.windows, hidden_row_bytes(network, computation)
    fixed, through = _fixed_bytes(network, computation, kept_images), least_rows(network, computation)
    # Whole rows are one for every image, windows are not.
    without_rows = image_bytes(network, computation) + (0 if windows else hidden)
    of_rows = computation.row_count * output_row_bytes(network, computation)
    intervals, alone = interval_bytes(network, computation), _shared_bytes(network, computation, 1, through)
    every = max(intervals, without_rows + of_rows)

    def beside(images: int) -> int:
        """Return the bytes that so many images take together, more of the weights and of scratch memory than one."""
        passing = images * max(2 * computation.row_count, through) if through else 0
        together = _shared_bytes(network, computation, images, passing)
        of_output = output_scratch_bytes(network, computation, batch=images)
        return together - alone + max(hidden if windows else 0, of_output)

    # Half of what is left stays for the rows of hidden layers.
    if with_rows is not None and (budget - fixed - beside(1)) // (2 * every) > with_rows:
        fixed += with_rows * 2 * of_rows
        every = max(intervals, without_rows)
    return rows_beside(budget - fixed, 2 * every, wanted, beside)


def _check_budget(budget: int, network: Network, computation: Computation, kept_images: int) -> None:
    """Refuse a budget that is too small for a single image, and name the least that is needed."""
    least = _least_bytes(network, computation, kept_images)
    if budget < least:
        raise InvalidInputError(
            f"memory_budget={budget} bytes is too small: {computation.method} takes at least {least} bytes "
            f"({least / 2**20:.1f} MiB) for {max(kept_images, 1)} x {list(network.input.shape)} inputs"
            + (", of which the bounds of every hidden layer are kept; pass fewer at a time" if kept_images > 1 else "")
        )


def _least_bytes(network: Network, computation: Computation, kept_images: int) -> int:
    """Return the bytes that images take which are bounded one by one, the bounds of so many being kept."""
    # Intervals of the last activations are evaluated for all rows together, others for some.
    first_rows = computation.row_count if computation.method.output == "ibp" else 1
    of_output = first_rows * output_row_bytes(network, computation)
    of_output += output_scratch_bytes(network, computation, batch=None)
    of_image = image_bytes(network, computation) + max(of_output, hidden_row_bytes(network, computation))
    least = _fixed_bytes(network, computation, kept_images) + max(interval_bytes(network, computation), of_image)
    if kept_images <= 1:
        return least
    at_the_end = kept_numbers(network, computation) + joined_numbers(network, computation)
    return max(kept_images * at_the_end * computation.itemsize, least)


def _fixed_bytes(network: Network, computation: Computation, kept_images: int) -> int:
    """Return the bytes that are taken however many images go at a time."""
    kept = max(kept_images - 1, 0) * kept_numbers(network, computation) * computation.itemsize
    return _shared_bytes(network, computation, 1, least_rows(network, computation)) + kept


@counted_once
def _shared_bytes(network: Network, computation: Computation, images: int, through: int) -> int:
    """Return the bytes that so many images take together, `through` of their rows passing a layer at a time."""
    outward = computation.rounding != "nearest"
    # Over a ball, outward intervals of the first layer come of rows.
    starts_rows = computation.windows and (hidden_row_bytes(network, computation) > 0 or outward)
    return shared_bytes(
        network,
        computation.itemsize,
        batch=images,
        rows=int(starts_rows),
        through=through,
        forward=carries_forward(computation.method),
        rounding=computation.rounding,
    )
