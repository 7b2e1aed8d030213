"""A workbook's cells: what stands where, what is shown before it is computed, and what a figure draws.

Witness: the estimate, at the plan's numbers and at those of the curve.
"""

from __future__ import annotations

import re
import zipfile
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from estimator.answers.estimate import estimate
from estimator.export.workbook import _points
from estimator.show.cli import main

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
PLAN: dict[str, Any] = {"model": "smollm2-135m", "batch": 2, "seq": 64}
SEQS = [4, 5, 6, 7, 9, 11, 13, 16, 20, 25, 30, 37, 45, 55, 68, 83, 102, 124, 152, 186, 228, 279, 342, 418, 512]
"""64 / 16 to 64 * 8, in 24 equal ratios."""

Cells = dict[str, tuple[str | None, str | None]]
"""The formula and the value of each cell."""


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    path = tmp_path_factory.mktemp("book") / "book.xlsx"
    arguments = ["smollm2-135m", "--batch", "2", "--seq", "64", "--vars", "batch,seq", "--to", "xlsx"]
    assert main(["export", *arguments, "--output", str(path)]) == 0
    return zipfile.ZipFile(path)


def cells(book: zipfile.ZipFile, sheet: int) -> Cells:
    strings = [
        "".join(text.text or "" for text in one.iter(f"{MAIN}t"))
        for one in ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
    ]
    found: Cells = {}
    for cell in ElementTree.fromstring(book.read(f"xl/worksheets/sheet{sheet}.xml")).iter(f"{MAIN}c"):
        formula, value = cell.find(f"{MAIN}f"), cell.find(f"{MAIN}v")
        shown = None if value is None else value.text
        if cell.get("t") == "s":
            shown = strings[int(str(shown))]
        found[str(cell.get("r"))] = None if formula is None else formula.text, shown
    return found


def test_the_estimate(book: zipfile.ZipFile) -> None:
    """Variables from the fourth row on, below them the components, and whatever their formulas are made of."""
    found, sizes = cells(book, 1), estimate(PLAN).bytes
    assert found["A1"][1] == "Memory of smollm2-135m"
    assert [found[f"{column}3"][1] for column in "ABCD"] == ["variable", "value", None, "meaning"]
    assert [found[f"{column}5"][1] for column in "AB"] == ["seq", "64"]
    assert found["D5"][1] == "sequence length in tokens; a whole number from 1 to 100,000,000"
    assert [found[f"{column}7"][1] for column in "ABCD"] == ["component", "bytes", "GiB", "meaning"]
    rows = {str(found[f"A{row}"][1]): row for row in range(8, 8 + len(found)) if f"A{row}" in found}
    assert list(rows)[:10] == list(sizes)
    for name, nbytes in sizes.items():
        row = rows[name]
        assert found[f"B{row}"][1] == str(nbytes)
        assert found[f"C{row}"][0] == f"B{row}/2^30"
        assert float(str(found[f"C{row}"][1])) == nbytes / 2**30
    assert found["B8"][0] == f"IF(estimate_known,{sizes['parameters']},NA())"
    assert f"C{rows['query_block']}" not in found
    assert found[f"B{rows['query_block']}"][1] == "32"
    assert found[f"B{rows['known']}"][1] in ("1", "TRUE")
    assert found[f"D{rows['known']}"][1] == "whether the variables are in range, and all numbers exact in a spreadsheet"
    names = dict(re.findall(r'<definedName name="(\w+)">([^<]*)<', book.read("xl/workbook.xml").decode()))
    assert names == {f"estimate_{name}": f"Estimate!$B${row}" for name, row in {**rows, "batch": 4, "seq": 5}.items()}
    checked = re.findall(r"<formula1>(\d+)</formula1><formula2>(\d+)<", book.read("xl/worksheets/sheet1.xml").decode())
    assert checked == [("1", "1000000"), ("1", "100000000")]


def test_the_curve(book: zipfile.ZipFile) -> None:
    """A row for each sequence; the batch is that of the first sheet."""
    found = cells(book, 2)
    heads = {name: key[:-1] for key, (_, name) in found.items() if re.fullmatch(r"[A-Z]+1", key)}
    assert (heads["batch"], heads["seq"]) == ("A", "B")
    assert [found[f"B{row}"] for row in range(2, 27)] == [(None, str(seq)) for seq in SEQS]
    assert "B27" not in found
    for row, seq in ((2, 4), (16, 68), (26, 512)):
        sizes = estimate({**PLAN, "seq": seq}).bytes
        assert found[f"A{row}"] == ("estimate_batch", "2")
        assert {name: found[f"{heads[name]}{row}"][1] for name in sizes} == {k: str(v) for k, v in sizes.items()}
        assert found[f"{heads['key_block']}{row}"] == (f"MIN(512,$B{row})", str(seq))
    drawn = re.findall(r"<c:f>([^<]*)</c:f>", book.read("xl/charts/chart1.xml").decode())
    assert drawn[::2] == ["Curve!$B$2:$B$26"] * 3
    assert drawn[1::2] == [f"Curve!${heads[name]}$2:${heads[name]}$26" for name in ("peak", "process", "resident")]


def test_the_explanation(book: zipfile.ZipFile) -> None:
    lines = [value for _, value in cells(book, 3).values()]
    assert (
        lines[0]
        == "estimate(batch, seq): the bytes of a training step in PyTorch on a CPU, without gradient checkpointing."
    )
    assert any(str(line).startswith("Cells have names, for your own formulas: estimate_batch, ") for line in lines)


@pytest.mark.parametrize(
    ("variable", "points"),
    [
        ({"least": 1, "most": 10, "value": 1, "multiple_of": 1}, [*range(1, 26)]),
        ({"least": 1, "most": 10**6, "value": 64, "multiple_of": 1}, SEQS),
        ({"least": 256, "most": 10**6, "value": 256, "multiple_of": 256}, [256 * n for n in range(1, 26)]),
    ],
    ids=str,
)
def test_values_of_the_curve(variable: dict[str, int], points: list[int]) -> None:
    assert _points(SimpleNamespace(**variable)) == points  # type: ignore[arg-type]
