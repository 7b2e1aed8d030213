"""Records a family's program: one for all configs of a structure, from recordings at random sizes. Needs PyTorch.

Which keys of the config are sizes is found by trying: a key whose change changes shapes alone is a symbol, one whose
change changes the calls belongs to the structure, and one that changes nothing does not matter. The result is compared
with fresh recordings at other sizes and another depth, event by event. What differs is refused.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers

from ..errors import InputError
from ..operators import CPU, Cuda, Device
from .depth import examples, smallest
from .expressions import evaluate
from .family import (
    DEPTH_KEYS,
    GENERATION,
    IGNORED,
    ONES,
    STATIC_ROPE,
    WIDE,
    Family,
    default_list,
    signatures,
    structural,
    with_rope,
)
from .fit import Recording, fit, same_calls
from .live import Live
from .program import Program
from .releases import is_before
from .shipped import setting_of
from .step import Step

_ROLES = {
    "I": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "V": ("vocab_size",),
    "D": ("head_dim",),
}
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_QUOTIENTS = (("n_routed_experts", "n_group", "experts_per_group"),)
"""Keys that are multiples of others, and the name of the quotient."""
_STATIC_ROPE = {"default", "linear", "llama3", "yarn", "proportional"}
"""The kinds of rotary embeddings whose frequencies are the same at all lengths (``modeling_rope_utils.py``)."""
_ANY_ROPE = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}
DRAWS, CHECKS = 5, 2
DTYPES = ("bfloat16", "float32", "float16")


@dataclass(frozen=True)
class Setting:
    """How a program is recorded."""

    dtype: str | None = None
    """``None``: a program for all of ``DTYPES``."""
    attention: str | None = None
    """``None``: what transformers picks for the class."""
    trains: bool = True
    autocast: str | None = None
    attention_mask: bool = False
    use_cache: bool = False
    device: Device = CPU
    beyond_window: bool = False
    """Sequences are at least as long as the sliding window."""
    fixed: tuple[str, ...] = ()
    """Symbols that are 1, of ``ONES``."""


@dataclass
class _Draw:
    raw: dict[str, Any]
    values: dict[str, int]
    batch: int
    seq: int
    dtype: str


@dataclass
class _Structure:
    """What is known of a config's class."""

    raw: dict[str, Any]
    setting: Setting
    layers: str = ""
    depth: int = 4
    roles: dict[str, str] = field(default_factory=dict)
    """The key of each letter."""
    heads: str = ""
    kv_heads: str | None = None
    grouped: bool = False
    tied_to_hidden: list[str] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    """Keys that are symbols under their own names."""
    structure: dict[str, Any] = field(default_factory=dict)
    partial: bool = False
    window: str | None = None
    turn: Iterator[int] = field(default_factory=itertools.count)
    step: int = 1
    """What sizes are multiples of: kernels of experts want rows of 16 bytes."""
    latent: bool = False
    """Attention is DeepSeek's, whose heads have several sizes, each a key of its own."""
    wide: bool = False
    """Heads are larger than ``WIDE``, so the module repeats keys and values."""
    harmless: list[str] = field(default_factory=list)
    """Keys that change nothing."""
    power: bool = False
    """The number of heads is a power of two."""


def _config(raw: Mapping[str, Any]) -> Any:
    return Live(raw, "the config").config


def _program(raw: Mapping[str, Any], draw: _Draw, setting: Setting) -> Program:
    return Live(raw, "the config").at(_step(raw, draw.dtype, setting), draw.batch, draw.seq)


def _step(raw: Mapping[str, Any], dtype: str, setting: Setting) -> Step:
    attention: Any = setting.attention or Live(raw, "the config").attention
    return Step(
        family=str(raw["model_type"]),
        dtype=dtype,
        autocast=setting.autocast,
        attention=attention,
        attention_mask=setting.attention_mask,
        use_cache=setting.use_cache,
        device=setting.device,
        procedure="backpropagation" if setting.trains else "inference",
    )


def _resolved(raw: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_config(raw).to_dict())


def record_family(raw: Mapping[str, Any], setting: Setting | None = None, seed: int = 0) -> Family:
    """The program of all configs that have the structure of this one. Raises ``InputError`` where it finds none."""
    setting = setting or Setting()
    (found,) = record_families(raw, [setting], seed).values()
    if isinstance(found, InputError):
        raise found
    return found


def settings_of(raw: Mapping[str, Any]) -> list[Setting]:
    """The settings that a program is shipped for: a batch of one and more, a sequence of one, on either side of the
    sliding window, for training and for one pass of inference.
    """
    config = _resolved(raw)
    windows = (False, True) if config.get("sliding_window") else (False,)
    heads = ("K",) if any(config.get(key) == 1 for key in _KV_HEADS) else ()
    return [
        Setting(trains=trains, fixed=(*one, *heads), beyond_window=beyond)
        for trains in (True, False)
        for beyond in windows
        for one in ((), ("B",), ("S",), ("B", "S"))
        if not (beyond and "S" in one)
    ]


def record_families(
    raw: Mapping[str, Any], settings: Sequence[Setting], seed: int = 0
) -> dict[Setting, Family | InputError]:
    """The programs of a structure in several settings, or why there is none. The first setting sorts the config's keys.

    A setting that an earlier program answers is left out: a batch of one, where it makes the same calls. One that makes
    other calls on a GPU is recorded for that, too.
    """
    made: dict[Setting, Family | InputError] = {}
    structure: tuple[_Structure, dict[str, Any], dict[str, Any]] | None = None
    waiting = list(settings)
    while waiting:
        setting = waiting.pop(0)
        if any(isinstance(one, Family) and _covers(one, other, setting) for other, one in made.items()):
            continue
        for power in (False, True):
            try:
                if structure is None or structure[0].power < power:
                    structure = _structure(raw, setting, random.Random(seed), power)
                found, lists, defaults = structure
                own = replace(found, setting=setting)
                made[setting] = one = _record_family(own, lists, defaults, random.Random(seed + 1))
                if one.recorded["device"] == "cpu":
                    waiting.insert(0, replace(setting, device=Cuda()))
            except InputError as error:
                made[setting] = error
                if isinstance(error, _NotOne):
                    continue
            break
    return made


def _covers(family: Family, recorded: Setting, wanted: Setting) -> bool:
    """Whether a program that was recorded in one setting is one for another, too."""
    ones = {*family.ones, *family.fixed}
    return replace(recorded, fixed=()) == replace(wanted, fixed=()) and set(wanted.fixed) <= ones


class _NotOne(InputError):
    """Recordings at several sizes are not of one structure."""


def _structure(
    raw: Mapping[str, Any], setting: Setting, rng: random.Random, power: bool
) -> tuple[_Structure, dict[str, Any], dict[str, Any]]:
    """What is known of a config's class, the rules of its lists, and its defaults."""
    raw = {key: value for key, value in raw.items() if key not in ("architectures", "dtype", "torch_dtype", "auto_map")}
    config = _resolved(raw)
    kind = with_rope(config).get("rope_type")
    if kind is not None and not {*str(kind).split("/")} <= _STATIC_ROPE:
        raise InputError(f"rope_type {kind} changes with the length of the sequence; there is no rule for that")
    found = _Structure(raw, setting, power=power)
    map_ = dict(_config(raw).attribute_map)

    def name(key: str) -> str:
        return str(map_.get(key, key))

    found.layers, found.heads = name("num_hidden_layers"), name("num_attention_heads")
    if power:
        found.structure[f"{found.heads} is a power of 2"] = True
    hidden = name("hidden_size")
    found.roles = {"H": hidden}
    for letter, keys in _ROLES.items():
        for key in keys:
            if name(key) in config:
                found.roles[letter] = name(key)
                break
    found.kv_heads = next((name(key) for key in _KV_HEADS if name(key) in config), None)
    if found.kv_heads is not None:
        found.grouped = config[found.kv_heads] not in (None, config[found.heads])
        found.structure[f"{found.heads} = {found.kv_heads}"] = not found.grouped
    found.partial = with_rope(config).get("partial_rotary_factor", 1.0) not in (None, 1.0)
    found.window = "sliding_window" if config.get("sliding_window") else None
    head_dim = config.get("head_dim") or config[hidden] // config[found.heads]
    found.wide = head_dim > WIDE
    found.latent = "qk_rope_head_dim" in config
    if found.latent:
        found.roles.pop("D", None)
    else:
        found.structure[f"D <= {WIDE}"] = not found.wide
    if any("expert" in key for key in config):
        found.step = 8
    used = {hidden, found.layers, found.heads, found.kv_heads, *found.roles.values()}
    found.tied_to_hidden = [
        key for key, value in config.items() if key not in used and type(value) is int and value == config[hidden] > 32
    ]
    lists = _lists(found, config)
    _probe(found, config, rng, lists)
    return found, lists, _defaults(found, config, rng)


def _record_family(
    found: _Structure, lists: Mapping[str, Any], defaults: Mapping[str, Any], rng: random.Random
) -> Family:
    raw, setting = found.raw, found.setting
    map_ = dict(_config(raw).attribute_map)
    recordings: list[Recording] = []
    kinds = None
    for _ in range(DRAWS):
        draw, program = _recorded(found, rng)
        resolved = _resolved(draw.raw)
        signs = signatures(resolved, {key: resolved[key] for key in lists}, found.depth)
        learnt = examples(program, signs)
        if kinds is not None and learnt != kinds:
            raise InputError("the kinds of the layers differ between recordings of one structure")
        kinds = learnt
        recordings.append((draw.values, smallest(program, learnt)[0]))
    assert kinds is not None
    _, kinds = smallest(program, kinds)
    try:
        fitted = fit(recordings)
    except InputError as error:
        if "of one structure" in str(error) and not found.power:
            raise _NotOne(str(error)) from None
        raise
    live = Live(raw, "the config")
    family = Family(
        model_type=raw["model_type"],
        program=fitted,
        kinds=kinds,
        symbols=_definitions(found),
        structure=found.structure,
        defaults=defaults,
        lists=lists,
        layers=found.layers,
        aliases={k: v for k, v in map_.items() if k != v},
        recorded={
            "transformers": transformers.__version__,
            "torch": str(torch.__version__).partition("+")[0],
            "default_attention": live.attention,
            **({} if live.supports_checkpointing else {"checkpointing": False}),
            **setting_of(_step(raw, "float32", setting)),
        },
        window=found.window,
        beyond_window=setting.beyond_window,
        fixed=setting.fixed,
        harmless=tuple(found.harmless),
    )
    family = replace(family, ones=tuple(name for name in ONES if _holds(found, rng, family, name)))
    for i in range(CHECKS):
        draw, fresh = _recorded(found, rng, depth=found.depth + 1 + i, tie=i == 1)
        answered = family.at(draw.raw, {"B": draw.batch, "S": draw.seq}, draw.dtype)
        if answered != fresh:
            raise InputError(f"the program differs from a recording at other sizes: {_difference(answered, fresh)}")
    if setting.device is CPU and _same_on_cuda(found, rng, family):
        family = replace(family, recorded={**family.recorded, "device": "any"})
    return family


def _same_on_cuda(found: _Structure, rng: random.Random, family: Family) -> bool:
    """Whether the calls are the same on a GPU."""
    on_cuda = replace(found, setting=replace(found.setting, device=Cuda()))
    draw, fresh = _recorded(on_cuda, rng)
    return family.at(draw.raw, {"B": draw.batch, "S": draw.seq}, draw.dtype) == fresh


def _holds(found: _Structure, rng: random.Random, family: Family, one: str) -> bool:
    """Whether the program is right where a symbol is 1."""
    if (
        one in found.setting.fixed
        or (one == "K" and not found.grouped)
        or (one == "S" and found.window is not None and found.setting.beyond_window)
    ):
        return False
    try:
        draw, fresh = _recorded(found, rng, one=one)
        return replace(family, ones=(one,)).at(draw.raw, {"B": draw.batch, "S": draw.seq}, draw.dtype) == fresh
    except InputError:
        return False


def _difference(a: Program, b: Program) -> str:
    for name in ("layers", "modules", "parameters", "buffers", "attributes", "before", "bodies", "after"):
        for x, y in zip(getattr(a, name), getattr(b, name), strict=False):
            if name == "bodies":
                for one, other in zip(x.events, y.events, strict=False):
                    if one != other:
                        return f"{one} for {other}"
            elif x != y:
                return f"{name}: {x} for {y}"
    return next((n for n in vars(b) if getattr(a, n, None) != getattr(b, n)), "its parts")


def _recorded(
    found: _Structure, rng: random.Random, depth: int = 0, tie: bool = False, one: str = ""
) -> tuple[_Draw, Program]:
    error: Exception | None = None
    for _ in range(8):
        draw = _draw(found, rng, depth or found.depth, tie, one)
        try:
            return draw, _program(draw.raw, draw, found.setting)
        except InputError as e:
            error = e
        except Exception as e:
            error = InputError(f"{type(e).__name__}: {e}")
    raise InputError(f"no size could be recorded: {error}")


def _draw(found: _Structure, rng: random.Random, depth: int, tie: bool = False, one: str = "") -> _Draw:
    """A config with other sizes under the constraints that classes have. The symbol ``one`` is 1.

    With ``tie`` the hidden size is that of all heads together, and the window is where the two regimes meet.
    """
    raw = dict(found.raw)
    n = rng.randint
    ones = (*found.setting.fixed, one)
    seq = 1 if "S" in ones else n(9, 70)
    values = {"B": 1 if "B" in ones else n(2, 12), "S": seq}
    step = found.step
    kv = 2 ** n(1, 4) if found.power else n(2, 9)
    kv = 1 if "K" in ones else kv
    groups = (2 ** n(1, 3) if found.power else n(2, 6)) if found.grouped else 1
    size = 2 * step * (n(128 // step + 1, 240 // step) if found.wide else n(2, 128 // step))
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
        rotary = values["R"] = 2 * n(1, size // 2 - 1)
        rope = dict(_resolved(found.raw).get("rope_parameters") or {})
        raw["rope_parameters"] = {**rope, "partial_rotary_factor": (rotary + 0.5) / size}
        for key in ("partial_rotary_factor", "rotary_pct", "rope_scaling"):
            raw.pop(key, None)
    if found.window is not None:
        low, high = (2, seq) if found.setting.beyond_window else (seq + 1, 4 * seq)
        near = {True: high, False: low}[found.setting.beyond_window]
        values[found.window] = raw[found.window] = near if tie else n(low, high)
    base = _resolved(found.raw)
    for key in found.symbols:
        if key not in raw or key in found.raw:
            value = base[key]
            small = value <= 8 or "per_tok" in key
            values[key] = raw[key] = n(2, 5) if small else 2 * step * n(8, 60)
            if key in _EXPERTS:
                values[key] = raw[key] = n(6, 40)
        if "position" in key:
            values[key] = raw[key] = seq + n(1, 900)
    if "topk_group" in found.symbols and "n_group" in raw:
        raw["topk_group"] = values["topk_group"] = n(1, raw["n_group"])
    for key, divisor, quotient in _QUOTIENTS:
        if key in found.symbols and divisor in found.symbols:
            del values[key]
            values[quotient] = n(4, 9)
            raw[key] = values[quotient] * raw[divisor]
    for key, value in base.items():
        if key.endswith("token_id") and value is not None:
            raw[key] = 1
    raw[found.layers] = depth
    for key in DEPTH_KEYS:
        if key in base:
            raw[key] = 2
    for key, value in found.raw.items():
        if isinstance(value, (list, tuple)) and len(value) == base[found.layers]:
            raw[key] = [value[i % len(value)] for i in range(depth)]
    dtype = found.setting.dtype or DTYPES[next(found.turn) % len(DTYPES)]
    return _Draw(raw, values, values["B"], values["S"], dtype)


def _lists(found: _Structure, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with an entry per layer, and the class's rule for them. Sets the depth of recordings."""
    n = config[found.layers]
    keys = [key for key, value in config.items() if isinstance(value, list) and len(value) == n > 0]
    rules: dict[str, Any] = {}
    for key in keys:
        bare = {k: v for k, v in found.raw.items() if k not in keys}
        rules[key] = None
        given = {deep: _resolved({**bare, found.layers: deep}).get(key) for deep in (24, 37)}
        deeper = given[37]
        if not isinstance(deeper, list) and is_before("5"):  # the class has the rule in its code, and not the key
            given = {deep: [config[key][i % n] for i in range(deep)] for deep in (n, 2 * n)}
            deeper = given[n]
        if not isinstance(deeper, list):
            continue
        for period in range(1, 13):
            rule: Any = {"period": deeper[:period]}
            if all(default_list(rule, {}, deep, key) == given[deep] for deep in given):
                rules[key] = rule
                found.depth = max(found.depth, 2 * period + 1)
                break
        else:
            if "max_window_layers" in config:
                rule = {"from": "max_window_layers", "below": deeper[0], "above": deeper[-1]}
                tried = [(24, 3), (37, 11)]
                if all(
                    default_list(rule, {"max_window_layers": first}, deep, key)
                    == _resolved({**bare, found.layers: deep, "max_window_layers": first}).get(key)
                    for deep, first in tried
                ):
                    rules[key] = rule
        if key in found.raw:
            wanted = {str(x) for x in config[key]}
            for deep in range(1, n + 1):
                if {str(x) for x in config[key][:deep]} == wanted:
                    found.depth = max(found.depth, min(deep + 2, n))
                    break
    return rules


def _probe(found: _Structure, config: Mapping[str, Any], rng: random.Random, lists: Mapping[str, Any]) -> None:
    """Sort the config's keys: sizes, structure, and those that do not matter."""
    draw, base = _recorded(found, rng, depth=found.depth // 2 + 1)
    resolved = _resolved(draw.raw)
    # Keys whose value the draw gives, or that are treated by themselves.
    fixed = {found.layers, found.heads, found.kv_heads, found.window, found.roles["H"], found.roles.get("V")}
    if found.latent:
        fixed.add("head_dim")  # the class derives it from another key

    def outcome(key: str, value: Any) -> str:
        try:
            program = _program({**draw.raw, key: value}, draw, found.setting)
        except Exception:
            return "refused"
        if program == base:
            return "same"
        return "sizes" if same_calls(base, program) else "calls"

    for key, value in config.items():
        if (
            key in IGNORED
            or key in GENERATION
            or key.startswith("_")
            or key in fixed
            or key in lists
            or key in DEPTH_KEYS
            or key.endswith("token_id")
        ):
            continue
        current = resolved.get(key, value)
        role = next((letter for letter, k in found.roles.items() if k == key), None)
        if isinstance(value, bool):
            if outcome(key, not value) != "same":
                found.structure[key] = value
            else:
                found.harmless.append(key)
        elif isinstance(value, int) or role is not None:
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
            elif "calls" in outcomes or set(outcomes) == {"refused"}:
                found.structure[key] = value
            else:
                found.harmless.append(key)
        elif isinstance(value, float):
            if outcome(key, 0.0 if value else 0.1) != "same":
                found.structure[key] = structural(value)
            else:
                found.harmless.append(key)
        elif value is None:
            tried = {outcome(key, x) for x in (64, 3, 0.5, True, "x")}
            if tried <= {"same", "refused"} and "same" in tried:
                found.harmless.append(key)
            else:
                found.structure[key] = None
        elif isinstance(value, (str, list)):
            found.structure[key] = value
    kind = with_rope(config).get("rope_type")
    if "rope_theta" in config and kind in (None, *STATIC_ROPE):  # as releases before 5 write it
        others = [outcome("rope_scaling", {**_ANY_ROPE, "rope_type": other}) for other in STATIC_ROPE]
        kind = "static" if {*others} == {"same"} else kind or "default"
    if kind is not None:
        found.structure["rope_type"] = kind


def _definitions(found: _Structure) -> dict[str, str]:
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
    if found.window is not None:
        defined[found.window] = found.window
    quotients = {key: (divisor, name) for key, divisor, name in _QUOTIENTS if key in found.symbols}
    for key in found.symbols:
        if key in quotients and quotients[key][0] in found.symbols:
            divisor, name = quotients[key]
            defined[name] = f"{key} / {divisor}"
        else:
            defined[key] = key
    return defined


def _defaults(found: _Structure, config: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """The class's defaults of the keys that matter: values, or expressions of other keys."""
    sizes = [*found.roles.values(), found.heads, *found.symbols, *found.tied_to_hidden]
    sizes += [key for key in (found.kv_heads, found.window) if key is not None]
    model_type = found.raw["model_type"]
    bare = _resolved({"model_type": model_type})
    defaults: dict[str, Any] = {found.layers: bare.get(found.layers)}
    for key in (*DEPTH_KEYS, "decoder_sparse_step", "mlp_only_layers"):
        if key in bare:
            defaults[key] = bare[key]
    for key in found.structure:
        if key in bare and bare[key] is not None:
            defaults[key] = bare[key]
    if "rope_type" in found.structure:
        defaults["rope_type"] = with_rope(bare).get("rope_type", "default")
    if found.partial:
        defaults["partial_rotary_factor"] = with_rope(bare).get("partial_rotary_factor", 1.0)
    draws = [_draw(found, rng, 4) for _ in range(3)]
    for key in sizes:
        seen = []
        for draw in draws:
            without = {k: v for k, v in draw.raw.items() if k != key}
            try:
                seen.append((_resolved(without).get(key), draw.raw))
            except InputError:
                break
        if len(seen) < len(draws):
            if bare.get(key) is not None:
                defaults[key] = bare[key]
            continue
        others = [k for k in sizes if k != key]
        values = [value for value, _ in seen]
        if None in values:
            defaults[key] = _default_of_none(found, key, draws[0])
            continue
        if len(set(values)) == 1:
            defaults[key] = values[0]
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


def _default_of_none(found: _Structure, key: str, draw: _Draw) -> str | None:
    """What a key that is ``None`` stands for, found by recording."""
    hidden = found.roles["H"]
    without = {k: v for k, v in draw.raw.items() if k != key}
    program = _program(without, draw, found.setting)
    for text in (f"{hidden} / {found.heads}", f"4 * {hidden}", found.heads, hidden):
        value = int(evaluate(text, draw.raw))
        if _program({**without, key: value}, draw, found.setting) == program:
            return f"={text}"
    return None
