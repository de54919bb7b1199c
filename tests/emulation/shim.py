"""The ops on CPU tensors, computed by the emulated CUDA kernels.

Each function has the arguments of the op `lbp::<name>` in its schema's order (csrc/torch/schema.cpp), hands the kernels
their arguments by name (csrc/arguments.h), and fills what they are to write with NaN first.
"""

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


class Shim:
    """The ops by name, on a module of emulated launch functions; `split`: products on tensor cores."""

    def __init__(self, module, split=False):
        self.module, self._split = module, split

    def names(self):
        return [name for name in vars(type(self)) if not name.startswith("_") and name != "names"]

    def ramp(self, z, r, r_tensor, eta, eta_tensor):
        out = output(z, *z.shape)
        fields = ramp_fields(z, size(z, 1), r, r_tensor, eta, eta_tensor)
        self.module.ramp({**fields, "batch": batch_of(z), "z": array(z), "out": out.numpy()})
        return out

    def ramp_gradient(self, gradient, z, r, r_tensor, eta, eta_tensor, need_z, need_r):
        to_z = output(z, *(z.shape if need_z else EMPTY))
        to_r = output(z, *(z.shape[1:] if need_r else EMPTY))
        self.module.ramp_gradient(
            {
                **ramp_fields(z, size(z, 1), r, r_tensor, eta, eta_tensor),
                "batch": batch_of(z),
                "z": array(z),
                "out_gradient": array(gradient),
                "z_gradient": nonempty(to_z),
                "r_gradient": nonempty(to_r),
            }
        )
        return to_z, to_r

    def ramp_interval(self, l, u, r, r_tensor, eta, eta_tensor, count_status):
        lower, upper = output(l, *l.shape), output(l, *l.shape)
        counts = torch.full((6 if count_status else 0,), -1, dtype=torch.int64)
        self.module.ramp_interval(
            {
                **ramp_fields(l, size(l, 1), r, r_tensor, eta, eta_tensor),
                "batch": batch_of(l),
                "l": array(l),
                "u": array(u),
                "lower": lower.numpy(),
                "upper": upper.numpy(),
                "counts": nonempty(counts),
            }
        )
        return lower, upper, counts

    def ramp_interval_gradient(self, to_lower, to_upper, l, u, r, r_tensor, eta, eta_tensor, need_r):
        to_l, to_u = output(l, *l.shape), output(l, *l.shape)
        to_r = output(l, *(l.shape[1:] if need_r else EMPTY))
        self.module.ramp_interval_gradient(
            {
                **ramp_fields(l, size(l, 1), r, r_tensor, eta, eta_tensor),
                "batch": batch_of(l),
                "l": array(l),
                "u": array(u),
                "lower_gradient": array(to_lower),
                "upper_gradient": array(to_upper),
                "l_gradient": to_l.numpy(),
                "u_gradient": to_u.numpy(),
                "r_gradient": nonempty(to_r),
            }
        )
        return to_l, to_u, to_r

    def bounding_lines(self, *arguments):
        l = arguments[0]
        names = ("lower_slope", "lower_intercept", "upper_slope", "upper_intercept")
        outputs = {name: output(l, *l.shape) for name in names}
        self.module.bounding_lines(
            {
                "float32": l.dtype == torch.float32,
                "batch": batch_of(l),
                "neurons": size(l, 1),
                "relaxation": relaxation(size(l, 1), *arguments),
                **{name: out.numpy() for name, out in outputs.items()},
            }
        )
        return tuple(outputs.values())

    def bounding_lines_gradient(self, *arguments):
        *to_lines, l = arguments[:5]
        outputs, fields = relaxation_gradients(arguments[4:-1], batch_of(l), arguments[-1])
        names = ("lower_slope", "lower_intercept", "upper_slope", "upper_intercept")
        self.module.bounding_lines_gradient(
            {
                "float32": l.dtype == torch.float32,
                "batch": batch_of(l),
                "neurons": size(l, 1),
                "relaxation": relaxation(size(l, 1), *arguments[4:-1]),
                **{f"{name}_gradient": array(to) for name, to in zip(names, to_lines, strict=True)},
                **fields,
            }
        )
        return tuple(outputs)

    def relax_backward(self, A, *arguments):
        *relax, bias, sides = arguments
        A, fields = coefficients(A, sides)
        relaxed = output(A, *A.shape)
        constants = output(A, *A.shape[:3], dtype=torch.float64)
        neurons = size(A, 3)
        self.module.relax_backward(
            {
                **fields,
                "neurons": neurons,
                "relaxation": relaxation(neurons, *relax),
                "bias": per_neuron(0.0, bias, neurons, A),
                "relaxed": relaxed.numpy(),
                "constants": constants.numpy(),
            }
        )
        return relaxed, constants

    def relax_backward_gradient(self, to_relaxed, to_constants, A, *arguments):
        *relax, bias, sides, needs = arguments
        A, fields = coefficients(A, sides)
        batch, neurons = A.shape[1], size(A, 3)
        outputs, gradient_fields = relaxation_gradients(relax, batch, needs)
        to_A = output(A, *(A.shape if needs & NEED_MATRIX else EMPTY))
        to_bias = output(A, *((batch, *A.shape[3:]) if needs & NEED_BIAS else EMPTY))
        self.module.relax_backward_gradient(
            {
                **fields,
                **gradient_fields,
                "neurons": neurons,
                "relaxation": relaxation(neurons, *relax),
                "bias": per_neuron(0.0, bias, neurons, A),
                "relaxed_gradient": array(to_relaxed),
                "constants_gradient": array(to_constants),
                "A_gradient": nonempty(to_A),
                "bias_gradient": nonempty(to_bias),
            }
        )
        return to_A, *outputs, to_bias

    def split_interval(self, l, u, relative, absolute):
        center, radius = output(l, *l.shape), output(l, *l.shape)
        by = {"relative": relative, "absolute": absolute}
        ends = {"l": array(l), "u": array(u), "center": center.numpy(), "radius": radius.numpy()}
        self.module.split_interval({**elements(l), "by": by, **ends})
        return center, radius

    def join_interval(self, center, radius, outward):
        lower, upper = output(center, *center.shape), output(center, *center.shape)
        ends = {"center": array(center), "radius": array(radius), "lower": lower.numpy(), "upper": upper.numpy()}
        self.module.join_interval({**elements(center), "outward": outward, **ends})
        return lower, upper

    def relax_forward(self, center, radius, center_bias, radius_bias, *relax):
        batch, fields = forward_matrices(center, radius, center_bias, radius_bias, relax[0].shape[0])
        names = ("center_out", "radius_out", "center_bias_out", "radius_bias_out")
        shapes = (center.shape, center.shape, center_bias.shape, center_bias.shape)
        outputs = {name: output(center, batch, *shape[1:]) for name, shape in zip(names, shapes, strict=True)}
        self.module.relax_forward(
            {
                **fields,
                "relaxation": relaxation(fields["neurons"], *relax),
                **{name: out.numpy() for name, out in outputs.items()},
            }
        )
        return tuple(outputs.values())

    def relax_forward_gradient(self, *arguments):
        to_outputs, matrices, relax, needs = arguments[:4], arguments[4:8], arguments[8:-1], arguments[-1]
        batch, fields = forward_matrices(*matrices, relax[0].shape[0])
        names = ("center", "radius", "center_bias", "radius_bias")
        center, _, center_bias, _ = matrices
        outputs = {}
        for name, matrix, like in zip(names, matrices, (center, center, center_bias, center_bias), strict=True):
            wanted = needs & NEED_MATRIX and matrix is not None
            outputs[name] = output(center, *((batch, *like.shape[1:]) if wanted else EMPTY))
        relax_outputs, relax_fields = relaxation_gradients(relax, batch, needs)
        self.module.relax_forward_gradient(
            {
                **fields,
                **relax_fields,
                "relaxation": relaxation(fields["neurons"], *relax),
                **{f"{name}_out_gradient": array(to) for name, to in zip(names, to_outputs, strict=True)},
                **{f"{name}_gradient": nonempty(out) for name, out in outputs.items()},
            }
        )
        return *outputs.values(), *relax_outputs

    def concretize(self, A, x, x_U, eps, p, sides):
        A, fields = coefficients(A, sides)
        bounds = output(A, *A.shape[:3], dtype=torch.float64)
        fields |= {"inputs": size(A, 3), **region(x, x_U, eps, p)}
        self.module.concretize({**fields, "bounds": bounds.numpy()})
        return bounds

    def concretize_gradient(self, to_bounds, A, x, x_U, eps, p, sides):
        A, fields = coefficients(A, sides)
        to_A = output(A, *A.shape)
        fields |= {"inputs": size(A, 3), **region(x, x_U, eps, p)}
        self.module.concretize_gradient({**fields, "bounds_gradient": array(to_bounds), "A_gradient": to_A.numpy()})
        return to_A

    def concretize_forward(self, center, radius, center_bias, radius_bias, x, x_U, eps, p):
        batch, fields = forward_matrices(center, radius, center_bias, radius_bias, x.shape[0])
        l, u = (output(center, batch, *center.shape[2:]) for _ in range(2))
        self.module.concretize_forward({**fields, **region(x, x_U, eps, p), "l": l.numpy(), "u": u.numpy()})
        return l, u

    def concretize_forward_gradient(self, to_l, to_u, center, radius, x, x_U, eps, p):
        batch = to_l.shape[0]
        _, fields = forward_matrices(center, radius, to_l, None, batch)
        to_center = output(center, batch, *center.shape[1:])
        to_radius = output(center, *(EMPTY if radius is None else to_center.shape))
        self.module.concretize_forward_gradient(
            {
                **fields,
                **region(x, x_U, eps, p),
                "batch": batch,
                "l_gradient": array(to_l),
                "u_gradient": array(to_u),
                "center_gradient": to_center.numpy(),
                "radius_gradient": nonempty(to_radius),
            }
        )
        return to_center, to_radius

    def concretize_forward_windows(self, center, radius, center_bias, radius_bias, x, x_U, eps, p, *places):
        batch, fields = forward_matrices(center, radius, center_bias, radius_bias, x.shape[0])
        l, u = (output(center, batch, *center.shape[4:]) for _ in range(2))
        self.module.concretize_forward_windows(
            {
                **fields,
                **region(x, x_U, eps, p),
                "windows": input_windows(center, x, *places),
                "bias_batch_stride": stride(center_bias, size(center, 4)),
                "l": l.numpy(),
                "u": u.numpy(),
            }
        )
        return l, u

    def concretize_forward_windows_gradient(self, to_l, to_u, center, radius, x, x_U, eps, p, *places):
        batch = to_l.shape[0]
        _, fields = forward_matrices(center, radius, to_l, None, batch)
        to_center = output(center, batch, *center.shape[1:])
        to_radius = output(center, *(EMPTY if radius is None else to_center.shape))
        self.module.concretize_forward_windows_gradient(
            {
                **fields,
                **region(x, x_U, eps, p),
                "batch": batch,
                "windows": input_windows(center, x, *places),
                "l_gradient": array(to_l),
                "u_gradient": array(to_u),
                "center_gradient": to_center.numpy(),
                "radius_gradient": nonempty(to_radius),
            }
        )
        return to_center, to_radius

    def relax_windows(self, A, rows, *arguments):
        *relax, bias, sides = arguments
        batch, *layer = relax[0].shape
        A, fields = row_windows(A, rows, layer[1:], batch, sides)
        relaxed = output(A, A.shape[0], len(rows), *A.shape[2:])
        constants = output(A, A.shape[0], len(rows), dtype=torch.float64)
        neurons = math.prod(layer)
        self.module.relax_windows(
            {
                **fields,
                "relaxation": relaxation(neurons, *relax),
                "bias": per_neuron(0.0, bias, neurons, A),
                "relaxed": relaxed.numpy(),
                "constants": constants.numpy(),
            }
        )
        return relaxed, constants

    def relax_windows_gradient(self, to_relaxed, to_constants, A, rows, *arguments):
        *relax, bias, sides, needs = arguments
        batch, *layer = relax[0].shape
        A, fields = row_windows(A, rows, layer[1:], batch, sides)
        outputs, gradient_fields = relaxation_gradients(relax, batch, needs)
        to_A = output(A, *(A.shape if needs & NEED_MATRIX else EMPTY))
        to_bias = output(A, *((batch, *layer) if needs & NEED_BIAS else EMPTY))
        neurons = math.prod(layer)
        self.module.relax_windows_gradient(
            {
                **fields,
                **gradient_fields,
                "relaxation": relaxation(neurons, *relax),
                "bias": per_neuron(0.0, bias, neurons, A),
                "relaxed_gradient": array(to_relaxed),
                "constants_gradient": array(to_constants),
                "A_gradient": nonempty(to_A),
                "bias_gradient": nonempty(to_bias),
            }
        )
        return to_A, *outputs, to_bias

    def relax_backward_conv2d_windows(self, A, rows, *arguments):
        *relax, weight, bias, corners, window, stride, padding, dilation, groups, sides = arguments
        convolution = (weight, bias, corners, window, stride, padding, dilation, groups)
        return self._convolve(A, rows, relax, relax[0].shape[2:], convolution, sides)

    def backward_conv2d_windows(self, A, rows, layer, *convolution):
        return self._convolve(A, rows, None, layer, convolution, 3 if A.shape[0] == 2 else 1)

    def _convolve(self, A, rows, relax, layer, convolution, sides):
        weight, bias, corners, window, stride, padding, dilation, groups = convolution
        # Without an activation the images do not matter.
        images = 2**40 if relax is None else relax[0].shape[0]
        A, fields = row_windows(A, rows, layer, images, sides)
        inputs, neurons = weight.shape[1] * groups, layer[0] * layer[1] * A.shape[4]
        coefficients = output(A, A.shape[0], len(rows), *window, inputs)
        constants = output(A, A.shape[0], len(rows), dtype=torch.float64)
        absent = {"l": None, "u": None, "batch_stride": 0, "strategy": 0, "given_batch_stride": 0}
        absent["margins"] = NO_MARGINS
        absent |= ramp_fields(A, neurons, math.inf, None, 0.0, None)
        self.module.relax_convolve_windows(
            {
                **fields,
                "relaxation": absent if relax is None else relaxation(neurons, *relax),
                "bias": per_neuron(0.0, bias, neurons, A),
                "constants": constants.numpy(),
                "coefficients": coefficients.numpy(),
                "arithmetic": int(self._split),
                "convolution": {
                    "weight": array(weight),
                    "inputs": inputs,
                    "groups": groups,
                    "kernel": list(weight.shape[2:]),
                    "stride": list(stride),
                    "padding": list(padding),
                    "dilation": list(dilation),
                    "height": window[0],
                    "width": window[1],
                    "corners": array(corners),
                },
            }
        )
        return coefficients, constants

    def concretize_windows(self, A, rows, x, x_U, eps, p, sides):
        A, fields = row_windows(A, rows, x.shape[1:3], x.shape[0], sides)
        bounds = output(A, A.shape[0], len(rows), dtype=torch.float64)
        self.module.concretize_windows({**fields, **region(x, x_U, eps, p), "bounds": bounds.numpy()})
        return bounds

    def concretize_windows_gradient(self, to_bounds, A, rows, x, x_U, eps, p, sides):
        A, fields = row_windows(A, rows, x.shape[1:3], x.shape[0], sides)
        to_A = output(A, *A.shape)
        fields |= {**region(x, x_U, eps, p), "bounds_gradient": array(to_bounds), "A_gradient": nonempty(to_A)}
        self.module.concretize_windows_gradient(fields)
        return to_A


def region(x, x_U, eps, p):
    """The region's field; the dual exponent of p has 0 for infinity."""
    return {
        "region": {
            "x_L": array(x),
            "x_U": array(x_U),
            "batch_stride": stride(x, size(x, 1)),
            "eps": array(eps),
            "eps_stride": 0 if eps is None or eps.numel() == 1 else 1,
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
