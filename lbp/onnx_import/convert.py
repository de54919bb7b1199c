"""From the nodes of an ONNX graph to modules."""

from __future__ import annotations

import math
import re
from collections import ChainMap, Counter
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from lbp.errors import OnnxFileError
from lbp.onnx_import import activations, affine, elementwise, pooling, shapes
from lbp.onnx_import.affine import linear
from lbp.onnx_import.evaluation import Array, difference, evaluate_node
from lbp.onnx_import.file import OnnxModel
from lbp.onnx_import.modules import ScaleShift
from lbp.onnx_import.network import OnnxNetwork, Step
from lbp.onnx_import.registry import OnnxCall

OPERATORS = (activations, affine, elementwise, pooling, shapes)
"""Modules that hold the operators; each registers its own."""

_BATCH = 2
"""Batch size of the runs that find the shape of every value."""

_TRIES = 3
"""Random points on which a module must differ from the reference evaluator to be refused: sums may cancel at one."""

_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


def convert(model: OnnxModel) -> OnnxNetwork:
    """Return a file's network as a module, in evaluation mode.

    Raises:
        OnnxFileError: the output does not depend on the input.
        UnsupportedLayerError: an operator without bounds.
    """
    return _Conversion(model).run()


class _Conversion:
    """Goes through the nodes in order.

    Every module is compared with onnx's reference evaluator on random values before it is taken. A MatMul and the Add
    of a bias after it become one Linear.

    Attributes:
        shapes: per value that depends on the input, the shape of one example.
        constants: per other value, its content.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.shapes: dict[str, tuple[int, ...]] = {model.input_name: model.input_shape}
        self.constants: dict[str, Array] = dict(model.constants)
        self.dtype = torch.float64 if model.dtype is np.float64 else torch.float32
        self.steps: list[Step] = []
        self.generator = torch.Generator().manual_seed(0)

    def run(self) -> OnnxNetwork:
        nodes = self.model.proto.graph.node
        wanted = _needed(list(nodes), self.model.output_name)
        for number, node in enumerate(nodes):
            if wanted[number]:
                self._add(node, _module_name(node, number))
        output = self.model.output_name
        if output not in self.shapes:
            raise OnnxFileError(
                f"{self.model.path}: the output {output!r} does not depend on the input, or has no bounds"
            )
        steps = _with_biases(self.steps, output)
        model = self.model
        neurons = sum(math.prod(self.shapes[step.output]) for step in steps)
        return OnnxNetwork(steps, model.input_name, output, model.input_shape, self.shapes[output], neurons).eval()

    def _add(self, node: onnx.NodeProto, name: str) -> None:
        for source in node.input:
            if source and source not in self.shapes and source not in self.constants:
                raise self._call(node, name).refuse(f"takes {source!r}, an output that its operator does not give here")
        if not any(source in self.shapes for source in node.input):
            self._fold(node, name)
            return
        call = self._call(node, name)
        result = call.convert()
        if isinstance(result, np.ndarray):
            self.constants[node.output[0]] = result
            return
        modules = [result] if isinstance(result, nn.Module) else list(result)
        # An output without a name is left out: nothing can read it.
        named = {output: module for module, output in zip(modules, node.output, strict=False) if output}
        self._compare(call, named)
        for output, module in named.items():
            self.steps.append(Step(name, module, call.sources, output))

    def _call(self, node: onnx.NodeProto, name: str) -> OnnxCall:
        return OnnxCall(node, name, self.dtype, str(self.model.path), self.shapes, self.constants, self.model.opset)

    def _fold(self, node: onnx.NodeProto, name: str) -> None:
        """Compute a node that depends on constants only."""
        if node.op_type in _RANDOM:
            raise self._call(node, name).refuse("draws another value at every evaluation")
        self.constants.update(self._by_reference(self._call(node, name), self.constants))

    def _by_reference(self, call: OnnxCall, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return a node's outputs by the reference evaluator."""
        try:
            return evaluate_node(call.node, self.model.proto.opset_import, values)
        except Exception as error:
            # Operators of the reference implementation raise whatever numpy does.
            raise call.refuse(f"cannot be computed by onnx's reference evaluator: {error}") from error

    def _compare(self, call: OnnxCall, modules: Mapping[str, nn.Module]) -> None:
        """Keep the shapes of a node's values, after comparing their modules with the reference evaluator.

        Raises:
            UnsupportedLayerError: they differ, the examples of a batch do not stay apart, or one of both fails.
        """
        for attempt in range(_TRIES):
            points = {
                name: torch.randn(_BATCH, *self.shapes[name], generator=self.generator, dtype=self.dtype, device="cpu")
                for name in dict.fromkeys(call.sources)
            }
            batches = {output: self._applied(call, module, points) for output, module in modules.items()}
            if not all(bool(batch.isfinite().all()) for batch in batches.values()):
                raise call.refuse("gives values that are not finite")
            one = {name: point[:1].numpy() for name, point in points.items()}
            expected = self._by_reference(call, ChainMap(one, self.constants))
            reason = None
            for output, batch in batches.items():
                reason = reason or difference(batch[:1].numpy(), expected[output])
            if reason is None:
                break
            if attempt == _TRIES - 1:
                raise call.refuse(f"is not read as onnx defines it: the reference evaluator gives {reason}")
        for output, batch in batches.items():
            self.shapes[output] = tuple(batch.shape[1:])

    def _applied(self, call: OnnxCall, module: nn.Module, points: Mapping[str, Tensor]) -> Tensor:
        """Return a module's value for a batch, after checking that examples stay apart."""
        try:
            with torch.no_grad():
                value: Tensor = module(*(points[name] for name in call.sources))
                apart = [module(*(points[name][i : i + 1] for name in call.sources)) for i in range(_BATCH)]
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise call.refuse(f"does not fit its inputs: {error}") from error
        if value.dim() < 1 or value.shape[0] != _BATCH:
            raise call.refuse(f"gives the shape {list(value.shape)} for a batch of {_BATCH}; the batch must stay first")
        if difference(value.numpy(), torch.cat(apart).numpy()) is not None:
            raise call.refuse("mixes the examples of a batch")
        return value


def _needed(nodes: list[onnx.NodeProto], output: str) -> list[bool]:
    """Return for every node whether the output depends on it."""
    wanted = {output}
    needed = [False] * len(nodes)
    for number in reversed(range(len(nodes))):
        if wanted.intersection(nodes[number].output):
            needed[number] = True
            wanted.update(nodes[number].input)
    return needed


def _module_name(node: onnx.NodeProto, number: int) -> str:
    # A name that is no UTF-8 text arrives as bytes.
    name = re.sub(r"\W+", "_", str(node.name)).strip("_")
    return name if name and not name[0].isdigit() else f"{node.op_type}_{name or number}"


def _with_biases(steps: list[Step], output: str) -> list[Step]:
    """Return the steps with every constant that is added to a Linear without bias as that layer's bias."""
    readers = Counter(source for step in steps for source in step.inputs)
    readers[output] += 1
    result: dict[str, Step] = {}
    for step in steps:
        layer = result.get(step.inputs[0]) if len(step.inputs) == 1 else None
        bias = _bias_of(step.module)
        takes_bias = layer is not None and isinstance(layer.module, nn.Linear) and layer.module.bias is None
        if takes_bias and bias is not None and readers[step.inputs[0]] == 1:
            assert layer is not None
            assert isinstance(layer.module, nn.Linear)
            weight = layer.module.weight.detach()
            if bias.numel() in (1, len(weight)) and bias.shape[-1:].numel() == bias.numel():
                merged = linear(weight, bias.reshape(-1).expand(len(weight)).clone())
                del result[step.inputs[0]]
                result[step.output] = Step(layer.name, merged, layer.inputs, step.output)
                continue
        result[step.output] = step
    return list(result.values())


def _bias_of(module: nn.Module) -> torch.Tensor | None:
    return module.shift if isinstance(module, ScaleShift) and module.scale is None else None
