"""The error that users see: one line that says what is wrong and how to mend it."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from .text import printable

_HEAD, _TAIL = 280, 120
"""Characters that are kept of the beginning and of the end of a long message."""


class _Quotes(reprlib.Repr):
    """Quotes a mapping by its keys: the values of keys that nothing counts, such as a token, are not repeated."""

    def repr_dict(self, mapping: Mapping[object, object], level: int) -> str:
        keys = [f"{key}: ..." for key in mapping if level > 0][: self.maxdict]
        return f"{{{', '.join([*keys, '...'] if len(keys) < len(mapping) else keys)}}}"

    def repr_str(self, text: str, level: int) -> str:
        return "'{...}'" if has_keys(text) else super().repr_str(text, level)


_QUOTES = _Quotes()
_QUOTES.maxstring = _QUOTES.maxother = 80


class _Asker:
    """Who asks. Messages name keys and questions as they are written there."""

    in_a_shell = False


@contextmanager
def asked_in_a_shell() -> Iterator[None]:
    """Messages are for the command line; else for Python."""
    before, _Asker.in_a_shell = _Asker.in_a_shell, True
    try:
        yield
    finally:
        _Asker.in_a_shell = before


def options(keys: Mapping[str, object]) -> str:
    """Keys of a plan as the asker would write them: ``--r 16 --use-dora``, or in Python ``r=16, use_dora=True``.

    A value in capitals stands for the user's own: ``--seq N``, ``seq=N``.
    """
    if not _Asker.in_a_shell:
        own = {key: value for key, value in keys.items() if isinstance(value, str) and value.isupper()}
        return ", ".join(f"{key}={own.get(key, repr(value))}" for key, value in keys.items())
    return " ".join(
        f"--{name}" if value is True else f"--no-{name}" if value is False else f"--{name} {_in_a_shell(value)}"
        for name, value in ((key.replace("_", "-"), value) for key, value in keys.items())
    )


def _in_a_shell(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


_COMMANDS = r"`estimator (advise|check|compare|devices|estimate|max-[a-z]+|models|smallest-[a-z]+)( --[a-z-]+)?`"
"""Commands in messages that Python has functions for."""


def _function(found: re.Match[str]) -> str:
    name = f"estimator.{found[1].replace('-', '_')}"
    return f"help({name})" if found[2] else f"{name}()"


class InputError(ValueError):
    """Wrong input. The message is one line; the command line prints it and exits with status 2.

    ``key`` is the key of a plan that it is about, and ``owner`` that of the choice which the key belongs to. They are
    empty where it is about none, or about a value by itself.
    """

    def __init__(self, message: str, key: str = "", owner: str = "") -> None:
        self.key, self.owner = key, owner
        line = printable(" ".join(message.split()))
        if not _Asker.in_a_shell and "`estimator " in line:
            line = re.sub(_COMMANDS, _function, line)
        if len(line) > _HEAD + _TAIL:
            line = f"{line[:_HEAD]} ... {line[-_TAIL:]}"
        super().__init__(line)


class TooLong(InputError):
    """A question whose answer would take too long."""


class OtherStructure(InputError):
    """Recordings at several sizes differ in more than these."""


def defect(error: BaseException) -> str:
    """The line about an unexpected error, which is a defect of the estimator and not the user's mistake.

    Where the environment sets ``ESTIMATOR_TRACEBACK``, the traceback is printed on standard error.
    """
    if os.environ.get("ESTIMATOR_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, MemoryError):
        return "out of memory; ask for less at once, or raise the process's limit"
    return str(
        InputError(
            f"a defect of the estimator itself, {type(error).__name__}: {error}; please report it with what you asked "
            "(ESTIMATOR_TRACEBACK=1 shows where it is)"
        )
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint with the known names that are most like ``name``: ``" (did you mean a, b?)"``, or an empty text."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def has_keys(value: object) -> bool:
    """Whether a value is a mapping, or a list or a text of one in JSON or YAML."""
    if isinstance(value, str):
        return bool(re.match(r"\s*[\[{]+\s*[\"']?[\w.-]+[\"']?\s*:", value))
    return isinstance(value, Mapping) or (isinstance(value, list) and any(map(has_keys, value)))


def shown(value: object) -> str:
    """A value as messages quote it: a mapping by its keys alone, and shortened where it is long or deeply nested."""
    try:
        return _QUOTES.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
