"""Records what training tools do where a file leaves a key out: ``make witness``.

Reads ``docs/measured/trainer_defaults/sources.yaml`` and writes a JSON file for each tool beside it: the defaults that
the tool's release declares, and its behaviours, each with the line of the source that shows it. A source that no longer
holds a declaration or a line ends the run. Sources come from PyPI and are parsed; no module of a tool is imported.

    python docs/make_trainer_defaults.py [TOOL ...]
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "measured" / "trainer_defaults"


class Sources:
    """The Python files of a release, by their paths in its wheel or source archive."""

    def __init__(self, packages: Mapping[str, str]) -> None:
        self._texts: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as folder:
            names = [f"{package}=={release}" for package, release in packages.items()]
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *names], check=True
            )
            for archive in sorted(Path(folder).iterdir()):
                self._texts.update(_wheel(archive) if archive.suffix == ".whl" else _source_archive(archive))

    def text(self, path: str) -> str:
        """A file's text. Raises ``LookupError``."""
        return self._texts[path]

    def tree(self, path: str) -> ast.Module:
        """A file's syntax tree. Raises ``LookupError``."""
        return ast.parse(self.text(path))


def _wheel(archive: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            if name.endswith(".py"):
                yield name, wheel.read(name).decode("utf-8")


def _source_archive(archive: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(archive) as files:
        for member in files:
            content = files.extractfile(member) if member.name.endswith(".py") else None
            if content is not None:  # the first folder is the release's name
                yield member.name.partition("/")[2], content.read().decode("utf-8")


def _named(tree: ast.AST, path: str) -> Any:
    """The class or function of a dotted name. Raises ``LookupError``."""
    node: Any = tree
    for name in path.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [child for child in ast.walk(node) if isinstance(child, kinds) and child.name == name]
        if not found:
            raise LookupError(f"no class or function {path}")
        node = found[0]
    return node


def _value(node: ast.expr | None) -> Any:
    """A literal, or the text of an expression that is none."""
    if node is None:
        return None
    try:
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("int", "pp_int"):  # int(1e8)
            return int(ast.literal_eval(node.args[0]))
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _field(node: ast.expr | None) -> Any:
    """The default of a class's field: the value, or what ``field(...)`` or ``Field(...)`` is told."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] not in ("field", "Field"):
        return _value(node)
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    given = named.get("default", named.get("default_factory", node.args[0] if node.args else None))
    return _value(given)


def _fields(tree: ast.Module, name: str) -> dict[str, Any]:
    """The fields of a class with their defaults; ``None`` without one."""
    return {
        statement.target.id: _field(statement.value)
        for statement in _named(tree, name).body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def _arguments(tree: ast.Module, name: str) -> dict[str, Any]:
    """The arguments of a function that have a default."""
    arguments = _named(tree, name).args
    plain = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(plain[len(plain) - len(arguments.defaults) :], arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return {argument.arg: _value(default) for argument, default in pairs if default is not None}


def _gets(tree: ast.Module, name: str) -> dict[str, Any]:
    """What calls of ``name.get`` say of absent keys."""
    return {
        ast.literal_eval(call.args[0]): _value(call.args[1])
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == f"{name}.get"
        and len(call.args) == 2
        and isinstance(call.args[0], ast.Constant)
    }


def _options(tree: ast.Module, name: str) -> dict[str, Any]:
    """The defaults of a command line's options, as calls of ``name`` add them."""
    options = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] == name:
            default = next((_value(keyword.value) for keyword in call.keywords if keyword.arg == "default"), None)
            options.update({str(_value(argument)).lstrip("-"): default for argument in call.args})
    return options


def _constants(tree: ast.Module) -> dict[str, Any]:
    """What names of a file are given first, in the file or in a function."""
    constants: dict[str, Any] = {}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    constants.setdefault(target.id, _value(statement.value))
    return constants


def _declared(sources: Sources, declaration: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of one declaration, by key. Raises ``LookupError`` where the source has no such key."""
    tree = sources.tree(declaration["file"])
    if "constants" in declaration:
        constants = _constants(tree)
        return {key: constants[name] for key, name in declaration["constants"].items()}
    if "constant" in declaration:
        return {declaration["constant"]: _constants(tree)[declaration["constant"]]}
    if "class" in declaration:
        found = _fields(tree, declaration["class"])
    elif "function" in declaration:
        found = _arguments(tree, declaration["function"])
    elif "get" in declaration:
        found = _gets(tree, declaration["get"])
    elif "options" in declaration:
        found = _options(tree, declaration["options"])
    else:
        found = _constants(tree)[declaration["mapping"]]
    missing = [key for key in declaration["keys"] if key not in found]
    if missing:
        raise LookupError(f"{declaration['file']} declares no {', '.join(missing)}")
    return {declaration.get("prefix", "") + key: found[key] for key in declaration["keys"]}


def _line(sources: Sources, behaviour: Mapping[str, Any]) -> int:
    """The number of the line that shows a behaviour. Raises ``LookupError`` where it is not one line."""
    first, last = 1, None
    if "within" in behaviour:
        node = _named(sources.tree(behaviour["file"]), behaviour["within"])
        first, last = node.lineno, node.end_lineno
    lines = sources.text(behaviour["file"]).splitlines()[first - 1 : last]
    found = [number for number, line in enumerate(lines, first) if behaviour["line"] in line]
    if not found or (len(found) > 1 and "nth" not in behaviour):
        raise LookupError(f"{behaviour['file']}: {len(found)} lines have {behaviour['line']!r}")
    return found[behaviour.get("nth", 0)]


def record(tool: Mapping[str, Any]) -> dict[str, Any]:
    """What a tool's release does where a file leaves a key out. Raises ``LookupError``."""
    packages = {tool["package"]: str(tool["release"]), **tool.get("with", {})}
    sources = Sources(packages)
    defaults: dict[str, Any] = {}
    for declaration in tool["declarations"]:
        defaults.update(_declared(sources, declaration))
    behaviours = [{"fact": b["fact"], "source": f"{b['file']}:{_line(sources, b)}"} for b in tool.get("behaviours", ())]
    return {
        "release": ", ".join(f"{package} {release}" for package, release in packages.items()),
        "date": date.today().isoformat(),
        "sources": sorted({entry["file"] for entry in (*tool["declarations"], *tool.get("behaviours", ()))}),
        "defaults": defaults,
        "behaviours": behaviours,
    }


def main() -> None:
    """Write the records of the tools named on the command line, or of all."""
    tools = yaml.safe_load((FOLDER / "sources.yaml").read_text(encoding="utf-8"))
    for name in sys.argv[1:] or tools:
        try:
            recorded = record(tools[name])
        except LookupError as error:
            sys.exit(f"{name}: {error}")
        text = json.dumps(recorded, indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
