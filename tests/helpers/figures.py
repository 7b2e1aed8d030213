"""How a figure is held against its witness: what differs is printed, with both values and the difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def assert_figures(formula: Mapping[str, Any], witness: Mapping[str, Any], **within: int) -> None:
    """Every figure of ``witness`` is the formula's. Those named in ``within`` may be so many bytes off.

    A failure names each figure that differs, what the formula and the witness say, and by how many bytes they differ.
    """
    __tracebackhide__ = True
    rows = [("figure", "formula", "witness", "difference")]
    for name, seen in witness.items():
        expected, allowed = formula[name], within.get(name, 0)
        numbers = type(expected) is type(seen) is int
        if abs(expected - seen) <= allowed if numbers else expected == seen:
            continue
        off = f"{expected - seen:+,} bytes" if numbers else "not equal"
        rows.append((name, _shown(expected), _shown(seen), off + (f", {allowed:,} allowed" if allowed else "")))
    if len(rows) == 1:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    raise AssertionError("\n".join([f"{len(rows) - 1} of {len(witness)} figures differ:", *table]))


def _shown(value: Any) -> str:
    return f"{value:,}" if type(value) is int else str(value)
