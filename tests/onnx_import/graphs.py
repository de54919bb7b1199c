"""Small ONNX files made in the tests."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def node(operator, inputs, output="y", **attributes):
    return helper.make_node(
        operator, inputs, [output] if isinstance(output, str) else output, name=f"the_{operator}", **attributes
    )


def model(nodes, shape, constants=None, *, opset=17, element=FLOAT, output="y", doubles=None):
    """A model with the input "x" of a shape with the batch, and named constants: of its type, and DOUBLE ones."""
    kind = np.float64 if element == TensorProto.DOUBLE else np.float32
    stored = []
    for name, value in (constants or {}).items():
        array = np.asarray(value)
        stored.append(numpy_helper.from_array(array.astype(kind) if array.dtype.kind == "f" else array, name))
    stored += [numpy_helper.from_array(np.asarray(value, np.float64), name) for name, value in (doubles or {}).items()]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info(output, element, ["any"])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(folder: Path, proto, name="net.onnx") -> Path:
    path = folder / name
    onnx.save(proto, path)
    return path


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def ints(*values):
    return np.array(values, np.int64)
