"""Arguments of the ops, and their values and gradients with both implementations.

Numbers are drawn so that float32 represents them: every implementation and dtype computes from the same inputs, and the
float64 reference tells the error of each.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import lbp
from lbp import ops

SIDES = ("lower", "upper", "both")
DTYPES = (torch.float32, torch.float64)
ETAS = (0.0, 0.1, 1.0, "tensor")
RS = ("number", "infinite", "tensor", "channel", "neuron", "row", "some infinite")
# Strategies by name; "slopes" with both, one or the other slope given.
STRATEGIES = (
    *("constant", "tight", "adaptive", "same-slope", "zero", "one"),
    *("slopes", "slopes below", "slopes above", "lines", "adaptive with margins"),
)
# Keywords without a gradient.
CONSTANTS = ("eta", "margin_per_slope", "margin")
# Rounding errors of a handful of operations, relative to the largest entry of a result.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
# Where `evaluate` runs the native backend; tests/gpu replaces it.
native_device = "cpu"


def generator(seed=0):
    return torch.Generator("cpu").manual_seed(seed)


def normal(*shape, seed=0):
    """Normal numbers that float32 represents, in float64, the same on every default device."""
    numbers = torch.randn(shape, generator=generator(seed), device="cpu")
    return numbers.double().to(torch.get_default_device())


def uniform(*shape, low=0.0, high=1.0, seed=0):
    numbers = low + (high - low) * torch.rand(shape, generator=generator(seed), device="cpu")
    return numbers.double().to(torch.get_default_device())


def intervals(batch, *shape, seed=0):
    """Pre-activation bounds of every status, for bending points around 1."""
    center = 2 * normal(batch, *shape, seed=seed)
    radius = uniform(batch, *shape, low=0.05, high=2.5, seed=seed + 1)
    return (center - radius).float().double(), (center + radius).float().double()


def bending(kind, shape, seed=2):
    """A bending point r of one of the kinds `RS`."""
    if kind in ("number", "infinite"):
        return 0.75 if kind == "number" else math.inf
    own = {
        "tensor": (),
        "channel": (*shape[:1], *[1] * (len(shape) - 1)),
        "neuron": shape,
        "row": (*[1] * (len(shape) - 1), *shape[-1:]),
        "some infinite": shape,
    }[kind]
    values = uniform(*own, low=0.3, high=1.5, seed=seed)
    if kind == "some infinite":
        values = torch.where(uniform(*own, seed=seed + 1) < 0.3, math.inf, values)
    return values


def outer_slope(eta):
    return torch.tensor(0.125, dtype=torch.float64) if eta == "tensor" else eta


def given_lines(strategy, batch, shape, seed=5):
    """Keywords of a strategy's name and what is given with it; slopes of both signs, some outside the range."""
    name = strategy.split()[0]
    lines = {}
    if strategy in ("slopes", "slopes below", "lines"):
        lines["lower_slope"] = uniform(batch, *shape, low=-0.5, high=1.5, seed=seed)
    if strategy in ("slopes", "slopes above", "lines"):
        lines["upper_slope"] = uniform(batch, *shape, low=-0.5, high=1.5, seed=seed + 1)
    if strategy == "lines":
        lines["lower_intercept"] = normal(batch, *shape, seed=seed + 2)
        lines["upper_intercept"] = normal(batch, *shape, seed=seed + 3)
    if strategy.endswith("with margins"):
        lines |= margins(batch, shape, shared=True, seed=seed)
    return {"strategy": name, **lines}


def margins(batch, shape, *, shared, seed=5):
    """Keywords by which lines move outward; `shared`: the margin is one number of an image."""
    own = [1] * len(shape) if shared else shape
    return {
        "margin_per_slope": uniform(batch, *shape, seed=seed + 4),
        "margin": uniform(batch, *own, seed=seed + 5),
    }


def relaxation(strategy="adaptive", r="neuron", eta=0.1, batch=2, shape=(3, 2, 3)):
    return {"r": bending(r, shape), "eta": outer_slope(eta), **given_lines(strategy, batch, shape)}


def coefficients(sides, batch, rows, *shape, seed=10):
    """Coefficients of both signs with some zeros."""
    A = normal(2 if sides == "both" else 1, batch, rows, *shape, seed=seed)
    return torch.where(uniform(*A.shape, seed=seed + 1) < 0.1, 0.0, A)


def forward_matrices(batch, inputs, *shape, bias_batch=None, exact=False, seed=20):
    """center, radius, center_bias, radius_bias; None for the radii of an exact layer."""
    bias_batch = batch if bias_batch is None else bias_batch
    radius = None if exact else normal(batch, inputs, *shape, seed=seed + 1)
    radius_bias = None if exact else normal(bias_batch, *shape, seed=seed + 3).abs()
    return (
        normal(batch, inputs, *shape, seed=seed),
        radius,
        normal(bias_batch, *shape, seed=seed + 2),
        radius_bias,
    )


def window_matrices(batch, window, layer, *, channels=2, bias_batch=None, exact=False, seed=20):
    """Forward bounds on windows: matrices [B, C0, kh, kw, C, H, W], biases [B, C, H, W], as in `forward_matrices`."""
    bias_batch = batch if bias_batch is None else bias_batch
    radius = None if exact else normal(batch, channels, *window, *layer, seed=seed + 1).abs()
    radius_bias = None if exact else normal(bias_batch, *layer, seed=seed + 3).abs()
    center = normal(batch, channels, *window, *layer, seed=seed)
    return center, radius, normal(bias_batch, *layer, seed=seed + 2), radius_bias


def is_float(value):
    return isinstance(value, Tensor) and value.is_floating_point()


def converted(value: Any, dtype: torch.dtype, leaves: list[Tensor] | None = None, device: str | None = None) -> Any:
    """Copy nested arguments with float tensors of a dtype; with `leaves`, collect them as leaves of the graph.

    Tensors stay on their device unless one is named.
    """
    if is_float(value):
        copy = value.detach().to(device or value.device, dtype, copy=True)
        if leaves is not None:
            leaves.append(copy.requires_grad_())
        return copy
    if isinstance(value, Tensor):
        return value.to(device or value.device)
    if isinstance(value, tuple | list):
        return tuple(converted(item, dtype, leaves, device) for item in value)
    if isinstance(value, dict):
        return {
            name: converted(item, dtype, None if name in CONSTANTS else leaves, device) for name, item in value.items()
        }
    return value


def as_tuple(result: Any) -> tuple[Any, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def evaluate(op: Callable[..., Any], *args: Any, backend: str, dtype: torch.dtype, **kwargs: Any):
    """Outputs of an op, and the gradients of a random combination of them by every tensor of the arguments."""
    leaves: list[Tensor] = []
    device = native_device if backend == "native" else "cpu"
    args, kwargs = converted(args, dtype, leaves, device), converted(kwargs, dtype, leaves, device)
    with lbp.backend(backend):
        outputs = as_tuple(op(*args, **kwargs))
        floats = {i: out for i, out in enumerate(outputs) if is_float(out) and out.requires_grad}
        weights = [normal(*out.shape, seed=100 + i).to(out) for i, out in floats.items()]
        gradients = [None] * len(leaves)
        if floats:
            gradients = torch.autograd.grad([*floats.values()], leaves, weights, allow_unused=True)
    present = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)]
    return [out.detach().cpu() for out in outputs if out is not None], [gradient.cpu() for gradient in present]


def close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether the error is small beside the largest entry; NaN, infinities and shapes must agree."""
    if actual.shape != expected.shape:
        return False
    actual, expected = actual.detach(), expected.detach()
    finite = expected[expected.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    return torch.allclose(actual.double(), expected.double(), rtol=0.0, atol=tolerance * scale, equal_nan=True)


def assert_close(actual, expected, tolerance, what):
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert close(a, e, tolerance), (
            f"{what} {index}: {tuple(a.shape)} against {tuple(e.shape)}, "
            f"error {(a.double() - e.double()).abs().max() if a.shape == e.shape and a.numel() else 'of shape'}"
        )


def assert_matches_reference(op, *args, dtype=torch.float64, **kwargs):
    """Assert that the native op has the values and gradients of the float64 reference, in the dtype's precision."""
    values, gradients = evaluate(op, *args, backend="native", dtype=dtype, **kwargs)
    expected_values, expected_gradients = evaluate(op, *args, backend="reference", dtype=torch.float64, **kwargs)
    assert_close(values, expected_values, TOLERANCE[dtype], "output")
    assert_close(gradients, expected_gradients, TOLERANCE[dtype], "gradient")


def every_op(dtype=torch.float64):
    """One call of every public op: name -> (op, arguments, keywords), tensors of the dtype."""
    calls = _calls_on_layers() | _calls_on_forward_windows() | _calls_on_windows_of_rows()
    return {name: (op, converted(args, dtype), converted(kwargs, dtype)) for name, (op, args, kwargs) in calls.items()}


def _convolution():
    """Weight and bias of a convolution to a layer of shape [3, 4, 5], and its geometry."""
    return normal(3, 2, 3, 3, seed=30), normal(3, seed=31), {"stride": (2, 1), "padding": (1, 1)}


def _calls_on_layers():
    shape = (3, 4, 5)
    batch, rows, inputs = 2, 3, 6
    l, u = intervals(batch, *shape)
    x_L, x_U = intervals(batch, inputs, seed=3)
    x = {"x_L": x_L, "x_U": x_U}
    relax = relaxation(shape=shape)
    weight, bias, geometry = _convolution()
    dense, dense_bias = normal(60, 7, seed=32), normal(60, seed=33)
    A = coefficients("both", batch, rows, *shape)
    flat = coefficients("both", batch, rows, 60)
    image = intervals(batch, 2, 7, 5, seed=4)
    matrices = forward_matrices(batch, inputs, *shape)
    ramp_only = {"r": relax["r"], "eta": relax["eta"]}
    flat_relax = relaxation(shape=(60,))
    return {
        "ramp": (ops.ramp, (l,), ramp_only),
        "ramp_interval": (ops.ramp_interval, (l, u), ramp_only),
        "ramp_interval_with_status": (ops.ramp_interval_with_status, (l, u), ramp_only),
        "bounding_lines": (ops.bounding_lines, (l, u), relax),
        "relax_backward": (ops.relax_backward, (A, l, u), {"sides": "both", "bias": bias[:, None, None], **relax}),
        "relax_backward_linear": (
            ops.relax_backward_linear,
            (flat, l.flatten(1), u.flatten(1), dense, dense_bias),
            {"sides": "both", **flat_relax},
        ),
        "relax_backward_conv2d": (
            ops.relax_backward_conv2d,
            (A, l, u, weight, bias, (7, 5)),
            {"sides": "both", **geometry, **relax},
        ),
        "backward_linear": (ops.backward_linear, (flat, dense, dense_bias), {}),
        "backward_conv2d": (ops.backward_conv2d, (A, weight, bias, (7, 5)), geometry),
        "interval_linear": (ops.interval_linear, (x_L, x_U, normal(4, inputs, seed=34), normal(4, seed=35)), {}),
        "interval_conv2d": (ops.interval_conv2d, (*image, weight, bias), geometry),
        "relax_forward": (ops.relax_forward, (*matrices, l, u), relax),
        "forward_linear": (
            ops.forward_linear,
            (*forward_matrices(batch, inputs, 7), normal(4, 7, seed=36), normal(4, seed=37)),
            {},
        ),
        "forward_conv2d": (ops.forward_conv2d, (*forward_matrices(batch, inputs, 2, 7, 5), weight, bias), geometry),
        "insert_forward": (ops.insert_forward, (A, *matrices), {"sides": "both"}),
        "concretize_box": (ops.concretize_box, (coefficients("both", batch, rows, inputs),), {"sides": "both", **x}),
        "concretize_ball": (
            ops.concretize_ball,
            (coefficients("both", batch, rows, inputs), x_L, torch.tensor([0.25, 0.5]).double(), 2.0),
            {"sides": "both"},
        ),
        "concretize_forward_box": (ops.concretize_forward_box, (*matrices, x_L, x_U), {}),
        "concretize_forward_box_with_magnitude": (
            ops.concretize_forward_box_with_magnitude,
            (*matrices, x_L, x_U),
            {},
        ),
        "concretize_forward_ball": (
            ops.concretize_forward_ball,
            (*matrices, x_L, torch.tensor([0.25, 0.5]).double(), 2.0),
            {},
        ),
    }


def _calls_on_forward_windows():
    batch, rows = 2, 3
    weight, bias, geometry = _convolution()
    places = {"image": (2, 5, 4), "scale": (2, 1), "offset": (-1, 0)}
    return {
        "forward_conv2d_windows": (
            ops.forward_conv2d_windows,
            (*window_matrices(batch, (2, 3), (2, 4, 3)), weight, bias),
            {**places, **geometry},
        ),
        "forward_linear_windows": (
            ops.forward_linear_windows,
            (*window_matrices(batch, (2, 3), (2, 3, 2)), normal(4, 12, seed=36), normal(4, seed=37)),
            places,
        ),
        "insert_forward_windows": (
            ops.insert_forward_windows,
            (coefficients("both", batch, rows, 2, 3, 2), *window_matrices(batch, (2, 3), (2, 3, 2))),
            {"sides": "both", **places},
        ),
        "concretize_forward_windows_box": (
            ops.concretize_forward_windows_box,
            (*window_matrices(batch, (2, 3), (2, 3, 2)), *intervals(batch, 2, 5, 4, seed=5)),
            {"scale": places["scale"], "offset": places["offset"]},
        ),
        "concretize_forward_windows_box_with_magnitude": (
            ops.concretize_forward_windows_box_with_magnitude,
            (*window_matrices(batch, (2, 3), (2, 3, 2)), *intervals(batch, 2, 5, 4, seed=5)),
            {"scale": places["scale"], "offset": places["offset"]},
        ),
        "concretize_forward_windows_ball": (
            ops.concretize_forward_windows_ball,
            (
                *window_matrices(batch, (2, 3), (2, 3, 2)),
                normal(batch, 2, 5, 4, seed=6),
                torch.tensor([0.25, 0.5]).double(),
                2.0,
            ),
            {"scale": places["scale"], "offset": places["offset"]},
        ),
    }


def _calls_on_windows_of_rows():
    l, u = intervals(2, 3, 4, 5)
    relax = relaxation(shape=(3, 4, 5))
    weight, bias, geometry = _convolution()
    windows = coefficients("both", 4, 2, 3, 3)
    where = torch.tensor([[0, 0, 0, 0], [3, 1, 2, 2], [0, 1, 1, 0]])
    corners, window = torch.tensor([[0, 0], [3, 1], [1, 0]]), (4, 4)
    return {
        "relax_windows": (
            ops.relax_windows,
            (windows, where, l, u),
            {"sides": "both", "bias": bias[:, None, None], **relax},
        ),
        "relax_backward_conv2d_windows": (
            ops.relax_backward_conv2d_windows,
            (windows, where, l, u, weight, bias, corners, window),
            {"sides": "both", **geometry, **relax},
        ),
        "backward_conv2d_windows": (
            ops.backward_conv2d_windows,
            (windows, where, (4, 5), weight, bias, corners, window),
            geometry,
        ),
        "concretize_windows_box": (ops.concretize_windows_box, (windows, where, l, u), {"sides": "both"}),
        "concretize_windows_ball": (
            ops.concretize_windows_ball,
            (windows, where, l, torch.tensor([0.25, 0.5]).double(), 2.0),
            {"sides": "both"},
        ),
    }


OP_NAMES = tuple(every_op())
