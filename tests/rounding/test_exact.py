"""The oracle itself: exact numbers are exact, and networks of them agree with PyTorch in float64."""

from fractions import Fraction

import pytest
import torch
from rounding.cases import KINDS, NETWORKS, box, fill, numbers
from rounding.exact import Exact, value


def fractions(exact):
    return [Fraction(entry) / 2**exact.places for entry in exact.numerators.flatten()]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_what_the_tensor_holds(kind):
    values = numbers(kind, 50)
    assert fractions(Exact.of(values)) == [Fraction(float(entry)) for entry in values]


def test_products_and_sums_are_not_rounded():
    a, b = numbers("ratios", 3, 40, seed=1), numbers("subnormal", 40, 2, seed=2)
    product = Exact.of(a) @ Exact.of(b) + Exact.of(b[:1])
    expected = [
        sum((Fraction(float(a[i, k])) * Fraction(float(b[k, j])) for k in range(40)), Fraction(float(b[0, j])))
        for i in range(3)
        for j in range(2)
    ]
    assert fractions(product) == expected


def test_order_is_that_of_the_numbers():
    tenth = torch.tensor([0.1])
    above = Exact.of(torch.nextafter(tenth, tenth + 1))
    assert (Exact.of(tenth) <= above).all()
    assert not (above <= Exact.of(tenth)).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_pytorch_in_float64(name):
    build, shape = NETWORKS[name]
    model, (x, _) = fill(build(), "gaussian"), box(2, *shape)
    exact = torch.tensor([float(entry) for entry in fractions(value(model, Exact.of(x)))], dtype=torch.float64)
    with torch.no_grad():
        expected = model.double()(x.double()).flatten()
    assert torch.allclose(exact, expected, rtol=1e-12, atol=1e-12)
