"""Verification of properties: bounds, an attack, and splitting of the input where it has few dimensions."""

from lbp.verification.properties.deadline import Deadline, OutOfTimeError
from lbp.verification.properties.verify import (
    CASCADE,
    PropertyResult,
    Verdict,
    check_split_method,
    verify_property,
)

__all__ = [
    "CASCADE",
    "Deadline",
    "OutOfTimeError",
    "PropertyResult",
    "Verdict",
    "check_split_method",
    "verify_property",
]
