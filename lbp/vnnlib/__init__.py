"""VNN-LIB properties: a box of inputs, and outputs that must not be reached from it."""

from lbp.vnnlib.property import Box, Case, Conjunction, Property
from lbp.vnnlib.read import parse_vnnlib, read_vnnlib
from lbp.vnnlib.syntax import VnnLibError
from lbp.vnnlib.write import counterexample_text, property_text

__all__ = [
    "Box",
    "Case",
    "Conjunction",
    "Property",
    "VnnLibError",
    "counterexample_text",
    "parse_vnnlib",
    "property_text",
    "read_vnnlib",
]
