"""How a figure is held against its witness: what differs is printed, with both values and the difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from estimator.ledger.events import Events
from estimator.programs import Method, Sizes, Step
from estimator.steps.step import run

TOTALS = ("parameters", "adapters", "buffers", "gradients", "optimizer", "saved", "trainable_parameters", "moments")


def figures_of_step(step: Step, sizes: Sizes, method: Method, batch: int, seq: int) -> dict[str, Any]:
    """The totals of a step, every moment, and how many allocations of each size there are."""
    ledger = step.ledger(unrolled=True)
    ledger.events = Events()
    totals = run(step, sizes, method, batch, seq, ledger=ledger)
    return {name: getattr(totals, name) for name in TOTALS} | {"allocations": Counter(ledger.events.sizes)}


def assert_figures(formula: Mapping[str, Any], witness: Mapping[str, Any], within: int | Mapping[str, int] = 0) -> None:
    """Every figure of ``witness`` is the formula's, in bytes, or ``within`` so many of it: all of them, or those named.

    A failure names each figure that differs, what the formula and the witness say, and by how much they differ.
    """
    __tracebackhide__ = True
    rows = [("figure", "formula", "witness", "difference")]
    for name, seen in witness.items():
        said, allowed = formula[name], within if isinstance(within, int) else within.get(name, 0)
        numbers = type(said) is type(seen) is int
        if abs(said - seen) <= allowed if numbers else said == seen:
            continue
        off = f"{said - seen:+,}" if numbers else "not equal"
        rows.append((name, _shown(said), _shown(seen), off + (f" ({allowed:,} allowed)" if allowed else "")))
    if len(rows) == 1:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    raise AssertionError("\n".join([f"{len(rows) - 1} of {len(witness)} figures differ, in bytes:", *table]))


def _shown(value: Any) -> str:
    return f"{value:,}" if type(value) is int else str(value)
