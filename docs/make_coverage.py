"""Compares estimates of every class of transformers with measured steps: ``make witness``.

Writes ``tests/data/coverage.tsv``, with a row for each class and each variant of each head, and ``docs/coverage.md``.
The table is written after every class, so a run that was stopped goes on with ``--from CLASS``. A class takes at most
``SECONDS`` for each of its variants.

    python docs/make_coverage.py [CLASS ...] [--head NAME ...] [--from CLASS] [--variant NAME ...]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from estimator.operators import CPU  # noqa: E402
from estimator.witnesses.machine import versions  # noqa: E402
from estimator.witnesses.measure import _processor  # noqa: E402
from tests.cases.causal_classes import CLASSES, NOT_RUN, WHY_NOT  # noqa: E402
from tests.cases.head_classes import WHY_APART  # noqa: E402
from tests.helpers.coverage import (  # noqa: E402
    HEADS_ASKED,
    QUANTITIES,
    TABLE,
    TOLERANCE,
    VARIANTS,
    Row,
    check,
    classes_of,
    read_table,
    variants_of,
)

PAGE = ROOT / "docs" / "coverage.md"
KINDS = ("causal-lm", *HEADS_ASKED)
SECONDS = 180
"""The limit for a class and a variant."""


def _checked(head: str, name: str, variants: Sequence[str]) -> list[Row]:
    """The rows of a class, from a process of its own."""
    context = multiprocessing.get_context("fork")  # it has the libraries already
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(head, name, variants, there))
    process.start()
    there.close()
    rows: list[Row] = []
    try:
        while len(rows) < len(variants) and here.poll(SECONDS):
            rows.append(here.recv())
    except EOFError:
        pass
    process.kill()
    process.join()
    rows += [Row(head, name, v, "unmeasured", (), "the process ended or took too long") for v in variants[len(rows) :]]
    return rows


def _worker(head: str, name: str, variants: Sequence[str], pipe: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            pipe.send(check(head, name, variant, folder))


def rows_of(asked: Sequence[tuple[str, str, Sequence[str]]], workers: int) -> Iterator[list[Row]]:
    """The rows of each head's class, in the order in which they are given, in some variants."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda one: _checked(*one), asked)


def dates_in(first: str) -> dict[str, str]:
    """When each head was asked, from the first line of the table: ``2026-11-29, of causal-lm 2026-11-27; ...``."""
    newest, *older = first.partition(";")[0].split(", of ")
    return {**dict.fromkeys(KINDS, newest), **dict(one.split() for one in older)}


def write_table(rows: Sequence[Row], dates: Mapping[str, str]) -> None:
    """Write the table. ``dates``: when each head was asked."""
    newest = max(dates.values())
    when = ", of ".join([newest, *(f"{kind} {day}" for kind, day in dates.items() if day != newest)])
    releases = ", ".join(f"{k} {v}" for k, v in versions("torch", "transformers", "peft").items())
    lines = [
        f"# {when}; {releases}; {_processor()}; oneDNN multiplies in bfloat16: "
        + ("yes" if CPU.onednn_bfloat16 else "no"),
        "\t".join(("head", "class", "variant", "found", *QUANTITIES, "reason")),
        *(
            "\t".join((r.head, r.name, r.variant, r.found, *map(str, r.differences or [""] * 4), r.reason))
            for r in rows
        ),
    ]
    part = TABLE.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, TABLE)  # whole, even if this process is killed meanwhile


def write_page() -> None:
    """Write the page from the table."""
    head, rows = read_table()
    lines = [
        "# Which models are answered",
        "",
        "transformers lists the classes of each head that people load by name (`AutoModelFor...`). `make witness` "
        "builds a small model of each, and compares its estimate with a measured step on the CPU: weights, buffers, "
        f"saved tensors and the peak, to {TOLERANCE} bytes. Where a class runs its experts one by one, tokens go to "
        "all of them evenly, in the estimate and in the measured step, and no layer is left out at random. oneDNN's "
        "scratch is left out of both.",
        "",
        f"Last run: {head}.",
        "",
        "| head | variant | equal | apart | refused | cannot run, answered | cannot run, refused | not asked yet "
        "| equal of run |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        for variant in variants_of(kind):
            count = Counter(row.found for row in rows if (row.head, row.variant) == (kind, variant))
            run = sum(count[k] for k in ("equal", "apart", "refused"))
            kinds = " | ".join(str(count[k]) for k in ("equal", "apart", "refused", "unmeasured", "neither"))
            share = f"{100 * count['equal'] / run:.1f} %" if run else ""
            lines.append(f"| {kind} | {variant} | {kinds} | {len(classes_of(kind)) - count.total()} | {share} |")
    lines += [
        "",
        f"Of causal models, {len(CLASSES)} of {len(CLASSES) + len(NOT_RUN)} kinds run a step with token ids alone "
        "(`tests/cases/causal_classes.py`). The classes of other heads have sizes by one rule "
        "(`tests/cases/head_classes.py`); where that makes no model that runs, the last table says why. A class that "
        "was not asked yet is in no list below.",
    ]
    for kind in KINDS:
        of_kind = [row for row in rows if row.head == kind]
        names = sorted({row.name for row in of_kind})
        whole = [n for n in names if all(row.found in ("equal", "neither") for row in of_kind if row.name == n)]
        whole = [n for n in whole if any(row.found == "equal" for row in of_kind if row.name == n)]
        if whole:
            listed = ", ".join(f"`{name}`" for name in whole)
            lines += ["", f"## {kind}: {len(whole)} equal in every variant that runs", "", f"{listed}."]
    for found, title in (
        ("apart", "Apart from the measurement"),
        ("refused", "Refused"),
        ("unmeasured", "Answered, but the real step does not run"),
        ("neither", "Refused, and the real step does not run either"),
    ):
        some = [row for row in rows if row.found == found]
        if some:
            lines += [
                "",
                f"## {title}",
                "",
                "| head | class | variant | why, or bytes apart |",
                "| --- | --- | --- | --- |",
            ]
            for row in some:
                numbers = ", ".join(
                    f"{key} {n:+d}" for key, n in zip(QUANTITIES, row.differences or (0,) * 4, strict=True) if n
                )
                whys = WHY_NOT if row.head == "causal-lm" else WHY_APART
                explained = whys.get(row.name, "") if found != "neither" else ""
                why = "; ".join(filter(None, (row.reason or numbers, explained)))
                why = why.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")  # no cell, tag or link
                lines.append(f"| {row.head} | `{row.name}` | {row.variant} | {why} |")
    lines += ["", "## Not asked", "", "| class | why |", "| --- | --- |"]
    lines += [f"| `{name}` | {why} |" for name, why in NOT_RUN.items()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Check classes, by default all, and write the table and the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="CLASS")
    parser.add_argument("--head", action="append", choices=KINDS)
    parser.add_argument("--from", dest="first", default="", metavar="CLASS")
    parser.add_argument("--variant", action="append", choices=VARIANTS)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    first, before = read_table() if TABLE.is_file() else ("", [])
    known, today = {row[:3]: row for row in before}, date.today().isoformat()
    dates = dates_in(first) if first else dict.fromkeys(KINDS, today)
    asked = [
        (head, name, [v for v in variants_of(head) if v in (given.variant or VARIANTS)])
        for head in given.head or KINDS
        for name in classes_of(head)
        if name in (given.names or [name]) and name >= given.first
    ]
    there = {(head, name, v) for head in KINDS for name in classes_of(head) for v in variants_of(head)}
    for rows in rows_of([one for one in asked if one[2]], given.workers):
        known.update({row[:3]: row for row in rows})
        dates[rows[0].head] = today
        write_table([known[key] for key in sorted(known) if key in there], dates)
        print(rows[0].head, rows[0].name, *(row.found for row in rows), rows[0].reason, flush=True)
    write_page()


if __name__ == "__main__":
    main()
