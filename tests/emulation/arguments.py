"""Arguments of the launch functions (csrc/*arguments.h) by name, from tensors."""

import math

import torch

from lbp.strategies import STRATEGIES

NEED_BOUNDS, NEED_R, NEED_GIVEN, NEED_MATRIX, NEED_BIAS = 1, 2, 4, 8, 16
EMPTY = (0,)
NO_MARGINS = {"per_slope_batch_stride": 0, "rest_batch_stride": 0, "rest_stride": 0}


def array(tensor):
    return None if tensor is None else tensor.detach().contiguous().numpy()


def output(like, *shape, dtype=None):
    return torch.full(shape, math.nan, dtype=dtype or like.dtype)


def size(tensor, first):
    return math.prod(tensor.shape[first:])


def stride(tensor, size):
    """Elements between the entries of a batch; 0 where one entry serves all."""
    return 0 if tensor.shape[0] == 1 else size


def per_neuron(number, tensor, neurons, like):
    if tensor is None:
        return {"data": None, "count": 1, "inner": 1, "value": number}
    count = max(tensor.numel(), 1)
    return {
        "data": array(tensor.to(like.dtype)),
        "count": count,
        "inner": 1 if count == 1 or neurons == 0 else neurons // count,
        "value": math.nan,
    }


def ramp_fields(like, neurons, r, r_tensor, eta, eta_tensor):
    return {
        "float32": like.dtype == torch.float32,
        "neurons": neurons,
        "r": per_neuron(r, r_tensor, neurons, like),
        # Where eta lies on the device, its number must not be read.
        "eta": eta if eta_tensor is None else math.nan,
        "eta_data": None if eta_tensor is None else array(eta_tensor.to(like.dtype)),
    }


def relaxation(neurons, l, u, r, r_tensor, eta, eta_tensor, strategy, *given_and_margins):
    *given, per_slope, rest = given_and_margins
    names = ("lower_slope", "lower_intercept", "upper_slope", "upper_intercept")
    return {
        **ramp_fields(l, neurons, r, r_tensor, eta, eta_tensor),
        **{name: array(line) for name, line in zip(names, given, strict=True)},
        "l": array(l),
        "u": array(u),
        "batch_stride": stride(l, neurons),
        "strategy": strategy,
        "given_batch_stride": next((stride(line, neurons) for line in given if line is not None), 0),
        "margins": NO_MARGINS if rest is None else margins(neurons, per_slope, rest),
    }


def margins(neurons, per_slope, rest):
    shared = size(rest, 1) != neurons
    return {
        "per_slope": array(per_slope),
        "rest": array(rest),
        "per_slope_batch_stride": stride(per_slope, neurons),
        "rest_batch_stride": stride(rest, size(rest, 1)),
        "rest_stride": 0 if shared else 1,
    }


def relaxation_gradients(relax, batch, needs):
    """Outputs for the gradients of a relaxation, and the fields that name them."""
    l, strategy = relax[0], relax[6]
    names = ("l", "u", "r", "lower_slope", "lower_intercept", "upper_slope", "upper_intercept")
    wanted = (NEED_BOUNDS, NEED_BOUNDS, NEED_R, *[NEED_GIVEN] * 4)
    outputs = []
    for need in wanted:
        shape = (batch, *l.shape[1:]) if needs & need else EMPTY
        # The kernels leave out the gradients of given lines that the strategy does not read.
        left_out = need == NEED_GIVEN and strategy not in (STRATEGIES["slopes"], STRATEGIES["lines"])
        outputs.append(torch.zeros(shape, dtype=l.dtype) if left_out else output(l, *shape))
    return outputs, {"gradients": {name: nonempty(out) for name, out in zip(names, outputs, strict=True)}}


def elements(tensor):
    return {"float32": tensor.dtype == torch.float32, "count": tensor.numel()}


def nonempty(tensor):
    return None if tensor.numel() == 0 else tensor.numpy()


def batch_of(tensor):
    return 1 if tensor.dim() == 0 else tensor.shape[0]


def region(x, x_U, eps, eps_tensor, p):
    """The region's field; the dual exponent of p has 0 for infinity."""
    return {
        "region": {
            "x_L": array(x),
            "x_U": array(x_U),
            "batch_stride": stride(x, size(x, 1)),
            # Where the radii lie on the device, the number must not be read.
            "eps": eps if eps_tensor is None else math.nan,
            "eps_data": array(eps_tensor),
            "eps_stride": 0 if eps_tensor is None or eps_tensor.numel() == 1 else 1,
            "q": 0.0 if p == 1 else (1.0 if math.isinf(p) else p / (p - 1)),
        }
    }


def coefficients(A, sides):
    """A with contiguous rows, and the fields that describe it."""
    expected, contiguous = 1, True
    for length, step in zip(reversed(A.shape[3:]), reversed(A.stride()[3:]), strict=True):
        contiguous = contiguous and (length == 1 or step == expected)
        expected *= length
    A = A.detach() if contiguous else A.detach().contiguous()
    strides = dict(zip(("side_stride", "batch_stride", "row_stride"), A.stride()[:3], strict=True))
    sizes = {"batch": A.shape[1], "rows": A.shape[2]}
    return A, {"float32": A.dtype == torch.float32, "A": {"data": A.numpy(), **strides}, "sides": sides, **sizes}


def forward_matrices(center, radius, center_bias, radius_bias, other_batch):
    """The batch, and the fields that describe forward bounds."""
    batch = next((n for n in (center.shape[0], center_bias.shape[0], other_batch) if n != 1), 1)
    inputs, neurons = center.shape[1], size(center, 2)
    return batch, {
        "float32": center.dtype == torch.float32,
        "batch": batch,
        "inputs": inputs,
        "neurons": neurons,
        "center": array(center),
        "radius": array(radius),
        "matrix_batch_stride": stride(center, inputs * neurons),
        "center_bias": array(center_bias),
        "radius_bias": array(radius_bias),
        "bias_batch_stride": stride(center_bias, neurons),
    }


def row_windows(A, rows, layer, images, sides):
    """A with contiguous windows, and the fields that describe it and its rows."""
    A = A.detach()
    if not A[:1, :1].is_contiguous():
        A = A.contiguous()
    windows = {
        "data": A.numpy(),
        "side_stride": A.stride(0),
        "source_stride": A.stride(1),
        "rows": len(rows),
        "height": A.shape[2],
        "width": A.shape[3],
        "channels": A.shape[4],
        "layer_height": layer[0],
        "layer_width": layer[1],
        "where": array(rows),
        "sources": A.shape[1],
        "images": images,
    }
    return A, {"float32": A.dtype == torch.float32, "A": windows, "sides": sides}


def input_windows(center, x, scale, offset):
    """The windows of an image x that a matrix [B, C0, kh, kw, C, H, W] holds."""
    names = ("rows", "columns", "channels", "height", "width")
    return {
        **dict(zip(names, center.shape[2:], strict=True)),
        **dict(zip(("image_channels", "image_rows", "image_columns"), x.shape[1:], strict=True)),
        **dict(zip(("row_scale", "column_scale", "row_offset", "column_offset"), (*scale, *offset), strict=True)),
    }
