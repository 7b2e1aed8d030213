"""Many plans in one call: plans of one structure share formulas that are compiled once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import InputError, TooLong, defect
from ..io.files import LONGEST_LINE, parse_json
from ..plans.flat import BLOCKS
from ..plans.plan import Plan, parse_plan
from ..plans.resolve import Resolved, resolve
from ..text import dumped
from .estimate import estimate
from .formulas import compile_plan, regime_of
from .result import COMPONENTS, Result, make_result

COMPILE_AFTER = 3
"""Plans of one structure that are answered one by one before its formulas are compiled, which takes as long as some
twenty single answers (``benchmarks/``)."""


def estimate_lines(lines: Iterable[str | bytes]) -> Iterator[str]:
    """A JSON answer to each line that is not empty: a result object, or ``{"error": ...}`` for whatever is wrong."""
    cache = FormulaCache()
    for line in lines:
        if not line.strip():
            continue
        try:
            if len(line) > LONGEST_LINE:
                raise InputError(f"the line is longer than {LONGEST_LINE:,} bytes; a plan takes some hundred")
            data = parse_json(line)
            if not isinstance(data, dict):
                raise InputError('the line is not a JSON object such as {"model": "llama-3.2-1b"}; is it cut off?')
            answer: dict[str, Any] = cache.estimate(parse_plan(data)).to_dict()
        except InputError as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": defect(error)}
        yield dumped(answer)


Totals = Callable[[Mapping[str, Any]], tuple[list[Any], list[Any]]]


class FormulaCache:
    """Answers plans, from formulas once several plans have had the same structure."""

    def __init__(self) -> None:
        self._resolved: dict[Any, Resolved] = {}
        self._structures: dict[Any, Any] = {}
        self._uses: dict[Any, int] = {}
        self._formulas: dict[Any, tuple[list[str], Totals] | None] = {}

    def estimate(self, plan: Plan) -> Result:
        """The result of ``estimate(plan)``, perhaps without moments that cannot be the peak. Raises ``InputError``."""
        is_one_formula = plan.open_sizes and not plan.piecewise
        has_more = any(block is not None for block in (plan.generate, plan.lengths, plan.run, plan.sharding))
        if not is_one_formula or has_more or not plan.engine.runs_steps or plan.engine.replays:
            return estimate(plan)
        regime = regime_of(resolve(plan))
        fields = plan.model_dump(exclude={"batch", "seq", "device", "budget", "model", "method", *BLOCKS})
        method = json.dumps(plan.method.model_dump())
        key = (plan.model, method, tuple(fields.values()), regime)
        if key not in self._resolved:
            resolved = resolve(plan)
            block = plan.method.model_dump(exclude=set(plan.method.open_values()))
            try:
                sizes = resolved.sizes(symbolic=True)
            except InputError:  # of the formulas; this plan may have an answer
                return estimate(plan)
            structure = sizes.structure
            self._resolved[key] = resolved
            self._structures[key] = (resolved.step, structure, json.dumps(block), regime)
        resolved, structure = self._resolved[key], self._structures[key]
        longest = getattr(resolved.spec.config, "longest", None)
        if longest is not None and plan.seq > longest:  # a formula holds up to there
            return estimate(plan)
        uses = self._uses[structure] = self._uses.get(structure, 0) + 1
        if uses <= COMPILE_AFTER:
            return estimate(plan)
        if structure not in self._formulas:
            try:
                compiled = compile_plan(plan, regime, symbolic=True)
            except TooLong:  # to compile the formulas, not to answer once
                self._formulas[structure] = None
            else:
                # All moments: evaluating a few more is cheaper than finding out which can never be the peak.
                rows = [(name, value) for name, values in compiled.totals.moments.items() for value in values]
                self._formulas[structure] = ([n for n, _ in rows], compiled.function([v for _, v in rows]))
        if (formulas := self._formulas[structure]) is None:
            return estimate(plan)
        names, totals = formulas
        values = {**resolved.spec.config.values(), **plan.method.open_values(), "B": plan.batch, "S": plan.seq}
        components, values_of_moments = totals(values)
        moments: dict[str, int] = {}
        for name, value in zip(names, values_of_moments, strict=True):
            moments[name] = max(value, moments.get(name, 0))
        return make_result(plan, resolved.spec, dict(zip(COMPONENTS, components, strict=True)), moments)
