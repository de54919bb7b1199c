"""The ops on bounds of neurons."""

import torch
from emulation.arguments import (
    EMPTY,
    array,
    batch_of,
    elements,
    nonempty,
    output,
    ramp_fields,
    relaxation,
    relaxation_gradients,
    size,
)
from emulation.module import Emulated


class NeuronOps(Emulated):
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
