"""Runs what was exported by the program that it is for: CPython, NumPy, Node.js, a C compiler, databases, an office."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from estimator.export import code_c, code_javascript, code_python, sql
from estimator.export.function import Function
from tests.cases.exported_functions import rows_of

Points = Sequence[Mapping[str, int]]
Rows = list[dict[str, int]]


def tool(*names: str) -> str:
    """The path of a program. The test is skipped where none of these is installed."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"{' or '.join(names)} is not installed")


def _run(command: Sequence[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def python(f: Function, points: Points, folder: Path) -> Rows:
    (folder / "exported.py").write_text(code_python.to_python(f))
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from exported import estimate;"
        "print(json.dumps([estimate(**row) for row in json.load(sys.stdin)]))"
    )
    return json.loads(_run([sys.executable, "-I", "-c", program, str(folder)], json.dumps(points)))


def numpy(f: Function, points: Points, folder: Path) -> Rows:
    import numpy as np

    names = [v.name for v in f.variables]
    scope: dict[str, Any] = {}
    exec(code_python.to_numpy(f), scope)
    found = scope["estimate"](**{name: np.array([row[name] for row in points]) for name in names})
    assert all(x.dtype == np.int64 for x in found.values())
    return [{name: int(x[i]) for name, x in found.items()} for i in range(len(points))]


def javascript(f: Function, points: Points, folder: Path) -> Rows:
    (folder / "exported.mjs").write_text(code_javascript.to_javascript(f))
    program = (
        "import { readFileSync } from 'node:fs'; const rows = JSON.parse(readFileSync(0));"
        f"const {{ estimate }} = await import({json.dumps((folder / 'exported.mjs').as_uri())});"
        "const exact = (key, value) => (typeof value === 'bigint' ? `${value}` : value);"
        "console.log(JSON.stringify(rows.map((row) => estimate(row)), exact));"
    )
    found = json.loads(_run([tool("node"), "--input-type=module", "-e", program], json.dumps(points)))
    return [{name: int(value) for name, value in row.items()} for row in found]


def c(f: Function, points: Points, folder: Path) -> Rows:
    names = [v.name for v in f.variables]
    scanned = ", ".join(f"&given[{i}]" for i in range(len(names)))
    given = ", ".join(f"given[{i}]" for i in range(len(names)))
    printed = ", ".join(f"(long long)e.{name}" for name in f.components)
    main = f"""
#include <stdio.h>
int main(void) {{
    long long given[{len(names)}];
    while (scanf("{" %lld" * len(names)}", {scanned}) == {len(names)}) {{
        estimate_bytes e = estimate({given});
        printf("%d{" %lld" * len(f.components)}\\n", e.error, {printed});
    }}
    return 0;
}}
"""
    source, program = folder / "exported.c", folder / "exported"
    source.write_text(code_c.to_c(f) + main)
    _run(
        [tool("cc", "gcc", "clang"), "-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-o", str(program), str(source)]
    )
    lines = _run([str(program)], "\n".join(" ".join(map(str, row)) for row in rows_of(names, points))).splitlines()
    found = []
    for line in lines:
        error, *values = map(int, line.split())
        assert error == 0
        found.append(dict(zip(f.components, values, strict=True)))
    return found


def duckdb(f: Function, points: Points, folder: Path) -> Rows:
    import duckdb

    names = [v.name for v in f.variables]
    connection = duckdb.connect()
    connection.execute(f"create table plans ({', '.join(f'{name} integer' for name in names)})")
    connection.executemany(f"insert into plans values ({', '.join('?' * len(names))})", rows_of(names, points))
    found = connection.execute(sql.to_sql(f, "duckdb"))
    assert found.description is not None
    columns = [column[0] for column in found.description]
    return _in_order(f, points, [dict(zip(columns, row, strict=True)) for row in found.fetchall()])


def _in_order(f: Function, points: Points, rows: Sequence[Mapping[str, Any]]) -> Rows:
    """The components of a query's rows, which may come in any order, one for each point."""
    names = [v.name for v in f.variables]
    assert len(rows) == len(points)
    assert list(rows[0]) == [*names, *f.components]
    known = {tuple(row[name] for name in names): row for row in rows}
    return [{name: int(known[tuple(point[n] for n in names)][name]) for name in f.components} for point in points]


def postgres(f: Function, points: Points, folder: Path) -> Rows:
    """PostgreSQL, as a server of its own, which runs under another user where the test runs as root."""
    names = [v.name for v in f.variables]
    server = _postgres()
    values = ", ".join(f"({', '.join(map(str, row))})" for row in rows_of(names, points))
    script = (
        f"create temporary table plans ({', '.join(f'{name} integer' for name in names)});"
        f"insert into plans values {values};\n" + sql.to_sql(f, "postgres")
    )
    lines = list(csv.DictReader(server(script).splitlines()))
    return _in_order(f, points, [{name: int(value) for name, value in line.items()} for line in lines])


_SERVERS: list[Callable[[str], str]] = []


def _postgres() -> Callable[[str], str]:
    if not _SERVERS:
        import atexit
        import os
        import tempfile

        psql, initdb = tool("psql"), _server_program("initdb")
        folder = Path(tempfile.mkdtemp(prefix="exported-postgres-"))
        other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if other:
            shutil.chown(folder, "postgres")
        _run([*other, initdb, "-D", str(folder / "data"), "-A", "trust", "-U", "postgres"])
        options = f"-k {folder} -c listen_addresses=''"
        start = [*other, _server_program("pg_ctl"), "-D", str(folder / "data"), "-w"]
        subprocess.run(
            [*start, "-o", options, "-l", str(folder / "log"), "start"], check=True, stdout=subprocess.DEVNULL
        )
        atexit.register(subprocess.run, [*start, "-m", "immediate", "stop"], stdout=subprocess.DEVNULL)
        command = [psql, "-h", str(folder), "-U", "postgres", "-q", "--csv", "-v", "ON_ERROR_STOP=1"]
        _SERVERS.append(lambda script: _run(command, script))
    return _SERVERS[0]


def _server_program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else tool(name)


def spark(f: Function, points: Points, folder: Path) -> Rows:
    tool("java")
    pytest.importorskip("pyspark")
    from pyspark.sql import SparkSession

    names = [v.name for v in f.variables]
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    session.createDataFrame(rows_of(names, points), names).createOrReplaceTempView("plans")
    found = session.sql(sql.to_sql(f, "spark").rstrip().rstrip(";")).collect()
    return _in_order(f, points, [row.asDict() for row in found])


def libreoffice(f: Function, points: Points, folder: Path) -> Rows:
    """A sheet with a row for each point, without values: LibreOffice computes all of them."""
    import xlsxwriter

    from estimator.export.workbook import formulas

    office = tool("soffice", "libreoffice")
    names = [v.name for v in f.variables]
    columns = [*names, *formulas(f, lambda name: name)]
    book = xlsxwriter.Workbook(str(folder / "points.xlsx"))
    sheet = book.add_worksheet()
    from xlsxwriter.utility import xl_col_to_name

    sheet.write_row(0, 0, columns)
    for row, point in enumerate(points, 1):
        sheet.write_row(row, 0, [point[name] for name in names])

        def cell(name: str, row: int = row) -> str:
            return f"${xl_col_to_name(columns.index(name))}{row + 1}"

        for name, text in formulas(f, cell).items():
            sheet.write_formula(row, columns.index(name), text, book.add_format({"num_format": "0"}), "")
    book.close()
    profile = folder / "profile" / "user"
    profile.mkdir(parents=True)
    (profile / "registrymodifications.xcu").write_text(_ALWAYS_RECALCULATE)
    _run(
        [
            office,
            f"-env:UserInstallation={(folder / 'profile').as_uri()}",
            "--headless",
            "--convert-to",
            "csv",
            "--outdir",
            str(folder),
            str(folder / "points.xlsx"),
        ]
    )
    lines = list(csv.DictReader((folder / "points.csv").read_text().splitlines()))
    return [{name: int(line[name]) for name in f.components} for line in lines]


_ALWAYS_RECALCULATE = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<item oor:path="/org.openoffice.Office.Calc/Formula/Load"><prop oor:name="OOXMLRecalcMode" oor:op="fuse">
<value>0</value></prop></item>
</oor:items>
"""


def tree(f: Function, points: Points, folder: Path) -> Rows:
    """The JSON object, computed by a walk over its trees, as a planner would."""
    from estimator.export.json_trees import to_json

    data = json.loads(to_json(f))
    found = []
    for point in points:
        names = dict(point)
        for step in data["steps"]:
            names[step["name"]] = _computed(step["expression"], names)
        found.append({name: names[name] for name in data["components"]})
    return found


def _computed(x: Any, names: Mapping[str, int]) -> int:
    if isinstance(x, int):
        return x
    if isinstance(x, str):
        return names[x]
    if "cases" in x:
        for case in x["cases"]:
            if _true(case["if"], names):
                return _computed(case["then"], names)
        return _computed(x["else"], names)
    ((operation, operands),) = x.items()
    values = [_computed(one, names) for one in operands]
    if operation == "add":
        return sum(values)
    if operation == "quotient":
        return values[0] // values[1]
    if operation == "multiply":
        product = 1
        for value in values:
            product *= value
        return product
    return {"max": max, "min": min}[operation](values)


def _true(x: Any, names: Mapping[str, int]) -> bool:
    ((operation, operands),) = x.items()
    if operation in ("all", "any"):
        return {"all": all, "any": any}[operation](_true(one, names) for one in operands)
    a, b = (_computed(one, names) for one in operands)
    return {"==": a == b, ">=": a >= b, ">": a > b, "<=": a <= b, "<": a < b}[operation]


LIGHT: dict[str, Callable[[Function, Points, Path], Rows]] = {
    "python": python,
    "numpy": numpy,
    "javascript": javascript,
    "c": c,
    "duckdb": duckdb,
    "json": tree,
}
"""Engines that every run asks."""
HEAVY: dict[str, Callable[[Function, Points, Path], Rows]] = {
    "postgres": postgres,
    "spark": spark,
    "libreoffice": libreoffice,
}
"""Engines that only ``make witness`` asks."""
