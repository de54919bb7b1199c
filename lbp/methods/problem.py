"""What is to be bounded, and what is known so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from lbp.graph import BoundNode, Network, Relaxations, pre_activations
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    IdentityCoefficients,
    Interval,
    Region,
    tighter,
)
from lbp.methods.byte_counts import shared_bytes
from lbp.methods.computation import Computation
from lbp.methods.insertion_bytes import (
    COPIES_OF_INSERTED_ROWS,
    hidden_scratch_bytes,
    inserted_row_bytes,
    insertion_scratch_bytes,
)
from lbp.methods.memory import CACHED_BYTES, rows_beside, rows_within
from lbp.methods.names import Method
from lbp.methods.outward import Images, Outward
from lbp.methods.outward_forward import OutwardForward
from lbp.methods.row_bytes import row_bytes, start_bytes
from lbp.methods.sums import Sum
from lbp.methods.work import met_first
from lbp.strategies import side_names


@dataclass
class Problem:
    """A network, a region and a question about one of its nodes.

    Attributes:
        network: the graph.
        output: the node to bound.
        region: the set of inputs.
        specification: C [B, S, n] over the flattened output, or None for the output's own values.
        sides: which bounds of the output are wanted: "lower", "upper" or "both".
        strategy: bounding-line strategy.
        given: pre-activation bounds that are used as they are.
        reference: bounds of which the tighter of them and the computed ones is used.
        rows: rows of coefficients handled at once, None to choose by size.
        windows: keep the rows of image-shaped layers as windows where that is smaller.
        by_work: whether forward bounds are dense in spite of `windows` where that is less work.
        only_open: whether hidden neurons are bounded only where intervals leave their activation open, and their rows
            dropped once decided; otherwise every neuron gets the bounds of its own back-substitution, nothing else.
        budget: bytes that bounds may take; None: no limit.
        budget_is_strict: whether a budget that is too small for a single image is an error.
        kept_bytes: of the budget that bounds of other images take, which were bounded before.
        known: pre-activation bounds of an earlier call over the same region, still valid.
        rounding: what the bounds account for, one of `lbp.rounding.LEVELS`.
        bounds: bounds found so far, per node.
    """

    network: Network
    output: BoundNode
    region: Region
    specification: Tensor | None = None
    sides: str = "both"
    strategy: str = "adaptive"
    given: Mapping[BoundNode, Interval] = field(default_factory=dict)
    reference: Mapping[BoundNode, Interval] = field(default_factory=dict)
    rows: int | None = None
    windows: bool = True
    by_work: bool = False
    only_open: bool = False
    budget: int | None = None
    budget_is_strict: bool = False
    kept_bytes: int = 0
    known: Mapping[BoundNode, Interval] = field(default_factory=dict)
    rounding: str = "nearest"
    bounds: dict[BoundNode, Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = self.network.below(self.output)
        self.pre_activations = pre_activations(self.nodes)
        self.outward = None if self.rounding == "nearest" else Outward(self)
        for node in self.nodes:
            if node in self.given:
                self.bounds[node] = self.given[node]
            elif node in self.known:
                self.record(node, self.known[node])

    def part(self, first: int, last: int) -> Problem:
        """Return the same question about some of the images, and what is known of them so far."""
        batch = self.region.batch

        def cut(values: Tensor) -> Tensor:
            return values[first:last] if values.shape[0] == batch else values

        def cut_all(bounds: Mapping[BoundNode, Interval]) -> dict[BoundNode, Interval]:
            return {node: (cut(lower), cut(upper)) for node, (lower, upper) in bounds.items()}

        part = replace(
            self,
            region=self.region.part(first, last),
            specification=None if self.specification is None else cut(self.specification),
            given=cut_all(self.given),
            reference=cut_all(self.reference),
            known=cut_all(self.known),
            bounds=cut_all(self.bounds),
        )
        if self.outward is not None and part.outward is not None:
            part.outward.follow(self.outward)
        return part

    def cached_parts(self, sides: str) -> Sequence[Problem]:
        """Return the question in parts of so many images that a processor's cache holds their rows from the output.

        The rows of all images would pass through memory once for every layer, most of it memory that the system has to
        hand out first. Where gradients are wanted the rows of all layers are kept, and their products are wanted whole.
        """
        most, batch = self.cached_images(sides), self.region.batch
        if most is None or most >= batch:
            return [self]
        images = -(-batch // -(-batch // most))  # as many parts as it takes, of about one size
        return [self._cached_part(first, min(first + images, batch)) for first in range(0, batch, images)]

    def cached_images(self, sides: str) -> int | None:
        """Return of how many images a processor's cache holds the rows from the output; None: all go together."""
        if self.region.lower.device.type != "cpu" or torch.is_grad_enabled():
            return None
        widest = max(node.size for node in self.nodes)
        each = len(side_names(sides)) * self.row_count * widest * self.dtype.itemsize
        return max(CACHED_BYTES // max(each, 1), 1)

    def _cached_part(self, first: int, last: int) -> Problem:
        part = self.part(first, last)
        if self.outward is not None and part.outward is not None:
            part.outward.share(self.outward, Images(first, last, self.region.batch))
        return part

    @cached_property
    def outward_forward(self) -> OutwardForward | None:
        """The rounding errors of forward bounds; None where bounds are rounded to nearest."""
        return None if self.rounding == "nearest" else OutwardForward(self.region)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the input, and of the bounds."""
        return self.region.lower.dtype

    def computation(self, method: Method) -> Computation:
        """Return what the memory of an answer by a method depends on."""
        rows = None if self.specification is None else self.specification.shape[1]
        itemsize, windows = self.dtype.itemsize, self.windows
        return Computation(method, self.output, rows, itemsize, windows, self.by_work, self.rounding)

    def record(self, node: BoundNode, computed: Interval) -> Interval:
        """Keep the bounds of a node, tightened by the reference where there is one."""
        if node in self.reference:
            computed = tighter(computed, self.reference[node])
        self.bounds[node] = computed
        return computed

    def relaxations(self, sides: str = "both") -> Relaxations:
        """Return how activations are enclosed, by the bounds known so far."""
        margins = None if self.outward is None else self.outward.margins
        return Relaxations(self.strategy, sides, self.bounds, margins)

    def interval(self, node: BoundNode, inputs: Sequence[Interval]) -> Interval:
        """Return bounds of a node by interval arithmetic from those of its inputs."""
        return node.interval(*inputs) if self.outward is None else self.outward.interval_from(node, inputs)

    def region_at(self, node: BoundNode) -> Region:
        """Return bounds of a node as a region over which linear functions are evaluated.

        They are the known ones, or intervals from those of its inputs.
        """
        if self.outward is not None:
            return self.outward.region(node)
        known = self.bounds.get(node)
        return Region(*(known or node.interval(*(self.bounds[source] for source in node.inputs))))

    def add(self, sides: str, *constants: Tensor | None) -> Tensor | None:
        """Return the sum of constants [K, B, S] or [K, R] float64, of which any may be absent; None for zero."""
        total = self.sum()
        total.add(*constants)
        return total.result(sides)

    def sum(self) -> Sum:
        """Return an empty sum of constants."""
        return Sum(outward=self.outward is not None)

    def identity(self, node: BoundNode, start: int, stop: int) -> IdentityCoefficients:
        """Return the rows of a node's identity that stand for its neurons start to stop."""
        return IdentityCoefficients(node.shape, start, stop, self.dtype, self.region.lower.device)

    def rows_at_once(self, node: BoundNode, *, stops: tuple[BoundNode, ...] | None = None, held: int = 0) -> int:
        """Return how many windowed rows of a node to take at a time.

        Args:
            node: where they start.
            stops: where they end to have forward bounds inserted into them, beside the input; None: in the input alone.
            held: bytes of the budget that something else takes meanwhile.
        """
        if self.rows is not None:
            return self.rows
        itemsize, device = self.dtype.itemsize, self.region.lower.device
        each = row_bytes(self.network, node, itemsize)
        if stops is not None:
            each = inserted_row_bytes(self.network, node, stops, itemsize)

        def scratch(rows: int) -> int:
            return hidden_scratch_bytes(self.network, node, stops, rows, itemsize) if stops else 0

        if self.budget is None:
            return rows_within(None, 0, each, device)
        # Few rows start with few of the kernels that many need.
        ways = ((held + self._held(rows=1), each + start_bytes(node, itemsize)), (held + self._held(), each))
        return max(
            rows_beside(self.budget - taken, size, rows_within(self.budget, taken, size, device), scratch)
            for taken, size in ways
        )

    def _held(self, rows: int | None = None) -> int:
        """Return the bytes of bounds, lines and weights beside the rows, of which so many start at a time."""
        bounds = 2 * self.region.batch * sum(below.size for below in self.nodes) * self.dtype.itemsize
        batch = self.region.batch
        shared = shared_bytes(self.network, self.dtype.itemsize, batch=batch, rows=rows, rounding=self.rounding)
        return self.kept_bytes + bounds + shared

    def _inserted_row_bytes(self, node: BoundNode, stops: tuple[BoundNode, ...]) -> tuple[int, Callable[[int], int]]:
        """Return the bytes of a row of a node, whole and for every image, and what returns the scratch of some rows."""
        batch, itemsize = max(self.region.batch, 1), self.dtype.itemsize  # no batch counts as less than one image
        each = batch * row_bytes(self.network, node, itemsize, windows=False)

        first = tuple(met_first(node, stops))

        def scratch(rows: int) -> int:
            return insertion_scratch_bytes(self.network, first, rows, itemsize, windows=self.windows, batch=batch)

        return each * (COPIES_OF_INSERTED_ROWS if stops else 1), scratch

    def row_chunks(
        self, node: BoundNode, *, stops: tuple[BoundNode, ...] = (), held: int = 0
    ) -> list[IdentityCoefficients]:
        """Return the identity of a node in chunks of whole rows that stay within the budget.

        Args:
            node: where they start.
            stops: where they end to have forward bounds inserted into them, beside the input.
            held: bytes of the budget that something else takes meanwhile.
        """
        rows = self.rows
        if rows is None:
            taken = 0 if self.budget is None else held + self._held()
            each, scratch = self._inserted_row_bytes(node, stops)
            rows = rows_within(self.budget, taken, each, self.region.lower.device)
            if self.budget is not None:
                rows = rows_beside(self.budget - taken, each, rows, scratch)
        return [self.identity(node, i, min(i + rows, node.size)) for i in range(0, node.size, rows)]

    @property
    def row_count(self) -> int:
        """Number of rows with which back-substitution from the output starts."""
        return self.output.size if self.specification is None else self.specification.shape[1]

    def starts(self, *, stops: tuple[BoundNode, ...] = (), held: int = 0) -> Sequence[Coefficients]:
        """Return what back-substitution from the output starts with, in chunks that stay within the budget.

        Args:
            stops: where rows end to have forward bounds inserted into them, beside the input.
            held: bytes of the budget that something else takes meanwhile.
        """
        if self.specification is None:
            return self.row_chunks(self.output, stops=stops, held=held)
        whole = self.specified()
        if self.budget is None:
            return [whole]
        each, scratch = self._inserted_row_bytes(self.output, stops)
        rows = rows_beside(self.budget - held - self._held(), each, whole.A.shape[2], scratch)
        return [DenseCoefficients(part) for part in whole.A.split(rows, dim=2)]

    def specified(self) -> DenseCoefficients:
        """Return the specification as coefficients of the output, which both sides share."""
        assert self.specification is not None
        return DenseCoefficients(self.specification.unflatten(-1, self.output.shape).unsqueeze(0))
