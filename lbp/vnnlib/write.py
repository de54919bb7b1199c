"""Properties and counterexamples as VNN-LIB text."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lbp.vnnlib.property import Box, Case, Conjunction, Property


def property_text(problem: Property) -> str:
    """Return the text of a property, which `parse_vnnlib` reads as an equal one.

    A row of zeros cannot be written: it is left out where it holds for all outputs, and with its set, which is empty,
    where it holds for none; so is a case without unsafe sets.
    """
    lines = [f"(declare-const X_{i} Real)" for i in range(problem.inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(problem.outputs)]
    cases = [line for case in problem.cases for line in _alternatives(case)]
    # Without any: a box that is empty.
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


def _alternatives(case: Case) -> list[str]:
    """Return a case as formulas: one, or one for every unsafe set where one of them holds all outputs."""
    box = _box(case.box)
    sets = [" ".join(_inequalities(part)) for part in case.unsafe if not _is_empty(part)]
    if all(sets):
        return [f"(and {box} (or {' '.join(f'(and {rows})' for rows in sets)}))"] if sets else []
    return [f"(and {box} {rows})" for rows in sets]


def _is_empty(part: Conjunction) -> bool:
    """Whether a row of zeros is above its bound."""
    return bool(((part.matrix == 0).all(1) & (part.bound < 0)).any())


def _inequalities(part: Conjunction) -> Iterator[str]:
    """Return the rows that are not zero."""
    for row, bound in zip(part.matrix.tolist(), part.bound.tolist(), strict=True):
        terms = " ".join(f"(* {factor!r} Y_{i})" for i, factor in enumerate(row) if factor != 0)
        if terms:
            yield f"(<= (+ {terms}) {bound!r})"
