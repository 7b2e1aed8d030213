"""Puts keys that are given side by side, as options or keywords are, into the blocks of a plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from inspect import cleandoc
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..engines.registry import KEYS
from ..errors import InputError, nearest, shown
from ..methods.options import MethodOptions
from ..methods.registry import METHODS, RECIPES, method_block
from ..moments.options import RunOptions
from ..steps.generate_options import GenerateOptions
from ..steps.sharding.options import ShardingOptions
from .plan import Plan, words_explained

_OF_ENGINES = {name: field for keys in KEYS.values() for name, field in keys.fields.model_fields.items()}
BLOCKS: Mapping[str, type[BaseModel]] = {
    **{name: type(field.default) for name, field in _OF_ENGINES.items() if isinstance(field.default, BaseModel)},
    "generate": GenerateOptions,
    "sharding": ShardingOptions,
    "run": RunOptions,
}
"""The plan's blocks beside ``method``."""


IN_BLOCK_ALONE = ("block_size",)
"""Keys of a block that a method has, too. They stand in the block."""


def own_keys(block: str) -> dict[str, FieldInfo]:
    """The keys of a block that may stand beside the plan's. A block's name is the value of its own key.

    A test checks that no two blocks, nor one and the plan, share a key, but for engines: several may have one, which is
    of the plan's own engine.
    """
    fields = BLOCKS[block].model_fields.items()
    return {key: field for key, field in fields if key != "name" and key not in IN_BLOCK_ALONE}


Convert = Callable[[str, Any, Any], Any]
Question = TypeVar("Question", bound=Callable[..., Any])


@cache
def _listed() -> str:
    """The keys of a plan with their defaults and what they mean, a line each."""
    found = {}
    for name, field in Plan.model_fields.items():
        default = "" if field.is_required() or name in (*BLOCKS, "method") else f" (default {field.default})"
        found[f"{name}{default}"] = field.description or f"full (default), {', '.join(list(METHODS)[1:])}"
    found |= {f"keys of {name}": ", ".join(own_keys(name)) for name in BLOCKS}
    found["keys of the method, by PEFT's names"] = "r, target_modules, ..."
    return "\n".join(["Keys of a plan, as keywords:", *(f"    {name}: {about}" for name, about in found.items())])


def with_keys(question: Question) -> Question:
    """A function whose ``help`` lists the keys of a plan, which are its keywords."""
    if question.__doc__ is not None:  # python -OO
        question.__doc__ = f"{cleandoc(question.__doc__)}\n\n{_listed()}"
    return question


def mapping_of(plan: Any) -> dict[str, Any]:
    """The keys of a plan: a ``Plan``, a mapping of keys, or a model's name or path. Raises ``InputError``."""
    if isinstance(plan, str | os.PathLike):
        return {"model": os.fspath(plan)}
    if isinstance(plan, Plan):
        return plan.model_dump(exclude_unset=True)
    if not isinstance(plan, Mapping):
        raise InputError(f"a plan is a model's name, a Plan or a mapping of keys, not {shown(plan)}")
    if wrong := [key for key in plan if not isinstance(key, str)]:
        raise InputError(f"unknown key {shown(wrong[0])}; the keys of a plan are names")
    return dict(plan)


def _block_of(key: str, data: Mapping[str, Any]) -> str | None:
    """The block that a key beside the plan's belongs to. Of several engines' it is that of the plan's engine."""
    found = [block for block in BLOCKS if key in own_keys(block)]
    runtime = data.get("runtime")
    own = KEYS[runtime].fields.model_fields if isinstance(runtime, str) and runtime in KEYS else data
    return next((block for block in found if block in own), found[0] if found else None)


def nested(
    base: Mapping[str, Any], keys: Mapping[str, Any], convert: Convert = lambda name, value, annotation: value
) -> dict[str, Any]:
    """A plan's mapping: ``base`` overridden by ``keys``, which may be the plan's or those of its blocks.

    ``convert`` returns a key's value from its name, the value given and the key's type. Raises ``InputError`` for a
    key that is given twice, or that neither the plan nor a block has.
    """
    data, method = {name: _plain(value) for name, value in base.items()}, {}
    for name, value in sorted(keys.items(), key=lambda item: item[0] not in Plan.model_fields):
        value = _plain(value)
        own_to_method = name in _fields_of(data.get("method"))
        block = None if own_to_method else _block_of(name, data)
        if name in Plan.model_fields:
            data[name] = convert(name, value, Plan.model_fields[name].annotation)
        elif block is None:
            method[name] = value
        else:
            _refuse_twice(name, keys.get(block), block)
            own = data.get(block) or {}
            converted = convert(name, value, own_keys(block)[name].annotation)
            if isinstance(own, BaseModel):
                own = own.model_dump(exclude_unset=True)
            if isinstance(own, str) and "name" in BLOCKS[block].model_fields:
                own = {"name": own}
            data[block] = {**own, name: converted} if isinstance(own, Mapping) else own
    if method:
        data["method"] = _method(data.get("method", "full"), method, keys.get("method"), convert)
    return data


def _fields_of(method: Any) -> Mapping[str, FieldInfo]:
    """The options of a method that is given by its name or as a block; none of what is no method."""
    name = method.get("name") if isinstance(method, Mapping) else getattr(method, "name", method)
    return METHODS[name].model_fields if isinstance(name, str) and name in METHODS else {}


def _plain(value: Any) -> Any:
    """An array's values as Python's, and a path as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _method(given: Any, keys: Mapping[str, Any], beside: Any, convert: Convert) -> dict[str, Any]:
    """The block of the method ``given``, with ``keys`` added. ``beside`` is the block given among the same keys."""
    if isinstance(given, MethodOptions):
        given = {"name": given.name, **given.model_dump(exclude_unset=True)}
    with words_explained({"method": given}):
        block = method_block(given)
    name_of = RECIPES.get(block["name"], block["name"])
    if name_of not in METHODS:  # a method of the installed PEFT, whose keys PEFT checks
        return {**block, **keys}
    for name, value in keys.items():
        _refuse_twice(name, beside, "method")
        fields = METHODS[name_of].model_fields
        if name not in fields:
            fields = next((METHODS[one].model_fields for one in METHODS if name in METHODS[one].model_fields), {})
        if name not in fields:
            raise unknown(name, value)
        block[name] = convert(name, value, fields[name].annotation)
    return block


def _refuse_twice(name: str, block: Any, key: str) -> None:
    if isinstance(block, Mapping) and name in block:
        raise InputError(f"'{name}' is given twice, in the block {key} and beside it; keep one of them")


def unknown(name: str, value: Any = None) -> InputError:
    """The error for a key that nothing has. Raises ``InputError`` itself for a word that stands for other keys."""
    from .words import refuse_word

    refuse_word(name, value)
    known = [
        *Plan.model_fields,
        *(key for block in BLOCKS for key in own_keys(block)),
        *(key for options in METHODS.values() for key in options.model_fields),
    ]
    return InputError(f"unknown key '{name}'{nearest(name, dict.fromkeys(known))}; see `estimator estimate --help-all`")
