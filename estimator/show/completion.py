"""What a shell offers at the tab key, by argcomplete: commands, options, models, devices, methods, choices."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any

import argcomplete

from ..methods.registry import METHODS
from ..plans.devices import catalogue
from ..plans.models import builtin_names


def complete(commands: Iterable[str]) -> None:
    """Answer the shell, which has put the command line into the environment, and end the process.

    Only the options of the command on the line are looked up, and of the method that it names.
    """
    words = os.environ["COMP_LINE"].split()
    parser = argparse.ArgumentParser(prog="estimator", add_help=False)
    parsers = parser.add_subparsers(metavar="COMMAND")
    for name in commands:
        own = parsers.add_parser(name, add_help=False, allow_abbrev=False)
        if words[1:2] == [name]:
            importlib.import_module(f".commands.{name.replace('-', '_')}", __package__).configure(own, words[2:])
            own.add_argument("--help", action="store_true")
            own.add_argument("--quiet", action="store_true")
            for action in own._actions:
                action.completer = _completer(action)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _completer(action: argparse.Action) -> Callable[..., Any]:
    """What follows an option, or stands in a place: names, choices, files, or nothing that could be guessed."""
    names: dict[str, Callable[[], Iterable[str]]] = {
        "device": lambda: [one.name for one in catalogue()],
        "devices": lambda: [one.name for one in catalogue()],
        "method": lambda: METHODS,
        "methods": lambda: ["all", *METHODS],
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
    """Names for the last item of a list separated by commas, behind the items before it."""

    def completed(prefix: str, **_: Any) -> list[str]:
        before, comma, _rest = prefix.rpartition(",")
        return [f"{before}{comma}{name}" for name in names()]

    return completed
