"""What is made of a plan's step, whatever its batch, sequence and rank: once with symbols, and evaluated."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from ..errors import InputError
from ..ledger import Size
from ..ledger.sizes import Taken, symbol, taking
from ..steps.step import StepTotals, run
from .engine import Job


class _Evaluated(Protocol):
    def at(self, values: Mapping[str, int]) -> Any:
        """The same where the symbols have these values."""


T = TypeVar("T", bound=_Evaluated)


def totals_of(job: Job, batch: Size, seq: Size) -> StepTotals:
    """The totals of a step of [batch, seq] tokens. Raises ``InputError``."""
    symbolic = not (isinstance(batch, int) and isinstance(seq, int))
    return run(job.step, job.sizes(batch=batch, seq=seq), job.method, batch, seq, symbolic=symbolic)


class Shapes(Generic[T]):
    """What ``make`` makes of steps that differ in batch, sequence and rank alone.

    It is made with symbols, and evaluated for each shape for which a run with numbers does the same. For other shapes
    it is made with numbers; the first ``with_numbers`` are, too. The rank is a symbol from the second rank on.

    ``make`` takes symbols with a job at numbers that have the same formulas.
    """

    def __init__(self, make: Callable[[Job, Size, Size], T], with_numbers: int = 0) -> None:
        self._make, self._with_numbers = make, with_numbers
        self._ranks: set[int] = set()
        self._regimes: dict[Hashable, tuple[T, Taken] | None] = {}

    def of(self, job: Job, batch: int, seq: int) -> T:
        """Of a step of [batch, seq] tokens. Raises ``InputError``."""
        job = job.at(batch, seq)
        self._with_numbers -= 1
        known, values = (None, {}) if self._with_numbers >= 0 else self._with_symbols(job, batch, seq)
        if known is None or not known[1].holds(values):
            return self._make(job, batch, seq)
        made: T = known[0].at(values)
        return made

    def _with_symbols(self, job: Job, batch: int, seq: int) -> tuple[tuple[T, Taken] | None, dict[str, int]]:
        """What is known of the regime of a shape, and the values of its symbols."""
        longest = getattr(job.spec.config, "longest", None) or seq
        tokens, values = _tokens(job, seq)
        if not 1 < seq <= longest or values.get("C") == 1:
            return None, values
        sizes: tuple[Size, Size] = (1 if batch == 1 else symbol("B"), tokens)
        open_values = job.plan.method.open_values()
        self._ranks.update(open_values.values())
        is_open = len(self._ranks) > 1
        regime = job.step, *sizes, is_open or repr(open_values)
        if regime not in self._regimes:
            self._regimes[regime] = None
            if job.knows(*sizes):
                with suppress(InputError), taking() as taken:  # a rule may need numbers
                    self._regimes[regime] = self._make(job.with_open_rank() if is_open else job, *sizes), taken
        return self._regimes[regime], {"B": batch, **values, **open_values}


def _tokens(job: Job, seq: int) -> tuple[Size, dict[str, int]]:
    """The sequence in symbols, and their values: S, or of chunks, C of these of which P tokens are missing."""
    chunk: int | None = job.spec.config.source.chunk_of(job.step)
    if chunk is None:
        return symbol("S"), {"S": seq}
    virtual = job.method.virtual_tokens
    chunks = -(-(seq + virtual) // chunk)
    values = {"C": chunks, "P": chunks * chunk - seq - virtual}
    padding: Size = symbol("P") if values["P"] else 0
    return chunk * symbol("C") - padding - virtual, values
