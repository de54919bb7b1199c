"""Formulas over X_i and Y_i: linear inequalities joined by and, or."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

from lbp.vnnlib.syntax import Expression, Group, VnnLibError, Word, shown

MAX_CONJUNCTIONS = 100_000
"""Alternatives beyond this are refused: the disjunctive normal form grows with the product of nested disjunctions."""

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Atom:
    """`sum of weights * variables <= bound`.

    Attributes:
        weights: (variable, factor), factors other than 0.
        bound: a finite number.
        line: where it stands.
    """

    weights: tuple[tuple[str, float], ...]
    bound: float
    line: int


Alternatives = list[tuple[Atom, ...]]
"""A disjunction of conjunctions."""


@dataclass(frozen=True)
class Factored:
    """`common and (first or second or ...)`: atoms that all alternatives share are kept once.

    Attributes:
        common: atoms of every alternative.
        alternatives: the atoms that each has besides them.
    """

    common: tuple[Atom, ...]
    alternatives: Alternatives


def normal_form(formula: Expression, variables: Collection[str]) -> Alternatives:
    """Return a formula as a disjunction of conjunctions of linear inequalities.

    Args:
        formula: made of and, or, <=, >=, = over linear expressions with +, - and * by a number.
        variables: those that are declared.

    Raises:
        VnnLibError: anything else, or more than `MAX_CONJUNCTIONS` alternatives.
    """
    if not isinstance(formula, Group) or not formula.head:
        raise VnnLibError(
            f"line {formula.line}: {shown(formula)} is no formula; expected (<= ...), (and ...) or similar"
        )
    head, operands = formula.head, formula.items[1:]
    if head in ("and", "or") and not operands:
        raise VnnLibError(f"line {formula.line}: {shown(formula)} joins no formulas, so that nothing is asserted")
    if head == "and":
        factored = product([normal_form(part, variables) for part in operands], formula.line)
        return [(*factored.common, *alternative) for alternative in factored.alternatives]
    if head == "or":
        joined = [alternative for part in operands for alternative in normal_form(part, variables)]
        return _limited(joined, formula.line)
    if head in ("<=", ">=", "="):
        return [_comparison(formula, variables)]
    raise VnnLibError(f"line {formula.line}: {head!r} is not supported in {shown(formula)}; and, or, <=, >=, = are")


def product(parts: list[Alternatives], line: int) -> Factored:
    """Return the conjunction of disjunctions as a disjunction of conjunctions."""
    common = tuple(atom for part in parts if len(part) == 1 for atom in part[0])
    result: Alternatives = [()]
    for part in parts:
        if len(part) != 1:
            if len(result) * len(part) > MAX_CONJUNCTIONS:
                raise _too_many(line)
            result = [(*first, *second) for first in result for second in part]
    return Factored(common, result)


def _limited(alternatives: Alternatives, line: int) -> Alternatives:
    if len(alternatives) > MAX_CONJUNCTIONS:
        raise _too_many(line)
    return alternatives


def _too_many(line: int) -> VnnLibError:
    return VnnLibError(f"line {line}: the formula has more than {MAX_CONJUNCTIONS} alternatives; split the property")


def _comparison(formula: Group, variables: Collection[str]) -> tuple[Atom, ...]:
    if len(formula.items) != 3:
        raise VnnLibError(f"line {formula.line}: {shown(formula)} must compare two expressions")
    signs = {"<=": (1,), ">=": (-1,), "=": (1, -1)}[formula.head]
    left, right = formula.items[1:]
    if isinstance(left, Word) and isinstance(right, Word) and left.text in variables and right.text not in variables:
        # Nearly every line of a property is one of these.
        number = _number(right)
        return tuple(Atom(((left.text, float(sign)),), sign * number, formula.line) for sign in signs)
    difference = _sum(_linear(left, variables), _linear(right, variables), -1)
    return tuple(_atom(difference, sign, formula) for sign in signs)


Linear = dict[str, Fraction]
"""Factor per variable, exact; the constant under the empty name."""


def _atom(linear: Linear, sign: int, formula: Group) -> Atom:
    limit = -sign * linear.get("", Fraction(0))
    try:
        weights = {name: float(sign * factor) for name, factor in linear.items() if name and factor != 0}
        bound = float(limit)
    except OverflowError:
        raise VnnLibError(f"line {formula.line}: a number in {shown(formula)} is too large") from None
    if not weights:
        raise VnnLibError(f"line {formula.line}: {shown(formula)} compares nothing that varies")
    if any(Fraction(weights[name]) != sign * linear[name] for name in weights):
        raise VnnLibError(f"line {formula.line}: the factors in {shown(formula)} make one that float64 does not hold")
    if Fraction(bound) < limit:
        # The region, or the unsafe set, must hold the exact one.
        bound = math.nextafter(bound, math.inf)
    return Atom(tuple(sorted(weights.items())), bound, formula.line)


def _linear(expression: Expression, variables: Collection[str]) -> Linear:
    if isinstance(expression, Word):
        return _term(expression, variables)
    head, operands = expression.head, [_linear(part, variables) for part in expression.items[1:]]
    where = f"line {expression.line}: {shown(expression)}"
    if head not in ("+", "-", "*") or not operands:
        raise VnnLibError(f"{where} is no linear expression; +, - and * are supported")
    total = operands[0]
    if head == "-" and len(operands) == 1:
        return _sum({}, total, -1)
    for operand in operands[1:]:
        if head == "*":
            if set(total) - {""} and set(operand) - {""}:
                raise VnnLibError(f"{where} multiplies variables; only linear expressions are supported")
            number, linear = (total, operand) if set(operand) - {""} else (operand, total)
            factor = number.get("", Fraction(0))
            total = {name: value * factor for name, value in linear.items()}
        else:
            total = _sum(total, operand, 1 if head == "+" else -1)
    return total


def _sum(first: Linear, second: Linear, sign: int) -> Linear:
    total = dict(first)
    for name, value in second.items():
        total[name] = total.get(name, Fraction(0)) + sign * value
    return total


def _term(word: Word, variables: Collection[str]) -> Linear:
    if word.text in variables:
        return {word.text: Fraction(1)}
    return {"": Fraction(_number(word))}


def _number(word: Word) -> float:
    """Return the double nearest to a number, which is what every reader of such files takes it for."""
    if not _NUMBER.fullmatch(word.text):
        raise VnnLibError(f"line {word.line}: {word.text!r} is neither a number nor a declared variable")
    value = float(word.text)
    if not math.isfinite(value):
        raise VnnLibError(f"line {word.line}: the number {word.text} is too large")
    return value
