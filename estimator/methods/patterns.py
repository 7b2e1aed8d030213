r"""Regular expressions from files and options, matched within a time limit.

An adapter_config.json may come from anybody. Python's ``re`` would take years for some regular expressions in its
``target_modules``. So the ``regex`` package matches them, once ``re`` has found their syntax valid. It stops at a
deadline, and it knows lookaheads (``^(?!.*visual).*q_proj$``), which a linear-time engine such as RE2 refuses.
Most "patterns" are names with dots. Those are matched quickly by ``re``, without an import of ``regex``.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

from ..errors import InputError, shown

SECONDS = 1.0
"""Processor time in seconds that the regular expressions of one option may take for all modules of a model together."""
LONGEST = 4096
"""Most characters of a pattern, which bounds the time that it takes to compile."""

WHOLE = "{}"
"""``re.fullmatch`` of ``target_modules`` (``peft/tuners/tuners_utils.py: check_target_module_exists``)."""
SUFFIX = r"(.*\.)?({})$"
"""Keys of ``rank_pattern`` (``peft/utils/other.py: get_pattern_key``)."""
BELOW = r".*\.{}$"
"""Keys of ``block_size_pattern`` and ``n_frequency_pattern``."""
LAYERS = r"(?:^|.*?\.){}\.(\d+)\."
"""``layers_pattern``; the last group is the layer's index. The first index of a path counts, not that of an expert."""
ANY_LAYER = r".*?\.{}\.(\d+)\."
"""The same where no pattern is given."""

_clock = getattr(time, "thread_time", time.process_time)  # a browser has no clock of threads
_NAME = re.compile(r"[A-Za-z0-9_.-]*")
_BEYOND = r"[^\x00-\x7f]|\\[uUNx]"
_TOKENS = r"(?s)\\.|\{(?!\d*,?\d*\})"

Groups = tuple[str | None, ...]
ValueT = TypeVar("ValueT")


def check(text: str) -> str:
    """The pattern as it was given. Raises ``ValueError`` with the reason where it cannot be used."""
    if _NAME.fullmatch(text):
        return text
    if len(text) > LONGEST:
        raise ValueError(f"must be a name or a regular expression of at most {LONGEST:,} characters")
    if re.search(_BEYOND, text) or "[:" in text:
        # Paths of modules are ASCII. re takes minutes to compile large ranges, and regex reads [: as a class of POSIX.
        raise ValueError(r"must be a name or a regular expression in ASCII, without \x, \u and [:")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # for sets of characters that regex may read differently
            warnings.simplefilter("ignore", DeprecationWarning)
            re.compile(text)
    except (re.error, OverflowError, FutureWarning) as error:
        raise ValueError(f"must be a name or a regular expression ({error})") from None
    except RecursionError:
        raise ValueError("must be a name or a regular expression (this one is nested too deeply)") from None
    return text


class Patterns:
    """The patterns of one option, tried in order. Each is put into ``form``. The answer for a path is cached."""

    def __init__(self, texts: Sequence[str], form: str) -> None:
        self.texts, self.form = tuple(texts), form
        # A path that matches a name with dots ends with the name's last part. That alone rules out most paths.
        last = form in (WHOLE, SUFFIX, BELOW)
        self._tails = [t.rpartition(".")[2] if last and _NAME.fullmatch(t) else "" for t in self.texts]
        self._compiled: list[Any] = [None] * len(self.texts)
        self._answers: dict[str, tuple[int, Groups] | None] = {}
        self._spent = 0.0

    def first(self, path: str) -> tuple[int, Groups] | None:
        """The index of the first pattern that matches a module's path, and the match's groups; ``None`` if none does.

        Raises ``InputError`` where the patterns have taken too long.
        """
        if path not in self._answers:
            self._answers[path] = self._search(path)
        return self._answers[path]

    def _search(self, path: str) -> tuple[int, Groups] | None:
        for i, tail in enumerate(self._tails):
            found = self._match(i, path) if path.endswith(tail) else None
            if found is not None:
                return i, found
        return None

    def _match(self, i: int, path: str) -> Groups | None:
        """Names have no time limit: a garbage collection between two of them would count as theirs."""
        found = self._applied(i, path) if _NAME.fullmatch(self.texts[i]) else self._timed(i, path)
        return None if found is None else found.groups()

    def _timed(self, i: int, path: str) -> Any:
        start = _clock()
        try:
            if self._spent >= SECONDS:
                raise TimeoutError
            return self._applied(i, path, timeout=SECONDS - self._spent)
        except TimeoutError:
            self._spent = SECONDS
            raise InputError(
                f"the regular expression {shown(self.texts[i])} takes more than {SECONDS:g} s to compare with "
                "the model's modules; simplify it, or list the modules by name"
            ) from None
        finally:
            self._spent += _clock() - start

    def _applied(self, i: int, path: str, **limit: float) -> Any:
        if self._compiled[i] is None:
            self._compiled[i] = self._compile(self.texts[i])
        engine = self._compiled[i]
        match = engine.fullmatch if self.form == WHOLE else engine.match
        return match(path) if isinstance(engine, re.Pattern) else match(path, **limit)  # re, in a browser, has no limit

    def _compile(self, text: str) -> Any:
        whole = self.form.replace("{}", text)
        if _NAME.fullmatch(text):
            return re.compile(whole)
        import regex

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                re.compile(whole)
                return regex.compile(re.sub(_TOKENS, _escaped, whole))
        except (re.error, regex.error, OverflowError, RecursionError) as error:
            raise InputError(f"the regular expression {shown(text)} cannot be used here: {error}") from None


def _escaped(found: re.Match[str]) -> str:
    """Escape a brace that begins no repetition: ``re`` reads it as a brace, ``regex`` as a fuzzy match."""
    return r"\{" if found[0] == "{" else found[0]


@lru_cache(maxsize=32)
def _patterns(texts: tuple[str, ...], form: str) -> Patterns:
    return Patterns(texts, form)


def groups(text: str, form: str, path: str) -> Groups | None:
    """The groups of a pattern's match, ``None`` where it does not match. Raises ``InputError``."""
    found = _patterns((text,), form).first(path)
    return None if found is None else found[1]


def spelt_out(options: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Options of a PEFT config, with matching paths in place of regular expressions, which PEFT gives to ``re``.

    ``paths`` are those of all modules of the model. Raises ``InputError``.
    """
    found = dict(options)
    for key, value in options.items():
        if key.endswith("_modules") and isinstance(value, str) and not _NAME.fullmatch(value):
            found[key] = [path for path in paths if groups(_checked(key, value), WHOLE, path) is not None]
            if key == "target_modules" and not found[key]:
                raise InputError(f"target_modules {shown(value)} matches nothing in this model")
        elif key.endswith("_pattern") and isinstance(value, Mapping):
            found[key] = _without_patterns(key, value, paths)
        elif key in ("layers_pattern", "modules_to_save"):
            for text in [value] if isinstance(value, str) else value or ():
                if not _NAME.fullmatch(text):
                    raise InputError(f"{key} {shown(text)} is a regular expression, which PEFT is not given; name them")
    return found


def _without_patterns(key: str, values: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    if all(_NAME.fullmatch(text) for text in values):
        return dict(values)
    form = SUFFIX if key in ("rank_pattern", "alpha_pattern") else BELOW
    lookup: Lookup[Any] = Lookup({_checked(key, text): value for text, value in values.items()}, form)
    nothing = object()
    found = {path: lookup.at(path, nothing) for path in paths}
    return {path: value for path, value in found.items() if value is not nothing}


def _checked(key: str, text: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise InputError(f"{key}: {error}, not {shown(text)}") from None


class Lookup(Generic[ValueT]):
    """Values for modules by pattern, as in ``rank_pattern``."""

    def __init__(self, values: Mapping[str, ValueT] | None, form: str) -> None:
        self.values = tuple((values or {}).values())
        self._patterns = _patterns(tuple(values or ()), form)

    def __bool__(self) -> bool:
        return bool(self.values)

    def at(self, path: str, default: ValueT) -> ValueT:
        """The value of the first pattern that matches a module's path. Raises ``InputError``."""
        found = self._patterns.first(path) if self.values else None
        return default if found is None else self.values[found[0]]
