"""Would a test notice? ``python benchmarks/mutants.py 100 --seed 1 --folders ledger,steps``.

Draws lines of ``estimator/`` at random and changes one token of each: an operator, a comparison, a small number, a
flag, ``and``, ``or``, ``not``, ``min`` and their like. Each change is made in a copy of the checkout, where the tests
of the folder of the same name then run until one fails. What survives is a rule that no test near it holds fast, a
token that the code can do without, or one that changes nothing that can be seen.

coverage.py (``pip install 'coverage>=7.10'``) tells once which tests run which lines. So the tests that run a changed
line come first; of the others those that end within ``--rest`` seconds follow, since a test may read what an earlier
one left in a cache. A line that no test runs survives at once. With ``--keep FOLDER`` what coverage.py found is kept
for the next draw from the same tests.

Why not a tool: mutmut 3 calls each function through another one, whose frame holds the arguments, and here Python's
reference counts are the lifetimes of tensors. Cosmic Ray runs one command for all changes, on all of them, in the
checkout; the draw and the choice of tests, which are most of this file, would be ours all the same.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest

ROOT = Path(__file__).parents[1]
ROWS = ("witnesses/test_measured_steps.py",)
"""Where a new method or base gets a row, not a test (``tests/README.md``)."""
ALSO = {"ledger": ("operators",), "methods": ROWS, "bases": ROWS}
"""Tests elsewhere that hold a folder's rules, too."""
LEFT_OUT = ("figures/", "plans/keywords.py")
"""How pictures look, which people judge; and a file that is written by a program."""
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.And: ast.Or,
    ast.Or: ast.And, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
GUARDS = ("strict", "frozen")
SMALL = 64
"""Numbers up to this one become the next one."""


class Change(NamedTuple):
    """One token changed: where, in which function, what it is part of, before and after, and the file's new text."""

    path: str
    line: int
    function: str
    was: str
    now: str
    text: str
    first: int
    last: int
    """The lines that run when the change does: of the statement, or of the body whose default is changed."""

    @property
    def folder(self) -> str:
        return self.path.split("/")[1]


def changed(node: ast.AST) -> Iterator[tuple[ast.AST, str, Any]]:
    """Each way to change one token of a node: whose attribute, which, and its new value."""
    for name in ("op", "ops"):
        old = getattr(node, name, None)
        if type(old) in SWAPPED:
            yield node, name, SWAPPED[type(old)]()
        for i, one in enumerate(old if isinstance(old, list) else ()):
            yield node, name, [*old[:i], SWAPPED[type(one)](), *old[i + 1 :]]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, "op", None
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value <= SMALL:
        yield node, "value", node.value + 1
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
        yield node.func, "id", NAMES[node.func.id]


def sites(
    node: ast.AST, function: str = "", span: tuple[int, int] = (0, 0)
) -> Iterator[tuple[ast.AST, str, tuple[int, int]]]:
    """The expressions that may be changed, each with its function and its statement's lines.

    Left out is what guards the programmer: assertions, decorators, annotations, and some keywords.
    """
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or name in ("annotation", "returns", "decorator_list"):
                continue
            if isinstance(child, ast.Assert) or (isinstance(child, ast.keyword) and child.arg in GUARDS):
                continue
            within, lines = function, span
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                within = f"{function}.{child.name}".lstrip(".")
                lines = child.body[0].lineno, child.body[-1].end_lineno or 0
            elif isinstance(child, ast.stmt):
                body = getattr(child, "body", None)
                end = body[0].lineno - 1 if body else child.end_lineno
                lines = child.lineno, max(child.lineno, end or 0)
            if isinstance(child, ast.expr) and "TYPE_CHECKING" not in ast.unparse(child):
                yield child, within, lines
            yield from sites(child, within, lines)


def numbered(path: Path) -> Iterator[tuple[int, ast.AST, str, tuple[int, int], tuple[ast.AST, str, Any], ast.Module]]:
    """Every change of a file, in order: its number, what it is part of, its function, the lines, how to make it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = ((node, function, lines, way) for node, function, lines in sites(tree) for way in changed(node))
    for number, (node, function, lines, way) in enumerate(found):
        yield number, node, function, lines, way, tree


def made(path: Path, wanted: int) -> Change:
    """The change of a file that has a number."""
    _, node, function, lines, (owner, name, new), tree = next(islice(numbered(path), wanted, None))
    was, line = ast.unparse(node), node.lineno  # type: ignore[attr-defined]
    if new is None:  # ``not x`` becomes ``not not x``
        node.operand = ast.UnaryOp(ast.Not(), node.operand)  # type: ignore[attr-defined]
    else:
        setattr(owner, name, new)
    return Change(str(path.relative_to(ROOT)), line, function, was, ast.unparse(node), ast.unparse(tree), *lines)


def draw(count: int, seed: int, folders: list[str]) -> list[Change]:
    """Changes of ``count`` random lines, in the order of ``folders``."""
    found: dict[tuple[Path, int], list[int]] = {}
    for path in sorted(path for folder in folders for path in (ROOT / "estimator" / folder).rglob("*.py")):
        if not str(path.relative_to(ROOT / "estimator")).startswith(LEFT_OUT):
            for number, node, *_ in numbered(path):
                found.setdefault((path, node.lineno), []).append(number)  # type: ignore[attr-defined]
    generator = random.Random(seed)
    drawn = [(at, generator.choice(found[at])) for at in generator.sample(sorted(found), min(count, len(found)))]
    return sorted((made(path, number) for (path, _), number in drawn), key=lambda one: folders.index(one.folder))


class Tests:
    """The copy, its tests, and what coverage.py saw them run."""

    def __init__(self, copied: Path, kept: Path) -> None:
        self.copied, self.kept = copied, kept

    def pytest(self, arguments: list[str], seconds: float, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run pytest in the copy, for so many seconds of processor time."""
        paths = os.pathsep.join([str(self.copied), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.copied,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5)),
            capture_output=True,
            text=True,
        )

    def seen(self, folder: str) -> tuple[dict[str, float], coverage.CoverageData]:
        """The folder's tests that pass, each with its seconds, and which lines they run."""
        folders = [f"tests/{name}" for name in (folder, *ALSO.get(folder, ()))]
        times, data = self.kept / f"{folder}.json", self.kept / f"{folder}.coverage"
        if not times.exists():
            settings = self.kept / "coveragerc"
            settings.write_text(
                f"[run]\nsource = estimator\nparallel = true\ndata_file = {data}\npatch = subprocess\n"
                "context = ${PYTEST_CURRENT_TEST-}\n"  # which processes that a test starts inherit
            )
            run = ["coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-n0", "-p", "mutants", *folders]
            done = self.pytest(run, 7200, TIMES=str(times))
            if not times.exists():
                sys.exit(done.stdout + done.stderr)
            subprocess.run(
                [sys.executable, "-m", "coverage", "combine", "-q", f"--rcfile={settings}"], check=True, cwd=self.copied
            )
        found = coverage.CoverageData(str(data))
        found.read()
        return json.loads(times.read_text()), found

    def noticed(self, change: Change, rest: float) -> str:
        """The test that notices a change, or how it survives."""
        times, data = self.seen(change.folder)
        contexts = data.contexts_by_lineno(str(self.copied / change.path))
        names = {name for line in range(change.first, change.last + 1) for name in contexts.get(line, ())}
        if not names:
            return "survives: no test runs the line"
        touching = {name.rpartition("|")[2].rpartition(" (")[0] or name for name in names} & set(times)
        first = sorted(touching, key=lambda name: (name.partition("::")[0], times[name]))
        others = []
        for name in sorted(set(times) - touching, key=lambda name: times[name]):
            rest -= times[name]
            if rest < 0:
                break
            others.append(name)
        for part in (first, sorted(others)):
            if part and (name := self._fails(change, part, 60 + 5 * sum(times[test] for test in part))):
                return name
        return f"survives {len(first)} tests that run it, and {len(others)} others"

    def _fails(self, change: Change, tests: list[str], seconds: float) -> str:
        """The first of the tests that fails after the change; empty if all pass."""
        path = self.copied / change.path
        before, chosen = path.read_text(encoding="utf-8"), self.kept / "chosen"
        chosen.write_text("\n".join(tests))
        path.write_text(change.text, encoding="utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()
        try:
            done = self.pytest(["pytest", "-x", "-q", "-n0", f"@{chosen}"], seconds, PYTHONDONTWRITEBYTECODE="1")
        finally:
            path.write_text(before, encoding="utf-8")
        if done.returncode == 0:
            return ""
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0].split(" ", 1)[1].partition(" - ")[0] if failed else f"no end, or none of pytest's: {tests[0]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """As a plugin of the run that coverage.py watches: the lines that run now are this test's."""
    watching = coverage.Coverage.current()
    if watching is not None:
        watching.switch_context(item.nodeid)
    yield
    if watching is not None:
        watching.switch_context("")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write down the tests that passed, and the seconds of each."""
    passed = {report.nodeid: report.duration for report in terminalreporter.stats.get("passed", ())}
    Path(os.environ["TIMES"]).write_text(json.dumps(passed))


def row(change: Change, *found: str) -> str:
    """A change as a row of a table."""
    where = f"{change.path.removeprefix('estimator/')}:{change.line}"
    cells = (" ".join(cell.split()) for cell in (where, change.function, change.was, change.now, *found))
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main() -> None:
    folders = [path.parent.name for path in sorted((ROOT / "estimator").glob("*/__init__.py"))]
    tested = [name for name in folders if (ROOT / "tests" / name).is_dir()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=100, help="how many lines to change")
    parser.add_argument("--seed", type=int, default=0, help="which lines")
    parser.add_argument("--folders", default=",".join(tested), help="folders of estimator/ to draw from")
    parser.add_argument("--rest", type=float, default=60, help="seconds of tests that do not run the line themselves")
    parser.add_argument("--keep", type=Path, help="a folder for what coverage.py found")
    parser.add_argument("--list", action="store_true", help="print the changes, and run nothing")
    arguments = parser.parse_args()
    drawn = draw(arguments.count, arguments.seed, arguments.folders.split(","))
    if arguments.list:
        for change in drawn:
            print(row(change))
        return
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        kept = arguments.keep or Path(folder) / "kept"
        kept.mkdir(exist_ok=True, parents=True)
        copied = Path(arguments.keep or folder).resolve() / "copy"
        files = subprocess.run(
            ["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
        for name in files.stdout.decode().split("\0")[:-1]:
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # deleted, and not committed
                shutil.copy2(ROOT / name, copied / name)
        tests = Tests(copied, kept.resolve())
        print("| line | function | was | now | what happens |\n| --- | --- | --- | --- | --- |")
        for change in drawn:
            found = tests.noticed(change, arguments.rest)
            survived += found.startswith("survives")
            print(row(change, found), flush=True)
    print(f"\n{len(drawn) - survived} of {len(drawn)} would be noticed.")


if __name__ == "__main__":
    main()
