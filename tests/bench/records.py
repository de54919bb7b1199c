"""Records that were not measured; the tests of what is read off records share them."""

from dataclasses import replace

from lbp.bench.rates import Rates
from lbp.bench.record import PLAIN_FUNCTIONS, Record, Row
from lbp.bench.timing import Timing

VERSIONS = {"PyTorch": "2", PLAIN_FUNCTIONS: "0a1b"}
RATES = Rates(copy=1e9, new_copy=5e8, products=1e11)
GPU = {"settings": {"threads": 2, "device": "cuda:0"}}


def row(median, *, case="relax_backward n=8", contender="native", spread=0.01, **measured):
    timing = Timing(median, median * (1 - spread), median * (1 + spread), 7)
    row = Row("ops", case, "ReLU", contender, timing, parameters={"op": "relax_backward", "B": 1, "S": 1, "n": 8})
    return replace(row, **measured)


def record(*rows, **changed):
    settings = {"threads": 2, "device": "cpu"}
    return replace(Record("a processor", "0" * 40, settings, VERSIONS, RATES, rows, "2020-01-01"), **changed)


def chains(times, **measured):
    return [
        Row(
            "growth",
            f"LBP width={n}",
            "ReLU",
            "native",
            Timing.of([t]),
            parameters={"quantity": "width", "value": n},
            **measured,
        )
        for n, t in times.items()
    ]
