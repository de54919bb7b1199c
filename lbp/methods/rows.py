"""Single neurons for single images: which of them are still open, and their rows in chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.graph import BoundNode
from lbp.graph.activation import RampNode
from lbp.linear import Interval, NeuronRows, tighter
from lbp.methods.problem import Problem


@dataclass(frozen=True)
class Neurons:
    """Neurons of a layer, each for one image, by image and then by place: neighbours share their windows.

    Attributes:
        node: the layer.
        images, neurons: int64 [R]; neurons count in the layer's flattened order.
    """

    node: BoundNode
    images: Tensor
    neurons: Tensor

    @classmethod
    def chosen(cls, node: BoundNode, mask: Tensor) -> Neurons:
        """Return the neurons where a mask [B, *shape] is set."""
        if len(node.shape) != 3:
            images, neurons = mask.flatten(1).nonzero(as_tuple=True)
            return cls(node, images, neurons)
        images, row, column, channel = mask.movedim(1, -1).nonzero(as_tuple=True)
        _, height, width = node.shape
        return cls(node, images, (channel * height + row) * width + column)

    @classmethod
    def every(cls, problem: Problem, node: BoundNode) -> Neurons:
        """Return all neurons of a node for all images."""
        shape = (problem.region.batch, *node.shape)
        return cls.chosen(node, torch.ones(shape, dtype=torch.bool, device=problem.region.lower.device))

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.images.shape[0]

    def chunks(self, rows: int) -> list[Neurons]:
        """Return the neurons in parts of at most that many."""
        return [
            Neurons(self.node, images, neurons)
            for images, neurons in zip(self.images.split(rows), self.neurons.split(rows), strict=True)
        ]

    def start(self, dtype: torch.dtype) -> NeuronRows:
        """Return what back-substitution from the neurons starts with."""
        return NeuronRows(self.node.shape, self.neurons, self.images, dtype)

    def of(self, values: Tensor) -> Tensor:
        """Return the neurons' entries [..., R] of values [..., B, *shape]."""
        return values.flatten(values.dim() - len(self.node.shape))[..., self.images, self.neurons]

    def put(self, values: Tensor, entries: Tensor) -> Tensor:
        """Return values [..., B, *shape] with the neurons' entries [..., R] in their places."""
        flat = values.flatten(values.dim() - len(self.node.shape)).clone()
        flat[..., self.images, self.neurons] = entries.to(flat.dtype)
        return flat.reshape(values.shape)


@dataclass(frozen=True)
class Decision:
    """When the bounds of a neuron settle what it can do.

    The lines of a neuron on a single piece of its activation are the piece itself, whatever its bounds, so tighter
    bounds of it change nothing.

    Attributes:
        bends: for every activation that reads the layer, r as a number or per neuron [n]. None: the bounds are used
            for more than lines (max pooling, the constant strategy), so that nothing is ever settled.
    """

    bends: tuple[Tensor | float, ...] | None

    @classmethod
    def about(cls, problem: Problem, node: BoundNode) -> Decision:
        """Return what settles the neurons of a pre-activation."""
        readers = [a for a in problem.nodes if a.is_activation and a.inputs[0] is node]
        if problem.strategy == "constant" or node is problem.output:
            return cls(None)
        bends: list[Tensor | float] = []
        for activation in readers:
            if not isinstance(activation, RampNode):
                return cls(None)
            r, _ = activation.ramp_parameters()
            bends.append(r.detach().expand(node.shape).flatten() if isinstance(r, Tensor) else r)
        return cls(tuple(bends))

    def open(self, lower: Tensor, upper: Tensor, neurons: Tensor) -> Tensor:
        """Return which bounds [...] settle nothing; `neurons` int64 says which neuron each belongs to."""
        if self.bends is None:
            return torch.ones_like(lower, dtype=torch.bool)
        undecided = lower.isnan() | upper.isnan()
        for bend in self.bends:
            r = bend[neurons] if isinstance(bend, Tensor) else bend
            undecided = undecided | ~((upper <= 0) | ((lower >= 0) & (upper <= r)) | (lower >= r))
        return undecided


def open_neurons(problem: Problem, node: BoundNode, bounds: Interval) -> Neurons:
    """Return the neurons that bounds [B, *shape] leave open."""
    lower, upper = (bound.detach().flatten(1) for bound in bounds)
    neurons = torch.arange(node.size, device=lower.device).expand(lower.shape)
    mask = Decision.about(problem, node).open(lower, upper, neurons)
    return Neurons.chosen(node, mask.unflatten(1, node.shape))


def interval_of(problem: Problem, node: BoundNode) -> Interval:
    """Return bounds of a node by intervals from the tightest bounds that are known below it."""
    nodes, found, needed = problem.network.below(node), dict[BoundNode, Interval](), {node}
    for below in reversed(nodes):
        if below in needed and (below is node or below not in problem.bounds):
            needed.update(below.inputs)
    for below in nodes:
        if below not in needed:
            continue
        if below is not node and below in problem.bounds:
            found[below] = problem.bounds[below]
        elif not below.inputs:
            found[below] = (problem.region.lower, problem.region.upper)
        else:
            found[below] = problem.interval(below, [found[source] for source in below.inputs])
    bounds = found[node]
    return tighter(bounds, problem.bounds[node]) if node in problem.bounds else bounds
