"""The ops on rows of coefficients."""

import torch
from emulation.arguments import (
    EMPTY,
    NEED_BIAS,
    NEED_MATRIX,
    array,
    coefficients,
    nonempty,
    output,
    per_neuron,
    region,
    relaxation,
    relaxation_gradients,
    size,
)
from emulation.module import Emulated


class RowOps(Emulated):
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

    def concretize(self, A, x, x_U, eps, eps_tensor, p, sides):
        A, fields = coefficients(A, sides)
        bounds = output(A, *A.shape[:3], dtype=torch.float64)
        fields |= {"inputs": size(A, 3), **region(x, x_U, eps, eps_tensor, p)}
        self.module.concretize({**fields, "bounds": bounds.numpy()})
        return bounds

    def concretize_gradient(self, to_bounds, A, x, x_U, eps, eps_tensor, p, sides):
        A, fields = coefficients(A, sides)
        to_A = output(A, *A.shape)
        fields |= {"inputs": size(A, 3), **region(x, x_U, eps, eps_tensor, p)}
        self.module.concretize_gradient({**fields, "bounds_gradient": array(to_bounds), "A_gradient": to_A.numpy()})
        return to_A
