"""PEFT methods without rules here: the real module that PEFT wraps is recorded as a program, and run."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from .options import AdapterDtype, MethodOptions


class OtherMethod(MethodOptions):
    """Any other method of the installed PEFT. Its keys are those of PEFT's config class."""

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)
    title: ClassVar[str] = "a PEFT method without rules"
    open_sizes: ClassVar[bool] = False
    acts_on_programs: ClassVar[bool] = False
    adapter_dtype: AdapterDtype = "float32"

    def peft_options(self) -> dict[str, Any]:
        return {"task_type": "CAUSAL_LM", **(self.model_extra or {})}


@cache
def installed_methods() -> frozenset[str]:
    """Names of all methods of the installed PEFT, whose source is read, not imported; empty where none is installed."""
    package = find_spec("peft")
    if package is None or package.origin is None:
        return frozenset()
    source = Path(package.origin).parent / "utils" / "peft_types.py"
    _, _, types = source.read_text(encoding="utf-8").partition("class PeftType")
    types, _, _ = types.partition("\nclass ")  # of tasks
    return frozenset(name.lower() for name in re.findall(r'^    ([A-Z0-9_]+) = "', types, re.MULTILINE))
