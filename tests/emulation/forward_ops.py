"""The ops on forward bounds, over whole images and over windows."""

from emulation.arguments import (
    EMPTY,
    NEED_MATRIX,
    array,
    forward_matrices,
    input_windows,
    nonempty,
    output,
    region,
    relaxation,
    relaxation_gradients,
    size,
    stride,
)
from emulation.module import Emulated


def bounds_and_magnitude(center, shape, magnitude):
    """What forward bounds are evaluated to; the magnitude is empty unless wanted."""
    wanted = shape if magnitude else EMPTY
    return {"l": output(center, *shape), "u": output(center, *shape), "magnitude": output(center, *wanted)}


def arrays(outputs):
    """Outputs as fields, empty ones as missing."""
    return {name: nonempty(out) for name, out in outputs.items()}


class ForwardOps(Emulated):
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

    def concretize_forward(self, center, radius, center_bias, radius_bias, x, x_U, eps, eps_tensor, p, magnitude):
        batch, fields = forward_matrices(center, radius, center_bias, radius_bias, x.shape[0])
        bounds = bounds_and_magnitude(center, (batch, *center.shape[2:]), magnitude)
        self.module.concretize_forward({**fields, **region(x, x_U, eps, eps_tensor, p), **arrays(bounds)})
        return tuple(bounds.values())

    def concretize_forward_gradient(self, to_l, to_u, center, radius, x, x_U, eps, eps_tensor, p):
        batch = to_l.shape[0]
        _, fields = forward_matrices(center, radius, to_l, None, batch)
        to_center = output(center, batch, *center.shape[1:])
        to_radius = output(center, *(EMPTY if radius is None else to_center.shape))
        self.module.concretize_forward_gradient(
            {
                **fields,
                **region(x, x_U, eps, eps_tensor, p),
                "batch": batch,
                "l_gradient": array(to_l),
                "u_gradient": array(to_u),
                "center_gradient": to_center.numpy(),
                "radius_gradient": nonempty(to_radius),
            }
        )
        return to_center, to_radius

    def concretize_forward_windows(self, center, radius, center_bias, radius_bias, x, x_U, eps, eps_tensor, p, *places):
        *places, magnitude = places
        batch, fields = forward_matrices(center, radius, center_bias, radius_bias, x.shape[0])
        bounds = bounds_and_magnitude(center, (batch, *center.shape[4:]), magnitude)
        self.module.concretize_forward_windows(
            {
                **fields,
                **region(x, x_U, eps, eps_tensor, p),
                "windows": input_windows(center, x, *places),
                "bias_batch_stride": stride(center_bias, size(center, 4)),
                **arrays(bounds),
            }
        )
        return tuple(bounds.values())

    def concretize_forward_windows_gradient(self, to_l, to_u, center, radius, x, x_U, eps, eps_tensor, p, *places):
        batch = to_l.shape[0]
        _, fields = forward_matrices(center, radius, to_l, None, batch)
        to_center = output(center, batch, *center.shape[1:])
        to_radius = output(center, *(EMPTY if radius is None else to_center.shape))
        self.module.concretize_forward_windows_gradient(
            {
                **fields,
                **region(x, x_U, eps, eps_tensor, p),
                "batch": batch,
                "windows": input_windows(center, x, *places),
                "l_gradient": array(to_l),
                "u_gradient": array(to_u),
                "center_gradient": to_center.numpy(),
                "radius_gradient": nonempty(to_radius),
            }
        )
        return to_center, to_radius
