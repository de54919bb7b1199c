"""Batch normalisation: one scale and shift per channel, folded into the layer before it where that is affine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp import ops
from lbp.errors import MissingStatisticsError, UnanalysedRoundingError
from lbp.graph.base import BackwardStep, BoundNode, Relaxations
from lbp.graph.conv import Conv2dNode
from lbp.graph.elementwise import ScaleShiftNode
from lbp.graph.linear import LinearNode, norms_lost
from lbp.graph.once import once
from lbp.graph.registry import REQUIRED, BatchStatistics, Call, for_functions, for_modules
from lbp.graph.values import Attribute, Expression, Literal, Value
from lbp.linear import Coefficients, DenseCoefficients, Interval, PendingRelaxation, WindowRows
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

    def scale_and_shift(self, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return scale and shift [C], differentiable: computed in float64, rounded to the format of the statistics.

        Args:
            added: bias [C] of the layer before, of which the shift takes care; None: none.

        Raises:
            MissingStatisticsError: batch statistics are wanted and there was no clean forward pass.
        """
        _, scale, parts = self._in_float64(added)
        dtype = self._moments()[0].dtype
        return scale.to(dtype), sum(parts[1:], parts[0]).to(dtype)

    def roundings(
        self, of_layer: Roundings, weight: Tensor | None, added: Tensor | None, dims: int, dtype: torch.dtype
    ) -> Roundings:
        """Return the roundings of this normalisation, alone or merged into a layer.

        The network that bounds are about normalises by the stored statistics; scale and shift are rounded.

        Args:
            of_layer: roundings of the layer alone.
            weight: the layer's own weight [C, ...]; None: there is no layer.
            added: the layer's own bias [C]; None: none.
            dims: dimensions of the layer after that of the channels.
            dtype: of the bounds.

        Raises:
            UnanalysedRoundingError: batch statistics are in use, which are rounded themselves.
        """
        self._refuse_batch_statistics()
        root, scale, parts = self._in_float64(added)
        stored, size = sum(parts[1:], parts[0]).detach().abs(), _magnitudes(parts)
        # In float64 a sum, a root and a quotient (which some devices round by two units of the last place), a product.
        by_parts = size * (14 * unit_roundoff(torch.float64))
        # Where the bounds are float32: scale and shift are rounded to it, the product of weight and scale is.
        count, error = (10, by_parts) if dtype == torch.float64 else (3, by_parts + stored * (2 * unit_roundoff(dtype)))
        error = error + self._lost_by_shift(root, scale, added, dtype)
        shift, error = (_per_channel(part.to(dtype), dims) for part in (stored + error, error))
        factor = _largest_factor(root, scale, weight, dtype)
        return replace(of_layer, weights=count, value=1, shift=shift, shift_error=error, factor=factor)

    def evaluated(self, of_node: Roundings, dims: int, dtype: torch.dtype) -> Roundings:
        """Return the roundings of a run of this normalisation in a format; see `roundings`."""
        self._refuse_batch_statistics()
        root, scale, parts = self._in_float64(None)
        size = _magnitudes(parts)
        error = size * (14 * unit_roundoff(dtype)) + self._lost_by_shift(root, scale, None, dtype)
        shift, error = (_per_channel(part.to(dtype), dims) for part in (size + error, error))
        factor = _largest_factor(root, scale, None, dtype)
        return replace(of_node, weights=10, value=1, shift=shift, shift_error=error, factor=factor)

    def _in_float64(self, added: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the reciprocal root of the variance [C], the scale [C], and what adds up to the shift [C]."""
        mean, variance = self._moments()
        weight, bias = self.weight.read(), self.bias.read()
        root = torch.rsqrt(variance.double() + self._rounded_eps(variance.dtype))
        scale = root if weight is None else root * weight
        parts = (-mean * scale, None if added is None else added * scale, bias)
        return root, scale, [part for part in parts if part is not None]

    def _lost_by_shift(self, root: Tensor, scale: Tensor, added: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return what the shift [C] loses at most where factors of its products lie below the normal range."""
        sizes = [part.detach().double().abs() for part in (self._moments()[0], added) if part is not None]
        factors = sum(sizes[1:], sizes[0]) * root.detach().clamp_min(1) + scale.detach().abs() + 1
        return factors * (2 * torch.finfo(dtype).tiny)

    def _rounded_eps(self, dtype: torch.dtype) -> float:
        """Return the number eps as rounded to the network's format, as PyTorch rounds it."""
        eps = float(self.eps.read())
        return float(np.float32(eps)) if dtype == torch.float32 else eps

    def _refuse_batch_statistics(self) -> None:
        module = None if self.module is None else self.module.read()
        if module is not None and uses_batch_statistics(module):
            raise UnanalysedRoundingError(
                f"rounding: batch normalisation {self.name!r} uses batch statistics (it is in training mode or keeps "
                "no running ones), which are rounded themselves; call eval(), or use rounding='nearest'"
            )

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
        dims = len(self.shape) - 1
        return _per_channel(scale, dims), _per_channel(shift, dims)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        return self.normalisation.roundings(super().roundings(dtype), None, None, len(self.shape) - 1, dtype)

    def evaluation_roundings(self, dtype: torch.dtype) -> Roundings:
        return self.normalisation.evaluated(super().roundings(dtype), len(self.shape) - 1, dtype)


class NormalisedLinearNode(LinearNode):
    """A fully connected layer with the batch normalisation after it."""

    def __init__(self, name: str, layer: LinearNode, normalisation: Normalisation) -> None:
        super().__init__(name, layer.inputs[0], layer.shape, layer.weight, layer.bias)
        self.normalisation = normalisation
        self._steps = (layer, BatchNormNode(name, layer, normalisation))

    def parameters(self) -> tuple[Tensor, Tensor | None]:
        scale, shift = self._scale_and_shift()
        return super().parameters()[0] * scale[:, None], shift

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the scale [n_out] of the weight's rows, and the bias [n_out] of the merged layer."""
        return once(self, lambda: self.normalisation.scale_and_shift(self.bias.read()))

    @property
    def interval_steps(self) -> tuple[BoundNode, ...]:
        return self._steps

    @property
    def evaluation_steps(self) -> tuple[BoundNode, ...]:
        return self._steps

    def weight_sums(self) -> tuple[Tensor, ...]:
        # Those of the stored rows times the scale, and what entries below the normal range may be off.
        (norms,), (size, _) = self._steps[0].weight_sums(), self._scale_and_shift()
        return (norms * size.detach().abs() + norms_lost(self.weight.read()),)

    def interval(self, *inputs: Interval) -> Interval:
        # Far fewer numbers to scale than a weight has, here and in the gradients.
        weight, _ = super().parameters()
        lower, upper = ops.interval_linear(*inputs[0], weight, None)
        scale, shift = self._scale_and_shift()
        turned = scale < 0
        first, last = torch.where(turned, upper, lower), torch.where(turned, lower, upper)
        return first * scale + shift, last * scale + shift

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        weight, _ = super().parameters()
        if not isinstance(coefficients, PendingRelaxation):
            return super().backward_linear(coefficients, relaxations)
        if coefficients.expanded().shape[:3].numel() >= weight.shape[1]:
            return super().backward_linear(coefficients, relaxations)
        # Fewer numbers to scale than the weight has: `(A S) W` in place of `A (S W)`.
        scale, shift = self._scale_and_shift()
        dense, constants = coefficients.relaxed(shift)
        A, _ = ops.backward_linear(dense.A * scale, weight, None)
        return (DenseCoefficients(A),), constants

    def roundings(self, dtype: torch.dtype) -> Roundings:
        weight, bias = super().parameters()
        merged = self.normalisation.roundings(super().roundings(dtype), weight, bias, 0, dtype)
        return replace(merged, factor=merged.factor * self._factor_of_rows())

    def _factor_of_rows(self) -> Tensor:
        """Return what the loss of a scaled row below the normal range is multiplied by, 0-dim float64, at least 1."""
        weight: Tensor = self.weight.read().detach()
        if weight.numel() == 0:
            return weight.new_ones((), dtype=torch.float64)
        least, most = torch.aminmax(weight)
        # The coefficient of every neuron may lose so much; twice, as the scale's own loss counts beside it.
        return torch.maximum(-least, most).double().mul(2 * self.size).clamp_min(1)


class NormalisedConv2dNode(Conv2dNode):
    """A convolution with the batch normalisation after it."""

    def __init__(self, name: str, layer: Conv2dNode, normalisation: Normalisation) -> None:
        super().__init__(name, layer.inputs[0], layer.shape, layer.weight, layer.bias, layer.geometry)
        self.normalisation = normalisation
        self._steps = (layer, BatchNormNode(name, layer, normalisation))

    def parameters(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = super().parameters()
        # The kernel itself is not kept: to scale it costs less than memory that is not in the caches.
        scale, shift = once(self, lambda: self.normalisation.scale_and_shift(bias))
        return weight * scale[:, None, None, None], shift

    @property
    def evaluation_steps(self) -> tuple[BoundNode, ...]:
        return self._steps

    def roundings(self, dtype: torch.dtype) -> Roundings:
        weight, bias = super().parameters()
        return self.normalisation.roundings(super().roundings(dtype), weight, bias, 2, dtype)


def _largest_factor(root: Tensor, scale: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the largest factor of the products that make a weight, 0-dim and at least 1; see `Roundings`.

    Args:
        root: float64 [C].
        scale: like root, which it is times a stored number.
        weight: [C, ...], which the scale multiplies; None: nothing.
        dtype: of the products.
    """
    root, scale = root.detach().clamp_min(1), scale.detach().abs()
    factor = scale.new_ones(()) if weight is None else scale.amax().clamp_min(1)
    # A scale below the normal range is stored to fewer digits, or as zero.
    vanishing = scale < root * torch.finfo(dtype).tiny
    if scale.is_cpu and not bool(vanishing.any()):
        return factor
    size = 1 if weight is None else weight.detach().abs().flatten(1).amax(1).clamp_min(1)
    return torch.maximum(factor, torch.where(vanishing, root * size, 1).amax())


def _magnitudes(parts: list[Tensor]) -> Tensor:
    """Return what the magnitudes of the parts of a shift add up to."""
    sizes = [part.detach().abs() for part in parts]
    return sum(sizes[1:], sizes[0])


def _per_channel(values: Tensor, dims: int) -> Tensor:
    """Return values [C] with so many dimensions of size 1 after that of the channels."""
    return values.reshape(-1, *[1] * dims)


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
        # Under autocast the layer takes numbers of 16 bits, but adds up in float32.
        x = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))
        dims = [dim for dim in range(x.dim()) if dim != 1]
        moments = (x.mean(dims), x.var(dims, unbiased=False))
        self.statistics.setdefault(module, []).append(moments)
