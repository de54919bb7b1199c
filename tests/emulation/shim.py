"""The ops on CPU tensors, computed by the emulated CUDA kernels.

Each function has the arguments of the op `lbp::<name>` in its schema's order (csrc/torch/schema.cpp), hands the kernels
their arguments by name (csrc/*arguments.h), and fills what they are to write with NaN first.
"""

from emulation.forward_ops import ForwardOps
from emulation.neuron_ops import NeuronOps
from emulation.product_ops import ProductOps
from emulation.row_ops import RowOps
from emulation.window_ops import WindowOps


class Shim(NeuronOps, RowOps, ProductOps, ForwardOps, WindowOps):
    """The ops by name."""

    @classmethod
    def names(cls):
        return [name for name in dir(cls) if not name.startswith("_") and name != "names"]
