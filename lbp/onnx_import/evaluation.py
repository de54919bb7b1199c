"""onnx's reference evaluator, and the comparison of a module with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]

TOLERANCE = 1e-5
"""Difference, relative to the largest entry, that the order of float32 sums may explain."""


class BatchNormalization(OpRun):
    """Batch normalisation in evaluation mode, in every version of the operator.

    Before version 14 onnx's own takes the statistics of the example in place of the stored ones.
    """

    op_domain = ""

    def _run(
        self,
        x: Floats,
        scale: Floats,
        bias: Floats,
        mean: Floats,
        variance: Floats,
        *,
        epsilon: float = float(np.float32(1e-5)),
        **_: object,
    ) -> tuple[Floats]:
        over = (-1, *[1] * (x.ndim - 2))
        factor = scale / np.sqrt(variance + x.dtype.type(epsilon))
        return (((x - mean.reshape(over)) * factor.reshape(over) + bias.reshape(over)).astype(x.dtype),)


def evaluator(proto: onnx.ModelProto) -> ReferenceEvaluator:
    """Return onnx's reference evaluator of a model, with batch normalisation in evaluation mode."""
    return ReferenceEvaluator(proto, new_ops=[BatchNormalization])


def evaluate_node(
    node: onnx.NodeProto, opsets: Sequence[onnx.OperatorSetIdProto], values: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the outputs of one node by name, for values of its inputs.

    Raises:
        Exception: whatever the reference implementation of an operator, or numpy under it, raises.
    """
    inputs = [source for source in dict.fromkeys(node.input) if source]
    outputs = [output for output in node.output if output]
    graph = onnx.helper.make_graph(
        [node],
        "node",
        [onnx.ValueInfoProto(name=source) for source in inputs],
        [onnx.ValueInfoProto(name=output) for output in outputs],
    )
    alone = onnx.helper.make_model(graph, opset_imports=opsets)
    with np.errstate(all="ignore"):
        found = evaluator(alone).run(None, {source: values[source] for source in inputs})
    return {output: np.asarray(value) for output, value in zip(outputs, found, strict=True)}


def difference(found: Array, expected: Array) -> str | None:
    """Return in words how a value differs from the expected one by more than rounding, None if it does not."""
    if found.shape != expected.shape:
        return f"the shape {list(expected.shape)}, not {list(found.shape)}"
    if found.size == 0 or np.array_equal(found, expected, equal_nan=True):
        return None
    distance = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    largest = np.abs(expected.astype(np.float64)).max()
    return None if distance <= TOLERANCE * largest else f"values that differ by {distance:.3g} of {largest:.3g}"
