"""PyTorch's floating dtypes by the names that people type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

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
"""PyTorch's name by spelling in lower case; a ``torch.`` before it is left out."""


def torch_dtype(value: Any) -> Any:
    """PyTorch's name of a dtype; what is none, as it is."""
    return SPELLINGS.get(value.lower().removeprefix("torch."), value) if isinstance(value, str) else value


FloatDtype = Annotated[Literal["float32", "bfloat16", "float16"], BeforeValidator(torch_dtype)]
