"""An exported formula: its terms, the moments of its maximum, the condition where it holds, and its symbols."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..answers.formulas import COMPONENTS, Compiled, Regime
from ..answers.torch_cuda import context_of
from ..ledger import Size
from ..ledger.sizes import Poly, Symbol, dominates, registered, symbol
from ..operators.cuda.cublas import workspaces
from ..plans.plan import Plan
from ..plans.resolve import resolve

EXPORTED: Mapping[str, str] = {
    "parameters": "all parameters, adapters included",
    "adapters": "parameters that the method adds",
    "buffers": "buffers of the model, such as rotary frequencies",
    "gradients": "all gradients at the end of backward",
    "optimizer": "optimizer states after the first step",
    "saved": "activations saved for backward",
    "kv_cache": "keys and values that the model returns (task infer)",
    "resident": "parameters, buffers and optimizer states, before the step",
    "peak_above_resident": "the most that a step holds at once above resident",
    "peak": "the most that a step holds at once, resident included",
    "allocated_at_least": "the least that torch.cuda.max_memory_allocated can be (runtime torch-cuda)",
    "process_at_least": "allocated_at_least and the CUDA context: a card with less cannot run it (runtime torch-cuda)",
}
"""The formulas that can be exported, with their meanings. All are numbers of bytes."""


def exported(plan: Plan) -> list[str]:
    """The formulas of ``EXPORTED`` that the plan's task and runtime have."""
    missing = {"kv_cache"} if plan.task != "infer" else set()
    missing |= set(_FLOORS) if plan.runtime != "torch-cuda" else set()
    return [name for name in EXPORTED if name not in missing]


_FLOORS = ("allocated_at_least", "process_at_least")

_SMALLEST = {"K": 2, "G": 2, "L": 4}
"""The least value of a symbol for which a symbolic formula holds. With one head or one group, copies become views. The
layers between the first and the last two are counted as equal."""

Powers = list[tuple[Symbol, int]]
Terms = list[tuple[int | Fraction, Powers]]
Groups = list[tuple[Powers, Terms]]


@dataclass(frozen=True)
class Formula:
    """Bytes = ``base`` + the largest of ``moments``, if there are any.

    With moments, the base is the bytes before the step (``resident``); on torch-cuda it can include cuBLAS's workspaces
    and the CUDA context.
    """

    component: str
    plan: Plan
    regime: Regime
    base: Size
    moments: tuple[tuple[str, Size], ...]
    """(moment, bytes above resident); empty for components that have one formula."""
    values: Mapping[str, int]
    """The values of the architecture's symbols in the plan's model; empty if the formula is not symbolic."""
    fixed: Mapping[str, int]
    """Sizes that could not be left symbolic: the depth, if it is four layers or fewer or the layers differ; a single
    head or group, which has formulas of another structure; on torch-cuda the head's size, by which kernels are
    chosen."""

    @property
    def base_name(self) -> str:
        """The name of the base in front of moments."""
        return "resident" if self.component == "peak" else "base"

    def symbols(self) -> list[Symbol]:
        """The symbols in the formula, and the arguments of those that are functions."""
        names: set[str] = set()
        for size in (self.base, *(value for _, value in self.moments)):
            names |= size.symbols() if isinstance(size, Poly) else set()
        names |= {argument for name in names for argument in registered(name).arguments}
        return sorted((registered(name) for name in names), key=lambda s: s.index)

    def condition(self) -> str:
        """A Python expression that is true where the formula holds."""
        return " and ".join([self.regime.condition(), *bounds(self.symbols())])


def formula(compiled: Compiled, component: str) -> Formula:
    """The formula of one of ``EXPORTED``, in bytes, where the compiled regime holds."""
    moments: list[tuple[str, Size]] = []
    base: Size = 0
    if component in COMPONENTS:
        base = compiled.component(component)
    else:
        moments = compiled.moments
        if not compiled.values:  # with symbolic sizes it takes seconds and leaves out few
            moments = undominated(moments, compiled.regime)
        if component != "peak_above_resident":
            base = compiled.component("resident")
        if component in _FLOORS:
            base += floors(compiled.plan)[component]
    parameters = compiled.component("parameters")
    free = parameters.symbols() if isinstance(parameters, Poly) else set()
    values = {name: value for name, value in compiled.values.items() if name in free}
    fixed = {name: value for name, value in compiled.values.items() if name not in free}
    return Formula(component, compiled.plan, compiled.regime, base, tuple(moments), values, fixed)


def floors(plan: Plan) -> dict[str, int]:
    """On a GPU: the bytes beside the peak that each of ``_FLOORS`` counts, cuBLAS's workspaces and the context."""
    resolved = resolve(plan)
    held = workspaces(resolved.step.procedure.runs_backward) * resolved.step.device.cublas_workspace
    return dict(zip(_FLOORS, (held, held + context_of(plan)), strict=True))


def undominated(moments: list[tuple[str, Size]], regime: Regime) -> list[tuple[str, Size]]:
    """The moments, without those that are never more than the largest of the others in the regime.

    ``dominates`` assumes that symbols are at least 1; here B and S are at least 2, and N at least 3.
    """
    first = max(2, regime.window or 1) if regime.window_reached else 2
    shift: dict[str, Size] = {"B": symbol("B") + 1, "S": symbol("S") + (first - 1), "N": symbol("N") + 2}
    shifted = [value.substitute(shift) if isinstance(value, Poly) else value for _, value in moments]
    kept: list[int] = []
    for i, value in enumerate(shifted):
        if any(dominates(shifted[j], value) for j in kept):
            continue
        kept = [j for j in kept if not dominates(value, shifted[j])]
        kept.append(i)
    for i in list(kept):
        others = [shifted[j] for j in kept if j != i]
        if any(_mean_covers(a, b, shifted[i]) for n, a in enumerate(others) for b in others[:n]):
            kept.remove(i)
    return [moments[i] for i in kept]


def _mean_covers(a: Size, b: Size, c: Size) -> bool:
    """Whether some weighted mean of ``a`` and ``b`` has no coefficient below that of ``c``: then c <= max(a, b)."""
    of_a, of_b, of_c = (x.terms if isinstance(x, Poly) else {0: x} for x in (a, b, c))
    least, most = Fraction(0), Fraction(1)  # of the weight of a
    for key in {*of_a, *of_b, *of_c}:
        base = of_b.get(key, 0)
        slope, needed = of_a.get(key, 0) - base, of_c.get(key, 0) - base
        if slope > 0:
            least = max(least, Fraction(needed, slope))
        elif slope < 0:
            most = min(most, Fraction(needed, slope))
        elif needed > 0:
            return False
        if least > most:
            return False
    return True


def bounds(symbols: Sequence[Symbol], least: int = 2) -> list[str]:
    """Lower bounds of the architecture's symbols as Python expressions, without those below ``least``."""
    limits = (
        (s.name, _SMALLEST.get(s.name, 1)) for s in symbols if s.name not in ("B", "S", "N") and s.function is None
    )
    return [f"{name} >= {limit}" for name, limit in limits if limit >= least]


def plan_summary(plan: Plan) -> dict[str, Any]:
    """The keys of a plan that its formulas depend on."""
    keys = plan.model_dump(mode="json", exclude={"batch", "seq", "device", "budget", "method"})
    method = {"name": plan.method.name, **plan.method.model_dump(mode="json", exclude_defaults=True)}
    return {**keys, "method": method}


def plan_line(plan: Plan) -> str:
    """``plan_summary`` as one line of JSON, without the less usual keys that have their defaults.

    The line is ASCII, so that a line break in a file's name cannot end a comment.
    """
    named = {"model", "dtype", "attention", "method"}
    if plan.task == "train":
        named |= {"checkpointing", "optimizer"}
    named |= plan.model_dump(exclude_defaults=True).keys()
    return json.dumps({key: value for key, value in plan_summary(plan).items() if key in named})


def fixed_line(f: Formula) -> str:
    """The sizes that could not be left symbolic, e.g. ``L = 4 (layers)``."""
    return ", ".join(f"{name} = {value} ({registered(name).meaning})" for name, value in f.fixed.items())


def legend(formulas: Sequence[Formula]) -> dict[Symbol, int | None]:
    """The symbols of several formulas in order, each with its value in the plan's model, if it has one."""
    found = {s: f.values.get(s.name) for f in formulas for s in f.symbols()}
    return dict(sorted(found.items(), key=lambda item: item[0].index))


def terms(size: Size) -> Terms:
    """Terms (coefficient, [(symbol, exponent), ...]), the highest degree first; whole coefficients are ``int``."""
    if isinstance(size, int):
        return [(size, [])] if size else []
    return [(int(c) if c.denominator == 1 else c, powers) for c, powers in size.monomials()]


def grouped(rows: Terms) -> Groups:
    """Terms grouped by their factor in batch, lengths and functions of these: [(factor, remaining terms)]."""
    groups: dict[tuple[tuple[Symbol, int], ...], Terms] = defaultdict(list)
    for coefficient, powers in rows:
        outer = tuple(p for p in powers if _is_outer(p[0]))
        groups[outer].append((coefficient, [p for p in powers if not _is_outer(p[0])]))
    ordered = sorted(groups.items(), key=lambda g: (-sum(e for _, e in g[0]), [(s.index, -e) for s, e in g[0]]))
    return [(list(outer), inner) for outer, inner in ordered]


def _is_outer(s: Symbol) -> bool:
    return s.name in ("B", "S", "N") or s.function is not None


def product_source(powers: Powers) -> str:
    """A product in Python's notation, e.g. ``B*S**2``; empty without factors."""
    return "*".join(s.name if e == 1 else f"{s.name}**{e}" for s, e in powers)


def group_source(outer: Powers, inner: Terms) -> str:
    """One group in Python's notation, e.g. ``B*S*(4*H + 2*V)``. Coefficients must be whole."""
    if outer and len(inner) > 1:
        return f"{product_source(outer)}*({_sum_source(inner)})"
    return _sum_source([(coefficient, [*outer, *powers]) for coefficient, powers in inner])


def source(size: Size) -> str:
    """A size in Python's notation, grouped, in exact integer arithmetic."""
    rows = terms(size)
    divisor = math.lcm(*(c.denominator for c, _ in rows))
    text = join_signed([group_source(*g) for g in grouped([(int(c * divisor), powers) for c, powers in rows])])
    return text if divisor == 1 else f"({text})//{divisor}"


def _sum_source(rows: Terms) -> str:
    parts = []
    for coefficient, powers in rows:
        names = product_source(powers)
        if names and abs(coefficient) == 1:
            parts.append(names if coefficient > 0 else f"-{names}")
        else:
            parts.append(f"{coefficient}*{names}" if names else str(coefficient))
    return join_signed(parts)


def join_signed(parts: Sequence[str], between: str = " ") -> str:
    """A sum of parts, where a negative part is subtracted."""
    text = parts[0] if parts else "0"
    for part in parts[1:]:
        text += f"{between}- {part.removeprefix('-').lstrip()}" if part.startswith("-") else f"{between}+ {part}"
    return text
