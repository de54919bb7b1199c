"""How cost grows is fitted to the largest sizes."""

import math

import pytest
from bench.records import chains, record

from lbp.bench.grid import GROWTH, GROWTH_CONTENDERS
from lbp.bench.growth import EXPECTED, fitted_growth, fitted_power
from lbp.bench.tables import result_tables


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_the_exponent_of_a_power_is_found(power):
    sizes = [2.0, 4.0, 8.0]
    found, residual = fitted_power(sizes, [5 * size**power for size in sizes])
    assert math.isclose(found, power)
    assert math.isclose(residual, 1.0)


def test_a_fit_says_how_far_off_it_is_at_most_unless_two_costs_fit_any_power():
    exponent, residual = fitted_power([1.0, 2.0, 4.0], [1.0, 8.0, 1.0])
    assert math.isclose(exponent, 0.0, abs_tol=1e-12)
    assert math.isclose(residual, 4.0)
    assert fitted_power([1.0, 2.0], [1.0, 8.0])[1] is None


@pytest.mark.parametrize(("times", "sizes"), [({2: 7.0, 4: 1.0, 8: 4.0, 16: 16.0}, 3), ({2: 1.0, 4: 4.0}, 2)])
def test_growth_is_fitted_to_the_three_largest_sizes_that_were_timed(times, sizes):
    (fit,) = fitted_growth(chains(times))
    assert math.isclose(fit.time, 2.0)
    assert (fit.sizes, fit.time_residual is None) == (sizes, sizes == 2)
    assert fit.memory is None
    assert fit.memory_residual is None


def test_the_table_of_growth_has_sizes_residuals_and_expected_exponents():
    rows = chains({1: 1.0, 2: 8.0, 4: 1.0}, peak_bytes=2**21)
    *_, table = result_tables(record(*rows))
    assert [next(iter(column.cells)) for column in table.columns] == [
        "LBP", "native", "width", "3", "0.00, 4.00x off", "2", "0.00, 1.00x off", "1",
    ]  # fmt: skip


def test_every_contender_of_growth_has_an_expected_exponent_of_every_size():
    assert EXPECTED.keys() == {
        (method, contender, quantity)
        for method, contenders in GROWTH_CONTENDERS.items()
        for contender in contenders
        for quantity in GROWTH.keys() - {"batch"}
    }
