"""A family's program for any config of its structure: what a config.json must say, and what its sizes are called."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ..errors import InputError, shown
from .depth import Kinds, Signature, deepened
from .fit import substitute
from .program import Program

LONGEST_EXPRESSION = 300
LARGEST = 1 << 40
"""The largest number in an expression, or size of a config."""
DEPTH_KEYS = ("first_k_dense_replace", "max_window_layers")
"""Keys of a config that count layers."""


@dataclass(frozen=True)
class Family:
    """A program of expressions, and how a config gives their symbols their values."""

    model_type: str
    program: Program
    """With one layer of each kind."""
    kinds: Kinds
    symbols: Mapping[str, str]
    """What each symbol is, as an expression of the config's keys."""
    structure: Mapping[str, Any]
    """What the config must say: a key's value, or for a floating number whether it is zero."""
    defaults: Mapping[str, Any]
    """The class's values of the keys that a config may leave out; a text that begins with = is an expression of others."""
    lists: Mapping[str, Any] = field(default_factory=dict)
    """For keys with an entry per layer, the class's own list: ``{"period": [...]}`` or
    ``{"from": key, "below": ..., "above": ...}``; ``None`` where the config must have it."""
    layers: str = "num_hidden_layers"
    """The key of the number of layers."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of keys, which transformers accepts."""
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """How it was recorded: releases, dtype, attention, device."""

    def config(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json's keys with the class's defaults. Raises ``InputError`` for one of another structure."""
        if raw.get("model_type") != self.model_type:
            raise InputError(f"the program is of {self.model_type}, and the config of {shown(raw.get('model_type'))}")
        config = with_rope({self.aliases.get(key, key): value for key, value in raw.items()})
        derived = {}
        for key, value in self.defaults.items():
            if config.get(key) is None:
                if isinstance(value, str) and value.startswith("="):
                    derived[key] = value[1:]
                else:
                    config[key] = value
        for _ in derived:  # a default may follow from another
            for key, text in derived.items():
                if config.get(key) is None:
                    try:
                        config[key] = _whole(evaluate(text, config), key)
                    except KeyError:
                        continue
        for key, wanted in self.structure.items():
            first, _, second = key.partition(" = ")
            value = config.get(first)
            given = value == config.get(second) if second else structural(value, isinstance(wanted, float))
            if given != wanted:
                raise InputError(f"{key} is {shown(given if second else value)}, and the program is for {shown(wanted)}")
        return config

    def values(self, config: Mapping[str, Any]) -> dict[str, int]:
        """The symbols' values."""
        values = {}
        for name, text in self.symbols.items():
            try:
                values[name] = _whole(evaluate(text, config), text)
            except KeyError as error:
                raise InputError(f"the config has no {error.args[0]}") from None
        return values

    def depth(self, config: Mapping[str, Any]) -> int:
        """The number of layers."""
        return _whole(config.get(self.layers), self.layers)

    def at(self, raw: Mapping[str, Any], values: Mapping[str, int]) -> Program:
        """The program of a config's model, with values of B and S, or without them in these symbols."""
        config = self.config(raw)
        program = deepened(self.program, self.kinds.of(self.signatures(config)))
        return substitute(program, {**self.values(config), **values})

    def signatures(self, config: Mapping[str, Any]) -> list[Signature]:
        """What the config says of each layer."""
        n = self.depth(config)
        lists = {}
        for key, default in self.lists.items():
            given = config.get(key)
            if given is None:
                given = default_list(default, config, n, key)
            if not isinstance(given, (list, tuple)) or len(given) < n:
                raise InputError(f"{key} must have an entry for each of the {n} layers")
            lists[key] = given
        return signatures(config, lists, n)


def default_list(rule: Any, config: Mapping[str, Any], n: int, key: str) -> list[Any]:
    """A class's list with an entry per layer, by its rule (``Family.lists``)."""
    if rule is None:
        raise InputError(f"the config has no {key}")
    if "period" in rule:
        return [rule["period"][i % len(rule["period"])] for i in range(n)]
    first = _whole(config.get(rule["from"]), rule["from"])
    return [rule["below"] if i < first else rule["above"] for i in range(n)]


def signatures(config: Mapping[str, Any], lists: Mapping[str, Sequence[Any]], n: int) -> list[Signature]:
    """What a config says of each layer: its entries in lists, and whether it is dense or has experts."""
    found = []
    for i in range(n):
        signature = [lists[key][i] for key in sorted(lists)]
        if isinstance(first := config.get("first_k_dense_replace"), int):
            signature.append("dense" if i < first else "sparse")
        if isinstance(step := config.get("decoder_sparse_step"), int):
            dense = i in (config.get("mlp_only_layers") or ()) or step < 1 or (i + 1) % step
            signature.append("dense" if dense else "sparse")
        found.append(tuple(signature))
    return found


def structural(value: Any, floating: bool = False) -> Any:
    """A config's value as far as it decides which calls are made: of a floating number, whether it is zero."""
    if isinstance(value, float) or (floating and isinstance(value, int)):
        return 1.0 if value else 0.0
    return list(value) if isinstance(value, tuple) else value


def with_rope(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of rotary embeddings as transformers 5 gathers them (``modeling_rope_utils.py``)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = isinstance(rope, Mapping) and rope and all(isinstance(x, Mapping) for x in rope.values())
    kinds = rope.values() if nested else (rope,)
    types = sorted({str(x.get("rope_type", x.get("type", "default"))) for x in kinds if isinstance(x, Mapping)})
    factor = rope.get("partial_rotary_factor") if isinstance(rope, Mapping) else None
    for key in ("partial_rotary_factor", "rotary_pct", "rope_pct"):
        factor = config.get(key) if factor is None else factor
    made = {**config, "rope_type": "/".join(types)} if rope else dict(config)
    if factor is not None:
        made["partial_rotary_factor"] = factor
    return made


# -- expressions of a config's keys ----------------------------------------------------------------------------------


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The value of an expression of names, integers, + - * / and ``int()``. Raises ``KeyError`` for a missing name."""
    return _value(parsed(text), values)


@lru_cache(maxsize=4096)
def parsed(text: str) -> ast.expr:
    """An expression's tree. Raises ``InputError`` where it has anything but names, integers, + - * / and ``int()``."""
    if len(text) > LONGEST_EXPRESSION:
        raise InputError(f"an expression of {len(text)} characters; {LONGEST_EXPRESSION} are the most")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"{shown(text)} is no expression") from None
    _check(tree, text)
    return tree


def _check(node: ast.AST, text: str) -> None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
        _check(node.left, text)
        _check(node.right, text)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        _check(node.left, text)
        if not (isinstance(node.right, ast.Constant) and type(node.right.value) is int and 0 < node.right.value <= 8):
            raise InputError(f"{shown(text)} has a power that is no number from 1 to 8")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check(node.operand, text)
    elif isinstance(node, ast.Call):
        if not (isinstance(node.func, ast.Name) and node.func.id == "int" and len(node.args) == 1 and not node.keywords):
            raise InputError(f"{shown(text)} calls a function; int() is the only one")
        _check(node.args[0], text)
    elif isinstance(node, ast.Constant):
        if type(node.value) is not int or not 0 <= node.value <= LARGEST:
            raise InputError(f"{shown(text)} has a number that is no integer from 0 to {LARGEST:,}")
    elif not isinstance(node, ast.Name):
        raise InputError(f"{shown(text)} has something that is no name, integer, + - * / or int()")


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        value = values[node.id]
        if value is None:
            raise KeyError(node.id)
        if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)) or not abs(value) <= LARGEST:
            raise InputError(f"{node.id} is {shown(value)}, which is no size")
        return value
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, values)
    if isinstance(node, ast.Call):
        return int(_value(node.args[0], values))
    assert isinstance(node, ast.BinOp)
    left, right = _value(node.left, values), _value(node.right, values)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    if isinstance(node.op, ast.Mult):
        return left * right
    if isinstance(node.op, ast.Pow):
        return left**right
    if not right:
        raise InputError(f"{ast.unparse(node)} divides by zero")
    return left / right if isinstance(left, float) or isinstance(right, float) else Fraction(left) / right


def _whole(value: Any, what: str) -> int:
    """A positive integer. Raises ``InputError``."""
    if isinstance(value, bool) or not isinstance(value, (int, Fraction)) or value != int(value) or not 0 < value <= LARGEST:
        raise InputError(f"{what} is {shown(value)} in this config; it must be a positive integer")
    return int(value)
