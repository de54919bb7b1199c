"""The relaxations that CuPy fuses, without a GPU: NumPy computes the formulas, and stands in for CuPy."""

import contextlib
import dataclasses
import functools
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch

import lbp
from lbp.bench import cupy_fusion
from lbp.bench.cupy_fusion import (
    bounding_lines,
    call_of,
    ramp_lines,
    relaxed_biases,
    relaxed_matrices,
    relaxed_rows,
    relu_lines,
)
from lbp.bench.op_cases import op_cases

R, ETA = 0.75, 0.01
# Around 0 and the bending point, and on either side of where adaptive lines change; at 0 alone every slope is right.
ENDS = (-2.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0)
PAIRS = [(l, u) for l in ENDS for u in ENDS if l <= u and (l, u) != (0.0, 0.0)]
ACTIVATIONS = {"ReLU": {}, "ParamRamp": {"r": R, "eta": ETA}}
B, S, N0, N = 2, 3, 4, len(PAIRS)


def bounds():
    """Returns l and u [B, N]: all pairs of ends, and these in the opposite order."""
    l, u = torch.tensor(PAIRS, dtype=torch.float64).mT
    return torch.stack([l, l.flip(0)]), torch.stack([u, u.flip(0)])


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lines_of(activation, dtype):
    """Returns what NumPy computes of the lines of all bounds [B, N], as tensors."""
    lines, bends = relu_lines, ()
    if activation == "ParamRamp":
        lines, bends = functools.partial(ramp_lines, eta=ETA), (torch.full((N,), R),)
    return formula_of(lambda module, *arrays: bounding_lines(module, lines, *arrays), dtype, *bounds(), *bends)


def formula_of(formula, dtype, *tensors):
    """Returns what NumPy computes with a formula, as tensors."""
    with numpy.errstate(all="raise", under="ignore"):
        results = formula(numpy, *(tensor.to(dtype).numpy() for tensor in tensors))
    return [torch.from_numpy(result) for result in results]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_relaxed_rows_are_those_of_the_reference(activation, dtype, tolerance):
    l, u = bounds()
    A = normal(1, B, S, N, seed=0)
    lines = [line.unsqueeze(1) for line in lines_of(activation, dtype)]
    relaxed, constants = formula_of(relaxed_rows, dtype, A, *lines)
    expected, sums = lbp.reference.relax_backward(A, l, u, sides="lower", **ACTIVATIONS[activation])
    assert {part.dtype for part in (relaxed, constants, *lines)} == {dtype}
    torch.testing.assert_close(relaxed.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(constants.double().sum(-1), sums, rtol=0, atol=N * tolerance)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_relaxed_forward_bounds_are_those_of_the_reference(activation, dtype, tolerance):
    l, u = bounds()
    center, radius = normal(B, N0, N, seed=1), normal(B, N0, N, seed=2).abs()
    center_bias, radius_bias = normal(B, N, seed=3), normal(B, N, seed=4).abs()
    lines = lines_of(activation, dtype)
    found = [
        *formula_of(relaxed_matrices, dtype, center, radius, lines[0].unsqueeze(1), lines[2].unsqueeze(1)),
        *formula_of(relaxed_biases, dtype, center_bias, radius_bias, *lines),
    ]
    matrices = (center, radius, center_bias, radius_bias)
    expected = lbp.reference.relax_forward(*matrices, l, u, **ACTIVATIONS[activation])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance)


@pytest.fixture
def fused(monkeypatch):
    """Lets NumPy stand in for CuPy; returns the names of the kernels that are fused."""
    names = []

    def fuse(kernel_name):
        names.append(kernel_name)
        return lambda function: function

    stand_in = SimpleNamespace(
        **{name: getattr(numpy, name) for name in ("where", "minimum", "maximum", "logical_and", "logical_not")},
        fuse=fuse,
        from_dlpack=numpy.from_dlpack,
        cuda=SimpleNamespace(
            Device=lambda index: contextlib.nullcontext(),
            Stream=SimpleNamespace(from_external=lambda stream: contextlib.nullcontext()),
        ),
    )
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return names


def cases():
    return [
        case for case in op_cases(torch.device("cpu"), quick=True) if case.op in ("relax_backward", "relax_forward")
    ]


@pytest.mark.usefixtures("fused")
def test_the_lines_are_computed_once_for_all_rows():
    """And in every call: they are a part of what the op does."""
    computed = []

    def lines(module, l, u):
        computed.append(l.shape)
        return relu_lines(module, l, u)

    l, u = bounds()
    matrices = normal(B, N0, N, seed=1), normal(B, N0, N, seed=2)
    biases = normal(B, N, seed=3), normal(B, N, seed=4)
    for call in (
        cupy_fusion.relax_backward(normal(1, B, S, N, seed=0), l, u, lines=lines),
        cupy_fusion.relax_forward(*matrices, *biases, l, u, lines=lines),
    ):
        call()
        call()
    assert computed == [(B, N)] * 4


def test_a_call_computes_what_the_op_does_in_every_case(fused):
    seen = set()
    for case in cases():
        results = call_of(case)()
        with torch.no_grad(), lbp.backend("reference"):
            expected = case.call()
        for ours, theirs in zip(results, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
        seen.add((case.op, case.activation))
    assert seen == {(op, name) for op in ("relax_backward", "relax_forward") for name in ACTIVATIONS}
    assert {*fused} == {"bounding_lines", "relaxed_rows", "relaxed_matrices", "relaxed_biases"}


@pytest.mark.parametrize(("on_gpu", "installed"), [(True, True), (True, False), (False, True)])
def test_it_takes_part_in_the_relaxations_on_a_gpu_where_it_is_installed(monkeypatch, on_gpu, installed):
    monkeypatch.setattr(cupy_fusion, "is_available", lambda: installed)
    ops = {
        case.op
        for case in op_cases(torch.device("cpu"), quick=True)
        if cupy_fusion.takes_part(dataclasses.replace(case, tensors=(SimpleNamespace(is_cuda=on_gpu),)))
    }
    assert ops == ({"relax_backward", "relax_forward"} if on_gpu and installed else set())
