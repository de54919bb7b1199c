"""Data-parallel training: what one process among several does differently."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn

from lbp.data import Dataset
from lbp.distributed import Workers, workers
from lbp.errors import InvalidInputError
from lbp.nn import GlobalBatchNorm


@dataclass(frozen=True)
class World(Workers):
    """The processes that train together; a single one by default.

    Attributes:
        device: of this process; "cuda" stands for the current GPU and becomes that.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        # Tensors name their GPU by number, and devices are compared.
        if self.device.type == "cuda" and self.device.index is None:
            object.__setattr__(self, "device", torch.device("cuda", torch.cuda.current_device()))

    def part(self, batch: Tensor) -> Tensor:
        """This process's part of the examples of a batch, in order.

        Raises:
            InvalidInputError: fewer examples than processes.
        """
        if len(batch) < self.size:
            raise InvalidInputError(
                f"a batch of {len(batch)} examples cannot be divided among {self.size} processes; change the batch "
                "size or the number of examples so that the last batch is larger"
            )
        return batch.tensor_split(self.size)[self.rank]

    def share_of(self, data: Dataset) -> Dataset:
        """This process's share of a data set, in order, on its device; may be empty."""
        return data.chosen(torch.arange(len(data), device="cpu").tensor_split(self.size)[self.rank]).to(self.device)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes, differentiable; the same tensor where there is one process."""
        return values if self.size == 1 else all_reduce(values)

    def barrier(self) -> None:
        """Waits for the other processes."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined_world(device: torch.device) -> Iterator[World]:
    """The world that torchrun's environment variables describe, joined for the length of the block.

    Args:
        device: the kind of device; with several GPUs every process takes the one of its local rank.
    """
    with workers(device) as group:
        if group.size > 1 and device.type == "cuda":
            device = torch.device("cuda")
        yield World(group.rank, group.size, device)


class _AllReduce(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def all_reduce(values: Tensor) -> Tensor:
    """Sum of a tensor over the processes of the default group, differentiable."""
    total: Tensor = _AllReduce.apply(values)  # type: ignore[no-untyped-call]
    return total


@contextmanager
def global_batch_norm(model: nn.Module, world: World) -> Iterator[None]:
    """Inside the block, batch normalisation takes the statistics of the batch of all processes together.

    The modules are replaced and put back; parameters and buffers stay the same tensors.

    Raises:
        InvalidInputError: a layer without weights or running statistics.
    """
    if world.size == 1:
        yield
        return
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(parent, name, GlobalBatchNorm(child, all_reduce))
                replaced.append((parent, name, child))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            child.train(getattr(parent, name).training)
            setattr(parent, name, child)
