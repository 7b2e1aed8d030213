"""MeZO: zeroth-order optimization with in-place perturbations (arXiv 2305.17333)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from .gradient_free import GradientFreeOptions


class MezoMethod(GradientFreeOptions):
    """MeZO; with an ``adapter`` block, perturbations of the adapters only (as FwdLLM, arXiv 2308.13894)."""

    title: ClassVar[str] = "MeZO"
    procedure: ClassVar[str] = "zeroth-order"
    plan_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "sgd"}
    name: Literal["mezo"] = "mezo"
