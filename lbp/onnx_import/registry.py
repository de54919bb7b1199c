"""Which ONNX operator becomes which module.

Every operator file registers a function from an `OnnxCall` to a module under the operator's name. An operator without
an entry is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from lbp.errors import LbpError, UnsupportedLayerError
from lbp.onnx_import.evaluation import Array, Floats

Result = nn.Module | Array | Sequence[nn.Module]
"""A module that takes the inputs that depend on the network's input, in order; the modules of several outputs; or a
value that does not depend on the network's input after all."""

Operator = Callable[["OnnxCall"], Result]

OPERATORS: dict[str, Operator] = {}


def for_operators(*names: str) -> Callable[[Operator], Operator]:
    """Register a function for operators of the standard's default domain."""

    def register(operator: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, operator))
        return operator

    return register


class OnnxCall:
    """One node of an ONNX graph whose value depends on the network's input.

    Attributes:
        node: the node.
        name: its name for modules and messages.
        dtype: of the network's values.
        where: the file, for messages.
        opset: version of the operators.
    """

    def __init__(
        self,
        node: onnx.NodeProto,
        name: str,
        dtype: torch.dtype,
        where: str,
        shapes: Mapping[str, tuple[int, ...]],
        constants: Mapping[str, Array],
        opset: int,
    ) -> None:
        self.node = node
        self.name = name
        self.dtype = dtype
        self.where = where
        self.opset = opset
        self._shapes = shapes
        self._constants = constants
        self._attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}

    @property
    def array_dtype(self) -> type[np.floating]:
        """Type of the network's values in an array."""
        return np.float64 if self.dtype == torch.float64 else np.float32

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the inputs that depend on the network's input, in order."""
        return tuple(name for name in self.node.input if name in self._shapes)

    def is_bound(self, index: int) -> bool:
        """Whether an input is there and depends on the network's input."""
        return self._name(index) in self._shapes

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Return the shape of an input that depends on the network's input, as in the file: [1, *example]."""
        if not self.is_bound(index):
            raise self.refuse(f"has a constant as input {index}, where a value of the network is expected")
        return (1, *self._shapes[self._name(index)])

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute; strings as text, lists as lists. Numbers are those of float32, the default as well."""
        value = self._attributes.get(name, float(np.float32(default)) if isinstance(default, float) else default)
        return value.decode() if isinstance(value, bytes) else value

    def constant(self, index: int) -> Array | None:
        """Return an input that must not depend on the network's input, None if it is left out."""
        name = self._name(index)
        if not name:
            return None
        if name in self._shapes:
            raise self.refuse(
                f"has the input {name!r} that depends on the network's input where a constant is expected"
            )
        return self._constants[name]

    def integers(self, name: str, index: int) -> list[int] | None:
        """Return whole numbers that older versions keep in an attribute and newer ones in an input; None: neither."""
        if name in self._attributes:
            return [int(value) for value in np.atleast_1d(self._attributes[name])]
        values = self.constant(index)
        return None if values is None else [int(value) for value in values.reshape(-1)]

    def floats(self, index: int) -> Floats | None:
        """Return an input that must not depend on the network's input in the network's format, None if it is left out.

        Raises:
            UnsupportedLayerError: it is of another type, or has numbers that the format does not hold: rounded ones
                would be another network.
        """
        values = self.constant(index)
        if values is None:
            return None
        if values.dtype not in (np.float32, np.float64):
            raise self.refuse(f"has the input {self._name(index)!r} of type {values.dtype}; float is expected")
        own = self.array_dtype
        with np.errstate(over="ignore"):
            converted = np.array(values, dtype=own)
        changed = (converted != values) & ~np.isnan(values)
        if changed.any():
            raise self.refuse(
                f"has the constant {self._name(index)!r} of type {values.dtype}, of which {np.dtype(own)}, the type of "
                f"the network's input, does not hold {int(changed.sum())} of {values.size} numbers exactly; export the "
                "whole network in DOUBLE, or round the constant in the file"
            )
        return converted

    def tensor(self, index: int) -> Tensor:
        """Return a constant as a floating-point tensor of its own, in the network's format.

        Raises:
            UnsupportedLayerError: it is left out, of another type, or has entries that are NaN, infinite, or no numbers
                of the network's format.
        """
        values = self.floats(index)
        if values is None:
            raise self.refuse(f"lacks input {index}")
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise self.refuse(f"has {count} NaN or infinite entries in the constant {self._name(index)!r}")
        return torch.from_numpy(values)

    def number(self, value: float) -> Tensor:
        """Return a number as a 0-dim tensor of the network's dtype."""
        return torch.tensor(value, dtype=self.dtype, device="cpu")

    def axes(self, axes: Sequence[int], rank: int | None = None) -> list[int]:
        """Return axes counted from the front.

        Raises:
            UnsupportedLayerError: one is out of range, or named twice.
        """
        count = len(self.shape()) if rank is None else rank
        if any(not -count <= axis < count for axis in axes):
            raise self.refuse(f"has the axes {list(axes)}, which a value of {count} dimensions does not have")
        found = [axis % count for axis in axes]
        if len(set(found)) < len(found):
            raise self.refuse(f"has the axes {list(axes)}, one of them twice")
        return found

    def refuse(self, reason: str) -> UnsupportedLayerError:
        """Return the error to raise when this node cannot be converted."""
        shapes = ", ".join(f"{name!r} {[1, *self._shapes[name]]}" for name in self.sources)
        takes = f" on {shapes}" if shapes else ""
        domain = f"{self.node.domain}." if self.node.domain not in ("", "ai.onnx") else ""
        return UnsupportedLayerError(
            f"{self.where}: operator {domain}{self.node.op_type} (node {self.name!r}){takes} {reason}"
        )

    def convert(self) -> Result:
        """Return what the node becomes.

        Raises:
            UnsupportedLayerError: the operator, or this use of it, is not supported.
        """
        operator = OPERATORS.get(self.node.op_type) if self.node.domain in ("", "ai.onnx") else None
        if operator is None:
            raise self.refuse(f"is not supported. Supported: {', '.join(sorted(OPERATORS))}")
        try:
            return operator(self)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, LbpError):
                raise
            raise self.refuse(f"is damaged: {type(error).__name__}: {error}") from error

    def _name(self, index: int) -> str:
        return self.node.input[index] if index < len(self.node.input) else ""
