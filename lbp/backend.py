"""Which implementation the ops use: the extension's kernels or plain PyTorch."""

from __future__ import annotations

import os
from types import TracebackType

BACKENDS = ("native", "reference")


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    return name


_current = _checked(os.environ.get("LBP_BACKEND", "native"))


def current_backend() -> str:
    """Return the name of the backend in use, ``"native"`` or ``"reference"``."""
    return _current


class backend:
    """Switch every op of the package to one backend, for good or for the length of a ``with`` block.

    ``"native"`` runs the extension's kernels, ``"reference"`` the same functions in plain PyTorch (the baseline of the
    benchmarks and the oracle of the tests). The environment variable ``LBP_BACKEND`` sets the one to start with.

    Bounds have first derivatives in reverse mode; forward mode is refused by name. The native ops refuse second
    derivatives too; the reference has what PyTorch has, which for balls of other p than 1 and infinity may be NaN.

    Example:
        >>> with lbp.backend("reference"):
        ...     lower, upper = net.compute_bounds(x=(x,), method="CROWN")

    Raises:
        ValueError: the name is neither of the two.
    """

    def __init__(self, name: str) -> None:
        global _current
        self._previous = _current
        _current = _checked(name)

    def __enter__(self) -> backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = self._previous
