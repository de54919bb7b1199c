"""Small networks, regions and helpers that the tests of methods, graph and interface share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.nn import ParamRamp
from lbp.perturbations import PerturbationLpNorm

METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "Relaxed-CROWN-1", "Relaxed-CROWN-2", "CROWN")
STRATEGIES = ("adaptive", "tight", "constant", "same-slope", "zero-lb", "one-lb")
NORMS = (math.inf, 2.0, 1.0, 3.0)


def paired(first, second, third):
    """Triples in which every pair of a first and a second value occurs once, with third values taking turns.

    Where the first two have as many values as the third and more, every pair of values of any two occurs.
    """
    return [(a, b, third[(i + j) % len(third)]) for i, a in enumerate(first) for j, b in enumerate(second)]


def _ramp(shape, eta):
    size = torch.Size(shape).numel()
    return ParamRamp(shape, eta=eta, r=torch.linspace(0.5, 3.0, size).reshape(shape), dtype=torch.float64)


ACTIVATIONS: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "relu": lambda shape: nn.ReLU(),
    "leaky_relu": lambda shape: nn.LeakyReLU(0.2),
    "param_ramp": lambda shape: _ramp(shape, 0.0),
    "leaky_param_ramp": lambda shape: _ramp(shape, 0.1),
    "relu6": lambda shape: nn.ReLU6(),
    "hardtanh": lambda shape: nn.Hardtanh(-0.5, 1.0),
}


def seeded(build, seed=0):
    """Build a module with reproducible float64 parameters, large enough that signals survive several layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight *= 2
    return model


def chain_mlp(activation="relu", depth=4):
    """A chain with one affine node between activations; `depth` activations."""
    act = ACTIVATIONS[activation]

    def build():
        layers = [nn.Linear(5, 12), act((12,))]
        for _ in range(depth - 1):
            layers += [nn.Linear(12, 12), act((12,))]
        return nn.Sequential(*layers, nn.Linear(12, 3))

    return seeded(build)


def chain_cnn(activation="relu"):
    act = ACTIVATIONS[activation]
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            act((3, 3, 3)),
            nn.Conv2d(3, 4, 3, padding=2, dilation=2),
            act((4, 3, 3)),
            nn.Flatten(),
            nn.Linear(36, 8),
            act((8,)),
            nn.Linear(8, 3),
        )
    )


class Residual(nn.Module):
    """Two residual blocks, one with a projection, batch normalisation and pooling."""

    def __init__(self, activation="relu"):
        super().__init__()
        act = ACTIVATIONS[activation]
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act0 = act((4, 6, 6))
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.act1 = act((4, 6, 6))
        self.conv2 = nn.Conv2d(4, 4, 3, padding="same")
        self.act2 = act((4, 6, 6))
        self.down = nn.Conv2d(4, 2, 1, stride=2)
        self.conv3 = nn.Conv2d(4, 2, 3, stride=2, padding=1)
        self.act3 = act((2, 3, 3))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.act0(self.bn(self.stem(x)))
        x = self.act2(x + self.conv2(self.act1(self.conv1(x))))
        x = self.act3(self.down(x) - self.conv3(x))
        return self.fc(self.pool(x).view(x.size(0), -1))


class Dense(nn.Module):
    """A densely connected block: every layer reads all earlier ones."""

    def __init__(self, activation="relu"):
        super().__init__()
        act = ACTIVATIONS[activation]
        self.fc1, self.act1 = nn.Linear(5, 6), act((6,))
        self.fc2, self.act2 = nn.Linear(11, 6), act((6,))
        self.fc3, self.act3 = nn.Linear(17, 6), act((6,))
        self.out = nn.Linear(23, 3)

    def forward(self, x):
        for fc, act in ((self.fc1, self.act1), (self.fc2, self.act2), (self.fc3, self.act3)):
            x = torch.cat([x, act(fc(x))], dim=1)
        return self.out(x)


class Pooled(nn.Module):
    """Overlapping and dilated max pooling, before and after an activation."""

    def __init__(self, activation="relu"):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.act1 = ACTIVATIONS[activation]((3, 3, 3))
        self.conv2 = nn.Conv2d(3, 3, 2, padding=1)
        self.fc = nn.Linear(24, 3)

    def forward(self, x):
        x = self.conv2(self.act1(self.pool1(self.conv1(x))))
        x = F.max_pool2d(x, 2, stride=1, dilation=2)
        return self.fc(torch.flatten(torch.cat([x, -x], dim=1), 1))


IMAGE, VECTOR = (2, 6, 6), (5,)
NETWORKS: dict[str, tuple[Callable[[str], nn.Module], tuple[int, ...]]] = {
    "mlp": (chain_mlp, VECTOR),
    "cnn": (chain_cnn, IMAGE),
    "residual": (lambda activation: with_statistics(seeded(lambda: Residual(activation)), IMAGE), IMAGE),
    "dense": (lambda activation: seeded(lambda: Dense(activation)), VECTOR),
    "pooled": (lambda activation: seeded(lambda: Pooled(activation)), IMAGE),
}
CHAINS = ("mlp", "cnn")


def with_statistics(model, shape):
    """Give batch normalisation running statistics, scales and shifts that are not trivial."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            count = module.num_features
            with torch.no_grad():
                module.running_mean.copy_(torch.linspace(-0.3, 0.4, count))
                module.running_var.copy_(torch.linspace(0.5, 2.0, count))
                if module.affine:
                    module.weight.copy_(torch.linspace(-1.0, 1.5, count))
                    module.bias.copy_(torch.linspace(0.2, -0.2, count))
    return model


def network(name, activation="relu"):
    build, shape = NETWORKS[name]
    return build(activation), shape


def inputs(shape, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, *shape, generator=generator, dtype=torch.float64)


def bounded(model, shape, strategy="adaptive", dtype=torch.float64):
    example = torch.zeros(1, *shape, dtype=dtype)
    options = {"activation_bound_option": strategy, "sparse_intermediate_bounds": False}  # the methods as published
    return BoundedModule(model, example, bound_opts=options)


def region(x, eps=0.05, norm=math.inf, **kwargs):
    return BoundedTensor(x, PerturbationLpNorm(eps=eps, norm=norm, **kwargs))


def samples(x, eps, norm, count=200, clip=None, seed=2):
    """Points [count, *x.shape] of the region, half of them on its boundary."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(count, *x.shape, generator=generator, dtype=x.dtype)
    if math.isinf(norm):
        delta = torch.rand(count, *x.shape, generator=generator, dtype=x.dtype) * 2 - 1
        delta[::2] = delta[::2].sign()
    else:
        size = direction.flatten(2).norm(p=norm, dim=2)
        radius = torch.rand(count, x.shape[0], generator=generator, dtype=x.dtype)
        radius[::2] = 1
        delta = direction * (radius / size).reshape(count, x.shape[0], *[1] * (x.dim() - 1))
        if norm == 1:
            delta[:2] = 0
            delta[0].flatten(1)[:, 0], delta[1].flatten(1)[:, -1] = 1, -1
    points = x + eps * delta
    return points if clip is None else points.clamp(*clip)


def values_at(model, points, C=None):
    """Outputs [count, B, n] of the model, or of C times the model."""
    outputs = model(points.flatten(0, 1)).reshape(*points.shape[:2], -1)
    return outputs if C is None else torch.einsum("bsn,cbn->cbs", C, outputs)


def attacked(model, x, eps, C, steps=20, clip=None):
    """Points of the l_inf region that projected gradient descent finds for every row of C: [S, *x.shape]."""
    lower, upper = x - eps, x + eps
    if clip is not None:
        lower, upper = lower.clamp(min=clip[0]), upper.clamp(max=clip[1])
    found = []
    for row in range(C.shape[1]):
        point = x.clone()
        for _ in range(steps):
            point = point.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((C[:, row] * model(point).flatten(1)).sum(), point)
            point = torch.minimum(torch.maximum(point - eps / 4 * gradient.sign(), lower), upper)
        found.append(point.detach())
    return torch.stack(found)


def assert_contains(bounds, values: Tensor, slack=1e-9):
    """Every value [count, B, ...] lies within (lower, upper)."""
    lower, upper = (side.reshape(len(side), -1) for side in bounds)
    values = values.reshape(*values.shape[:2], -1)
    assert not lower.isnan().any()
    assert not upper.isnan().any()
    assert (values >= lower - slack).all(), f"a value is {(lower - values).max():.3e} below its lower bound"
    assert (values <= upper + slack).all(), f"a value is {(values - upper).max():.3e} above its upper bound"


def trained(model, shape, steps=40, bound_loss=False, eps=0.05):
    """Train a model on a simple task, on clean values or on interval bounds."""
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(64, *shape, generator=generator, dtype=torch.float64)
    labels = (x.flatten(1)[:, 0] * 3).long().clamp(max=2)
    net = bounded(model, shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        if bound_loss:
            lower, upper = net.compute_bounds(region(x, eps), method="IBP")
            worst = torch.where(F.one_hot(labels, 3).bool(), lower, upper)
            loss = F.cross_entropy(worst, labels)
        else:
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
    return model
