"""Certified bounds of neural networks by linear bound propagation.

    net = lbp.BoundedModule(model, example_input)
    x = lbp.BoundedTensor(images, lbp.PerturbationLpNorm(eps=8 / 255, clip=(0, 1)))
    lower, upper = net.compute_bounds(x=(x,), C=lbp.margins(labels, 10), method="CROWN-LBP")

`lbp.ops` has every kernel as a differentiable function on tensors, `lbp.nn` the ParamRamp activation.
"""

from importlib.metadata import PackageNotFoundError, version

from lbp import nn, ops
from lbp.backend import backend
from lbp.bounded import BoundedModule
from lbp.errors import InvalidInputError, LbpError, StaleBoundsError, UnsupportedLayerError
from lbp.host_memory import keep_freed_memory
from lbp.onnx_import import load_onnx
from lbp.perturbations import BoundedParameter, BoundedTensor, PerturbationL0Norm, PerturbationLpNorm
from lbp.specification import Flatten, get_spec_matrix, margins
from lbp.verification import pgd, verify

try:
    __version__ = version("lbp")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "unknown"

__all__ = [
    "BoundedModule",
    "BoundedParameter",
    "BoundedTensor",
    "Flatten",
    "InvalidInputError",
    "LbpError",
    "PerturbationL0Norm",
    "PerturbationLpNorm",
    "StaleBoundsError",
    "UnsupportedLayerError",
    "__version__",
    "backend",
    "get_spec_matrix",
    "keep_freed_memory",
    "load_onnx",
    "margins",
    "nn",
    "ops",
    "pgd",
    "verify",
]
