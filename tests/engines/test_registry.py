"""Engines are told apart in their registry alone. The witness is the source, and what a fresh process imports."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from estimator.engines.engine import Engine
from estimator.engines.registry import FOLDERS, KEYS, RUNTIMES, engine_of
from estimator.plans.plan import Plan
from tests.helpers.commands import refusal

ROOT = Path(__file__).parent.parent.parent / "estimator"
TESTS_OF_TEXT = ("startswith", "endswith", "removeprefix", "removesuffix", "partition")


def _texts(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def _told_apart(tree: ast.AST) -> Iterator[int]:
    """Lines that compare something with an engine's name, or have a value for each name."""
    classes = {type(engine_of(name)).__name__ for name in FOLDERS}
    for node in ast.walk(tree):
        compared: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            compared = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            compared = [node.value]
        elif isinstance(node, ast.Dict):
            compared = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TESTS_OF_TEXT:
            compared = list(node.args)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            compared = [ast.Constant("torch-") for one in ast.walk(node.args[1]) if getattr(one, "id", "") in classes]
        found = {text for one in compared for text in _texts(one)}
        if found & {*FOLDERS, "torch-"}:
            yield node.lineno


@pytest.mark.share(3)
def test_no_engine_is_told_apart_by_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(ROOT.rglob("*.py"))
        if path != ROOT / "engines" / "registry.py"
        for line in _told_apart(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        'x.runtime == "vllm"',
        'a in ("b", "torch-cpu")',
        '{"llama.cpp": 1}',
        'r.startswith("torch-")',
        "isinstance(e, TorchCuda)",
    ],
)
def test_what_counts_as_telling_apart(source: str) -> None:
    assert list(_told_apart(ast.parse(source))) == [1]


def test_every_capability_tells_engines_apart() -> None:
    """A capability that all engines have, or none, is none to ask for."""
    for name, member in vars(Engine).items():
        if not name.startswith("_") and isinstance(member, bool):
            assert {getattr(engine_of(one), name) for one in FOLDERS} == {True, False}, name


@pytest.mark.parametrize(
    ("keys", "own"),
    [
        ({"seq": 8}, "torch_cpu"),
        ({"seq": 8, "device": "rtx-4090"}, "torch_cuda"),
        ({"runtime": "llama.cpp", "seq": 256}, "llama_cpp"),
    ],
)
def test_a_plan_imports_the_rules_of_its_engine_alone(keys: dict[str, object], own: str) -> None:
    """Of the others it imports what a plan may say of them."""
    code = (
        f"import sys, estimator; estimator.estimate('smollm-135m', **{keys!r}); "
        "print(*(name for name in sys.modules if name.startswith('estimator.engines.')))"
    )
    command = [sys.executable, "-P", "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent).stdout.split()
    folders = set(FOLDERS.values())
    rules = {name.split(".")[2] for name in printed if name.count(".") > 2 and not name.endswith(".options")}
    assert rules & folders == {own}


def test_every_engine_is_listed_once() -> None:
    assert set(RUNTIMES) == {name for name, keys in KEYS.items() if not keys.instead}
    keys = [key for one in KEYS.values() for key in one.fields.model_fields]
    assert len(keys) == len(set(keys))
    assert set(keys) <= set(Plan.model_fields)


PAGE = (ROOT.parent / "docs" / "add-an-engine.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def with_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, of links, with the page's two files and its row, and nothing else changed."""
    folder = tmp_path_factory.mktemp("copy")
    package = folder / "estimator"
    toy = package / "engines" / "toy"
    toy.mkdir(parents=True)
    for place, without in ((ROOT, "engines"), (ROOT / "engines", "registry.py")):
        for one in place.iterdir():
            if one.name not in (without, "__pycache__"):
                (package / place.relative_to(ROOT) / one.name).symlink_to(one)
    (folder / "model_specs").symlink_to(ROOT.parent / "model_specs")
    options, engine = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    row = re.findall(r'gets `("toy": "toy",)`', PAGE)[0]
    (toy / "__init__.py").write_text("")
    (toy / "options.py").write_text(options)
    (toy / "engine.py").write_text(engine)
    registry = (ROOT / "engines" / "registry.py").read_text(encoding="utf-8")
    (package / "engines" / "registry.py").write_text(
        re.sub(r"(FOLDERS = {.*?)(?=^})", rf"\1    {row}\n", registry, flags=re.DOTALL | re.MULTILINE)
    )
    return folder


@pytest.mark.share(6)
@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ("smollm-135m --runtime toy --cache-bits 8 --seq 100 --budget 1GiB", 0, "Fits in 1.00 GiB"),
        ("smollm-135m --runtime toy --budget 10MiB", 1, "Does not fit in 10.00 MiB"),
        ("smollm-135m --runtime toy --task train", 2, "task: train does not go with runtime: toy"),
        ("smollm-135m --runtime torch-cpu --dtype toy-4bit", 2, "dtype: toy-4bit does not go with runtime: torch-cpu"),
        ("smollm-135m --runtime toy_engine", 2, "is runtime: toy"),
        ("smollm-135m --runtime torch-cpu --cache-bits 8", 2, "toy belongs to runtime: toy, not torch-cpu"),
        ("--help-toy", 0, "--cache-bits"),
        ("smollm-135m --seq 8", 0, "A training step in PyTorch on a CPU"),
    ],
)
def test_the_page_s_engine_answers(arguments: str, status: int, says: str, with_toy: Path) -> None:
    """Witness: the command line of a package that has the page's files."""
    command = [sys.executable, "-m", "estimator", "estimate", *arguments.split()]
    environment = {**os.environ, "PYTHONPATH": str(with_toy)}
    run = subprocess.run(command, capture_output=True, text=True, cwd=with_toy, env=environment)
    assert (run.returncode, says in " ".join((run.stdout + run.stderr).split())) == (status, True), (
        run.stdout + run.stderr
    )


@pytest.mark.parametrize(
    "line", ["vllm serve llama-3.1-8b", "python -m sglang.launch_server --model-path llama-3.1-8b"]
)
def test_a_server_s_command_line_is_named_as_such(line: str) -> None:
    assert "a server's command line; ask `estimator serving`" in refusal("estimate", line, "--device", "h100-80gb")


def test_a_command_line_that_no_server_of_these_has_names_the_command_to_ask() -> None:
    line = "llama-server -m llama-3.1-8b -c 4096"
    assert "is a command line of llama.cpp; ask `estimator estimate`" in refusal(
        "serving", line, "--device", "rtx-4090"
    )
