"""Bounds at a single point, which are the value there."""

import torch

import lbp


def bounds_are_the_value(net, model, point):
    lower, upper = net.compute_bounds(x=lbp.BoundedTensor(point, lbp.PerturbationLpNorm(eps=0.0)), method="IBP")
    value = model(point)
    return torch.allclose(lower, value, rtol=1e-12) and torch.allclose(upper, value, rtol=1e-12)
