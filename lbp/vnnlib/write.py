"""Properties and counterexamples as VNN-LIB text."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lbp.vnnlib.property import Box, Case, Conjunction, Property


def property_text(problem: Property) -> str:
    """Return the text of a property, which `parse_vnnlib` reads as an equal one; its cases must have unsafe sets."""
    lines = [f"(declare-const X_{i} Real)" for i in range(problem.inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(problem.outputs)]
    cases = [f"(and {_box(case.box)} {_unsafe(case)})" for case in problem.cases]
    # Without cases: a box that is empty.
    if not cases:
        bounds = " ".join(f"(<= X_{i} 0.0) (>= X_{i} 1.0)" for i in range(problem.inputs))
        cases = [f"(and {bounds})"]
    return "\n".join([*lines, "(assert (or", *cases, "))"]) + "\n"


def counterexample_text(x: Tensor, y: Tensor) -> str:
    """Return an input [inputs] and its output [outputs] as VNN-COMP writes counterexamples."""
    pairs = [f"(X_{i} {value!r})" for i, value in enumerate(x.reshape(-1).tolist())]
    pairs += [f"(Y_{i} {value!r})" for i, value in enumerate(y.reshape(-1).tolist())]
    return "(" + "\n".join(pairs) + ")\n"


def _box(box: Box) -> str:
    ends = zip(box.lower.tolist(), box.upper.tolist(), strict=True)
    return " ".join(f"(>= X_{i} {low!r}) (<= X_{i} {high!r})" for i, (low, high) in enumerate(ends))


def _unsafe(case: Case) -> str:
    return "(or " + " ".join(f"(and {' '.join(_inequalities(part))})" for part in case.unsafe) + ")"


def _inequalities(part: Conjunction) -> Iterator[str]:
    for row, bound in zip(part.matrix.tolist(), part.bound.tolist(), strict=True):
        terms = " ".join(f"(* {factor!r} Y_{i})" for i, factor in enumerate(row) if factor != 0)
        yield f"(<= (+ {terms}) {bound!r})"
