"""Forward gradients: forward-mode automatic differentiation along a random tangent (arXiv 2202.08587)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from .gradient_free import GradientFreeOptions


class ForwardAdMethod(GradientFreeOptions):
    """Forward gradients by ``torch.func.jvp``. With an ``adapter`` block they are those of the adapters only."""

    title: ClassVar[str] = "forward-mode differentiation"
    procedure: ClassVar[str] = "forward-mode"
    plan_defaults: ClassVar[Mapping[str, Any]] = {"attention": "eager"}
    name: Literal["forward-ad"] = "forward-ad"
