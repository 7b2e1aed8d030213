"""Sizes in the words of a model's config: ``4*batch*seq*hidden_size``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import groupby
from typing import Union

from ..ledger import Size
from ..ledger.sizes import Symbol, registered, symbols_of, value_of

HEADS = "num_attention_heads"
"""The query heads: key/value heads times the query heads of each."""
NAMES: Mapping[str, str] = {
    "B": "batch",
    "S": "seq",
    "T": "target_seq",
    "M": "images",
    "H": "hidden_size",
    "I": "intermediate_size",
    "G": HEADS,
    "K": "num_key_value_heads",
    "D": "head_dim",
    "V": "vocab_size",
    "L": "num_hidden_layers",
}
"""The names that plans and configs have for symbols, in their order in a product; other symbols keep theirs."""

Powers = tuple[tuple[str, int], ...]
Term = tuple[Union[int, Fraction], Powers]


def terms(size: Size) -> list[Term]:
    """Terms (coefficient, ((name, exponent), ...)); the exponent of heads in a quotient is negative."""
    if isinstance(size, int):
        return [(size, ())] if size else []
    return [(coefficient, _named(powers)) for coefficient, powers in size.monomials()]


def _named(powers: Iterable[tuple[Symbol, int]]) -> Powers:
    found = {s.name: exponent for s, exponent in powers}
    found["K"] = found.get("K", 0) - found.get("G", 0)
    ordered = [*(name for name in NAMES if name in found), *(name for name in found if name not in NAMES)]
    return tuple((name_of(name), found[name]) for name in ordered if found[name])


def name_of(symbol: str) -> str:
    """The name of a symbol; of a function of symbols, its definition in brackets."""
    one = registered(symbol)
    if one.function is None:
        return NAMES.get(symbol, symbol)
    return f"({re.sub(r'[A-Za-z_]+', lambda word: NAMES.get(word[0], word[0]), str(one.source))})"


def groups(size: Size) -> list[tuple[Powers, list[Term]]]:
    """Terms by their factor in batch, sequence and what kernels choose: (factor, remaining terms)."""
    split = [
        (tuple(p for p in powers if _is_outer(p[0])), (coefficient, tuple(p for p in powers if not _is_outer(p[0]))))
        for coefficient, powers in terms(size)
    ]
    order = list(dict.fromkeys(outer for outer, _ in split))
    split.sort(key=lambda one: order.index(one[0]))
    return [(outer, [inner for _, inner in of]) for outer, of in groupby(split, key=lambda one: one[0])]


def _is_outer(name: str) -> bool:
    return name in ("batch", "seq") or (name != "r" and name not in NAMES.values())


def named(size: Size) -> str:
    """A size as a formula in plain text, grouped; valid Python."""
    parts = []
    for outer, inner in groups(size):
        if outer and len(inner) > 1:
            parts.append(f"{_product(outer)}*({_sum([_term(*term) for term in inner])})")
        else:
            parts += [_term(coefficient, (*outer, *powers)) for coefficient, powers in inner]
    return _sum(parts)


def _sum(parts: list[str]) -> str:
    text = parts[0] if parts else "0"
    for part in parts[1:]:
        text += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
    return text


def _term(coefficient: int | Fraction, powers: Powers) -> str:
    value = Fraction(coefficient)
    product = _product(powers)
    text = product
    if not product or product.startswith("1/") or abs(value.numerator) != 1:
        text = f"{abs(value.numerator)}*{product}" if product else str(abs(value.numerator))
    return f"{'-' if value < 0 else ''}{text}{'' if value.denominator == 1 else f'/{value.denominator}'}"


def _product(powers: Powers) -> str:
    above = [name if exponent == 1 else f"{name}**{exponent}" for name, exponent in powers if exponent >= 1]
    below = [name if exponent == -1 else f"{name}**{-exponent}" for name, exponent in powers if exponent <= -1]
    return "/".join(["*".join(above) or "1", *below]) if powers else ""


def names_in(sizes: Iterable[Size], values: Mapping[str, int]) -> dict[str, int]:
    """The names in formulas of ``sizes``, with their values; ``values`` are those of the symbols."""
    used = symbols_of(*sizes)
    used |= {argument for name in used for argument in registered(name).arguments}
    found: dict[str, int] = {}
    for symbol in sorted((one for name in used if not (one := registered(name)).function), key=lambda s: s.index):
        value = int(value_of(symbol, values))
        found[NAMES.get(symbol.name, symbol.name)] = value * values["K"] if symbol.name == "G" else value
    return found
