"""The switch between the kernels and plain PyTorch, and the switches that bounds must not depend on."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from ops.cases import OP_NAMES, as_tuple, converted, every_op, is_float, normal
from torch.utils._python_dispatch import TorchDispatchMode

import lbp
from lbp import ops, precision
from lbp.backend import current_backend
from lbp.precision import full_precision

SWITCHES = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
)


@pytest.fixture(autouse=True)
def switches_return():
    """No test leaves a switch behind."""
    backend, wish, before = current_backend(), torch.get_float32_matmul_precision(), state()
    yield
    lbp.backend(backend)
    torch.backends.cudnn.enabled = True
    torch.set_float32_matmul_precision(wish)
    for switch, value in zip(SWITCHES, before, strict=True):
        if switch.fp32_precision != value:
            switch.fp32_precision = value


def state():
    """What the process-wide switches say, by the interface that PyTorch offers today."""
    return [switch.fp32_precision for switch in SWITCHES]


def everything():
    """The state by both interfaces, old and new; reading the old one raises where the two disagree."""
    return (
        *state(),
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.enabled,
    )


def test_backends_nest_and_return():
    lbp.backend("native")
    with lbp.backend("reference"):
        assert current_backend() == "reference"
        with lbp.backend("native"):
            assert current_backend() == "native"
        assert current_backend() == "reference"
    assert current_backend() == "native"


def test_a_backend_returns_after_an_exception():
    lbp.backend("native")
    with pytest.raises(KeyError), lbp.backend("reference"):
        raise KeyError
    assert current_backend() == "native"


def test_a_plain_call_switches_for_good():
    lbp.backend("reference")
    assert current_backend() == "reference"
    lbp.backend("native")
    assert current_backend() == "native"


def test_an_unknown_backend_changes_nothing():
    before = current_backend()
    with pytest.raises(ValueError, match="unknown backend 'cuda'; choose one of native, reference"):
        lbp.backend("cuda")
    assert current_backend() == before


@pytest.mark.parametrize("name", ["reference", None, "fastest"])
def test_the_environment_names_the_first_backend(name):
    environment = {key: value for key, value in os.environ.items() if key != "LBP_BACKEND"}
    if name is not None:
        environment["LBP_BACKEND"] = name
    command = [sys.executable, "-c", "from lbp.backend import current_backend; print(current_backend())"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path.cwd())
    if name == "fastest":
        assert result.returncode != 0
        assert "unknown backend 'fastest'" in result.stderr
    else:
        assert result.stdout.strip() == (name or "native")


@pytest.mark.parametrize("wish", ["highest", "high", "medium"])
def test_full_precision_returns_what_the_matmul_precision_was(wish):
    torch.set_float32_matmul_precision(wish)
    before = everything()
    with full_precision():
        assert state() == ["ieee"] * 4
    assert everything() == before


@pytest.mark.parametrize("allowed", [True, False])
def test_full_precision_returns_what_the_older_switch_was(allowed):
    torch.backends.cuda.matmul.allow_tf32 = allowed
    before = everything()
    with full_precision():
        assert state() == ["ieee"] * 4
    assert everything() == before
    torch.backends.cuda.matmul.allow_tf32 = False


def test_full_precision_is_without_cudnn_which_may_choose_winograds_algorithm():
    assert torch.backends.cudnn.enabled
    with full_precision():
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled


def test_full_precision_nests():
    torch.set_float32_matmul_precision("medium")
    before = everything()
    with full_precision():
        with full_precision():
            assert state() == ["ieee"] * 4
        assert state() == ["ieee"] * 4
    assert everything() == before


def test_full_precision_lasts_until_the_last_thread_leaves():
    torch.set_float32_matmul_precision("medium")
    before = everything()
    first_inside, both_inside = threading.Event(), threading.Event()

    def first():
        with full_precision():
            first_inside.set()
            assert both_inside.wait(60)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first)
        assert first_inside.wait(60)
        with full_precision():
            both_inside.set()
            running.result()
            assert state() == ["ieee"] * 4
            assert not torch.backends.cudnn.enabled
    assert everything() == before
    assert torch.backends.cudnn.enabled


def lost_block():
    """A block that a signal ended before `with` knew of it."""
    block = full_precision()
    block.__enter__()


def test_full_precision_returns_after_the_next_block_where_a_signal_ended_one_at_its_first_step():
    torch.set_float32_matmul_precision("medium")
    before = everything()
    lost_block()
    with full_precision():
        assert state() == ["ieee"] * 4
    assert everything() == before
    assert torch.backends.cudnn.enabled


def test_switches_that_are_set_after_a_signal_are_full_precision_in_the_next_block_and_kept():
    lost_block()
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.enabled = True
    before = state()
    with full_precision():
        assert state() == ["ieee"] * 4
        assert not torch.backends.cudnn.enabled
    assert state() == before != ["ieee"] * 4
    assert torch.backends.cudnn.enabled


@pytest.mark.parametrize("step", range(6))
def test_full_precision_that_a_signal_interrupts_is_whole_in_the_next_block(monkeypatch, step):
    def interrupted(value):
        raise KeyboardInterrupt

    writes = list(precision._write)
    torch.set_float32_matmul_precision("medium")
    if step < 4:
        monkeypatch.setattr(precision, "_write", [*writes[:step], interrupted, *writes[step + 1 :]])
        with pytest.raises(KeyboardInterrupt), full_precision():
            pass
    else:
        with pytest.raises(KeyboardInterrupt), full_precision():
            monkeypatch.setattr(precision, "_write", [*writes[: step - 3], interrupted, *writes[step - 2 :]])
    monkeypatch.undo()
    with full_precision():
        assert state() == ["ieee"] * 4
        assert not torch.backends.cudnn.enabled


def test_full_precision_returns_after_an_exception():
    torch.set_float32_matmul_precision("medium")
    before = everything()
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert everything() == before
    with full_precision():
        assert state() == ["ieee"] * 4


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_bounds_do_not_depend_on_reduced_precision(backend):
    l, weight = normal(4, 64).float(), normal(32, 64).float()
    A, geometry = normal(1, 2, 3, 8, 6, 6).float(), {"stride": (1, 1), "padding": (1, 1)}
    kernel, matrices = normal(8, 4, 3, 3).float(), (normal(1, 6, 64).float(), None, normal(1, 64).float(), None)

    def results():
        return (
            *ops.interval_linear(l, l + 1, weight, None),
            ops.backward_linear(normal(1, 2, 3, 32).float(), weight, None)[0],
            ops.backward_conv2d(A, kernel, None, (6, 6), **geometry)[0],
            *ops.interval_conv2d(normal(1, 4, 6, 6).float(), normal(1, 4, 6, 6).float(), kernel, None, **geometry),
            *(matrix for matrix in ops.forward_linear(*matrices, weight, None) if matrix is not None),
            ops.insert_forward(normal(1, 1, 3, 64).float(), *matrices, sides="lower")[0],
        )

    with lbp.backend(backend):
        expected = results()
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = results()
    for with_switches, without in zip(actual, expected, strict=True):
        assert with_switches.dtype == torch.float32
        assert torch.equal(with_switches, without)


class Products(TorchDispatchMode):
    """Notes what the switches say at every product and convolution of the library."""

    NAMES = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "aten" and function._opname in self.NAMES:
            self.seen.append(state())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name", [name for name in OP_NAMES if "linear" in name or "conv2d" in name or "insert" in name]
)
def test_gradients_are_products_in_full_precision(name):
    op, args, kwargs = every_op(torch.float32)[name]
    leaves = []
    args, kwargs = converted(args, torch.float32, leaves), converted(kwargs, torch.float32, leaves)
    total = sum(out.double().sum() for out in as_tuple(op(*args, **kwargs)) if is_float(out))
    torch.set_float32_matmul_precision("medium")
    with Products() as products:
        # Through a Linear layer, the gradient of few examples is a kernel's where it is not differentiated itself.
        torch.autograd.grad(total, leaves, allow_unused=True, create_graph=name == "interval_linear")
    assert all(switches == ["ieee"] * 4 for switches in products.seen)
    # The products of forward bounds on windows are inside ops of their own.
    assert products.seen or name.endswith("windows")


def test_an_inherited_switch_goes_on_inheriting():
    before = torch.backends.fp32_precision, state()
    try:
        for precision in ("tf32", "ieee"):
            torch.backends.fp32_precision = precision
            for switch in SWITCHES:
                switch.fp32_precision = "none"
            with full_precision():
                assert state() == ["ieee"] * 4
            assert state() == [precision] * 4
        torch.backends.fp32_precision = "tf32"
        assert state() == ["tf32"] * 4
    finally:
        torch.backends.fp32_precision = before[0]
        for switch, precision in zip(SWITCHES, before[1], strict=True):
            switch.fp32_precision = precision


def test_a_tensor_that_a_function_transform_has_left_is_the_value_in_it():
    z, kept = torch.tensor([[-1.0, 0.5, 2.0]]), []

    def total(inside):
        kept.append(inside)
        return inside.sum()

    torch.func.grad(total)(z)
    activations = ops.ramp(kept[0], 1.0, 0.25)
    assert torch.equal(activations, ops.ramp(z, 1.0, 0.25))
    assert not activations.requires_grad
