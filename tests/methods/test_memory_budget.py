"""A memory budget is kept, counted by the allocations themselves, and changes no verdict."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import lbp
from lbp.errors import InvalidInputError
from lbp.graph import pre_activations
from lbp.linear import Region
from lbp.methods import Problem, byte_counts, forward_work, memory, problem
from lbp.methods.memory import budget_in_bytes, rows_beside
from lbp.ops import _window_accumulation, _window_convolution, _windows, forward_windows

MIB = 2**20

OUTWARD = {"rounding": "outward"}

SMALL = 3 * MIB / 16
"""What is taken at different times and counted together does not matter below this."""


class Scaled(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(size))

    def forward(self, x):
        return x * self.scale + 0.1


class Exchanged(nn.Module):
    def forward(self, x):
        return x.permute(0, 1, 3, 2)


class Residual(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.body = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, x):
        return x + self.body(x)


def chain():
    convolutions = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)]
    layers = [layer for conv in convolutions for layer in (conv, nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 10))


def many_outputs():
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 200))


def max_pools():
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, padding=1)
    pools = nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(first, pools[0], second, nn.ReLU(), pools[1], nn.Flatten(), nn.Linear(32, 10))


NETWORKS = {
    "chain": chain,
    "many outputs": many_outputs,
    "residual vectors": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(192, 200),
        nn.ReLU(),
        Residual(nn.Linear(200, 20), nn.Linear(20, 200)),
        nn.ReLU(),
        nn.Linear(200, 5),
    ),
    "scaled vectors": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), Scaled(256), nn.ReLU(), nn.Linear(256, 5)
    ),
    "residual images": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
        *(Residual(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 5)),
    ),
    "max pools": max_pools,
    # Rows of its last hidden layer meet a wide layer, whose forward bounds are whole, on few of its positions.
    "wide above": lambda: nn.Sequential(
        *(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2), nn.ReLU()),
        *(nn.Conv2d(4, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 16, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1024, 5)),
    ),
    "hidden vector": lambda: nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1024, 300), nn.ReLU(), nn.Linear(300, 5)),
    ),
    "rows and columns exchanged": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Exchanged(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1024, 5)),
    ),
}


def network(name):
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


@pytest.fixture(scope="module")
def model():
    return network("chain")


def bounded(model, batch, budget, method="CROWN", C=None, eps=0.01, **options):
    torch.manual_seed(1)
    x = torch.rand(batch, 3, 8, 8)
    net = lbp.BoundedModule(model, x, bound_opts={"sparse_intermediate_bounds": False, **options})
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=eps))
    with torch.no_grad():
        return lambda: net.compute_bounds(x=(region,), method=method, C=C, memory_budget=budget)


def least_of(*arguments, **options):
    """The least budget that an error names."""
    with pytest.raises(InvalidInputError, match=r"is too small: .* at least \d+ bytes") as error:
        bounded(*arguments[:2], 1000, *arguments[2:], **options)()
    return int(str(error.value).split("at least ")[1].split(" ")[0])


def peak_of(call):
    """The most bytes of tensors that are alive at a time among those that a call makes."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = call()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    assert events
    return peak, result


def assert_close(found, expected):
    for within, whole in zip(found, expected, strict=True):
        assert torch.allclose(within, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))


@pytest.mark.parametrize(("method", "batch"), [("CROWN", 1), ("CROWN", 3), ("CROWN-IBP", 16), ("CROWN-LBP", 8)])
def test_the_peak_stays_within_the_budget(model, method, batch):
    free, expected = peak_of(bounded(model, batch, "8GiB", method))
    for budget in (free / 2, free / 4):
        peak, found = peak_of(bounded(model, batch, budget, method))
        assert peak <= 1.1 * budget
        assert_close(found, expected)


@pytest.mark.parametrize("name", ["deep", "residual images"])
def test_interval_bounds_are_let_go_after_their_last_use(name):
    deep = nn.Sequential(nn.Flatten(), *(part for _ in range(8) for part in (nn.Linear(192, 192), nn.ReLU())))
    net = lbp.BoundedModule(deep if name == "deep" else network(name), torch.rand(1, 3, 8, 8))
    x = lbp.BoundedTensor(torch.rand(64, 3, 8, 8), lbp.PerturbationLpNorm(eps=0.01))
    peak, _ = peak_of(lambda: net.compute_bounds(x=(x,), method="IBP"))
    kept = {net.nodes()[0], net.nodes()[-1], *net.get_layers_requiring_bounds()}
    assert all((node.lower is not None) == (node in kept) for node in net.nodes() if not node.is_activation)
    assert any(node.is_activation and node.lower is None for node in net.nodes())
    if name == "deep":
        of_layer = 2 * 4 * 64 * 192
        assert peak <= (len(kept) + 4) * of_layer < (len(net.nodes()) - 3) * of_layer
    # Enough is left for back-substitution through the bounds of the latest call.
    with torch.no_grad():
        after = net.compute_bounds(x=None, method="backward")
        assert_close(after, net.compute_bounds(x=(x,), method="CROWN-IBP"))


def test_rows_of_the_output_count_for_the_images_of_which_a_cache_holds_them(model, monkeypatch):
    parts, part = [], Problem.part

    def counted(self, first, last):
        parts.append(last - first)
        return part(self, first, last)

    # Two sides of the rows of ten outputs over a layer of 256 neurons, for two images.
    monkeypatch.setattr(problem, "CACHED_BYTES", 2 * 2 * 10 * 256 * 4)
    free, expected = peak_of(bounded(model, 32, "8GiB", "CROWN-IBP"))
    monkeypatch.setattr(Problem, "part", counted)
    # All images together, whose rows would take more than twice as much.
    peak, found = peak_of(bounded(model, 32, 4 * free, "CROWN-IBP"))
    assert set(parts) == {2}
    assert_close(found, expected)
    # The least of these budgets for more images at a time: not yet for all.
    for budget in (free * quarters / 4 for quarters in range(5, 16)):
        parts.clear()
        peak, found = peak_of(bounded(model, 32, budget, "CROWN-IBP"))
        largest = [size for size in parts if size > 2]
        if largest:
            break
    assert len(largest) > 1
    assert max(largest) - min(largest) <= 1
    assert peak <= budget
    assert_close(found, expected)


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

    with pytest.raises(InvalidInputError, match=r"at least \d+ bytes") as error:
        bounds(1000)()
    least = int(str(error.value).split("at least ")[1].split(" ")[0])
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


@pytest.fixture
def by_library(monkeypatch):
    """Have windows multiplied and convolved as on other devices."""
    for module in (_windows, _window_accumulation, _window_convolution, forward_windows, forward_work):
        monkeypatch.setattr(module, "has_kernel", lambda device: False)


@pytest.mark.usefixtures("by_library")
@pytest.mark.parametrize("images", [1, 4])
def test_rows_of_hidden_vectors_take_no_more_where_the_library_multiplies_them_with_windows(images):
    model = network("hidden vector")
    least = least_of(model, images, "Relaxed-CROWN-1")
    for budget in (least, 1.5 * least, 2 * least, 4 * least):
        peak, _ = peak_of(bounded(model, images, budget, "Relaxed-CROWN-1"))
        assert peak <= 1.1 * budget


@pytest.mark.usefixtures("by_library")
@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("images", [1, 4])
def test_rows_take_no_more_where_the_library_multiplies_them_with_windows(rows, images):
    model = network("residual images")
    C = torch.randn(images, rows, 5, generator=torch.Generator().manual_seed(0))
    least = least_of(model, images, "LBP", C)
    for budget in (least, 2 * least):
        peak, _ = peak_of(bounded(model, images, budget, "LBP", C))
        assert peak <= 1.1 * budget


def test_insertion_of_whole_forward_bounds_into_windows_stays_within_the_budget():
    model = network("wide above")
    least = least_of(model, 1, "Relaxed-CROWN-1")
    free, expected = peak_of(bounded(model, 1, "8GiB", "Relaxed-CROWN-1"))
    for budget in (least, 1.5 * least):
        peak, found = peak_of(bounded(model, 1, budget, "Relaxed-CROWN-1"))
        assert peak <= 1.1 * budget < free
        assert_close(found, expected)


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

    with pytest.raises(InvalidInputError, match=r"at least \d+ bytes") as error:
        bounds(1000)()
    least = int(str(error.value).split("at least ")[1].split(" ")[0])
    assert peak_of(bounds(least))[0] <= 1.1 * least


def test_rows_of_a_specification_count_where_intervals_are_evaluated():
    torch.manual_seed(0)
    net = lbp.BoundedModule(many_outputs(), torch.rand(1, 3, 8, 8))
    x = lbp.BoundedTensor(torch.rand(8, 3, 8, 8), lbp.PerturbationLpNorm(eps=0.01))
    C = torch.eye(200).expand(8, -1, -1)
    peak, found = peak_of(lambda: net.compute_bounds(x=(x,), C=C, method="IBP", memory_budget="8MiB"))
    assert peak <= 8 * MIB
    whole, expected = peak_of(lambda: net.compute_bounds(x=(x,), C=C, method="IBP", memory_budget="8GiB"))
    assert whole > 8 * MIB
    assert_close(found, expected)


@pytest.mark.parametrize(("method", "eps"), [("IBP", 0.005), ("CROWN-IBP", 0.01), ("CROWN", 0.08)])
def test_verdicts_do_not_depend_on_the_budget(model, method, eps):
    torch.manual_seed(1)
    with torch.no_grad():
        C = lbp.margins(model(torch.rand(4, 3, 8, 8)).argmax(1), 10)
        budgets = (2 * least_of(model, 4, method, C, eps), None)
        found = [bounded(model, 4, budget, method, C, eps)()[0] > 0 for budget in budgets]
    assert torch.equal(*found)
    assert 6 <= int(found[0].sum()) <= 30


def test_images_take_as_many_rows_after_others_where_nobody_asked_for_a_budget(model, monkeypatch):
    """It is half of what is free, and the bounds of others are kept in the other half."""
    rows = []

    def counted(*arguments):
        rows.append(rows_beside(*arguments))
        return rows[-1]

    of_an_image = 2 * 4 * sum(node.size for node in lbp.BoundedModule(model, torch.rand(1, 3, 8, 8)).nodes())
    budget = int(1.5 * least_of(model, 1, "CROWN"))
    images = budget // of_an_image
    monkeypatch.setattr("lbp.methods.options.free_memory", lambda device: 2 * budget)
    monkeypatch.setattr(problem, "rows_beside", counted)
    with torch.no_grad():
        bounded(model, images, None)()
    of_one = rows[: len(rows) // images]
    assert max(of_one) > 1
    assert rows == of_one * images


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_rows_of_the_output_may_go_image_by_image(model, monkeypatch, method, rounding):
    images, starts = [], Problem.starts

    def counted(self, **named):
        images.append(self.region.batch)
        return starts(self, **named)

    monkeypatch.setattr(Problem, "starts", counted)
    with torch.no_grad():
        call = bounded(model, 3, "8GiB", method, rounding=rounding)
        together = call()
        monkeypatch.setattr(problem, "CACHED_BYTES", 1)
        assert_close(call(), together)
    assert images == [3, 1, 1, 1]


def test_parts_that_a_cache_holds_are_of_one_size(model, monkeypatch):
    x = torch.rand(9, 3, 8, 8)
    network = lbp.BoundedModule(model, x)._network()
    whole = Problem(network, network.output, Region(x, x))
    each = 2 * network.output.size * max(node.size for node in network.nodes) * x.itemsize
    monkeypatch.setattr(problem, "CACHED_BYTES", 4 * each)
    with torch.no_grad():
        assert [part.region.batch for part in whole.cached_parts("both")] == [3, 3, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (12, 12),
        ("12", 12),
        ("4GiB", 2**32),
        ("1.5 MiB", 1.5 * MIB),
        ("2GB", 2 * 10**9),
        ("7b", 7),
        ("3k", 3000),
        ("2 Gi", 2**31),
    ],
)
def test_amounts_of_memory(text, expected):
    assert budget_in_bytes(text) == expected


@pytest.mark.parametrize(
    "wrong", [0, -1, "4 apples", "\N{ARABIC-INDIC DIGIT FOUR}GiB", "", "GiB", math.nan, math.inf, True, None, [1]]
)
def test_what_is_no_amount_of_memory_is_refused(wrong):
    with pytest.raises(InvalidInputError, match="memory_budget must be"):
        budget_in_bytes(wrong)


def test_the_budget_may_be_an_option(model):
    with pytest.raises(InvalidInputError, match="too small"):
        bounded(model, 1, None, memory_budget="1kB")()
    with pytest.raises(InvalidInputError, match="memory_budget must be"):
        bounded(model, 1, None, memory_budget="much")


@pytest.mark.parametrize(
    ("budget", "scratch", "expected"),
    [
        (100, lambda rows: 0, 10),
        (57, lambda rows: 0, 5),
        (57, lambda rows: 20, 3),
        (57, lambda rows: 5 * rows, 3),
        (57, lambda rows: min(100 * rows, 30), 2),
        (5, lambda rows: 0, 1),
        (57, lambda rows: 10**9, 1),
        (-5, lambda rows: 0, 1),
    ],
)
def test_as_many_rows_as_fit_with_their_scratch_memory(budget, scratch, expected):
    assert rows_beside(budget, 10, 10, scratch) == expected


class Driver:
    """A device of which another process may take memory, and this one through PyTorch."""

    def __init__(self, free, monkeypatch):
        self.free, self.reserved, self.allocated, self.asked, self.now = free, 0, 0, 0, 100.0
        monkeypatch.setattr(memory, "_available", {})
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", self._answer)
        monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", self._statistics)
        monkeypatch.setattr(memory.time, "monotonic", lambda: self.now)

    def _answer(self, device):
        self.asked += 1
        return self.free, 10**9

    def _statistics(self, device):
        numbers = {"reserved_bytes": self.reserved, "allocated_bytes": self.allocated}
        return {name: {"all": {"current": number}} for name, number in numbers.items()} if self.reserved else {}


def test_free_memory_of_a_device_follows_what_this_process_allocates_without_asking_the_driver_again(monkeypatch):
    driver, device = Driver(700, monkeypatch), torch.device("cuda")
    assert memory.free_memory(device) == 700
    driver.free, driver.reserved, driver.allocated = 400, 300, 250
    assert memory.free_memory(device) == memory.free_memory(torch.device("cuda", 0)) == 450
    driver.allocated = 10
    assert memory.free_memory(device) == 690
    assert driver.asked == 1


def test_free_memory_of_a_device_follows_what_other_processes_allocate_a_little_later(monkeypatch):
    driver, device = Driver(700, monkeypatch), torch.device("cuda", 1)
    assert memory.free_memory(device) == 700
    driver.free = 20
    driver.now += 1.1 * memory.ASK_DRIVER_AFTER_S
    assert memory.free_memory(device) == 20
    driver.free, driver.reserved, driver.allocated = 0, 20, 30
    assert memory.free_memory(device) == 0


@pytest.fixture
def scratch_of_gpu(monkeypatch):
    """Have the scratch memory of Linear layers counted as on a CUDA device."""

    def as_there(count):
        def counted(weight, *arguments):
            return count(SimpleNamespace(is_cuda=True, shape=weight.shape, itemsize=weight.itemsize), *arguments)

        return counted

    for name in ("interval_linear_bytes", "relax_backward_linear_bytes"):
        monkeypatch.setattr(byte_counts, name, as_there(getattr(byte_counts, name)))


@pytest.mark.usefixtures("scratch_of_gpu")
@pytest.mark.parametrize("widths", [(784, 500, 500, 10), (784, 500, 100, 10)])
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP"])
def test_scratch_memory_of_few_images_and_rows_fits_into_a_budget_that_is_small(widths, method):
    layers = [part for i in range(3) for part in (nn.Linear(*widths[i : i + 2]), nn.ReLU())][:-1]
    net = lbp.BoundedModule(nn.Sequential(*layers), torch.rand(1, 784))
    assert net.images_within(method, memory_budget="16MiB") >= 4
    x = lbp.BoundedTensor(torch.rand(1, 784), lbp.PerturbationLpNorm(eps=0.01))
    with torch.no_grad():
        net.compute_bounds(x=(x,), method=method, memory_budget="16MiB")


def test_scratch_memory_of_a_specification_counts_where_its_rows_meet_convolutions_above_intervals(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    C = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))

    def counted(weight, groups, rows):
        return rows * MIB

    alone, together = least_of(model, 1, "IBP"), least_of(model, 1, "IBP", C)
    monkeypatch.setattr(byte_counts, "relax_backward_conv2d_bytes", counted)
    assert least_of(model, 1, "IBP") == alone
    # Two sides of three rows, over the pixels of the wider layer's input.
    assert least_of(model, 1, "IBP", C) >= together + 2 * 3 * 8 * 8 * MIB - SMALL


@pytest.mark.usefixtures("by_library")
def test_images_leave_room_for_scratch_memory_of_as_many(monkeypatch):
    """Products with windows of many more images would take all of the budget at a time."""
    budget = 64 * MIB
    monkeypatch.setattr(_window_accumulation, "operand_bytes", lambda device: budget)
    model = network("residual images")
    assert lbp.BoundedModule(model, torch.rand(1, 3, 8, 8)).images_within("LBP", rows=5, memory_budget=budget) >= 4
    C = torch.randn(12, 5, 5, generator=torch.Generator().manual_seed(0))
    peak, _ = peak_of(bounded(model, 12, budget, "LBP", C))
    assert peak <= budget


def test_rows_are_fitted_into_a_budget_without_reading_parameters_for_every_number_of_them(model, monkeypatch):
    asked, device_of = [], byte_counts.device_of

    def counted(nodes):
        asked.append(nodes)
        return device_of(nodes)

    monkeypatch.setattr(byte_counts, "device_of", counted)
    net = lbp.BoundedModule(model, torch.rand(1, 3, 8, 8))._network()

    def scratch(stops):
        rows = range(1, 9)
        return [byte_counts.insertion_scratch_bytes(net, stops, n, 4, windows=True, batch=2) for n in rows]

    assert set(scratch(())) == {0}
    assert not asked
    found = scratch(tuple(pre_activations(net.nodes)))
    assert found == sorted(found)
    assert found[0] > 0
    assert len(asked) == 1
