"""Methods and training steps are measured in turn, and what took too long is not tried at larger sizes."""

import multiprocessing

import pytest
import torch
from bench.measuring import CPU, LIMITS, TINY, case_of

from lbp.bench import methods as of_methods
from lbp.bench.contenders import find
from lbp.bench.memory import peak_bytes
from lbp.bench.methods import MethodOptions, _Earlier, _in_turn, _Runner, measure_methods, measure_training
from lbp.bench.networks import NETWORKS, named, neurons
from lbp.bench.worker import Limits, Worker


def test_products_are_listed_on_the_cpu_where_every_kernel_that_multiplies_is_known():
    workers = [Worker(find("native"), device, LIMITS, None) for device in ("cpu", "cuda:0")]
    assert [_Runner(case_of("IBP"), TINY, worker).lists_products for worker in workers] == [True, False]


def test_networks_methods_and_batches_are_measured_in_the_order_in_which_they_are_named(monkeypatch):
    monkeypatch.setattr(of_methods, "_measure", lambda cases, *_: iter([[case.name for case in cases]]))
    options = MethodOptions(
        LIMITS, networks=("DM-Small", "Small MNIST"), methods=("CROWN-LBP", "CROWN"), batches=(2, 1)
    )
    (names,) = of_methods.measure_methods(CPU, options, print)
    assert names[:4] == [
        "DM-Small CROWN-LBP B=2",
        "DM-Small CROWN B=2",
        "Small MNIST CROWN-LBP B=2",
        "Small MNIST CROWN B=2",
    ]
    assert names[4] == "DM-Small CROWN-LBP B=1"


def test_what_took_too_long_is_not_tried_at_larger_sizes():
    earlier = _Earlier("B=1", 1, seconds=10.0)
    assert earlier.forbids(16, Limits(60.0, 0, 1)) == "not run: estimated 160 s"
    assert earlier.forbids(4, Limits(60.0, 0, 1)) is None
    failed = _Earlier("B=1", 1, seconds=None, note="out of memory")
    assert failed.forbids(16, Limits(60.0, 0, 1)) == "not run: out of memory at B=1"
    assert failed.forbids(1, Limits(60.0, 0, 1)) is None


@pytest.mark.parametrize(
    ("slow", "rounds_of_slow"),
    [
        pytest.param(2.0, 2, id="up to the third round"),
        pytest.param(0.5, 3, id="then"),
        pytest.param(9.0, 1, id="at once"),
    ],
)
def test_a_slow_contender_takes_no_rounds_from_a_fast_one(slow, rounds_of_slow):
    class Fixed(Worker):
        def seconds(self):
            return slow if self.contender.name == "reference" else 0.1

    case = case_of("CROWN")
    runners = [_Runner(case, TINY, Fixed(find(name), "cpu", LIMITS, None)) for name in ("native", "reference")]
    measured = _in_turn(runners, MethodOptions(LIMITS, repeats=7, seconds=0.75))
    assert [found["timing"].repeats for _, found in measured] == [7, rounds_of_slow]
    assert [found["timing"].median for _, found in measured] == [0.1, slow]


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


@pytest.fixture
def workers_forked(monkeypatch):
    """Workers are copies of this process: nothing is imported anew, which is most of a short test's time."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr("lbp.bench.worker.multiprocessing.get_context", lambda _: fork)


@pytest.mark.usefixtures("workers_forked")
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
    rows = [row for case in measure(CPU, options, lambda _: None) for row in case]
    assert {(row.activation, row.contender) for row in rows} == {
        (activation, contender) for activation in ("ReLU", "ParamRamp") for contender in contenders
    }
    assert all(row.timing is not None for row in rows)
    assert all(row.operations and row.product_seconds for row in rows if row.contender == "native")
