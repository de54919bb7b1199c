"""Calls at launch-bound sizes of CUDA devices whose sums several threads share, by name: (op, arguments, keywords)."""

import math

from ops.cases import coefficients, forward_matrices, intervals, normal, relaxation, window_matrices
from ops.test_windows import windows

from lbp import ops


def layer(neurons, batch=1):
    return intervals(batch, neurons), relaxation(batch=batch, shape=(neurons,))


def _calls():
    bounds, lines = layer(200, batch=40)
    ramp = {name: lines[name] for name in ("r", "eta")}
    yield "ramp", ops.ramp, (bounds[0],), ramp
    yield "ramp_interval", ops.ramp_interval_with_status, bounds, ramp
    (l, u), lines = layer(33)
    yield "relax_backward", ops.relax_backward, (coefficients("both", 1, 90, 33), l, u), {"sides": "both", **lines}
    matrices = forward_matrices(1, 784, 33)
    yield "relax_forward", ops.relax_forward, (*matrices, l, u), lines
    x = intervals(1, 784, seed=3)
    yield "concretize_forward_box", ops.concretize_forward_box, (*matrices, *x), {}
    yield "concretize_forward_ball", ops.concretize_forward_ball, (*matrices, x[0], 0.5, 2.0), {}
    A = coefficients("both", 1, 5, 784)
    yield "concretize_box", ops.concretize_box, (A, *x), {"sides": "both"}
    for p in (1.5, 2.0, math.inf):
        yield f"concretize_ball p={p}", ops.concretize_ball, (A, x[0], 0.5, p), {"sides": "both"}
    forward_windows = window_matrices(1, (6, 7), (2, 3, 3), channels=3)
    image, places = intervals(1, 3, 8, 9, seed=5), {"scale": (1, 1), "offset": (-1, 0)}
    yield "forward windows", ops.concretize_forward_windows_box, (*forward_windows, *image), places
    yield "forward windows, ball", ops.concretize_forward_windows_ball, (*forward_windows, image[0], 0.5, 2.0), places
    shape = (4, 9, 8)
    rows, where = windows(rows=90, sources=60, window=(4, 3), layer=shape)
    bounds = intervals(2, *shape)
    keywords = {"sides": "both", "bias": normal(4, 1, 1), **relaxation(shape=shape)}
    yield "relax_windows", ops.relax_windows, (rows, where, *bounds), keywords
    yield "windows, box", ops.concretize_windows_box, (rows, where, *bounds), {"sides": "both"}
    yield "windows, ball", ops.concretize_windows_ball, (rows, where, bounds[0], 0.5, 2.0), {"sides": "both"}


SHARED_SUMS = {name: call for name, *call in _calls()}
