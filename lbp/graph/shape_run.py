"""Runs what a trace has recorded, to learn the shape of every value, without the effects of a training step."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils._python_dispatch import TorchDispatchMode

from lbp.errors import InvalidInputError, UnsupportedLayerError
from lbp.graph.unchanged import writes_to
from lbp.nn import GlobalBatchNorm

BATCH_SIZES = (2, 3)
"""Batch sizes of the two shape runs: what depends on the batch size differs between them."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, GlobalBatchNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPOUT_FUNCTIONS = {
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
}

ATTRIBUTES_OF_SHAPES = {
    *("shape", "ndim", "itemsize", "nbytes", "dtype", "device", "layout"),
    *("is_cpu", "is_cuda", "is_meta", "is_mps", "is_quantized", "is_sparse", "is_xpu"),
}
"""Attributes of tensors that follow from their shape, format and device."""

_FUNCTIONS_OF_SHAPES = {torch.numel, torch.is_floating_point, torch.is_complex}
_METHODS_OF_SHAPES = {
    *("size", "dim", "ndimension", "numel", "nelement", "element_size"),
    *("is_floating_point", "is_complex", "get_device"),
}
_SQUEEZES = {torch.squeeze, "squeeze", "squeeze_"}


def asks_for_shape(op: str, target: Any, args: tuple[Any, ...]) -> bool:
    """Whether the result of an operation, where it is no tensor, follows from shapes, formats and devices of tensors.

    Args:
        op: as in torch.fx.
        target: what is called.
        args: its positional arguments.
    """
    if op == "call_function":
        return target in _FUNCTIONS_OF_SHAPES or (target is getattr and args[1] in ATTRIBUTES_OF_SHAPES)
    return op == "call_method" and target in _METHODS_OF_SHAPES


def tensors_in(result: Any) -> tuple[Tensor, ...]:
    """Return the tensors that an operation returned, one or several."""
    several = result if isinstance(result, tuple | list) else (result,)
    return tuple(part for part in several if isinstance(part, Tensor))


def holds_tensor(result: Any) -> bool:
    """Whether a result is several values, one of them a tensor."""
    return isinstance(result, tuple | list) and bool(tensors_in(result))


class NoRandomNumbers(TorchDispatchMode):
    """Refuses operations that draw random numbers.

    Args:
        where: what is run, for messages.
    """

    def __init__(self, where: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where = where

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            raise refused_random(self._where, f"by {func}")
        return func(*args, **(kwargs or {}))


def refused_random(where: str, how: str) -> UnsupportedLayerError:
    """Return the error about a forward pass that draws random numbers."""
    return UnsupportedLayerError(
        f"{where} draws random numbers ({how}), which do not depend on the input: a random network has no bounds. Call "
        "eval() if that turns them off, or draw them once and keep them in a buffer"
    )


class ShapeRun(fx.Interpreter):
    """Runs a graph once, without the effects of a training step: no running statistics, no random numbers.

    Args:
        module: has the tensors and modules that the graph refers to.
        graph: may grow between the calls of `advance`.
        example: an input [B, *shape]; only shape, dtype and device are used.
        batch: the batch size to run with.

    Attributes:
        mutations: for every operation the values that it has changed in place.
        varying: operations on the input whose results may follow from the batch size in a way that two sizes hide:
            they are made with numbers computed from it, or take its dimension away where it is 1.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, example: Tensor, batch: int) -> None:
        # Every value stays alive, so that equal storage means an alias and not memory used again.
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.mutations: dict[fx.Node, list[fx.Node]] = {}
        self.varying: set[fx.Node] = set()
        self._model = module
        self._x = torch.zeros(batch, *example.shape[1:], dtype=example.dtype, device=example.device)
        self._of_input: set[fx.Node] = set()
        self._on_input = False

    def advance(self, *, lazily: bool = False) -> None:
        """Run the operations that have not been run yet.

        Args:
            lazily: stop at a module without parameters, which its first call would give it.

        Raises:
            InvalidInputError: one of them fails.
        """
        with running(self._model, self._x):
            for node in self.graph.nodes:
                if node in self.env:
                    continue
                if lazily and node.op == "call_module" and _awaits_shape(self.fetch_attr(str(node.target))):
                    break
                self.env[node] = self.run_node(node)

    def depends_on_input(self, node: fx.Node) -> bool:
        """Whether the result of an operation depends on the input."""
        return node in self._of_input

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._x

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = super().get_attr(target, args, kwargs)
        # What the forward pass changes in place is a copy here.
        return value.clone() if isinstance(value, Tensor) else value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, _BATCH_NORMS):
            if module.training and not self._on_input:
                raise UnsupportedLayerError(
                    f"layer {target!r} normalises a constant by its own statistics in training mode, which changes the "
                    "running ones whenever bounds are computed; call eval() on it"
                )
            return args[0].clone()
        if isinstance(module, _DROPOUTS) and self._on_input:
            return args[0]
        return super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._on_input and target is functional.batch_norm:
            return args[0].clone()
        if self._on_input and target in _DROPOUT_FUNCTIONS:
            return args[0]
        return super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        versions = {arg: self._versions(arg) for arg in n.all_input_nodes}
        self._on_input = n.op == "placeholder" or not self._of_input.isdisjoint(n.all_input_nodes)
        if self._on_input:
            self._of_input.add(n)
            result = super().run_node(n)
            if self._varies(n, result):
                # In place it changes the shape of what has been recorded, too.
                self.varying |= self._of_input if n.target == "squeeze_" else {n}
        else:
            with NoRandomNumbers(f"{n.name!r} ({n.op} {n.target})"):
                result = super().run_node(n)
        self.mutations[n] = [arg for arg, version in versions.items() if self._versions(arg) != version]
        return result

    def _versions(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(map(writes_to, tensors_in(self.env[node])))

    def _varies(self, node: fx.Node, result: Any) -> bool:
        sources = [source for source in node.all_input_nodes if source in self._of_input]
        computed = any(not (tensors_in(self.env[source]) or _is_size(source)) for source in sources)
        made = bool(tensors_in(result)) and computed
        return made or not self.varying.isdisjoint(sources) or self._may_drop_batch(node)

    def _may_drop_batch(self, node: fx.Node) -> bool:
        """Whether an operation takes the batch dimension away where the batch has one example."""
        if node.target not in _SQUEEZES:
            return False
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        rank = self.env[node.all_input_nodes[0]].dim()
        named = dims if isinstance(dims, tuple | list) else (dims,)
        return not all(isinstance(dim, int) and dim != 0 and dim > -rank for dim in named)


def _is_size(node: fx.Node) -> bool:
    """Whether an operation asks for a shape, or for an entry of one, and computes nothing with it."""
    if node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return asks_for_shape(node.op, node.target, node.args)


def _awaits_shape(module: Any) -> bool:
    return isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()  # type: ignore[misc]


@contextmanager
def running(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Say of what fails inside the block that the model does not run on an input."""
    try:
        yield
    except UnsupportedLayerError:
        raise
    except Exception as error:
        reason = str(error).partition("\n\nWhile executing")[0]  # which torch.fx adds, about the trace
        raise InvalidInputError(
            f"{type(model).__name__} does not run on an input of shape {list(x.shape)}, {x.dtype}, on {x.device} (the "
            f"shape of global_input, with batch size {len(x)}; the batch size must be free): {reason}"
        ) from error
