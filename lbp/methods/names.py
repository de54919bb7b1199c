"""Names of the methods: what bounds the hidden layers, and what the output."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lbp.errors import InvalidInputError, UnsupportedArgumentError

Scheme = Literal["ibp", "lbp", "crown", "relaxed-crown"]

METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN", "Relaxed-CROWN-v")
"""The methods of Lyu et al. 2021; v stands for a positive whole number."""


@dataclass(frozen=True)
class Method:
    """How hidden layers and the output are bounded (Lyu et al. 2021, Table of section 5).

    Attributes:
        hidden: bounds of pre-activations.
        output: bounds of the output.
        depth: activations over which Relaxed-CROWN substitutes back.
    """

    hidden: Scheme
    output: Scheme
    depth: int = 0

    @property
    def is_backward(self) -> bool:
        """Whether the output is bounded by back-substitution from the specification."""
        return self.output in ("crown", "relaxed-crown")

    def __str__(self) -> str:
        """Return the name as the paper writes it, such as "CROWN-IBP"."""
        if self.hidden == "relaxed-crown":
            return f"Relaxed-CROWN-{self.depth}"
        return self.output.upper() if self.hidden == self.output else f"{self.output}-{self.hidden}".upper()


_IBP = Method("ibp", "ibp")
_CROWN = Method("crown", "crown")
_CROWN_IBP = Method("ibp", "crown")
_LBP = Method("lbp", "lbp")
_CROWN_LBP = Method("lbp", "crown")

_NAMES = {
    "ibp": _IBP,
    "crown": _CROWN,
    "backward": _CROWN,
    "crown-ibp": _CROWN_IBP,
    "ibp+crown": _CROWN_IBP,
    "ibp+backward": _CROWN_IBP,
    "lbp": _LBP,
    "forward": _LBP,
    "crown-lbp": _CROWN_LBP,
    "forward+backward": _CROWN_LBP,
    "forward+crown": _CROWN_LBP,
}
_OPTIMIZED = ("crown-optimized", "alpha-crown", "forward-optimized")


def parse_method(name: str | None, *, ibp: bool = False, forward: bool = False) -> Method:
    """Return the method for a name, not case-sensitive, and the flags that scripts combine with it.

    Args:
        name: "IBP", "CROWN" = "backward", "CROWN-IBP" = "IBP+backward", "LBP" = "forward", "CROWN-LBP" =
            "forward+backward", "Relaxed-CROWN-v"; None with a flag.
        ibp: hidden layers by IBP; alone, everything.
        forward: hidden layers by LBP; alone, everything.

    Raises:
        UnsupportedArgumentError: an unknown name, or a method with optimised slopes.
        InvalidInputError: a name that is no string, flags that contradict the name, or neither name nor flag.
    """
    if name is None:
        if ibp == forward:
            raise InvalidInputError("method=None needs IBP=True or forward=True, and not both")
        return _IBP if ibp else _LBP
    method = _named(name)
    if ibp and forward:
        raise InvalidInputError("IBP=True and forward=True exclude each other")
    if ibp or forward:
        hidden = _IBP if ibp else _LBP
        if method == _CROWN:
            return _CROWN_IBP if ibp else _CROWN_LBP
        if method.hidden != hidden.hidden:
            raise InvalidInputError(f"method={name!r} does not go with {'IBP' if ibp else 'forward'}=True")
    return method


def _named(name: str) -> Method:
    if not isinstance(name, str):
        raise InvalidInputError(
            f"method must be a name or None, got {name!r}; use {', '.join(METHODS)} (v = 1, 2, ...)"
        )
    key = name.lower()
    if key in _NAMES:
        return _NAMES[key]
    relaxed = re.fullmatch(r"relaxed-crown-([0-9]{1,9})", key)
    if relaxed and int(relaxed.group(1)) >= 1:
        return Method("relaxed-crown", "relaxed-crown", int(relaxed.group(1)))
    if key in _OPTIMIZED:
        raise UnsupportedArgumentError(
            f"method={name!r}: optimised slopes are not implemented; use {', '.join(METHODS)}"
        )
    raise UnsupportedArgumentError(f"method={name!r} is not known; use {', '.join(METHODS)} (v = 1, 2, ...)")
