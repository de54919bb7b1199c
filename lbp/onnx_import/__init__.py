"""ONNX files as modules that BoundedModule takes.

The package onnx, an extra of lbp, is imported when a file is read and not before.
"""

from __future__ import annotations

import importlib.util
from os import PathLike
from typing import TYPE_CHECKING

from lbp.errors import MissingPackageError

if TYPE_CHECKING:
    from lbp.onnx_import.file import OnnxModel
    from lbp.onnx_import.network import OnnxNetwork

__all__ = ["load_onnx", "read_onnx"]


def load_onnx(path: str | PathLike[str]) -> OnnxNetwork:
    """Read an ONNX file as a module that BoundedModule takes.

    The batch size becomes free, whatever the file says. Constants are computed beforehand, a MatMul and the Add of a
    bias after it become one Linear.

    Args:
        path: an ONNX file, plain or compressed by gzip, with one input and one output.

    Returns:
        the network in evaluation mode, with weights in the file's dtype; `input_shape` is the shape of one example.

    Raises:
        OnnxFileError: no such file, damaged, or not one input and one output.
        UnsupportedLayerError: an operator without bounds; the error names operator, node and shapes.
        MissingPackageError: the package onnx is not installed.
    """
    from lbp.onnx_import.convert import convert

    return convert(read_onnx(path))


def read_onnx(path: str | PathLike[str]) -> OnnxModel:
    """Read and check an ONNX file without converting it; `OnnxModel.evaluate` runs onnx's reference implementation.

    Raises:
        OnnxFileError: as for `load_onnx`.
        MissingPackageError: the package onnx is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise MissingPackageError(
            "reading ONNX files needs the package onnx; install it with `pip install 'lbp[onnx]'`"
        )
    from lbp.onnx_import.file import read

    return read(path)
