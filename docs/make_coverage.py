"""Compares estimates of every causal class of transformers with measured steps: ``make witness``.

Writes ``tests/data/coverage.tsv``, with a row for each class of ``tests/cases/causal_classes.py`` and each variant, and
``docs/coverage.md``. Names of classes as arguments: only their rows are written anew.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from estimator.answers.estimate import estimate  # noqa: E402
from estimator.errors import InputError  # noqa: E402
from estimator.operators import CPU  # noqa: E402
from estimator.plans.plan import parse_plan  # noqa: E402
from estimator.plans.resolve import resolve  # noqa: E402
from estimator.witnesses.measure import _processor, _versions, run_step  # noqa: E402
from tests.cases.causal_classes import CLASSES  # noqa: E402

TABLE = ROOT / "tests" / "data" / "coverage.tsv"
PAGE = ROOT / "docs" / "coverage.md"
VARIANTS: dict[str, dict[str, Any]] = {
    "full float32": {"dtype": "float32"},
    "full bfloat16": {"dtype": "bfloat16"},
    "LoRA float32": {"dtype": "float32", "method": {"name": "lora", "r": 4, "target_modules": "all-linear"}},
    "eager float32": {"dtype": "float32", "attention": "eager"},
    "checkpointed float32": {"dtype": "float32", "checkpointing": "layer"},
}
QUANTITIES = ("parameters", "buffers", "saved", "peak_above_resident")
TOLERANCE = 64
"""Bytes. PyTorch's allocator rounds a block up to so many; the numbers of an empty tensor's block depend on it."""
ORDINARY = 100
"""Token ids below it have no meaning of their own in any of the classes' configs."""
SECONDS = 180
"""The limit for a class."""


class Row(NamedTuple):
    """What was found for a class and a variant: ``equal``, ``apart``, ``refused`` or ``unmeasured``."""

    name: str
    variant: str
    found: str
    differences: tuple[int, ...] = ()
    """The estimate less the measurement, of each of ``QUANTITIES``."""
    reason: str = ""


def check(name: str, variant: str, folder: str) -> Row:
    """Compare an estimate with a measured step."""
    path = Path(folder) / f"{name}.json"
    path.write_text(json.dumps({**CLASSES[name], "model_type": name}))
    seq = 11 if name == "reformer" else 12  # it takes multiples of 11
    try:
        plan = parse_plan({"model": str(path), "batch": 2, "seq": seq, **VARIANTS[variant]})
        estimated = estimate(plan).bytes
    except InputError as error:
        return Row(name, variant, "refused", (), _plain(error, folder))
    except Exception as error:
        return Row(name, variant, "apart", (), f"the estimate fails: {type(error).__name__}: {_plain(error, folder)}")
    try:
        measured = run_step(resolve(plan), ORDINARY)
    except Exception as error:
        return Row(name, variant, "unmeasured", (), f"{type(error).__name__}: {_plain(error, folder)}")
    differences = [estimated[key] - measured[key] for key in QUANTITIES]
    without = estimated["peak_above_resident"] - measured["peak_without_matmul_scratch"]
    differences[-1] = min(differences[-1], without, key=abs)
    equal = not any(differences[:2]) and all(abs(n) <= TOLERANCE for n in differences)
    return Row(name, variant, "equal" if equal else "apart", tuple(differences))


def _plain(error: Exception, folder: str) -> str:
    text = " ".join(str(error).split()).replace(f"{folder}/", "")
    return text if len(text) <= 160 else text[:157] + "..."


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


def rows_of(names: Sequence[str], variants: Sequence[str] = tuple(VARIANTS), workers: int = 2) -> Iterator[Row]:
    """The rows of classes, in the order of their names."""
    with ThreadPoolExecutor(workers) as pool:
        for rows in pool.map(lambda name: _checked(name, variants), names):
            yield from rows


def write_table(rows: Sequence[Row]) -> None:
    """Write the table."""
    versions = ", ".join(f"{k} {v}" for k, v in _versions().items() if k != "llm-memory-estimator")
    lines = [
        f"# {date.today().isoformat()}; {versions}; {_processor()}; oneDNN multiplies in bfloat16: "
        + ("yes" if CPU.onednn_bfloat16 else "no"),
        "\t".join(("class", "variant", "found", *QUANTITIES, "reason")),
        *("\t".join((r.name, r.variant, r.found, *map(str, r.differences or [""] * 4), r.reason)) for r in rows),
    ]
    TABLE.write_text("\n".join(lines) + "\n")


def read_table() -> tuple[str, list[Row]]:
    """The first line of the table, and its rows."""
    first, _, *lines = TABLE.read_text().splitlines()
    rows = []
    for line in lines:
        name, variant, found, *numbers, reason = line.split("\t")
        rows.append(Row(name, variant, found, tuple(int(n) for n in numbers if n), reason))
    return first.removeprefix("# "), rows


def write_page() -> None:
    """Write the page from the table."""
    head, rows = read_table()
    names = sorted({row.name for row in rows})
    lines = [
        "# Which models are answered",
        "",
        f"Transformers builds {len(names)} causal language models. Each is a small one in "
        "`tests/cases/causal_classes.py`, and `make witness` compares its estimate with a measured step on the CPU, "
        f"in {len({row.variant for row in rows})} variants: weights, buffers, saved tensors and the peak, to "
        f"{TOLERANCE} bytes.",
        "",
        f"Last run: {head}.",
        "",
        "| variant | equal | apart | refused | not measured | equal, of those answered |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for variant in VARIANTS:
        if not any(row.variant == variant for row in rows):
            continue
        count = Counter(row.found for row in rows if row.variant == variant)
        answered = count["equal"] + count["apart"]
        share = f"{100 * count['equal'] / answered:.1f} %" if answered else ""
        kinds = " | ".join(str(count[k]) for k in ("equal", "apart", "refused", "unmeasured"))
        lines.append(f"| {variant} | {kinds} | {share} |")
    whole = [name for name in names if all(row.found == "equal" for row in rows if row.name == name)]
    lines += ["", f"## Equal in every variant: {len(whole)}", "", ", ".join(f"`{name}`" for name in whole) + "."]
    for found, title in (
        ("apart", "Apart from the measurement"),
        ("refused", "Refused"),
        ("unmeasured", "Not measured, since the real step does not run"),
    ):
        some = [row for row in rows if row.found == found]
        if some:
            lines += ["", f"## {title}", "", "| class | variant | why, or bytes apart |", "| --- | --- | --- |"]
            for row in some:
                numbers = ", ".join(
                    f"{key} {n:+d}" for key, n in zip(QUANTITIES, row.differences or (0,) * 4, strict=True) if n
                )
                why = (row.reason or numbers).replace("|", "\\|").replace("<", "&lt;")
                lines.append(f"| `{row.name}` | {row.variant} | {why} |")
    PAGE.write_text("\n".join(lines) + "\n")


def main(names: Sequence[str], variants: Sequence[str] = tuple(VARIANTS)) -> None:
    """Check classes, by default all, and write the table and the page."""
    names = names or sorted(CLASSES)
    known = {(row.name, row.variant): row for row in read_table()[1]} if TABLE.is_file() else {}
    for row in rows_of(names, variants):
        known[row.name, row.variant] = row
        if row.found != "equal":
            print(*row, flush=True)
        if row.variant == variants[-1]:
            write_table([known[key] for key in sorted(known)])
    write_page()


if __name__ == "__main__":
    main(sys.argv[1:])
