"""A deadline ends work wherever it is, as a timeout and as nothing else."""

import gzip
import math
import signal
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_import.graphs import model, node, save
from torch import nn
from verification.small_properties import network, stated

import lbp.onnx_import.convert
from lbp import BoundedModule, _jit
from lbp.graph.tracer import BoundTracer
from lbp.methods.memory import free_memory
from lbp.onnx_import import load_onnx, read_onnx
from lbp.verification.properties import Deadline, OutOfTimeError, Verdict, verify_property
from lbp.vnnlib import read_vnnlib


def test_time_that_has_passed_is_a_timeout_and_leaves_no_alarm():
    found = verify_property(network(), stated(-1, 1, "(<= Y_0 -9)"), (2,), deadline=Deadline(1e-9))
    assert found.verdict is Verdict.TIMEOUT
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_an_alarm_in_the_middle_of_a_context_leaves_gradients_on():
    def work():
        with Deadline(0.05).interrupting():
            torch.set_grad_enabled(False)  # what an exit from no_grad that does not come to its end leaves behind
            time.sleep(5)

    with pytest.raises(OutOfTimeError):
        work()
    assert torch.is_grad_enabled()


def test_a_deadline_ends_work_in_progress():
    def work():
        with Deadline(0.05).interrupting():
            while time.monotonic() - started < 30:
                pass

    started = time.monotonic()
    with pytest.raises(OutOfTimeError, match=r"within 0\.05 seconds"):
        work()
    assert time.monotonic() - started < 30
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_an_alarm_at_the_end_of_the_block_leaves_no_handler_and_gradients_on(monkeypatch):
    set_timer, before = signal.setitimer, signal.getsignal(signal.SIGALRM)

    def set_as_it_rings(which, seconds):
        set_timer(which, seconds)
        if seconds == 0:
            raise OutOfTimeError

    def work():
        with Deadline(60).interrupting():
            torch.set_grad_enabled(False)

    monkeypatch.setattr(signal, "setitimer", set_as_it_rings)
    with torch.enable_grad():
        with pytest.raises(OutOfTimeError):
            work()
        assert torch.is_grad_enabled()
    assert signal.getsignal(signal.SIGALRM) is before


def ring(*_, **__):
    raise OutOfTimeError


READERS = {
    "free memory": (Path, "read_bytes", lambda files: free_memory(torch.device("cpu"))),
    "a property": (Path, "read_bytes", lambda files: read_vnnlib(files / "p.vnnlib")),
    "a packed property": (gzip, "decompress", lambda files: read_vnnlib(files / "p.vnnlib.gz")),
    "a network": (onnx, "load", lambda files: read_onnx(files / "net.onnx")),
    "a packed network": (Path, "read_bytes", lambda files: read_onnx(files / "net.onnx.gz")),
    "the check of a network": (onnx.checker, "check_model", lambda files: read_onnx(files / "net.onnx")),
    "a stored tensor": (numpy_helper, "to_array", lambda files: load_onnx(files / "net.onnx")),
    "an operator": (nn.Linear, "forward", lambda files: load_onnx(files / "net.onnx")),
    "the conversion": (lbp.onnx_import.convert, "evaluate_node", lambda files: load_onnx(files / "net.onnx")),
    "the evaluator": (ReferenceEvaluator, "run", lambda files: read_onnx(files / "net.onnx").evaluate(np.zeros(2))),
    "the trace": (BoundTracer, "trace", lambda files: BoundedModule(network(), torch.zeros(1, 2))),
    "a run of the trace": (
        torch.fx.Interpreter, "call_module", lambda files: BoundedModule(network(), torch.zeros(1, 2)),
    ),
    "a kernel that is kept": (Path, "read_bytes", lambda files: _jit._kept(files / "k.kernel")),
    "a kernel to keep": (Path, "replace", lambda files: _jit._keep(files / "k.kernel", _jit.MachineCode("k", b""))),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_an_alarm_is_never_taken_for_an_error_of_the_code_in_which_it_rings(name, tmp_path, monkeypatch):
    (tmp_path / "p.vnnlib").write_bytes(text := b"(check-sat)")
    (tmp_path / "p.vnnlib.gz").write_bytes(gzip.compress(text))
    proto = model([node("MatMul", ["x", "w"])], [1, 2], {"w": np.eye(2)})
    (tmp_path / "net.onnx.gz").write_bytes(gzip.compress(save(tmp_path, proto).read_bytes()))
    where, what, work = READERS[name]
    monkeypatch.setattr(where, what, ring)
    with pytest.raises(OutOfTimeError):
        work(tmp_path)


def test_an_alarm_while_free_memory_is_read_is_a_timeout(monkeypatch):
    read = Path.read_bytes

    def ring_while_it_is_set(path):
        return ring() if signal.getitimer(signal.ITIMER_REAL)[0] else read(path)

    monkeypatch.setattr(Path, "read_bytes", ring_while_it_is_set)
    found = verify_property(network(), stated(-1, 1, "(<= Y_0 -9)"), (2,), deadline=Deadline(60))
    assert found.verdict is Verdict.TIMEOUT


def test_a_deadline_in_another_thread_is_checked_only():
    caught = []

    def work():
        deadline = Deadline(1e-9)
        with deadline.interrupting():
            pass
        try:
            deadline.check()
        except OutOfTimeError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 1
    assert Deadline().remaining == math.inf
