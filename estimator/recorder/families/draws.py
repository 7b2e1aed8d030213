"""Configs of random sizes under the constraints that classes have, and what their models call."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ...ledger import whole
from ...operators import DEVICES
from ...programs.attention_functions import WIDE
from ...programs.config_values import DENSE_FIRST, DEPTH_KEYS, INDEX_KEYS, SHARING, number_of
from ...programs.expressions import evaluate, names
from ...programs.program import Program
from ...programs.setting import Setting
from ...programs.step import CachedTokens, Procedure, Step
from ..hugging_face import HuggingFaceModel
from .configs import WINDOWS, resolved_keys, without_factors
from .structure import Structure

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


QUOTIENTS = (
    ("n_routed_experts", "n_group", "experts_per_group"),
    ("mamba_n_heads", "mamba_n_groups", "heads_per_group"),
    ("mamba_num_heads", "n_groups", "heads_per_group"),
    ("linear_num_value_heads", "linear_num_key_heads", "value_heads_per_key_head"),
)
"""Keys that are multiples of others, and the name of the quotient."""


DENSE_ONES = "mlp_only_layers"
"""The key that lists the layers without experts."""


SHARED = ("mamba_expand", "mamba_n_heads", "mamba_d_head")
"""Keys that only change together: the expanded hidden size is that of all heads."""


DRAWS, CHECKS = 5, 2


@dataclass
class Draw:
    """A config, and at what batch and sequence its model runs. ``values`` are those of the symbols."""

    raw: dict[str, Any]
    values: dict[str, int]
    batch: int
    seq: int
    setting: Setting
    cached: CachedTokens | None
    window: int | None

    @property
    def sizes(self) -> dict[str, int]:
        """The values that a question gives, not the config."""
        return {"B": self.batch, "S": self.seq, **_numbers(self.cached, self.window)}


def _numbers(cached: CachedTokens | None, window: int | None) -> dict[str, int]:
    """The sizes of a cache, which are numbers in a recording."""
    return {} if cached is None else {name: whole(size) for name, size in cached.sizes(window).items()}


def program_of(raw: Mapping[str, Any], draw: Draw, found: Structure) -> Program:
    """What a config's model calls, at the sizes of a draw. Raises what the model raises."""
    live, setting = HuggingFaceModel(raw, "the config", found.case.head), draw.setting
    if found.case.interfaces:
        return live.of_all_settings(setting, draw.batch, draw.seq, found.case.cached)
    labels = raw.get("num_labels", 0)
    step = step_of(setting, found.raw["model_type"], found.case.head, cached=draw.cached, num_labels=labels)
    return live.at(step, draw.batch, draw.seq)


def step_of(setting: Setting, family: str, head: str, **own: Any) -> Step:
    """The step of a model that is recorded in a setting; ``own`` is what the setting does not say."""
    attention: Any = setting.attention
    return Step(
        family=family,
        dtype=setting.dtype,
        autocast=setting.autocast,
        attention=attention,
        attention_mask=setting.attention_mask,
        token_types=setting.token_types,
        use_cache=setting.use_cache,
        device=DEVICES[setting.device],
        procedure=Procedure(trains=setting.trains),
        head=head,
        **own,
    )


def groups_symbol(key: str) -> str:
    """The symbol of the heads that share one of so many heads of keys and values."""
    return f"groups_of_{key}"


def recorded_draw(
    found: Structure, rng: random.Random, depth: int = 0, tie: bool = False, one: str = ""
) -> tuple[Draw, Program]:
    """A draw and its program. Raises ``InputError`` where eight draws in turn do not run."""
    error: Exception | None = None
    for _ in range(8):
        draw = drawn_config(found, rng, depth or found.depth, tie, one)
        try:
            return draw, program_of(draw.raw, draw, found)
        except InputError as e:
            error = e
        except Exception as e:
            error = InputError(f"{type(e).__name__}: {e}")
    raise InputError(f"no size could be recorded: {error}")


def drawn_config(found: Structure, rng: random.Random, depth: int, tie: bool = False, one: str = "") -> Draw:
    """A config with other sizes under the constraints that classes have. The symbol ``one`` is 1.

    With ``tie`` the hidden size is that of all heads together, and the window is where the two regimes meet.
    """
    raw, case = dict(found.raw), found.case
    n = rng.randint
    ones = (*case.fixed, one)
    seq = 1 if "S" in ones else n(9, 70)
    if found.chunk is not None:
        size = int(found.chunk) if found.chunk.isdigit() else n(20, 90)
        if "chunks" in ones:
            least = 9 if case.holds_cache else 2
            seq = size if case.whole_chunks else 1 if seq == 1 else n(least, size - 1)
        elif seq > 1:  # a loop over chunks is seen from its fourth pass on
            passes = 2 if tie else n(4, 9)
            seq = size * passes - (0 if case.whole_chunks else n(1, size - 1))
        if not found.chunk.isdigit():
            raw[found.chunk] = size
    values = {"B": 1 if "B" in ones else n(2, 12), "S": seq}
    past = 0 if case.pasts <= {None} else 1 if one == "past" else n(9, 70)
    tokens = past + seq
    step = found.step

    def head(wide: bool) -> int:
        return 2 * step * (n(128 // step + 1, 240 // step) if wide else n(2, 128 // step))

    kv = 2 ** n(1, 4) if found.power else n(2, 9)
    kv = 1 if "K" in ones else kv
    groups = (2 ** n(1, 3) if found.power else n(2, 6)) if found.grouped else 1
    groups = 1 if one == "G" else groups
    groups *= 4 if found.other_heads else 1  # so that the heads have other divisors than these
    size = head(found.wide)
    if found.rotary is not None and not found.partial:
        size = found.rotary
    elif found.rotary is not None and size <= found.rotary:
        size += found.rotary
    raw[found.heads] = kv * groups
    free = "D" in found.roles
    H = kv * groups * (size if tie or not free else 2 * step * n(4, 30))
    values["H"] = raw[found.roles["H"]] = H
    for letter, (low, high) in {"I": (40, 3000), "V": (200, 9000)}.items():
        if letter in found.roles:
            values[letter] = raw[found.roles[letter]] = n(low, high) if letter == "V" else step * n(low, high)
    values["K"] = kv
    if found.grouped:
        values["G"] = groups
    if not found.latent:
        values["D"] = size
    if free:
        raw[found.roles["D"]] = size
    if found.kv_heads is not None:
        raw[found.kv_heads] = kv
    for key in found.tied_to_hidden:
        raw[key] = H
    if found.partial:
        rotary = values["R"] = found.rotary or 2 * n(1, size // 2 - 1)
        rope = without_factors(resolved_keys(found.raw).get("rope_parameters") or {})
        given = {"partial_rotary_factor": (rotary + 0.5) / size}
        nested = rope and all(isinstance(one, Mapping) for one in rope.values())  # one for each kind of layers
        raw["rope_parameters"] = {kind: {**rope[kind], **given} for kind in rope} if nested else {**rope, **given}
        for key in ("partial_rotary_factor", "rotary_pct", "rope_scaling"):
            raw.pop(key, None)
    if found.window is not None:
        beyond = case.beyond_window
        low, high = (2, 4 * tokens) if beyond is None else (2, tokens) if beyond else (tokens + 1, 4 * tokens)
        near = high if beyond else low
        values[found.window] = raw[found.window] = near if tie else n(low, high)
        if WINDOWS[found.window] != found.window:
            values[found.window] = raw[found.window] = 2 * raw[found.window]
    for key in found.other_heads:
        kept = [1] if found.structure[f"{key} = 1"] else [d for d in range(2, kv * groups) if kv * groups % d == 0]
        values[key] = raw[key] = kept[n(0, len(kept) - 1)]
        values[groups_symbol(key)] = kv * groups // values[key]
    base = {**found.raw, **resolved_keys(found.raw)}
    for key in found.symbols:
        if key not in raw or key in found.raw:
            value = base[key]
            small = value <= 8 or "per_tok" in key
            values[key] = raw[key] = n(2, 5) if small else 2 * step * n(8, 60)
            if (narrow := found.structure.get(f"{key} <= {WIDE}")) is not None:
                values[key] = raw[key] = head(wide=not narrow)
            if key in EXPERTS:
                values[key] = raw[key] = n(6, 40)
        if "position" in key:
            least = 1 if key.startswith("original") else tokens + 1
            values[key] = raw[key] = n(least, least + 900)
        if key == "position_buckets":  # half of them are of positions ahead
            values[key] = raw[key] = 2 * n(8, 60)
    if found.chunk in raw:
        values[found.chunk] = raw[found.chunk]
    if "topk_group" in found.symbols and "n_group" in raw:
        raw["topk_group"] = values["topk_group"] = n(1, raw["n_group"])
    for key, divisor, quotient in QUOTIENTS:
        if key in found.symbols and divisor in found.symbols:
            del values[key]
            values[quotient] = n(4, 9)
            raw[key] = values[quotient] * raw[divisor]
    if base.keys() >= {*SHARED}:
        heads = raw.setdefault("mamba_n_heads", base["mamba_n_heads"])
        times = n(1, 3)
        raw["mamba_expand"], raw["mamba_d_head"] = times * heads, times * H
        values |= {key: raw[key] for key in ("mamba_expand", "mamba_d_head")}
    for key, value in base.items():
        if key.endswith("token_id") and value is not None:
            raw[key] = 1
    if type(base[found.layers]) is int:
        raw[found.layers] = depth
    if case.classifies:
        raw["pad_token_id"] = 1  # by which the last token of a row is found
        values["num_labels"] = raw["num_labels"] = 1 if "num_labels" in ones else n(2, 9)
    for key in DEPTH_KEYS:
        if key in base:
            raw[key] = 1 if key.endswith("step_of") and base[key] == 1 else 2
    for key in INDEX_KEYS:
        raw.pop(key, None)
    if DENSE_ONES in base:
        raw[DENSE_ONES] = [1, 2]
    for key, value in found.raw.items():
        if isinstance(value, (list, tuple)) and len(value) == number_of(base[found.layers]) and key not in INDEX_KEYS:
            pattern = found.pattern or range(len(value))
            raw[key] = [value[pattern[i % len(pattern)]] for i in range(depth)]
    for key, in_runs in found.runs.items():
        raw[key] = [base[key][i % len(base[key])] for i in range(depth)]
        raw[in_runs] = [[[entry], 1] for entry in raw[key]]
    for name, text in found.derived.items():
        for key in (
            names(text) - {"S", "past", found.chunk} if "S" in names(text) else ()
        ):  # by turns shorter than the sequence and longer
            below = (max(tokens // 3, 1), max(tokens - 1, 1))
            values[key] = raw[key] = n(*(below if next(found.sides) % 2 else (tokens, 2 * tokens)))
        values[name] = int(evaluate(text, {**base, **raw, "S": seq, "past": past}))
    if found.chosen:
        others = [i for i in range(base[found.layers]) if i not in found.chosen]
        more = -(-max(depth - len(found.chosen), 0) // found.chosen_by) * found.chosen_by
        layers = sorted([*found.chosen, *others[:more]])
        raw[found.layers] = len(layers)
        if SHARING in base:
            raw[SHARING] = sum(i >= base[found.layers] - base[SHARING] for i in layers)
        raw |= {key: sum(i < base[key] for i in layers) for key in DENSE_FIRST if type(base.get(key)) is int}
        raw |= {key: [base[key][i] for i in layers] for key in found.lists}
    if found.depth_is_size:
        values[found.layers] = raw[found.layers]
    setting = case.settings[next(found.turn) % len(case.settings)]
    cached, window = None, None if found.window is None else raw[found.window]
    if case.holds_cache:
        cached = CachedTokens("dynamic", past, tokens, past == 1 or setting.past == "prefill", setting.reordered)
        values |= _numbers(cached, window)
    return Draw(raw, values, values["B"], values["S"], setting, cached, window)
