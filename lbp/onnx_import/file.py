"""Reading an ONNX file, and evaluating it as the standard's reference implementation does."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx.reference import ReferenceEvaluator

from lbp.errors import OnnxFileError, reason_of
from lbp.onnx_import.evaluation import Array, evaluator

DTYPES: dict[int, type[np.floating]] = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64}
"""Types of a network's input that are supported."""


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file with one input and one output.

    Attributes:
        path: of the file, for messages.
        proto: the file's content, checked by `onnx.checker`.
        input_name, output_name: of the values.
        input_shape: of one example, without the batch dimension.
        dtype: of the input, float32 or float64.
    """

    path: Path
    proto: onnx.ModelProto
    input_name: str
    output_name: str
    input_shape: tuple[int, ...]
    dtype: type[np.floating]

    @property
    def opset(self) -> int:
        """Version of the standard's operators."""
        return next((entry.version for entry in self.proto.opset_import if entry.domain in ("", "ai.onnx")), 1)

    @cached_property
    def constants(self) -> dict[str, Array]:
        """Return the stored tensors by name.

        Raises:
            OnnxFileError: one is damaged.
        """
        found = {}
        for tensor in self.proto.graph.initializer:
            try:
                found[tensor.name] = numpy_helper.to_array(tensor)
            except (ValueError, TypeError) as error:
                raise OnnxFileError(f"{self.path}: the tensor {tensor.name!r} is damaged: {error}") from error
        return found

    @cached_property
    def _evaluator(self) -> ReferenceEvaluator:
        return evaluator(self.proto)

    def evaluate(self, x: Array) -> Array:
        """Return the flattened output for one example by onnx's reference evaluator, in the file's own dtype.

        Batch normalisation is that of evaluation mode in every version of the operator.

        Args:
            x: values of the input, any shape with as many entries as the input has.

        Raises:
            OnnxFileError: the reference evaluator fails.
        """
        example = np.asarray(x, dtype=self.dtype).reshape(1, *self.input_shape)
        try:
            with np.errstate(all="ignore"):
                outputs: Any = self._evaluator.run(None, {self.input_name: example})
        except Exception as error:
            # Operators of the reference implementation raise whatever numpy does.
            raise OnnxFileError(
                f"{self.path}: onnx's reference evaluator fails: {type(error).__name__}: {error}"
            ) from error
        return np.asarray(outputs[0]).reshape(-1)


def read(path: str | PathLike[str]) -> OnnxModel:
    """Read and check an ONNX file, plain or compressed by gzip.

    Raises:
        OnnxFileError: no such file, damaged, refused by `onnx.checker`, or not exactly one input and one output, the
            input float32 or float64 with a known shape whose first dimension is a batch (1 or not fixed).
    """
    source = Path(path)
    proto = _checked_proto(source)
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    for kind, values in (("input", inputs), ("output", list(graph.output))):
        if len(values) != 1:
            names = ", ".join(repr(value.name) for value in values) or "none"
            raise OnnxFileError(
                f"{source}: networks with one {kind} are supported, this one has {len(values)} ({names})"
            )
    element = inputs[0].type.tensor_type.elem_type
    if element not in DTYPES:
        name = onnx.helper.tensor_dtype_to_string(element)
        raise OnnxFileError(f"{source}: the input {inputs[0].name!r} has type {name}; FLOAT and DOUBLE are supported")
    model = OnnxModel(
        source, proto, inputs[0].name, graph.output[0].name, _example_shape(source, inputs[0]), DTYPES[element]
    )
    known = onnx.defs.onnx_opset_version()
    if model.opset > known:
        raise OnnxFileError(
            f"{source}: has operators of version {model.opset}, the installed onnx knows them up to version {known}; "
            "update onnx, or export the network with an older version"
        )
    return model


def _checked_proto(path: Path) -> onnx.ModelProto:
    try:
        packed = path.suffix == ".gz"
        proto = onnx.load_from_string(gzip.decompress(path.read_bytes())) if packed else onnx.load(path)
        elsewhere = next(_stored_elsewhere(proto), None)
        if elsewhere is None:
            onnx.checker.check_model(proto)
    except FileNotFoundError as error:
        raise OnnxFileError(f"{path}: no such file ({error.filename or path})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise OnnxFileError(f"{path}: cannot be read ({reason_of(error)})") from error
    except Exception as error:
        # protobuf and the checker have errors of several kinds, depending on which of their backends is in use.
        reason = str(error).strip().split("\n")[0]
        raise OnnxFileError(f"{path}: not a valid ONNX file: {reason or type(error).__name__}") from error
    # onnx would look for them in the current directory, and not beside the file.
    if elsewhere is not None:
        raise OnnxFileError(
            f"{path}: the tensor {elsewhere.name!r} is stored in another file, which is read beside files that are not "
            "compressed; decompress this one next to it, or save the network with all tensors in one file"
        )
    return proto


def _stored_elsewhere(message: Any) -> Iterator[onnx.TensorProto]:
    """Yield the tensors in a part of a file whose content is in another one and has not been read."""
    if isinstance(message, onnx.TensorProto):
        if uses_external_data(message):
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _stored_elsewhere(part)


def _example_shape(path: Path, value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the shape of one example of the input."""
    kind = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    shown = f"{path}: the input {value.name!r} has shape {dims}"
    if not kind.HasField("shape") or len(dims) < 2:
        raise OnnxFileError(f"{shown}; expected a batch dimension and at least one more")
    if isinstance(dims[0], int) and dims[0] not in (0, 1):
        raise OnnxFileError(f"{shown}; the first dimension must be the batch, 1 or not fixed")
    sizes = [dim for dim in dims[1:] if isinstance(dim, int) and dim > 0]
    if len(sizes) != len(dims) - 1:
        raise OnnxFileError(f"{shown}; every dimension but the batch must be fixed: export with a fixed input shape")
    return tuple(sizes)
