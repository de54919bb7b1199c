"""Single neurons for single images: which of them are still open, and their rows in chunks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lbp.graph import BoundNode, Network
from lbp.graph.activation import RampNode
from lbp.linear import Interval, NeuronRows, tighter
from lbp.methods.problem import Problem
from lbp.methods.work import counted_once

HARDLY = 1 / 64
"""Share of a layer's neurons up to which decided ones have rows all the same: picking out the others costs more."""


@dataclass(frozen=True)
class Neurons:
    """Neurons of a layer, each for one image, by image and then by place: neighbours share their windows.

    Attributes:
        node: the layer.
        images, neurons: int64 [R]; neurons count in the layer's flattened order.
        batch: number of images where these are all neurons of all of them; otherwise None.
        wanted: bool [B, *shape], of which of all neurons entries are put into their places; None: of all that are here.
    """

    node: BoundNode
    images: Tensor
    neurons: Tensor
    batch: int | None = None
    wanted: Tensor | None = None

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
        batch, device = problem.region.batch, problem.region.lower.device
        neurons = torch.arange(node.size, device=device)
        if len(node.shape) == 3:
            neurons = neurons.view(node.shape[0], -1).mT.flatten()
        if batch == 1:
            return cls(node, torch.zeros_like(neurons), neurons, batch)
        images = torch.arange(batch, device=device)[:, None].expand(batch, node.size)
        return cls(node, images.flatten(), neurons.expand(batch, -1).flatten(), batch)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.images.shape[0]

    def chunks(self, rows: int) -> list[Neurons]:
        """Return the neurons in parts of at most that many."""
        if self.count <= rows:
            return [self]
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
        """Return values [..., B, *shape] with the wanted neurons' entries [..., R] in their places."""
        if self.batch is not None:
            arranged = self.arranged(entries)
            return arranged if self.wanted is None else torch.where(self.wanted, arranged, values)
        flat = values.flatten(values.dim() - len(self.node.shape)).clone()
        flat[..., self.images, self.neurons] = entries.to(flat.dtype)
        return flat.reshape(values.shape)

    def arranged(self, entries: Tensor) -> Tensor:
        """Return entries [..., R] of all neurons of all images as [..., B, *shape]."""
        assert self.batch is not None
        leading, shape = entries.shape[:-1], self.node.shape
        if len(shape) == 3:
            entries = entries.reshape(*leading, self.batch, shape[1] * shape[2], shape[0]).mT
        return entries.reshape(*leading, self.batch, *shape)


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
        if problem.strategy == "constant" or node is problem.output:
            return cls(None)
        bends: list[Tensor | float] = []
        for activation in _readers(problem.network, node, problem.output):
            if not isinstance(activation, RampNode):
                return cls(None)
            r, _ = activation.ramp_parameters()
            bends.append(r.detach().expand(node.shape).flatten() if isinstance(r, Tensor) else r)
        return cls(tuple(bends))

    def open(self, lower: Tensor, upper: Tensor, neurons: Tensor | None = None) -> Tensor:
        """Return which bounds settle nothing: [R] of some neurons, or [B, n] of a layer.

        Args:
            lower: [R] or [B, n].
            upper: like lower.
            neurons: int64 [R], which neuron each belongs to; None: bounds of a layer.
        """
        return ~self.settled(lower, upper, neurons)

    def settled(self, lower: Tensor, upper: Tensor, neurons: Tensor | None = None) -> Tensor:
        """Return which bounds settle something; see `open`."""
        if self.bends is None:
            return torch.zeros_like(lower, dtype=torch.bool)
        # On one side of 0, and of r. Comparisons with NaN are false, so that it settles nothing.
        settled = torch.minimum(-lower, upper) <= 0
        for bend in self.bends:
            r = bend[neurons] if isinstance(bend, Tensor) and neurons is not None else bend
            if isinstance(r, Tensor) or r < torch.inf:
                settled = settled & ((upper <= r) | (lower >= r))
        return settled


@counted_once
def _readers(network: Network, node: BoundNode, output: BoundNode) -> tuple[BoundNode, ...]:
    """Return the activations below an output that read a node."""
    return tuple(reader for reader in network.below(output) if reader.is_activation and reader.inputs[0] is node)


def open_neurons(problem: Problem, node: BoundNode, bounds: Interval) -> Neurons:
    """Return the neurons that bounds [B, *shape] leave open, among all others where these are hardly any."""
    decision = Decision.about(problem, node)
    if decision.bends is None:
        return Neurons.every(problem, node)
    lower, upper = (bound.detach().flatten(1) for bound in bounds)
    settled = decision.settled(lower, upper)
    decided = int(settled.count_nonzero())
    if not decided:
        return Neurons.every(problem, node)
    mask = (~settled).unflatten(1, node.shape)
    if decided > HARDLY * mask.numel():
        return Neurons.chosen(node, mask)
    return replace(Neurons.every(problem, node), wanted=mask)


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
