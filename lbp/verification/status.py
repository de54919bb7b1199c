"""Neuron status: how much of every activation is linear over the input region (Lyu et al. 2021)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.errors import InvalidInputError
from lbp.graph.activation import RampNode
from lbp.nn import evaluation_mode
from lbp.ops import ramp_interval_with_status
from lbp.perturbations import PerturbationLpNorm
from lbp.strategies import STATUSES
from lbp.verification.checks import check_inputs
from lbp.verification.verify import bound_options


@dataclass(frozen=True)
class LayerStatus:
    """Shares of the statuses in one activation layer.

    Attributes:
        layer: name of the activation.
        shares: by status, in the order of `lbp.strategies.STATUSES`; they add up to 1.
    """

    layer: str
    shares: dict[str, float]


def neuron_status(
    model: nn.Module,
    x: Tensor,
    eps: float,
    *,
    clip: tuple[float, float] | None = None,
    method: str = "IBP",
    batch_size: int = 256,
) -> list[LayerStatus]:
    """Counts the statuses of all neurons over l_inf balls around the inputs.

    Args:
        model: network; run in evaluation mode and put back as it was.
        x: inputs [N, *shape].
        eps: radius.
        clip: valid range of the data.
        method: which bounds of the pre-activations decide the status.
        batch_size: examples at a time.

    Returns:
        one entry per ReLU, LeakyReLU, ParamRamp or Hardtanh layer, in the order of the network.

    Raises:
        InvalidInputError: no inputs, or such that do not fit; bounds that are NaN, of which no status follows.
    """
    check_inputs(model, x)
    if len(x) == 0:
        raise InvalidInputError(f"neuron_status needs inputs, got shape {list(x.shape)}")
    with evaluation_mode(model), torch.no_grad():
        net = BoundedModule(model, x[:1], bound_opts=bound_options("tight"))
        totals: dict[str, Tensor] = {}
        for part in x.split(batch_size):
            region = BoundedTensor(part, PerturbationLpNorm(eps=eps, norm=math.inf, clip=clip))
            net.compute_bounds(x=(region,), method=method)
            for node in net.activations():
                if isinstance(node, RampNode):
                    counts = _counts(node)
                    totals[node.name] = totals[node.name] + counts if node.name in totals else counts
    return [
        LayerStatus(name, dict(zip(STATUSES, (counts / counts.sum()).tolist(), strict=True)))
        for name, counts in totals.items()
    ]


def _counts(node: RampNode) -> Tensor:
    lower, upper = node.pre_activation.lower, node.pre_activation.upper
    assert lower is not None
    assert upper is not None
    undefined = int((lower.isnan() | upper.isnan()).sum())
    if undefined:
        raise InvalidInputError(
            f"{node.name}: the bounds of {undefined} neurons are NaN; take a smaller eps, or a network without NaN"
        )
    return ramp_interval_with_status(lower, upper, *node.ramp_parameters())[2]
