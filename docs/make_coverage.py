"""Compares estimates of every causal class of transformers with measured steps: ``make witness``.

Writes ``tests/data/coverage.tsv``, with a row for each class of ``tests/cases/causal_classes.py`` and each variant, and
``docs/coverage.md``. The table is written after every class, so a run that was stopped goes on with ``--from CLASS``.

    python docs/make_coverage.py [CLASS ...] [--from CLASS] [--variant NAME ...]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
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
from tests.helpers.coverage import QUANTITIES, TABLE, TOLERANCE, VARIANTS, Row, check, read_table  # noqa: E402

PAGE = ROOT / "docs" / "coverage.md"
SECONDS = 180
"""The limit for a class and a variant."""


def _checked(name: str, variants: Sequence[str]) -> list[Row]:
    """The rows of a class, from a process of its own."""
    context = multiprocessing.get_context("fork")  # it has the libraries already
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(name, variants, there))
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
    rows += [Row(name, v, "unmeasured", (), "the process ended or took too long") for v in variants[len(rows) :]]
    return rows


def _worker(name: str, variants: Sequence[str], pipe: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            pipe.send(check(name, variant, folder))


def rows_of(names: Sequence[str], variants: Sequence[str], workers: int) -> Iterator[list[Row]]:
    """The rows of each class, in the order of their names."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda name: _checked(name, variants), names)


def write_table(rows: Sequence[Row]) -> None:
    """Write the table."""
    releases = ", ".join(f"{k} {v}" for k, v in versions("torch", "transformers", "peft").items())
    lines = [
        f"# {date.today().isoformat()}; {releases}; {_processor()}; oneDNN multiplies in bfloat16: "
        + ("yes" if CPU.onednn_bfloat16 else "no"),
        "\t".join(("class", "variant", "found", *QUANTITIES, "reason")),
        *("\t".join((r.name, r.variant, r.found, *map(str, r.differences or [""] * 4), r.reason)) for r in rows),
    ]
    part = TABLE.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, TABLE)  # whole, even if this process is killed meanwhile


def write_page() -> None:
    """Write the page from the table."""
    head, rows = read_table()
    names = sorted({row.name for row in rows})
    lines = [
        "# Which models are answered",
        "",
        f"`AutoModelForCausalLM` of transformers builds {len(CLASSES) + len(NOT_RUN)} kinds of models. {len(CLASSES)} "
        "of them run a training step with token ids alone; each of these is a small one in "
        "`tests/cases/causal_classes.py`. `make witness` compares its estimate with a measured step on the CPU, "
        f"in {len(VARIANTS)} variants: weights, buffers, saved tensors and the peak, to {TOLERANCE} bytes. Where a "
        "class runs its experts one by one, tokens go to all of them evenly, in the estimate and in the measured step.",
        "",
        f"Last run: {head}.",
        "",
        "| variant | equal | apart | refused | cannot run, answered | cannot run, refused | equal, of those that run |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for variant in VARIANTS:
        count = Counter(row.found for row in rows if row.variant == variant)
        if not count:
            continue
        kinds = " | ".join(str(count[k]) for k in ("equal", "apart", "refused", "unmeasured", "neither"))
        run = sum(count[k] for k in ("equal", "apart", "refused"))
        lines.append(f"| {variant} | {kinds} | {100 * count['equal'] / run:.1f} % |")
    whole = [name for name in names if all(row.found in ("equal", "neither") for row in rows if row.name == name)]
    lines += [
        "",
        f"## Equal in every variant that runs: {len(whole)}",
        "",
        ", ".join(f"`{name}`" for name in whole) + ".",
    ]
    for found, title in (
        ("apart", "Apart from the measurement"),
        ("refused", "Refused"),
        ("unmeasured", "Answered, but the real step does not run"),
        ("neither", "Refused, and the real step does not run either"),
    ):
        some = [row for row in rows if row.found == found]
        if some:
            lines += ["", f"## {title}", "", "| class | variant | why, or bytes apart |", "| --- | --- | --- |"]
            for row in some:
                numbers = ", ".join(
                    f"{key} {n:+d}" for key, n in zip(QUANTITIES, row.differences or (0,) * 4, strict=True) if n
                )
                explained = WHY_NOT.get(row.name, "") if found != "neither" else ""
                why = "; ".join(filter(None, (row.reason or numbers, explained)))
                why = why.replace("|", "\\|").replace("<", "&lt;")
                lines.append(f"| `{row.name}` | {row.variant} | {why} |")
    lines += ["", "## Not asked", "", "| class | why |", "| --- | --- |"]
    lines += [f"| `{name}` | {why} |" for name, why in NOT_RUN.items()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Check classes, by default all, and write the table and the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="CLASS", choices=[*CLASSES, []])
    parser.add_argument("--from", dest="first", default="", metavar="CLASS")
    parser.add_argument("--variant", action="append", choices=VARIANTS)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    known = {(row.name, row.variant): row for row in read_table()[1]} if TABLE.is_file() else {}
    names = given.names or [name for name in sorted(CLASSES) if name >= given.first]
    for rows in rows_of(names, given.variant or list(VARIANTS), given.workers):
        known.update({(row.name, row.variant): row for row in rows})
        write_table([known[key] for key in sorted(known) if key[0] in CLASSES and key[1] in VARIANTS])
        print(rows[0].name, *(row.found for row in rows), flush=True)
    write_page()


if __name__ == "__main__":
    main()
