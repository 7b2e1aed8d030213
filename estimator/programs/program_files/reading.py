"""Reads a program from parsed JSON, and refuses anything that is none in one line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import InputError, shown
from ...ledger import ITEMSIZE
from ...ledger.sizes import Poly, Size, is_registered, registered
from ..config_values import DEPTH_KEYS, INDEX_KEYS
from ..depth import LOOKS_AT, Kinds
from ..expressions import LARGEST, names, polynomial
from ..family import ONES, Family
from ..module_table import KINDS, NamedModule
from ..program import (
    CACHED,
    INTERFACES,
    SPAN,
    Autocast,
    Backward,
    Body,
    Call,
    Drop,
    DtypeOf,
    Enter,
    Event,
    Exit,
    Function,
    GradMode,
    Made,
    Program,
    Rate,
    Ref,
    Repeat,
    Stack,
    Stored,
    Weight,
    layer_numbers,
)
from ..repeats import with_passes
from ..rows import LISTS, MEMBERS, OF_A_KIND, Rows, listed
from ..setting import ALONE, VALUES, Settings
from ..step import CACHED_SIZES, OF_STEPS
from ..substitution import DTYPE, LAYER, PASS, sizes_symbol
from ..switches import Switch
from .copies import PARTS_WITH_LISTS, STORED
from .flow import Checker, Flow
from .limits import (
    FORMAT,
    LONGEST_NAME,
    MOST_DIMENSIONS,
    MOST_EVENTS,
    MOST_LAYERS,
    MOST_NESTED,
    MOST_READS,
    MOST_ROWS,
    MOST_SETTINGS,
    MOST_STACKS,
    MOST_SYMBOLS,
)
from .slots import Slots, slot_number, slot_text


class OtherFormat(InputError):
    """A file that another version of the estimator wrote."""


_EMPTY = Program((), (), (), (), {}, {}, (), (), (), ())


class Reader(Checker):
    """Reads one program. ``known``: the calls that have rules."""

    def __init__(self, where: str, known: Collection[str]) -> None:
        super().__init__(where)
        self.known = known
        self.symbols: set[str] = {*OF_STEPS, PASS}
        self.generates = False
        """The program is a pass of ``generate``, which starts with a cache."""
        self.of_trainer = False
        """It is a trainer's step, which has a backward pass and loops over rows."""
        self.taken: set[tuple[str, int]] = set()
        """The part of the program and the slot of each tensor that is taken from the cache."""
        self.rates: set[str] = set()
        self.count = 0
        self.sizes: dict[str, Size] = {}
        self.slots: Slots | None = None
        """The names of slots in the list of events that is read."""

    # -- simple values -------------------------------------------------------------------------------------------

    def list_(self, value: Any, what: str, most: int = MOST_ROWS) -> list[Any]:
        if not isinstance(value, list):
            self.wrong(f"{what} is {shown(value)}; it must be a list")
        if len(value) > most:
            self.wrong(f"{what} has {len(value):,} entries; {most:,} are the most")
        return value

    def object_(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.wrong(f"{what} is {shown(value)}; it must be an object")
        if len(value) > MOST_ROWS or any(len(key) > LONGEST_NAME for key in value):
            self.wrong(f"{what} has too many or too long keys")
        return value

    def text(self, value: Any, what: str) -> str:
        if not isinstance(value, str) or len(value) > LONGEST_NAME:
            self.wrong(f"{what} is {shown(value)}; it must be a short text")
        return value

    def flag(self, value: Any, what: str) -> bool:
        if value not in (True, False) or isinstance(value, float):
            self.wrong(f"{what} is {shown(value)}; it must be true or false")
        return bool(value)

    def integer(self, value: Any, what: str, least: int, most: int) -> int:
        if type(value) is not int or not least <= value <= most:
            self.wrong(f"{what} is {shown(value)}; it must be an integer from {least:,} to {most:,}")
        return value

    def scalar(self, value: Any, what: str, depth: int = 0) -> Any:
        """A value of a config."""
        if isinstance(value, list) and depth < 3:
            return [self.scalar(x, what, depth + 1) for x in self.list_(value, what, 256)]
        if isinstance(value, str):
            return self.text(value, what)
        if value is None or isinstance(value, bool) or (isinstance(value, (int, float)) and abs(value) <= LARGEST):
            return value
        return self.wrong(f"{what} is {shown(value)}, which no config has")

    def slot(self, value: Any) -> int:
        """The slot of a tensor."""
        return self.known_slot(value, self.slots.number(value) if self.slots else slot_number(value))

    def known_slot(self, value: Any, number: int | None) -> int:
        if number is None:
            self.wrong(f"{shown(value)} is no slot")
        if not self.of_trainer and LISTS + OF_A_KIND <= number < MEMBERS:
            self.wrong(f"{shown(value)} is of a list that only a trainer's step has")
        return number

    def expression(self, text: str) -> Size:
        if text not in self.sizes:
            try:
                self.sizes[text] = polynomial(text, self.symbols)
            except InputError as error:
                self.wrong(str(error))
        return self.sizes[text]

    def shape(self, value: Any) -> tuple[Size, ...]:
        made: list[Size] = []
        for n in self.list_(value, "a shape", MOST_DIMENSIONS):
            if isinstance(n, str) and n.startswith("="):
                made.append(self.expression(n[1:]))
            else:
                made.append(self.integer(n, "a size", 0, LARGEST))
        return tuple(made)

    def dtype(self, value: Any) -> str:
        if not isinstance(value, str) or (value not in ITEMSIZE and value != DTYPE):
            self.wrong(f"{shown(value)} is no dtype")
        return value

    def value(self, value: Any, depth: int = 0) -> Any:
        """An argument of a call."""
        if isinstance(value, str):
            kind, rest = value[:1], value[1:]
            if kind == "%":
                return Ref(self.slot(rest))
            if kind == "@":
                return Weight(self.text(rest, "a weight"))
            if kind == "=":
                return self.expression(rest)
            if kind == "'":
                return self.text(rest, "an argument")
            if kind == DTYPE:
                return DtypeOf(self.slot(rest), DTYPE)
            if kind == "?":
                if rest not in self.rates:
                    self.wrong(f"{shown(rest)} is none of the rates")
                return Rate(rest)
        elif isinstance(value, list):
            if depth >= MOST_NESTED:
                self.wrong("an argument is nested too deeply")
            return tuple([self.value(x, depth + 1) for x in self.list_(value, "an argument", 4096)])
        elif (
            value is None
            or isinstance(value, bool)
            or (type(value) is float and value in (0.0, 1.0))
            or (type(value) is int and abs(value) <= LARGEST)
        ):
            return value
        return self.wrong(f"{shown(value)} is no argument of a call")

    def tensors(self, value: Any, what: str) -> tuple[Ref | Weight, ...]:
        found = self.value(self.list_(value, what))
        if any(not isinstance(x, (Ref, Weight)) for x in found):
            self.wrong(f"{what} has something that is no tensor")
        return tuple(found)

    # -- events --------------------------------------------------------------------------------------------------

    def events(self, value: Any, where: str, layer: bool = False) -> tuple[Event, ...]:
        """A list of events, a layer's or another."""
        self.slots = Slots(layer)
        found = self.inner_events(value, where, 0)
        self.slots = None
        return found

    def inner_events(self, value: Any, where: str, inner: int) -> tuple[Event, ...]:
        """The same of a list within ``inner`` others, whose names of slots go on."""
        made: list[Event] = []
        for i, row in enumerate(self.list_(value, where, MOST_EVENTS)):
            self.place = f"{where}[{i}]"
            row = self.list_(row, "an event", 256)
            if not row or not isinstance(row[0], str):
                self.wrong("an event begins with its name")
            if row[0] == "-":
                made += [Drop(self.slot(x)) for x in row[1:]]
            else:
                made.append(self.event(row, where, i, inner))
            self.count += max(len(row) - 1, 1) if row[0] == "-" else 1
            if self.count > MOST_EVENTS:
                self.wrong(f"the program has more than {MOST_EVENTS:,} events")
        return tuple(made)

    def event(self, row: list[Any], where: str, i: int, inner: int) -> Event:
        op = row[0]
        if op == ">" and len(row) in (3, 4):
            path, args = self.text(row[1], "a path"), self.tensors(row[2], "arguments")
            keywords = self.tensors(row[3], "keywords") if len(row) == 4 else ()
            if path == "{}" and self.slots:
                self.slots.given(x.slot for x in (*args, *keywords) if isinstance(x, Ref))
            return Enter(path, args, keywords)
        if op == "<" and len(row) == 3:
            return Exit(self.text(row[1], "a path"), self.tensors(row[2], "results"))
        if op == "!grad" and len(row) == 2:
            return GradMode(self.flag(row[1], op))
        if op == "!autocast" and len(row) in (2, 3):
            return Autocast(*[self.flag(x, op) for x in row[1:]])
        if op == "!function" and len(row) == 12:
            return self.function(row, f"{where}[{i}]", inner)
        if op == "!repeat" and len(row) == 5 and not inner:
            sizes_symbol(PASS)
            count, stride = self.value(row[1]), self.integer(row[3], "a stride", 1, SPAN)
            if type(count) is not int and not isinstance(count, Poly):
                self.wrong(f"{shown(row[1])} is no number of passes")
            first = self.known_slot(row[2], self.slots.number_of_next(row[2]) if self.slots else None)
            return Repeat(count, first, stride, self.inner_events(row[4], f"{where}[{i}].events", 1))
        if op == "!rows" and len(row) == 3 and not inner:
            (rows,) = self.shape(row[1:2])
            loop = Rows(rows, self.inner_events(row[2], f"{where}[{i}].events", 1))
            if not self.of_trainer and loop.kind != 0:
                self.wrong("a loop over images has no list of theirs")
            return loop  # type: ignore[return-value]
        if op == "!backward" and self.of_trainer and len(row) == 2:
            (loss,) = self.tensors(row[1:], "a loss")
            return Backward(loss, ())  # type: ignore[arg-type]
        named = len(row) > 2 and isinstance(row[2], dict)
        if op == CACHED and self.generates and len(row) == 3 + named and not inner:
            return self.cached(row, where)
        if op not in self.known and op not in INTERFACES:
            self.wrong(f"{shown(op)} is no call that this version has a rule for")
        if len(row) < 2:
            self.wrong(f"{op} has no arguments")
        keywords_ = self.object_(row[2], "keywords") if named else {}  # left out where there are none
        args = self.value(self.list_(row[1], "arguments"))
        given = tuple([(name, self.value(x)) for name, x in keywords_.items()])
        return Call(op, args, given, tuple([self.made(made) for made in row[2 + named :]]))

    def cached(self, row: list[Any], where: str) -> Call:
        args, made = self.list_(row[1], "arguments", 2), self.made(row[-1])
        if len(args) != 2 or not (len(row) == 3 or row[2] == {}):
            self.wrong("a cache's tensor has the elements of its storage and its strides")
        (elements,), strides = self.shape(args[:1]), self.shape(args[1])
        if len(strides) != len(made.shape):
            self.wrong("a cache's tensor has a stride for each of its sizes")
        if (where, made.slot) in self.taken:
            self.wrong(f"slot {slot_text(made.slot)} is taken from the cache twice")
        self.taken.add((where, made.slot))
        return Call(CACHED, (elements, strides), (), (made,))

    def made(self, value: Any) -> Made:
        row = self.list_(value, "a result", MOST_DIMENSIONS + 2)
        if len(row) < 2:
            self.wrong("a result has a slot, a dtype and its sizes")
        return Made(self.made_slot(row[0]), self.shape(row[2:]), self.dtype(row[1]))

    def made_slot(self, value: Any) -> int:
        """The slot of a result."""
        return self.known_slot(value, self.slots.number_of_made(value) if self.slots else None)

    def function(self, row: list[Any], where: str, inner: int) -> Function:
        if inner >= 4:
            self.wrong("custom functions are nested too deeply")
        _, name, inputs, forward, out, result, saved, attached, unpacked, grad, backward, results = row
        title, given = self.text(name, "a name"), self.value(self.list_(inputs, "a custom function"))
        called = self.inner_events(forward, f"{where}.forward", inner + 1)
        returned = self.tensors([result], "a result")[0]
        kept, more = (self.value(self.list_(x, "a custom function")) for x in (saved, attached))
        slots = tuple([-1 if x is None else self.made_slot(x) for x in self.list_(unpacked, "unpacked")])
        incoming = -1 if grad is None else self.made_slot(grad)
        gradients = self.inner_events(backward, f"{where}.backward", inner + 1)
        given_back, made = self.value(self.list_(results, "a custom function")), self.made(out)
        self.place = where
        if any(x is not None and not isinstance(x, (Ref, Weight)) for x in (*kept, *more, *given_back)):
            self.wrong("a custom function keeps or gives back something that is no tensor")
        if len(slots) not in (0, len(kept)):
            self.wrong("a custom function unpacks other tensors than it saves")
        return Function(title, given, called, made, returned, kept, more, slots, incoming, gradients, given_back)

    # -- the whole -----------------------------------------------------------------------------------------------

    def family(self, data: Any) -> Family:
        head = self.head(data)
        program = self.program(data)
        recorded = [1 + max(one.table.values(), default=-1) for one in (head.kinds, *[one for _, one in head.beside])]
        depths = [stack.depth for stack in program.stacks]
        if recorded != depths if head.beside else recorded[0] > len(program.layers):
            self.place = "kinds"
            self.wrong("a kind is of a layer that is not there")
        self.check_switches(head.switches, program)
        return replace(head, program=program)

    def check_switches(self, switches: Mapping[str, Switch], program: Program) -> None:
        """What switches take away must be there, and what they tie it to must stay, whatever the others say."""
        self.place = "switches"
        of_layer = layer_numbers([one.name for one in program.parameters], program.paths)
        patterns: dict[str, Stored] = {}
        for one in program.parameters:
            layer = of_layer.get(one.name)
            patterns["{}" + one.name[len(program.paths[layer]) :] if layer is not None else one.name] = one
        gone = {name for switch in switches.values() for name in switch.fewer}
        for key, switch in switches.items():
            for name in switch.fewer:
                if name not in patterns:
                    self.wrong(f"{key} takes {shown(name)} away, which is no parameter")
                target = switch.tied.get(name)
                if target is None and not name.endswith("bias"):
                    self.wrong(f"{key} takes {shown(name)} away, which is no bias, and ties it to nothing")
                if target is None:
                    continue
                other = patterns.get(target)
                if other is None or target in gone or "{}" in name:
                    self.wrong(f"{key} ties {shown(name)} to a parameter that is not there")
                if other[1:3] != patterns[name][1:3]:
                    self.wrong(f"{key} ties {shown(name)} to a parameter of another shape or dtype")
            if not {*switch.tied} <= {*switch.fewer}:
                self.wrong(f"{key} ties a parameter that it does not take away")

    def format(self, data: Mapping[str, Any]) -> None:
        given = data.get("format")
        if type(given) is not int or given != FORMAT:
            reason = f"its format is {shown(given)}, and this version reads {FORMAT}; remove it and record it again"
            raise OtherFormat(f"'{self.where}', {self.place}: {reason}")

    def checked(self, data: Any) -> dict[str, Any]:
        plain = data = self.object_(data, "the file")
        self.format(data)
        wanted = (
            "format", "model_type", "recorded", "settings", "interfaces", "symbols", "structure", "switches", "rates",
            "defaults", "nulls", "lists", "aliases", "window", "ones", "harmless", "depth", "kinds", "dtype", "path",
            "layers", "inputs", "outputs", "tied", "chunk", "tp_plan", "returns_cache", "checkpoints", "beside",
            *PARTS_WITH_LISTS,
        )  # fmt: skip
        if missing := [key for key in wanted if key not in data]:
            self.wrong(f"it has no {missing[0]}")
        if unknown := [key for key in data if key not in wanted]:
            self.wrong(f"{shown(unknown[0])} is no part of a program")
        return plain

    def head(self, data: Any) -> Family:
        """The family without its program."""
        data = self.checked(data)
        self.place = "recorded"
        given = self.object_(data["recorded"], "recorded")
        recorded = {key: self.scalar(x, key) for key, x in given.items() if key not in ("fills", "sets")}
        for key in ("transformers", "default_attention"):
            self.text(recorded.get(key), key)
        if "reads" in recorded:
            recorded["reads"] = [self.text(x, "reads") for x in self.list_(recorded["reads"], "reads", MOST_READS)]
        if "fills" in given:
            rows = self.mapping(given, "fills", lambda value, what: self.list_(value, what, MOST_READS))
            recorded["fills"] = {key: [self.text(x, key) for x in others] for key, others in rows.items()}
        if "sets" in given:
            recorded["sets"] = self.mapping(given, "sets", self.defined)
        interfaces = self.flag(data["interfaces"], "interfaces")
        self.place = "dtype"
        program = replace(_EMPTY, dtype=self.dtype(data["dtype"]))
        symbols = self.definitions(data["symbols"])
        self.place = "the file"
        harmless = tuple([self.text(x, "harmless") for x in self.list_(data["harmless"], "harmless", 1024)])
        rates = tuple([self.text(x, "rates") for x in self.list_(data["rates"], "rates", 64)])
        self.rates.update(rates)
        switches = self.mapping(data, "switches", self.switch)
        self.place = "the file"
        sizes = {name for text in symbols.values() for name in names(text)}
        if twice := sorted(({*switches} & {*rates, *sizes}) | ({*rates} & sizes)):
            self.wrong(f"{twice[0]} is two of a size, a switch and a rate")
        family = Family(
            model_type=self.text(data["model_type"], "model_type"),
            program=program,
            kinds=self.kinds(data["kinds"], MOST_LAYERS),
            symbols=symbols,
            harmless=harmless,
            structure=self.mapping(data, "structure", self.scalar),
            switches=switches,
            rates=rates,
            nulls=self.mapping(data, "nulls", self.defined),
            defaults=self.mapping(data, "defaults", self.default),
            lists=self.mapping(data, "lists", self.rule),
            layers=self.text(data["depth"], "depth"),
            beside=tuple([(self.text(row[1], "depth"), self.kinds(row[2], MOST_LAYERS)) for row in self.beside(data)]),
            **self.regime(data),
            aliases=self.mapping(data, "aliases", self.text),
            tp_plan=self.mapping(data, "tp_plan", self.text),
            settings=self.served(data),
            interfaces=interfaces,
            recorded=recorded,
        )
        self.generates = family.holds_cache
        if self.generates and any(one["past"] != (None,) for one in family.settings):
            for name in CACHED_SIZES:
                sizes_symbol(name)
                self.symbols.add(name)
        return family

    def served(self, data: Mapping[str, Any]) -> tuple[Settings, ...]:
        self.place = "settings"
        return tuple([self.settings(one) for one in self.list_(data["settings"], "settings", MOST_SETTINGS)])

    def settings(self, value: Any) -> Settings:
        found = dict(ALONE)
        for name, values in self.object_(value, "settings").items():
            if name not in VALUES:
                self.wrong(f"{shown(name)} is nothing that a setting has")
            found[name] = tuple(self.list_(values, name, len(VALUES[name])))
            if not values:
                self.wrong(f"{name} has no value")
            for x in found[name]:
                if not (x is None or isinstance(x, (bool, str))) or x not in VALUES[name]:
                    self.wrong(f"{name} is {shown(x)}; it must be one of {', '.join(map(shown, VALUES[name]))}")
        return found

    def regime(self, data: Mapping[str, Any]) -> dict[str, Any]:
        self.place = "window"
        window = self.list_(data["window"], "window", 2)
        if len(window) != 2:
            self.wrong("the window has a key and a switch")
        if (key := window[0]) is not None:
            self.definition(key, "window")
        self.place = "chunk"
        chunk = self.list_(data["chunk"], "chunk", 2)
        if len(chunk) != 2:
            self.wrong("a chunk has a size and a switch")
        if chunk[0] is not None:
            self.definition(chunk[0], "chunk")
        self.place = "ones"
        if len(self.list_(data["ones"], "ones", 2)) != 2:
            self.wrong("there are two lists of symbols that are 1")
        fixed, ones = (
            tuple([self.text(x, "ones") for x in self.list_(part, "ones", len(ONES))]) for part in data["ones"]
        )
        if not {*fixed, *ones} <= set(ONES):
            self.wrong(f"{shown([fixed, ones])} has a symbol that is none of {', '.join(ONES)}")
        return {
            "window": key,
            "beyond_window": None if window[1] is None else self.flag(window[1], "window"),
            "chunk": chunk[0],
            "whole_chunks": self.flag(chunk[1], "chunk"),
            "fixed": fixed,
            "ones": ones,
        }

    def mapping(self, data: Mapping[str, Any], key: str, check: Callable[[Any, str], Any]) -> dict[str, Any]:
        self.place = key
        return {name: check(value, name) for name, value in self.object_(data[key], key).items()}

    def definitions(self, value: Any) -> dict[str, str]:
        self.place = "symbols"
        given = self.object_(value, "symbols")
        if len(given) > MOST_SYMBOLS:
            self.wrong(f"there are {len(given)} symbols; {MOST_SYMBOLS} are the most")
        for name, text in given.items():
            if not (name.isascii() and name.isidentifier() and len(name) <= 40) or name in (
                *OF_STEPS,
                "int",
                "min",
                PASS,
                LAYER,
                *CACHED_SIZES,
            ):
                self.wrong(f"{shown(name)} is no name of a symbol")
            if is_registered(name) and registered(name).function is not None:
                self.wrong(f"{name} is a size that the rules derive")
            self.definition(text, name)
        for name in given:
            sizes_symbol(name)
            self.symbols.add(name)
        return dict(given)

    def switch(self, value: Any, what: str) -> Switch:
        row = self.list_(value, what, 3)
        if len(row) != 3:
            self.wrong(f"{what} has a value, the parameters that others lack, and those that are tied then")
        fewer = tuple([self.text(x, what) for x in self.list_(row[1], what, 1024)])
        if not fewer:
            self.wrong(f"{what} decides about no parameter")
        tied = {self.text(name, what): self.text(other, what) for name, other in self.object_(row[2], what).items()}
        return Switch(self.flag(row[0], what), fewer, tied)

    def defined(self, value: Any, what: str) -> str:
        self.definition(value, what)
        return str(value)

    def checkpoints(self, value: Any, modules: Sequence[NamedModule[Any]]) -> list[str]:
        self.place = "checkpoints"
        known = {module.path for module in modules}
        found = [self.text(path, "a module") for path in self.list_(value, "checkpoints", len(known))]
        if unknown := [path for path in found if path not in known]:
            self.wrong(f"{shown(unknown[0])} is no module of it")
        return found

    def definition(self, text: Any, what: str) -> None:
        try:
            names(self.text(text, what))
        except InputError as error:
            self.wrong(str(error))

    def default(self, value: Any, what: str) -> Any:
        if isinstance(value, str) and value.startswith("="):
            self.definition(value[1:], what)
        return self.scalar(value, what)

    def rule(self, value: Any, what: str) -> Any:
        if value is None:
            return None
        rule = self.object_(value, what)

        def entry(value: Any) -> Any:
            """What a layer has: a value, or a list of values."""
            return self.scalar(value, what, 2)

        if {"period"} <= set(rule) <= {"first", "period", "every"}:
            if not self.list_(rule["period"], what, 256):
                self.wrong(f"{what} repeats an empty list")
            every = {"every": self.text(rule["every"], what)} if "every" in rule else {}
            rows = {
                key: [entry(x) for x in self.list_(rule[key], what, 256)] for key in ("first", "period") if key in rule
            }
            return {**rows, **every}
        if set(rule) == {"runs"}:
            return {"runs": self.text(rule["runs"], what)}
        if set(rule) == {"text", "letters"}:
            letters = self.object_(rule["letters"], what)
            return {
                "text": self.text(rule["text"], what),
                "letters": {letter: entry(x) for letter, x in letters.items()},
            }
        if set(rule) == {"numbers", "listed", "others"} and rule["numbers"] in INDEX_KEYS:
            return {
                "numbers": rule["numbers"],
                **{key: entry(rule[key]) for key in ("listed", "others")},
            }
        if set(rule) == {"from", "below", "above"} and rule["from"] in DEPTH_KEYS:
            return {"from": rule["from"], **{key: entry(rule[key]) for key in ("below", "above")}}
        return self.wrong(f"{what} is no rule for a list of layers")

    def kinds(self, value: Any, layers: int) -> Kinds:
        self.place = "kinds"
        looks_at, rows = self.list_(value, "kinds", 2) if isinstance(value, list) and len(value) == 2 else (None, None)
        if looks_at not in LOOKS_AT:
            self.wrong(f"{shown(looks_at)} is nothing that a kind may depend on")
        table = {}
        for row in self.list_(rows, "kinds", 4096):
            if not isinstance(row, list) or len(row) != 2:
                self.wrong("a kind has a key and a number")
            key = self.list_(row[0], "a kind", 4)
            table[self.signature(key, 0)] = self.integer(row[1], "a kind", 0, layers - 1)
        return Kinds(looks_at, table)

    def signature(self, value: Any, depth: int) -> Any:
        if isinstance(value, list) and depth < 4:
            return tuple([self.signature(x, depth + 1) for x in self.list_(value, "a kind", 256)])
        return self.scalar(value, "a kind", 2)

    def of_layers(self, value: Any, name: str, layers: Sequence[str]) -> Iterator[list[Any]]:
        """Rows with whole names, of a list in which those of a layer are behind its number."""
        path = None
        for i, row in enumerate(self.list_(value, name)):
            self.place = f"{name}[{i}]"
            if type(row) is int:
                path = layers[self.integer(row, "a layer", 0, len(layers) - 1)]
                continue
            row = self.list_(row, "a row", 8)
            if row and isinstance(row[0], str) and row[0].startswith("{}"):
                if path is None:
                    self.wrong(f"{shown(row[0])} is of a layer, whose number is not given")
                row = [path + row[0][2:], *row[1:]]
            yield row

    def stored(self, value: Any, name: str, layers: Sequence[str]) -> tuple[Stored, ...]:
        rows = []
        for row in self.of_layers(value, name, layers):
            if len(self.list_(row, "a tensor", 7)) not in (3, 6, 7):
                self.wrong("a tensor has a name, a dtype and a shape")
            flags = [self.flag(x, "a switch") for x in row[3:6]]
            one = Stored(self.text(row[0], "a name"), self.shape(row[2]), self.dtype(row[1]), *flags)
            rows.append(one._replace(storage=self.shape(row[6:])[0]) if len(row) == 7 else one)
        return tuple(rows)

    def beside(self, data: Mapping[str, Any]) -> list[list[Any]]:
        """The stacks after the first."""
        self.place = "beside"
        rows = self.list_(data["beside"], "beside", MOST_STACKS)
        for row in rows:
            if len(self.list_(row, "a stack", 4)) != 4:
                self.wrong("a stack has a path, the key of its depth, its kinds and its layers")
        return rows

    def stack(self, path: Any, layers: Any, bodies: int) -> tuple[Stack, list[int]]:
        """A stack, and the bodies of its layers."""
        self.place = "layers"
        found = [self.integer(n, "a layer", 0, bodies - 1) for n in self.list_(layers, "layers", MOST_LAYERS)]
        self.place = "path"
        path = self.text(path, "path")
        if found and (path.count("{}") != 1 or path.count("{") != 1 or path.count("}") != 1):
            self.wrong(f"{shown(path)} is no path of layers")
        return Stack(path, len(found)), found

    def program(self, data: Mapping[str, Any]) -> Program:
        bodies_ = self.list_(data["bodies"], "bodies", MOST_LAYERS)
        given = [(data["path"], data["layers"]), *[(row[0], row[3]) for row in self.beside(data)]]
        stacks = [self.stack(path, layers, len(bodies_)) for path, layers in given]
        layers = replace(_EMPTY, stacks=tuple([stack for stack, _ in stacks if stack.depth])).paths
        modules: list[NamedModule[Any]] = []
        plain = set()
        for row in self.of_layers(data["modules"], "modules", layers):
            if len(self.list_(row, "a module", 6)) != 6:
                self.wrong("a module has a path, a kind, a shape, a bias, a role and a switch")
            path, kind, shape, bias, role, is_plain = row
            if kind not in KINDS or role not in (None, "input embedding", "output embedding"):
                self.wrong(f"{shown(kind)} with the role {shown(role)} is no module")
            made = NamedModule[Any](
                self.text(path, "a path"), kind, self.shape(shape), self.flag(bias, "bias"), role, None
            )
            dims = {"linear": (0, 2), "embedding": (0, 2), "norm": (0, 1, 2)}.get(kind, (0,))
            if len(made.shape) not in dims:
                self.wrong(f"a module of kind {kind} has a shape of {len(made.shape)} sizes")
            modules.append(made)
            if self.flag(is_plain, "plain"):
                plain.add(made.path)
        self.paths = {module.path for module in modules}
        if len(self.paths) < len(modules) or "" in self.paths:
            self.wrong("a module's path is empty or given twice")
        stored = {name: self.stored(data[name], name, layers) for name in STORED}
        tied = self.mapping(data, "tied", self.text)
        stored_names = [one.name for rows in stored.values() for one in rows]
        self.weights = {*stored_names, *tied}
        if len(self.weights) < len(stored_names) + len(tied):
            self.wrong("a tensor's name is given twice")
        for made in modules:
            if made.kind in ("linear", "norm") and made.bias != (f"{made.path}.bias" in self.weights):
                self.wrong(f"{made.path} is said to have {'a' if made.bias else 'no'} bias, unlike its parameters")
        if any(target not in set(stored_names) for target in tied.values()):
            self.wrong("a tied parameter has no other one")
        for name in ("parameters", "buffers"):
            for one in stored[name]:
                if (parent := one.name.rpartition(".")[0]) and parent not in self.paths:
                    self.wrong(f"{one.name} belongs to no module")
        before, after = (self.events(data[name], name) for name in ("before", "after"))
        bodies = []
        sizes_symbol(LAYER)
        self.symbols.add(LAYER)
        for i, row in enumerate(bodies_):
            self.place = f"bodies[{i}]"
            if len(self.list_(row, "a body", 2)) != 2:
                self.wrong("a layer has the index of its exit, and its events")
            events = self.events(row[1], f"bodies[{i}]", layer=True)
            self.place = f"bodies[{i}]"
            exit_ = self.integer(row[0], "exit", 1, max(len(events) - 1, 1))
            if not any(isinstance(event, Exit) and event.path == "{}" for event in events[exit_ : exit_ + 1]):
                self.wrong("a layer's exit is no Exit of it")
            bodies.append(Body(events, exit_))
        rows = self.list_(data["between"], "between", MOST_STACKS)
        between = [self.events(row, f"between[{i}]") for i, row in enumerate(rows)]
        if len(between) != len(stacks) - 1:
            self.place = "between"
            self.wrong("before each stack but the first there is a list of what is called")
        program = Program(
            modules=tuple(modules),
            parameters=stored["parameters"],
            buffers=stored["buffers"],
            attributes=stored["attributes"],
            inputs=self.mapping(data, "inputs", lambda slot, _: self.slot(slot)),
            outputs=self.mapping(data, "outputs", lambda ref, name: self.tensors([ref], name)[0]),
            before=before,
            bodies=tuple(bodies),
            layers=tuple([number for _, layers in stacks for number in layers]),
            after=after,
            stacks=tuple([stack for stack, _ in stacks if stack.depth]),
            between=tuple(between),
            dtype=self.dtype(data["dtype"]),
            plain=frozenset(plain),
            tied=tied,
            checkpoints=frozenset(self.checkpoints(data["checkpoints"], modules)),
            returns_cache=self.flag(data["returns_cache"], "returns_cache"),
        )
        Flow(self, with_passes(program if self.of_trainer else listed(program, 2), 2)).check()
        return program
