"""The module that an ONNX file becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        name: of the module, after the ONNX node.
        module: computes the value.
        inputs: names of the values that the module takes.
        output: name of the value that it gives.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    output: str


class OnnxNetwork(nn.Module):
    """Modules applied in the order of the ONNX file; torch.fx traces it, the batch size is free.

    Args:
        steps: every input of a step is the network's input or the output of an earlier step.
        input_name, output_name: names of values in the file.
        input_shape: of one example.

    Attributes:
        input_shape: of one example.
        output_shape: of one example.
        neurons: number of values that are computed for one example.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        input_name: str,
        output_name: str,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        neurons: int,
    ) -> None:
        super().__init__()
        self.input_name = input_name
        self.output_name = output_name
        self.input_shape = input_shape
        self.output_shape = output_shape
        self.neurons = neurons
        calls = []
        for step in steps:
            name = self._free_name(step.name)
            self.add_module(name, step.module)
            calls.append((name, step.inputs, step.output))
        self._calls = tuple(calls)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output [B, *output_shape] for x [B, *input_shape]."""
        values = {self.input_name: x}
        for name, inputs, output in self._calls:
            values[output] = self.get_submodule(name)(*(values[source] for source in inputs))
        return values[self.output_name]

    def _free_name(self, name: str) -> str:
        while hasattr(self, name):
            name += "_"
        return name
