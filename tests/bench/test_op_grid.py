"""The grid of ops has every op, in sizes that tell, and counts what each of them computes."""

from itertools import islice

import pytest
import torch
from bench.measuring import CPU
from torch import nn

import lbp
import lbp.ops
from lbp.bench import ops
from lbp.bench.layers import AffineLayer, affine_layers
from lbp.bench.op_case import Shape, multiply_adds
from lbp.bench.op_cases import _outward_interval, op_cases
from lbp.bench.ops import OpOptions, measure_ops
from lbp.bench.window_cases import window_cases


def test_every_op_is_in_the_grid_and_agrees_with_the_reference_there():
    measured, keys = set(), []
    for case in op_cases(CPU, quick=True):
        measured.add(case.op.split()[0])
        keys.append((case.name, case.activation))
        if keys.count((case.name, case.activation)) == 1 and "conv2" not in case.name:
            with torch.no_grad():
                result = case.call()
                with lbp.backend("reference"):
                    assert ops._difference(result, case.call()) <= ops.RELATIVE_TOLERANCE, case.name
    assert len(set(keys)) == len(keys)
    assert measured == {name for name in lbp.ops.__all__ if not isinstance(getattr(lbp.ops, name), type)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outward_intervals_are_measured_in_the_type_of_their_shape(dtype):
    """In the grid of a GPU, whose kernels take margins of no other type."""
    for layer in affine_layers("DM-Small"):
        shape = Shape(layer, 1, CPU, dtype=dtype)
        weight, bias = shape.weights()
        case = _outward_interval(shape, shape.bounds(*layer.input_shape), weight.detach(), bias)
        results = case.call()
        with lbp.backend("reference"):
            assert ops._difference(results, case.call()) <= ops.RELATIVE_TOLERANCE
        assert all(side.dtype == dtype for side in results)
        assert ("float64" in case.name) == (dtype == torch.float64)


class OnPaper(Shape):
    """A shape whose tensors take no memory."""

    def __init__(self, layer, batch, device, **variant):
        super().__init__(layer, batch, CPU, **variant)
        self.device = device

    def normal(self, *shape):
        return torch.empty(*shape, dtype=self.dtype, device="meta")

    uniform = normal


def test_on_a_gpu_the_sizes_that_fill_it_come_first(monkeypatch):
    monkeypatch.setattr("lbp.bench.op_cases.Shape", OnPaper)
    first = [case.parameters for case in islice(op_cases(torch.device("cuda")), 24)]
    assert {"B": 32, "n": 65536} in first
    assert {"B": 32, "S": 9, "n": 65536} in first
    assert {"B": 1, "S": 4096, "n": 32768} in first
    assert any(sizes["B"] == 1 and sizes["n"] == 32768 and "n0" in sizes for sizes in first)
    assert all(sizes["B"] * sizes["n"] * max(sizes.get("S", 1), sizes.get("n0", 1)) >= 2**21 for sizes in first)


def test_the_grid_has_both_sides_and_float64(monkeypatch):
    monkeypatch.setattr("lbp.bench.op_cases.Shape", OnPaper)
    found = {}
    for case in op_cases(torch.device("cpu")):
        key = case.name, case.activation
        assert key not in found
        assert ("float64" in case.name) == (case.tensors[0].dtype == torch.float64)
        found[key] = case
    (one,), (two,) = (
        [case for (name, activation), case in found.items() if name == of and activation == "ParamRamp"]
        for of in (f"relax_backward B=32 S=9 n=7,200{both}" for both in ("", " both sides"))
    )
    assert two.tensors[0].shape == (2, *one.tensors[0].shape[1:])
    assert two.moved_bytes - one.moved_bytes == 2 * one.tensors[0].nbytes
    one, two = (found[f"backward_conv2d DM-Medium conv2 B=1 S=9{both}", ""] for both in ("", " both sides"))
    assert two.operations == 2 * one.operations


def test_a_case_that_the_grid_has_twice_is_measured_once(monkeypatch):
    case = next(op_cases(CPU, quick=True))
    monkeypatch.setattr(ops, "op_cases", lambda device, quick: iter([case, case]))
    begun = []
    list(measure_ops(CPU, OpOptions(repeats=1, compiled=False, quick=True), begun.append))
    assert begun == [f"{case.name} {case.activation}"]


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 1), groups=2),
        nn.Conv2d(1, 1, 5, padding=4),
        nn.Linear(6, 5),
    ],
)
def test_multiply_adds_are_those_of_taps_on_the_input(module):
    size = (module.in_channels, 7, 6) if isinstance(module, nn.Conv2d) else (6,)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    output = module(torch.ones(1, *size))[0].detach()
    assert multiply_adds(AffineLayer("ones", module, size, tuple(output.shape))) == output.sum()


RADIUS = {"forward_conv2d_windows": 1, "forward_linear_windows": 1, "insert_forward_windows": 2}
"""Which of the tensors of a case that is."""


@pytest.mark.parametrize("name", ["DM-Small conv1", "DM-Small conv2"])
def test_operations_on_windows_are_counted_inside_the_image(name):
    """Products of ones add up to their number; center and radius take as many."""
    (layer,) = (layer for layer in affine_layers("DM-Small") if layer.name == name)
    counted = set()
    for case in window_cases(Shape(layer, 1, CPU)):
        if case.op in {"backward_conv2d_windows", *RADIUS}:
            counted.add(case.op)
            with torch.no_grad():
                for number, tensor in enumerate(case.tensors):
                    tensor.fill_(0.0 if RADIUS.get(case.op) == number else 1.0)
                result = case.call()[0].sum(dtype=torch.float64)
            assert case.operations == (4 if case.op in RADIUS else 2) * result, case.op
    assert counted == {"backward_conv2d_windows", *RADIUS}


def test_no_bound_is_zero_or_a_bending_point():
    shape = Shape(affine_layers("DM-Large")[0], 64, CPU)
    l, u = shape.bounds(1000)
    assert bool((l < u).all())
    for bound in (l, u):
        assert torch.equal((bound * 2**15) % 2, torch.ones_like(bound))
    r = shape.bending_points(1000)
    assert torch.equal((r * 2**15) % 2, torch.zeros_like(r))
    assert float(r.min()) >= 0.5
    assert float(r.max()) < 1.5
