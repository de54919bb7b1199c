"""The cases of methods, training steps and growth, the most telling first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lbp.bench.networks import NETWORKS, Activation, Network, named, neurons

METHODS = ("CROWN", "LBP", "CROWN-IBP", "IBP", "CROWN-LBP")
TRAINING_METHODS = ("CROWN-IBP", "IBP")
TRAINING_NETWORKS = ("DM-Large", "DM-Medium", "DM-Small", "CNN-7+BN")
ACTIVATIONS: tuple[Activation, ...] = ("ReLU", "ParamRamp")

GROWTH_START = {"width": 8, "depth": 4, "image": 12, "batch": 1}
GROWTH = {"width": (4, 8, 16, 32), "depth": (2, 4, 8, 16), "image": (8, 12, 16, 24), "batch": (1, 2, 4, 8)}
"""Sizes of the chains: one quantity grows, the others stay at their start."""

GROWTH_CONTENDERS = {"LBP": ("native", "native, dense"), "CROWN": ("native, every row", "native, dense")}
"""Windowed and dense coefficients of each method."""


@dataclass(frozen=True)
class Case:
    """What all contenders do in turn.

    Attributes:
        level: "methods", "training" or "growth".
        name: of its rows.
        method: by its name in lbp.
        batch: images.
        networks: the same network with each activation, which take turns as well.
        parameters: of its rows.
        size: the number that grows in cases of the same `family`, to which time is proportional, or more.
        contenders: who may take part; empty for all.
    """

    level: Literal["methods", "training", "growth"]
    name: str
    method: str
    batch: int
    networks: tuple[Network, ...]
    parameters: dict[str, float | str]
    size: int
    contenders: tuple[str, ...] = ()
    family: tuple[str, ...] = field(default=())


def network_cases(
    level: Literal["methods", "training"],
    networks: Sequence[str],
    methods: Sequence[str],
    batches: Sequence[int],
) -> Iterator[Case]:
    """Yields methods or training steps on networks, all of them with the first batch before the next."""
    counts: dict[str, int] = {}
    for batch, name, method in itertools.product(batches, networks, methods):
        variants = tuple(named(name, activation) for activation in ACTIVATIONS)
        if name not in counts:
            counts[name] = neurons(variants[0])
        parameters: dict[str, float | str] = {"network": name, "method": method, "neurons": counts[name]}
        title = f"{name} {method} B={batch}"
        yield Case(level, title, method, batch, variants, {**parameters, "batch": batch}, batch, family=(name, method))


def all_networks(level: Literal["methods", "training"]) -> tuple[str, ...]:
    """Returns the names of the networks of a level."""
    return tuple(NETWORKS) if level == "methods" else TRAINING_NETWORKS


def growth_cases(methods: Sequence[str]) -> Iterator[Case]:
    """Yields chains of 3x3 convolutions of growing width, depth, image size and batch."""
    for method, (quantity, values) in itertools.product(GROWTH_CONTENDERS, GROWTH.items()):
        if methods and method not in methods:
            continue
        for value in values:
            sizes = GROWTH_START | {quantity: value}
            network = Network("chain", "ReLU", (3, sizes["image"], sizes["image"]), sizes["width"], sizes["depth"])
            yield Case(
                "growth",
                f"{method} {quantity}={value}",
                method,
                sizes["batch"],
                (network,),
                {"quantity": quantity, "value": value},
                value,
                GROWTH_CONTENDERS[method],
                family=(method, quantity),
            )
