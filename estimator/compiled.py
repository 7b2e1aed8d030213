"""Formulas: a plan's totals as polynomials, compiled once and evaluated for any batch and sequence.

One ledger run with symbols in place of sizes answers every plan of the same structure. A batch or
a sequence of one, and a sequence shorter than a sliding window, are other structures (copies turn
into views, masks appear), so a plan has a handful of *regimes*, each with formulas of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from .adapters.base import Method
from .architectures.base import Sizes
from .estimate import Resolved, layer_signature, resolve
from .methods import LoraMethod
from .plan import Plan
from .symbols import Poly, Size, dominates, symbol
from .training.step import StepOptions, StepTotals, run

COMPONENTS = ("parameters", "adapters", "buffers", "gradients", "optimizer", "saved", "resident")
"""Components of a result that have one formula each; the peak is a maximum over moments."""


@dataclass(frozen=True)
class Regime:
    """Where a set of formulas holds."""

    batch_one: bool = False
    seq_one: bool = False
    window_reached: bool | None = None
    """``None`` where no layer has a sliding window."""
    window: int | None = None

    def condition(self) -> str:
        """A Python expression in B and S that is true where the formulas hold."""
        parts = ["B == 1" if self.batch_one else "B >= 2", "S == 1" if self.seq_one else "S >= 2"]
        if self.window_reached is not None:
            parts.append(f"S {'>=' if self.window_reached else '<'} {self.window}")
        return " and ".join(parts)


@dataclass(frozen=True)
class Compiled:
    """A plan's totals as polynomials in B, S and, where left symbolic, the architecture's sizes."""

    plan: Plan
    regime: Regime
    totals: StepTotals
    values: Mapping[str, int]
    """What the architecture's symbols stand for in this plan (empty where they are filled in)."""

    def component(self, name: str) -> Size:
        """The formula of one of ``COMPONENTS``, in bytes."""
        if name == "resident":
            t = self.totals
            return t.parameters + t.buffers + t.optimizer
        value: Size = getattr(self.totals, name)
        return value

    def moments(self) -> list[tuple[str, Size]]:
        """(moment, bytes above resident), without those that another one is never below."""
        rows = [(name, value) for name, values in self.totals.moments.items() for value in values]
        kept: list[tuple[str, Size]] = []
        for name, value in rows:
            if any(dominates(other, value) for _, other in kept):
                continue
            kept = [(n, v) for n, v in kept if not dominates(value, v)]
            kept.append((name, value))
        return kept

    def evaluate(self, batch: Any, seq: Any) -> dict[str, Any]:
        """Component bytes, ``peak_above_resident`` and ``peak`` at batch and seq (integers or NumPy arrays)."""
        values = {**self.values, "B": batch, "S": seq}
        result = {name: _value(self.component(name), values) for name in COMPONENTS}
        above: Any = None
        for _, formula in self.moments():
            value = _value(formula, values)
            above = value if above is None else _maximum(above, value)
        result["peak_above_resident"] = above
        result["peak"] = result["resident"] + above
        return result


def _value(size: Size, values: Mapping[str, Any]) -> Any:
    return size.evaluate(values) if isinstance(size, Poly) else size


def _maximum(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    import numpy as np

    return np.maximum(a, b)


def regimes(plan: Plan) -> list[Regime]:
    """All regimes of a plan, the general one first."""
    config = resolve(plan).spec.config
    window = config.sliding_window if any(config.windowed_layers) else None
    found = []
    for reached in (None,) if window is None else (True, False):
        for batch_one in (False, True):
            for seq_one in (False, True):
                if window is not None and seq_one and (reached != (window <= 1)):
                    continue
                found.append(Regime(batch_one, seq_one, reached, window))
    return found


def regime_of(plan: Plan) -> Regime:
    """The regime a plan's own batch and sequence lie in."""
    config = resolve(plan).spec.config
    window = config.sliding_window if any(config.windowed_layers) else None
    return Regime(plan.batch == 1, plan.seq == 1, None if window is None else plan.seq >= window, window)


def compile_plan(plan: Plan, regime: Regime | None = None, symbolic: bool = False) -> Compiled:
    """The formulas of a plan. ``symbolic`` leaves the architecture's sizes and the rank open too.

    ``regime`` defaults to the one the plan's own batch and sequence lie in. Raises ``InputError``.
    """
    resolved = resolve(plan)
    regime = regime or regime_of(plan)
    options = replace(resolved.options, window_reached=bool(regime.window_reached))
    method: Method = resolved.method
    values: dict[str, int] = {}
    sizes = resolved.sizes(symbolic)
    if symbolic:
        values = resolved.spec.config.values()
        if isinstance(plan.method, LoraMethod):
            values["r"] = plan.method.r
            method = plan.method.build(resolved.spec.config, plan.dtype, symbol("r"))
    batch: Size = 1 if regime.batch_one else symbol("B")
    seq: Size = 1 if regime.seq_one else symbol("S")
    return Compiled(plan, regime, run(options, sizes, method, batch, seq, symbolic=True), values)
