"""A model's programs from recorded families, without PyTorch: the same questions as a recording answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from ..errors import InputError, OtherStructure
from ..ledger import Size
from ..ledger.sizes import Poly, product, symbol
from .attention_functions import WIDE
from .config_values import NoWindow, OtherConfig, nested
from .expressions import evaluate
from .family import ONES_OF_CONFIGS, Family
from .heads import HEADS, Input, Part
from .images import Given, Media, frames_of, given_of, pixels_of, token_of, window_of
from .layer_runs import KEPT
from .module_table import NamedModule
from .program import Call, Program, Weight
from .recorded import Config, Source, part_of
from .releases import NEWEST, RELEASES
from .rows import has_lists
from .setting import Setting
from .split import PartOfHead, Split
from .step import Step
from .substitution import substitute

_OF_CONFIGS = (
    *("model_type", "kinds", "symbols", "structure", "defaults", "nulls", "switches", "rates", "lists", "layers"),
    *("aliases", "window", "harmless", "recorded", "beside"),
)
"""What says of which configs a family is. Programs of a file that differ in settings alone share these objects."""


def _fitting(families: Sequence[Family], raw: Mapping[str, Any]) -> tuple[list[Family], list[InputError]]:
    """The families that a config.json is of, and why others of its ``model_type`` are not."""
    fitting: list[Family] = []
    refused: list[InputError] = []
    known: dict[tuple[object, ...], InputError | None] = {}
    for family in families:
        ones = ((name in family.fixed, name in family.ones) for name in ONES_OF_CONFIGS)
        of = *(id(getattr(family, part)) for part in _OF_CONFIGS), *ones
        if of not in known:
            known[of] = None
            try:
                family.check_config(raw)
            except InputError as error:
                known[of] = error
        why = known[of]
        if why is None:
            fitting.append(family)
        elif family.model_type == raw.get("model_type"):
            refused.append(why)
    return fitting, refused


MOST_PROGRAMS = 64
"""How many programs stay for the next question. Each size that is a number has its own, of half a megabyte and more."""
_ASKED: dict[tuple[Source, Any], tuple[Program, Source | None]] = {}
"""The programs of all models that were asked for last, and where one comes from that no family had."""


class Shipped(Source):
    """The programs of a config.json's model. ``where`` is what messages call the config.

    ``live`` gives the programs that no family has, recorded from the installed transformers, or raises ``InputError``.
    ``release`` is that of transformers which the programs are of.
    """

    def __init__(
        self,
        families: Sequence[Family],
        raw: Mapping[str, Any],
        where: str,
        live: Callable[[str], Source] | None = None,
        release: str = NEWEST,
    ) -> None:
        self.raw, self.where, self._live, self._release = raw, where, live, release
        self.families, refused = _fitting(families, raw)
        if not self.families and raw.get("use_sliding_window") and any(isinstance(x, NoWindow) for x in refused):
            self.raw = {**raw, "use_sliding_window": False}  # which is the same where no layer has a window
            self.families, refused = _fitting(families, self.raw)
        if not self.families:
            if not refused:
                raise InputError(f"{where}: no program of model_type {raw.get('model_type')} is shipped")
            nearest = max(refused, key=lambda x: x.matched if isinstance(x, OtherConfig) else float("inf"))
            raise type(nearest)(f"{where}: {nearest}")
        self._other: Source | None = None
        """Where the program comes from that was asked for last, if no family had it."""

    @property
    def first(self) -> Family:
        """The program whose file says what is the same for all of them."""
        return self.families[0]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config's keys with the class's defaults."""
        return self.first.config(self.raw)

    @property
    def attention(self) -> str:
        """The attention implementation that transformers picks."""
        return str(self.first.recorded["default_attention"])

    @property
    def origin(self) -> str:
        """Of the program that was asked for last."""
        if self._other is not None:
            return self._other.origin
        file = self.first.file
        return file and f"the program is that of {file}, recorded with transformers {self._recorded}; others may differ"

    @property
    def release(self) -> str:
        """Of the program that was asked for last."""
        if self._other is not None:
            return self._other.release
        known = ".".join(self._recorded.split(".")[:2]) in RELEASES
        return self._release if known else self._recorded

    @property
    def peft_release(self) -> str:
        return ""

    @property
    def _recorded(self) -> str:
        return str(self.first.recorded["transformers"])

    @property
    def has_experts(self) -> bool:
        """Whether weights of several experts are one parameter.

        A convolution's weight, [channels, 1, width], has three dimensions, too. Its module calls ``conv1d``, or takes
        the dimension out that is 1.
        """
        program = self.first.whole.program
        filters = {
            x.name
            for event in itertools.chain(*program.outside, *map(program.events_of, range(len(program.layers))))
            if isinstance(event, Call) and event.op in ("conv1d", "squeeze")
            for x in event.args
            if isinstance(x, Weight)
        }
        return any(len(p.shape) == 3 and p.name not in filters for p in program.parameters)

    @property
    def experts(self) -> str | None:
        ways = (one["experts_implementation"] for one in self.first.settings)
        return next((way for found in ways if None in found for way in found if way is not None), None)

    @property
    def tp_plan(self) -> Mapping[str, str]:
        return self.first.tp_plan

    @property
    def supports_checkpointing(self) -> bool:
        """Whether transformers can put a checkpoint around each layer: a file says where it cannot."""
        return bool(self.first.recorded.get("checkpointing", True))

    @property
    def caches_in_checkpoints(self) -> bool:
        return bool(self.first.recorded.get("caches_in_checkpoints", False))

    @property
    def position_axes(self) -> tuple[int, ...]:
        return tuple(self.first.recorded.get("position_axes", ()))

    def media(self, asked: Media, dtype: str) -> Given:
        if (images := self.first.recorded.get("images")) is not None:
            return self._images(images, asked, dtype)
        if (audio := self.first.recorded.get("audio")) is None:
            return Given()
        name, bins, positions, per_second = audio
        if bins is None:
            samples = frames_of(asked, per_second) or 30 * per_second
            return Given((Input(name, ("B", samples), dtype),))
        frames = window_of(asked, self.config[positions], per_second, self.where)
        return Given((Input(name, ("B", self.config[bins], frames), dtype),))

    def _images(self, recorded: Any, asked: Media, dtype: str) -> Given:
        """Images, and what stands for them in a row. Raises ``InputError`` where the program is of other pixels."""
        takes, types = recorded[:2]
        config = nested(self.config)
        try:
            given = given_of(takes, types, config, asked, dtype, token_of(config, asked))
            self._sizes_of(given.inputs)
        except InputError as error:
            if self._live is None:
                raise InputError(f"{self.where}: {error}") from None
            return self._live(str(error)).media(asked, dtype)
        return given

    def _sizes_of(self, inputs: Sequence[Input]) -> dict[str, int]:
        """The sizes of the images of a row. Raises ``InputError`` where the program is of other pixels."""
        if (images := self.first.recorded.get("images")) is None:
            return {}
        pixels, config = images[2], nested(self.config)
        vision = config.get("vision_config") or config
        if "image_grid_thw" in images[0]:
            grids = {one for given in inputs if given.name == "image_grid_thw" for one in given.values}
            if len(grids) != 1:
                what = "images of several sizes" if grids else "a video" if inputs else "no images"
                raise InputError(f"the program is of rows with images of one size, and the model is given {what}")
            ((_, high, wide),) = grids
            side = vision["spatial_merge_size"]
            return {"high": high // side, "wide": wide // side}
        found = pixels_of(inputs)
        if found is None:
            raise InputError("the program is of rows with images")
        pixels = (int(vision["image_size"]),) * 2 if pixels is None else tuple(pixels)
        if found[1] != pixels:
            sizes = [f"{high}x{wide}" for high, wide in (pixels, found[1])]
            raise InputError(f"the program is of images of {sizes[0]} pixels, and the model is given {sizes[1]}")
        return {"tiles": found[0]}

    def part(self, name: Part) -> tuple[str, ...]:
        found = self.first.recorded.get("parts")
        return super().part(name) if found is None else part_of(dict(found), name, self.where)

    def modules(self) -> tuple[NamedModule[Any], ...]:
        """The model's modules, in the order of ``named_modules()``."""
        program = self.first.at(self.raw, {})
        return program.numbered_modules()

    def parameters(self) -> dict[str, tuple[Size, ...]]:
        """Names and shapes of the model's parameters."""
        return {p.name: p.shape for p in self.first.at(self.raw, {}).parameters}

    @cached_property
    def _whole(self) -> dict[str, tuple[Size, ...]]:
        """The parameters' shapes, which do not change."""
        return self.parameters()

    def at(self, step: Step, batch: Size, seq: Size) -> Program:
        """The program of a forward pass. Raises ``InputError`` where none was recorded."""
        key = self._key(step, batch, seq)
        if (found := self._kept(key)) is None:
            try:
                found = self._shipped(step, batch, seq), None
            except InputError as error:
                if self._live is None or isinstance(error, (PartOfHead, OtherStructure)):
                    raise
                source = self._live(str(error))
                found = source.at(step, batch, seq), source
            self._keep(key, *found)
        program, self._other = found
        return program

    def knows(self, step: Step, batch: Size, seq: Size) -> bool:
        """Whether the program is shipped."""
        key = self._key(step, batch, seq)
        if (found := self._kept(key)) is not None:
            return found[1] is None
        try:
            self._keep(key, self._shipped(step, batch, seq), None)
        except InputError:
            return False
        return True

    def _kept(self, key: Any) -> tuple[Program, Source | None] | None:
        found = _ASKED.pop((self, key), None)
        if found is not None:
            _ASKED[self, key] = found  # as the last
        return found

    def _keep(self, key: Any, program: Program, source: Source | None) -> None:
        _ASKED[self, key] = program, source
        while len(_ASKED) > MOST_PROGRAMS:
            _ASKED.pop(next(iter(_ASKED)), None)

    def chunk_of(self, step: Step) -> int | None:
        """The tokens of a chunk, where programs of whole chunks serve a step."""
        setting = Setting.of(step)
        for family in self.families:
            if family.whole_chunks and family.chunk is not None and family.serves(setting):
                return int(evaluate(family.chunk, family.config(self.raw)))
        return None

    def opened(self, step: Step, layers: int | None) -> OpenSizes | None:
        """The source of programs whose sizes are symbols, where attention and caches are calls."""
        setting = Setting.of(step.procedure.passes(step, 1, 1)[0][0])
        parts = tuple(x for x in self.families if x.interfaces and x.serves(setting))
        if not parts:
            return None
        decides = step.device.selects_attention and step.attention != "eager"
        known = open_values(parts[0], self.config)
        if not known:
            return None
        own = {"G": 1, **parts[0].values(self.config)}
        closed = {"D"} if decides or "R" in parts[0].symbols or own.get("D", 0) > WIDE else set()
        values: dict[str, Size] = {
            name: own[name] if name in closed or (name in ("K", "G") and own[name] == 1) else symbol(name)
            for name in known
            if name != "L"
        }
        if "H" not in known:  # heads of this structure have the hidden size together
            values["H"] = product([values["K"], values["G"], values["D"]])
        values["L"] = self.first.depth(self.config) if layers is None else symbol("L")
        return OpenSizes(self, parts, values)

    @property
    def _attention_checkpoints(self) -> bool:
        """Whether attention makes other tensors within checkpoints of layers, for which no program is recorded."""
        return bool(self.first.recorded.get("attention_checkpoints", False))

    def _key(self, step: Step, batch: Size, seq: Size) -> tuple[Any, ...]:
        """What a program of a forward pass depends on."""
        checkpointed = self._attention_checkpoints and step.checkpointing != "none"
        own = (step.lengths, step.media, step.tensor_parallel, checkpointed)
        return (Setting.of(step), step.cached, step.window_reached, batch, seq, *own)

    def _shipped(self, step: Step, batch: Size, seq: Size) -> Program:
        if self._attention_checkpoints and step.checkpointing != "none":
            raise InputError(
                f"{self.where}: no program was recorded for checkpoints of layers, within which the attention of "
                f"{self.first.model_type} makes other tensors"
            )
        sizes: dict[str, Size] = step.sizes(batch, seq)
        try:
            sizes |= self._sizes_of(step.media)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None
        if not HEADS[step.head].text:
            sizes.pop("tiles", None)
        images = next((len(one.values) for one in step.media if one.name == "image_grid_thw"), None)
        for one in step.media:
            if one.name == "input_values":
                sizes["samples"] = int(one.shape[1])
        given = {name: size for name, size in sizes.items() if not isinstance(size, Poly)}
        setting = Setting.of(step)
        reason = f"no program was recorded for {setting}"
        told = ""
        for family in self.families:
            if not family.serves(setting):
                continue
            if images != family.images:
                reason = told or f"no program was recorded for rows with {images} images"
                continue
            beyond = family.beyond_window
            if family.window is not None and "S" not in given and beyond not in (None, step.window_reached):
                continue
            if isinstance(seq, Poly) and (family.of_sequence or family.chunk is not None):
                if family.chunk is None or seq.symbols() != ({"C"} if family.whole_chunks else {"C", "P"}):
                    what = min(family.of_sequence, default="the number of chunks")
                    reason = f"{what} follows from the sequence, which must be a number here"
                    continue
                padded = seq if family.whole_chunks else seq + symbol("P")
                sizes |= {
                    name: evaluate(family.symbols[name], {**family.config(self.raw), "S": padded})
                    for name in family.of_sequence
                }
            if told and any(given.get(name, 1) != 1 for name in family.fixed):
                continue  # what a program of longer sequences says is the reason, not that this one is of one token
            asked = dict(sizes)
            if step.cached is not None and family.holds_cache:
                asked |= step.cached.sizes(family.window_of(self.config))
            numbers = {name: size for name, size in asked.items() if isinstance(size, int)}
            if "B" not in numbers and has_lists(family.whole.program):
                raise OtherStructure(f"{self.where}: the model walks the images of a batch, which must be a number")
            try:
                split = Split.of(family.tp_plan, step.tensor_parallel, family.model_type)
                values = {} if split is None else family.values(family.config(self.raw))
                own = {} if split is None else {**values, **split.sizes(family.whole.program, values)}
                program = family.at(self.raw, {**numbers, **own}, step.dtype)
                program = program if split is None else split.applied(program, self._whole)
                return program if len(numbers) == len(asked) else substitute(program, asked)
            except PartOfHead:
                raise
            except InputError as error:
                reason = told = str(error)
        raise InputError(f"{self.where}: {reason}")


class OpenSizes(NamedTuple):
    """Programs of a config's structure whose sizes are symbols."""

    shipped: Shipped
    families: tuple[Family, ...]
    values: Mapping[str, Size]

    @property
    def release(self) -> str:
        """That of the structure's programs."""
        return self.shipped.release

    @property
    def structure(self) -> Hashable:
        """The programs, the sizes that are numbers, and what switches and rates say."""
        config = self.shipped.config
        own = {**self.families[0].values(config), **self.values}
        numbers = tuple((name, size) for name, size in own.items() if isinstance(size, int))
        decided = tuple(one.decides(one.config(self.shipped.raw)) for one in self.families)
        return tuple(map(id, self.families)), numbers, decided, self.families[0].like(config)[:KEPT]

    def at(self, step: Step, batch: Size, seq: Size) -> Program:
        """The program of a forward pass. Raises ``InputError`` where there is none."""
        asked: dict[str, Size] = {"B": batch, "S": seq}
        numbers = {name: size for name, size in asked.items() if isinstance(size, int)}
        error = InputError("no program was recorded for these sizes")
        for family in self.families:
            try:
                config = family.config(self.shipped.raw)
                family.check(config, family.values(config) | numbers)
            except InputError as reason:
                error = reason
                continue
            like = family.like(config)
            if not isinstance(self.values["L"], int):
                like = like[:KEPT]
            given = {**family.values(config), **{k: x for k, x in self.values.items() if k != "L"}, **asked}
            return family.whole.of_sizes(config, given, like, step.dtype)
        raise error


def open_values(family: Family, config: Mapping[str, Any]) -> dict[str, int]:
    """The values of the sizes that can be symbols of their own, by the symbols' names."""
    values = family.values(config)
    found = {name: values[name] for name in ("V", "H", "I", "K", "D") if name in values}
    if not found.keys() >= {*"VHKD"} or family.chunk is not None:  # the number of chunks has jumps
        return {}
    if not family.symbols["D"].isidentifier():
        del found["H"]
    return found | {"G": values.get("G", 1), "L": family.depth(config)}


def shipped_config(
    families: Sequence[Family],
    raw: Mapping[str, Any],
    where: str,
    live: Callable[[str], Source] | None = None,
    release: str = NEWEST,
) -> Config:
    """The numbers of a model of a recorded family. Raises ``InputError``."""
    source = Shipped(families, raw, where, live, release)
    family, config = source.first, source.config
    values = family.values(config)
    layers = family.depth(config, family.decoder)
    kinds = [str(entry) for signature in family.signatures(config, family.decoder) for entry in signature]
    per_layer = len(kinds) // layers
    window = family.window_of(config)
    if any(kind.endswith("_attention") for kind in kinds):
        windowed = tuple("sliding_attention" in kinds[i * per_layer : (i + 1) * per_layer] for i in range(layers))
    else:
        windowed = (window is not None,) * layers
    heads = values["K"] * values.get("G", 1)
    others = {"num_key_value_heads": "num_global_key_value_heads", "head_dim": "global_head_dim"}
    sizes: dict[str, int | None] = {
        "num_attention_heads": heads,
        "num_key_value_heads": values["K"],
        "head_dim": values.get("D", values["H"] // heads),
    }
    return Config(
        family=family.model_type,
        vocab_size=values["V"] if "V" in values else config.get("vocab_size", 0),
        hidden_size=values["H"],
        num_hidden_layers=layers,
        heads={name: None if others.get(name) in values else size for name, size in sizes.items()},
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        sliding_window=window if any(windowed) else None,
        windowed_layers=windowed,
        source=source,
        longest=family.longest(values),
        open_values=open_values(family, config) if family.interfaces else {},
        intermediate_size=values.get("I", 0),
        num_labels=values.get("num_labels", 0),
    )
