"""MeZO: zeroth-order optimization with in-place perturbations (arXiv 2305.17333)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from .gradient_free import GradientFreeOptions


class MezoMethod(GradientFreeOptions):
    """MeZO. With an ``adapter`` block only the adapters are perturbed, as in FwdLLM (arXiv 2308.13894)."""

    title: ClassVar[str] = "MeZO"
    procedure: ClassVar[str] = "zeroth-order"
    plan_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "sgd"}
    name: Literal["mezo"] = "mezo"
