"""How many images at a time."""

from lbp.bounded import BoundedModule
from lbp.methods import parse_method

LARGEST_BATCH = 512
"""More images at a time do not make a method faster, and results come later."""

_LARGEST_OF_ROWS = 16
"""The same for methods that substitute back from every hidden neuron: one image has thousands of rows already."""


def images_at_once(bounded: BoundedModule, method: str, chosen: int | None = None) -> int:
    """As many images as the memory budget of a bounded network allows for a method, from 1 to `LARGEST_BATCH`.

    Args:
        bounded: network; its option `memory_budget` counts, or the memory that is free.
        method: as `compute_bounds` takes it.
        chosen: the caller's own choice, which goes before.

    Raises:
        InvalidInputError: a budget that is too small for one image; the least that is needed is named.
    """
    most = _LARGEST_OF_ROWS if parse_method(method).hidden in ("crown", "relaxed-crown") else LARGEST_BATCH
    return int(chosen) if chosen else min(most, bounded.images_within(method))
