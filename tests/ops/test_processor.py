"""Results do not depend on the instruction set, nor on the number of threads, beyond the order of sums."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from ops.cases import OP_NAMES, as_tuple, assert_close, coefficients, every_op, intervals, is_float, normal, relaxation

from lbp import ops

# Results without sums over neurons, rows or inputs: the same operations on every element.
ELEMENTWISE = ("ramp", "ramp_interval", "ramp_interval_with_status", "bounding_lines", "relax_forward")
PROGRAM = """
import sys, torch
from ops.cases import as_tuple, every_op
results = {name: as_tuple(op(*args, **kwargs)) for name, (op, args, kwargs) in every_op(torch.float32).items()}
torch.save((torch.ops.lbp.cpu_capability(), results), sys.argv[1])
"""


def run(program, capability, *arguments):
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "LBP_CPU_CAPABILITY": capability, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


def supported(capability):
    """Whether the processor has the instructions, as the kernel of the system lists them."""
    needed = {"portable": set(), "avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    except OSError:
        flags = []
    return needed[capability] <= set(flags)


@cache
def results_of(capability, folder):
    path = folder / f"{capability}.pt"
    finished = run(PROGRAM, capability, str(path))
    assert finished.returncode == 0, finished.stderr
    used, results = torch.load(path)
    assert used == capability
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
@pytest.mark.parametrize("name", OP_NAMES)
def test_every_instruction_set_gives_the_same_bounds(name, capability, folder):
    if not supported(capability):
        pytest.skip(f"the processor has no {capability}")
    actual, expected = results_of(capability, folder)[name], results_of("portable", folder)[name]
    if name in ELEMENTWISE:
        assert all(map(torch.equal, actual, expected))
    else:
        assert_close(actual, expected, 1e-6, "output")


def test_an_unknown_instruction_set_is_refused():
    program = "import torch; from lbp import ops; ops.ramp(torch.zeros(1, 1), 1.0)"
    finished = run(program, "neon")
    assert finished.returncode != 0
    assert "LBP_CPU_CAPABILITY names an instruction set that this processor or this build does not have" in (
        finished.stderr
    )
    assert "unset it or set it to portable" in finished.stderr


@pytest.fixture
def threads():
    """Set the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def large_calls():
    """Calls with enough work for several threads."""
    l, u = intervals(4, 3000)
    A = coefficients("both", 4, 8, 3000)
    keywords = relaxation("adaptive", shape=(3000,))
    small = intervals(4, 30)
    matrices = normal(4, 30, 3000), normal(4, 30, 3000, seed=1), normal(4, 3000), normal(4, 3000, seed=1)
    ramp = {"r": keywords["r"], "eta": keywords["eta"]}
    return {
        "ramp": (ops.ramp, (l,), ramp),
        "ramp_interval_with_status": (ops.ramp_interval_with_status, (l, u), ramp),
        "bounding_lines": (ops.bounding_lines, (l, u), keywords),
        "relax_backward": (ops.relax_backward, (A, l, u), {"sides": "both", **keywords}),
        "relax_forward": (ops.relax_forward, (*matrices, l, u), keywords),
        "concretize_box": (ops.concretize_box, (A, l, u), {"sides": "both"}),
        "concretize_ball": (ops.concretize_ball, (A, l, 0.5, 3.0), {"sides": "both"}),
        "concretize_forward_box": (ops.concretize_forward_box, (*matrices, *small), {}),
        "concretize_forward_ball": (ops.concretize_forward_ball, (*matrices, small[0], 0.5, 2.0), {}),
    }


@pytest.mark.parametrize("name", list(large_calls()))
def test_threads_change_no_bit_of_a_kernel(name, threads):
    """Every sum belongs to one thread, so its order is the same for any number of them; gradients included."""
    op, args, kwargs = large_calls()[name]

    def run():
        leaves = [value.clone().requires_grad_() if is_float(value) else value for value in args]
        outputs = as_tuple(op(*leaves, **kwargs))
        floats = [out for out in outputs if is_float(out)]
        tensors = [leaf for leaf in leaves if is_float(leaf)]
        return *outputs, *torch.autograd.grad([out.sum() for out in floats], tensors, allow_unused=True)

    threads(1)
    alone = run()
    threads(2)
    for together, one in zip(run(), alone, strict=True):
        assert (together is None and one is None) or torch.equal(together, one)


@pytest.mark.parametrize("name", OP_NAMES)
def test_threads_change_other_ops_by_rounding_alone(name, threads):
    op, args, kwargs = every_op()[name]
    threads(1)
    alone = as_tuple(op(*args, **kwargs))
    threads(2)
    assert_close(as_tuple(op(*args, **kwargs)), alone, 1e-12, "output")
