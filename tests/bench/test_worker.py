"""A worker answers from a process of its own, within its limits."""

import multiprocessing
import os
import signal

import pytest
from bench.measuring import CPU, LIMITS, TINY, case_of

import lbp
from lbp.bench import worker as of_worker
from lbp.bench.contenders import Contender, find
from lbp.bench.methods import _Runner
from lbp.bench.networks import Network
from lbp.bench.worker import Limits, RunFailedError, Work, Worker


class Answering:
    """A connection whose other end answers at once; notes how long each answer might have taken."""

    def __init__(self):
        self.waits = []

    def send(self, what):
        pass

    def poll(self, seconds):
        self.waits.append(seconds)
        return True

    def recv(self):
        return "done", ([0.0], [1], 0)


@pytest.mark.parametrize(("device", "first", "later"), [("cuda:0", 45, 15), ("cpu", 0, 0)])
def test_libraries_are_loaded_onto_a_device_once(device, first, later):
    """Later a run that takes longer than its limit must not take the time of all others."""
    worker = Worker(find("native"), device, LIMITS, None)
    worker._process, worker._connection = multiprocessing.current_process(), Answering()
    for _ in range(2):
        worker.first(_Runner(case_of("IBP"), TINY, worker).work())
    waits = [seconds - LIMITS.seconds for seconds in worker._connection.waits]
    assert waits == [120, first, 120, later]


@pytest.mark.parametrize(
    ("answers", "taken"), [([1.0, 9.0], 1.0), ([0.1, 0.09, 9.0], 0.09), ([0.001, 0.002, 1.0, 9.0], 1.0)]
)
def test_a_short_call_is_repeated_and_a_long_one_is_not(monkeypatch, answers, taken):
    left = iter(answers)
    monkeypatch.setattr(of_worker, "seconds_of", lambda run, device: next(left))
    assert of_worker._steady_seconds(None, CPU) == taken


def test_a_worker_answers_with_bounds_time_and_products_also_after_a_failure_and_stays_within_its_memory():
    wide = Network("chain", "ReLU", (3, 64, 64), width=64, depth=2)
    with Worker(find("reference"), "cpu", Limits(100.0, 2 * 2**30, 1), None) as worker:
        with pytest.raises(RunFailedError, match="KeyError"):
            worker.first(Work("bounds", TINY, "no method", batch=2))
        lower, _ = worker.first(Work("bounds", TINY, "CROWN-IBP", batch=2))
        assert lower.shape == (2, 9)
        assert worker.seconds() > 0
        assert worker.list_products() > 0
        assert worker.seconds_alone() > 0
        assert worker.operations() > 0
        step, _ = worker.first(Work("step", TINY, "IBP", batch=2))
        assert step.shape == (1 + len(list(TINY.model().parameters())),)
        assert step.isfinite().all()
        assert (step > 0).all()
        with pytest.raises(RunFailedError, match="out of memory"):
            worker.first(Work("bounds", wide, "LBP", batch=1))


def test_ctrl_c_leaves_a_worker_to_the_process_that_it_works_for():
    """In a terminal it goes to all processes, and a worker would fill it with its traceback."""
    with Worker(find("native"), "cpu", LIMITS, None) as worker:
        worker.start()
        os.kill(worker._process.pid, signal.SIGINT)
        assert worker.first(Work("bounds", TINY, "IBP", batch=1))[0].shape[-1] == 9
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "here it still interrupts"


def test_a_worker_that_nobody_waits_for_ends_without_an_error(monkeypatch):
    ours, theirs = multiprocessing.Pipe()
    ours.send("time")
    ours.close()
    monkeypatch.setattr(of_worker, "_load_within", lambda *_: lbp)
    of_worker._serve(theirs, find("native"), "cpu", LIMITS, None)


def test_a_contender_that_is_not_installed_fails_by_name():
    absent = Contender("peer", "auto_LiRPA", methods={"IBP": "IBP"})
    with Worker(absent, "cpu", LIMITS, None) as worker, pytest.raises(RunFailedError, match="auto_LiRPA"):
        worker.first(Work("bounds", TINY, "IBP", batch=1))


@pytest.mark.parametrize("started", ["before", "with the work"])
def test_a_peer_whose_own_import_fails_says_so_whenever_its_process_was_started(tmp_path, started):
    (tmp_path / "auto_LiRPA").mkdir()
    (tmp_path / "auto_LiRPA" / "__init__.py").write_text("import a_package_that_is_missing")
    with Worker(find("auto_LiRPA patches"), "cpu", LIMITS, tmp_path) as worker:
        if started == "before":
            worker.start()
            worker._process.join()  # it has ended before any work comes
        with pytest.raises(RunFailedError, match="ModuleNotFoundError: No module named 'a_package_that_is_missing'"):
            worker.first(Work("bounds", TINY, "IBP", batch=1))
