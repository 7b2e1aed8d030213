"""Every key of a plan, and of its method, as a command-line option."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..methods import METHODS
from ..plan import Plan, parse_plan, read_plan_mapping

_METHOD_KEYS = {name: field for kind in METHODS.values() for name, field in kind.model_fields.items() if name != "name"}


def add_plan_options(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Add MODEL, ``--plan FILE`` and an option per key; ``without`` leaves keys to the command."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=Plan.model_fields["model"].description)
    parser.add_argument("--plan", metavar="FILE", type=Path, help="a plan as YAML or JSON; options override its keys")
    keys = parser.add_argument_group("plan")
    for name, field in Plan.model_fields.items():
        if name == "model" or name in without:
            continue
        if name == "method":
            keys.add_argument("--method", metavar="NAME|FILE", help="full, lora, ia3, or an adapter_config.json")
        else:
            _add(keys, name, field)
    method = parser.add_argument_group("method (PEFT's names)")
    for name, field in _METHOD_KEYS.items():
        _add(method, name, field)


def _add(group: Any, name: str, field: Any) -> None:
    option = f"--{name.replace('_', '-')}"
    default = "" if field.default is None else f" (default: {field.default})"
    text = f"{field.description or name}{default}".replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(option, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        choices = _choices(field.annotation)
        group.add_argument(option, dest=name, metavar="|".join(choices) or name.upper(), help=text)


def _choices(annotation: Any) -> list[str]:
    values = getattr(annotation, "__args__", ())
    flat = [inner for value in values for inner in (getattr(value, "__args__", None) or (value,))]
    return [value for value in flat if isinstance(value, str)]


def plan_mapping(args: argparse.Namespace) -> dict[str, Any]:
    """The plan's keys from a parsed command line, its ``--plan`` file included. Raises ``InputError``."""
    data: dict[str, Any] = read_plan_mapping(args.plan) if args.plan else {}
    for name in Plan.model_fields:
        value = getattr(args, name, None)
        if value is not None:
            data[name] = value
    given = {name: _value(name, value) for name in _METHOD_KEYS if (value := getattr(args, name, None)) is not None}
    if given:
        block = data.get("method", "full")
        if isinstance(block, str):
            from ..methods import read_adapter_config

            block = {"name": block} if block in METHODS else read_adapter_config(Path(block).expanduser())
        data["method"] = {**block, **given}
    if "model" not in data:
        raise InputError("no model given; name one that `estimator models` lists, a config.json, or a hub id")
    return data


def plan_from(args: argparse.Namespace) -> Plan:
    """The plan of a parsed command line. Raises ``InputError``."""
    return parse_plan(plan_mapping(args))


def _value(name: str, text: Any) -> Any:
    """An option's text as the method key wants it."""
    if not isinstance(text, str):
        return text
    annotation = str(_METHOD_KEYS[name].annotation)
    if "dict" in annotation:
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--{name.replace('_', '-')}: '{text}' is not a mapping; write it like '{{q_proj: 8}}'") from None
    if "list" not in annotation:
        return text
    is_pattern = text == "all-linear" or re.search(r"[\\^$*+?()\[\]|]", text)
    if "str" in annotation and is_pattern:
        return text
    return [part.strip() for part in text.split(",") if part.strip()]
