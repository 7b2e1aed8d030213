"""Records one program for models of a class that have several stacks of layers, such as an encoder and a decoder.

Their configs differ in some integers, such as the hidden size. These are drawn at random under the constraints that
classes have, and are the program's symbols. All else must be as it is in the configs. Each program is compared with
recordings of some of the configs themselves.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any, NamedTuple

import torch
import transformers

from ...errors import InputError
from ...programs.config_values import GENERATION, IGNORED, structural
from ...programs.depth import Kinds
from ...programs.expressions import evaluate
from ...programs.family import Family
from ...programs.heads import HEADS
from ...programs.images import Given, Media
from ...programs.program import SPAN, Body, Drop, Program, made, renamed
from ...programs.setting import LOWER, Setting, merged
from ..fit import Recording, fit, symbols_of
from ..hugging_face import HuggingFaceModel, stack_paths
from ..kinds import examples, smallest
from ..media import parts_of
from .cases import of_dtypes
from .draws import step_of
from .fitting import difference, same

_DRAWS = 5
_CHECKED = 2
"""The most models whose own recording a program is compared with, of each of a file's programs."""
_DEPTHS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers", "depth")
_HIDDEN = ("hidden_size", "d_model", "embed_dim")
_HEADS = ("num_attention_heads", "num_heads", "encoder_attention_heads")
_HEAD = ("head_dim", "d_kv")
_HARMLESS = ("initializer_factor",)
"""Keys that change no call."""


class _Part(NamedTuple):
    """A part of a config with attention."""

    hidden: str
    heads: str
    head: str | None


@dataclass
class _Models:
    """What is known of the models."""

    head: str
    configs: list[dict[str, Any]]
    """Of each model its config's keys, with those that its class fills in."""
    depths: tuple[str, ...] = ()
    symbols: dict[str, str] = field(default_factory=dict)
    structure: dict[str, Any] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    """The keys that differ."""
    parts: list[_Part] = field(default_factory=list)
    """Those whose sizes differ."""


@dataclass
class _Draw:
    """A config at whose sizes the model is recorded."""

    config: dict[str, Any]
    sizes: dict[str, int]
    setting: Setting


def record_models(raws: Sequence[Mapping[str, Any]], head: str, seed: int = 0) -> dict[str, Family | InputError]:
    """The programs of models of one class, by what they are for. Raises ``InputError`` for models that have none."""
    found = _known(raws, head)
    train = Setting(attention=HuggingFaceModel(raws[0], "the config", head).attention)
    lower = tuple(train._replace(dtype=dtype, autocast=dtype) for dtype in LOWER)
    wide = (train._replace(dtype="float32", autocast="bfloat16"),)
    cases = [of_dtypes(train), of_dtypes(train._replace(trains=False)), lower, wide]
    made: dict[str, Family | InputError] = {}
    waiting = [
        (tuple([one._replace(device=device) for one in settings]), fixed)
        for settings, device, fixed in product(cases, ("cpu", "cuda"), ((), ("B",)))
    ]
    while waiting:
        settings, fixed = waiting.pop(0)
        known = [one for one in made.values() if isinstance(one, Family)]
        if any({*fixed} <= {*one.fixed, *one.ones} and all(map(one.serves, settings)) for one in known):
            continue
        title = f"{settings[0]}{', one row' * bool(fixed)}"
        try:
            family = _recorded(found, settings, fixed, random.Random(seed + 1))
        except InputError as error:
            if len(settings) > 1:  # a class may convert, or clamp, by the dtype
                waiting[:0] = [((one,), fixed) for one in settings]
            else:
                made[title] = error
            continue
        alike = next((key for key, one in made.items() if isinstance(one, Family) and _alike(one, family)), None)
        if alike is None:
            made[title] = family
        else:
            other = made[alike]
            assert isinstance(other, Family)
            made[alike] = replace(other, settings=merged([*other.settings, *family.settings]))
    return made


def _alike(a: Family, b: Family) -> bool:
    """Whether two programs differ in their settings alone."""
    return (a.fixed, a.ones, a.kinds, a.beside) == (b.fixed, b.ones, b.kinds, b.beside) and same(a.program, b.program)


def _known(raws: Sequence[Mapping[str, Any]], head: str) -> _Models:
    configs = [HuggingFaceModel(raw, "the config", head).config.to_dict() for raw in raws]
    keys = [key for key in configs[0] if all(key in one for one in configs)]
    differ = [key for key in keys if any(one[key] != configs[0][key] for one in configs[1:])]
    ignored = {*IGNORED, *GENERATION, *_HARMLESS}

    def counts(key: str) -> bool:
        return not (key in ignored or key.endswith(("_token_id", "_dtype")) or key.startswith("_"))

    depths = tuple(key for key in keys if key in _DEPTHS and type(configs[0][key]) is int)
    found = _Models(head, configs, depths)
    model = HuggingFaceModel(raws[0], "the config", head)
    paths = _stacks(model)
    if len(paths) != len(depths):
        raise InputError(f"{len(paths)} stacks of layers, and {', '.join(depths)} in the config")
    found.open = [
        key for key in differ if counts(key) and key not in depths and all(type(one[key]) is int for one in configs)
    ]
    if wrong := [key for key in differ if counts(key) and key not in (*depths, *found.open)]:
        raise InputError(f"{wrong[0]} differs, and is no size: {', '.join(str(one[wrong[0]]) for one in configs)}")
    found.parts = [part for part in _parts(keys) if {*part} & {*found.open}]
    own = {key for part in found.parts for key in part if key is not None}
    found.open = [key for key in found.open if key not in own]
    for part in found.parts:
        found.symbols |= {"H": part.hidden, "K": part.heads}
        size = part.head if part.head is not None else f"{part.hidden} / {part.heads}"
        if len({evaluate(size, one) for one in configs}) > 1:
            found.symbols["D"] = size
        else:
            found.structure[f"{size} = {evaluate(size, configs[0])}"] = True
    found.symbols |= {key: key for key in found.open}
    found.structure |= {
        key: structural(value)
        for key, value in configs[0].items()
        if key in keys and counts(key) and key not in (*own, *found.open, *depths)
    }
    found.structure |= {f"{a} = {b}": True for a, b in _equal(found)}
    return found


def _stacks(model: HuggingFaceModel) -> list[list[str]]:
    with torch.device("meta"):
        return stack_paths(model.build("float32"))


def _parts(keys: Sequence[str]) -> list[_Part]:
    hidden, heads, head = [next((key for key in names if key in keys), None) for names in (_HIDDEN, _HEADS, _HEAD)]
    return [] if hidden is None or heads is None else [_Part(hidden, heads, head)]


def _equal(found: _Models) -> list[tuple[str, str]]:
    """Sizes that are equal in all of the configs, since one of them must be the other."""
    own = _of_attention(found)
    return [
        (a, b)
        for a, b in combinations([*found.open, *own], 2)
        if {a, b} & {*own} and all(one[a] == one[b] for one in found.configs)
    ]


def _of_attention(found: _Models) -> list[str]:
    return [key for part in found.parts for key in (part.hidden, part.heads)]


def _drawn(found: _Models, settings: Sequence[Setting], fixed: Sequence[str], rng: random.Random, number: int) -> _Draw:
    n, base = rng.randint, found.configs[0]
    config = dict(base)
    for part in found.parts:
        heads = n(2, 9)
        size = part.head if part.head is not None else f"{part.hidden} / {part.heads}"
        own = {evaluate(size, one) for one in found.configs}
        head = int(own.pop()) if len(own) == 1 else 4 * n(3, 30)
        config[part.heads] = heads
        config[part.hidden] = heads * head
        if part.head is not None:
            config[part.head] = head
            if any(one[part.hidden] != one[part.heads] * one[part.head] for one in found.configs):
                config[part.hidden] = 8 * n(20, 90)
    for key in found.open:
        config[key] = base[key] + n(1, 900) if key == "vocab_size" else 8 * n(20, 160)
    for a, b in _equal(found):
        config[a] = config[b] = config[next(x for x in (b, a) if x in _of_attention(found))]
    for i, key in enumerate(found.depths):
        config[key] = 4 + 2 * i + n(0, 1)
    sizes = {"B": 1 if "B" in fixed else n(2, 6), "S": n(40, 160), "T": n(11, 39)}
    return _Draw(config, sizes, settings[number % len(settings)])


def _program(found: _Models, draw: _Draw) -> tuple[HuggingFaceModel, Program]:
    model = HuggingFaceModel(draw.config, "the config", found.head)
    given = model.media(Media(), draw.setting.dtype) if HEADS[found.head].media else Given()
    lengths = (("T", draw.sizes["T"]),)
    step = step_of(draw.setting, str(draw.config["model_type"]), found.head, lengths=lengths, media=given.inputs)
    return model, model.at(step, draw.sizes["B"], draw.sizes["S"])


def _recorded(found: _Models, settings: Sequence[Setting], fixed: Sequence[str], rng: random.Random) -> Family:
    """The program of some settings. Raises ``InputError`` where there is none for all draws."""
    recordings: list[Recording] = []
    learnt: tuple[Kinds, ...] = ()
    for number in range(_DRAWS):
        draw, model, program = _once(found, settings, fixed, rng, number)
        if not number:
            of_depth = {draw.config[key]: key for key in found.depths}
            found.depths = tuple([of_depth[stack.depth] for stack in program.stacks])
        kinds = [examples(program, [()] * draw.config[key], i) for i, key in enumerate(found.depths)]
        least, *own = smallest(program, *kinds)
        if learnt and learnt != tuple(own):
            raise InputError("the kinds of the layers differ between recordings of one structure")
        learnt = tuple(own)
        values = {name: int(evaluate(text, draw.config)) for name, text in found.symbols.items()}
        recordings.append(({**draw.sizes, **values}, _in_order(least)))
    fitted = fit(recordings)
    used = symbols_of(fitted)
    known = {key: value for key, value in found.configs[0].items() if key not in _OWN}
    family = Family(
        model_type=str(known["model_type"]),
        program=fitted,
        kinds=learnt[0],
        symbols={key: text for key, text in found.symbols.items() if key in used},
        structure=found.structure,
        defaults={key: value for key, value in known.items() if key != "model_type" and _plain(value)},
        layers=found.depths[0],
        beside=tuple(zip(found.depths[1:], learnt[1:], strict=True)),
        recorded={
            "transformers": transformers.__version__,
            "torch": str(torch.__version__).partition("+")[0],
            "default_attention": model.attention,
            "reads": [],
            **({} if model.supports_checkpointing else {"checkpointing": False}),
            "parts": [[name, list(paths)] for name, paths in parts_of(model.build("float32")).items()],
            **({"audio": _AUDIO} if HEADS[found.head].media else {}),
        },
        settings=merged([{name: (value,) for name, value in one._asdict().items()} for one in settings]),
        fixed=tuple(fixed),
    )
    ones = []
    for one in ("B", "T"):
        if one not in fixed and one in recordings[0][0] and _holds(found, settings, fixed, rng, family, one):
            ones.append(one)
    family = replace(family, ones=tuple(ones))
    for number in range(min(_CHECKED, len(found.configs))):
        draw = _drawn(found, settings, fixed, rng, number)
        draw.config = dict(rng.choice(found.configs))
        _, fresh = _program(found, draw)
        answered = family.at(draw.config, draw.sizes, draw.setting.dtype)
        a, b = _in_order(answered), _in_order(fresh)
        if not same(a, b):
            raise InputError(f"the program differs from a recording of a model itself: {difference(a, b)}")
    return family


def _once(
    found: _Models, settings: Sequence[Setting], fixed: Sequence[str], rng: random.Random, number: int
) -> tuple[_Draw, HuggingFaceModel, Program]:
    """A draw and its program. Raises ``InputError`` where eight draws in turn do not run."""
    error: Exception | None = None
    for _ in range(8):
        draw = _drawn(found, settings, fixed, rng, number)
        try:
            return draw, *_program(found, draw)
        except InputError as e:
            error = e
    raise InputError(f"no size could be recorded: {error}")


def _holds(
    found: _Models, settings: Sequence[Setting], fixed: Sequence[str], rng: random.Random, family: Family, one: str
) -> bool:
    """Whether the program is right where a symbol is 1."""
    draw = _drawn(found, settings, fixed, rng, 0)
    draw.sizes[one] = 1
    try:
        _, fresh = _program(found, draw)
        answered = replace(family, ones=(one,)).at(draw.config, draw.sizes, draw.setting.dtype)
        return same(_in_order(answered), _in_order(fresh))
    except InputError:
        return False


_OWN = ("id2label", "label2id", "architectures", "transformers_version")
"""Keys that a class derives from others, or that say nothing of sizes."""
_AUDIO = ["input_features", "num_mel_bins", "max_source_positions", 100]
"""An encoder's input, the keys of its features and of its positions, and its frames in a second."""


def _plain(value: Any) -> bool:
    scalar = (str, int, float, bool, type(None))
    return isinstance(value, scalar) or (isinstance(value, list) and all(isinstance(x, scalar) for x in value))


def _in_order(program: Program) -> Program:
    """The program with the slots outside the layers numbered in the order in which they are made, the inputs last.

    Outputs are numbered anew, too, which are named after layers.
    """
    numbers: dict[int, int] = {}
    outputs: dict[str, Any] = {}
    named: dict[str, int] = {}
    for name, ref in program.outputs.items():
        stem, _, last = name.rpartition(".")
        if last.isdigit():
            named[stem] = named.get(stem, -1) + 1
            outputs[f"{stem}.{named[stem]}"] = ref
        else:
            outputs[name] = ref

    def note(events: Sequence[Any]) -> None:
        for event in events:
            for slot in made(event):
                if 0 < slot < SPAN:
                    numbers.setdefault(slot, len(numbers) + 1)

    for stack, events in enumerate(program.outside):
        note(events)
        for body in dict.fromkeys(n for n, k in zip(program.layers, program.stack_of, strict=True) if k == stack):
            note(program.bodies[body].events)
    for slot in program.inputs.values():
        numbers.setdefault(slot, len(numbers) + 1)

    def renumbered(number: int) -> int:
        return numbers.get(number, number)

    def rows(events: Sequence[Any]) -> tuple[Any, ...]:
        found: list[Any] = []
        for event in events:
            one = renamed(event, renumbered, str)
            if isinstance(one, Drop) and found and isinstance(found[-1], Drop):  # what dies at once, in order
                k = len(found)
                while k and isinstance(found[k - 1], Drop) and found[k - 1].slot > one.slot:
                    k -= 1
                found.insert(k, one)
            else:
                found.append(one)
        return tuple(found)

    return replace(
        program,
        before=rows(program.before),
        between=tuple([rows(events) for events in program.between]),
        after=rows(program.after),
        bodies=tuple([Body(rows(body.events), body.exit) for body in program.bodies]),
        inputs={name: renumbered(number) for name, number in program.inputs.items()},
        outputs={name: renamed(ref, renumbered, str) for name, ref in outputs.items()},
    )
