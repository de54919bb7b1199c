"""Every op of `lbp.ops` in plain PyTorch: the baseline of the benchmarks and, in float64, the oracle of the tests."""

from lbp.reference.affine import (
    backward_conv2d,
    backward_linear,
    forward_conv2d,
    forward_linear,
    insert_forward,
    interval_conv2d,
    interval_linear,
    relax_backward_conv2d,
    relax_backward_linear,
)
from lbp.reference.bounding_lines import bounding_lines
from lbp.reference.concretize import (
    concretize_ball,
    concretize_box,
    concretize_forward_ball,
    concretize_forward_box,
    concretize_forward_box_with_magnitude,
)
from lbp.reference.forward_windows import (
    concretize_forward_windows_ball,
    concretize_forward_windows_box,
    concretize_forward_windows_box_with_magnitude,
    dense_to_windows,
    forward_conv2d_windows,
    forward_linear_windows,
    insert_forward_windows,
    windows_to_dense,
)
from lbp.reference.ramp import neuron_status, ramp, ramp_interval, ramp_interval_with_status, status_counts
from lbp.reference.relax import relax_backward, relax_forward
from lbp.reference.windows import (
    backward_conv2d_windows,
    concretize_windows_ball,
    concretize_windows_box,
    relax_backward_conv2d_windows,
    relax_windows,
)

__all__ = [
    "backward_conv2d",
    "backward_conv2d_windows",
    "backward_linear",
    "bounding_lines",
    "concretize_ball",
    "concretize_box",
    "concretize_forward_ball",
    "concretize_forward_box",
    "concretize_forward_box_with_magnitude",
    "concretize_forward_windows_ball",
    "concretize_forward_windows_box",
    "concretize_forward_windows_box_with_magnitude",
    "concretize_windows_ball",
    "concretize_windows_box",
    "dense_to_windows",
    "forward_conv2d",
    "forward_conv2d_windows",
    "forward_linear",
    "forward_linear_windows",
    "insert_forward",
    "insert_forward_windows",
    "interval_conv2d",
    "interval_linear",
    "neuron_status",
    "ramp",
    "ramp_interval",
    "ramp_interval_with_status",
    "relax_backward",
    "relax_backward_conv2d",
    "relax_backward_conv2d_windows",
    "relax_backward_linear",
    "relax_forward",
    "relax_windows",
    "status_counts",
    "windows_to_dense",
]
