"""Batch normalisation: one scale and shift per channel, folded into the layer before it where that is affine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp.errors import MissingStatisticsError, UnanalysedRoundingError
from lbp.graph.base import BoundNode
from lbp.graph.conv import Conv2dNode
from lbp.graph.elementwise import ScaleShiftNode
from lbp.graph.linear import LinearNode
from lbp.graph.registry import REQUIRED, BatchStatistics, Call, for_functions, for_modules
from lbp.graph.values import Attribute, Expression, Literal, Value
from lbp.nn import GlobalBatchNorm
from lbp.rounding import Roundings, unit_roundoff


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a BatchNorm module would normalise by the statistics of the batch in its present mode."""
    return bool(module.training) or getattr(module, "running_mean", None) is None


@dataclass(frozen=True)
class Normalisation:
    """The affine map of a batch normalisation layer.

    Evaluation takes the running statistics. In training, bounds follow the latest clean forward pass: its batch mean
    and variance, through which gradients flow.

    Attributes:
        name: of the layer, for messages.
        module: reads the BatchNorm module; None for the functional form.
        statistics: batch statistics of the latest clean forward pass.
        number: which call of the module this is.
        mean, variance, weight, bias, eps: read the present values; weight and bias may be None.
    """

    name: str
    module: Value | None
    statistics: BatchStatistics
    number: int
    mean: Value
    variance: Value
    weight: Value
    bias: Value
    eps: Value

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift [C], differentiable.

        Raises:
            MissingStatisticsError: batch statistics are wanted and there was no clean forward pass.
        """
        mean, variance = self._moments()
        weight, bias = self.weight.read(), self.bias.read()
        scale = torch.rsqrt(variance + self.eps.read())
        scale = scale if weight is None else scale * weight
        shift = -mean * scale
        return scale, (shift if bias is None else shift + bias)

    def rounded(self, roundings: Roundings, added: Tensor | None, dims: int, dtype: torch.dtype) -> Roundings:
        """Return the roundings of a layer with this normalisation after it.

        The network that bounds are about normalises by the stored statistics; scale and shift are rounded.

        Args:
            roundings: of the layer.
            added: the layer's own bias [C]; None: none.
            dims: dimensions of the layer after that of the channels.
            dtype: of the bounds.

        Raises:
            UnanalysedRoundingError: batch statistics are in use, which are rounded themselves.
        """
        module = None if self.module is None else self.module.read()
        if module is not None and uses_batch_statistics(module):
            raise UnanalysedRoundingError(
                f"rounding: batch normalisation {self.name!r} uses batch statistics (it is in training mode or keeps "
                "no running ones), which are rounded themselves; call eval(), or use rounding='nearest'"
            )
        scale = self.scale_and_shift()[0].detach()
        bias, mean = self.bias.read(), self._moments()[0].detach()
        size = (mean * scale).abs()
        size = size if bias is None else size + bias.detach().abs()
        size = (size if added is None else size + (added.detach() * scale).abs()).reshape(-1, *[1] * dims)
        # Scale: a sum, a root and a quotient (which some devices round by two units of the last place), a product.
        error = 14 * unit_roundoff(dtype) * size
        return replace(roundings, weights=10, value=1, shift=size, shift_error=error)

    def _moments(self) -> tuple[Tensor, Tensor]:
        module = None if self.module is None else self.module.read()
        if module is None or not uses_batch_statistics(module):
            return self.mean.read(), self.variance.read()
        calls = self.statistics.get(module, [])
        if len(calls) <= self.number:
            raise MissingStatisticsError(
                f"batch normalisation {self.name!r} uses batch statistics (it is in training mode or keeps no running "
                "ones), but no clean forward pass has provided them: call the BoundedModule on the clean inputs before "
                "compute_bounds, or switch to eval()"
            )
        return calls[self.number]


class BatchNormNode(ScaleShiftNode):
    """A batch normalisation layer of its own: what comes before it cannot take it up."""

    def __init__(self, name: str, source: BoundNode, normalisation: Normalisation) -> None:
        super().__init__(name, source)
        self.normalisation = normalisation

    def constants(self) -> tuple[Tensor, Tensor]:
        scale, shift = self.normalisation.scale_and_shift()
        spatial = (-1, *[1] * (len(self.shape) - 1))
        return scale.reshape(spatial), shift.reshape(spatial)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        return self.normalisation.rounded(super().roundings(dtype), None, len(self.shape) - 1, dtype)


class NormalisedLinearNode(LinearNode):
    """A fully connected layer with the batch normalisation after it."""

    def __init__(self, name: str, layer: LinearNode, normalisation: Normalisation) -> None:
        super().__init__(name, layer.inputs[0], layer.shape, layer.weight, layer.bias)
        self.normalisation = normalisation

    def parameters(self) -> tuple[Tensor, Tensor | None]:
        return _folded(*super().parameters(), self.normalisation)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        return self.normalisation.rounded(super().roundings(dtype), self.bias.read(), 0, dtype)


class NormalisedConv2dNode(Conv2dNode):
    """A convolution with the batch normalisation after it."""

    def __init__(self, name: str, layer: Conv2dNode, normalisation: Normalisation) -> None:
        super().__init__(name, layer.inputs[0], layer.shape, layer.weight, layer.bias, layer.geometry)
        self.normalisation = normalisation

    def parameters(self) -> tuple[Tensor, Tensor | None]:
        return _folded(*super().parameters(), self.normalisation)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        return self.normalisation.rounded(super().roundings(dtype), self.bias.read(), 2, dtype)


def _folded(weight: Tensor, bias: Tensor | None, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    scale, shift = normalisation.scale_and_shift()
    scaled = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    return scaled, shift if bias is None else bias * scale + shift


def fold_batch_norms(output: BoundNode) -> BoundNode:
    """Merge every batch normalisation into the affine layer before it, where nothing else reads that layer.

    Args:
        output: the root of the graph; inputs of its nodes are replaced in place.

    Returns:
        the root, which may be a merged node.
    """
    nodes = _reachable(output)
    readers = Counter(source for node in nodes for source in node.inputs)
    replaced: dict[BoundNode, BoundNode] = {}
    for node in nodes:
        if isinstance(node, BatchNormNode) and readers[node.inputs[0]] == 1:
            merged = _merged(node)
            if merged is not None:
                replaced[node] = merged
    for node in (*nodes, *replaced.values()):
        node.inputs = tuple(replaced.get(source, source) for source in node.inputs)
    return replaced.get(output, output)


def _merged(node: BatchNormNode) -> BoundNode | None:
    layer = node.inputs[0]
    if type(layer) is LinearNode:
        return NormalisedLinearNode(node.name, layer, node.normalisation)
    if type(layer) is Conv2dNode:
        return NormalisedConv2dNode(node.name, layer, node.normalisation)
    return None


def _reachable(output: BoundNode) -> list[BoundNode]:
    found, queue = [output], [output]
    seen = {output}
    while queue:
        for source in queue.pop().inputs:
            if source not in seen:
                seen.add(source)
                found.append(source)
                queue.append(source)
    return found


@for_modules(nn.BatchNorm1d, nn.BatchNorm2d, GlobalBatchNorm)
def _batch_norm_module(call: Call) -> BoundNode:
    normalisation = Normalisation(
        call.path,
        Attribute(call.model, call.path),
        call.statistics,
        call.number,
        call.attribute("running_mean"),
        call.attribute("running_var"),
        call.attribute("weight"),
        call.attribute("bias"),
        call.attribute("eps"),
    )
    return BatchNormNode(call.name, call.node(call.operand()), normalisation)


@for_functions(functional.batch_norm)
def _batch_norm_function(call: Call) -> BoundNode:
    args = call.bind(
        input=REQUIRED,
        running_mean=REQUIRED,
        running_var=REQUIRED,
        weight=None,
        bias=None,
        training=False,
        momentum=0.1,
        eps=1e-5,
    )
    if call.static(args["training"]):
        call.guards.append(Expression(_refuse_training, (Literal(call.name),)).read)
    normalisation = Normalisation(
        call.name,
        None,
        call.statistics,
        0,
        *(call.value(args[key]) for key in ("running_mean", "running_var", "weight", "bias", "eps")),
    )
    return BatchNormNode(call.name, call.node(args["input"]), normalisation)


def _refuse_training(name: str) -> None:
    raise MissingStatisticsError(
        f"the functional batch normalisation {name!r} uses batch statistics, which only nn.BatchNorm modules provide; "
        "use the module, or switch to eval()"
    )


@contextmanager
def recorded_statistics(model: nn.Module, statistics: BatchStatistics) -> Iterator[None]:
    """Record the batch statistics, differentiably, of every BatchNorm layer that uses them in a forward pass.

    What earlier passes left is dropped, unless no layer uses batch statistics in the present mode.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | GlobalBatchNorm) and uses_batch_statistics(module)
    ]
    if layers:
        statistics.clear()
    handles = [module.register_forward_hook(_Recorder(statistics)) for module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Recorder:
    statistics: BatchStatistics

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, GlobalBatchNorm):
            assert module.moments is not None
            self.statistics.setdefault(module, []).append(module.moments)
            return
        (x,) = inputs
        dims = [dim for dim in range(x.dim()) if dim != 1]
        moments = (x.mean(dims), x.var(dims, unbiased=False))
        self.statistics.setdefault(module, []).append(moments)
