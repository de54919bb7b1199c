"""The bounding methods: which layer is asked for which bounds, and in which order."""

from lbp.methods.names import METHODS, Method, parse_method
from lbp.methods.problem import Problem
from lbp.methods.solve import Solution, solve

__all__ = ["METHODS", "Method", "Problem", "Solution", "parse_method", "solve"]
