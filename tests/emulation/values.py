"""Values of an op beside those of the float64 reference, without gradients."""

from ops.cases import TOLERANCE, as_tuple, assert_close, converted

import lbp


def assert_values_match_reference(op, *args, dtype, **kwargs):
    """`ops.cases.assert_matches_reference` without gradients."""
    with lbp.backend("reference"):
        expected = op(*args, **kwargs)
    found = op(*converted(args, dtype), **converted(kwargs, dtype))
    pairs = [(f, e) for f, e in zip(as_tuple(found), as_tuple(expected), strict=True) if e is not None]
    assert_close(*zip(*pairs, strict=True), TOLERANCE[dtype], "output")
