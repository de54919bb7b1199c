"""CUDA graphs of training steps: one launch in place of thousands."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from lbp.errors import LbpError
from lbp.training.objective import Parts

_EAGER_STEPS = 3
"""Steps of a kind that run one by one first, so that libraries have chosen their algorithms and Adam has its state."""

Update = Callable[[Tensor, Tensor, Parts], Tensor]
Work = Callable[[], Tensor]


class CaptureError(LbpError, RuntimeError):
    """A training step cannot be captured as a CUDA graph."""


class Recorder(Protocol):
    """Records work so that it can be done again on the same memory."""

    def warm(self, work: Work) -> Tensor:
        """Does work as recording needs it of what ran before, and returns its result."""
        ...

    def record(self, work: Work) -> tuple[Tensor, Callable[[], None]]:
        """Records work without doing it.

        Returns:
            the memory of its result, and what does the work.

        Raises:
            CaptureError: the work needs the host.
        """
        ...


class CudaGraphs:
    """Records CUDA graphs.

    Everything runs on one side stream: what autograd keeps from step to step belongs to the stream of its first use,
    and a graph may not wait for a stream that is not captured.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def warm(self, work: Work) -> Tensor:
        """Does work on the stream of the recordings; what follows on the present stream waits for it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = work()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, work: Work) -> tuple[Tensor, Callable[[], None]]:
        """Captures work as a graph, to be replayed on the present stream."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                result = work()
        except RuntimeError as error:
            raise CaptureError(
                f"a step cannot be captured as a CUDA graph ({error}); train without graphs: --no-graphs, capture=False"
            ) from error
        return result, graph.replay


class _Recording:
    """A recorded step with the memory it reads its batch from and leaves its report in."""

    def __init__(self, recorder: Recorder, update: Update, images: Tensor, labels: Tensor, parts: Parts) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        self._report, self._replay = recorder.record(lambda: update(self._images, self._labels, parts))

    def replay(self, images: Tensor, labels: Tensor) -> Tensor:
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._replay()
        return self._report.clone()


class CapturedSteps:
    """Runs steps one by one at first and from recordings later; recording changes no value.

    Schedules, noise and learning rate are tensors that the step reads, so that one recording for each size of a batch
    serves a whole phase. Recordings keep their memory to themselves: those of a phase that is over are dropped.

    Args:
        update: the step on a batch; reads nothing on the host and returns a tensor.
        recorder: records it.
    """

    def __init__(self, update: Update, recorder: Recorder) -> None:
        self._update = update
        self._recorder = recorder
        self._parts: Parts | None = None
        self._seen: dict[torch.Size, int] = {}
        self._recordings: dict[torch.Size, _Recording] = {}

    def forget(self) -> None:
        """Drops all recordings, after a change that they do not follow."""
        self._seen.clear()
        self._recordings.clear()

    def __call__(self, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
        """Runs one step and returns its report."""
        if parts != self._parts:
            self.forget()
            self._parts = parts
        size = images.shape
        if size not in self._recordings:
            self._seen[size] = self._seen.get(size, 0) + 1
            if self._seen[size] <= _EAGER_STEPS:
                return self._recorder.warm(lambda: self._update(images, labels, parts))
            self._recordings[size] = _Recording(self._recorder, self._update, images, labels, parts)
        return self._recordings[size].replay(images, labels)
