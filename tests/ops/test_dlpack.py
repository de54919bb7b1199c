"""Arrays of other libraries pass through the ops without a copy, as examples/cupy_arrays.py shows."""

import importlib.util
from pathlib import Path

import numpy
import pytest
import torch

PATH = Path(__file__).parents[2] / "examples" / "cupy_arrays.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("cupy_arrays", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_op_reads_the_arrays_where_they_are_and_its_results_are_not_copied(example, monkeypatch):
    given, returned = [], []

    def observed(*tensors, **keywords):
        given.extend(tensors)
        returned.extend(relax_backward(*tensors, **keywords))
        return returned

    relax_backward = example.ops.relax_backward
    monkeypatch.setattr(example.ops, "relax_backward", observed)
    A = numpy.ones((1, 2, 3, 4), dtype=numpy.float32)
    l, u = -numpy.ones((2, 4), dtype=numpy.float32), numpy.full((2, 4), 3, dtype=numpy.float32)
    results = example.relax_backward(numpy, A, l, u, sides="upper")
    assert [tensor.data_ptr() for tensor in given] == [array.ctypes.data for array in (A, l, u)]
    assert [tensor.data_ptr() for tensor in returned] == [array.ctypes.data for array in results]


def test_the_results_are_those_of_the_op(example):
    A = numpy.ones((1, 1, 1, 3))
    l, u = numpy.array([[-2.0, -1.0, 1.0]]), numpy.array([[-1.0, 3.0, 2.0]])
    relaxed, constants = example.relax_backward(numpy, A, l, u, sides="upper")
    assert relaxed[0, 0, 0].tolist() == pytest.approx([0.0, 0.75, 1.0])
    assert float(constants[0, 0, 0]) == pytest.approx(0.75)


def test_the_example_runs(example, capsys):
    example.main()
    library = "cupy" if torch.cuda.is_available() and importlib.util.find_spec("cupy") else "numpy"
    assert capsys.readouterr().out.startswith(f"{library}: slopes [0.")
