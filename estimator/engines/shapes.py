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

MOST_REGIMES = 4
"""How often what differs between shapes of the same symbols, such as which kernel runs, is made with symbols."""


class _Evaluated(Protocol):
    def at(self, values: Mapping[str, int]) -> Any:
        """The same where the symbols have these values."""


T = TypeVar("T", bound=_Evaluated)


def totals_of(job: Job, batch: Size, seq: Size) -> StepTotals:
    """The totals of a step of [batch, seq] tokens. Raises ``InputError``."""
    symbolic = has_symbols(job, batch, seq)
    return run(job.step, job.sizes(batch=batch, seq=seq), job.method, batch, seq, symbolic=symbolic)


def has_symbols(job: Job, batch: Size, seq: Size) -> bool:
    """Whether sizes of a step of [batch, seq] tokens are polynomials."""
    return job.method.open_rank or not (isinstance(batch, int) and isinstance(seq, int))


class Shapes(Generic[T]):
    """What ``make`` makes of steps that differ in batch, sequence and rank alone.

    It is made with symbols, and evaluated for each shape for which a run with numbers does the same. Where a rule needs
    the numbers of a shape, the rank alone is a symbol. For other shapes it is made with numbers; the first
    ``with_numbers`` are, too. The rank is a symbol from the second rank on.

    ``make`` takes symbols with a job at numbers that have the same formulas.
    """

    def __init__(self, make: Callable[[Job, Size, Size], T], with_numbers: int = 0) -> None:
        self._make, self._with_numbers = make, with_numbers
        self._ranks: set[int] = set()
        self._regimes: dict[Hashable, list[tuple[T, Taken]]] = {}
        self._all_made: set[Hashable] = set()
        """The symbols of which no more regimes are made."""

    def of(self, job: Job, batch: int, seq: int) -> T:
        """Of a step of [batch, seq] tokens. Raises ``InputError``."""
        job = job.at(batch, seq)
        self._with_numbers -= 1
        open_values = job.plan.method.open_values()
        self._ranks.update(open_values.values())
        is_open = len(self._ranks) > 1
        tokens, values = _tokens(job, seq)
        longest = getattr(job.spec.config, "longest", None) or seq
        ways: list[tuple[Size, Size]] = [(1 if batch == 1 else symbol("B"), tokens)]
        if not 1 < seq <= longest or values.get("C") == 1:
            ways.clear()
        ways += [(batch, seq)] * is_open
        for sizes in ways if self._with_numbers < 0 else ():
            found: T | None = self._with_symbols(job, sizes, is_open, {"B": batch, **values, **open_values})
            if found is not None:
                return found
        return self._make(job, batch, seq)

    def _with_symbols(self, job: Job, sizes: tuple[Size, Size], is_open: bool, values: Mapping[str, int]) -> Any:
        """What is made with symbols that are as they are at these values, and evaluated; ``None`` where a rule needs
        numbers.
        """
        open_values = job.plan.method.open_values()
        symbols = job.step, *sizes, is_open or repr(open_values)
        known = self._regimes.setdefault(symbols, [])
        if symbols not in self._all_made and not any(taken.holds(values) for _, taken in known):
            self._all_made.add(symbols)
            if job.knows(*sizes):
                with suppress(InputError), taking(values) as taken:  # a rule may need numbers
                    known.append((self._make(job.with_open_rank() if is_open else job, *sizes), taken))
                    if taken.holds(values) and len(known) < MOST_REGIMES:
                        self._all_made.remove(symbols)
        return next((made.at(values) for made, taken in known if taken.holds(values)), None)


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
