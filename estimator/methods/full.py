"""Full fine-tuning."""

from typing import ClassVar, Literal

from ..ledger import Size
from ..programs import Config, Method
from .options import MethodOptions


class FullMethod(MethodOptions):
    """Full fine-tuning."""

    title: ClassVar[str] = "full fine-tuning"
    peft: ClassVar[bool] = False
    name: Literal["full"] = "full"

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        return Method()
