"""The SMT-LIB syntax under VNN-LIB: words and nested lists, each with its line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lbp.errors import LbpError

MAX_DEPTH = 200
"""Nesting beyond this is refused; formulas of properties need about five levels."""

_TOKEN = re.compile(
    r"(?P<skip>[ \t\f\v]+|;[^\r\n]*)|(?P<line>\r\n?|\n)|(?P<paren>[()])|(?P<word>[^\s();\"|]+)|(?P<bad>.)"
)
"""A line, and with it a comment, ends at LF or CR (SMT-LIB 2.6, section 3.1)."""


class VnnLibError(LbpError, ValueError):
    """A VNN-LIB file cannot be read; the message names the line."""


@dataclass(frozen=True, slots=True)
class Word:
    """A symbol or number.

    Attributes:
        text: as written.
        line: where, from 1.
    """

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Group:
    """A list in parentheses.

    Attributes:
        items: what stands inside.
        line: of the opening parenthesis.
    """

    items: tuple[Expression, ...]
    line: int

    @property
    def head(self) -> str:
        """The first word, empty if there is none."""
        first = self.items[0] if self.items else None
        return first.text if isinstance(first, Word) else ""


Expression = Word | Group


def parse_groups(text: str) -> list[Group]:
    """Return the lists at the top level of a text.

    Raises:
        VnnLibError: unbalanced parentheses, words outside of them, strings, or nesting deeper than `MAX_DEPTH`.
    """
    found: list[Group] = []
    opened: list[tuple[int, list[Expression]]] = []
    line = 1
    for token in _TOKEN.finditer(text):
        kind, piece = token.lastgroup, token.group()
        if kind == "line":
            line += 1
        elif piece == "(":
            if len(opened) == MAX_DEPTH:
                raise VnnLibError(f"line {line}: more than {MAX_DEPTH} levels of parentheses")
            opened.append((line, []))
        elif piece == ")":
            if not opened:
                raise VnnLibError(f"line {line}: a closing parenthesis without an opening one")
            start, items = opened.pop()
            group = Group(tuple(items), start)
            (opened[-1][1] if opened else found).append(group)
        elif kind == "word":
            if not opened:
                raise VnnLibError(f"line {line}: {piece!r} stands outside of parentheses")
            opened[-1][1].append(Word(piece, line))
        elif kind == "bad":
            raise VnnLibError(f"line {line}: unexpected character {piece!r}")
    if opened:
        raise VnnLibError(f"line {opened[-1][0]}: a parenthesis that is never closed")
    return found


def shown(expression: Expression) -> str:
    """Return an expression as text, cut short, for messages."""
    text = _text(expression, 60)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(expression: Expression, budget: int) -> str:
    if isinstance(expression, Word):
        return expression.text
    parts: list[str] = []
    for item in expression.items:
        if budget <= 0:
            break
        parts.append(_text(item, budget))
        budget -= len(parts[-1]) + 1
    return f"({' '.join(parts)})"
