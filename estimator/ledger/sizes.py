"""Exact integer arithmetic on sizes: plain integers, or sparse polynomials in named symbols.

The ledger adds and multiplies thousands of sizes per model, so a polynomial has to be cheap. A monomial is one integer
that packs the exponents of all symbols, so multiplying two monomials adds their integers. A polynomial is a dictionary
from monomial to coefficient. sympy is never imported here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Union

from ..errors import InputError

_BITS = 5  # up to exponent 31 per symbol
_MASK = (1 << _BITS) - 1

Coefficient = Union[int, Fraction]


class Symbol:
    """A named positive integer: a dimension that the user gives, or an exact function of such dimensions.

    ``meaning`` is shown beside a formula. ``function`` is set for a size that a kernel derives from dimensions by
    comparison or rounding. ``argument`` names these dimensions; ``source`` is the function as Python text. The function
    takes integers or NumPy arrays. ``sample`` is the symbol's value where sizes are ``compared``.
    """

    __slots__ = ("arguments", "function", "index", "meaning", "name", "sample", "source")

    def __init__(
        self,
        name: str,
        meaning: str,
        sample: int = 2,
        argument: str | tuple[str, ...] = (),
        function: Callable[..., Any] | None = None,
        source: str | None = None,
    ) -> None:
        self.name, self.meaning, self.sample = name, meaning, sample
        self.arguments = (argument,) if isinstance(argument, str) else argument
        self.function, self.source = function, source
        self.index = len(_SYMBOLS)
        _SYMBOLS.append(self)
        _BY_NAME[name] = self


_SYMBOLS: list[Symbol] = []
_BY_NAME: dict[str, Symbol] = {}


def symbol(name: str) -> Poly:
    """The polynomial of one registered symbol. Raises ``KeyError`` for an unknown name."""
    return Poly({1 << (_BITS * _BY_NAME[name].index): 1})


def is_registered(name: str) -> bool:
    """Whether a symbol has that name."""
    return name in _BY_NAME


def registered(name: str) -> Symbol:
    """The registry entry of a symbol. Raises ``KeyError`` for an unknown name."""
    return _BY_NAME[name]


def _unpack(key: int) -> list[tuple[Symbol, int]]:
    out: list[tuple[Symbol, int]] = []
    index = 0
    while key:
        exponent = key & _MASK
        if exponent:
            out.append((_SYMBOLS[index], exponent))
        key >>= _BITS
        index += 1
    return out


class Poly:
    """A polynomial with exact coefficients. Mixes freely with ``int``."""

    __slots__ = ("terms",)

    def __init__(self, terms: dict[int, Coefficient]) -> None:
        self.terms = terms

    def __add__(self, other: Size) -> Poly:
        if not other:
            return self
        terms = dict(self.terms)
        if isinstance(other, Poly):
            for key, value in other.terms.items():
                total = terms.get(key, 0) + value
                if total:
                    terms[key] = total
                else:
                    terms.pop(key, None)
        else:
            total = terms.get(0, 0) + other
            if total:
                terms[0] = total
            else:
                del terms[0]
        return Poly(terms)

    __radd__ = __add__

    def __neg__(self) -> Poly:
        return Poly({key: -value for key, value in self.terms.items()})

    def __sub__(self, other: Size) -> Poly:
        return self + (-other)

    def __rsub__(self, other: Size) -> Poly:
        return (-self) + other

    def __mul__(self, other: Size) -> Poly:
        if isinstance(other, Poly):
            terms: dict[int, Coefficient] = {}
            for key_a, value_a in self.terms.items():
                for key_b, value_b in other.terms.items():
                    key = key_a + key_b
                    terms[key] = terms.get(key, 0) + value_a * value_b
            return Poly({key: value for key, value in terms.items() if value})
        if other == 1:
            return self
        if not other:
            return Poly({})
        terms = {}
        for key, value in self.terms.items():
            value = value * other
            if type(value) is Fraction and value.denominator == 1:
                value = value.numerator
            terms[key] = value
        return Poly(terms)

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> Poly:
        """Exact division by an integer. A coefficient that is not a multiple of the divisor becomes a fraction."""
        terms: dict[int, Coefficient] = {}
        for key, value in self.terms.items():
            quotient = Fraction(value, divisor)
            terms[key] = quotient.numerator if quotient.denominator == 1 else quotient
        return Poly(terms)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Poly):
            equal = self.terms == other.terms
        elif isinstance(other, int):
            equal = self.terms == ({0: other} if other else {})
        else:
            return NotImplemented
        if not equal and _taken is not None:
            _taken.differences.add(frozenset((self - other).terms.items()))
        return equal

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __repr__(self) -> str:
        return format_poly(self)

    def monomials(self) -> list[tuple[Coefficient, list[tuple[Symbol, int]]]]:
        """The terms as (coefficient, [(symbol, exponent), ...]), highest degree first."""
        rows = [(value, _unpack(key)) for key, value in self.terms.items()]
        rows.sort(key=lambda row: (-sum(e for _, e in row[1]), [(s.index, -e) for s, e in row[1]]))
        return rows

    def symbols(self) -> set[str]:
        """Names of the symbols that occur."""
        return {s.name for key in self.terms for s, _ in _unpack(key)}

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """The value, with an integer or a NumPy array given for every symbol. Raises ``ValueError`` for a fraction."""
        total: Any = 0
        for key, coefficient in self.terms.items():
            term: Any = coefficient
            for sym, exponent in _unpack(key):
                term = term * value_of(sym, values) ** exponent
            total = total + term
        if isinstance(total, Fraction):
            if total.denominator != 1:
                raise ValueError(f"{self!r} is not an integer at {dict(values)}")
            return total.numerator
        return total

    def substitute(self, values: Mapping[str, Size]) -> Size:
        """Replace some symbols by integers or polynomials, keeping the others."""
        result: Size = 0
        for key, coefficient in self.terms.items():
            term: Size = Poly({0: coefficient})
            for sym, exponent in _unpack(key):
                known: Size
                if sym.function is not None and all(isinstance(values.get(name), int) for name in sym.arguments):
                    known = sym.function(*(values[name] for name in sym.arguments))
                else:
                    known = values.get(sym.name, symbol(sym.name))
                for _ in range(exponent):
                    term = known * term
            result = term + result
        return simplify(result)


Size = Union[int, Poly]


def value_of(sym: Symbol, values: Mapping[str, Any]) -> Any:
    """A symbol's value: the given one, or its function of its arguments' values."""
    if sym.function is not None and sym.name not in values:
        return sym.function(*(values[name] for name in sym.arguments))
    return values[sym.name]


def symbols_of(*sizes: Size) -> set[str]:
    """Names of the symbols that occur in sizes."""
    return {name for size in sizes if isinstance(size, Poly) for name in size.symbols()}


def evaluated(size: Size, values: Mapping[str, int]) -> int:
    """The size where the symbols have these values."""
    number: int = size if isinstance(size, int) else size.evaluate(values)
    return number


def simplify(size: Size) -> Size:
    """A constant polynomial as a plain integer."""
    if isinstance(size, Poly):
        if not size.terms:
            return 0
        if len(size.terms) == 1 and 0 in size.terms and isinstance(size.terms[0], int):
            return size.terms[0]
    return size


def whole(size: Size) -> int:
    """A size that is a number. Raises ``InputError`` for a polynomial: a rule compares sizes."""
    if not isinstance(size, int):
        raise InputError(
            "a rule compares sizes, which must be numbers; name fewer variables, or ask `estimator estimate`"
        )
    return size


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; 1 for none."""
    total: Size = 1
    for size in sizes:
        total = size * total if isinstance(size, Poly) else total * size
    return total


class Taken:
    """What a run with symbols takes for granted of its sizes. Where it is so, a run with numbers does the same.

    ``samples``: what sizes are compared at, in place of the symbols' own. Properties are then as they are there.
    """

    def __init__(self, samples: Mapping[str, int] = MappingProxyType({})) -> None:
        self.samples = samples
        self.differences: set[frozenset[tuple[int, Coefficient]]] = set()
        """Terms of polynomials that are not zero: differences of sizes that were compared, and are not the same. As
        polynomials they would be compared here, too, where their hashes are equal."""
        self.facts: set[tuple[Callable[..., Any], tuple[Size, ...], Any]] = set()
        """Functions of sizes, and what they give."""

    def holds(self, values: Mapping[str, int]) -> bool:
        """Whether it is so where the symbols have these values."""
        return all(Poly(dict(terms)).evaluate(values) for terms in self.differences) and all(
            function(*(evaluated(size, values) for size in sizes)) == given for function, sizes, given in self.facts
        )


_taken: Taken | None = None


@contextmanager
def taking(samples: Mapping[str, int] = MappingProxyType({})) -> Iterator[Taken]:
    """Within it, what is taken for granted of symbols is written down. ``samples``: see ``Taken``."""
    global _taken
    outer, _taken = _taken, Taken(samples)
    try:
        yield _taken
    finally:
        _taken = outer


def is_so(property_of: Callable[..., bool], *sizes: Size, ruled: bool = True) -> bool:
    """Whether sizes have a property. That of symbols without samples is taken not to be so; nor is that of others where
    it is not ``ruled``: the caller has no rule for symbols that have it.
    """
    if all(isinstance(size, int) for size in sizes):
        return property_of(*sizes)
    if _taken is None:
        return False
    found = ruled and bool(_taken.samples) and property_of(*map(_sample, sizes))
    _taken.facts.add((property_of, sizes, found))
    return found


def only_bounded() -> None:
    """Say that a run with symbols has a bound of what a run with numbers has: it stands for none of these."""
    if _taken is not None:
        _taken.facts.add((bool, (), True))


def compared(a: Size, b: Size) -> int:
    """1 where ``a`` is larger, -1 where ``b`` is, else 0; of symbols where each has its ``sample``."""
    sign = _sign(_sample(a), _sample(b))
    if _taken is not None and not (isinstance(a, int) and isinstance(b, int)):
        _taken.facts.add((_sign, (a, b), sign))
    return sign


def smaller(a: Size, b: Size) -> Size:
    """The smaller of two sizes; of symbols that which is at their samples."""
    return b if compared(a, b) > 0 else a


def _sign(a: int, b: int) -> int:
    return (a > b) - (a < b)


def _sample(size: Size) -> int:
    if isinstance(size, int):
        return size
    samples = {s.name: s.sample for s in _SYMBOLS if s.function is None}
    return int(size.evaluate(samples if _taken is None else {**samples, **_taken.samples}))


def ceiling(size: Size, divisor: int) -> Size:
    """``size / divisor`` rounded up: a polynomial if the divisor divides every coefficient, else a new symbol."""
    if isinstance(size, int):
        return -(-size // divisor)
    if all(coefficient % divisor == 0 for coefficient in size.terms.values()):
        return size // divisor
    text = format_poly(size)
    name = f"ceil_{re.sub(r'[^0-9A-Za-z]+', '_', text)}_over_{divisor}"
    if name not in _BY_NAME:
        source, arguments = _of_dimensions(f"({text} + {divisor - 1}) // {divisor}", size)
        Symbol(
            name,
            f"({text})/{divisor}, rounded up",
            argument=arguments,
            function=lambda *values: -(-size.evaluate(dict(zip(arguments, values, strict=True))) // divisor),
            source=source,
        )
    return symbol(name)


def _of_dimensions(text: str, *sizes: Size) -> tuple[str, tuple[str, ...]]:
    """The text of a size with functions of dimensions written out, and the dimensions' names."""
    names: set[str] = set()
    for one in (_BY_NAME[name] for name in symbols_of(*sizes)):
        names |= {one.name} if one.function is None else {*one.arguments}
        if one.source is not None:
            text = re.sub(rf"\b{one.name}\b", f"({one.source})", text)
    return text, tuple(sorted(names))


def derived(name: str, meaning: str, text: str, *sizes: Size) -> Size:
    """A symbol for a size that is derived by comparison or rounding. ``text`` is its definition, in Python."""
    name = "_".join([name, *re.findall("[0-9A-Za-z]+", text)])
    if not is_registered(name):
        text, arguments = _of_dimensions(text, *sizes)
        code = compile(text, name, "eval")

        def one(*values: int) -> int:
            result: int = eval(code, {"max": max, "min": min}, dict(zip(arguments, values, strict=True)))
            return result

        def function(*values: Any) -> Any:
            if all(isinstance(v, int) for v in values):
                return one(*values)
            import numpy as np

            return np.vectorize(one)(*values)

        Symbol(name, f"{meaning}: {text}", argument=arguments, function=function, source=text)
    return symbol(name)


def least(size: Size, most: int) -> Size:
    """The smaller of both: a new symbol for a polynomial."""
    if isinstance(size, int):
        return min(size, most)
    text = f"min({format_poly(size)}, {most})"
    return derived("least", f"at most {most}", text, size)


def floor(size: Poly) -> Poly:
    """The polynomial without the fraction of its constant. Raises ``InputError`` where another coefficient is one."""
    terms = {**size.terms, 0: math.floor(size.terms.get(0, 0))}
    if any(value.denominator != 1 for value in terms.values()):
        raise InputError(f"{format_poly(size)} is not whole at every size, so a size that rounds it must be a number")
    return Poly({key: value for key, value in terms.items() if value})


def term_by_term(a: Size, b: Size) -> bool:
    """Whether every coefficient of ``a`` is at least that of ``b``: sufficient for a >= b, and quick."""
    left = a.terms if isinstance(a, Poly) else {0: a}
    right = b.terms if isinstance(b, Poly) else {0: b}
    get = left.get
    for key, value in right.items():
        if get(key, 0) < value:
            return False
    return all(value >= 0 or key in right for key, value in left.items())


def dominates(a: Size, b: Size) -> bool:
    """Whether a >= b wherever every symbol is at least one. False where this simple proof of it fails."""
    difference = simplify(a - b)
    if isinstance(difference, int):
        return difference >= 0
    # Each negative term must be covered by positive terms whose monomials it divides, so are at least as large.
    credit = {key: value for key, value in difference.terms.items() if value > 0}
    for key, value in difference.terms.items():
        if value >= 0:
            continue
        debt = -value
        for paying in sorted(credit):
            if credit[paying] and _divides(key, paying):
                used = min(credit[paying], debt)
                credit[paying] -= used
                debt -= used
                if not debt:
                    break
        if debt:
            return False
    return True


def _divides(key: int, other: int) -> bool:
    while key:
        if key & _MASK > other & _MASK:
            return False
        key >>= _BITS
        other >>= _BITS
    return True


def format_poly(size: Size) -> str:
    """A plain-text formula, e.g. ``4*B*S*V + 8``; valid Python."""
    if isinstance(size, int):
        return str(size)
    if not size.terms:
        return "0"
    parts: list[str] = []
    for coefficient, factors in size.monomials():
        names = [s.name if e == 1 else f"{s.name}**{e}" for s, e in factors]
        magnitude = abs(coefficient)
        body = "*".join(names)
        if isinstance(magnitude, Fraction):
            if magnitude.numerator != 1 or not body:
                body = f"{magnitude.numerator}*{body}" if body else str(magnitude.numerator)
            body = f"{body}/{magnitude.denominator}"
        elif not body:
            body = str(magnitude)
        elif magnitude != 1:
            body = f"{magnitude}*{body}"
        sign = "-" if coefficient < 0 else "+"
        parts.append(f" {sign} {body}" if parts else (f"-{body}" if sign == "-" else body))
    return "".join(parts)


# The dimensions of every model. The samples are far apart, so strides made of them compare as in most models.
Symbol("B", "batch: sequences in one micro-batch", 5)
Symbol("S", "sequence length in tokens", 1009)
Symbol("H", "hidden size", 3001)
Symbol("I", "intermediate size of the MLP", 8009)
Symbol("K", "key/value heads", 6)
Symbol("G", "query heads per key/value head", 4)
Symbol("D", "head dimension", 130)
Symbol("V", "vocabulary size", 100003)
Symbol("L", "layers", 41)
Symbol("r", "adapter rank", 17)
Symbol("N", "new tokens of a call of generate", 307)
Symbol("C", "chunks of the sequence, of layers that cut it", 67)
Symbol("T", "tokens of a decoder beside an encoder", 211)
Symbol("tiles", "tiles of the images of a row", 2)
Symbol("high", "tokens of an image's height", 16)
Symbol("wide", "tokens of an image's width", 12)
Symbol("samples", "samples of a row's audio", 48000)
Symbol("M", "images of a row", 13)
Symbol("P", "tokens that are missing to the sequence's last chunk", 7)
