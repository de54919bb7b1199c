"""The processes of a run: one, or those that `torchrun` started, on this machine or on several."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from lbp.errors import InvalidInputError


@dataclass(frozen=True)
class Workers:
    """This process among its fellows.

    Attributes:
        rank: its number.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process prints, and writes what belongs to all."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values that all processes have called this with, in the order of their ranks; every process gets them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


@contextmanager
def workers(device: torch.device | str = "cpu") -> Iterator[Workers]:
    """Joins the processes that `torchrun` started (gloo on the CPU, nccl on GPUs), if it did.

    Args:
        device: of the work; with several GPUs a process takes the one of its local rank.

    Raises:
        InvalidInputError: more processes on this machine than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Workers()
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= there:
            raise InvalidInputError(f"process {local} of this machine has no GPU, there are {there}; start fewer")
        torch.cuda.set_device(local)
    # Functions of this module have the group of the time of its import as a default argument. Imported later, as
    # DistributedDataParallel does, they would keep the group and its threads beyond the block; and a thread that lets
    # go of a tensor while the interpreter ends aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Workers(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
