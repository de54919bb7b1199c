"""VNN-LIB files mean what their assertions say, and what is wrong with one is said with its line."""

import gzip
import math
from contextlib import suppress
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lbp.vnnlib import (
    Box,
    Case,
    Conjunction,
    Property,
    VnnLibError,
    counterexample_text,
    parse_vnnlib,
    property_text,
    read_vnnlib,
)

HEAD = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
UNIT = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 0)) (assert (<= X_1 1))\n"
ARABIC_ONE = "\N{ARABIC-INDIC DIGIT ONE}"
WIDE_ONE = "\N{FULLWIDTH DIGIT ONE}"
NO_NUMBERS = ("nan", "inf", "1_000", "0x1", "1d3", WIDE_ONE, ARABIC_ONE, f"1e{ARABIC_ONE}", f"1.{ARABIC_ONE}")
"""What is not in decimal notation by ASCII digits."""


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def only_conjunction(problem):
    (case,) = problem.cases
    (unsafe,) = case.unsafe
    return unsafe


def test_a_robustness_property_is_a_box_and_a_disjunction():
    problem = parse_vnnlib(
        "; label 0\n"
        + HEAD
        + UNIT
        + "(assert (<= X_0 2.5e-1)) ; tighter\n(assert (or (and (>= Y_1 Y_0)) (and (<= Y_0 -1.5))))"
    )
    (case,) = problem.cases
    assert (problem.inputs, problem.outputs) == (2, 2)
    assert case.box.lower.tolist() == [0, 0]
    assert case.box.upper.tolist() == [0.25, 1]
    first, second = case.unsafe
    assert (first.matrix.tolist(), first.bound.tolist()) == ([[1, -1]], [0])
    assert (second.matrix.tolist(), second.bound.tolist()) == ([[1, 0]], [-1.5])


def test_alternatives_of_boxes_and_of_outputs_are_multiplied():
    problem = parse_vnnlib(
        HEAD
        + "(assert (and (<= X_1 1) (>= X_1 0)))"
        + "(assert (or (and (<= X_0 1) (>= X_0 0)) (and (<= X_0 3) (>= X_0 2))))"
        + "(assert (or (and (<= Y_0 1) (<= Y_1 2)) (>= Y_0 4) (= Y_1 7)))"
    )
    assert [case.box.lower.tolist() for case in problem.cases] == [[0, 0], [2, 0]]
    for case in problem.cases:
        assert [unsafe.bound.tolist() for unsafe in case.unsafe] == [[1, 2], [-4], [7, -7]]


def test_assertions_about_outputs_are_one_conjunction():
    unsafe = only_conjunction(parse_vnnlib(HEAD + UNIT + "(assert (<= Y_0 Y_1)) (assert (and (and (>= Y_0 1))))"))
    assert unsafe.matrix.tolist() == [[1, -1], [-1, 0]]
    assert unsafe.bound.tolist() == [0, -1]


@pytest.mark.parametrize(
    ("formula", "row", "bound"),
    [
        ("(<= (+ (* 2 Y_0) (* Y_1 -3.5) 1) 4)", [2, -3.5], 3),
        ("(>= (- Y_0) (- Y_1 1))", [1, 1], 1),
        ("(<= (- Y_0 Y_1 2) (+ 1))", [1, -1], 3),
        ("(<= 5 Y_0)", [-1, 0], -5),
        ("(<= (* 2 3 Y_0) (- 0.5))", [6, 0], -0.5),
        ("(<= (+ Y_0 Y_0) Y_1)", [2, -1], 0),
        ("(>= Y_0 +.5E+1)", [-1, 0], -5),
    ],
)
def test_linear_expressions(formula, row, bound):
    unsafe = only_conjunction(parse_vnnlib(HEAD + UNIT + f"(assert {formula})"))
    assert unsafe.matrix.tolist() == [row]
    assert unsafe.bound.tolist() == [bound]


def test_a_scaled_bound_of_an_input_never_shrinks_the_box():
    problem = parse_vnnlib(HEAD + UNIT + "(assert (<= (* 3 X_0) 1)) (assert (>= (* 3 X_1) 1)) (assert (<= Y_0 0))")
    lower, upper = problem.cases[0].box.lower[1].item(), problem.cases[0].box.upper[0].item()
    assert Fraction(lower) < Fraction(1, 3) < Fraction(upper)
    assert upper == math.nextafter(lower, 1)


def test_a_sum_of_limits_is_rounded_to_the_side_that_shrinks_nothing():
    shrunk_by_nearest = 0
    for tenths in range(1, 10):
        term, limit = 0.1 * tenths, 1.1
        problem = parse_vnnlib(
            HEAD + UNIT + f"(assert (<= (+ X_0 {term!r}) {limit!r})) (assert (>= (+ X_1 {term!r}) 0.9))"
            f"(assert (<= (+ Y_0 {term!r}) {limit!r}))"
        )
        (case,) = problem.cases
        exact = Fraction(limit) - Fraction(term)
        shrunk_by_nearest += Fraction(float(exact)) < exact
        assert min(exact, 1) <= Fraction(case.box.upper[0].item()) <= math.nextafter(float(exact), 2)
        assert Fraction(case.box.lower[1].item()) <= max(Fraction(0.9) - Fraction(term), 0)
        assert exact <= Fraction(case.unsafe[0].bound.item()) <= math.nextafter(float(exact), 2)
    assert shrunk_by_nearest > 0


def test_a_factor_that_float64_does_not_hold_is_refused():
    with pytest.raises(VnnLibError, match=r"line \d+: the factors in .* make one that float64 does not hold"):
        parse_vnnlib(HEAD + UNIT + "(assert (<= (* 0.1 0.3 Y_0) 1))")


def test_without_constraints_of_outputs_every_output_is_unsafe():
    problem = parse_vnnlib(HEAD + UNIT)
    assert only_conjunction(problem).excess(f64(0, 0).reshape(1, 2)).item() == -math.inf
    assert problem.is_violated_by(f64(0.5, 0.5), f64(0, 0))
    assert not problem.is_violated_by(f64(0.5, 0.5), f64(math.nan, 0))


def test_contradictions_leave_no_case():
    assert parse_vnnlib(HEAD + UNIT + "(assert (<= X_0 -1))").cases == ()


@pytest.mark.parametrize("formula", ["(and (<= Y_0 1) (or))", "(or (<= Y_0 1) (and))", "(and)", "(or)"])
def test_a_join_of_nothing_is_refused(formula):
    with pytest.raises(VnnLibError, match=r"line \d+: \((and|or)\) joins no formulas"):
        parse_vnnlib(HEAD + UNIT + f"(assert {formula})")


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_comment_ends_with_its_line(end):
    lines = [*HEAD.splitlines(), "; a box", *UNIT.splitlines(), "; and a limit", "(assert (<= Y_0 7)) ; of Y_0"]
    assert only_conjunction(parse_vnnlib(end.join(lines))).bound.tolist() == [7]
    with pytest.raises(VnnLibError, match=r"line 10: \(push 1\)"):
        parse_vnnlib(end.join([*lines, "; nothing", "(push 1)"]))


@pytest.mark.parametrize(
    ("formula", "lower", "upper"),
    [
        ("(<= (* 1e-300 X_0) 1e300)", 0, 1),
        ("(>= (* 1e-300 X_0) -1e300)", 0, 1),
        ("(<= (* -1e-300 X_0) 1e300)", 0, 1),
        ("(>= (* 1e-300 X_0) 1e300)", None, None),
        ("(<= (* -1e-300 X_0) -1e300)", None, None),
        ("(<= (* 1e-300 X_0) -1e300)", None, None),
        ("(<= (* 1e300 X_0) 1e-300)", 0, 5e-324),
    ],
)
def test_a_quotient_beyond_float64_cuts_all_of_a_box_or_nothing(formula, lower, upper):
    cases = parse_vnnlib(HEAD + UNIT + f"(assert {formula}) (assert (<= Y_0 0))").cases
    ends = [(case.box.lower[0].item(), case.box.upper[0].item()) for case in cases]
    assert ends == ([] if lower is None else [(lower, upper)])


def test_both_forms_of_declaration_and_commands_without_effect_are_read():
    text = "(set-logic QF_LRA)(declare-fun X_0 () Real)(declare-const Y_0 Real)(assert (= X_0 2))(check-sat)(exit)"
    assert parse_vnnlib(text).cases[0].box.lower.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no variable X_0"),
        ("(declare-const X_0 Real)", "line 1: no variable Y_0"),
        ("(declare-const X_0 Real)\n(declare-const X_0 Real)", "line 2: X_0 is declared twice"),
        ("(declare-const X_0 Real)\n(declare-const X_2 Real)", "line 2: X_2 is declared, but X_1 is not"),
        ("\n(declare-const Z_0 Real)", "line 2: 'Z_0' is neither"),
        ("(declare-const X_00 Real)", "line 1: 'X_00' is neither"),
        ("(declare-const X_0 Int)", "line 1: (declare-const X_0 Int) must declare a real"),
        ("(declare-fun X_0 (Real) Real)", "line 1"),
        ("(push 1)", "line 1: (push 1) is not supported"),
        ("()", "line 1: () is not supported"),
        (HEAD + "(check-sat)\n(assert (<= Y_0 1))", "line 6: (assert (<= Y_0 1)) stands after (check-sat) of line 5"),
        (HEAD + "(exit)(declare-const X_2 Real)", "line 5: (declare-const X_2 Real) stands after (exit)"),
        ("(assert (<= X_0 1)", "line 1: a parenthesis that is never closed"),
        ("\n\n(check-sat))", "line 3: a closing parenthesis without"),
        ("\nhello", "line 2: 'hello' stands outside"),
        ('(set-info "x")', "line 1: unexpected character"),
        ("(" * 300, "line 1: more than 200 levels"),
        (HEAD + "(assert)", "line 5: an assertion takes one formula, this one 0"),
        (HEAD + "(assert X_0)", "line 5: X_0 is no formula"),
        (HEAD + "(assert (not (<= X_0 1)))", "line 5: 'not' is not supported"),
        (HEAD + "(assert (< X_0 1))", "line 5: '<' is not supported"),
        (HEAD + "(assert (<= X_0))", "line 5: (<= X_0) must compare two"),
        (HEAD + "(assert (<= X_5 1))", "line 5: 'X_5' is neither a number nor a declared variable"),
        *((HEAD + f"(assert (<= X_0 {text}))", f"line 5: '{text}' is neither a number") for text in NO_NUMBERS),
        (HEAD + f"(declare-const X_1{ARABIC_ONE} Real)", f"line 5: 'X_1{ARABIC_ONE}' is neither an input"),
        (HEAD + "(assert (<= X_0 1e999))", "line 5: the number 1e999 is too large"),
        (HEAD + "(assert (<= (* 1e308 1e308 Y_0) 1))", "line 5: a number in (<= (* 1e308 1e308 Y_0) 1) is too large"),
        (HEAD + "(assert (<= 1 2))", "line 5: (<= 1 2) compares nothing"),
        (HEAD + "(assert (<= (* X_0 X_1) 2))", "line 5: (* X_0 X_1) multiplies variables"),
        (HEAD + "(assert (<= (/ X_0 2) 2))", "line 5: (/ X_0 2) is no linear"),
        (HEAD + "(assert (<= X_0 Y_0))", "line 5: an inequality between inputs and outputs"),
        (HEAD + "(assert\n(<= X_0 X_1))", "line 6: an inequality over several inputs (X_0, X_1)"),
        (HEAD + "(assert (<= X_0 1))", "line 5: X_0 has no finite lower bound"),
        (HEAD + UNIT[:40] + "\n(assert (<= Y_0 1))", "line 6: X_1 has no finite lower bound"),
        (HEAD + UNIT + "(assert (or (and (<= Y_0 1)) (<= Y_9 1)))", "line 6: 'Y_9'"),
        (HEAD + UNIT + "(assert (or (<= Y_0 0) (<= Y_0 1)))" * 40, "line 6: the formula has more than 100000"),
    ],
)  # fmt: skip
def test_an_error_names_the_line(text, message):
    with pytest.raises(VnnLibError) as error:
        parse_vnnlib(text)
    assert message in str(error.value)


def test_files_are_read_plain_and_compressed_and_named_in_errors(tmp_path):
    text = HEAD + UNIT + "(assert (<= Y_0 Y_1))"
    plain, packed = tmp_path / "p.vnnlib", tmp_path / "p.vnnlib.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    assert property_text(read_vnnlib(plain)) == property_text(read_vnnlib(packed))
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(VnnLibError, match=r"p\.vnnlib\.gz: cannot be read"):
        read_vnnlib(packed)
    with pytest.raises(VnnLibError, match="no such file"):
        read_vnnlib(tmp_path / "q.vnnlib")
    plain.write_bytes(b"\xff\xfe")
    with pytest.raises(VnnLibError, match="cannot be read"):
        read_vnnlib(plain)
    plain.write_text("\n(push)")
    with pytest.raises(VnnLibError, match=r"p\.vnnlib, line 2"):
        read_vnnlib(plain)


def test_violation_needs_an_input_of_the_box_and_an_unsafe_output():
    problem = parse_vnnlib(HEAD + UNIT + "(assert (or (<= Y_0 0) (and (<= Y_0 1) (<= Y_1 1))))")
    inside, outside = f64(0.5, 1.0), f64(0.5, 1.1)
    assert problem.is_violated_by(inside, f64(0, 9))
    assert problem.is_violated_by(inside, f64(1, 1))
    assert not problem.is_violated_by(inside, f64(1, 2))
    assert not problem.is_violated_by(outside, f64(0, 9))
    assert not problem.is_violated_by(inside, f64(math.nan, 0))
    assert not problem.is_violated_by(f64(math.nan, 0.5), f64(0, 0))


def test_all_outputs_between_two_ends_violate_in_exact_arithmetic():
    # 0.1 y0 - y1 <= 1e16: float64 does not tell 1e16 from 1e16 + 1.
    problem = parse_vnnlib(HEAD + UNIT + "(assert (<= (+ (* 0.1 Y_0) (* -1 Y_1)) 1e16))")
    inside = f64(0.5, 0.5)
    assert problem.is_violated_by_all(inside, f64(0, -1e16), f64(0, 5))
    assert not problem.is_violated_by_all(inside, f64(0, -1e16), f64(5e-324, 5))
    assert problem.is_violated_by(inside, f64(1, -1e16))
    assert not problem.is_violated_by_all(inside, f64(1, -1e16), f64(1, -1e16))
    assert not problem.is_violated_by_all(f64(0.5, 1.5), f64(0, 0), f64(0, 0))
    for end in (math.nan, math.inf, -math.inf):
        assert not problem.is_violated_by_all(inside, f64(end, 0), f64(0, 0))
        assert not problem.is_violated_by_all(inside, f64(0, 0), f64(0, end))


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def properties(draw):
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rows = st.lists(NUMBERS, min_size=outputs, max_size=outputs).filter(any)

    def conjunction():
        matrix = draw(st.lists(rows, min_size=1, max_size=3))
        return Conjunction(
            f64(*matrix).reshape(-1, outputs), f64(*draw(st.lists(NUMBERS, min_size=len(matrix), max_size=len(matrix))))
        )

    cases, seen = [], set()
    for _ in range(draw(st.integers(0, 3))):
        ends = [sorted((draw(NUMBERS), draw(NUMBERS))) for _ in range(inputs)]
        box = Box(f64(*(low for low, _ in ends)), f64(*(high for _, high in ends)))
        if (key := str(ends).replace("-0.0", "0.0")) not in seen:
            seen.add(key)
            cases.append(Case(box, tuple(conjunction() for _ in range(draw(st.integers(1, 3))))))
    return Property(inputs, outputs, tuple(cases))


@settings(deadline=None, max_examples=60)
@given(properties())
def test_what_is_written_is_read_as_equal(problem):
    read = parse_vnnlib(property_text(problem))
    assert (read.inputs, read.outputs, len(read.cases)) == (problem.inputs, problem.outputs, len(problem.cases))
    for found, expected in zip(read.cases, problem.cases, strict=True):
        assert torch.equal(found.box.lower, expected.box.lower)
        assert torch.equal(found.box.upper, expected.box.upper)
        for mine, theirs in zip(found.unsafe, expected.unsafe, strict=True):
            assert torch.equal(mine.matrix, theirs.matrix)
            assert torch.equal(mine.bound, theirs.bound)


BOX = Box(f64(0, 0), f64(1, 1))
ROW, ZEROS, ALL = Conjunction(f64([1, -2]), f64(3)), f64([0, 0]), Conjunction(f64().reshape(0, 2), f64())


@pytest.mark.parametrize(
    ("sets", "read"),
    [
        ((ALL,), (ALL,)),
        ((ROW, ALL, ROW), (ROW, ALL, ROW)),
        ((Conjunction(ZEROS, f64(0)),), (ALL,)),
        ((Conjunction(torch.cat([ZEROS, ROW.matrix]), f64(1, 3)),), (ROW,)),
        ((Conjunction(ZEROS, f64(-1)), ROW), (ROW,)),
        ((Conjunction(ZEROS, f64(-1)),), None),
        ((), None),
    ],
)
def test_rows_that_say_nothing_are_written_by_what_they_mean(sets, read):
    cases = parse_vnnlib(property_text(Property(2, 2, (Case(BOX, sets),)))).cases
    if read is None:
        assert cases == ()
        return
    (case,) = cases
    assert torch.equal(case.box.upper, BOX.upper)
    assert [(part.matrix.tolist(), part.bound.tolist()) for part in case.unsafe] == [
        (part.matrix.tolist(), part.bound.tolist()) for part in read
    ]


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="()XY_01 <=>-+*andor.e;\n", max_size=80))
def test_any_text_is_read_or_refused(text):
    with suppress(VnnLibError):
        parse_vnnlib(text)


def test_counterexamples_are_written_as_pairs_that_read_back():
    text = counterexample_text(f64(0.1, 1e-300), f64(-2))
    assert text == "((X_0 0.1)\n(X_1 1e-300)\n(Y_0 -2.0))\n"
