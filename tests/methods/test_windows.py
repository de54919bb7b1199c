"""CROWN on windows equals CROWN on whole matrices, whatever the layers, and needs only the rows that are open."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import lbp
from lbp.graph import build_network
from lbp.linear import WindowCoefficients
from lbp.methods.work import worth_evaluating


@st.composite
def stacks(draw, channels, size, depth=3):
    """Layers between images of odd sizes: convolutions of every geometry, pools, batch norms, residual nests."""
    layers, shape = [], (channels, *size)
    for _ in range(draw(st.integers(1, depth))):
        layer, shape = draw(pieces(shape, depth - 1))
        layers += [layer, draw(st.sampled_from([nn.ReLU(), nn.LeakyReLU(0.1), lbp.nn.ParamRamp(shape, 0.1, 0.7)]))]
    return nn.Sequential(*layers), shape


@st.composite
def pieces(draw, shape, depth):
    kinds = ["conv", "conv", "grouped", "average", "max", "norm", "slice", "pad"]
    kinds += ["residual", "concat"] if depth else []
    kind = draw(st.sampled_from(kinds))
    channels, *size = shape
    if kind == "residual":
        body, out = draw(stacks(channels, tuple(size), depth))
        block = Residual(body, shape, out)
        if draw(st.booleans()):
            block = Residual(nn.Sequential(block, nn.ReLU(), nn.Conv2d(out[0], out[0], 1)), shape, out)
        return block, out
    if kind == "concat":
        return Concat(channels), (2 * channels, *size)
    if kind in ("slice", "pad"):
        layer = draw(slices(shape) if kind == "slice" else paddings())
        return layer, tuple(layer(torch.zeros(1, *shape)).shape[1:])
    if kind == "norm":
        return batch_norm(channels), shape
    if kind in ("average", "max"):
        kernel = tuple(draw(st.integers(1, min(3, extent))) for extent in size)
        stride = tuple(draw(st.integers(1, 3)) for _ in range(2))
        padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
        pool = nn.AvgPool2d(kernel, stride, padding) if kind == "average" else nn.MaxPool2d(kernel, stride, padding)
        return pool, tuple(pool(torch.zeros(1, *shape)).shape[1:])
    groups = channels if kind == "grouped" else 1
    outputs = channels * draw(st.integers(1, 2)) if kind == "grouped" else draw(st.integers(1, 4))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(2))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(2))
    kernel = tuple(
        draw(st.integers(1, max(1, min(4, (size[i] + 2 * padding[i] - 1) // dilation[i] + 1)))) for i in range(2)
    )
    stride = tuple(draw(st.integers(1, 3)) for _ in range(2))
    conv = nn.Conv2d(channels, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    return conv, tuple(conv(torch.zeros(1, *shape)).shape[1:])


@st.composite
def slices(draw, shape):
    starts = [draw(st.integers(0, dim - 1)) for dim in shape]
    stops = [draw(st.integers(start + 1, dim)) for start, dim in zip(starts, shape, strict=True)]
    return Slice(tuple(map(slice, starts, stops, [draw(st.integers(1, 3)) for _ in shape])))


@st.composite
def paddings(draw):
    return Pad([draw(st.integers(0, 2)) for _ in range(draw(st.sampled_from([2, 4, 6])))])


class Slice(nn.Module):
    """Some channels, rows and columns."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, x):
        return x[(slice(None), *self.parts)]


class Pad(nn.Module):
    """Zeros around the image, and channels of zeros."""

    def __init__(self, amounts):
        super().__init__()
        self.amounts = amounts

    def forward(self, x):
        return nn.functional.pad(x, self.amounts)


class Residual(nn.Module):
    """A body and a shortcut that brings the input to the body's shape, by whatever strided convolution does so."""

    def __init__(self, body, shape, out):
        super().__init__()
        self.body = body
        stride = tuple(max(1, -(-shape[1 + i] // out[1 + i])) for i in range(2))
        self.shortcut = nn.Conv2d(shape[0], out[0], 1, stride)
        fitting = self.shortcut(torch.zeros(1, *shape)).shape[1:]
        self.pool = nn.Identity() if tuple(fitting) == out else nn.AdaptiveAvgPool2d(out[1:])

    def forward(self, x):
        return self.body(x) + self.pool(self.shortcut(x))


class Concat(nn.Module):
    """Two convolutions side by side, with windows of different sizes."""

    def __init__(self, channels):
        super().__init__()
        self.small, self.large = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.cat([self.small(x), torch.relu(self.large(x))], 1)


def batch_norm(channels):
    layer = nn.BatchNorm2d(channels)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


def network(body, shape):
    count = shape[0] * shape[1] * shape[2]
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(count, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    return model.requires_grad_(False)


def bounds(model, x, eps=0.1, norm=torch.inf, method="CROWN", **options):
    net = lbp.BoundedModule(model, x, bound_opts={"activation_bound_option": "tight", **options})
    bounded = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=eps, norm=norm))
    return torch.stack(net.compute_bounds(x=(bounded,), method=method)), net


def assert_same(first, second):
    assert torch.allclose(first, second, rtol=1e-10, atol=1e-10 * max(1.0, float(second.abs().max())))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_windows_equal_whole_rows(data):
    """Of the textbook's method; with open rows alone, rows on windows also keep the bounds of layers that they pass."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    channels, size = data.draw(st.integers(1, 3)), data.draw(st.tuples(*[st.integers(1, 9)] * 2))
    model = network(*data.draw(stacks(channels, size)))
    x = torch.rand(2, channels, *size, dtype=torch.float64)
    norm = data.draw(st.sampled_from([torch.inf, 2.0]))
    windowed, _ = bounds(model, x, norm=norm, sparse_intermediate_bounds=False, crown_batch_size=37)
    whole, _ = bounds(model, x, norm=norm, sparse_intermediate_bounds=False, conv_mode="matrix")
    assert_same(windowed, whole)


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(5, 3, 3, padding=1),
    )
    return network(nn.Sequential(*layers, nn.ReLU()), (3, 4, 4))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3)])
def test_fields_larger_than_the_image(size):
    torch.manual_seed(1)
    body = nn.Sequential(*[m for _ in range(3) for m in (nn.Conv2d(2, 2, 5, padding=2), nn.ReLU())])
    model = network(body, (2, *size))
    x = torch.rand(3, 2, *size, dtype=torch.float64)
    whole, _ = bounds(model, x, sparse_intermediate_bounds=False, conv_mode="matrix")
    assert_same(bounds(model, x, sparse_intermediate_bounds=False)[0], whole)


ALL = slice(None)


@pytest.mark.parametrize(
    "parts", [(slice(1, 3), ALL, ALL), (ALL, slice(1, 4), ALL), (slice(0, 2), ALL, slice(2, 5)), (ALL, ALL, ALL)]
)
def test_slices_below_an_activation(parts):
    torch.manual_seed(2)
    channels = len(range(4)[parts[0]])
    body = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), Slice(parts), nn.ReLU(), nn.Conv2d(channels, 3, 3, padding=1), nn.ReLU()
    )
    x = torch.rand(2, 2, 6, 5, dtype=torch.float64)
    model = network(body, tuple(body(x[:1].float()).shape[1:]))
    whole, _ = bounds(model, x, sparse_intermediate_bounds=False, conv_mode="matrix")
    assert_same(bounds(model, x, sparse_intermediate_bounds=False)[0], whole)


def test_a_change_of_shape_below_an_activation():
    torch.manual_seed(3)
    layers = (nn.Conv2d(2, 3, 3), nn.Flatten(), nn.ReLU(), nn.Linear(36, 7), nn.ReLU(), nn.Linear(7, 2))
    model = nn.Sequential(*layers).double().eval().requires_grad_(False)
    x = torch.rand(2, 2, 6, 5, dtype=torch.float64)
    whole, _ = bounds(model, x, sparse_intermediate_bounds=False, conv_mode="matrix")
    assert_same(bounds(model, x, sparse_intermediate_bounds=False)[0], whole)


def test_a_batch_with_different_open_rows_is_its_images_one_by_one(model):
    x = torch.rand(3, 2, 8, 7, dtype=torch.float64)
    x[1] = 0.5
    together, _ = bounds(model, x, eps=0.05)
    alone = [bounds(model, x[i : i + 1], eps=0.05)[0] for i in range(3)]
    assert_same(together, torch.cat(alone, 1))


def test_open_rows_alone_bound_no_looser_than_all_rows(model):
    x = torch.rand(3, 2, 8, 7, dtype=torch.float64)
    (lower, upper), net = bounds(model, x)
    (all_lower, all_upper), textbook = bounds(model, x, sparse_intermediate_bounds=False)
    assert (lower >= all_lower - 1e-9).all()
    assert (upper <= all_upper + 1e-9).all()
    points = x + 0.1 * (2 * torch.rand(50, *x.shape, dtype=torch.float64) - 1)
    for point in points:
        values = model(point)
        assert ((lower <= values) & (values <= upper)).all()
    decided = 0
    for node, other in zip(net.get_layers_requiring_bounds(), textbook.get_layers_requiring_bounds(), strict=True):
        decided += int(((node.lower >= 0) | (node.upper <= 0)).sum())
        status = [(pair.lower >= 0).int() - (pair.upper <= 0).int() for pair in (node, other)]
        # What either way decides is decided alike.
        assert not ((status[0] * status[1]) < 0).any()
    assert decided > 0


def test_rows_that_a_layer_on_their_way_decides_are_dropped_there(model, monkeypatch):
    x = torch.rand(2, 2, 8, 7, dtype=torch.float64)
    whole, _ = bounds(model, x, eps=0.03)
    dropped = []
    chosen = WindowCoefficients.chosen
    monkeypatch.setattr(
        WindowCoefficients, "chosen", lambda rows, keep: dropped.append(rows.count - len(keep)) or chosen(rows, keep)
    )
    monkeypatch.setattr("lbp.methods.work.WORTH_EVALUATING", 0)
    (lower, upper), _ = bounds(model, x, eps=0.03)
    assert sum(dropped) > 0
    assert (lower >= whole[0] - 1e-9).all()
    assert (upper <= whole[1] + 1e-9).all()
    for point in x + 0.03 * (2 * torch.rand(50, *x.shape, dtype=torch.float64) - 1):
        assert ((lower <= model(point)) & (model(point) <= upper)).all()


def test_rows_are_evaluated_where_much_work_lies_ahead():
    """Not where intervals say the same, and not close to the input."""
    sizes = [(3, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1)]
    layers = [part for c, out, stride in sizes for part in (nn.Conv2d(c, out, 3, stride, 1), nn.ReLU())]
    network = build_network(nn.Sequential(*layers), torch.rand(1, 3, 32, 32), {})
    assert [node.name for node in worth_evaluating(network, network["8"])] == ["5"]


def test_gradients_flow_through_windows(model):
    x = torch.rand(2, 2, 8, 7, dtype=torch.float64)
    model.requires_grad_(True)
    gradients = []
    for mode in ("patches", "matrix"):
        found, _ = bounds(model, x, conv_mode=mode, sparse_intermediate_bounds=False)
        gradients.append(torch.autograd.grad(found.square().sum(), list(model.parameters())))
    for windowed, whole in zip(*gradients, strict=True):
        assert_same(windowed, whole)


@pytest.mark.parametrize("sparse", [True, False])
def test_the_gradient_of_windowed_bounds_is_the_derivative(sparse):
    torch.manual_seed(3)
    first, second = nn.Conv2d(1, 2, 2), nn.Conv2d(2, 2, 2)
    model = nn.Sequential(
        first, lbp.nn.ParamRamp((2, 2, 2), 0.1, 0.4), second, nn.ReLU(), nn.Flatten(), nn.Linear(2, 1)
    )
    model = model.double().eval()
    x = torch.rand(1, 1, 3, 3, dtype=torch.float64)

    def bound(*weights):
        named = dict(zip(("model.0.weight", "model.2.weight"), weights, strict=True))
        return torch.func.functional_call(Bounded(model, x, sparse), named, ())

    weights = (first.weight.detach().clone().requires_grad_(), second.weight.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(bound, weights)


class Bounded(nn.Module):
    """CROWN's bounds as a function of the parameters."""

    def __init__(self, model, x, sparse):
        super().__init__()
        self.model, self.x, self.sparse = model, x, sparse

    def forward(self):
        return bounds(self.model, self.x, eps=0.3, sparse_intermediate_bounds=self.sparse)[0]
