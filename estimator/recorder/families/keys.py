"""Which keys of a config are sizes, which belong to the structure, and which do not matter: found by trying."""

from __future__ import annotations

import inspect
import itertools
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...errors import InputError
from ...programs.attention_functions import WIDE
from ...programs.config_values import (
    DEPTH_KEYS,
    GENERATION,
    IGNORED,
    INDEX_KEYS,
    SHARING,
    STATIC_ROPE,
    structural,
    with_rope,
)
from ...programs.expressions import evaluate
from ...programs.program import Program
from ...programs.switches import switch
from .. import config_reads
from ..fit import same_but_rate, same_calls
from .configs import class_config, model_of, resolved_keys
from .draws import QUOTIENTS, SHARED, Draw, drawn_config, groups_symbol, program_of, recorded_draw
from .structure import Structure

_ANY_ROPE = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}


def probe(found: Structure, config: Mapping[str, Any], rng: random.Random, lists: Mapping[str, Any]) -> None:
    """Sort the config's keys: sizes, structure, and those that do not matter."""
    draw, base = recorded_draw(found, rng, depth=max(found.depth // 2 + 1, len(found.pattern) - 1))
    resolved = resolved_keys(draw.raw)
    # Keys whose value the draw gives, or that are treated by themselves.
    fixed = {found.layers, found.heads, found.kv_heads, found.window, found.roles["H"], found.roles.get("V")}
    fixed |= {found.chunk, *found.other_heads, *found.symbols}
    if config.keys() >= {*SHARED}:
        fixed |= {*SHARED}
        found.symbols += SHARED
        found.structure[f"mamba_expand = mamba_n_heads * mamba_d_head / {found.roles['H']}"] = True
    if found.latent:
        fixed.add("head_dim")  # the class derives it from another key
        found.harmless += [key for key in ("head_dim",) if key in config]

    def changed_to(key: str, value: Any) -> Program | None:
        try:
            return program_of({**draw.raw, key: value}, draw, found)
        except Exception:
            return None

    def outcome(key: str, value: Any) -> str:
        program = changed_to(key, value)
        if program is None:
            return "refused"
        if program == base:
            return "same"
        return "sizes" if same_calls(base, program) else "calls"

    def changes_lists(changed: Mapping[str, Any]) -> bool:
        """Whether a class fills in other entries per layer, as for a window in which all tokens of a draw are."""
        own = resolved_keys(changed)
        return any(own.get(name) != resolved.get(name) for name in lists)

    def is_unread(key: str) -> bool:
        """Whether the class does not have a key, and no module asks for it."""
        without = {name: x for name, x in draw.raw.items() if name != key}
        try:
            with config_reads.noted() as reads:
                own = class_config(without)
                same = program_of(without, draw, found) == base
        except Exception:
            return False
        return same and key not in {*own.to_dict(), *reads, *config_reads.named_by(own)}

    taken = {key: value for key, value in found.raw.items() if key not in config}  # and not kept, at least by this name
    fixed |= {rule["every"] for rule in lists.values() if rule and "every" in rule}
    fixed |= {*IGNORED, *GENERATION, *lists, *found.runs.values(), *DEPTH_KEYS, *INDEX_KEYS, SHARING}
    keys = {key: x for key, x in {**config, **taken}.items() if key not in fixed and not key.startswith("_")}
    for key, value in keys.items():
        if isinstance(value, bool):
            other = changed_to(key, not value)
            if other == base and not changes_lists({**draw.raw, key: not value}):
                found.harmless.append(key)
            elif other is not None and (two := switch(base, other)) is not None:
                found.raw[key] = value if two[0] is base else not value
                found.switches[key] = two[1]._replace(value=found.raw[key])
            else:
                found.structure[key] = value
    draw.raw.update({key: found.raw[key] for key in found.switches})
    base = program_of(draw.raw, draw, found)
    for key, value in keys.items():
        if isinstance(value, bool) or key.endswith("token_id"):
            continue
        current = resolved.get(key, value)
        role = next((letter for letter, k in found.roles.items() if k == key), None)
        if isinstance(value, int) or role is not None:
            outcomes = []
            for changed in (current * 2, current + 2, current + 1):
                outcomes.append(outcome(key, changed))
                if outcomes[-1] == "sizes":
                    break
            if "sizes" not in outcomes:  # some matter past a threshold only
                outcomes += [outcome(key, changed) for changed in (1, current * 1000) if changed != current]
            if key in found.tied_to_hidden:
                if "calls" in outcomes or set(outcomes) == {"refused"}:
                    found.structure[f"{key} = {found.roles['H']}"] = True
                    continue
                found.tied_to_hidden.remove(key)
            if role is not None:
                if "sizes" not in outcomes:
                    del found.roles[role]
                    if "calls" in outcomes:
                        found.structure[key] = value
                    else:
                        found.harmless.append(key)
            elif "sizes" in outcomes:
                found.symbols.append(key)
                if outcome(key, draw.raw[found.roles["H"]]) == "calls":  # such as a projection where they differ
                    found.structure[f"{key} = {found.roles['H']}"] = False
                if key.endswith("head_dim") and outcome(key, WIDE // 2 if value > WIDE else 2 * WIDE) == "calls":
                    found.structure[f"{key} <= {WIDE}"] = value <= WIDE
            elif "calls" in outcomes or set(outcomes) == {"refused"}:
                found.structure[key] = value
            else:
                found.harmless.append(key)
        elif isinstance(value, float):
            other = changed_to(key, 0.0 if value else 0.1)
            if other == base:
                found.harmless.append(key)
            elif (
                "drop" in key and other is not None and same_but_rate(base, other, (1.0, 0.0) if value else (0.0, 1.0))
            ):
                found.rates += (key,)
            else:
                found.structure[key] = structural(value)
        elif value is None:
            tried = {outcome(key, x) for x in (64, 3, 0.5, True, "x")}
            if tried <= {"same", "refused"} and "same" in tried:
                found.harmless.append(key)
            else:
                found.structure[key] = None
        elif isinstance(value, (str, list)):
            if is_unread(key):
                found.harmless.append(key)
            else:
                found.structure[key] = structural(value)
    kind = with_rope(config).get("rope_type")
    if "rope_theta" in config and kind in (None, *STATIC_ROPE):  # as releases before 5 write it
        others = [outcome("rope_scaling", {**_ANY_ROPE, "rope_type": other}) for other in STATIC_ROPE]
        kind = "static" if {*others} == {"same"} else kind or "default"
    elif kind in STATIC_ROPE and "rope_theta" in (rope := config.get("rope_parameters") or {}):
        changes = [{**_ANY_ROPE, **rope, "rope_type": other} for other in STATIC_ROPE]
        kind = "static" if {outcome("rope_parameters", change) for change in changes} == {"same"} else kind
    first = {key: i for i, key in enumerate(keys)}
    found.structure = dict(sorted(found.structure.items(), key=lambda entry: first.get(entry[0].split()[0], -1)))
    found.harmless.sort(key=lambda key: first.get(key, -1))
    if kind is not None:
        found.structure["rope_type"] = kind


def definitions(found: Structure) -> dict[str, str]:
    """What each symbol is, by the config's keys."""
    H, heads, kv = found.roles["H"], found.heads, found.kv_heads
    defined = {letter: found.roles[letter] for letter in "HIV" if letter in found.roles}
    defined["K"] = kv if kv is not None and found.grouped else heads
    if found.grouped:
        defined["G"] = f"{heads} / {kv}"
    if not found.latent:
        defined["D"] = found.roles.get("D", f"{H} / {heads}")
    if found.partial:
        defined["R"] = f"int(({defined['D']}) * partial_rotary_factor)"
    for key in (found.window, found.chunk):
        if key is not None and not key.isdigit():
            defined[key] = key
    for key in found.other_heads:
        defined |= {key: key, groups_symbol(key): f"{heads} / {key}"}
    quotients = {key: (divisor, name) for key, divisor, name in QUOTIENTS if key in found.symbols}
    defined |= found.derived
    if found.depth_is_size:
        defined[found.layers] = found.layers
    if found.case.classifies:
        defined["num_labels"] = "num_labels"
    for key in found.symbols:
        if key in quotients and quotients[key][0] in found.symbols:
            divisor, name = quotients[key]
            defined[name] = f"{key} / {divisor}"
        else:
            defined[key] = key
    return defined


def defaults_of(found: Structure, rng: random.Random) -> dict[str, Any]:
    """The class's defaults of the keys that matter: values, or expressions of other keys."""
    sizes = [*found.roles.values(), found.heads, *found.symbols, *found.tied_to_hidden]
    sizes += [key for key in (found.kv_heads, found.window, found.chunk) if key is not None and not key.isdigit()]
    model_type = found.raw["model_type"]
    bare = resolved_keys({"model_type": model_type})
    defaults: dict[str, Any] = {found.layers: bare.get(found.layers)}
    for key in (*DEPTH_KEYS, *INDEX_KEYS, *found.runs.values(), "decoder_sparse_step"):
        if key in bare:
            defaults[key] = bare[key]
    if "interleave_moe_layer_step" in defaults:
        defaults.pop("moe_layers", None)  # which follow from the step
    for key in (*found.structure, *found.switches, *found.rates):
        if key in bare and bare[key] is not None:
            defaults[key] = structural(bare[key]) if isinstance(bare[key], (list, tuple)) else bare[key]
    for key, value in found.raw.items():
        meant = resolved_keys(found.raw).get(key) if value is None and key in found.structure else None
        if isinstance(meant, (int, float)) and meant == int(meant):
            found.nulls[key] = str(int(meant))  # the class writes it where a config.json has null
    if "rope_type" in found.structure:
        defaults["rope_type"] = with_rope(bare).get("rope_type", "default")
    if "head_dim" not in bare and f"head_dim = {found.roles['H']} / {found.heads}" in found.structure:
        defaults["head_dim"] = f"={found.roles['H']} / {found.heads}"
    if "mrope_section" in found.structure and with_rope(bare).get("mrope_section") is None:
        defaults["mrope_section"] = of_module("mrope_section", bare)
    if found.partial:
        defaults["partial_rotary_factor"] = with_rope(bare).get("partial_rotary_factor", 1.0)
    draws = [drawn_config(found, rng, 4) for _ in range(3)]
    for key in sizes:
        seen = []
        for draw in draws:
            without = {k: v for k, v in draw.raw.items() if k != key}
            try:
                seen.append((resolved_keys(without).get(key), draw.raw))
            except InputError:
                break
        if len(seen) < len(draws):
            if bare.get(key) is not None:
                defaults[key] = bare[key]
            continue
        others = [k for k in sizes if k != key]
        values = [value for value, _ in seen]
        if None in values and key == found.window:
            continue  # there is no window
        if None in values:
            whole_heads = key == found.roles.get("D")  # of other sizes a head without the key may rotate an odd part
            tied = [drawn_config(found, rng, 4, tie=True) for _ in range(len(draws))] if whole_heads else draws
            meant = (_default_of_none(found, key, draw) for draw in tied)
            defaults[key] = next((text for text in meant if text is not None), None)
            continue
        if len(set(values)) == 1:
            defaults[key] = values[0]
            if (null := _null(key, draws, others)) is not None:
                found.nulls[key] = null
            continue
        texts = [*others, *(f"{f} * {k}" for f in (2, 3, 4) for k in others)]
        texts += [f"{a} / {b}" for a, b in itertools.product(others, others) if a != b]
        for text in texts:
            try:
                if all(evaluate(text, given) == value for value, given in seen):
                    defaults[key] = f"={text}"
                    break
            except (KeyError, InputError):
                continue
    return defaults


def of_module(key: str, bare: Mapping[str, Any]) -> Any:
    """What a module takes for a key that neither the config nor its class has."""
    source = model_of(bare)
    if key not in inspect.getsource(sys.modules[source.model_class.__module__]):
        return None
    model = source.build("bfloat16")
    return next((vars(module)[key] for module in model.modules() if key in vars(module)), None)


def _null(key: str, draws: Sequence[Draw], others: Sequence[str]) -> str | None:
    """The key that one which is ``null`` takes its value from, by the class."""
    try:
        seen = [(resolved_keys({**draw.raw, key: None}).get(key), draw.raw) for draw in draws]
    except InputError:
        return None
    if any(value is None for value, _ in seen):
        return None
    return next((other for other in others if all(raw.get(other) == value for value, raw in seen)), None)


def _default_of_none(found: Structure, key: str, draw: Draw) -> str | None:
    """What a key that is ``None`` stands for, found by recording."""
    hidden = found.roles["H"]
    without = {k: v for k, v in draw.raw.items() if k != key}
    try:
        program = program_of(without, draw, found)
    except InputError:
        return None  # it must be given
    for text in (f"{hidden} / {found.heads}", f"4 * {hidden}", found.heads, hidden):
        with suppress(InputError):  # not one of its values
            if program_of({**without, key: int(evaluate(text, draw.raw))}, draw, found) == program:
                return f"={text}"
    return None
