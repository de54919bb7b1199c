"""Long sums in blocks: a sum of n products rounds as often as its longest chain of additions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

BLOCK = 512
"""Terms of a block: few enough for a small error, many enough for the library's products to be fast."""


def blocks(terms: int) -> Iterator[slice]:
    """Return the blocks of a sum."""
    return (slice(first, min(first + BLOCK, terms)) for first in range(0, max(terms, 1), BLOCK))


def blocked_terms(terms: int) -> int:
    """Return how often a sum of so many products rounds when its blocks are added up one after the other."""
    return terms if terms <= BLOCK else BLOCK + -(-terms // BLOCK)


def sum_in_blocks(terms: int, part: Callable[[slice], Tensor]) -> Tensor:
    """Return the sum of the parts that the blocks contribute; two of them are held beside it at a time, at most."""
    parts = map(part, blocks(terms))
    total = next(parts)
    for more in parts:
        total = total + more
    return total
