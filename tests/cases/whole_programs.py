"""Questions about programs whose whole answers are recorded (``tests/helpers/whole_answers.py``): what processors make
of images, what heads and steps are given, which layers run, and what a family makes of configs and settings.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from estimator.errors import InputError
from estimator.ledger import Ledger, Tensor
from estimator.ledger.events import Events
from estimator.operators import CPU
from estimator.operators.device import Cuda
from estimator.plans import models, recorded_programs
from estimator.programs import images as images_
from estimator.programs.attention_functions import Cache, eager, flash, sdpa
from estimator.programs.heads import HEADS, Input, batch_of, head_of, places_of
from estimator.programs.images import Media, Processor
from estimator.programs.layer_runs import Run, layers_stood_for, repeats_of, runs_of, segments
from estimator.programs.program_files import load_together, read_together, reading
from estimator.programs.recorded import Config, language_model_alone, no_language_model, part_of, refuse_encoder
from estimator.programs.setting import VALUES, Setting
from estimator.programs.shipped import Shipped, _fitting, shipped_config
from estimator.programs.step import CachedTokens, Procedure, Sharding, Step
from estimator.programs.trainer_programs import SYMBOLS, TrainerProgram, step_of, steps_of, without_input
from tests.cases.image_processors import FAMILIES, PINPOINTS, QWEN, config_of
from tests.cases.release_steps import config_of as config_of_file
from tests.helpers.whole_answers import Each, Parts

Question = tuple[str, Callable[[], Parts]]


def _or_why(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (InputError, NotImplementedError) as error:
        return error


# ---- images and audio --------------------------------------------------------------------------

ENDS = ((1, 1), (28, 28), (336, 336), (5000, 5000), (9, 4000), (4000, 9), (180, 2500), (2500, 180), (769, 767))
WITHOUT_RULES: dict[str, dict[str, Any]] = {
    "qwen3_vl_moe": config_of("qwen3_vl_moe", {**QWEN, "in_channels": 1}),
    "qwen2_5_vl, one frame": config_of("qwen2_5_vl", {"patch_size": 16, "temporal_patch_size": 1, "in_chans": 4}),
    "aya_vision": config_of("aya_vision", {"image_size": [28, 56], "patch_size": 7}),
    "llava_next, no strategy": config_of(
        "llava_next", {"image_size": 336, "patch_size": 14}, image_grid_pinpoints=PINPOINTS, image_token_index=9,
        vision_feature_select_strategy="default",
    ),
    "idefics2": config_of("idefics2", {"image_size": 70, "patch_size": 14, "num_channels": 2}, image_token_id=3),
    "any size": config_of("other", {"patch_size": 14}),
}  # fmt: skip
"""Configs beside those of the processors: without a file, and some of models that have no rule."""


def _of_images(config: dict[str, Any], takes: tuple[str, ...], read: Processor | None, sizes: Any) -> Any:
    found = []
    for number, size in enumerate(sizes):
        one = Media(1 + number % 3, (size,), processor=read)
        two = Media(2, (size, sizes[number - 1]), processor=read)
        video = Media(1, (size,), processor=read, video_frames=1 + number)
        for media in (one, two, *((video,) if number % 4 == 0 else ())):
            token = _or_why(partial(images_.token_of, config, media))
            tower = None if number % 2 else lambda inputs: 6 * len(inputs)
            ask = partial(images_.given_of, takes, ("token_type_ids",), config, media, "float16", 7, tower)
            found.append([token, _or_why(lambda ask=ask: _given(ask()))])  # type: ignore[misc]
    none = Media(1, processor=read)
    more = [none._replace(images=0), none, none._replace(images=2)]
    return [found, [_or_why(partial(images_.seen, takes, config, one)) for one in more]]


def _given(given: images_.Given) -> list[Any]:
    sizes = ({"B": 3, "tiles": 2}, {"B": 3, "high": 5, "wide": 4})
    return [
        given, given.tokens, given.least, images_.pixels_of(given.inputs),
        [[one.sized({"B": 3, "S": 50}) for one in given.inputs]],
        [images_.members(kind, size) for kind in ("llava", "smolvlm") for size in (*sizes, {"B": 4})],
        places_of(given.placeholders, given.least + 1), places_of(given.placeholders, given.tokens),
    ]  # fmt: skip


def _family(name: str) -> Parts:
    _, _, _, file, config = FAMILIES[name]
    draw = random.Random(name)
    drawn = [(round(2 ** draw.uniform(1, 12)), round(2 ** draw.uniform(1, 12))) for _ in range(12)]
    takes = ("image_grid_thw", "batch_num_images") if "qwen" in name else ("batch_num_images",)
    read = images_.processor_of(file, "a file")
    narrow = read._replace(merge=3, patch=20, largest=200, shortest=9000, longest=700_000, splits=not read.splits)
    files = {"file": read, "no file": None, "other sizes": narrow, "no rules": Processor("x", known=False)}
    return {key: Each(_of_images(config, takes, one, [*ENDS, *drawn])) for key, one in files.items()}


def _without_rules(name: str) -> Parts:
    takes = ("image_grid_thw",) if "qwen" in name else ()
    return {
        str(one): Each(_of_images(WITHOUT_RULES[name], takes, one, ENDS)) for one in (None, Processor("preprocessor"))
    }


KINDS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "Qwen2VLImageProcessorPil", "OtherImageProcessor", "", None, 3)
WRONG: tuple[Any, ...] = (
    None, 0, 1, 336, 10**9 - 1, 10**9, -3, 2.5, True, "x", [], [336, 672], {"height": 224, "width": 192},
    {"height": 224}, {"width": 224}, {"shortest_edge": 99}, {"longest_edge": 777}, {"shortest_edge": "x"},
    [[336, 672], 448], [[1, 2, 3]], [{"height": 8, "width": 9}],
)  # fmt: skip
PROCESSOR_KEYS = (
    "size", "crop_size", "do_center_crop", "do_pan_and_scan", "min_pixels", "max_pixels", "patch_size", "merge_size",
    "max_image_size", "do_image_splitting", "min_patches", "max_patches", "image_grid_pinpoints",
)  # fmt: skip


def _processors() -> Parts:
    read = partial(images_.processor_of, where="the file")
    base = {"size": {"height": 300, "width": 400, "shortest_edge": 50}, "crop_size": 256}
    return {
        "classes": Each([_or_why(partial(read, {"image_processor_type": kind})) for kind in KINDS]),
        **{
            key: Each([_or_why(partial(read, {**base, key: value})) for value in WRONG] + [_or_why(lambda: read(base))])
            for key in PROCESSOR_KEYS
        },
    }


def _sizes_of_images() -> Parts:
    draw = random.Random(5)
    sizes = [*ENDS, *((draw.randint(1, 4000), draw.randint(1, 4000)) for _ in range(60))]
    squares = [(336, 336), (336, 672), (672, 336), (1008, 336)]
    return {
        "smart_resize": Each([
            _or_why(partial(images_.smart_resize, *size, factor, *limits))
            for size in sizes for factor in (28, 32) for limits in ((None, None), (3136, 300_000), (9999, 65536, 5))
        ]),
        "pixtral": Each([_or_why(partial(images_.pixtral_size, *size, longest, 14)) for size in sizes
                         for longest in (512, 1540)]),
        "split": Each([images_.split(*size, longest, 364) for size in sizes for longest in (364, 1456, 5000)]),
        "grids": Each([images_.nearest_grid(size, (448, 448), *most) for size in sizes for most in ((1, 12), (2, 6))]),
        "resolutions": Each([images_.best_resolution(size, squares) for size in sizes]),
    }  # fmt: skip


def _audio() -> Parts:
    asked = [Media(), *(Media(audio_frames=n) for n in (1, 2999, 3000)),
             *(Media(audio_seconds=s) for s in (0.001, 1, 29.99, 30, 31.5))]  # fmt: skip
    return {
        "frames": [[images_.frames_of(one, each) for one in asked] for each in (1, 50, 100, 16000)],
        "windows": [_or_why(partial(images_.window_of, one, 1500, 100, "the config")) for one in asked],
        "sizes": [_or_why(partial(Media(count, sizes).sizes, own)) for count in (1, 3)
                  for sizes in ((), ((3, 4),), ((3, 4), (5, 6))) for own in (None, (7, 8))],
    }  # fmt: skip


# ---- heads, steps, layers ----------------------------------------------------------------------


STEPS: tuple[dict[str, Any], ...] = (
    {}, {"data_collator": True}, {"attention_mask": True}, {"packing": True}, {"packing": True, "return_seq_idx": True},
    {"data_collator": True, "packing": True}, {"token_types": True}, {"num_labels": 1}, {"num_labels": 3},
    {"special": 5}, {"procedure": Procedure(trains=False)}, {"procedure": Procedure(rows=2)},
    {"media": (Input("pixel_values", ("2*B", 3, 8, 8), "float32"),), "placeholders": (7, (3, 2))},
    {"lengths": (("T", 9), ("tiles", 4))}, {"use_cache": True}, {"use_cache": True, "checkpointing": "layer"},
    {"use_cache": True, "checkpointing": "layer", "caches_in_checkpoints": True},
    {"cached": CachedTokens("static", 4, 9)}, {"cached": CachedTokens("dynamic", 0, 9, encodes=True)},
    {"sharding": Sharding(world_size=12, replicate=2, tp=3)}, {"sharding": Sharding(name="fsdp2", world_size=4, tp=2)},
    {"attention": "flash"}, {"attention": "eager", "autocast": "float16"}, {"device": Cuda((8, 0))},
    {"experts_implementation": "eager", "routing": "worst"}, {"cached": CachedTokens("static", 4, 9, prefilled=True)},
)  # fmt: skip


def _step(keys: dict[str, Any]) -> Parts:
    found = {}
    for head in HEADS:
        step = Step("a family", "bfloat16", head=head, **keys)
        inputs = step.inputs()
        batch = batch_of(inputs, lambda one: one.sized({"B": 2, "S": 5, "T": 4, "tiles": 6}))
        found[head] = [inputs, batch, step.passes_mask, step.takes_mask, HEADS[head].has_target]
    said = {name: one for name, one in vars(Step).items() if isinstance(one, property)}
    own: dict[str, Any] = {name: getattr(step, name) for name in sorted(said)}
    sharding = step.sharding
    if sharding is not None:
        own["sharding"] = [sharding, sharding.shard, sharding.offloads, sharding.has_cpu_adam, sharding.blocks([], [])]
        for name in ("notes", "scope"):
            own[name] = _or_why(partial(getattr(sharding, name), Ledger(CPU), None))
    setting, procedure = Setting.of(step), step.procedure
    return {
        "inputs": Each([*found.items()]), "own": own, "setting": [setting, str(setting), setting.task],
        "sizes": [step.sizes(2, 3), step.rows(2, 3), step.ledger(unrolled=True).unrolled,
                  step.ledger().host is None],
        "procedure": [procedure.symbolic, procedure.tokens, procedure.asks_loss, procedure.runs_backward,
                      procedure.layer_by_layer, procedure.at_token(3) is procedure, procedure.passes(step, 2, 3) == [
                          (step, 2, 3)], _or_why(lambda: procedure.phases(None))],
    }  # fmt: skip


def _steps() -> Parts:
    caches = [
        CachedTokens(kind, past, 40, *flags)
        for kind in ("dynamic", "static") for past in (0, 1, 8, 9, 30)
        for flags in itertools.product((True, False), repeat=2)
    ]  # fmt: skip
    names = ("LlamaForCausalLM", "BertForMaskedLM", "T5ForConditionalGeneration", "MarianMTModel", "GPT2LMHeadModel",
             "T5WithLMHeadModel", "HubertForSequenceClassification", "ViTForImageClassification", "BertModel",
             "Wav2Vec2ForCTC", "Gemma3ForConditionalGeneration", "BertForQuestionAnswering")  # fmt: skip
    kinds = ("llama", "t5", "whisper", "hubert", "bert", "data2vec-audio", "umt5", "moonshine")
    raws = [
        {"architectures": [name], "model_type": kind, **more}
        for name in names for kind in kinds
        for more in ({}, {"is_encoder_decoder": True}, {"is_encoder_decoder": False})
    ]  # fmt: skip
    others: list[dict[str, Any]] = [{}, {"architectures": "LlamaForMaskedLM"}, {"architectures": []},
                                    {"architectures": [3]}, {"model_type": "t5"}]  # fmt: skip
    parts: dict[Any, Any] = {"vision": ["tower"], "language": ["a", "b"], "projector": []}
    alone = no_language_model("a module", SimpleNamespace(), ())  # type: ignore[arg-type]
    return {
        "default": [Step("f", "float16"), Procedure(), Setting(), VALUES],
        "caches": [one.sizes(window) for one in caches for window in (None, 1, 8, 9, 10)],
        "heads": Each([head_of(raw) for raw in (*raws, *others)]),
        "encoders": Each([_or_why(partial(refuse_encoder, raw, "the config")) for raw in (*raws[::5], *others)]),
        "parts": [_or_why(partial(part_of, parts, name, "the config")) for name in ("vision", "language", "projector",
                  "encoder")],
        "said": [language_model_alone(names) for names in ((), ("vision_config",), ("a", "b"))],
        "no language model": {name: one for name, one in vars(alone).items() if name != "source"},
    }  # fmt: skip


RUNS: tuple[tuple[tuple[int, bool, Any, int], ...], ...] = (
    ((1, False, "a", 0),), ((3, False, "a", 0),), ((4, False, "a", 0),), ((5, True, "a", 0),), ((9, False, "a", 0),),
    ((2, False, "a", 0), (7, True, "b", 0)), tuple((1 + i % 2, bool(i % 2), "a", 0) for i in range(14)),
    ((6, False, "a", 0), (6, False, "a", 1)), tuple((1, False, "ab"[i % 5 == 4], 0) for i in range(33)),
    ((3, False, "a", 0), (8, False, "a", 1), (2, True, "a", 1)), tuple((1, False, i, 0) for i in range(257)),
    ((25, False, "a", 0), (1, True, "a", 0)), tuple((1, False, "abcdefghijklmn"[i % 13], 0) for i in range(80)),
    tuple((1, False, "abcdefghijklmn"[i % 12], 0) for i in range(80)),
)  # fmt: skip
"""Layers as (count, windowed, kind, stack)."""


def _layers() -> Parts:
    found = {}
    for number, rows in enumerate(RUNS):
        starts = itertools.accumulate((row[0] for row in rows), initial=0)
        runs = tuple(Run(start, *row) for start, row in zip(starts, rows, strict=False))
        answers = []
        for length, (unrolled, outlined) in itertools.product((1, 2, 3, 40), ((False, False), (True, False),
                                                                              (True, True))):  # fmt: skip
            ledger = Ledger(CPU, unrolled=unrolled, outlined=outlined)
            cut = _or_why(partial(segments, runs, length, ledger))
            if isinstance(cut, list):
                cut = [
                    [one.copies, one.stands_for, one.stack, [[i for i, _ in group] for group in one.groups]]
                    for one in cut
                ]
            answers.append([cut, _or_why(partial(layers_stood_for, runs, ledger, length))])
        kinds = [row[1:] for row in rows for _ in range(row[0])]
        plain = [_or_why(partial(runs_of, kinds)), *(_or_why(partial(repeats_of, kinds, n)) for n in (1, 4, 5))]
        found[f"runs {number}"] = Each([*answers, *plain])
    return found


# ---- attention ---------------------------------------------------------------------------------


def _log(ledger: Ledger) -> list[Any]:
    events = ledger.events
    assert events is not None
    return [[*events.sizes], [*events.order], sorted(events.saved), ledger.live, ledger.saved]


def _attention(kind: str, device: Any, dtype: str, grad: bool) -> Parts:
    found = {}
    for groups, seq, keys, dim, width in itertools.product((1, 3), (1, 5), (5, 7), (8, 264), (8, 6)):
        for masked in (False, True):
            ledger = Ledger(device, unrolled=True, events=Events())

            def tensor(*shape: int, ledger: Ledger = ledger, dtype: str = dtype) -> Tensor:
                made = ledger.empty(shape, dtype)
                made.requires_grad = grad
                return made

            query, key, value = tensor(2, 2 * groups, seq, dim), tensor(2, 2, keys, dim), tensor(2, 2, keys, width)
            mask = ledger.empty((2, 1, seq, keys), "bool" if kind == "sdpa" else dtype) if masked else None
            if kind == "flash":
                asks = [partial(flash, query, key, value, "float16")]
            elif kind == "sdpa":
                asks = [partial(sdpa, query, key, value, mask, groups, dim != 8, dropout) for dropout in (0.0, 0.1)]
            else:
                asks = [
                    partial(eager, query, key, value, mask, groups, 0.1, softcap, widens, sinks)
                    for softcap, widens, sinks in (
                        (False, True, None), (True, True, None), (False, False, None),
                        (False, True, ledger.parameter("sinks", (2 * groups,), dtype, grad)),
                    )
                ]  # fmt: skip
            logs = []
            for ask in asks:
                out = _or_why(ask)
                kept = out if isinstance(out, InputError) else [one and (one.shape, one.dtype) for one in out]
                logs.append([kept, _log(ledger)])
                del out
                logs.append(_log(ledger))
            found[f"{groups}, {seq}, {keys}, {dim}, {width}, {masked}"] = logs
    return {"calls": Each([*found.items()])}


def _cache() -> Parts:
    ledger = Ledger(CPU, unrolled=True, events=Events())
    past = [(ledger.empty((2, 2, 3, 8), "float16"), ledger.empty((2, 2, 3, 4), "float16")) for _ in range(2)]
    cache, found = Cache(ledger, past, windows=2), []
    del past
    cache.start()
    cache.start()
    for seq in (1, 2, 4):
        out = cache.update(ledger.empty((2, 2, seq, 8), "float16"), ledger.empty((2, 2, seq, 4), "float16"))
        found.append([[one.shape for one in out], cache.nbytes, _log(ledger)])
        del out
    other = Cache(ledger)
    other.hold(ledger.empty((), "int64"), 1)
    other.hold(ledger.empty((3,), "float32"), 2, 4)
    held = [[copies, one.shape] for one, copies in other.tensors()]
    return {"updates": Each(found), "held": [held, other.nbytes, [layer for layer, _ in other.of_layers()]]}


# ---- families and their programs ---------------------------------------------------------------

FILES = (
    "llama.default", "gemma2.default", "gemma3_text.default", "qwen2.window", "opt.default", "deepseek_v3.default",
    "gpt2.default", "falcon.new", "olmoe.default", "image-classification/vit.default",
    "sequence-classification/qwen3.window", "seq2seq-lm/t5.default", "speech-seq2seq/whisper.default",
    "image-text/internvl.default", "ctc/wav2vec2.default", "masked-lm/bert.default",
)  # fmt: skip
"""Files of each kind, by their names."""
VALUES_OF_KEYS: tuple[Any, ...] = (None, 0, 1, 7, 2.5, True, "auto", [3], "x")


def _path(name: str) -> Path:
    return recorded_programs.shipped_folder() / f"{name}.json"


MEDIA = (Media(), Media(2), Media(1, ((40, 30),)), Media(audio_seconds=3), Media(audio_frames=9), Media(0),
         Media(1, video_frames=4))  # fmt: skip
REAL = {"speech-seq2seq/whisper.default": "whisper-tiny", "image-text/internvl.default": "internvl3-1b"}
"""Of files whose structure small sizes do not have, a built-in model."""


def _file(name: str) -> Parts:
    path = _path(name)
    families, spec = load_together(path), models.load(REAL[name]) if name in REAL else None
    raw = config_of_file(path) if spec is None else dict(spec.whole or spec.raw)

    def fits(changed: Mapping[str, Any]) -> Any:
        fitting, refused = _fitting(families, changed)
        return [[families.index(one) for one in fitting], refused]

    found: dict[str, Any] = {"config": raw, "families": Each([_head(one) for one in families])}
    keys = sorted({*raw, *families[0].defaults, *families[0].switches, *families[0].rates, *families[0].lists})
    changes = [{**raw, key: VALUES_OF_KEYS[(i + j) % len(VALUES_OF_KEYS)]} for i, key in enumerate(keys)
               for j in range(2)]  # fmt: skip
    changes += [{k: x for k, x in raw.items() if k != key} for key in raw]
    found["configs"] = Each([fits(one) for one in changes])
    config = shipped_config(families, raw, "the config")
    source = config.source
    assert isinstance(source, Shipped)
    own = {name: one for name, one in vars(config).items() if name != "source"}
    names = ("attention", "origin", "release", "peft_release", "has_experts", "experts", "tp_plan", "position_axes",
             "supports_checkpointing", "caches_in_checkpoints")  # fmt: skip
    found["numbers"] = [own, config.open_sizes, {name: getattr(source, name) for name in names}]
    found["heads"] = [_or_why(partial(getattr, config, name)) for name in ("num_attention_heads", "head_dim",
                      "num_key_value_heads")]  # fmt: skip
    found["parts"] = [_or_why(partial(source.part, name)) for name in ("vision", "language", "embeddings",
                      "base_model", "encoder")]  # fmt: skip
    found["media"] = [_or_why(partial(source.media, one, "float16")) for one in MEDIA]
    found["modules"] = [len(source.modules()), len(source.parameters())]
    said = []
    for number, keys_ in enumerate(STEPS):
        head = path.parent.name if path.parent.name in HEADS else "causal-lm"
        step = Step("f", "float32", **{"head": head, **keys_})
        ask = partial(source.knows, step, 2, 24)
        said.append([_or_why(ask), source.chunk_of(step)])
        if said[-1][0] is True and number in (0, 10):
            said[-1].append(source.at(step, 2, 24))
        elif not said[-1][0]:
            said[-1].append(_or_why(partial(source.at, step, 2, 24)))
        opened = _or_why(partial(source.opened, step, None if number % 2 else 5))
        if isinstance(opened, tuple):
            same = _or_why(lambda step=step: source.opened(step, 5).structure == source.opened(step, 5).structure)  # type: ignore[union-attr, misc]
            said[-1] += [opened.values, opened.release, [families.index(one) for one in opened.families],
                         opened.structure[1:], same]  # fmt: skip
    found["settings"] = Each(said)
    step = Step("f", "float32", head=path.parent.name if path.parent.name in HEADS else "causal-lm")
    signatures: dict[str, Callable[[int], Any]] = {"equal": lambda i: 0, "others": lambda i: i % 2}
    found["sizes"] = Each([_or_why(partial(_sizes, config, signature, step, symbolic))
                           for signature in signatures.values() for symbolic in (False, True)])  # fmt: skip
    return found


def _sizes(config: Config, signature: Callable[[int], Any], step: Step, symbolic: bool) -> list[Any]:
    found = config.sizes(signature, step, 2, 24, symbolic=symbolic)
    asked = ("vocab", "kv_heads", "groups", "heads", "head_dim")
    said = [_or_why(partial(getattr, found, name)) for name in asked]
    layers = [found.layers(windowed) for windowed in (None, True, False)]
    same = found.structure == config.sizes(signature, step, 2, 24, symbolic=symbolic).structure
    return [found.runs, found.hidden, found.given, found.open, said, layers, same]


def _head(family: Any) -> list[Any]:
    """What a family says of configs and settings, without its program."""
    left = {"program", "read", "file"}
    own = {name: one for name, one in sorted(vars(family).items()) if name not in left and not name.startswith("_")}
    own = {name: one for name, one in own.items() if name in type(family).__dataclass_fields__}
    return [own, family.images, family.holds_cache, sorted(family.of_sequence)]


# ---- files of programs and of trainers' steps --------------------------------------------------

DAMAGED: tuple[Any, ...] = (None, -1, 2**70, 0.5, "x", "", [], {}, [[]], True)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, key))


def _damaged(name: str) -> Parts:
    """Each place of a file in turn has another value, or is left out."""
    path = _path(name)
    data = json.loads(path.read_text(encoding="utf-8"))
    data["programs"] = data["programs"][:1]
    places = [place for place in _places(data) if place]
    draw = random.Random(name)
    found = []
    for number, place in enumerate(draw.sample(places, 90)):
        *outer, last = place
        holder = data
        for key in outer:
            holder = holder[key]
        before = holder[last]
        holder[last] = DAMAGED[number % len(DAMAGED)]
        found.append([place, _or_why(lambda: [len(one.whole.program.before) for one in read_together(
            json.dumps(data), "the file")])])  # fmt: skip
        holder[last] = before
    return {"damaged": Each(found), "limits": [[limit, *_least(limit, json.dumps(data))] for limit in LIMITS]}


LIMITS = ("MOST_EVENTS", "MOST_DIMENSIONS", "MOST_NESTED", "MOST_LAYERS", "MOST_READS", "MOST_SETTINGS", "MOST_SYMBOLS",
          "LONGEST_NAME")  # fmt: skip


def _least(limit: str, text: str) -> list[Any]:
    """The least limit with which a file is read, and what is said with one less."""

    def read(value: int) -> Any:
        with patch.object(reading, limit, value):
            return _or_why(lambda: read_together(text, "the file")[0].whole)

    low, high = -1, getattr(reading, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if isinstance(read(middle), InputError) else (low, middle)
    return [high, read(low)]


def _trainer_steps(trainer: str, release: str) -> Parts:
    known = steps_of(trainer, release)
    keys = sorted(known, key=str)
    found = [_or_why(partial(step_of, trainer, release, key._replace(**{name: value})))
             for key in keys[:3] for name, value in (("loss_type", "x"), ("reference", "x"), ("rewards", 3),
             ("pooling", "x"), ("negatives", 77), ("dims", 9), ("autocast", "x"))]  # fmt: skip
    step = step_of(trainer, release, keys[0]).program
    less = [without_input(step, ending) for ending in ("ids", "mask", "labels", "none")]
    values = {name: 2 + number for number, name in enumerate(SYMBOLS)} | {"S": 90}
    others = {"reference": ({name: size + 50 for name, size in values.items()}, "float16")}
    programs_ = [*(step_of(trainer, release, key) for key in keys[:2]), *map(TrainerProgram, less)]
    ran = [one.at(values, "bfloat16", others) for one in programs_]
    refused = [one if isinstance(one, InputError) else "known" for one in found]
    return {
        "refusals": Each(refused),
        "ran": Each([[one.inputs, one.buffers, one.attributes, one.before] for one in ran]),
    }


def programs() -> Iterator[Question]:
    """Rules in turn."""
    for name in FAMILIES:
        yield f"images of {name}", partial(_family, name)
    for name in WITHOUT_RULES:
        yield f"images of {name}, no file", partial(_without_rules, name)
    yield "processors", _processors
    yield "sizes of images", _sizes_of_images
    yield "audio", _audio
    for number, keys in enumerate(STEPS):
        yield f"step {number}", partial(_step, keys)
    yield "steps", _steps
    yield "layers", _layers
    for kind, dtype, grad in (("eager", "float32", True), ("eager", "bfloat16", False), ("sdpa", "float32", True),
                              ("sdpa", "bfloat16", True), ("flash", "bfloat16", True)):  # fmt: skip
        devices = {"cpu": CPU, "cuda": Cuda((8, 0))}
        for name, device in devices.items():
            if kind != "flash" or name == "cuda":
                yield f"{kind} {dtype} {name}", partial(_attention, kind, device, dtype, grad)
    yield "cache", _cache
    for name in FILES:
        yield f"file {name}", partial(_file, name)
    yield "damaged files", partial(_damaged, "litgpt/litgpt.Gemma-7b")
    for trainer, release in (("trl-reward", "1.16"), ("trl-distillation", "1.16"), ("trl-orpo", "1.16"),
                             ("trl-kto", "1.14"), ("trl-gkd", "1.16")):  # fmt: skip
        yield f"{trainer} {release}", partial(_trainer_steps, trainer, release)


GROUPS: dict[str, Callable[[Path], Iterator[Question]]] = {"programs": lambda folder: programs()}
"""By the name of a table, its questions; a folder is for files that are asked about."""
