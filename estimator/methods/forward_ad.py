"""Forward gradients: forward-mode automatic differentiation along a random tangent (arXiv 2202.08587)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import InputError
from .gradient_free import GradientFreeOptions

if TYPE_CHECKING:
    from ..plans.models import ModelSpec
    from ..plans.plan import Plan


class ForwardAdMethod(GradientFreeOptions):
    """Forward gradients by ``torch.func.jvp``; with an ``adapter`` block, of the adapters only."""

    title: ClassVar[str] = "forward-mode differentiation"
    procedure: ClassVar[str] = "forward-mode"
    plan_defaults: ClassVar[Mapping[str, Any]] = {"attention": "eager"}
    name: Literal["forward-ad"] = "forward-ad"

    def check_plan(self, plan: Plan, spec: ModelSpec) -> None:
        super().check_plan(plan, spec)
        if plan.attention != "eager":
            raise InputError(
                "PyTorch's fused attention has no forward-mode formula (it raises NotImplementedError); "
                "set attention: eager"
            )
        activation = spec.raw.get("hidden_act", "silu")
        if activation not in ("silu", "swish"):
            raise InputError(f"forward-mode differentiation has no rule for hidden_act {activation} in this version")
        if plan.autocast is not None:
            raise InputError(
                "forward-mode differentiation has no rule for autocast in this version; leave autocast out "
                "and set dtype"
            )
