"""Every bound kernel as a differentiable function on tensors.

Shapes: K sides (lower, upper), B batch, S specification rows, `*shape` a layer's neurons, n0 the flattened input.
Coefficients of back-substitution are `A [K, B, S, *shape]` with constants `[K, B, S]` in float64: lower and upper
travel together, so that one product serves both. Forward linear bounds are `center -/+ radius [B, n0, *shape]` with
their biases `[B, *shape]`.

All tensors of a call have one dtype, float32 or float64, and one device. The ops check shapes, dtypes and devices,
never read values, and so never stop a device; NaN in gives NaN out, which means *not verified*. They are
differentiable once, registered with `torch.library` under `torch.ops.lbp`, and work inside `torch.compile` and
`torch.export`. `lbp.backend` switches them to plain PyTorch.
"""

from lbp.ops.activation import bounding_lines, ramp, ramp_interval, ramp_interval_with_status
from lbp.ops.affine import (
    backward_conv2d,
    backward_linear,
    relax_backward_conv2d,
    relax_backward_linear,
)
from lbp.ops.concretize import (
    concretize_ball,
    concretize_box,
    concretize_forward_ball,
    concretize_forward_box,
    concretize_forward_box_with_magnitude,
)
from lbp.ops.concretize_forward_windows import (
    concretize_forward_windows_ball,
    concretize_forward_windows_box,
    concretize_forward_windows_box_with_magnitude,
)
from lbp.ops.forward import forward_conv2d, forward_linear, insert_forward
from lbp.ops.forward_windows import (
    combine_windows,
    forward_conv2d_windows,
    forward_linear_windows,
    insert_forward_windows,
    windows_to_dense,
)
from lbp.ops.interval import interval_conv2d, interval_linear
from lbp.ops.relax import relax_backward, relax_forward
from lbp.ops.window_insertion import insert_into_windows
from lbp.ops.windows import (
    backward_conv2d_windows,
    concretize_windows_ball,
    concretize_windows_box,
    relax_backward_conv2d_windows,
    relax_windows,
)
from lbp.strategies import BoundingLines

__all__ = [
    "BoundingLines",
    "backward_conv2d",
    "backward_conv2d_windows",
    "backward_linear",
    "bounding_lines",
    "combine_windows",
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
    "forward_conv2d",
    "forward_conv2d_windows",
    "forward_linear",
    "forward_linear_windows",
    "insert_forward",
    "insert_forward_windows",
    "insert_into_windows",
    "interval_conv2d",
    "interval_linear",
    "ramp",
    "ramp_interval",
    "ramp_interval_with_status",
    "relax_backward",
    "relax_backward_conv2d",
    "relax_backward_conv2d_windows",
    "relax_backward_linear",
    "relax_forward",
    "relax_windows",
    "windows_to_dense",
]
