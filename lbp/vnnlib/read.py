"""From the text of a VNN-LIB file to a `Property`."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from fractions import Fraction
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from lbp.errors import reason_of
from lbp.vnnlib.formula import Alternatives, Atom, Factored, normal_form, product
from lbp.vnnlib.property import Box, Case, Conjunction, Property
from lbp.vnnlib.syntax import Group, VnnLibError, Word, parse_groups, shown

_VARIABLE = re.compile(r"([XY])_(0|[1-9][0-9]*)")
_WITHOUT_EFFECT = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit")
_QUESTIONS = ("check-sat", "exit")
"""They are about what stands before them, so that nothing may be declared or asserted after one."""


def read_vnnlib(path: str | PathLike[str]) -> Property:
    """Read a VNN-LIB file, plain or compressed by gzip.

    Raises:
        VnnLibError: no such file, no text, or as for `parse_vnnlib`; the message names file and line.
    """
    source = Path(path)
    try:
        content = source.read_bytes()
        text = (gzip.decompress(content) if source.suffix == ".gz" else content).decode()
    except FileNotFoundError as error:
        raise VnnLibError(f"{source}: no such file") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise VnnLibError(f"{source}: cannot be read ({reason_of(error)})") from error
    try:
        return parse_vnnlib(text)
    except VnnLibError as error:
        raise VnnLibError(f"{source}, {error}") from error


def parse_vnnlib(text: str) -> Property:
    """Read the text of a property.

    Understood are declarations of X_i and Y_i as real numbers and assertions made of and, or, <=, >=, = over linear
    expressions. Every alternative must bound each X_i from both sides; inequalities are over one X_i or over Y_i.

    Raises:
        VnnLibError: anything else; the message names the line.
    """
    variables: dict[str, int] = {}
    parts: list[Alternatives] = []
    asked: Group | None = None
    line = 1
    for command in parse_groups(text):
        line = command.line
        if asked is not None and command.head not in _WITHOUT_EFFECT:
            raise VnnLibError(
                f"line {line}: {shown(command)} stands after {shown(asked)} of line {asked.line}, which asks about "
                "what stands before it; make two files of two questions"
            )
        if command.head in ("declare-const", "declare-fun"):
            _declare(command, variables)
        elif command.head == "assert":
            if len(command.items) != 2:
                raise VnnLibError(f"line {line}: an assertion takes one formula, this one {len(command.items) - 1}")
            parts.append(normal_form(command.items[1], variables))
        elif command.head not in _WITHOUT_EFFECT:
            raise VnnLibError(f"line {line}: {shown(command)} is not supported")
        elif command.head in _QUESTIONS:
            asked = asked or command
    inputs, outputs = (_count(kind, variables) for kind in "XY")
    return Property(inputs, outputs, _cases(product(parts, line), inputs, outputs))


def _declare(command: Group, variables: dict[str, int]) -> None:
    match command.items[1:]:
        case (Word(name), Word("Real")) if command.head == "declare-const":
            pass
        case (Word(name), Group(()), Word("Real")) if command.head == "declare-fun":
            pass
        case _:
            raise VnnLibError(f"line {command.line}: {shown(command)} must declare a real number X_i or Y_i")
    if not _VARIABLE.fullmatch(name):
        raise VnnLibError(f"line {command.line}: {name!r} is neither an input X_i nor an output Y_i")
    if name in variables:
        raise VnnLibError(f"line {command.line}: {name} is declared twice")
    variables[name] = command.line


def _count(kind: str, variables: dict[str, int]) -> int:
    """Return the number of variables of a kind, after checking that they are numbered without gaps."""
    numbers = sorted(int(name[2:]) for name in variables if name[0] == kind)
    if not numbers:
        raise VnnLibError(f"line 1: no variable {kind}_0 is declared")
    for expected, number in enumerate(numbers):
        if number != expected:
            line = variables[f"{kind}_{number}"]
            raise VnnLibError(f"line {line}: {kind}_{number} is declared, but {kind}_{expected} is not")
    return len(numbers)


def _cases(formula: Factored, inputs: int, outputs: int) -> tuple[Case, ...]:
    """Return the alternatives by box, in the order of the file; empty boxes are left out."""
    common_inputs, common_outputs = _by_kind(formula.common)
    common = _tightened(([-math.inf] * inputs, [math.inf] * inputs), common_inputs)
    cases: dict[tuple[tuple[float, ...], tuple[float, ...]], list[Conjunction]] = {}
    for alternative in formula.alternatives:
        on_inputs, on_outputs = _by_kind(alternative)
        lower, upper = _tightened(common, on_inputs)
        _check_complete(lower, upper, [*formula.common, *alternative])
        if all(low <= high for low, high in zip(lower, upper, strict=True)):
            unsafe = _conjunction([*common_outputs, *on_outputs], outputs)
            cases.setdefault((tuple(lower), tuple(upper)), []).append(unsafe)
    return tuple(Case(_box(*ends), tuple(unsafe)) for ends, unsafe in cases.items())


def _by_kind(atoms: Sequence[Atom]) -> tuple[list[Atom], list[Atom]]:
    """Return the inequalities over inputs and those over outputs."""
    on_inputs: list[Atom] = []
    on_outputs: list[Atom] = []
    for atom in atoms:
        kinds = {name[0] for name, _ in atom.weights}
        if len(kinds) == 2:
            raise VnnLibError(f"line {atom.line}: an inequality between inputs and outputs is not supported")
        (on_inputs if "X" in kinds else on_outputs).append(atom)
    return on_inputs, on_outputs


Ends = tuple[list[float], list[float]]


def _tightened(ends: Ends, atoms: Sequence[Atom]) -> Ends:
    """Return lower and upper ends of a box cut by inequalities over single inputs."""
    lower, upper = list(ends[0]), list(ends[1])
    for atom in atoms:
        if len(atom.weights) != 1:
            names = ", ".join(name for name, _ in atom.weights)
            raise VnnLibError(
                f"line {atom.line}: an inequality over several inputs ({names}); the inputs must form a box"
            )
        ((name, factor),) = atom.weights
        index, end = int(name[2:]), atom.bound / factor
        if abs(factor) != 1 and (math.isinf(end) or Fraction(end) * Fraction(factor) < Fraction(atom.bound)):
            # Rounding, or overflow, has moved the end into the box, which must hold the exact quotient.
            end = math.nextafter(end, math.copysign(math.inf, factor))
        if factor > 0:
            upper[index] = min(upper[index], end)
        else:
            lower[index] = max(lower[index], end)
    return lower, upper


def _check_complete(lower: list[float], upper: list[float], atoms: Sequence[Atom]) -> None:
    for sides, word in ((lower, "lower"), (upper, "upper")):
        for index, end in enumerate(sides):
            if not math.isfinite(end):
                line = atoms[-1].line if atoms else 1
                raise VnnLibError(f"line {line}: X_{index} has no finite {word} bound among the assertions up to here")


def _box(lower: Sequence[float], upper: Sequence[float]) -> Box:
    return Box(_float64(lower), _float64(upper))


def _conjunction(atoms: Sequence[Atom], outputs: int) -> Conjunction:
    matrix: Tensor = torch.zeros(len(atoms), outputs, dtype=torch.float64, device="cpu")
    for row, atom in enumerate(atoms):
        for name, factor in atom.weights:
            matrix[row, int(name[2:])] = factor
    return Conjunction(matrix, _float64([atom.bound for atom in atoms]))


def _float64(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")
