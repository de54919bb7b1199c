"""The ops run on the current stream, wait for nothing, and can be captured in a CUDA graph."""

import pytest
import torch
from gpu.names import NAMES
from ops.cases import as_tuple, converted, every_op, is_float
from ops.outward_cases import CALLS


def arguments(name, scale=1.0):
    """An op with its arguments on the device, in float32; with a scale, other numbers of the same shapes."""
    if name in CALLS:
        op, args, kwargs = getattr(torch.ops.lbp, name), CALLS[name], {}
    else:
        op, args, kwargs = every_op(torch.float32)[name]
    args, kwargs = converted(args, torch.float32, None, "cuda"), converted(kwargs, torch.float32, None, "cuda")
    return op, (args[0] * scale, *args[1:]), kwargs


def call(op, args, kwargs):
    with torch.no_grad():
        return as_tuple(op(*args, **kwargs))


@pytest.mark.parametrize("name", [*NAMES, *CALLS])
def test_a_captured_op_computes_from_the_numbers_at_the_time_of_replay(name):
    op, args, kwargs = arguments(name)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(op, args, kwargs)  # kernels and library handles are loaded before the capture
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(op, args, kwargs)
    args[0].mul_(0.5)
    graph.replay()
    for replayed, eager in zip(captured, call(op, args, kwargs), strict=True):
        assert torch.equal(replayed, eager)


@pytest.mark.parametrize("name", [*NAMES, *CALLS])
def test_two_streams_do_not_disturb_each_other(name):
    problems = [arguments(name), arguments(name, 0.5)]
    expected = [call(*problem) for problem in problems]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results = []
    for _ in range(5):
        for stream, problem in zip(streams, problems, strict=True):
            with torch.cuda.stream(stream):
                results.append(call(*problem))
    torch.cuda.synchronize()
    for i, result in enumerate(results):
        for actual, wanted in zip(result, expected[i % 2], strict=True):
            assert torch.equal(actual, wanted)


@pytest.mark.parametrize("name", [*NAMES, *CALLS])
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
