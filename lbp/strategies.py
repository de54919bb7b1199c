"""The bounding-line strategies and the sides of a bound: names for users, codes for the kernels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

STRATEGIES: dict[str, int] = {
    "constant": 0,
    "tight": 1,
    "adaptive": 2,
    "same-slope": 3,
    "zero": 4,
    "one": 5,
    "slopes": 6,
    "lines": 7,
}
"""How the free bounding lines of an activation are chosen (Lyu et al. 2021, sections 3 and 5).

``constant``, ``tight`` and ``adaptive`` are the paper's. ``same-slope`` gives both lines the slope of the chord,
``zero`` and ``one`` take the ends of the admissible range of the lower slope, ``slopes`` takes slopes from the
caller, clamped to the admissible range, and ``lines`` takes slopes and intercepts from the caller as they are (other
activations).
"""

SIDES: dict[str, int] = {"lower": 1, "upper": 2, "both": 3}
"""Which sides a coefficient tensor ``A [K, B, S, *shape]`` holds along its first dimension."""

STATUSES: tuple[str, ...] = (
    "left dead",
    "left unstable",
    "alive",
    "right unstable",
    "right dead",
    "unstable",
)
"""The six statuses of a neuron with pre-activation bounds [l, u] and bending point r (section 5 of Lyu et al. 2021).

Left dead: u <= 0. Left unstable: l < 0 < u <= r. Alive: 0 <= l and u <= r. Right unstable: 0 <= l < r < u. Right dead:
r <= l, r < u. Unstable: l < 0 and r < u. The first that fits decides.
"""


class BoundingLines(NamedTuple):
    """Lines ``lower_slope z + lower_intercept <= act(z) <= upper_slope z + upper_intercept``, each [B, *shape]."""

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor


def strategy_code(strategy: str) -> int:
    """Return the kernel's code of a strategy name.

    Raises:
        ValueError: the name is not one of `STRATEGIES`.
    """
    try:
        return STRATEGIES[strategy]
    except KeyError:
        raise ValueError(
            f"unknown bounding-line strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}"
        ) from None


def side_code(sides: str) -> int:
    """Return the kernel's code of a choice of sides: 1 lower, 2 upper, 3 both.

    Raises:
        ValueError: the name is not one of `SIDES`.
    """
    try:
        return SIDES[sides]
    except KeyError:
        raise ValueError(f"unknown sides {sides!r}; choose one of {', '.join(SIDES)}") from None


def side_names(sides: str) -> tuple[str, ...]:
    """Return the side held at each index of the first dimension of a coefficient tensor, in order."""
    side_code(sides)
    return ("lower", "upper") if sides == "both" else (sides,)
