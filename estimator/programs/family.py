"""A family's program for any config of its structure: what a config.json must say, and what its sizes are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import InputError, shown
from ..ledger import Size
from .attention_functions import WIDE
from .config_values import (
    ACTIVATIONS,
    CHECKED,
    CONVOLUTIONS,
    DENSE_FIRST,
    DEPTH_KEYS,
    GENERATION,
    IGNORED,
    LIMITS,
    NAMES_BEFORE,
    STATIC_ROPE,
    BadValue,
    NoWindow,
    OtherConfig,
    check_number,
    default_list,
    flattened,
    name_of,
    no_multiple,
    number_of,
    one_for_all,
    signatures,
    sized,
    structure_entry,
    whole_number,
    with_rope,
)
from .depth import Kinds, Signature, deepened
from .expressions import evaluate, names
from .images import members
from .program import Program
from .repeats import counted
from .rows import has_lists, listed
from .setting import Setting, Settings
from .shared_tensors import placed
from .substitution import DTYPE, substitute
from .switches import Switch, switched

ONES = ("B", "S", "K", "G", "chunks", "past", "num_labels", "T", "tiles", "grid", "high", "wide")
"""Symbols for which 1 often makes other calls: the batch, the sequence, the key/value heads of grouped queries, the
queries' heads for each of them, the chunks of state-space layers, the tokens that a cache has, the labels of a
classification, of which one is a regression's, the tokens of a decoder beside an encoder, the tiles of a row's images,
the patches of an image's side, and the tokens of an image's height and width."""

ONES_OF_CONFIGS = ("K", "num_labels", "grid")
"""Those of them that a config has."""


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
    """The class's values of the keys that a config may leave out. A text after = is an expression of other keys."""
    nulls: Mapping[str, str] = field(default_factory=dict)
    """What a key that is ``null`` stands for, where that is not its default: an expression of other keys."""
    switches: Mapping[str, Switch] = field(default_factory=dict)
    """Keys that decide which parameters there are."""
    rates: tuple[str, ...] = ()
    """Keys whose numbers are arguments of calls, as ``program.Rate``."""
    lists: Mapping[str, Any] = field(default_factory=dict)
    """For keys with an entry per layer, the class's own list: ``{"period": [...]}``, with the entries before it as
    ``"first"``, and with ``"every": key`` if that says how often its last entry comes; ``{"runs": key}``,
    ``{"from": key, "below": ..., "above": ...}``, ``{"numbers": key, "listed": ..., "others": ...}`` or
    ``{"text": key, "letters": {...}}``; ``None`` where the config must have it."""
    layers: str = "num_hidden_layers"
    """The key of the number of layers, or of a list with an entry for each; of several stacks, the first one's."""
    beside: tuple[tuple[str, Kinds], ...] = ()
    """The same key, and ``kinds``, of each stack after the first."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of keys, which transformers accepts."""
    window: str | None = None
    """The key of the sliding window, if the config has one, or an expression of it."""
    beyond_window: bool | None = False
    """The program is for sequences at least as long as the window, not for shorter ones; ``None``: for both."""
    chunk: str | None = None
    """The size of the chunks that a state-space layer cuts the sequence into: a key of the config, or a number."""
    whole_chunks: bool = False
    """The program is for sequences of whole chunks, not for those whose last chunk is padded."""
    fixed: tuple[str, ...] = ()
    """Symbols that must be 1, of ``ONES``."""
    ones: tuple[str, ...] = ()
    """Symbols that may be 1, of those for which this often makes other calls (``ONES``)."""
    harmless: tuple[str, ...] = ()
    """The class's other keys, which change nothing."""
    file: str = ""
    """Where it is from, if it did not come with the package."""
    tp_plan: Mapping[str, str] = field(default_factory=dict)
    """How transformers splits the weights over processes (``split.py``)."""
    settings: tuple[Settings, ...] = ()
    """The settings that the program serves."""
    interfaces: bool = False
    """Attention, masks and caches are calls, whose rules (``interfaces.py``) do what the setting asks for."""
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """How it was recorded: releases, the attention that transformers picks, the keys that the model ``reads`` although
    its class does not have them, what each of those ``fills`` in where a config leaves it out and what it ``sets``, and
    whether a model must have ``every_kind`` of layer, since what is called outside them follows from which there are.
    """

    read: Callable[[], Family] | None = None
    """Reads the family with its program, where only the head of a file's row has been read."""

    @cached_property
    def whole(self) -> Family:
        """The family with its program. Raises ``InputError`` where that is damaged."""
        return self if self.read is None else self.read()

    def serves(self, setting: Setting) -> bool:
        """Whether the program is for a setting.

        Passes of ``generate`` are recorded for a CPU, and call the same on a GPU where no experts are run together.
        """
        if self.holds_cache and all(one["experts_implementation"] == (None,) for one in self.settings):
            setting = setting._replace(device="cpu")
        return setting.is_of(self.settings)

    @property
    def images(self) -> int | None:
        """The images of a row, where rows with others make other calls."""
        found: list[Any] = [*self.recorded.get("images", ())]
        return found[3] if len(found) > 3 else None

    @property
    def holds_cache(self) -> bool:
        """Whether the program is a pass of ``generate`` with the calls of its cache."""
        return not self.interfaces and any(one["cache"] != (None,) for one in self.settings)

    def _check_keys(self, raw: Mapping[str, Any]) -> None:
        """Raise ``InputError`` for a key that the recorded class does not have and that may matter."""
        expressions = [*self.symbols.values(), *self.nulls.values(), *self.recorded.get("sets", {}).values()]
        expressions += [v[1:] for v in self.defaults.values() if isinstance(v, str) and v.startswith("=")]
        known = {name for text in expressions for name in names(text)}
        known |= {
            *self.defaults,
            *self.switches,
            *self.rates,
            *self.lists,
            *self.harmless,
            *self.aliases,
            *self.aliases.values(),
            self.layers,
        }
        known |= {name for key in self.structure for name in re.findall(r"[\w.]+", key)}
        known |= {*DEPTH_KEYS, *CHECKED}
        hows = ("text", "runs", "from", "every", "numbers")
        known |= {rule[how] for rule in self.lists.values() if rule for how in hows if how in rule}
        reads, fills = self.recorded.get("reads"), self.recorded.get("fills", {})
        given = {self.aliases.get(key, key) for key, value in raw.items() if value is not None} | {*self.harmless}
        for key, value in raw.items():
            name = name_of(key)
            if (
                key in known
                or (key in fills and {*fills[key]} <= given)
                or name in IGNORED
                or name in GENERATION
                or key.endswith("_token_id")
                or not value
            ):
                continue
            if key in reads if reads is not None else isinstance(value, (int, float, Mapping)):
                raise InputError(f"{key} is no key of the recorded class, so what it changes is not known")

    def _check_values(self, config: Mapping[str, Any]) -> None:
        """Raise ``BadValue`` for a size that is no positive integer, a switch that is none, or an impossible rate."""
        sizes = {name for letter, text in self.symbols.items() if letter in "HIVKGD" for name in names(text)}
        sizes |= {key for key in (*self.depth_keys, self.window) if key is not None}
        for key in sorted(sizes & config.keys()):
            value = config[key]
            if value not in (None, "auto") and not (isinstance(value, (list, tuple)) and value):
                check_number(key, value, 1)
        for key in DEPTH_KEYS:
            if config.get(key) is not None:
                check_number(key, config[key], 0)
        flags = {
            key for key, value in self.structure.items() if isinstance(value, bool) and config.get(key) is not None
        }
        for key in sorted({*self.switches, *flags} & config.keys()):
            if not isinstance(config[key], bool):
                raise BadValue(f"{key} is {shown(config[key])}; it must be true or false")
        for key in {*self.rates} & config.keys():
            value = config[key]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and 0 <= value < 1):
                raise BadValue(f"{key} is {shown(value)}; it must be at least 0 and below 1")

    def _check_groups(self, config: Mapping[str, Any]) -> None:
        """Raise ``BadValue`` for heads that do not share those of keys and values evenly."""
        if "G" in self.symbols:
            heads, kv_heads = (config.get(key) for key in self.symbols["G"].split(" / "))
            if isinstance(heads, int) and isinstance(kv_heads, int) and (kv_heads < 1 or heads % kv_heads):
                raise BadValue(no_multiple(self.symbols["G"], config))

    def config(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json's keys with the class's defaults. Raises ``InputError`` for one of another structure.

        Keys of a part stand behind its name (``config_values.flattened``).
        """
        if raw.get("model_type") != self.model_type:
            raise InputError(f"the program is of {self.model_type}, and the config of {shown(raw.get('model_type'))}")
        if self.has_parts:
            raw = flattened(raw)
        self._check_keys(raw)
        named = sorted(raw, key=self.aliases.__contains__)  # of two names the other one counts, as in transformers
        config = with_rope({self.aliases.get(key, key): raw[key] for key in named})
        for key, text in self.recorded.get("sets", {}).items():
            if all(config.get(name) is not None for name in names(text)):
                config[key] = evaluate(text, config)
        if "num_labels" in self.symbols and isinstance(labels := config.get("id2label"), Mapping):
            config["num_labels"] = len(labels)  # as transformers counts them
        sizes = {name for text in self.symbols.values() for name in names(text)}
        self._check_values(config)
        config = {key: one_for_all(value) if key in sizes else value for key, value in config.items()}
        rule = self.lists.get(self.layers)
        if rule and "text" in rule and config.get(self.layers) is None and rule["text"] in config:
            config[self.layers] = default_list(rule, config, 0, self.layers)
        derived = {key: text for key, text in self.nulls.items() if key in config and config[key] is None}
        for key, value in self.defaults.items():
            if config.get(key) in (None, "auto"):
                if isinstance(value, str) and value.startswith("="):
                    derived[key] = value[1:]
                elif key not in config:
                    config[key] = value
        self._check_groups(config)
        for _ in derived:  # a default may follow from another
            for key, text in derived.items():
                if config.get(key) in (None, "auto"):
                    try:
                        config[key] = sized(text, config)
                    except KeyError:
                        continue
        for matched, (key, wanted) in enumerate(self.structure.items()):
            if key == f"D <= {WIDE}":
                continue
            given = structure_entry(key, config, isinstance(wanted, float))
            if name_of(key) == "rope_type" and wanted == "static" and {*str(given).split("/")} <= {*STATIC_ROPE}:
                continue
            if given in ACTIVATIONS and wanted in ACTIVATIONS:
                continue
            if given != wanted:
                reason = f"{key}: {shown(given)}, and the program was recorded for {shown(wanted)}"
                raise OtherConfig(reason, matched)
        if self.window is not None and any(config.get(name) is None for name in names(self.window)):
            raise NoWindow(f"{self.window} is none, and the program was recorded for a model that has one")
        for key in config if "R" not in self.symbols else ():
            if name_of(key) == "partial_rotary_factor" and config[key] not in (None, 1.0):
                raise InputError(f"{key} is not 1, for which this program was not recorded")
        return config

    def check_config(self, raw: Mapping[str, Any]) -> None:
        """Raise ``InputError`` for a config.json that the program is not of, whatever the batch and the sequence."""
        config = self.config(raw)
        self.check(config, self.values(config), ONES_OF_CONFIGS)
        self.like(config)

    @cached_property
    def of_sequence(self) -> frozenset[str]:
        """The symbols that follow from the length of the sequence, such as the number of its chunks."""
        return frozenset(name for name, text in self.symbols.items() if "S" in names(text))

    def values(self, config: Mapping[str, Any], given: Mapping[str, int] | None = None) -> dict[str, int]:
        """The symbols' values. Without S in what is ``given`` those that follow from it are left out."""
        given = given or {}
        values = {}
        for name, text in self.symbols.items():
            if ("S" not in given and name in self.of_sequence) or ("samples" not in given and "samples" in names(text)):
                continue
            try:
                values[name] = sized(text, {**config, **given})
            except KeyError as error:
                raise InputError(f"the config has no {error.args[0]}") from None
        if values.get("D", 0) % 2 and "rope_type" in self.structure and "R" not in values:
            raise BadValue(f"{self.symbols['D']} is {values['D']}; rotary embeddings need an even one")
        narrow = self.structure.get(f"D <= {WIDE}")
        if "D" in values and narrow is not None and (values["D"] <= WIDE) != narrow:
            raise InputError(f"the head's size {values['D']} is on another side of {WIDE} than in the recordings")
        return values

    def window_of(self, config: Mapping[str, Any]) -> int | None:
        """The sliding window's tokens, if the config has one."""
        if self.window is None or self.window.isidentifier():
            return None if self.window is None else whole_number(config.get(self.window), self.window)
        return sized(self.window, config)

    @property
    def has_parts(self) -> bool:
        """Whether the config has parts, such as that of a tower."""
        return "." in "".join(self.depth_keys)

    @property
    def decoder(self) -> str:
        """The key of the number of layers of what makes text; where nothing does, of the first stack's."""
        return next((key for key in self.depth_keys if key.startswith("text_config.")), self.layers)

    @property
    def depth_keys(self) -> tuple[str, ...]:
        """``layers`` of each stack."""
        return (self.layers, *[key for key, _ in self.beside])

    def depth(self, config: Mapping[str, Any], key: str = "") -> int:
        """The number of layers of a stack, by default of the first."""
        key = key or self.layers
        layers = whole_number(number_of(config.get(key)), key)
        if layers > LIMITS["num_hidden_layers"]:
            raise BadValue(f"{key} is {layers:,}; {LIMITS['num_hidden_layers']:,} are the most")
        return layers

    def at(self, raw: Mapping[str, Any], values: Mapping[str, int], dtype: str = DTYPE) -> Program:
        """The program of a config's model, with values of B and S, or without them in these symbols.

        Of a pass that starts with a cache, ``values`` has the sizes of that too (``CachedTokens.sizes``).
        ``dtype`` is the model's, where the program is for all.
        """
        config = self.config(raw)
        given = {**self.values(config, values), **values}
        self.check(config, given)
        return self.whole.of_sizes(config, given, self.like(config), dtype)  # which is read only now

    def of_sizes(
        self, config: Mapping[str, Any], sizes: Mapping[str, Size], like: Sequence[int], dtype: str
    ) -> Program:
        """The program with sizes in place of its symbols, and with layers like these recorded ones."""
        other = tuple([key for key, one in self.switches.items() if bool(config.get(key)) != one.value])
        if other not in self._switched:
            self._switched[other] = switched(self.program, [self.switches[key] for key in other])
        program = self._switched[other]
        rates = {key: float(bool(config.get(key))) for key in self.rates}
        try:
            whole = substitute(program, sizes, dtype, rates)
            if has_lists(whole):  # without sizes a program says which modules there are
                whole = listed(whole, members(self.model_type, {"B": 1, **sizes}))
            return placed(deepened(counted(whole), like))
        except InputError as error:
            raise InputError(re.sub(r"\b[a-zA-Z_]+\b", self._in_keys, str(error))) from None

    @cached_property
    def _switched(self) -> dict[tuple[str, ...], Program]:
        """The program with the other values of some switches."""
        return {}

    def _in_keys(self, word: re.Match[str]) -> str:
        """A symbol in a message, in the config's keys."""
        text = self.symbols.get(word[0], word[0])
        return text if text.isidentifier() else f"({text})"

    def decides(self, config: Mapping[str, Any]) -> tuple[bool, ...]:
        """What a config's switches and rates say. Models of one structure and of the same sizes may differ in them."""
        return tuple([bool(config.get(key)) for key in (*self.switches, *self.rates)])

    def like(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """For each layer, the recorded one that it is like. Raises ``InputError`` for one that was not recorded."""
        signs = self.signatures(config)
        window = "sliding_attention"  # a program with such layers makes their mask, whether a config has some or not
        recorded = [sign for key in self.kinds.table for sign in key if isinstance(sign, tuple)]
        if any(window in sign for sign in recorded) and not any(window in sign for sign in signs):
            raise NoWindow(f"no layer has the {self.window}, and some had it in the recordings")
        if self.recorded.get("every_kind"):
            of_lists = len(self.lists)
            missing = {sign[:of_lists] for sign, *_ in self.kinds.table} - {sign[:of_lists] for sign in signs}
            if missing:
                raise InputError(f"no layer is of kind {shown(min(missing, key=str))}, and some were in the recordings")
        found, before = [*self.kinds.of(signs)], self.kinds
        first = 0
        for key, kinds in self.beside:
            first += 1 + max(before.table.values())
            found += [first + number for number in kinds.of(self.signatures(config, key))]
            before = kinds
        return tuple(found)

    def longest(self, values: Mapping[str, int]) -> int | None:
        """The most tokens that the program is for, by the number of positions, if that limits them."""
        if self.structure.get("position_biased_input") is False:  # there are no embeddings of them
            return None
        others = ("original", "vision", "position_buckets")
        limits = [values[x] for x in self.symbols if "position" in x and not x.startswith(others)]
        return min(limits, default=None)

    def check(self, config: Mapping[str, Any], values: Mapping[str, int], ones: Sequence[str] = ONES) -> None:
        """Raise ``InputError`` for sizes at which other calls are made. ``ones`` are the symbols that may be 1."""
        tokens = values.get("S", 0) + values.get("past", 0)
        longest = self.longest(values)
        if longest is not None and tokens > longest:
            raise InputError(f"a sequence of {tokens} is longer than the model's {longest} positions")
        for name in ones:
            value = values.get(name)
            if name in self.fixed and value != 1:
                raise InputError(f"the program was recorded for {name} = 1 alone")
            if value == 1 and name not in (*self.fixed, *self.ones) and (name != "K" or "G" in values):
                raise InputError(f"{name} is 1, for which this program was not recorded")
        window = self.window_of(config)
        beyond = self.beyond_window
        if window is not None and beyond is not None and "S" in values and (tokens >= window) != beyond:
            reach = "shorter than" if self.beyond_window else "as long as"
            raise InputError(f"a sequence of {tokens} is {reach} the window of {window}, which is another program")
        if self.holds_cache and not values.get("past") and tokens > 1:
            for key in CONVOLUTIONS:  # whose states are filled up
                if isinstance(width := config.get(key), int) and tokens < width:
                    raise InputError(f"{tokens} tokens are fewer than {key}, for which this program was not recorded")
        if self.chunk is not None and (seq := values.get("S")) is not None:
            size = whole_number(evaluate(self.chunk, config), self.chunk)
            if (seq % size == 0) != self.whole_chunks:
                kind = "whole chunks" if self.whole_chunks else "a padded chunk"
                raise InputError(f"the program is for sequences of {kind} of {size}, and {seq} is not one")

    def signatures(self, config: Mapping[str, Any], layers: str = "") -> list[Signature]:
        """What the config says of each layer of a stack, by default of the first."""
        layers = layers or self.layers
        n = self.depth(config, layers)
        lists = {}
        own = {key: rule for key, rule in self.lists.items() if key.rpartition(".")[0] == layers.rpartition(".")[0]}
        for key, default in own.items():
            given = config.get(key)
            if given is None:
                given = default_list(default, config, n, key)
            typed = name_of(key) == "layer_types"
            if default and "runs" in default and isinstance(given, (list, tuple)) and len(given) != n:
                raise BadValue(
                    f"`len(config.{key})` is {len(given)} and `config.{layers}` {n}; transformers requires equal "
                    f"ones, so give {default['runs']} for {n} layers"
                )
            if (
                not isinstance(given, (list, tuple))
                or len(given) < n
                or (typed and not (len(given) == n and all(isinstance(x, str) for x in given)))
            ):
                raise BadValue(f"{key} must list one {'type' if typed else 'entry'} for each of the {n} layers")
            lists[key] = [NAMES_BEFORE.get(x, x) if isinstance(x, str) else x for x in given]
        others = {key for key in DENSE_FIRST if key not in self.defaults}  # a class that does not know them
        return signatures({key: value for key, value in config.items() if key not in others}, lists, n)
