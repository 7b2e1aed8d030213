"""Completion in a shell, by argcomplete: of commands, options, models, devices, methods and choices."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from typing import Any

import argcomplete

from ..engines.devices import catalogue
from ..methods.registry import METHODS
from ..plans.models import builtin_names
from .commands import module_of
from .topics import EVERY_OPTION


def complete(commands: Iterable[str]) -> None:
    """Answer the shell, which has put its command line into the environment, and end the process.

    Only the options of the command in that line, and of the method that it names, are added.
    """
    words = os.environ["COMP_LINE"].split()
    parser = argparse.ArgumentParser(prog="estimator", add_help=False)
    parsers = parser.add_subparsers(metavar="COMMAND")
    for name in commands:
        own = parsers.add_parser(name, add_help=False, allow_abbrev=False)
        if words[1:2] == [name]:
            module_of(name).configure(own, [EVERY_OPTION, *words[2:]])
            own.add_argument("--help", action="store_true")
            own.add_argument("--quiet", action="store_true")
            for action in own._actions:
                action.completer = _completer(action)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _completer(action: argparse.Action) -> Callable[..., Any]:
    """The completions of an argument: names, files or choices; none where it can be anything."""
    names: dict[str, Callable[[], Iterable[str]]] = {
        "device": lambda: [one.name for one in catalogue()],
        "devices": lambda: [one.name for one in catalogue()],
        "method": lambda: METHODS,
        "methods": lambda: ["all", *METHODS],
        "against": lambda: METHODS,
    }
    metavar = str(action.metavar or "")
    if action.dest == "model":
        files = argcomplete.completers.FilesCompleter((".json", ".gguf"))
        return lambda prefix, **_: [*builtin_names(), *files(prefix)]
    if action.dest in names:
        return _last_of_list(names[action.dest])
    if metavar == "FILE":
        any_file: Callable[..., Any] = argcomplete.completers.FilesCompleter()
        return any_file
    return _last_of_list(lambda: metavar.split("|") if "|" in metavar else action.choices or ())


def _last_of_list(names: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """Completes the last item of a list that is separated by commas."""

    def completed(prefix: str, **_: Any) -> list[str]:
        before, comma, _rest = prefix.rpartition(",")
        return [f"{before}{comma}{name}" for name in names()]

    return completed
