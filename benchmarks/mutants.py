"""Would a test notice? ``python benchmarks/mutants.py 100 --seed 1 --folders ledger,steps``.

Draws lines of ``estimator/`` at random and changes one token of each: an operator, a comparison, a small number, a
flag, ``and``, ``or``, ``not``, ``min`` and their like. Each change is made in a copy of the checkout, where the tests
of the folder of the same name then run until one fails. What survives is a rule that no test near it holds fast, a
token that the code can do without, or one that changes nothing that can be seen.

All tests of these folders run once beforehand, in a copy where each changed place first notes the test that it runs
for. Those tests are asked first. Of the others those that end within ``--rest`` seconds follow, since a test may read
what an earlier one left in a cache, and what runs while a file is imported runs for every test. What then is unnoticed
is asked of all cases of tests marked ``share``, which later commits ask: of the files whose tests run the place, and of
the whole folder where none does. With ``--keep FOLDER`` what is found is kept there, and the same draw goes on where
it was stopped.

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

import pytest

ROOT = Path(__file__).parents[1]
ROWS = ("witnesses/test_measured_steps.py",)
"""Where a new method or base gets a row, not a test (``tests/README.md``)."""
COMMANDS = ("show/test_explain.py", "show/test_inverse_commands.py")
"""What asks an answer by its command, and holds the answer, too."""
ALSO = {"ledger": ("operators",), "methods": ROWS, "bases": ROWS, "answers": COMMANDS}
"""Tests elsewhere that hold a folder's rules, too."""
LEFT_OUT = (
    *("figures/", "plans/keywords.py"),
    *("recorder/trainer_family.py", "recorder/trl.py", "recorder/sentence_transformers.py"),
)
"""How pictures look, which people judge; a file that is written by a program; and what runs beside TRL or
sentence-transformers, which the tests lack: its recordings are committed, and tests ask these."""
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


RAN = """
def _noted_place(number, seen=set()):
    import os
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if (number, test) not in seen:
        seen.add((number, test))
        with open(f"{os.environ['RAN']}/{number}", "a") as file:
            file.write(test + "\\n")
"""
"""What notes, once a process and test, that a place runs. Processes that a test starts inherit its name."""


class Change(NamedTuple):
    """One token changed: where, in which function, what it is part of, before and after, and the file's new text."""

    path: str
    number: int
    line: int
    function: str
    was: str
    now: str
    text: str

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


def sites(node: ast.AST, function: str = "") -> Iterator[tuple[ast.expr, str]]:
    """The expressions that may be changed, each with its function.

    Left out is what guards the programmer: assertions, decorators, annotations, and some keywords.
    """
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or name in ("annotation", "returns", "decorator_list"):
                continue
            if isinstance(child, ast.Assert) or (isinstance(child, ast.keyword) and child.arg in GUARDS):
                continue
            within = function
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                within = f"{function}.{child.name}".lstrip(".")
            if isinstance(child, ast.expr) and "TYPE_CHECKING" not in ast.unparse(child):
                yield child, within
            yield from sites(child, within)


def numbered(path: Path) -> Iterator[tuple[int, ast.expr, str, tuple[ast.AST, str, Any], ast.Module]]:
    """Every change of a file, in order: its number, what it is part of, its function, how to make it, and the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = ((node, function, way) for node, function in sites(tree) for way in changed(node))
    for number, (node, function, way) in enumerate(found):
        yield number, node, function, way, tree


def made(path: Path, wanted: int) -> Change:
    """The change of a file that has a number."""
    _, node, function, (owner, name, new), tree = next(islice(numbered(path), wanted, None))
    was, line = ast.unparse(node), node.lineno
    if new is None:  # ``not x`` becomes ``not not x``
        node.operand = ast.UnaryOp(ast.Not(), node.operand)  # type: ignore[attr-defined]
    else:
        setattr(owner, name, new)
    return Change(str(path.relative_to(ROOT)), wanted, line, function, was, ast.unparse(node), ast.unparse(tree))


def noting(path: Path, places: dict[int, int]) -> str:
    """The file's text in which each place, by the number of its change, first notes that it runs, by another number."""
    found = [*numbered(path)]
    tree, nodes = found[0][-1], {number: node for number, node, *_ in found if number in places}
    calls = {id(nodes[one]): ast.parse(f"_noted_place({i})", mode="eval").body for one, i in places.items()}

    class Noting(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            if isinstance(node, ast.pattern | ast.arguments):  # defaults are noted where the body runs
                return node
            self.generic_visit(node)
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                for call in [calls[id(one)] for one in ast.walk(node.args) if id(one) in calls]:
                    if isinstance(node, ast.Lambda):
                        node.body = ast.BoolOp(ast.Or(), [call, node.body])
                    else:
                        node.body.insert(ast.get_docstring(node) is not None, ast.Expr(call))
            if isinstance(node, ast.expr) and id(node) in calls:
                return ast.BoolOp(ast.Or(), [calls[id(node)], node])
            return node

    Noting().visit(tree)
    lines = [ast.unparse(one) for one in tree.body]
    first = next(i for i, line in enumerate(lines) if not line.startswith(("'", '"', "from __future__")))
    tree.body[first:first] = ast.parse(RAN).body
    return ast.unparse(ast.fix_missing_locations(tree))


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
    """The copy, its tests, and which of them run which change."""

    def __init__(self, copied: Path, kept: Path, drawn: list[Change]) -> None:
        self.copied, self.kept, self.drawn = copied, kept, drawn
        (kept / "ran").mkdir(exist_ok=True)
        times = kept / "times.json"
        if not times.exists():
            asked = sorted({f"tests/{name}" for one in drawn for name in (one.folder, *ALSO.get(one.folder, ()))})
            for name in {one.path for one in drawn}:
                places = {one.number: i for i, one in enumerate(drawn) if one.path == name}
                (copied / name).write_text(noting(ROOT / name, places), encoding="utf-8")
            run = ["-n2", "--dist=loadfile", "-p", "mutants", *asked]
            done = self.pytest(run, 7200, TIMES=str(times), RAN=str(kept / "ran"), SHARE="0")
            for name in {one.path for one in drawn}:
                shutil.copy2(ROOT / name, copied / name)
            if not times.exists():
                sys.exit(done.stdout + done.stderr)
        self.times: dict[str, float] = json.loads(times.read_text())

    def pytest(self, arguments: list[str], seconds: float, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run pytest in the copy, for so many seconds of processor time."""
        paths = os.pathsep.join([str(self.copied), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=self.copied,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5)),
            capture_output=True,
            text=True,
        )

    def noticed(self, number: int, rest: float, shared: float) -> str:
        """The test that notices a change, or how it survives."""
        change, ran = self.drawn[number], self.kept / "ran" / str(number)
        folders = tuple(f"tests/{name}" for name in (change.folder, *ALSO.get(change.folder, ())))
        times = {name: seconds for name, seconds in self.times.items() if name.startswith(folders)}
        touching = {*ran.read_text(encoding="utf-8").splitlines()} & set(times) if ran.exists() else set()
        first = sorted(touching, key=lambda name: (name.partition("::")[0], times[name]))
        others = []
        for name in sorted(set(times) - touching, key=lambda name: times[name]) if ran.exists() else ():
            rest -= times[name]
            if rest < 0:
                break
            others.append(name)
        for part in (first, sorted(others)):
            if part and (name := self._fails(change, part, 60 + 5 * sum(times[test] for test in part))):
                return name
        files = sorted({name.partition("::")[0] for name in first}) or [*folders]
        if name := self._fails(change, ["-m", "share and not witness", *files], shared, "all"):
            return f"{name} (shared)"
        return f"survives {len(first)} tests that run it, and {len(others)} others"

    def _fails(self, change: Change, tests: list[str], seconds: float, share: str = "0") -> str:
        """The first of the tests that fails after the change; empty if all pass, or there are none."""
        path, chosen = self.copied / change.path, self.kept / "chosen"
        chosen.write_text("\n".join(tests), encoding="utf-8")
        path.write_text(change.text, encoding="utf-8")
        try:
            done = self.pytest(["-x", "-n0", f"@{chosen}"], seconds, PYTHONDONTWRITEBYTECODE="1", SHARE=share)
        finally:
            shutil.copy2(ROOT / change.path, path)
        if done.returncode in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            return ""
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0].split(" ", 1)[1].partition(" - ")[0] if failed else f"no end, or none of pytest's: {tests[0]}"


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
    parser.add_argument("--shared", type=float, default=600, help="CPU seconds of tests that other commits ask")
    parser.add_argument("--keep", type=Path, help="a folder for what is found, where the same draw goes on")
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
        tests, judged = Tests(copied, kept.resolve(), drawn), kept / "judged.json"
        known: dict[str, str] = json.loads(judged.read_text()) if judged.exists() else {}
        print("| line | function | was | now | what happens |\n| --- | --- | --- | --- | --- |")
        for i, change in enumerate(drawn):
            if str(i) not in known:
                known[str(i)] = tests.noticed(i, arguments.rest, arguments.shared)
                judged.write_text(json.dumps(known), encoding="utf-8")
            survived += known[str(i)].startswith("survives")
            print(row(change, known[str(i)]), flush=True)
    print(f"\n{len(drawn) - survived} of {len(drawn)} would be noticed.")


if __name__ == "__main__":
    main()
