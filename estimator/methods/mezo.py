"""MeZO: zeroth-order optimization with in-place perturbations (arXiv 2305.17333)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import InputError
from .gradient_free import GradientFreeOptions

if TYPE_CHECKING:
    from ..plans.models import ModelSpec
    from ..plans.plan import Plan


class MezoMethod(GradientFreeOptions):
    """MeZO; with an ``adapter`` block, perturbations of the adapters only (as FwdLLM, arXiv 2308.13894)."""

    title: ClassVar[str] = "MeZO"
    procedure: ClassVar[str] = "zeroth-order"
    plan_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "sgd"}
    name: Literal["mezo"] = "mezo"

    def check_plan(self, plan: Plan, spec: ModelSpec) -> None:
        super().check_plan(plan, spec)
        if plan.optimizer != "sgd":
            raise InputError("MeZO updates in place as SGD does, without states; set optimizer: sgd")
