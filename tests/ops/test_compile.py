"""Functions that call the ops compile into one graph, export, and give the values and gradients of eager mode."""

import pytest
import torch
from ops import cases
from ops.cases import assert_close, coefficients, intervals, normal, uniform

from lbp import ops


class TwoLayers(torch.nn.Module):
    """Bounds of a network of two layers, from every op that takes part in the methods."""

    def __init__(self):
        super().__init__()
        self.first, self.first_bias = (torch.nn.Parameter(normal(*s, seed=1)) for s in ((12, 6), (12,)))
        self.kernel, self.kernel_bias = (torch.nn.Parameter(normal(*s, seed=2)) for s in ((2, 3, 2, 2), (2,)))
        self.r = torch.nn.Parameter(uniform(3, 1, 1, low=0.5, high=1.5))

    def forward(self, x_L, x_U, A, eta):
        relax = {"r": self.r, "eta": eta, "strategy": "adaptive"}
        l, u = (bound.unflatten(1, (3, 2, 2)) for bound in ops.interval_linear(x_L, x_U, self.first, self.first_bias))
        image = ops.ramp_interval(l, u, self.r, eta)
        top_l, top_u = ops.interval_conv2d(*image, self.kernel, self.kernel_bias, padding=(1, 0))
        lines = ops.bounding_lines(top_l, top_u, strategy="same-slope")
        given = dict(zip(lines._fields, lines, strict=True))
        below, constants = ops.relax_backward_conv2d(
            A,
            top_l,
            top_u,
            self.kernel,
            self.kernel_bias,
            (2, 2),
            sides="both",
            padding=(1, 0),
            strategy="lines",
            **given,
        )
        relaxed, more = ops.relax_backward(below, l, u, sides="both", bias=self.first_bias.view(3, 2, 2), **relax)
        rows, _ = ops.backward_linear(relaxed.flatten(3), self.first, None)
        bounds = ops.concretize_box(rows, x_L, x_U, sides="both") + constants + more
        exact = self.first.T.reshape(1, 6, 3, 2, 2), None, self.first_bias.view(1, 3, 2, 2), None
        forward = ops.relax_forward(*exact, l, u, **relax)
        inserted, last = ops.insert_forward(below, *forward, sides="both")
        ball = ops.concretize_ball(inserted, (x_L + x_U) / 2, 0.25, 2.0, sides="both") + constants + last
        through = ops.forward_conv2d(*forward, self.kernel, self.kernel_bias, padding=(1, 0))
        return bounds, ball, *ops.concretize_forward_box(*through, x_L, x_U), ops.ramp(top_l, 2.0, eta)


def two_layers():
    return TwoLayers().to(cases.native_device)


def arguments():
    tensors = *intervals(2, 6), coefficients("both", 2, 3, 2, 3, 1), torch.tensor(0.125, dtype=torch.float64)
    return tuple(tensor.to(cases.native_device) for tensor in tensors)


def run(function, module):
    *tensors, eta = arguments()
    tensors = [tensor.requires_grad_() for tensor in tensors]
    outputs = function(*tensors, eta)
    leaves = [*tensors, *module.parameters()]
    gradients = torch.autograd.grad(sum(out.square().sum() for out in outputs), leaves)
    return [out.detach() for out in outputs], gradients


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_compiled_graph_has_the_values_and_gradients_of_eager_mode(backend):
    module = two_layers()
    torch.compiler.reset()
    values, gradients = run(torch.compile(module, fullgraph=True, backend=backend), module)
    expected_values, expected_gradients = run(module, module)
    assert_close(values, expected_values, 1e-12, "output")
    assert_close(gradients, expected_gradients, 1e-12, "gradient")


def test_a_schedule_of_eta_does_not_compile_again():
    module = two_layers()
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    *tensors, _ = arguments()
    for eta in (0.0, 0.01, 0.5):
        compiled(*tensors, torch.tensor(eta, dtype=torch.float64, device=cases.native_device))
    assert counter.frame_count == 1


def test_a_schedule_of_a_number_as_the_radius_compiles_again_once_at_most():
    A, x0 = (tensor.to(cases.native_device) for tensor in (coefficients("both", 2, 3, 6), normal(2, 6)))
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()

    def bounds(eps):
        return ops.concretize_ball(A, x0, eps, 2.0, sides="both")

    compiled = torch.compile(bounds, fullgraph=True, backend=counter)
    for eps in (0.125, 0.25, 0.5, 0.75):
        assert torch.equal(compiled(eps), bounds(eps))
    assert counter.frame_count <= 2


def test_an_exported_program_has_the_values_of_the_module():
    module = two_layers()
    program = torch.export.export(module, arguments())
    called = {str(node.target) for node in program.graph.nodes if str(node.target).startswith("lbp.")}
    assert "lbp.relax_backward_conv2d.default" in called
    assert_close(program.module()(*arguments()), module(*arguments()), 1e-12, "output")


def test_an_exported_program_takes_any_batch():
    module = two_layers()
    batch = torch.export.Dim("batch", min=2, max=16)
    program = torch.export.export(module, arguments(), dynamic_shapes=({0: batch}, {0: batch}, {1: batch}, None))
    x_L, x_U, A, eta = arguments()
    more = torch.cat([x_L, x_L - 1, x_L]), torch.cat([x_U, x_U + 1, x_U + 2]), torch.cat([A, A, -A], dim=1), eta
    assert_close(program.module()(*more), module(*more), 1e-12, "output")
