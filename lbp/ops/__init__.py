"""Bound ops (reference only for the moment)."""
from lbp.reference import *
