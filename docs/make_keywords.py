"""Write ``estimator/plans/keywords.py``: the keys of a plan and of its blocks as keywords that an editor completes."""

from __future__ import annotations

import collections.abc
import subprocess
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from estimator.methods.registry import METHODS
from estimator.plans.flat import BLOCKS
from estimator.plans.plan import Plan

PATH = Path(__file__).parent.parent / "estimator" / "plans" / "keywords.py"
HEAD = '''"""The keys of a plan and of its blocks, as keywords of Python's functions; written by ``make pages``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class PlanKeys(TypedDict, total=False):
    """The keys of a plan, of its blocks ``generate`` and ``llama_cpp``, and of every method."""

'''


def parts(annotation: Any) -> list[str]:
    """The types that a key takes, in Python."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return parts(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [text for argument in get_args(annotation) for text in parts(argument)]
    if origin is Literal:
        # Names are also taken in other spellings: bf16, or capitals.
        values = get_args(annotation)
        return [
            f"Literal[{', '.join(repr(v) for v in values)}]",
            *(["str"] if isinstance(values[0], str) else []),
        ]
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
            texts = parts(field.annotation)
            if name in ("method",):
                texts = ["str", *texts]
            if name == "lengths":
                texts = ["str", *texts]
            found.setdefault(name, []).extend(texts)
    return {name: list(dict.fromkeys(texts)) for name, texts in found.items()}


def text() -> str:
    """The file."""
    lines = []
    for name, texts in keys().items():
        kept = ["Any"] if "Any" in texts else sorted(texts, key=lambda one: (one == "None", one == "str"))
        lines.append(f"    {name}: {' | '.join(kept)}")
    return HEAD + "\n".join(lines) + "\n"


def formatted(source: str) -> str:
    """The source, in the form that the linter wants."""
    command = [str(Path(sys.executable).parent / "ruff"), "format", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    PATH.write_text(formatted(text()), encoding="utf-8")
