"""The types of values in plans and options, and how a block of options is checked."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ByteSize, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core.core_schema import CoreSchema, no_info_plain_validator_function

from ..errors import InputError, nearest, shown

Options = TypeVar("Options", bound=BaseModel)


def _whole(value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ValueError("must be a whole number")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("input should be a valid string")


class Block:
    """A plan's field whose value a function checks; it returns the options or raises ``ValueError``.

    Pydantic then builds the model of such a block only for plans that have the block: start-up is 0.2 s faster.
    ``kinds``: the models that the block may be, where they are not the field's type. A name stands for a block, too.
    """

    def __init__(self, check: Callable[[Any], BaseModel], kinds: Callable[[], Iterable[type[BaseModel]]] = tuple):
        self._check, self._kinds = check, kinds

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        self._source = source
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: Any) -> dict[str, Any]:
        blocks = list(self._kinds()) or [self._source]
        for kind in blocks:
            kind.model_rebuild()
        return {"anyOf": [{"type": "string"}, *(handler(kind.__pydantic_core_schema__) for kind in blocks)]}


Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer, also one of NumPy's; no float, text or bool."""
FileName = Annotated[str, PlainValidator(_text)]
"""A file's name, which need not be UTF-8: pydantic's ``str`` refuses the lone surrogates that Python reads then."""
Name = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Rank = Annotated[Whole, Field(ge=1, le=10**6)]

SPELLINGS: Mapping[str, str] = {
    "float32": "float32",
    "float": "float32",
    "fp32": "float32",
    "f32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "half": "float16",
    "fp16": "float16",
    "f16": "float16",
}
"""PyTorch's name of a dtype, by its spelling in lower case without ``torch.``."""


def torch_dtype(value: Any) -> Any:
    """PyTorch's name of a dtype; other values are returned as they are."""
    return SPELLINGS.get(value.lower().removeprefix("torch."), value) if isinstance(value, str) else value


FloatName = Literal["float32", "bfloat16", "float16"]
FloatDtype = Annotated[FloatName, BeforeValidator(torch_dtype)]

_SIZE = r"(?i)\s*[0-9]{1,15}(\.[0-9]{1,15})?\s*([kmgtpe]i?)?b\s*"


def parse_size(text: str) -> int:
    """The bytes of a size with a unit, such as 24GiB, 8 GB or 512MiB. Raises ``InputError``."""
    if not re.fullmatch(_SIZE, text.strip().removeprefix("-")):
        raise InputError(f"size '{text}' is not a number with a unit; write it like 24GiB, 8GB or 512MiB")
    value = int(TypeAdapter(ByteSize).validate_python(re.sub(r"[\s-]", "", text)))
    if value < 1 or text.lstrip().startswith("-"):
        raise InputError(f"size '{text}' is not positive; write it like 24GiB")
    return value


def checked(kind: type[Options], data: Mapping[str, Any], owner: str = "", prefix: str = "") -> Options:
    """A block of keys as its pydantic model. Raises ``InputError`` about the first key that is wrong.

    In messages ``owner`` is the block's name, and ``prefix`` stands before its keys.
    """
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        raise InputError(_explain(error, list(kind.model_fields), owner, prefix)) from None


def block_reader(options: type[Options], key: str, example: str) -> Callable[[Any], Options]:
    """A function that checks the options of a plan's block; it raises ``InputError``."""

    def read(value: Any) -> Options:
        if isinstance(value, options):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"{key} must be a block such as {example}")
        return checked(options, value, key, f"{key}.")

    return read


def _explain(error: ValidationError, known: list[str], owner: str, prefix: str) -> str:
    rows = error.errors()
    # A key with several types has an error for each; the longest path belongs to the type that came closest.
    worst = max(rows, key=lambda row: len(row["loc"]))
    cause = worst.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # raised for a nested block
        return str(cause)
    name = str(worst["loc"][0])
    key = prefix + name
    if worst["type"] == "extra_forbidden":
        of = f" of {owner}" if owner else ""
        return f"unknown key '{key}'{of}{nearest(name, known)}; known keys are {', '.join(known)}"
    if worst["type"] == "missing":
        return f"'{key}' is missing; add it to the plan"
    choices = [row["ctx"]["expected"] for row in rows if row["type"] == "literal_error"]
    if len(choices) > 1 and all(str(row["loc"][0]) == name for row in rows):
        known_values = ", ".join(choices).replace(" or ", ", ")
        return f"{key}: input should be one of {known_values}, not {shown(worst['input'])}"
    problem = worst["msg"].removeprefix("Value error, ")
    return f"{key}: {problem[0].lower()}{problem[1:]}, not {shown(worst['input'])}"
