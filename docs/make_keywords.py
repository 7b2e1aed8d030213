"""Write the keys of a plan and of its blocks with their types, which an editor completes and a type checker checks."""

from __future__ import annotations

import collections.abc
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator

from estimator.bases.formats import FORMATS
from estimator.engines.llama_cpp.recipes import RECIPES
from estimator.io.fields import SPELLINGS, FloatName
from estimator.methods.registry import METHODS
from estimator.plans.flat import BLOCKS
from estimator.plans.plan import Plan

PATH = Path(__file__).parent.parent / "estimator" / "plans" / "keywords.py"
WIDTH = 120
FLOATS = get_args(FloatName)
HEAD = '''"""The keys of a plan and of its blocks, as keywords of Python's functions; written by ``make pages``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


# fmt: off
class OneDeviceKeys(TypedDict, total=False):
    """The keys of a plan for one device, of its blocks, and of every method."""

'''
ALL = '''

class PlanKeys(OneDeviceKeys, total=False):
    """The keys of a plan, of its blocks, and of every method."""

'''
ASKED_OTHERWISE = ("devices",)
"""Keys that some questions have a parameter of their own for."""


SPELT: Mapping[str, Callable[[Any], Iterable[str]]] = {
    "torch_dtype": lambda value: [short for short, name in SPELLINGS.items() if name == value],
    "_dashed": lambda value: [value, value.replace("-", "_")],
    "_lower": lambda value: [value, value.upper()],
}
"""The spellings of a name that a key takes, by the function that reads it. Other functions take any text."""


def literal(values: Sequence[Any], reader: str) -> list[str]:
    """The names that a key takes, in all their spellings, so that a checker finds a wrong one."""
    if reader and reader not in SPELT:
        return [f"Literal[{', '.join(map(repr, values))}]", "str"]
    spelt = [spelling for value in values for spelling in (SPELT[reader](value) if reader else [value])]
    return [f"Literal[{', '.join(map(repr, dict.fromkeys(spelt)))}]"]


def reader_of(metadata: Iterable[Any]) -> str:
    """The name of the function that reads a key's value before it is compared with the names; empty without one."""
    return next((one.func.__name__ for one in metadata if isinstance(one, BeforeValidator)), "")


def parts(annotation: Any, reader: str = "") -> list[str]:
    """The types that a key takes, in Python."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        return parts(inner, reader_of(metadata))
    if origin in (Union, UnionType):
        return [text for argument in get_args(annotation) for text in parts(argument, reader)]
    if origin is Literal:
        return literal(get_args(annotation), reader)
    if origin in (dict, collections.abc.Mapping) or annotation is dict:
        return ["Mapping[str, Any]"]
    if origin in (list, tuple, collections.abc.Sequence) or annotation is list:
        inner = dict.fromkeys(
            text for argument in get_args(annotation) if argument is not Ellipsis for text in parts(argument)
        )
        return [f"Sequence[{' | '.join(inner) or 'Any'}]"]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return ["Mapping[str, Any]"]
    if annotation is NoneType:
        return ["None"]
    if annotation in (int, float, str, bool):
        return [annotation.__name__]
    return ["Any"]


def keys() -> dict[str, list[str]]:
    """Each key with the types that it takes, the plan's first."""
    found: dict[str, list[str]] = {}
    for model in (Plan, *BLOCKS.values(), *METHODS.values()):
        for name, field in model.model_fields.items():
            if name == "name" and model is not Plan:
                continue
            texts = parts(field.annotation, reader_of(field.metadata))
            if name in ("method", "sharding"):
                texts = ["str", *texts]
            if name == "lengths":
                texts = ["str", *texts]
            if name == "dtype":  # read by ``plan.py: _dtype``
                texts = [*literal(FLOATS, "torch_dtype"), *literal(list(FORMATS), ""), *literal(RECIPES, "_lower")]
            found.setdefault(name, []).extend(texts)
    return {name: list(dict.fromkeys(texts)) for name, texts in found.items()}


def filled(types: str) -> str:
    """Types in lines as long as they may be."""
    indent = " " * 8
    return textwrap.fill(
        types, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def text() -> str:
    """The file."""
    lines: dict[bool, list[str]] = {False: [], True: []}
    for name, texts in keys().items():
        kept = ["Any"] if "Any" in texts else sorted(texts, key=lambda one: (one == "None", one == "str"))
        line = f"    {name}: {' | '.join(kept)}"
        line = line if len(line) <= WIDTH else f"    {name}: (\n{filled(' | '.join(kept))}\n    )"
        lines[name in ASKED_OTHERWISE].append(f"{line}\n")
    return HEAD + "".join(lines[False]) + ALL + "".join(lines[True])


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
