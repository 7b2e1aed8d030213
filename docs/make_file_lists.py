"""Write the list of files in each folder's README: ``python docs/make_file_lists.py``.

A README that has the line ``MARK`` gets one below it: each file and folder with the first sentence of its docstring,
in an order in which each stands after those it imports.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARK = "<!-- `make pages` writes the list below. -->\n"
READMES = sorted((ROOT / "estimator").rglob("README.md"))


def entries(folder: Path) -> dict[str, list[Path]]:
    """The Python files of a folder and of the folders in it, by the name of the file or folder."""
    files = [path for path in sorted(folder.rglob("*.py")) if path != folder / "__init__.py"]
    names = sorted({path.relative_to(folder).parts[0] for path in files})
    return {name: [path for path in files if path.relative_to(folder).parts[0] == name] for name in names}


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports, ``from a import b`` as ``a.b``; not those for the type checker only."""
    package = path.relative_to(ROOT).parent.parts
    found, nodes = set(), [ast.parse(path.read_text(encoding="utf-8")).body]
    for node in (node for body in nodes for node in body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = [*above, *([node.module] if node.module else [])]
            found |= {".".join([*module, alias.name]) for alias in node.names}
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            nodes.append(list(ast.iter_child_nodes(node)))
    return found


def in_order(folder: Path) -> list[str]:
    """The entries of a folder, each after those it imports; in a circle by name."""
    inside = entries(folder)
    prefix = ".".join(folder.relative_to(ROOT).parts) + "."
    order: list[str] = []
    needs = {name: {f for path in paths for f in imported(path)} for name, paths in inside.items()}
    graph = {
        name: {other for other in inside if other != name and _names(prefix + other.removesuffix(".py"), found)}
        for name, found in needs.items()
    }
    try:
        sorter = TopologicalSorter(graph)
        sorter.prepare()
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            order += ready
            sorter.done(*ready)
    except ValueError:  # a circle
        return sorted(inside)
    return order


def _names(module: str, found: set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for name in found)


def summary(path: Path) -> str:
    """The first sentence of the docstring of a file or of a folder's ``__init__.py``."""
    source = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) if source.exists() else None
    paragraph = " ".join((text or "").partition("\n\n")[0].split()).replace("``", "`")
    sentence, stop, _ = paragraph.partition(". ")
    return (sentence + stop).strip().replace("|", "\\|")


def page(readme: Path) -> str:
    """A README with its list as the files are now."""
    text = readme.read_text(encoding="utf-8")
    above, mark, _ = text.partition(MARK)
    if not mark:
        return text
    folder = readme.parent
    rows = [f"| `{name}` | {summary(folder / name)} |\n" for name in in_order(folder)]
    return above + mark + ("\n| file | what it is |\n| --- | --- |\n" + "".join(rows) if rows else "")


def main() -> None:
    """Write the lists."""
    for readme in READMES:
        readme.write_text(page(readme), encoding="utf-8")


if __name__ == "__main__":
    main()
