"""What a CUDA graph does to a training step, on a CPU: operations recorded once, and done again on the same memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations by which the host reads a value of the device, or by which one of the host gets there.
HOST = {
    "aten::_local_scalar_dense": "reads a value",
    "aten::is_nonzero": "reads a value",
    "aten::equal": "reads a value",
    "aten::nonzero": "makes a tensor whose size depends on values",
    "aten::masked_select": "makes a tensor whose size depends on values",
    "aten::_unique2": "makes a tensor whose size depends on values",
    "aten::lift_fresh": "takes a value from the host",
}


class HostNeededError(AssertionError):
    """The work cannot be captured as a CUDA graph."""


class OperationRecorder:
    """A recorder of `CapturedSteps`: like a CUDA graph, a recording repeats operations, and nothing that Python does.

    Numbers of the host that an operation was given are those of the recording for ever; what an operation returned
    stays where it was, and a repetition writes there.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def warm(self, work: Callable[[], Tensor]) -> Tensor:
        return work()

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        tape = _Tape()
        state = torch.get_rng_state()
        with tape:
            result = work()
        assert torch.equal(torch.get_rng_state(), state), "random numbers would be the same in every replay"
        self.recorded += 1
        # A CUDA graph is captured without being run; here recording was the first run.
        done = iter([True])

        def replay() -> None:
            self.replayed += 1
            if not next(done, False):
                tape.replay()

        return result, replay


class _Tape(TorchDispatchMode):
    """Lists the operations done under it."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name in HOST:
            raise HostNeededError(f"{name} {HOST[name]}")
        if name == "aten::index" and any(index is not None and index.dtype == torch.bool for index in args[1]):
            raise HostNeededError("indexing by a mask makes a tensor whose size depends on values")
        out = func(*args, **kwargs)
        self._operations.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out in self._operations:
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(out), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        # A product with a vector takes the dimension of its matrix away from the result in place.
                        old.copy_(new.view(old.shape))


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
