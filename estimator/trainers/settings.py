"""The keys of one training file: each is read, assumed in place of a missing one, or named as ignored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..bases.formats import FORMATS
from ..engines.assumptions import Assumption
from ..errors import InputError, has_keys, shown
from ..io.fields import torch_dtype

T = TypeVar("T")


@dataclass(frozen=True)
class Ignored:
    """A key of a training file that no key of the plan follows from. Its value, perhaps a token, is not kept."""

    key: str
    why: str
    unknown: bool = False
    """It changes memory by an amount without a rule, so the verdict is "not sure"."""


@dataclass
class Alone:
    """What a file means for one process, and not for several."""

    plan: dict[str, Any] = field(default_factory=dict)
    assumptions: list[Assumption] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass
class Reading:
    """What a training file says, in the plan's words."""

    tool: str
    """The tool's name and the release whose keys and defaults are meant."""
    format: str = ""
    """The name of the file's format; empty where it was put together from several files or a shell line."""
    path: Path | None = None
    """The file that says it."""
    plan: dict[str, Any] = field(default_factory=dict)
    """Keys of a plan; the file's own and those that the tool's scripts set whatever the file says."""
    said_by: dict[str, str] = field(default_factory=dict)
    """The file's key that a key of the plan, or of a block, was read from."""
    assumptions: list[Assumption] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    lists_layers: bool = False
    """In the place of all-linear the tool gives PEFT a list: the last names of all linear layers."""
    problems: dict[str, str] = field(default_factory=dict)
    """By a key: why a value of the file has no rule. Where the key is the plan's, one given beside the file takes the
    file's place.
    """
    without_bfloat16: dict[str, Any] = field(default_factory=dict)
    """Keys of the plan that have these values on a GPU without bfloat16, of compute capability below 8.0."""
    shared: dict[str, Any] = field(default_factory=dict)
    """The block ``sharding`` of several processes, as far as it is said (``sharing.py: settled``)."""
    shared_run: dict[str, Any] = field(default_factory=dict)
    """Keys of the block ``run`` that go with it."""
    spreads: bool = False
    """The file spreads the model over processes whose number it need not say."""
    hosts: int = 1
    alone: Alone = field(default_factory=Alone)

    def say(self, key: str, value: Any, said_by: str) -> None:
        """Set a key of the plan that the file says with its own key ``said_by``."""
        self.plan[key], self.said_by[key] = value, said_by

    def assume(self, key: str, value: Any, why: str) -> None:
        """Set a key of the plan that the file does not say, unless it is set already."""
        if key not in self.plan:
            self.plan[key] = value
            self.assumptions.append(Assumption(key, value, why))

    def note(self, key: str, value: Any, why: str) -> None:
        """Record an assumption about a key of the file that sets no key of the plan. A block is quoted by its keys."""
        self.assumptions.append(Assumption(key, shown(value) if has_keys(value) else value, why))

    def add(self, other: Reading) -> None:
        """Take over what a file says that this one names, such as its DeepSpeed settings.

        A dtype of the other casts what is not quantised here.
        """
        other.plan = dict(other.plan)
        if self.plan.get("dtype") in FORMATS and other.plan.get("dtype") not in (None, *FORMATS):
            other.plan["rest_dtype"] = other.plan.pop("dtype")
        self.plan |= other.plan
        self.said_by |= other.said_by
        self.assumptions += other.assumptions
        self.ignored += other.ignored
        self.problems |= other.problems
        self.shared = {**other.shared, **self.shared}
        self.shared_run = {**other.shared_run, **self.shared_run}
        self.spreads |= other.spreads
        self.hosts = max(self.hosts, other.hosts)
        self.alone.plan |= other.alone.plan
        self.alone.assumptions += other.alone.assumptions
        self.alone.problems |= other.alone.problems


_VARIABLE = re.compile(r"\$\{|\{\{|\{%|\$[A-Za-z_]")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_ABSENT = ("", "none", "null", "auto")


MOST_KEYS = 2_000
"""The most keys of a file or a block. The tools' own classes have some hundred."""


class Settings:
    """The keys of a file, or of a block in it. A key that is asked for counts as read.

    A value that a tool reads as absent (``None``, an empty text, none, null, auto) is returned as ``None``. All
    methods raise ``InputError`` for a value of another type, and for a variable or a template, which are not expanded.
    """

    def __init__(self, keys: Mapping[str, Any], reading: Reading, where: str, prefix: str = "") -> None:
        if len(keys) > MOST_KEYS:
            raise InputError(
                f"{where} has {len(keys):,} keys{f' in {prefix[:-1]}' if prefix else ''}; give {MOST_KEYS:,} at most"
            )
        self.reading, self.where, self.prefix = reading, where, prefix
        self._keys = {str(key): value for key, value in keys.items()}
        self._asked: dict[str, None] = {}
        self._renamed: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._keys.get(name) is not None

    def present(self) -> Iterable[str]:
        """The names of the file's keys, those without a value among them."""
        return self._keys

    def given(self, *names: str) -> str:
        """The first of several names of one key that the file has; else the first name."""
        return next((name for name in names if name in self), names[0])

    def raw(self, name: str) -> Any:
        """A key's value as the file has it; it does not count as read."""
        return self._keys.get(name)

    def value(self, *names: str) -> Any:
        """The value of a key by any of its names. Raises ``InputError`` where two of them differ."""
        self._asked |= dict.fromkeys(names)
        found = {name: self._plain(name) for name in names if name in self}
        values = list(found.values())
        if any(value != values[0] for value in values[1:]):
            both = " and ".join(f"{name}: {shown(value)}" for name, value in found.items())
            raise InputError(f"{self.where}: {both} are one key with two values; keep one of them")
        if found and names[0] not in found and names[0] not in self._renamed:
            self._renamed.add(names[0])
            self.reading.note(next(iter(found)), values[0], f"read as {names[0]}, its name in {self.reading.tool}")
        return values[0] if values else None

    def _plain(self, name: str) -> Any:
        value = self._keys[name]
        if isinstance(value, str) and _VARIABLE.search(value):
            raise InputError(
                f"{self.where}: {self.prefix}{name}: {shown(value)} is a variable or a template, which is not "
                "expanded; write its value, or give the key as an option"
            )
        return None if isinstance(value, str) and value.strip().lower() in _ABSENT else value

    def flag(self, *names: str, default: bool = False) -> bool:
        """A key that is true or false."""
        value = self.value(*names)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if isinstance(value, (str, int)) and str(value).lower() in _WORDS:
            return _WORDS[str(value).lower()]
        raise self._wrong(names, value, "true or false")

    def whole(self, *names: str) -> int | None:
        """A key that is a whole number."""
        value = self.number(*names)
        if value is None or value == int(value):
            return None if value is None else int(value)
        raise self._wrong(names, value, "a whole number")

    def number(self, *names: str) -> float | None:
        """A key that is a finite number; also as a text, since YAML reads 1e-4 as one."""
        value = self.value(*names)
        if value is None:
            return None
        try:
            if not isinstance(value, bool) and abs(found := float(value)) < 1e18:
                return found
        except (TypeError, ValueError, OverflowError):
            pass
        raise self._wrong(names, value, "a number")

    def text(self, *names: str) -> str | None:
        """A key that is a text."""
        value = self.value(*names)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(names, value, "a text")

    def dtype(self, *names: str) -> str | None:
        """A key that is one of PyTorch's floating dtypes, in any spelling."""
        value: str | None = torch_dtype(self.text(*names))
        if value is None or value in ("float32", "bfloat16", "float16"):
            return value
        raise self._wrong(names, value, "float32, bfloat16 or float16")

    def names(self, *names: str) -> list[str] | None:
        """A key that is a list of names; also as a text with commas or spaces between them."""
        value = self.value(*names)
        if value is None:
            return None
        items = value.replace(",", " ").split() if isinstance(value, str) else value
        if isinstance(items, list) and items and all(isinstance(item, str) for item in items):
            return [str(item) for item in items]
        if items == []:
            return None
        raise self._wrong(names, value, "a list of names")

    def block(self, *names: str) -> Mapping[str, Any]:
        """A key that is a mapping; empty where it is absent. A text may hold one in JSON or YAML, as options do."""
        value = self.value(*names)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = _mapping(value)
        if value is None or isinstance(value, Mapping):
            return value or {}
        raise self._wrong(names, value, "a mapping")

    def inner(self, name: str) -> Settings:
        """The keys of a block."""
        return Settings(self.block(name), self.reading, self.where, f"{self.prefix}{name}.")

    def whole_of(self, key: str, *names: str) -> None:
        """Set a key of the plan from a whole number, where the file has it."""
        if (value := self.whole(*names)) is not None:
            self.say(key, value, *names)

    def say(self, key: str, value: Any, *names: str) -> None:
        """Set a key of the plan that follows from a key of the file, given by its names."""
        self.reading.say(key, value, self.prefix + self.given(*names))

    def problem(self, key: str, name: str, what: str, alone: bool = False) -> None:
        """Note that the file's key has no rule, which ``key`` of the plan would have to say.

        ``alone``: it has none for one process.
        """
        problems = self.reading.alone.problems if alone else self.reading.problems
        problems[key] = f"{self.where}: {self.prefix}{name}: {shown(self._keys.get(name))} {what}"

    def without_rule(self, why: str, *names: str) -> None:
        """Read keys that change memory but have no rule. Those that are set are ignored, and the reason is said."""
        self._ignore(names, why, unknown=False)

    def unknown(self, *names: str) -> None:
        """Read keys that change memory by an amount without a rule. Those that are set make the verdict "not sure"."""
        self._ignore(names, UNKNOWN, unknown=True)

    def _ignore(self, names: Iterable[str], why: str, unknown: bool) -> None:
        for name in names:
            value = self.value(name)
            if value is not None and value is not False and value not in _OFF:
                self.reading.ignored.append(Ignored(self.prefix + name, why, unknown))

    def refused(self, why: str, *names: str) -> None:
        """Note a problem, which no key of the plan takes away, where one of the keys is set."""
        for name in names:
            value = self.value(name)
            if value is not None and value is not False and value not in _OFF:
                self.problem(self.prefix + name, name, why)

    def one_device(self, *names: str) -> None:
        """Note a problem where a key that counts devices is more than one."""
        for name in names:
            if (number := self.whole(name)) is not None and number > 1:
                self.problem(self.prefix + name, name, SEVERAL)

    def finish(self, known: Iterable[str] = ()) -> None:
        """Name each key that was not asked for. ``known`` are keys that are asked for elsewhere."""
        asked = {**self._asked, **dict.fromkeys(known)}
        for name in self._keys:
            if name not in asked:
                close = difflib.get_close_matches(name, asked, n=1, cutoff=_CLOSE)
                hint = f" (did you mean {close[0]}?)" if close and not name.startswith(_OTHERS) else ""
                self.reading.ignored.append(Ignored(self.prefix + name, f"{NO_EFFECT}{hint}"))

    def _wrong(self, names: tuple[str, ...], value: Any, wanted: str) -> InputError:
        return InputError(f"{self.where}: {self.prefix}{self.given(*names)} must be {wanted}, not {shown(value)}")


_CLOSE = 0.8
"""The least likeness of a misspelt key and the one that is meant: sequence_length and sequence_len have 0.89."""
SEVERAL = (
    "spreads the step over several devices in a way that has no rules here: ask about one of them, without this key "
    "and with its own batch"
)
"""Why a key that spreads a step is refused."""
UNKNOWN = "the step is answered without it; it changes memory by an amount that has no rule here"
NO_EFFECT = "no effect on memory is known here"
_OFF: tuple[Any, ...] = (0, "", [], {}, "false", "no", "off")
_OTHERS = ("eval", "save", "logging", "lr_", "warmup", "hub_", "push_", "dataset", "wandb", "report", "output")
"""Beginnings of keys about evaluation, saving, logging, schedules and data, which are no misspelt keys of a step."""


def _mapping(text: str) -> Any:
    from ..io.files import parse_yaml

    try:
        return parse_yaml(text)
    except InputError:
        return text
