"""From the nodes of an ONNX graph to modules."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from lbp.errors import LbpError, OnnxFileError
from lbp.onnx_import import activations, affine, elementwise, pooling, shapes
from lbp.onnx_import.affine import linear
from lbp.onnx_import.file import Array, OnnxModel
from lbp.onnx_import.modules import ScaleShift
from lbp.onnx_import.network import OnnxNetwork, Step
from lbp.onnx_import.registry import OnnxCall

OPERATORS = (activations, affine, elementwise, pooling, shapes)
"""Modules that hold the operators; each registers its own."""

_BATCH = 2
"""Batch size of the runs on zeros that find the shape of every value."""


def convert(model: OnnxModel) -> OnnxNetwork:
    """Return a file's network as a module, in evaluation mode.

    Raises:
        OnnxFileError: the output does not depend on the input.
        UnsupportedLayerError: an operator without bounds.
    """
    return _Conversion(model).run()


class _Conversion:
    """Goes through the nodes in order.

    A MatMul and the Add of a bias after it become one Linear.

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

    def run(self) -> OnnxNetwork:
        nodes = self.model.proto.graph.node
        wanted = _needed(list(nodes), self.model.output_name)
        for number, node in enumerate(nodes):
            if wanted[number]:
                self._add(node, _module_name(node, number))
        output = self.model.output_name
        if output not in self.shapes:
            raise OnnxFileError(f"{self.model.path}: the output {output!r} does not depend on the input")
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
        for module, output in zip(modules, node.output, strict=False):
            self.shapes[output] = self._example_shape(call, module)
            self.steps.append(Step(name, module, call.sources, output))

    def _call(self, node: onnx.NodeProto, name: str) -> OnnxCall:
        return OnnxCall(node, name, self.dtype, str(self.model.path), self.shapes, self.constants)

    def _fold(self, node: onnx.NodeProto, name: str) -> None:
        """Compute a node that depends on constants only."""
        inputs = [source for source in dict.fromkeys(node.input) if source]
        graph = onnx.helper.make_graph(
            [node],
            "constant",
            [onnx.ValueInfoProto(name=source) for source in inputs],
            [onnx.ValueInfoProto(name=output) for output in node.output if output],
        )
        alone = onnx.helper.make_model(graph, opset_imports=self.model.proto.opset_import)
        try:
            found = ReferenceEvaluator(alone).run(None, {source: self.constants[source] for source in inputs})
        except LbpError:  # a deadline
            raise
        except Exception as error:
            # Operators of the reference implementation raise whatever numpy does.
            raise self._call(node, name).refuse(f"cannot be computed from constants: {error}") from error
        for output, value in zip((output for output in node.output if output), found, strict=True):
            self.constants[output] = np.asarray(value)

    def _example_shape(self, call: OnnxCall, module: nn.Module) -> tuple[int, ...]:
        """Return the shape of one example of a module's value, after checking that examples stay apart."""
        zeros = (torch.zeros(_BATCH, *self.shapes[source], dtype=self.dtype) for source in call.sources)
        try:
            with torch.no_grad():
                value = module(*zeros)
        except (RuntimeError, ValueError, IndexError) as error:
            raise call.refuse(f"does not fit its inputs: {error}") from error
        if value.dim() < 1 or value.shape[0] != _BATCH:
            raise call.refuse(f"gives the shape {list(value.shape)} for a batch of {_BATCH}; the batch must stay first")
        return tuple(value.shape[1:])


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
    name = re.sub(r"\W+", "_", node.name).strip("_")
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
