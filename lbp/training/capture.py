"""CUDA graphs of training steps: one launch in place of thousands."""

from collections.abc import Callable

import torch
from torch import Tensor

from lbp.training.objective import Parts

_EAGER_STEPS = 3
"""Steps of a kind that run one by one first, so that libraries have chosen their algorithms and Adam has its state."""

Update = Callable[[Tensor, Tensor, Parts], Tensor]
Kind = tuple[Parts, torch.Size]


class _Graph:
    """A captured step with the memory it reads its batch from and leaves its report in."""

    def __init__(self, update: Update, images: Tensor, labels: Tensor, parts: Parts) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._report = update(self._images, self._labels, parts)

    def replay(self, images: Tensor, labels: Tensor) -> Tensor:
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._report.clone()


class CapturedSteps:
    """Runs steps one by one at first and from captured graphs later; capturing changes no value.

    Schedules, noise and learning rate are tensors that the step reads, so one graph serves a whole phase.

    Args:
        update: the step on a batch; reads nothing on the host and returns a tensor.
    """

    def __init__(self, update: Update) -> None:
        self._update = update
        self._seen: dict[Kind, int] = {}
        self._graphs: dict[Kind, _Graph] = {}

    def forget(self) -> None:
        """Drops all graphs, after a change that they do not follow."""
        self._seen.clear()
        self._graphs.clear()

    def __call__(self, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
        """Runs one step and returns its report."""
        kind = (parts, images.shape)
        if kind in self._graphs:
            return self._graphs[kind].replay(images, labels)
        self._seen[kind] = self._seen.get(kind, 0) + 1
        if self._seen[kind] <= _EAGER_STEPS:
            return self._beside(images, labels, parts)
        self._graphs[kind] = _Graph(self._update, images, labels, parts)
        return self._graphs[kind].replay(images, labels)

    def _beside(self, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
        """Runs a step on another stream, as capturing needs of what ran before it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            report = self._update(images, labels, parts)
        torch.cuda.current_stream().wait_stream(stream)
        return report
