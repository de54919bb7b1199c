"""The ops run on the current stream, wait for nothing, and can be captured in a CUDA graph."""

import pytest
import torch
from gpu.names import NAMES
from ops.cases import (
    as_tuple,
    coefficients,
    converted,
    every_op,
    forward_matrices,
    intervals,
    is_float,
    normal,
    relaxation,
)
from ops.outward_cases import CALLS

from lbp import ops


def split_products():
    """Products whose depth is split, so that a second launch adds up what blocks leave; one of the library's, too."""
    weight, bias = normal(60, 40, 3, 3, seed=1), normal(60, seed=2)
    yield "interval_conv2d, split", ops.interval_conv2d, (*intervals(2, 40, 6, 7), weight, bias), {"padding": (1, 1)}
    layer = normal(60, 1000, seed=1), normal(60, seed=2)
    yield "interval_linear, split", ops.interval_linear, (*intervals(9, 1000), *layer), {}
    A, bounds = coefficients("both", 2, 5, 60, 6, 7), intervals(2, 60, 6, 7)
    keywords = {"sides": "both", "padding": (1, 1), **relaxation(shape=(60, 6, 7))}
    rows = coefficients("both", 2, 70, 60)
    yield "insert_forward, many rows", ops.insert_forward, (rows, *forward_matrices(2, 6, 60)), {"sides": "both"}
    yield "relax_backward_conv2d, split", ops.relax_backward_conv2d, (A, *bounds, weight, bias, (6, 7)), keywords


SPLIT = {name: call for name, *call in split_products()}


def arguments(name, scale=1.0):
    """An op with its arguments on the device, in float32; with a scale, other numbers of the same shapes."""
    if name in SPLIT:
        op, args, kwargs = SPLIT[name]
    elif name in CALLS:
        op, args, kwargs = getattr(torch.ops.lbp, name), CALLS[name], {}
    else:
        op, args, kwargs = every_op(torch.float32)[name]
    args, kwargs = converted(args, torch.float32, None, "cuda"), converted(kwargs, torch.float32, None, "cuda")
    return op, (args[0] * scale, *args[1:]), kwargs


def call(op, args, kwargs):
    with torch.no_grad():
        return as_tuple(op(*args, **kwargs))


def call_with_gradients(op, args, kwargs):
    """Outputs of an op, and the gradients of half the sum of their squares by all tensors of the arguments."""
    leaves = []
    # Leaves are copies made here: in a capture they belong to its stream, and a replay copies anew.
    args, kwargs = converted(args, torch.float32, leaves), converted(kwargs, torch.float32, leaves)
    outputs = as_tuple(op(*args, **kwargs))
    floats = [out for out in outputs if is_float(out) and out.requires_grad]
    gradients = torch.autograd.grad(floats, leaves, [out.detach() for out in floats], allow_unused=True)
    assert any(gradient is not None for gradient in gradients)
    return [*(out.detach() for out in outputs), *gradients]


@pytest.mark.parametrize(
    ("name", "compute"),
    [*((name, call) for name in (*NAMES, *CALLS, *SPLIT)), *((name, call_with_gradients) for name in NAMES)],
)
def test_what_is_captured_is_computed_from_the_numbers_at_the_time_of_replay(name, compute):
    op, args, kwargs = arguments(name)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        compute(op, args, kwargs)  # kernels and library handles are loaded before the capture
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = compute(op, args, kwargs)
    for value in (*args, *kwargs.values()):
        if is_float(value):
            value.mul_(0.75)
    graph.replay()
    for replayed, eager in zip(captured, compute(op, args, kwargs), strict=True):
        assert (replayed is None) == (eager is None)
        assert replayed is None or torch.equal(replayed, eager)


@pytest.mark.parametrize(
    ("name", "compute"),
    [*((name, call) for name in (*NAMES, *CALLS, *SPLIT)), *((name, call_with_gradients) for name in NAMES)],
)
def test_two_streams_do_not_disturb_each_other(name, compute):
    problems = [arguments(name), arguments(name, 0.5)]
    expected = [compute(*problem) for problem in problems]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results = []
    for _ in range(5):
        for stream, problem in zip(streams, problems, strict=True):
            with torch.cuda.stream(stream):
                results.append(compute(*problem))
    torch.cuda.synchronize()
    for i, result in enumerate(results):
        for actual, wanted in zip(result, expected[i % 2], strict=True):
            assert (actual is None) == (wanted is None)
            assert actual is None or torch.equal(actual, wanted)


@pytest.mark.parametrize("name", [*NAMES, *CALLS, *SPLIT])
def test_an_op_waits_for_no_other_work(name):
    op, args, kwargs = arguments(name)
    call(op, args, kwargs)
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda._sleep(400_000_000)  # cycles: about a fifth of a second
    outputs = call(op, args, kwargs)
    done.record()
    assert not done.query(), "the op returned only after the work before it"
    assert any(is_float(out) for out in outputs)
    torch.cuda.synchronize()
