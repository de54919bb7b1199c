"""Pictures of records: what is drawn where."""

from dataclasses import replace

from bench.records import RATES, chains, record, row

from lbp.bench.op_cases import OP_NAMES
from lbp.bench.pictures import _growth, _roofline, _speed_up, _time, kind_of
from lbp.bench.rates import Rates
from lbp.bench.record import Run


def test_the_roof_of_every_row_is_that_of_its_run():
    """Two runs, the machine twice as fast in the second, and so the op: one point, on the roof."""
    rates = [RATES, Rates(2 * RATES.copy, RATES.new_copy, 2 * RATES.products)]
    measured = {"moved_bytes": 10**9, "operations": 10**9}
    rows = [row(1.0, **measured), row(0.5, case="x", run=1, **measured)]
    axes, _ = _roofline(record(*rows, continued=(Run("2020-01-02", {}, rates[1]),))).axes
    assert points_in(axes) == [(0.01, 0.01)] * 2
    (roof,) = axes.lines
    assert dict(zip(*roof.get_data(), strict=True)) == {0.005: 0.005, 0.02: 0.02, 1.0: 1.0}


def points_in(axes):
    return [tuple(point) for points in axes.collections for point in points.get_offsets()]


def test_ops_without_products_are_drawn_against_a_copy_of_their_bytes():
    of_rates = row(2.0, moved_bytes=10**9)
    of_a_copy_in_turn = row(2.0, case="x", moved_bytes=10**8, copy_seconds=1.5)
    upper, lower = _roofline(record(of_rates, of_a_copy_in_turn)).axes
    assert points_in(upper) == []
    assert points_in(lower) == [(1e9, 0.5), (1e8, 0.75)]


def test_speed_ups_are_drawn_by_kind_gradients_beside_their_ops():
    gradient = {"op": "relax_backward backward", "B": 1, "S": 1, "n": 8}
    rows = [
        row(1.0), row(3.0, contender="reference"),
        row(1.0, case="g", parameters=gradient), row(5.0, case="g", contender="reference", parameters=gradient),
    ]  # fmt: skip
    of_op, of_gradient = _speed_up(record(*rows)).axes
    assert (of_op.get_title(), points_in(of_op)) == ("relaxation", [(8.0, 3.0)])
    assert (of_gradient.get_title(), points_in(of_gradient)) == ("relaxation, gradients", [(8.0, 5.0)])


def test_every_op_of_the_grid_is_drawn_with_others_of_its_kind():
    kinds = {name: kind_of(name) for name in OP_NAMES}
    assert set(kinds.values()) == {
        "activations", "relaxation", "evaluation over the region", "products", "relaxation and product",
        "other windows",
    }  # fmt: skip
    assert kinds["relax_windows"] == "relaxation"
    assert kinds["relax_backward_conv2d_windows"] == "relaxation and product"
    assert kinds["outward_interval_linear"] == "products"


def test_growth_is_drawn_per_method_and_size():
    (axes,) = _growth(record(*chains({1: 1.0, 2: 4.0, 4: 16.0}))).axes
    (line,) = axes.lines
    assert axes.get_title() == "LBP, width"
    assert list(zip(*line.get_data(), strict=True)) == [(1, 1.0), (2, 4.0), (4, 16.0)]
    assert line.get_label() == "native: exponent 2.0"


def test_methods_are_drawn_against_neurons_one_image_alone():
    sizes = {"method": "IBP", "network": "x", "neurons": 5}
    one, many = (replace(row(1.0), level="methods", parameters={**sizes, "batch": batch}) for batch in (1, 16))
    figure = _time(record(one, replace(many, case="many")))
    drawn = {axes.get_title(): [line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes[:-1]}
    assert drawn == {"CROWN": [], "CROWN-IBP": [], "CROWN-LBP": [], "IBP": [[[5.0, 1.0]]], "LBP": []}
