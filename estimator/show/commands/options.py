"""Every key of a plan, and of its method, as a command-line option."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from ...errors import InputError
from ...io.files import STANDARD_INPUT, NotYaml, parse_yaml, standard_input
from ...methods.options import MethodOptions
from ...methods.registry import METHODS, method_block, read_adapter_config
from ...plans.flat import BLOCKS, nested, own_keys
from ...plans.lengths import LengthOptions, read_counts
from ...plans.models import read_model
from ...plans.plan import Plan, parse_plan, read_plan_mapping, words_explained
from ..topics import EVERY_OPTION, TOPIC_OF, TOPICS


def method_keys(arguments: Sequence[str]) -> dict[str, list[Any]]:
    """The keys of the methods that a command line names, each with its field in every method that has it.

    If it names no built-in method, the keys are those of all methods. They take a while to import, so a command line
    that names nothing has none.
    """
    named: set[str] = set()
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        option, _, value = word.partition("=")
        if option in ("--method", "--methods"):
            named.update((value or following).split(","))
    if not named <= METHODS.keys():
        named = set(METHODS)
    found: dict[str, list[Any]] = {}
    for kind in (METHODS[name] for name in METHODS if name in named):
        for name, field in kind.model_fields.items():
            if name != "name":
                found.setdefault(name, []).append(field)
    return found


def add_plan_options(parser: argparse.ArgumentParser, arguments: Sequence[str], without: tuple[str, ...] = ()) -> None:
    """Add MODEL, ``--plan FILE`` and the options for keys of a plan that a command line names, except ``without``.

    ``arguments`` is the command line, which also decides whose methods' keys are added (``method_keys``). One with
    ``EVERY_OPTION`` names all.
    """
    if "model" not in without:
        parser.add_argument("model", nargs="?", metavar="MODEL", help=Plan.model_fields["model"].description)
    parser.add_argument(
        "--plan", metavar="FILE", type=Path, help="a plan as YAML or JSON, - reads stdin; options override its keys"
    )
    every = EVERY_OPTION in arguments
    named = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    fields: dict[str, tuple[str, list[Any]]] = {}  # of each key, with the topic
    for name, field in Plan.model_fields.items():
        if name in BLOCKS:
            if (of_name := BLOCKS[name].model_fields.get("name")) is not None:
                fields.setdefault(name, (TOPIC_OF[name], [of_name]))
            for key, own in own_keys(name).items():
                fields.setdefault(key, (TOPIC_OF[name], [own]))
        elif name != "model":
            fields.setdefault(name, (TOPIC_OF[name], [field]))
    for name, own_fields in method_keys(arguments).items():
        fields.setdefault(name, ("method", own_fields))  # else an option is the method's where it has it (``nested``)
    groups = {topic: parser.add_argument_group(title) for topic, title in TOPICS.items()}
    shown = {}
    for name, (topic, own_fields) in fields.items():
        option = option_of(name)
        if not (every or {option, f"--no-{option.removeprefix('--')}"} & named):
            continue
        shown[name] = own_fields
        if name in without:
            continue
        if name == "method":
            groups[topic].add_argument(
                option, metavar="NAME|FILE", help=f"{', '.join(METHODS)}, or an adapter_config.json"
            )
        else:
            add_field(groups[topic], name, *own_fields)
    parser.set_defaults(plan_fields=shown)


def option_of(name: str) -> str:
    """The option for a key."""
    return f"--{name.replace('_', '-')}"


def add_spellings(parser: Any, option: str, *spellings: str) -> None:
    """Other spellings of an option that is added already: accepted, but not shown in help and pages."""
    for spelling in spellings:
        parser.add_argument(spelling, dest=option, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_field(group: Any, name: str, field: Any, *others: Any) -> None:
    """Add an option for a key by its field. ``others`` are fields of the same name in other methods."""
    option = option_of(name)
    required = " (required)" if field.is_required() else ""
    default = required or ("" if field.default is None else f" (default: {field.default})")
    text = f"{field.description or name}{default}".replace("%", "%%")
    if name.startswith("no_"):  # of a pair of switches argparse takes the one with --no- as false
        group.add_argument(option, dest=name, action="store_const", const=True, help=text)
    elif all(_is_switch(one.annotation) for one in (field, *others)):
        group.add_argument(option, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        choices = [value for value in _parts(field.annotation) if isinstance(value, str)]
        shown = "LIST" if name == "devices" else name.upper()
        group.add_argument(option, dest=name, metavar="|".join(choices) or shown, help=text)


def _is_switch(annotation: Any) -> bool:
    """Whether a key's only values are true and false."""
    parts = _parts(annotation)
    return bool in parts and not any(isinstance(part, str) or part in (int, float, str, list, dict) for part in parts)


def _parts(annotation: Any) -> list[Any]:
    """The types and the literal values in an annotation, in order."""
    inner = [part for argument in get_args(annotation) for part in _parts(argument)]
    return [get_origin(annotation) or annotation, *inner]


def listed(text: str, option: str = "", instead: str = "name something, or leave it out") -> list[str]:
    """The words of a list with commas. Raises ``InputError`` for none, where an option is named: what to do instead."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if option and not words:
        raise InputError(f"--{option} is an empty list; {instead}")
    return words


def takes_list(annotation: Any) -> bool:
    """Whether a key's value may be a list or a mapping, so that commas in an option are its own."""
    return any(part in (list, dict, LengthOptions) for part in _parts(annotation))


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keys of the plan and of its method that a command line gives, MODEL among them."""
    keys = (*Plan.model_fields, *args.plan_fields)
    return {name: value for name in keys if (value := getattr(args, name, None)) is not None}


def plan_mapping(args: argparse.Namespace) -> dict[str, Any]:
    """The plan's keys from a parsed command line and its ``--plan`` file. Raises ``InputError``."""
    data = given_keys(args)
    if "model" not in data:
        raise InputError("no model given; name one that `estimator models` lists, a config.json, or a hub id")
    return data


def keys_beside(args: argparse.Namespace) -> dict[str, Any]:
    """``given_keys`` beside a training file, whose method they may add to: ``--r 8`` alone stays a key of its own."""
    given = given_options(args)
    blocks = {key for block in BLOCKS for key in own_keys(block)}
    own = given.keys() - Plan.model_fields.keys() - blocks if "method" not in given and args.plan is None else ()
    values = {name: value_of(name, given[name], args.plan_fields[name][0].annotation) for name in own}
    return {**given_keys(args, without=own), **values}


def given_keys(args: argparse.Namespace, without: Collection[str] = ()) -> dict[str, Any]:
    """The keys of a plan that a parsed command line and its ``--plan`` file give. Raises ``InputError``."""
    given = {name: value for name, value in given_options(args).items() if name not in without}
    if given.get("model") == STANDARD_INPUT:
        read_model()
    if given.get("method") == STANDARD_INPUT:
        given["method"] = read_adapter_config(Path(STANDARD_INPUT), or_stdin=True)
    if given.get("lengths") == STANDARD_INPUT:
        counts = read_counts(standard_input())
        if not counts:
            raise InputError("lengths '-': standard input has no samples; give token counts, one a line")
        given["lengths"] = {"histogram": counts}
    data = nested(read_plan_mapping(args.plan) if args.plan else {}, given, value_of)
    if "method" in data:
        with words_explained(data):
            data["method"] = method_block(data["method"])
    return data


def plan_from(args: argparse.Namespace) -> Plan:
    """The plan of a parsed command line. Raises ``InputError``."""
    return parse_plan(plan_mapping(args))


def value_of(name: str, text: Any, annotation: Any) -> Any:
    """An option's value in the type of its key. Text that is no number stays text, which the plan refuses."""
    parts = _parts(annotation)
    if not isinstance(text, str):
        return text
    if bool in parts and text in ("true", "false"):
        return text == "true"
    if LengthOptions in parts and not text.lstrip().startswith("{"):
        return int(text) if text.isdecimal() else text
    if MethodOptions in parts and text in METHODS:
        return text
    if dict in parts or MethodOptions in parts or LengthOptions in parts:
        try:
            return parse_yaml(text)
        except NotYaml:
            raise InputError(f"{option_of(name)}: '{text}' is not a mapping; write it like '{{q_proj: 8}}'") from None
    whole = int in parts or any(type(part) is int for part in parts)
    number: type[int] | type[float] | None = int if whole else float if float in parts else None
    if list not in parts:
        return text if number is None else _number(text, number)
    if str in parts and (text == "all-linear" or re.search(r"[\\^$*+?()\[\]|]", text)):
        return text
    items = listed(text)
    return items if number is None else [_number(item, number) for item in items]


def _number(text: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text
