"""Keys of a config with an entry per layer, and the class's own rules for them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import product
from typing import Any

from ...errors import InputError
from ...programs.config_values import (
    DEPTH_KEYS,
    EVERY,
    INDEX_KEYS,
    INDEXERS,
    SHARING,
    default_list,
    number_of,
    runs,
    signatures,
)
from ...programs.releases import is_before
from .. import config_reads
from .configs import class_config, resolved_keys
from .structure import Structure


def lists_of(found: Structure, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with an entry per layer, and the class's rule for them. Sets the depth of recordings."""
    n = number_of(config[found.layers])
    keys = [
        key
        for key, value in config.items()
        if isinstance(value, list) and len(value) == n > 0 and key not in INDEX_KEYS and runs(value) is None
    ]
    rules: dict[str, Any] = {}
    named = config_reads.named_by(class_config(found.raw))
    unread: set[str] = set()
    for key in keys:
        bare = {k: v for k, v in found.raw.items() if k not in (*keys, *INDEX_KEYS)}
        rules[key] = None
        if key == found.layers:
            rules[key] = found.letters
            continue
        if (in_runs := next((k for k, x in config.items() if runs(x) == config[key]), None)) is not None:
            rules[key] = {"runs": in_runs}
            found.runs[key] = in_runs
            found.depth = max(found.depth, 2 * len({str(x) for x in config[key]}) + 1)
            continue
        if (numbered := _numbered(bare, key, found.layers, config)) is not None:
            rules[key] = numbered
            continue
        try:
            given = {deep: resolved_keys({**bare, found.layers: deep}).get(key) for deep in (24, 37)}
        except InputError:  # the class wants the list
            continue
        deeper = given[37]
        if not isinstance(deeper, list) and is_before("5"):  # the class has the rule in its code, and not the key
            given = {deep: [config[key][i % n] for i in range(deep)] for deep in (n, 2 * n)}
            deeper = given[n]
            unread.add(key)
        if not isinstance(deeper, list):
            continue
        for first, period in product(range(4), range(1, 13)):
            rule: Any = {"first": deeper[:first]} if first else {}
            rule["period"] = deeper[first : first + period]
            if all(default_list(rule, {}, deep, key) == given[deep] for deep in given):
                rules[key] = rule
                for name, number in product({*EVERY, *named}, (3, 4)):
                    every, other = {**rule, "every": name}, {**bare, found.layers: 24, name: number}
                    with suppress(Exception):  # whatever the class says of it
                        if resolved_keys(other).get(key) == default_list(every, other, 24, key) != given[24]:
                            rules[key] = every
                found.depth = max(found.depth, first + 2 * period + 1)
                break
        else:
            for first_key in (k for k in DEPTH_KEYS if type(config.get(k)) is int):
                rule = {"from": first_key, "below": deeper[0], "above": deeper[-1]}
                tried = [(24, 3), (37, 11)]
                if all(
                    default_list(rule, {first_key: first}, deep, key)
                    == resolved_keys({**bare, found.layers: deep, first_key: first}).get(key)
                    for deep, first in tried
                ):
                    rules[key] = rule
    found.lists = list(rules)
    found.raw |= {key: config[key] for key, rule in rules.items() if rule and "first" in rule}  # in other orders, too
    if config.get(SHARING) is not None:
        signs = signatures(config, {key: config[key] for key in rules}, n)
        after = list(zip(signs, [(), *signs], strict=False))
        for pair in set(after):
            alike = [i for i in range(n) if after[i] == pair]
            found.chosen += {*alike[:2], alike[-1]}  # the first may differ from the second, and the last from both
        found.chosen.sort()
        found.depth = len(found.chosen)
        return rules
    indexers = [kind for kind in config.get(INDEXERS) or () if INDEXERS in rules]
    if "shared" in indexers:  # each layer that chooses, with those that share: whole runs, the first and the last
        starts = [i for i, kind in enumerate(indexers) if kind != "shared"]
        first = next(i for i in starts if indexers[i + 1 : i + 2] == ["shared"])
        second = starts[starts.index(first) + 1]
        found.chosen = sorted({*range(2 * second - first), *range(starts[-1], n)})
        found.depth, found.chosen_by = len(found.chosen), second - first
        return rules
    given_lists = [found.raw[key] for key in keys if key in found.raw and key not in found.runs and key not in unread]
    rows = [str(row) for row in zip(*given_lists, strict=False)]
    if distinct := [rows.index(row) for row in dict.fromkeys(rows)]:
        found.pattern = [i for i in distinct for _ in range(2)]  # each kind after itself and after another
        found.depth = max(found.depth, len(found.pattern) + 1)
    return rules


def _numbered(bare: Mapping[str, Any], key: str, layers: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rule of a list of which another key of the config lists the numbers of some layers."""
    for numbers in (one for one in INDEX_KEYS if one in config):
        tried = [(7, [1, 4]), (9, [0, 2, 8]), (5, None)]
        try:
            given = [resolved_keys({**bare, layers: deep, numbers: listed}).get(key) or [] for deep, listed in tried]
        except InputError:
            continue
        if any(len(one) != deep for one, (deep, _) in zip(given, tried, strict=True)):
            continue
        rule: dict[str, Any] = {"numbers": numbers, "listed": given[0][1], "others": given[0][0]}
        if all(
            default_list(rule, {numbers: listed}, deep, key) == one
            for one, (deep, listed) in zip(given, tried, strict=True)
        ):
            return rule
    return None
