"""Programs written for auto_LiRPA, with lbp's classes under that name."""

import logging
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import lbp.bounded
import lbp.perturbations
import lbp.utils


@pytest.fixture(autouse=True)
def peer_name(monkeypatch):
    """Make `auto_LiRPA` importable, with lbp's classes in it."""
    package = types.ModuleType("auto_LiRPA")
    package.BoundedModule = lbp.bounded.BoundedModule
    package.BoundedTensor = lbp.bounded.BoundedTensor
    monkeypatch.setitem(sys.modules, "auto_LiRPA", package)
    monkeypatch.setitem(sys.modules, "auto_LiRPA.perturbations", lbp.perturbations)
    monkeypatch.setitem(sys.modules, "auto_LiRPA.utils", lbp.utils)


def _images(count=2):
    return torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def test_bounds_of_a_convolutional_classifier():
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationLpNorm
    from auto_LiRPA.utils import Flatten

    model = nn.Sequential(
        nn.Conv2d(1, 4, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        Flatten(),
        nn.Linear(8 * 3 * 3, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
    )
    image = _images()
    lirpa_model = BoundedModule(model, torch.empty_like(image), device=image.device)
    ptb = PerturbationLpNorm(norm=np.inf, eps=0.02)
    image = BoundedTensor(image, ptb)
    pred = lirpa_model(image)
    gaps = {}
    for method in ["IBP", "IBP+backward (CROWN-IBP)", "backward (CROWN)", "forward", "forward+backward"]:
        lb, ub = lirpa_model.compute_bounds(x=(image,), method=method.split()[0])
        assert lb.shape == ub.shape == (2, 10)
        assert (lb <= pred).all()
        assert (pred <= ub).all()
        gaps[method.split()[0]] = (ub - lb).mean().item()
    assert gaps["backward"] < gaps["IBP"]


def test_margins_with_a_specification_matrix_and_a_box():
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationLpNorm
    from auto_LiRPA.utils import get_spec_matrix

    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 30), nn.ReLU(), nn.Linear(30, 10))
    x, y = _images(4), torch.tensor([0, 3, 9, 5])
    c = get_spec_matrix(x, y, 10)
    net = BoundedModule(model, x, bound_opts={"activation_bound_option": "same-slope", "conv_mode": "patches"})
    x_L, x_U = (x - 0.02).clamp(min=0), (x + 0.02).clamp(max=1)
    bounded_x = BoundedTensor(x, PerturbationLpNorm(norm=np.inf, eps=0, x_L=x_L, x_U=x_U))
    lb, ub = net.compute_bounds(x=(bounded_x,), C=c, method="CROWN", bound_upper=False)
    assert ub is None
    assert lb.shape == (4, 9)
    logits = model(x_U)
    assert (lb <= (c @ logits.unsqueeze(-1)).squeeze(-1) + 1e-5).all()


def test_training_with_crown_ibp_reuses_the_interval_bounds():
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationLpNorm
    from auto_LiRPA.utils import get_spec_matrix

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 3))
    data = _images(32)
    labels = (data.flatten(1)[:, :48].mean(1) * 30).long() % 3
    net = BoundedModule(model, data, bound_opts={"activation_bound_option": "one-lb", "loss_fusion": False})
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    c = get_spec_matrix(data, labels, 3)
    losses = []
    net.train()
    for _ in range(15):
        optimizer.zero_grad()
        output = net(data)
        x = BoundedTensor(data, PerturbationLpNorm(norm=np.inf, eps=0.005))
        ilb, iub = net.compute_bounds(x=(x,), IBP=True, C=c, method=None)
        clb, cub = net.compute_bounds(IBP=False, C=c, method="backward", bound_upper=False)
        lb = 0.5 * clb + 0.5 * ilb
        padded = torch.cat([torch.zeros(lb.size(0), 1), lb], dim=1)
        robust = nn.functional.cross_entropy(-padded, torch.zeros(lb.size(0), dtype=torch.long))
        loss = robust + nn.functional.cross_entropy(output, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert cub is None
        assert iub is not None
    assert losses[-1] < losses[0]


def test_training_with_bounds_of_the_input_that_the_model_was_called_with():
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationLpNorm
    from auto_LiRPA.utils import get_spec_matrix

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 3))
    net = BoundedModule(model, _images(2))
    net.train()
    for data in (_images(8), _images(5) / 2):
        c = get_spec_matrix(data, torch.zeros(len(data), dtype=torch.long), 3)
        x = BoundedTensor(data, PerturbationLpNorm(norm=np.inf, eps=0.05, x_L=data - 0.05, x_U=data + 0.05))
        margins = torch.einsum("bso,bo->bs", c, net(x))
        ilb, iub = net.compute_bounds(IBP=True, C=c, method=None)
        clb, cub = net.compute_bounds(IBP=False, C=c, method="backward", bound_upper=False)
        assert cub is None
        assert (ilb <= margins).all()
        assert (margins <= iub).all()
        assert (clb <= margins).all()
        torch.testing.assert_close(clb, net.compute_bounds(x=(x,), C=c, method="CROWN-IBP", bound_upper=False)[0])


def test_residual_network_with_functional_calls():
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationLpNorm

    class BasicBlock(nn.Module):
        def __init__(self, in_planes, planes, stride=1):
            super().__init__()
            self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.shortcut = nn.Sequential()
            if stride != 1 or in_planes != planes:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(planes)
                )

        def forward(self, x):
            out = nn.functional.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += self.shortcut(x)
            return nn.functional.relu(out)

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(BasicBlock(1, 4), BasicBlock(4, 8, stride=2))
            self.linear = nn.Linear(8 * 3 * 3, 10)

        def forward(self, x):
            out = self.layers(x)
            out = nn.functional.avg_pool2d(out, 2)
            out = torch.flatten(out, 1)
            return self.linear(out)

    torch.manual_seed(0)
    model = ResNet().eval()
    x = _images()
    net = BoundedModule(model, x, bound_opts={"sparse_intermediate_bounds": False})
    bounded_x = BoundedTensor(x, PerturbationLpNorm(norm=2, eps=0.1))
    required_A = {net.output_name[0]: [net.input_name[0]]}
    lb, _, A_dict = net.compute_bounds(x=(bounded_x,), method="CROWN", return_A=True, needed_A_dict=required_A)
    A = A_dict[net.output_name[0]][net.input_name[0]]
    lower_A, lower_bias = A["lA"], A["lbias"]
    assert lower_A.shape == (2, 10, 1, 12, 12)
    extreme = (lower_A.flatten(2) @ x.flatten(1).unsqueeze(-1)).squeeze(-1) + lower_bias
    extreme = extreme - 0.1 * lower_A.flatten(2).norm(dim=2)
    torch.testing.assert_close(extreme, lb, rtol=1e-4, atol=1e-4)
    lb.sum().backward()
    assert model.layers[0].conv1.weight.grad.abs().sum() > 0


def test_a_batch_of_eps_and_names_that_are_not_there_yet():
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationL0Norm, PerturbationLpNorm

    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    x = _images(3)
    net = BoundedModule(model, x)
    eps = torch.tensor([0.0, 0.01, 0.1])
    lb, ub = net.compute_bounds(x=(BoundedTensor(x, PerturbationLpNorm(eps=eps)),), method="IBP")
    gaps = (ub - lb).mean(1)
    assert gaps[0] < gaps[1] < gaps[2]
    with pytest.raises(NotImplementedError):
        PerturbationL0Norm(eps=1, x_L=x, x_U=x, ratio=1.0)
    with pytest.raises(NotImplementedError):
        net.compute_bounds(x=(BoundedTensor(x, PerturbationLpNorm(eps=0.1)),), method="CROWN-Optimized")


def test_every_public_name_of_the_perturbations_comes_with_a_star():
    names = {}
    exec("from auto_LiRPA.perturbations import *", names)
    del names["__builtins__"]
    assert set(names) == {"BoundedParameter", "BoundedTensor", "PerturbationL0Norm", "PerturbationLpNorm"}


def test_the_logger_of_the_utilities_is_the_package_s():
    from auto_LiRPA.utils import logger

    assert logger is logging.getLogger("lbp")
    assert not logger.handlers
