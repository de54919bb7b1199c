"""The network as a directed acyclic graph of bound nodes."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from functools import cached_property
from typing import Any

from lbp.errors import UnknownNodeError
from lbp.graph.base import BoundNode, InputNode
from lbp.graph.registry import Guard


class Network:
    """Bound nodes in topological order, from the input to the output.

    Attributes:
        nodes: all nodes that the output depends on, inputs of a node before it.
        input: the network's input.
        output: the network's output.
        output_shape: shape of the model's output without the batch dimension: that of the output node, or () where the
            output is a single number, which is a layer of one neuron.
        guards: conditions to check before every use.
        counts: what others have counted from the shapes in the graph, which never change; by what it is.
    """

    def __init__(
        self,
        nodes: Sequence[BoundNode],
        output: BoundNode,
        output_shape: tuple[int, ...],
        guards: Sequence[Guard] = (),
    ) -> None:
        self.nodes = tuple(nodes)
        self.output = output
        self.output_shape = output_shape
        self.guards = tuple(guards)
        self.input = next(node for node in nodes if isinstance(node, InputNode))
        self.counts: dict[Hashable, Any] = {}
        self._by_name = {node.name: node for node in nodes}
        self._below: dict[BoundNode, tuple[BoundNode, ...]] = {}

    def __getitem__(self, name: str) -> BoundNode:
        """Return the node of that name.

        Raises:
            UnknownNodeError: there is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownNodeError(f"no node is named {name!r}; the nodes are {', '.join(self._by_name)}") from None

    def below(self, node: BoundNode) -> tuple[BoundNode, ...]:
        """Return the nodes that a node depends on, itself included, in topological order."""
        if node not in self._below:
            wanted = {node}
            for candidate in reversed(self.nodes):
                if candidate in wanted:
                    wanted.update(candidate.inputs)
            self._below[node] = tuple(candidate for candidate in self.nodes if candidate in wanted)
        return self._below[node]

    @property
    def activations(self) -> tuple[BoundNode, ...]:
        """Nodes that lines enclose, in topological order."""
        return tuple(node for node in self.nodes if node.is_activation)

    @cached_property
    def rank(self) -> dict[BoundNode, int]:
        """Number of activations on the longest path from the input to a node, the node included."""
        ranks: dict[BoundNode, int] = {}
        for node in self.nodes:
            ranks[node] = max((ranks[source] for source in node.inputs), default=0) + node.is_activation
        return ranks

    @cached_property
    def affine_depth(self) -> dict[BoundNode, int]:
        """Number of layers that mix neurons on the longest path from the input to a node, the node included."""
        depths: dict[BoundNode, int] = {}
        for node in self.nodes:
            depths[node] = max((depths[source] for source in node.inputs), default=0) + node.mixes
        return depths

    def is_first_affine(self, node: BoundNode) -> bool:
        """Whether a node is an affine function of the input with a single layer that mixes neurons."""
        return self.rank[node] == 0 and self.affine_depth[node] <= 1

    def has_exact_intervals(self, node: BoundNode) -> bool:
        """Whether intervals over a box are exact for a node: it is a first affine layer that reads no neuron twice."""
        return self.is_first_affine(node) and not self._reads_twice[node]

    @cached_property
    def _reads_twice(self) -> dict[BoundNode, bool]:
        """Whether a layer that mixes neurons, the node or below it, may read a neuron of the input more than once."""
        twice: dict[BoundNode, bool] = {}
        repeats: dict[BoundNode, bool] = {}  # whether two neurons may follow from the same one of the input
        for node in self.nodes:
            below = any(repeats[source] for source in node.inputs) or len(node.inputs) > 1
            repeats[node] = bool(node.inputs) and (below or not node.acts_per_neuron)
            twice[node] = any(twice[source] for source in node.inputs) or (node.mixes and below)
        return twice


def pre_activations(nodes: Sequence[BoundNode]) -> tuple[BoundNode, ...]:
    """Return the inputs of the activations among the nodes, in topological order, each once."""
    wanted = {node.inputs[0] for node in nodes if node.is_activation}
    return tuple(node for node in nodes if node in wanted)


def last_uses(nodes: Sequence[BoundNode], kept: Collection[BoundNode]) -> dict[BoundNode, list[BoundNode]]:
    """Return by node which nodes no later one reads, of those that are not kept.

    Args:
        nodes: in topological order.
        kept: never named.
    """
    last = {source: node for node in nodes for source in node.inputs}
    uses: dict[BoundNode, list[BoundNode]] = {}
    for source, node in last.items():
        if source not in kept:
            uses.setdefault(node, []).append(source)
    return uses
