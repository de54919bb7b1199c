"""float32 products on tensor cores with split operands: the parts, the errors of sums, and what may not be split.

The emulator runs a model of tensor cores with the coarsest sums that any are known to make.
"""

import pytest
import torch
from emulation.shim import Shim
from ops.cases import generator

from lbp.ops._relaxation import Lines

UNIT = 2.0**-24  # the rounding error of float32, relative
DEPTHS = (3, 16, 100, 250)


def parts(module, x):
    high, low, allowed = torch.empty_like(x), torch.empty_like(x), torch.empty(x.shape, dtype=torch.bool)
    module.split_tf32(x.numpy(), high.numpy(), low.numpy(), allowed.numpy())
    return high, low, allowed


def exponent(x):
    return torch.frexp(x)[1].double() - 1


def nearest_tf32(x):
    """x rounded to ten bits of fraction, ties away from zero, by arithmetic in float64."""
    place = 2.0 ** (exponent(x) - 10)
    return torch.sign(x.double()) * torch.floor(x.double().abs() / place + 0.5) * place


def of_bits(bits):
    return torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)


def test_the_parts_are_the_nearest_numbers_of_eleven_bits(emulated):
    x = torch.randn(5000, generator=generator()) * 2.0 ** torch.randint(-40, 50, (5000,), generator=generator(1))
    # Ties, their neighbours, and what rounds up to the next power of two.
    x = torch.cat([x, of_bits([0x3F801000, 0x3F800FFF, 0x3F801001, 0xBF803000, 0x3FFFF000, 0x3FFFFFFF, 0, 0x80000000])])
    high, low, allowed = parts(emulated, x)
    assert allowed.all()
    assert (high.view(torch.int32) & 0x1FFF == 0).all()
    assert (low.view(torch.int32) & 0x1FFF == 0).all()
    nonzero = x != 0
    assert torch.equal(high[nonzero].double(), nearest_tf32(x[nonzero]))
    rest = (x - high)[(x - high) != 0]
    assert torch.equal(low[(x - high) != 0].double(), nearest_tf32(rest))
    error = (x.double() - high.double() - low.double()).abs()
    assert (error[nonzero] <= 2.0 ** (exponent(x[nonzero]) - 23)).all()


def test_only_numbers_whose_products_stay_normal_are_split(emulated):
    inside = torch.tensor([0.0, -0.0, 2.0**-50, -(2.0**-50), 1.0, 2.0**59 * (2 - 2.0**-23)])
    outside = torch.tensor([2.0**60, -(2.0**60), 2.0**-51, 1e-45, 3.4e38, torch.inf, -torch.inf, torch.nan])
    assert parts(emulated, inside)[2].all()
    assert not parts(emulated, outside)[2].any()


def random_operands(depth):
    numbers = generator(depth)
    return torch.randn(35, depth, generator=numbers), torch.randn(20, depth, generator=numbers)


def positive_operands(depth):
    numbers = generator(depth)
    return 1 + torch.rand(35, depth, generator=numbers), 1 + torch.rand(20, depth, generator=numbers)


def wide_operands(depth):
    x, y = random_operands(depth)
    return tuple(z * 2.0 ** torch.randint(-20, 20, z.shape, generator=generator(1)) for z in (x, y))


def cancelling_operands(depth):
    x, y = positive_operands(depth)
    half = depth // 2
    x[:, half : 2 * half] = -x[:, :half] * (1 + 2.0**-10 * torch.rand(35, half, generator=generator(2)))
    y[:, half : 2 * half] = y[:, :half]
    return x, y


def badly_split_operands(depth):
    """Both parts are as far as can be from their numbers, all in the same direction."""
    bits = [torch.randint(0, 1 << 10, (n, depth), generator=generator(depth)) for n in (35, 20)]
    return tuple(((b << 13) + 0x3F800FFF).to(torch.int32).view(torch.float32) for b in bits)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    "operands", [random_operands, positive_operands, wide_operands, cancelling_operands, badly_split_operands]
)
def test_the_error_is_that_of_plain_float32_sums(emulated, operands, depth):
    x, y = operands(depth)
    exact, magnitude = x.double() @ y.double().T, x.double().abs() @ y.double().abs().T
    errors = []
    for split in (False, True):
        center, radius, _, _ = Shim(emulated, split).forward_linear(x[None], x.abs()[None], x[:1], None, y, None)
        assert not torch.equal(center[0].double(), exact)
        errors.append(max(((s[0] - e).abs() / magnitude).max() for s, e in ((center, exact), (radius, magnitude))))
    plain, split = errors
    # Rounded sums of few terms are better than their bound; sums of a tile's 16 terms are cut off within 16 units.
    assert split <= max(2 * plain, 16 * UNIT)
    assert split < 2.0**-19  # one rounding of an operand to TF32, without splitting, costs up to 2^-11


@pytest.mark.parametrize("depth", DEPTHS)
def test_products_of_integers_are_exact(emulated, depth):
    x = torch.randint(-100, 100, (35, depth), generator=generator()).float()
    y = torch.randint(-100, 100, (20, depth), generator=generator(1)).float()
    center, radius, _, _ = Shim(emulated, True).forward_linear(x[None], x.abs()[None], x[:1], None, y, None)
    assert torch.equal(center[0], x @ y.T)
    assert torch.equal(radius[0], x.abs() @ y.abs().T)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 3.4e38, 2.0**60, 1e-30, 1e-42, 2.0**-51])
@pytest.mark.parametrize("operand", ["left", "right"])
def test_what_may_not_be_split_is_multiplied_in_plain_float32(emulated, operand, value):
    x, y = random_operands(12)
    (x if operand == "left" else y)[3, 7] = value
    plain, split = (
        Shim(emulated, s).forward_linear(x[None], x.abs()[None], x[:1], None, y, None) for s in (False, True)
    )
    for p, s in zip(plain[:3], split[:3], strict=True):
        assert torch.equal(p.nan_to_num(7.0), s.nan_to_num(7.0))
        assert torch.equal(p.isnan(), s.isnan())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_one_tile_that_may_not_be_split_leaves_the_others_as_they_are(emulated, value):
    x, y = random_operands(100)
    spoiled = x.clone()
    spoiled[3, 50] = value
    matrices = ((z[None], z.abs()[None], z[:1], None, y, None) for z in (x, spoiled))
    clean, found = (Shim(emulated, True).forward_linear(*m)[0][0] for m in matrices)
    rows = torch.arange(35) != 3
    assert not found[3].isfinite().any()
    assert torch.allclose(found[rows], clean[rows], rtol=1e-5, atol=1e-5)


def test_insertion_and_relaxed_products_take_what_may_not_be_split(emulated):
    A = torch.randn(2, 2, 3, 40, generator=generator())
    A[0, 1, 2, 5], A[1, 0, 0, 7] = torch.nan, 1e-42
    l, u, weight = -torch.rand(2, 40), torch.rand(2, 40), torch.randn(40, 6, generator=generator(1))
    weight[3, 2] = torch.inf
    for plain, split in zip(
        *(Shim(emulated, s).relax_backward_linear(A, *Lines().arguments(l, u), weight, None, 3) for s in (False, True)),
        strict=True,
    ):
        assert torch.equal(plain.isnan(), split.isnan())
        assert torch.equal(plain.isinf(), split.isinf())
        finite = plain.isfinite()
        assert torch.allclose(plain[finite], split[finite], rtol=1e-5, atol=1e-5)
