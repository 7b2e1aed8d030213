"""LN tuning as PEFT runs it (``peft/tuners/ln_tuning``; arXiv 2312.11420)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from ..ledger import Size
from ..programs import Builder, Config, Method, Module
from ..programs.module_table import Kind
from .base import AdapterMethod
from .options import TargetOptions


class LnTuningMethod(TargetOptions):
    """LN tuning (peft.LNTuningConfig)."""

    title: ClassVar[str] = "LN tuning"
    adapted: ClassVar[tuple[Kind, ...]] = ("norm", "linear", "embedding")
    name: Literal["ln_tuning"] = "ln_tuning"

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        return LnTuning(self._targets(config), self.saved, dtype)


class LnTuning(AdapterMethod):
    """Trains a copy of each norm, in the base's dtype. The norm itself stays in memory, unused."""

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        return copy() if self.saves(base.path) or base.path in self.targets else base
