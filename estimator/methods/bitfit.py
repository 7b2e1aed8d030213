"""BitFit: the biases train, everything else is frozen (arXiv 2106.10199)."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..errors import InputError
from ..ledger import Size
from ..programs import Config, Method
from .options import MethodOptions


class BitfitMethod(MethodOptions):
    """BitFit: only biases train (PEFT has no class for it)."""

    title: ClassVar[str] = "BitFit"
    peft: ClassVar[bool] = False
    name: Literal["bitfit"] = "bitfit"

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        if not any(module.bias for module in config.modules.modules):
            raise InputError(
                "bitfit trains biases and this model has none; qwen2 has them, for example, and llama where the config "
                "sets attention_bias or mlp_bias"
            )
        return Bitfit()


class Bitfit(Method):
    """Only parameters whose path ends in .bias train."""

    def trains(self, path: str) -> bool:
        return path.endswith(".bias")
