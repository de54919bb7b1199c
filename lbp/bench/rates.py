"""What the machine can do: the floors that the measurements are compared with."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor

from lbp.bench.timing import EXACT, Call, Positive, time_in_turn
from lbp.ops._product import matmul
from lbp.precision import full_precision


@dataclass(frozen=True)
class Rates:
    """Rates measured in the same run as what is compared with them.

    Attributes:
        copy: bytes read and written per second by a copy between buffers in use.
        new_copy: the same by a copy into memory just allocated, which the operating system hands out page by page.
        products: operations (a multiply-add counts as two) per second of a large float32 matrix product by the faster
            library.
    """

    copy: Positive
    new_copy: Positive
    products: Positive

    __pydantic_config__: ClassVar[ConfigDict] = EXACT


def measure_rates(device: torch.device) -> Rates:
    """Measures the rates of a device with the threads that PyTorch uses now."""
    numbers = 2**28 if device.type == "cuda" else 2**24
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    size = 8192 if device.type == "cuda" else 1536
    left, right = (torch.ones(size, size, device=device) for _ in range(2))
    with full_precision():
        times = time_in_turn(
            {
                "copy": lambda: target.copy_(source),
                "new copy": lambda: _new_copy(source),
                "product": lambda: matmul(left, right),
            },
            device,
        )
    moved = 2 * source.numel() * source.element_size()
    return Rates(moved / times["copy"].median, moved / times["new copy"].median, 2 * size**3 / times["product"].median)


def copy_of(moved_bytes: int, device: torch.device) -> Call:
    """Returns a call that reads and writes so many bytes, half of them each, between buffers in use."""
    source = torch.ones(moved_bytes // 8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _new_copy(source: Tensor) -> None:
    """Copies into new memory, on the CPU into pages that the system has yet to hand out."""
    if source.device.type != "cpu":
        source.clone()
        return
    with mmap.mmap(-1, source.nbytes) as pages:
        target = torch.frombuffer(pages, dtype=source.dtype)
        target.copy_(source)
        del target  # the pages are still exported to it
