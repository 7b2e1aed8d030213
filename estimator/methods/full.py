"""Full fine-tuning."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..bases.formats import Base
from ..errors import InputError
from ..ledger.sizes import Size
from ..programs.config import Config
from ..programs.method import Method
from .options import MethodOptions


class FullMethod(MethodOptions):
    """Full fine-tuning."""

    title: ClassVar[str] = "full fine-tuning"
    peft: ClassVar[bool] = False
    name: Literal["full"] = "full"

    def check_base(self, base: Base, held_dtype: str, autocast: str | None) -> None:
        raise InputError(
            f"a base in {base.format} cannot be fine-tuned in full: packed weights have no gradient; "
            "add an adapter, as in method: lora"
        )

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        return Method()
