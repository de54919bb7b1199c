"""The ops on rows over windows of a layer."""

import math

import torch
from emulation.arguments import (
    EMPTY,
    NEED_BIAS,
    NEED_MATRIX,
    NO_MARGINS,
    array,
    nonempty,
    output,
    per_neuron,
    ramp_fields,
    region,
    relaxation,
    relaxation_gradients,
    row_windows,
)
from emulation.module import Emulated


class WindowOps(Emulated):
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
                "arithmetic": int(self.split),
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

    def concretize_windows(self, A, rows, x, x_U, eps, eps_tensor, p, sides):
        A, fields = row_windows(A, rows, x.shape[1:3], x.shape[0], sides)
        bounds = output(A, A.shape[0], len(rows), dtype=torch.float64)
        self.module.concretize_windows({**fields, **region(x, x_U, eps, eps_tensor, p), "bounds": bounds.numpy()})
        return bounds

    def concretize_windows_gradient(self, to_bounds, A, rows, x, x_U, eps, eps_tensor, p, sides):
        A, fields = row_windows(A, rows, x.shape[1:3], x.shape[0], sides)
        to_A = output(A, *A.shape)
        fields |= {
            **region(x, x_U, eps, eps_tensor, p),
            "bounds_gradient": array(to_bounds),
            "A_gradient": nonempty(to_A),
        }
        self.module.concretize_windows_gradient(fields)
        return to_A
