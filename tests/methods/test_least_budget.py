"""The least budget that an error names suffices, and for one image it is needed."""

import pytest
import torch
from methods.budgets import SMALL, assert_close, bounded, least_named, least_of, many_outputs, network, peak_of
from torch import nn

import lbp
from lbp.errors import InvalidInputError

OUTWARD = {"rounding": "outward"}


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        *[("chain", method, {}) for method in ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "Relaxed-CROWN-2", "CROWN")],
        ("chain", "LBP", {"conv_mode": "patches"}),
        ("chain", "LBP", {"conv_mode": "matrix"}),
        ("many outputs", "CROWN-IBP", {}),
        ("residual vectors", "CROWN", {}),
        ("residual vectors", "CROWN", {"conv_mode": "matrix"}),
        ("scaled vectors", "CROWN", {"rounding": "outward"}),
        ("scaled vectors", "CROWN", {"sparse_intermediate_bounds": True}),
        ("scaled vectors", "CROWN", {"conv_mode": "matrix"}),
        ("residual images", "CROWN-LBP", {"rounding": "outward"}),
        ("max pools", "LBP", {}),
        ("rows and columns exchanged", "CROWN-LBP", {}),
        ("max pools", "CROWN", {}),
        # On small networks forward bounds of the first layer are much of what is taken.
        ("residual images", "Relaxed-CROWN-1", {"rounding": "outward"}),
        ("many outputs", "Relaxed-CROWN-1", {"rounding": "outward"}),
        ("residual images", "Relaxed-CROWN-1", {"conv_mode": "matrix"}),
    ],
)
def test_the_least_budget_that_is_named_suffices_and_is_needed(name, method, options):
    """For two images, which then go one by one; so do the rows of the output."""
    model = network(name)
    least = least_of(model, 2, method, **options)
    peak, found = peak_of(bounded(model, 2, least, method, **options))
    assert peak <= 1.1 * least
    assert least <= 1.6 * peak + SMALL
    with torch.no_grad():
        assert_close(found, bounded(model, 2, "8GiB", method, **options)())
    with pytest.raises(InvalidInputError, match="too small"):
        bounded(model, 2, least - 1, method, **options)()


# Where bounds of all images are kept: of layers that are reshaped before their activation, or cut out of larger ones;
# of a wide input, and of activations that only the output reads.
KEPT = {
    "along a line": (lambda: nn.Sequential(*line(3, 64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, 10)), (3, 64)),
    "part of a layer": (lambda: nn.Sequential(nn.Linear(20, 4000), Half(), nn.ReLU(), nn.Linear(2000, 3)), (20,)),
    "wide input": (lambda: nn.Sequential(nn.Linear(3072, 100), nn.ReLU(), nn.Linear(100, 10)), (3072,)),
    "many outputs": (many_outputs, (3, 8, 8)),
}


def line(channels, outputs):
    return nn.Conv1d(channels, outputs, 3, padding=1), nn.ReLU(), nn.Conv1d(outputs, outputs, 3, padding=1)


class Half(nn.Module):
    def forward(self, x):
        return x[:, : x.shape[1] // 2]


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP"])
@pytest.mark.parametrize(
    ("name", "rounding"),
    # A region that is enlarged takes copies of a wide input, before it is bounded.
    [*((name, "nearest") for name in KEPT), *((name, "outward") for name in KEPT if name != "wide input")],
)
def test_the_least_budget_suffices_for_the_bounds_that_are_kept_of_many_images(name, method, rounding):
    torch.manual_seed(0)
    make, shape = KEPT[name]
    net, images = lbp.BoundedModule(make(), torch.rand(1, *shape), {"rounding": rounding}), 300
    x = lbp.BoundedTensor(torch.rand(images, *shape), lbp.PerturbationLpNorm(eps=0.01))

    def bounds(budget):
        return lambda: net.compute_bounds(x=(x,), method=method, memory_budget=budget)

    least = least_named(bounds(1000))
    peak, found = peak_of(bounds(least))
    assert peak <= 1.05 * least
    with torch.no_grad():
        assert_close(found, bounds("8GiB")())


@pytest.mark.parametrize(
    ("name", "method", "images", "rows"),
    [
        ("chain", "LBP", 8, 300),
        ("residual images", "LBP", 8, 300),
        ("residual images", "Relaxed-CROWN-2", 3, 300),
        ("residual images", "IBP", 1, 300),
        ("many outputs", "CROWN-IBP", 8, 20),
    ],
)
@pytest.mark.parametrize("rounding", ["nearest", "outward"])
def test_the_least_budget_suffices_for_many_rows_of_a_specification(name, method, images, rows, rounding):
    """Of rows that do not all fit, and of images before others, nothing is kept but bounds."""
    model = network(name)
    outputs = model(torch.zeros(1, 3, 8, 8)).shape[1]
    C = torch.randn(images, rows, outputs, generator=torch.Generator().manual_seed(0))
    least = least_of(model, images, method, C, rounding=rounding)
    peak, found = peak_of(bounded(model, images, least, method, C, rounding=rounding))
    assert peak <= 1.1 * least
    with torch.no_grad():
        assert_close(found, bounded(model, images, "8GiB", method, C, rounding=rounding)())


# Of many images the magnitudes of a weight that is larger than all bounds; sums of many blocks of a layer's inputs.
@pytest.mark.parametrize(
    ("sizes", "method", "images"),
    [
        ((64, 3000, 4000, 3), "IBP", 300),
        ((1100, 1100, 600, 3), "LBP", 1),
        ((1100, 1100, 10, 3), "Relaxed-CROWN-1", 1),
    ],
)
def test_the_least_budget_suffices_where_wide_layers_round_outward(sizes, method, images):
    torch.manual_seed(0)
    first, second, last = (nn.Linear(*sizes[i : i + 2]) for i in range(3))
    net = lbp.BoundedModule(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last), torch.rand(1, sizes[0]), OUTWARD)
    x = lbp.BoundedTensor(torch.rand(images, sizes[0]), lbp.PerturbationLpNorm(eps=0.01))

    def bounds(budget):
        return lambda: net.compute_bounds(x=(x,), method=method, memory_budget=budget)

    least = least_named(bounds(1000))
    assert peak_of(bounds(least))[0] <= 1.1 * least
