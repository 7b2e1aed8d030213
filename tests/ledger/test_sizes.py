"""Exact arithmetic on sizes. The witness is Python's own integers: whatever is done to polynomials must
give, at any point, what it gives when done to the integers they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from math import prod
from operator import add, mul, sub

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator import operators as ops
from estimator.errors import InputError
from estimator.ledger.sizes import (
    Poly,
    Size,
    compared,
    dominates,
    floor,
    format_poly,
    is_so,
    least,
    product,
    registered,
    simplify,
    symbol,
    taking,
    term_by_term,
    value_of,
)

NAMES = ("B", "S", "V", "r")
Point = dict[str, int]
integers = st.integers(-9, 9)


def monomial(coefficient: int, exponents: tuple[int, ...]) -> Poly:
    term: Size = 1
    for name, exponent in zip(NAMES, exponents, strict=True):
        for _ in range(exponent):
            term = term * symbol(name)
    return Poly({0: 1}) * term * coefficient


def polynomials(coefficients: st.SearchStrategy[int] = integers) -> st.SearchStrategy[Poly]:
    """Sums of up to five monomials, the zero polynomial among them."""
    exponents = st.tuples(*(st.integers(0, 3) for _ in NAMES))
    terms = st.lists(st.builds(monomial, coefficients, exponents), max_size=5)
    return terms.map(lambda found: sum(found, Poly({})))


sizes: st.SearchStrategy[Size] = st.one_of(integers, polynomials())
points = st.fixed_dictionaries({name: st.integers(1, 50) for name in NAMES})
OPERATIONS = pytest.mark.parametrize("operation", [add, sub, mul])


def at(size: Size, point: Point) -> int:
    return size if isinstance(size, int) else size.evaluate(point)


@OPERATIONS
@given(a=sizes, b=sizes, point=points)
def test_arithmetic(operation: Callable[[Size, Size], Size], a: Size, b: Size, point: Point) -> None:
    assert at(operation(a, b), point) == operation(at(a, point), at(b, point))


@given(a=polynomials(), point=points)
def test_negation(a: Poly, point: Point) -> None:
    assert at(-a, point) == -at(a, point)


@given(a=polynomials(), divisor=st.integers(1, 12), point=points)
def test_division(a: Poly, divisor: int, point: Point) -> None:
    """Division is exact: an integer where it comes out, an error where it does not."""
    quotient = a // divisor
    assert quotient * divisor == a
    exact = Fraction(at(a, point), divisor)
    if exact.denominator == 1:
        assert at(quotient, point) == exact
    else:
        with pytest.raises(ValueError, match="is not an integer"):
            at(quotient, point)


@given(a=polynomials(), divisor=st.integers(1, 12))
def test_a_multiple_divides_without_fractions(a: Poly, divisor: int) -> None:
    quotient = (a * divisor) // divisor
    assert quotient == a
    assert all(isinstance(value, int) for value in quotient.terms.values())


@given(a=polynomials(), b=sizes, c=sizes)
def test_ring(a: Poly, b: Size, c: Size) -> None:
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) * c == a * c + b * c
    assert a - a == 0
    assert not a - a
    assert a + 0 == a * 1 == a


@given(a=polynomials(), b=polynomials(), point=points)
def test_equality(a: Poly, b: Poly, point: Point) -> None:
    assert (a == b) == (a - b == 0) == (not (a - b).terms)
    assert a + b - b == a
    assert hash(a + b - b) == hash(a)
    if a == b:
        assert at(a, point) == at(b, point)


@given(a=st.integers(-9, 9), b=polynomials())
def test_a_constant_equals_its_integer(a: int, b: Poly) -> None:
    constant = b - b + a
    assert constant == a
    assert simplify(constant) == a
    assert isinstance(simplify(constant), int)
    assert simplify(b) == b


@given(factors=st.lists(sizes, max_size=4), point=points)
def test_product(factors: list[Size], point: Point) -> None:
    assert at(product(factors), point) == prod(at(factor, point) for factor in factors)


# ---- evaluation ----------------------------------------------------------------------------


@given(a=polynomials(), point=points, chosen=st.sets(st.sampled_from(NAMES)))
def test_substitution_of_integers(a: Poly, point: Point, chosen: set[str]) -> None:
    """Some symbols first, the others later; all at once leaves a plain integer."""
    partial = a.substitute({name: point[name] for name in chosen})
    assert at(partial, point) == at(a, point)
    if isinstance(partial, Poly):
        assert not partial.symbols() & chosen
    complete = a.substitute(point)
    assert isinstance(complete, int)
    assert complete == at(a, point)


@given(a=polynomials(), b=sizes, point=points)
def test_substitution_of_polynomials(a: Poly, b: Size, point: Point) -> None:
    assert at(a.substitute({"S": b}), point) == at(a, {**point, "S": at(b, point)})


@given(a=polynomials(), chosen=st.lists(points, min_size=1, max_size=4))
def test_evaluation_of_arrays(a: Poly, chosen: list[Point]) -> None:
    arrays = {name: np.array([point[name] for point in chosen], dtype=object) for name in NAMES}
    assert list(np.broadcast_to(a.evaluate(arrays), len(chosen))) == [at(a, point) for point in chosen]


@given(a=polynomials(), b=sizes)
def test_sizes_are_compared_at_a_fixed_point(a: Poly, b: Size) -> None:
    point = {name: registered(name).sample for name in NAMES}
    difference = at(a, point) - at(b, point)
    assert compared(a, b) == (difference > 0) - (difference < 0)


@given(a=polynomials(), b=sizes, point=points)
def test_what_is_taken_for_granted_holds_where_numbers_decide_alike(a: Poly, b: Size, point: Point) -> None:
    def decide(x: Size, y: Size) -> tuple[bool, bool, int]:
        return x == y, is_so(lambda x: x % 2 == 0, x), compared(x, y)

    with taking() as taken:
        decided = decide(a, b)
    if taken.holds(point):
        assert decide(at(a, point), at(b, point)) == decided


def test_numbers_that_decide_otherwise_do_not_hold() -> None:
    s = symbol("S")
    with taking() as taken:
        assert s != 7
        assert not is_so(lambda tokens: tokens > 100, s * 2)
        assert compared(s, 20) == 1
    assert [taken.holds({"S": tokens}) for tokens in (7, 20, 21, 50, 51)] == [False, False, True, True, False]
    assert s != 9
    assert taken.holds({"S": 9}) is False  # which is 20 or less


def test_differences_with_one_hash() -> None:
    """Python's hash of -1 is that of -2."""
    s = symbol("S")
    with taking() as taken:
        assert s not in (s + 2, s + 1)
    assert len(taken.differences) == 2
    assert taken.holds({"S": 1})


@pytest.mark.parametrize("name", ["query_block", "key_block"])
@given(seq=st.integers(1, 2000), factor=st.integers(1, 9))
def test_functions_of_a_symbol(name: str, seq: int, factor: int) -> None:
    """A size that follows from another one: given the argument, given itself, or as an array."""
    expected = getattr(ops, name)(seq)
    size = symbol(name) * symbol("S") * factor
    assert at(size, {"S": seq}) == size.substitute({"S": seq}) == expected * seq * factor
    assert at(size, {"S": seq, name: 7}) == 7 * seq * factor
    assert list(value_of(registered(name), {"S": np.array([seq, seq + 1])})) == [
        expected,
        getattr(ops, name)(seq + 1),
    ]
    kept = size.substitute({"S": symbol("S") + 0})
    assert isinstance(kept, Poly)
    assert name in kept.symbols()


# ---- text ----------------------------------------------------------------------------------


@given(a=sizes, divisor=st.integers(1, 6), point=points)
def test_text_is_python(a: Size, divisor: int, point: Point) -> None:
    """Evaluated exactly, with fractions for symbols and numbers, the text gives the polynomial's value."""
    size = a if isinstance(a, int) else a // divisor
    exact = re.sub(r"(?<!\w)(\d+)", r"Fraction(\1)", format_poly(size))
    value = eval(exact, {"Fraction": Fraction, **{name: Fraction(point[name]) for name in NAMES}})
    assert value == (a if isinstance(a, int) else Fraction(at(a, point), divisor))


@given(a=polynomials())
def test_monomials(a: Poly) -> None:
    """All terms, the highest degree first."""
    rows = a.monomials()
    exponents = [tuple({s.name: e for s, e in factors}.get(name, 0) for name in NAMES) for _, factors in rows]
    assert sum((monomial(int(c), e) for (c, _), e in zip(rows, exponents, strict=True)), Poly({})) == a
    degrees = [sum(row) for row in exponents]
    assert degrees == sorted(degrees, reverse=True)
    assert a.symbols() == {name for row in exponents for name, e in zip(NAMES, row, strict=True) if e}


# ---- order ---------------------------------------------------------------------------------

ORDERS = pytest.mark.parametrize("order", [dominates, term_by_term])


@given(a=sizes, b=sizes, point=points)
def test_dominates_is_sound(a: Size, b: Size, point: Point) -> None:
    if dominates(a, b):
        assert at(a, point) >= at(b, point)


@given(a=sizes, b=polynomials(st.integers(0, 9)), point=points)
def test_term_by_term_is_sound(a: Size, b: Poly, point: Point) -> None:
    """With no term taken away from the smaller size."""
    if term_by_term(a, b):
        assert at(a, point) >= at(b, point)


@pytest.mark.parametrize(("a", "b"), [(-symbol("S"), 0), (-symbol("S"), Poly({0: -1}))], ids=str)
def test_term_by_term_of_unlike_terms(a: Size, b: Size) -> None:
    assert not term_by_term(a, b)
    assert at(a, {"S": 2}) < at(b, {"S": 2})


@ORDERS
@given(a=sizes, more=polynomials(st.integers(0, 9)), point=points)
def test_order_of_a_sum(order: Callable[[Size, Size], bool], a: Size, more: Poly, point: Point) -> None:
    """The premise holds in each example here, so soundness is not asked of chance alone."""
    assert order(a + more, a)
    assert at(a + more, point) >= at(a, point)


@given(paid=st.integers(0, 9), debt=st.integers(0, 9), point=points)
def test_dominates_pays_a_term_by_its_multiples(paid: int, debt: int, point: Point) -> None:
    larger, smaller = symbol("B") * symbol("S") * paid, symbol("S") * debt
    assert dominates(larger, smaller) == (paid >= debt)
    assert not dominates(smaller, larger) or not paid
    if paid >= debt:
        assert at(larger, point) >= at(smaller, point)


@given(a=integers, b=integers)
def test_order_of_integers(a: int, b: int) -> None:
    assert dominates(a, b) == (a >= b)
    assert term_by_term(a, b) == (a >= b)


def test_a_fraction_is_left_out_of_a_constant_alone() -> None:
    """By hand: of n whole chunks of 64 tokens, (64 n + 63) / 64 rounded down is n."""
    chunks = symbol("C")
    assert floor((64 * chunks + 63) // 64) == chunks
    assert floor((64 * chunks - 1) // 64) == chunks - 1
    with pytest.raises(InputError, match="must be a number"):
        floor((32 * chunks + 63) // 64)


@pytest.mark.parametrize("tokens", [3, 9, 20])
def test_the_smaller_of_a_number_and_a_polynomial(tokens: int) -> None:
    """Witness: Python's ``min``."""
    assert least(2 * tokens, 18) == min(2 * tokens, 18)
    found = least(2 * symbol("S"), 18)
    assert at(found, {"S": tokens}) == min(2 * tokens, 18)
