"""What is measured is measured on results that agree, within limits, and nothing that failed counts as fast."""

import pytest
import torch

from lbp.bench import ops
from lbp.bench.contenders import Contender, find
from lbp.bench.memory import peak_bytes
from lbp.bench.methods import MethodOptions, measure_methods, measure_training
from lbp.bench.networks import NETWORKS, Network, named, neurons
from lbp.bench.ops import DisagreementError, OpOptions, largest_difference, measure_ops
from lbp.bench.worker import Limits, RunFailedError, Work, Worker

CPU = torch.device("cpu")
LIMITS = Limits(seconds=100.0, memory=8 * 2**30, threads=1)
TINY = Network("chain", "ReLU", (1, 6, 6), width=2, depth=2)


def test_every_op_is_measured_forward_and_backward_against_the_reference():
    options = OpOptions(repeats=1, compiled=False, quick=True, only=("ramp_interval",))
    rows = list(measure_ops(CPU, options, lambda _: None))
    assert {row.contender for row in rows} == {"native", "reference"}
    assert {row.activation for row in rows} == {"ReLU", "ParamRamp"}
    assert any(" backward " in row.case for row in rows)
    assert all(row.timing is not None and row.timing.median > 0 for row in rows)
    forward = [row for row in rows if " backward" not in row.case]
    assert all(row.moved_bytes == 4 * 4 * row.parameters["B"] * row.parameters["n"] for row in forward)


def test_results_that_differ_stop_the_measurement(monkeypatch):
    genuine = ops._contenders

    def planted(case, options, device):
        calls = genuine(case, options, device)
        return calls | {"native": lambda: [part + 1 for part in ops._as_tensors(calls["reference"]())]}

    monkeypatch.setattr(ops, "_contenders", planted)
    with pytest.raises(DisagreementError, match="native and reference differ"):
        next(measure_ops(CPU, OpOptions(repeats=1, compiled=False, quick=True), lambda _: None))


def test_nan_counts_as_a_difference():
    assert not largest_difference(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])) <= 1.0
    assert largest_difference(torch.tensor([torch.inf]), torch.tensor([torch.inf])) == 0.0


def test_the_peak_of_a_call_is_what_it_needs_at_most():
    size = 64 * 2**20
    _, peak = peak_bytes(lambda: torch.ones(size // 4).sum(), CPU)
    if peak is None:
        pytest.skip("the operating system does not tell")
    assert 0.9 * size < peak < 1.3 * size


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_the_same_in_every_process(name):
    first, second = (named(name, "ReLU").model() for _ in range(2))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_hidden_neurons_are_counted():
    assert neurons(TINY) == 2 * 2 * 36


def test_a_worker_answers_with_bounds_time_and_products_also_after_a_failure_and_stays_within_its_memory():
    wide = Network("chain", "ReLU", (3, 64, 64), width=64, depth=2)
    with Worker(find("reference"), "cpu", Limits(100.0, 2 * 2**30, 1), None) as worker:
        with pytest.raises(RunFailedError, match="KeyError"):
            worker.first(Work("bounds", TINY, "no method", batch=2))
        lower, _ = worker.first(Work("bounds", TINY, "CROWN-IBP", batch=2))
        assert lower.shape == (2, 9)
        assert worker.seconds() > 0
        assert worker.products()[1] > 0
        loss, _ = worker.first(Work("step", TINY, "IBP", batch=2))
        assert loss.dim() == 0
        with pytest.raises(RunFailedError, match="out of memory"):
            worker.first(Work("bounds", wide, "LBP", batch=1))


def test_a_contender_that_is_not_installed_fails_by_name():
    absent = Contender("peer", "auto_LiRPA", methods={"IBP": "IBP"})
    with Worker(absent, "cpu", LIMITS, None) as worker, pytest.raises(RunFailedError, match="auto_LiRPA"):
        worker.first(Work("bounds", TINY, "IBP", batch=1))


@pytest.mark.parametrize(
    ("measure", "contenders"), [(measure_methods, ("native", "reference")), (measure_training, ("native",))]
)
def test_methods_and_steps_are_measured_with_memory_and_products(measure, contenders):
    options = MethodOptions(
        LIMITS,
        repeats=1,
        networks=("DM-Small",),
        methods=("CROWN-IBP",),
        batches=(1,),
        contenders=contenders,
    )
    rows = list(measure(CPU, options, lambda _: None))
    assert {(row.activation, row.contender) for row in rows} == {
        (activation, contender) for activation in ("ReLU", "ParamRamp") for contender in contenders
    }
    assert all(row.timing is not None and row.operations and row.product_seconds for row in rows)
