"""What modules say before anything runs: constants and tables, defaults of functions and of fields, and the keys of
plans with their limits. Numbers that are cited from a source stand in one place of the code, so they are recorded here
a second time (``tests/helpers/whole_answers.py``), folder by folder.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from pathlib import Path
from struct import Struct
from types import FunctionType, ModuleType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import estimator
from tests.helpers.whole_answers import Parts, said

FOLDERS = (
    *("answers", "bases", "engines", "export", "io", "ledger", "methods", "moments", "operators", "plans", "programs"),
    *("recorder", "show", "steps", "trainers", "witnesses"),
)
_PLACE = str(Path(estimator.__file__).parents[1])
"""Where the checkout is, of which files' paths are left out."""
WRITTEN = ("plans.keywords",)
"""Modules that a program writes."""


def questions(folder: str) -> Iterator[tuple[str, Callable[[], Parts]]]:
    """Each module of a folder with what it says."""
    package = f"{estimator.__name__}.{folder}"
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    for name in sorted([package, *(module.name for module in found)]):
        short = name.removeprefix(f"{estimator.__name__}.")
        if short not in WRITTEN and _says(module := importlib.import_module(name)):
            yield short, partial(_says, module)


def _says(module: ModuleType) -> Parts:
    constants = {name: getattr(module, name) for name in _constants(module)}
    kept = {
        name: one for name, one in constants.items() if not isinstance(one, (Path, Struct)) and _PLACE not in said(one)
    }
    found = {name: _in_order(one) for name, one in kept.items()}
    for name, one in sorted(vars(module).items()):
        if getattr(one, "__module__", "") != module.__name__:
            continue
        if isinstance(one, FunctionType):
            found |= _defaults(name, one)
        elif isinstance(one, type):
            found |= _of_class(name, one)
    return found


def _in_order(value: Any) -> Any:
    """A table by its keys, some of which come from sets."""
    if not isinstance(value, Mapping):
        return value
    by_name = sorted(value.items(), key=lambda item: said(item[0]))
    return {key: _field(one) if isinstance(one, FieldInfo) else one for key, one in by_name}


def _constants(module: ModuleType) -> Iterator[str]:
    """The names in capitals that a module gives a value, which is not empty: what is empty is filled later."""
    for line in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body:
        targets = (
            line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        )
        value = getattr(line, "value", None)
        empty = value is None or ast.unparse(value) in ("{}", "[]", "set()", "WeakKeyDictionary()")
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(one, ast.Name) and one.id.isupper() and not empty:
                    yield one.id


def _defaults(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """What a function takes where an argument is not given."""
    given = inspect.signature(function).parameters.values()
    found = {one.name: one.default for one in given if one.default is not inspect.Parameter.empty}
    return {f"{name}()": found} if any(value is not None for value in found.values()) else {}


def _of_class(name: str, kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if issubclass(kind, BaseModel):
        found |= {f"{name}.{key}": _field(field) for key, field in kind.model_fields.items()}
        found[name] = dict(kind.model_config)
    elif is_dataclass(kind):
        given = {one.name: one.default for one in fields(kind) if one.default is not MISSING}
        found |= {name: given} if given else {}
    elif defaults := getattr(kind, "_field_defaults", {}):
        found[name] = defaults
    own = [
        *getattr(kind, "model_fields", ()),
        *getattr(kind, "__dataclass_fields__", ()),
        *getattr(kind, "_fields", ()),
    ]
    made = ("__init__", "__replace__") if is_dataclass(kind) or issubclass(kind, BaseModel) else ("__new__", "_replace")
    for key, one in sorted(vars(kind).items()):
        if isinstance(one, FunctionType) and one.__qualname__.startswith(kind.__qualname__) and key not in made:
            found |= _defaults(f"{name}.{key}", one)
        elif isinstance(one, (bool, int, str, tuple, frozenset)) and not key.startswith("__") and key not in own:
            found[f"{name}.{key}"] = one
    return found


def _field(field: FieldInfo) -> str:
    """A key of a plan in words that no release of pydantic changes."""
    default = "required" if field.is_required() else said(field.get_default(call_default_factory=True))
    return f"{_type(field.annotation)} = {default} [{', '.join(map(_limit, field.metadata))}] {field.description}"


def _limit(found: Any) -> str:
    if isinstance(found, FieldInfo):
        return ", ".join(map(_limit, found.metadata))
    function = getattr(found, "func", None)
    return f"{type(found).__name__} {function.__name__}" if function else re.sub(r" at 0x\w+", "", repr(found))


def _type(found: Any) -> str:
    if isinstance(found, type) and not get_args(found):
        return found.__name__
    if get_origin(found) in (Literal, None):
        return str(found)
    first, *others = get_args(found)
    if get_origin(found) is Annotated:
        return f"{_type(first)} [{', '.join(map(_limit, others))}]"
    kind = "Union" if get_origin(found) is UnionType else getattr(get_origin(found), "__name__", str(get_origin(found)))
    return f"{kind}[{', '.join(map(_type, (first, *others)))}]"


GROUPS: dict[str, Callable[[Path], Iterator[tuple[str, Callable[[], Any]]]]] = {
    f"modules_{folder}": lambda _, folder=folder: questions(folder) for folder in FOLDERS
}
