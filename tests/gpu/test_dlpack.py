"""Arrays of CuPy pass through an op and back without a copy."""

import warnings

import pytest
import torch

from lbp import ops

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # where it does not find a toolkit of CUDA, which these tests do without
    cupy = pytest.importorskip("cupy", reason="needs CuPy")


def test_cupy_arrays_are_read_and_returned_in_place():
    A = cupy.ones((1, 2, 3, 4), dtype=cupy.float32)
    l, u = -cupy.ones((2, 4), dtype=cupy.float32), cupy.full((2, 4), 3, dtype=cupy.float32)
    tensors = [torch.from_dlpack(array) for array in (A, l, u)]
    assert [tensor.data_ptr() for tensor in tensors] == [array.data.ptr for array in (A, l, u)]
    with torch.no_grad():
        relaxed, constants = ops.relax_backward(*tensors, sides="upper")
    results = [cupy.from_dlpack(relaxed), cupy.from_dlpack(constants)]
    assert [array.data.ptr for array in results] == [relaxed.data_ptr(), constants.data_ptr()]
    assert cupy.allclose(results[0], 0.75)


def test_work_on_a_stream_of_cupy_is_seen():
    with cupy.cuda.Stream(non_blocking=True):
        l = cupy.full((1, 2**22), -1.0, dtype=cupy.float32)
        for _ in range(50):
            l -= 1.0
        result = ops.ramp(torch.from_dlpack(l), 1.0, 0.5)
    assert bool((result == -25.5).all())
