"""``--help``: the options that decide most answers on one screen, the rest by topic."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from inspect import cleandoc

from ...errors import InputError, nearest
from ...methods.registry import METHODS
from ..topics import COMMON, TOPICS
from .tables import show, terminal_width, wrapped

_SCREEN_COLUMN = 35
"""The column where the descriptions of ``--help`` begin."""
IN_FULL = "(--help-all)"
"""The end of a group's title, where ``--help`` of a command without a plan leaves the group out."""


def requested(arguments: Sequence[str]) -> tuple[str, str]:
    """The help that a command line asks for: a topic, ``all`` or ``""`` (short help), and a method's name or ``""``.

    Raises ``InputError`` for an unknown topic or method.
    """
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, _, value = word.partition("=")
        if option.startswith("--help-"):
            topic = option.removeprefix("--help-").replace("llama-cpp", "llama.cpp")
            if topic in METHODS:
                return "method", topic
            if topic not in (*TOPICS, "all"):
                known = ", ".join(f"--help-{name}" for name in (*TOPICS, "all"))
                raise InputError(f"no help on '{topic}'{nearest(topic, TOPICS)}; there are {known}")
            name = value or following
            if topic != "method" or not name or name.startswith("-"):
                return topic, ""
            if name not in METHODS:
                raise InputError(f"no method '{name}'{nearest(name, METHODS)}; `--help-method` lists them")
            return topic, name
    return "", ""


def show_help(parser: argparse.ArgumentParser, topic: str, method: str) -> None:
    """Print the help that ``requested`` found. A group of the parser is a topic, by its title, or the command's own."""
    groups = [(group.title or "", group._group_actions) for group in parser._action_groups]
    if not any(title in TOPICS.values() for title, _ in groups):
        if topic == "":
            groups = [(title, actions) for title, actions in groups if not title.endswith(IN_FULL)]
        topic = "all"  # a command without a plan has few options
    if topic == "":
        show(*_screen(parser, groups))
    elif topic == "all":
        show(*_head(parser))
        for title, actions in groups:
            if lines := _section(title, actions):
                show("", *lines)
    elif topic == "method" and method:
        options = METHODS[method]
        show(f"method {method}: {options.title}", *_lines(cleandoc(options.__doc__ or "")))
        keys = set(options.model_fields)
        for title, actions in groups:
            if title == TOPICS[topic]:
                show(*_section("options", [a for a in actions if a.dest in keys]))
    elif topic == "method":
        show(*_section("method", [a for a in parser._actions if a.dest == "method"]))
        show("  --help-method NAME shows a method's options; any other method of the installed PEFT is recorded.")
    else:
        for title, actions in groups:
            if title == TOPICS[topic]:
                show(*_section(title, actions))


def _head(parser: argparse.ArgumentParser) -> list[str]:
    places = [action for action in parser._actions if not action.option_strings]
    names = [f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar) for action in places]
    lines = [" ".join(["usage:", parser.prog, *names, "[options]"]), *_lines(parser.description or "")]
    return [*lines, *(f"  {action.metavar}: {_text(action)}" for action in places)]


def _lines(text: str) -> list[str]:
    return [text] if text else []


def _screen(parser: argparse.ArgumentParser, groups: Iterable[tuple[str, list[argparse.Action]]]) -> list[str]:
    """The short help: ``COMMON``, and the command's own options."""
    have = {action.dest: action for action in parser._actions}
    lines = _head(parser)
    for title, keys in COMMON.items():
        shown = {key: words for key, words in keys.items() if key in have and have[key].help != argparse.SUPPRESS}
        lines += [title] if shown else []
        lines += [_row(_name(have[key], metavar), text) for key, (metavar, text) in shown.items()]
    lines.append("this command")
    for title, actions in groups:
        if title not in TOPICS.values():
            lines += [
                _row(_short_name(action), _clause(_text(action)))
                for action in actions
                if action.option_strings and action.help != argparse.SUPPRESS and action.dest != "plan"
            ]
    return [*lines, f"more: --help-all, --help-TOPIC: {', '.join(TOPICS)}"]


def _row(name: str, text: str) -> str:
    """An option and its description in two columns."""
    first, *rest = wrapped(text, max(20, terminal_width() - _SCREEN_COLUMN)) or [""]
    padding = " " * _SCREEN_COLUMN
    row = f"  {name}".ljust(_SCREEN_COLUMN - 1)
    return "\n".join([f"{row} {first}".rstrip(), *(padding + line for line in rest)])


def _clause(text: str) -> str:
    """The first clauses of a description, as many as fit into a line of ``--help``."""
    room = 80 - _SCREEN_COLUMN
    ends = [found.start() for found in re.finditer(r"(?:[;,:] | \()", text)]
    ends = [end for end in ends if text.count("(", 0, end) == text.count(")", 0, end)]
    fitting = [end for end in ends if end <= room]
    if len(text) <= room:
        return text
    return text[: max(fitting)] if fitting else text[: ends[0]] if ends else text


def _section(title: str, actions: Iterable[argparse.Action]) -> list[str]:
    rows = [line for a in actions if a.option_strings and a.help != argparse.SUPPRESS for line in _in_full(a)]
    return [title, *rows] if rows else []


def _in_full(action: argparse.Action) -> list[str]:
    choices = _metavar(action).split("|")
    names, text = _short_name(action), _text(action)
    if len(choices) > 1 and choices[0] not in names:
        text = f"{text}; one of {', '.join(choices)}"
    return [f"  {names}", f"      {text}"]


def _short_name(action: argparse.Action) -> str:
    """An option with its argument, without the choices if they are many."""
    name = _name(action, _metavar(action))
    return name if len(name) < _SCREEN_COLUMN - 2 else _name(action, action.dest.upper())


def _name(action: argparse.Action, metavar: str) -> str:
    """An option with its argument; a switch as ``--[no-]NAME``."""
    option = action.option_strings[0]
    if len(action.option_strings) > 1 and action.default is None:
        return f"--[no-]{option.removeprefix('--')}"
    return option if action.nargs == 0 else f"{option} {metavar}"


def _metavar(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _text(action: argparse.Action) -> str:
    """An argument's help with its placeholders filled in."""
    return (action.help or "") % {**vars(action), "prog": "estimator"}
