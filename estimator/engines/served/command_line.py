"""A server's command line as options: what people paste."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, get_args

from pydantic import BaseModel

from ...errors import InputError, shown
from .program import Server

SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
OPERATORS = ";&|<>"
"""What ends a command in a shell."""
BARE = re.compile(r"(?:no_)?(?:enable|disable|trust|skip|return|use|allow|is)_.*|headless|language_model_only|O[0-3]")
"""Keys of switches, as both servers name them. A model may stand behind one."""
TRUTHS = ("true", "false")
DEEPEST = 20
"""Parts of an option with dots, of which a line may give at most."""
DTYPES = {"half": "float16", "float": "float32"}
"""Other names of dtypes."""


@dataclass
class Command:
    """What a command line says."""

    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    """Options that have no rule here, and are left out."""


@dataclass(frozen=True)
class Grammar:
    """The options of a program."""

    server: Server
    commands: tuple[str, ...]
    """The words of which one may follow."""
    options: type[BaseModel]
    short: Mapping[str, str]
    """Keys of other spellings, which are not the key with dashes."""
    costless: frozenset[str]
    """Options that change no byte that is counted here."""
    readers: Mapping[str, Callable[[Command, str, str], None]] = field(default_factory=dict)
    """Keys whose values are read in another way: from the value, and the option as it was written."""
    switches: Mapping[str, Callable[[Command, str, str], None]] = field(default_factory=dict)
    """Switches that mean several keys."""
    many: frozenset[str] = frozenset()
    """Options that take several words."""

    def parse(self, text: str) -> Command:
        """What a command line says. Raises ``InputError`` with one line."""
        words = self._words(text)
        switches = {name for name, one in self.options.model_fields.items() if one.annotation is bool}
        keys = {"model", "config", *self.options.model_fields, *self.costless, *self.readers, *self.switches}
        found, dotted = Command(), dict[str, dict[str, Any]]()
        while words:
            word = words.pop(0)
            if not word.startswith("-"):
                if re.fullmatch(self.server.pattern, word):
                    break  # the next command
                if found.model:
                    raise InputError(f"{shown(word)} is a second model, beside {found.model}; give one")
                found.model = word
                continue
            name, equals, value = word.partition("=")
            name, *path = name.split(".")  # of a JSON object, of which one value is given
            key = self.short.get(name) or name.lstrip("-").replace("-", "_")
            if key not in keys and len(longer := [one for one in keys if one.startswith(key)]) == 1:
                key = longer[0]  # argparse takes the beginning of a name
            if key in self.switches:
                self.switches[key](found, value, name)
                continue
            negated = key.removeprefix("no_")
            if bare := not path and (bool({key, negated} & switches) or BARE.fullmatch(key) is not None):
                value = words.pop(0) if not equals and words and words[0].lower() in TRUTHS else value
            if bare and negated in switches:
                found.options[negated] = key == negated and value.lower() not in ("false", "0")
                continue
            if not equals and not bare:
                value = words.pop(0) if words and not words[0].startswith("--") else ""
            while key in self.many and words and not words[0].startswith("-"):
                value += f" {words.pop(0)}"
            if path:
                if len(path) > DEEPEST:
                    raise InputError(f"{shown(name)} has more than {DEEPEST} parts; name a value of an object")
                whole_name, place = f"{name}.{'.'.join(path)}", dotted.setdefault(key, {})
                for one in path[:-1]:
                    place = place.setdefault(one, {})
                    if not isinstance(place, dict):
                        raise InputError(f"{whole_name} is within what has a value already; give one of the two")
                place[path[-1]] = whole(value, whole_name) if value.isdecimal() else value
                continue
            self._take(found, key, value, name)
        for key, values in dotted.items():
            self._take(found, key, json.dumps(values), f"--{key.replace('_', '-')}")
        if not found.model:
            raise InputError(f"the command line names no model; write it like {self.server.example}")
        return found

    def _words(self, text: str) -> list[str]:
        """The words behind the program's name, to the end of its command."""
        text = re.sub(r"\\\s*\n", " ", text)
        text = re.sub(r"""(?m)(?:^|\s)#[^'"\n]*$""", " ", text)  # comments
        lexer = shlex.shlex(re.sub(r"\s[0-9]>", " >", text), posix=True, punctuation_chars=OPERATORS)
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            words = list(lexer)
        except ValueError as error:
            raise InputError(f"the command line cannot be read: {str(error).lower()}; close its quotes") from None
        image = next((at for at, word in enumerate(words) if re.fullmatch(self.server.image, word)), -1)
        words = words[image + 1 :]
        for at, word in enumerate(words):
            if image >= 0 and word.startswith("--"):
                break  # of the image's entry point
            following = words[at + 1 : at + 2]  # an operator after `conda activate vllm`, which is not the program
            if re.fullmatch(rf"(?:\S*/)?{self.server.pattern}", word) and not any(map(_ends, following)):
                words = words[at + 1 :]
                break
        while words and (words[0] in self.commands or re.fullmatch(self.server.pattern, words[0])):
            words.pop(0)
        return list(takewhile(lambda word: not _ends(word), words))

    def _take(self, found: Command, key: str, value: str, name: str) -> None:
        if not value and (key in self.readers or key in self.options.model_fields):
            raise InputError(f"{name} needs a value; write it like {name} 2")
        if key in self.readers:
            self.readers[key](found, value, name)
        elif key == "model":
            found.model = value
        elif key in self.costless or key.removeprefix("no_") in self.costless:
            return
        elif key == "config":
            raise InputError(f"{name} names a file, which is not read; write what it says as options of the line")
        elif key in self.options.model_fields:
            kinds = _kinds(self.options.model_fields[key].annotation)
            if float in kinds:
                if not re.fullmatch(r"[0-9]{0,15}\.?[0-9]{1,15}", value):
                    raise InputError(f"{name} {shown(value)} is no number; write it like {name} 0.9")
                found.options[key] = float(value)
            else:
                found.options[key] = whole(value, name) if int in kinds else DTYPES.get(value, value)
        else:
            found.unknown.append(name)


def _ends(word: str) -> bool:
    """Whether a word ends a command in a shell."""
    return bool(word) and set(word) <= set(OPERATORS)


def _kinds(annotation: Any) -> set[Any]:
    """The types in an annotation."""
    return {annotation}.union(*(_kinds(one) for one in get_args(annotation)))


def whole(value: str, name: str) -> int:
    """A number as both engines read it: 32768, 32k (1000), 32K (1024), 25.6k, or -1. Raises ``InputError``."""
    if value == "-1":  # some options mean none or all by it
        return -1
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([kmgtKMGT]?)", value)
    if match is None or (match[2] in "KMGT" and match[2] and "." in match[1]) or (not match[2] and "." in match[1]):
        raise InputError(f"{name} {shown(value)} is no number; write it like {name} 32768 or 32k")
    return int(float(match[1]) * SUFFIXES.get(match[2], 1))
