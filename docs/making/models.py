"""Records one program for models of a class that have several stacks of layers, such as an encoder and a decoder.

Their configs differ in some integers, such as the hidden size. These are drawn at random under the constraints that
classes have, and are the program's symbols. All else must be as it is in the configs. Each program is compared with
recordings of some of the configs themselves.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any, NamedTuple

import torch
import transformers

from estimator.errors import InputError
from estimator.programs.config_values import GENERATION, IGNORED, flattened, name_of, nested, structural
from estimator.programs.depth import Kinds, Signature
from estimator.programs.expressions import evaluate, names
from estimator.programs.family import Family
from estimator.programs.heads import HEADS
from estimator.programs.images import BY_ROW, Given, Media, Processor, members, pixels_of
from estimator.programs.program import Body, Drop, Program, made, renamed
from estimator.programs.rows import LISTS
from estimator.programs.setting import LOWER, Setting, Settings, merged
from estimator.programs.switches import Switch, switch
from estimator.recorder.families.cases import of_dtypes
from estimator.recorder.families.draws import step_of
from estimator.recorder.families.fitting import difference, same
from estimator.recorder.fit import Recording, fit, symbols_of
from estimator.recorder.hugging_face import HuggingFaceModel
from estimator.recorder.kinds import examples, smallest
from estimator.recorder.media import SAMPLES_PER_SECOND, parts_of, types_of
from estimator.recorder.rows import folded, with_slots_in_order

_DRAWS = 5
_CHECKED = 2
"""How many models, drawn from all, are recorded themselves, for each of a file's programs to be compared with."""
_DEPTHS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers", "depth")
_HIDDEN = ("embed_dim", "hidden_size", "d_model")
_HEADS = ("num_attention_heads", "num_heads", "encoder_attention_heads")
_KV_HEADS = "num_key_value_heads"
_HEAD = ("head_dim", "d_kv")
_HARMLESS = ("initializer_factor", "init_std")
"""Keys that change no call."""
_SIZES = ("vocab_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "decoder_attention_heads")
"""Sizes of models of text, also where all have the same."""
_SIZES_OF_SAMPLES = ("vocab_size", "intermediate_size")
"""The same of models of samples of audio."""
_OF_TEXT = ("text_config.vocab_size", "text_config.intermediate_size")
"""The same of models of patches of images, of which often one alone is built in."""
_GIVEN = ("vision_config.hidden_size", "vision_config.out_hidden_size")
"""Keys of the size that a tower gives to the text, where it is not the tower's own."""
_MOST_IMAGES = (1, 2)
_FILLING = ("pad_token_id", "decoder_start_token_id")
"""Keys of numbers that fill tensors, whatever they are."""
_OF_BACKBONES = ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices")
"""Keys that follow from the number of layers, and say what a backbone gives."""


class _Part(NamedTuple):
    """A part of a config with attention."""

    hidden: str
    heads: str
    kv_heads: str | None
    """``None`` where each head has keys and values of its own."""
    head: str | None

    @property
    def size(self) -> str:
        """The size of a head."""
        return self.head if self.head is not None else f"{self.hidden} / {self.heads}"

    def symbols(self, alone: bool) -> dict[str, str]:
        """What the sizes are called; those of the part that makes text, and of one ``alone``, as ever."""
        part = "" if alone else self.hidden.rpartition(".")[0].partition("_")[0]
        made = {"H": self.hidden, "K": self.kv_heads or self.heads, "D": self.size}
        if self.kv_heads is not None:
            made["G"] = f"{self.heads} / {self.kv_heads}"
        return made if part in ("", "text") else {f"{part}_{name}": text for name, text in made.items()}


@dataclass
class _Models:
    """What is known of the models."""

    head: str
    configs: list[dict[str, Any]]
    """Of each model its config's keys, with those that its class fills in (``config_values.flattened``)."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """The class's own values."""
    lists: dict[str, Any] = field(default_factory=dict)
    """``Family.lists``."""
    depths: tuple[str, ...] = ()
    symbols: dict[str, str] = field(default_factory=dict)
    structure: dict[str, Any] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    """The keys that differ."""
    rates: tuple[str, ...] = ()
    """The keys of dropouts that some models have and others have not."""
    switches: dict[str, Switch | None] = field(default_factory=dict)
    """Keys that say whether the head has the embedding's weight, of which some models have one value and some the
    other."""
    parts: list[_Part] = field(default_factory=list)
    processor: Processor | None = None
    of_patches: bool = False
    """Images are given as rows of patches, all of them one after the other."""
    images: int | None = None
    """The images of a row in the recordings, where models of rows with others make other calls."""

    @property
    def takes_tiles(self) -> bool:
        """Whether images beside text are tiles of one size."""
        return HEADS[self.head].media and HEADS[self.head].text and not self.of_patches


@dataclass
class _Draw:
    """A config at whose sizes the model is recorded."""

    config: dict[str, Any]
    sizes: dict[str, int]
    setting: Setting


def record_models(
    raws: Sequence[Mapping[str, Any]], head: str, processor: Processor | None = None, seed: int = 0
) -> dict[str, Family | InputError]:
    """The programs of models of one class, by what they are for. Raises ``InputError`` for models that have none.

    ``processor`` makes their images, each of which is one tile in the recordings.
    """
    found = _known(raws, head, of_grid=processor is None and not HEADS[head].text)
    found.processor = None if processor is None else processor._replace(splits=False, most_tiles=1)
    train = Setting(attention=HuggingFaceModel(raws[0], "the config", head).attention)
    lower = tuple(train._replace(dtype=dtype, autocast=dtype) for dtype in LOWER)
    wide = (train._replace(dtype="float32", autocast="bfloat16"),)
    cases = [of_dtypes(train), wide, of_dtypes(train._replace(trains=False))]
    if not (HEADS[head].media and HEADS[head].text):  # images beside text are trained in bfloat16's autocast alone
        cases.append(lower)
    made: dict[str, Family | InputError] = {}
    waiting = [
        (tuple([one._replace(device=device) for one in settings]), fixed, images)
        for settings, device, images, fixed in product(cases, ("cpu", "cuda"), _images(found), _rows(found))
    ]
    while waiting:
        settings, fixed, found.images = waiting.pop(0)
        known = [one for one in made.values() if isinstance(one, Family) and one.images == found.images]
        if any({*fixed} <= {*one.fixed, *one.ones} and all(map(one.serves, settings)) for one in known):
            continue
        title = f"{settings[0]}{''.join(f', {one}: 1' for one in fixed)}"
        title += f", images: {found.images}" if found.images else ""
        served = _served_by(found, made, settings, fixed, random.Random(seed + 2))
        if served is not None:
            made[served] = _with_settings(made[served], settings)
            continue
        try:
            family = _recorded(found, settings, fixed, random.Random(seed + 1))
        except InputError as error:
            if len(settings) > 1:  # a class may convert, or clamp, by the dtype: first float16 is left out
                waiting[:0] = [(settings[:-1], fixed, found.images), (settings[-1:], fixed, found.images)]
            else:
                made[title] = error
            continue
        made[title] = family
    return made


def _served_by(
    found: _Models,
    made: Mapping[str, Family | InputError],
    settings: Sequence[Setting],
    fixed: Sequence[str],
    rng: random.Random,
) -> str | None:
    """The program of other settings that is that of these, too."""
    alike = {
        key: one
        for key, one in made.items()
        if isinstance(one, Family)
        and (one.fixed, one.images) == (tuple(fixed), found.images)
        and (settings[0].trains,) == one.settings[0]["trains"]
    }
    if not alike:
        return None
    try:
        draws = [_drawn(found, settings, fixed, rng, number) for number in range(len(settings))]
        fresh = [_in_order(_program(found, draw)[1]) for draw in draws]
    except InputError:
        return None
    for key, family in alike.items():
        with suppress(InputError):
            own = [family.at(nested(draw.config), draw.sizes, draw.setting.dtype) for draw in draws]
            if all(same(_in_order(a), b) for a, b in zip(own, fresh, strict=True)):
                return key
    return None


def _with_settings(family: Family | InputError, settings: Sequence[Setting]) -> Family:
    """The program with further settings."""
    assert isinstance(family, Family)
    return replace(family, settings=merged([*family.settings, *map(_row, settings)]))


def _row(setting: Setting) -> Settings:
    return {name: (value,) for name, value in setting._asdict().items()}


def _images(found: _Models) -> tuple[int | None, ...]:
    """The images of a row."""
    return _MOST_IMAGES if found.of_patches else (None,)


def _rows(found: _Models) -> list[tuple[str, ...]]:
    """The symbols that are 1: none, one, or both."""
    names = ["B", *(["tiles"] if found.takes_tiles else [])]
    return [tuple(chosen) for n in range(len(names) + 1) for chosen in combinations(names, n)]


def _known(raws: Sequence[Mapping[str, Any]], head: str, of_grid: bool = False) -> _Models:
    models = [HuggingFaceModel(raw, "the config", head) for raw in raws]
    configs = [
        {key: x for key, x in flattened(one.config.to_dict()).items() if name_of(key) not in _OF_BACKBONES}
        for one in models
    ]
    if not HEADS[head].text:  # what a config says of a text model beside the tower has no effect
        configs = [{key: x for key, x in one.items() if not key.startswith("text_config.")} for one in configs]
    for one, raw in zip(configs, raws, strict=True):  # a class may set a key, and go by what was given for it
        one |= {key: value for key, value in raw.items() if key in one and _plain(value)}
    keys = [key for key in configs[0] if all(key in one for one in configs)]
    differ = [key for key in keys if any(one[key] != configs[0][key] for one in configs[1:])]
    ignored = {*IGNORED, *GENERATION, *_HARMLESS}

    def counts(key: str) -> bool:
        name = name_of(key)
        mapping = isinstance(configs[0][key], Mapping)
        return not (mapping or name in ignored or name.endswith(("_token_id", "_dtype")) or name.startswith("_"))

    given = {key for raw in raws for key in flattened(dict(raw))}  # of the others, some follow from these
    depths = tuple(key for key in keys if name_of(key) in _DEPTHS and type(configs[0][key]) is int)
    found = _Models(head, configs, _defaults(configs), _lists(configs[0]), depths)
    if "classification" in head:
        found.symbols["num_labels"] = "num_labels"
        found.defaults["num_labels"] = 2
        for one, raw in zip(configs, raws, strict=True):
            one["num_labels"] = raw.get("num_labels", 2)
    of_text = HEADS[head].text and not HEADS[head].media
    found.of_patches = HEADS[head].media and HEADS[head].text and "image_grid_thw" in _takes(models[0].build("float32"))
    found.symbols |= _of_samples(configs[0])
    of_samples = bool(found.symbols.keys() - {"num_labels"})
    found.symbols |= (grid := _grid(configs[0]) if of_grid else {})
    found.rates = tuple(
        key for key in keys if "dropout" in key and counts(key) and (key in differ or (of_samples and key in given))
    )
    found.switches = {key: None for key in differ if name_of(key) == "tie_word_embeddings"}
    apart = {*depths, *found.lists, *found.rates, *found.switches}
    hidden = {part.hidden for part in _parts(configs)}
    found.open = [
        key
        for key in keys
        if (
            key in differ
            or (of_text and key in _SIZES)
            or (of_samples and key in _SIZES_OF_SAMPLES)
            or (found.of_patches and key in (*_OF_TEXT, *_GIVEN) and key not in hidden)
            or any(key in names(text) for text in grid.values())
        )
        and counts(key)
        and key not in apart
        and all(type(one[key]) is int for one in configs)
    ]
    if wrong := [key for key in differ if counts(key) and key not in (*apart, *found.open)]:
        raise InputError(f"{wrong[0]} differs, and is no size: {', '.join(str(one[wrong[0]]) for one in configs)}")
    found.parts = _parts(configs)
    own = [
        part
        for part in found.parts
        if of_text or of_samples or {*part} & {*found.open} or (found.of_patches and part.hidden.startswith("text_"))
    ]
    of_attention = {key for part in own for key in part if key is not None}
    found.open = [key for key in found.open if key not in of_attention]
    for part in found.parts:
        found.symbols |= part.symbols(len(found.parts) == 1)
        if part in own and len({evaluate(part.size, one) for one in configs}) == 1:
            found.structure[f"{part.size} = {evaluate(part.size, configs[0])}"] = True
    found.parts = own
    found.symbols |= {key.replace(".", "_"): key for key in found.open}
    sizes = (("V", "vocab_size"), ("I", "intermediate_size"))
    named = [(letter, prefix + name) for letter, name in sizes for prefix in ("", "text_config.")]
    found.symbols |= {letter: key for letter, key in named if key in keys}
    derived = [key for key in keys if key not in given and found.defaults.get(key) != configs[0][key]]
    found.structure |= {
        key: structural(value)
        for key, value in configs[0].items()
        if key in keys and counts(key) and key not in (*of_attention, *found.open, *apart, *derived)
    }
    found.structure |= {f"{a} = {b}": True for a, b in _equal(found)}
    return found


def _of_samples(config: Mapping[str, Any]) -> dict[str, str]:
    """What each of the first convolutions makes of a row's samples, and the spans of that which are masked in a row."""
    found: dict[str, str] = {}
    field, stride = 1, 1
    for kernel, step in zip(config.get("conv_kernel", ()), config.get("conv_stride", ()), strict=True):
        field, stride = field + (kernel - 1) * stride, stride * step
        found[f"frames_{len(found)}"] = f"int((samples - {field}) / {stride}) + 1"
    if found and config.get("apply_spec_augment") and config["mask_time_prob"]:
        frames = f"({[*found.values()][-1]})"
        drawn = f"int(mask_time_prob * {frames} / mask_time_length + 1)"
        most = f"{drawn} + mask_time_min_masks - min({drawn}, mask_time_min_masks)"
        found["spans"] = f"min({most}, int({frames} / mask_time_length))"
    return found


def _grid(config: Mapping[str, Any]) -> dict[str, str]:
    """How many patches a side of an image has, of a tower that takes images of the size that its config says."""
    return next(
        (
            {"grid": f"int({prefix}image_size / {prefix}patch_size)"}
            for prefix in ("", "vision_config.")
            if type(config.get(f"{prefix}image_size")) is int and type(config.get(f"{prefix}patch_size")) is int
        ),
        {},
    )


def _defaults(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the class has for keys that a config leaves out. Sizes of heads follow from others in many classes."""

    def of_class(**sizes: int) -> dict[str, Any]:
        kinds = {key: value for key, value in configs[0].items() if name_of(key) == "model_type"}
        for part in _parts(configs):
            kinds |= {key: sizes[n] for n, key in (("hidden", part.hidden), ("heads", part.heads)) if n in sizes}
        return flattened(transformers.AutoConfig.for_model(**nested(kinds)).to_dict())

    made, other = of_class(), of_class(hidden=960, heads=6)
    for part in _parts(configs):
        texts = {960: part.hidden, 6: part.heads, 160: f"{part.hidden} / {part.heads}"}
        prefix = part.hidden.rpartition(".")[0]
        for key, value in other.items():
            own = key.rpartition(".")[0] == prefix and key not in (part.hidden, part.heads)
            if own and type(value) is int and value in texts and made[key] != value:
                made[key] = f"={texts[value]}"
    return made


def _lists(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rules of lists with an entry for each layer, which repeat."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if name_of(key) == "layer_types" and isinstance(value, list):
            length = next(n for n in range(1, len(value) + 1) if value == [value[i % n] for i in range(len(value))])
            found[key] = {"period": value[:length]}
    return found


def _parts(configs: Sequence[Mapping[str, Any]]) -> list[_Part]:
    """The parts of the configs with attention."""
    found = []
    for prefix in dict.fromkeys(f"{key.rpartition('.')[0]}." if "." in key else "" for key in configs[0]):
        names = [[prefix + one for one in names] for names in (_HIDDEN, _HEADS, _HEAD)]
        hidden, heads, head = [next((k for k in keys if type(configs[0].get(k)) is int), None) for keys in names]
        if hidden is not None and heads is not None:
            kv = prefix + _KV_HEADS
            grouped = any(type(one.get(kv)) is int and one[kv] != one[heads] for one in configs)
            found.append(_Part(hidden, heads, kv if grouped else None, head))
    return found


def _equal(found: _Models) -> list[tuple[str, str]]:
    """Sizes that are equal in all of the configs, since one of them must be the other."""
    own = _of_attention(found)
    return [
        (a, b)
        for a, b in combinations([*found.open, *own], 2)
        if {a, b} & {*own} and all(one[a] == one[b] for one in found.configs)
    ]


def _of_attention(found: _Models) -> list[str]:
    return [key for part in found.parts for key in (part.hidden, part.heads, part.kv_heads) if key is not None]


def _drawn(found: _Models, settings: Sequence[Setting], fixed: Sequence[str], rng: random.Random, number: int) -> _Draw:
    n, base = rng.randint, found.configs[0]
    config = dict(base)
    for part in found.parts:
        kv_heads, groups = n(2, 9), n(2, 7) if part.kv_heads is not None else 1
        kv_heads += 8 * ("frames_0" in found.symbols)  # so that the layers have more weights than convolutions
        heads = kv_heads * groups
        own = {evaluate(part.size, one) for one in found.configs}
        head = int(own.pop()) if len(own) == 1 else 4 * n(3, 30)
        config[part.heads] = heads
        config[part.hidden] = heads * head
        if part.kv_heads is not None:
            config[part.kv_heads] = kv_heads
        if part.head is not None:
            config[part.head] = head
            if any(one[part.hidden] != one[part.heads] * one[part.head] for one in found.configs):
                config[part.hidden] = heads * 4 * n(2, 9)  # some classes refuse others than multiples
    for key in found.open:
        config[key] = base[key] + n(1, 900) if name_of(key) == "vocab_size" else 8 * n(20, 160)
    for side in found.symbols.keys() & {"grid"}:
        image, patch = found.symbols[side].removeprefix("int(").removesuffix(")").split(" / ")
        config[patch] = n(4, 20)
        config[image] = config[patch] * n(4, 12) + n(0, config[patch] - 1)
    for a, b in _equal(found):
        config[a] = config[b] = config[next(x for x in (b, a) if x in _of_attention(found))]
    for i, key in enumerate(found.depths):
        config[key] = 4 + 2 * i + n(0, 1)
    for key, rule in found.lists.items():
        period = rule["period"]
        depth = _depth_of(key, found.depths)
        config[depth] += 2 * len(period) if len(period) > 1 else 0
        config[key] = [period[i % len(period)] for i in range(config[depth])]
    config |= {key: rates[number] / 10 for key, rates in _rates(found).items()}
    config |= dict.fromkeys(found.switches, False)
    if "num_labels" in config:
        config["num_labels"] = 1 if "num_labels" in fixed else n(2, 50)
    sizes = {"B": 1 if "B" in fixed else n(2, 6), "S": n(40, 160), "T": n(11, 39)}
    if "spans" in found.symbols:
        config["mask_time_prob"] = n(20, 90) / 100
    if "frames_0" in found.symbols:
        sizes["samples"] = n(10_000, 60_000)
    if found.of_patches:  # no list of images has as many tensors as there are queries, keys and values
        wide, high = sorted((n(2, 6), n(2, 6)))  # a model takes the larger of both, which are views of one tensor
        sizes |= {"high": high, "wide": wide}
        sizes["B"] += 3 * ("B" not in fixed)
    if found.takes_tiles:  # no list of three tensors is queries, keys and values
        sizes["tiles"] = 1 if "tiles" in fixed else n(2, 4) if "B" not in fixed else n(4, 7)
        by_row = config["model_type"] in BY_ROW
        sizes["B"] += 3 * ("B" not in fixed and ("tiles" in fixed or by_row))
    return _Draw(config, sizes, settings[number % len(settings)])


def _rates(found: _Models) -> dict[str, list[float]]:
    """For each recording, whether it has a dropout: no two of them are the same in all."""
    return {key: [float((i + 1) >> n & 1) for n in range(_DRAWS)] for i, key in enumerate(found.rates)}


def _depth_of(key: str, depths: Sequence[str]) -> str:
    """The key of the number of layers that a list has an entry for each of."""
    (depth,) = [one for one in depths if one.rpartition(".")[0] == key.rpartition(".")[0]]
    return depth


def _program(found: _Models, draw: _Draw) -> tuple[HuggingFaceModel, Program]:
    model, given = _given(found, draw)
    draw.sizes["S"] += given.tokens  # the text beside the images
    lengths = (("T", draw.sizes["T"]),)
    step = step_of(
        draw.setting,
        str(draw.config["model_type"]),
        found.head,
        lengths=lengths,
        media=given.inputs,
        placeholders=given.placeholders,
        num_labels=model.num_labels,
    )
    return model, model.at(step, draw.sizes["B"], draw.sizes["S"])


def _given(found: _Models, draw: _Draw) -> tuple[HuggingFaceModel, Given]:
    ids = {key: 1 for key in _FILLING if type(draw.config.get(key)) is int}
    model = HuggingFaceModel(nested({**draw.config, **ids}), "the config", found.head)
    media = Media(draw.sizes.get("tiles", 1), audio_frames=draw.sizes.get("samples"), processor=found.processor)
    if found.of_patches:
        vision = nested(draw.config)["vision_config"]
        side = vision["patch_size"] * vision["spatial_merge_size"]
        media = Media(found.images or 1, ((side * draw.sizes["high"], side * draw.sizes["wide"]),))
    return model, model.media(media, draw.setting.dtype) if HEADS[found.head].media else Given()


def _recorded(found: _Models, settings: Sequence[Setting], fixed: Sequence[str], rng: random.Random) -> Family:
    """The program of some settings. Raises ``InputError`` where there is none for all draws."""
    recordings: list[Recording] = []
    learnt: tuple[Kinds, ...] = ()
    for number in range(_DRAWS):
        draw, model, program = _once(found, settings, fixed, rng, number)
        if not number:
            of_depth = {draw.config[key]: key for key in found.depths}
            found.depths = tuple([of_depth[stack.depth] for stack in program.stacks])
        kinds = [examples(program, _signatures(found, draw, key), i) for i, key in enumerate(found.depths)]
        least, *own = smallest(program, *kinds)
        if learnt and learnt != tuple(own):
            raise InputError("the kinds of the layers differ between recordings of one structure")
        learnt = tuple(own)
        values = {name: int(evaluate(text, {**draw.config, **draw.sizes})) for name, text in found.symbols.items()}
        recordings.append(({**draw.sizes, **values}, _in_order(_folded(found, least, draw))))
    fitted = fit(recordings, _rates(found))
    if None in found.switches.values():
        found.switches = _switched(found, draw, program)
    used = {*symbols_of(fitted), *"HIVKGD", "num_labels"}
    known = {key: found.defaults.get(key, value) for key, value in found.configs[0].items() if key not in _OWN}
    family = Family(
        model_type=str(known["model_type"]),
        program=fitted,
        kinds=learnt[0],
        symbols={key: text for key, text in found.symbols.items() if key in used},
        structure=found.structure,
        switches=found.switches,  # type: ignore[arg-type]
        rates=found.rates,
        lists=found.lists,
        defaults={key: x for key, x in known.items() if key not in ("model_type", *found.lists) and _plain(x)},
        layers=found.depths[0],
        beside=tuple(zip(found.depths[1:], learnt[1:], strict=True)),
        aliases={k: v for k, v in model.config.attribute_map.items() if k != v},
        recorded={
            "transformers": transformers.__version__,
            "torch": str(torch.__version__).partition("+")[0],
            "default_attention": model.attention,
            "reads": [],
            **({} if model.supports_checkpointing else {"checkpointing": False}),
            **({"attention_checkpoints": True} if model.attention_checkpoints else {}),
            "parts": [[name, list(paths)] for name, paths in parts_of(model.build("float32")).items()],
            **_media(found, draw),
        },
        settings=merged(map(_row, settings)),
        fixed=tuple(fixed),
    )
    ones: list[str] = []
    for one in ("B", "T", "tiles", "num_labels", "high", "wide"):
        if one not in fixed and one in recordings[0][0] and _holds(found, settings, fixed, rng, family, (*ones, one)):
            ones.append(one)
    drawn = {symbol for part in found.parts for symbol in part.symbols(len(found.parts) == 1)}
    family = replace(family, ones=(*ones, *[one for one in ("K", "G") if one not in drawn]))
    for number in range(min(_CHECKED, len(found.configs))):
        draw = _drawn(found, settings, fixed, rng, number)
        draw.config = dict(rng.choice(found.configs))
        _, fresh = _program(found, draw)
        answered = family.at(nested(draw.config), draw.sizes, draw.setting.dtype)
        a, b = _in_order(answered), _in_order(fresh)
        if not same(a, b):
            raise InputError(f"the program differs from a recording of a model itself: {difference(a, b)}")
    return family


def _switched(found: _Models, draw: _Draw, program: Program) -> dict[str, Switch | None]:
    """What a model lacks whose config says so. Raises ``InputError`` where it calls something else, too."""
    config = {**draw.config, **dict.fromkeys(found.switches, True)}
    draw.sizes["S"] -= _given(found, draw)[1].tokens  # which are added again
    _, other = _program(found, replace(draw, config=config))
    two = switch(program, other)
    if two is None or two[0] != program:
        raise InputError(f"{min(found.switches)} changes more than which parameters there are")
    return {key: two[1]._replace(value=False) for key in found.switches}


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


def _folded(found: _Models, program: Program, draw: _Draw) -> Program:
    """The program with lists of what a tower gives for each image."""
    if "tiles" not in draw.sizes and (found.images is None or draw.sizes["B"] == 1):
        return program
    return folded(program, members(str(draw.config["model_type"]), draw.sizes))


def _holds(
    found: _Models,
    settings: Sequence[Setting],
    fixed: Sequence[str],
    rng: random.Random,
    family: Family,
    ones: Sequence[str],
) -> bool:
    """Whether the program is right where symbols are 1: the last one alone, and with all others."""
    for chosen in {ones[-1:], tuple(ones)}:
        draw = _drawn(found, settings, fixed, rng, 0)
        draw.sizes |= {one: 1 for one in chosen if one in draw.sizes}
        draw.config |= {one: 1 for one in chosen if one in draw.config}
        try:
            _, fresh = _program(found, draw)
            answered = replace(family, ones=tuple(ones)).at(nested(draw.config), draw.sizes, draw.setting.dtype)
        except InputError:
            return False
        if not same(_in_order(answered), _in_order(fresh)):
            return False
    return True


def _signatures(found: _Models, draw: _Draw, depth: str) -> list[Signature]:
    """What a config says of each layer of a stack."""
    own = [draw.config[key] for key in sorted(found.lists) if key.rpartition(".")[0] == depth.rpartition(".")[0]]
    return [tuple([one[i] for one in own]) for i in range(draw.config[depth])]


def _media(found: _Models, draw: _Draw) -> dict[str, Any]:
    """What a program's file says of images and audio (``Shipped.media``)."""
    if not HEADS[found.head].media:
        return {}
    model, given = _given(found, draw)
    if not any(one.name.startswith("pixel") for one in given.inputs):
        samples = ["input_values", None, None, SAMPLES_PER_SECOND]
        return {"audio": samples if "samples" in draw.sizes else _AUDIO}
    module = model.build("float32")
    pixels = pixels_of(given.inputs)
    of_config = "grid" in found.symbols or found.of_patches
    seen = [_takes(module), types_of(module), None if of_config or pixels is None else list(pixels[1])]
    return {"images": [*seen, *([] if found.images is None else [found.images])]}


def _takes(module: Any) -> list[str]:
    return [name for name in _TAKES if name in inspect.signature(module.forward).parameters]


_OWN = ("id2label", "label2id", "architectures", "transformers_version")
"""Keys that a class derives from others, or that say nothing of sizes."""
_TAKES = ("pixel_values", "image_grid_thw", "image_sizes", "batch_num_images")
"""Inputs that say something of images."""
_AUDIO = ["input_features", "num_mel_bins", "max_source_positions", 100]
"""An encoder's input, the keys of its features and of its positions, and its frames in a second."""


def _plain(value: Any) -> bool:
    scalar = (str, int, float, bool, type(None))
    return isinstance(value, scalar) or (isinstance(value, list) and all(isinstance(x, scalar) for x in value))


def _in_order(program: Program) -> Program:
    """The program with the slots outside the layers numbered in the order in which they are made, the inputs last.

    Outputs are numbered anew, too, which are named after layers.
    """
    program = with_slots_in_order(program)
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
                if 0 < slot < LISTS:  # a list keeps its slot
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
