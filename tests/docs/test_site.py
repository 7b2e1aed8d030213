"""The documentation: the site builds without a warning, pages show what commands print today, links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

import estimator

ROOT = Path(__file__).parents[2]
SITE_PAGES = ("index.html", "walkthroughs/fine-tuning/index.html", "contributing/index.html", "changelog/index.html")
FOLDERS = ("docs", "estimator", "model_specs", "benchmarks", "tests")
MARKDOWN = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
LINK = re.compile(r"\]\(([^)#\s]+)[^)\s]*\)")


def script(name: str) -> ModuleType:
    """A script of ``docs/``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # the theme's notice about MkDocs 2, no warning of ours
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.mark.parametrize("name", SITE_PAGES)
def test_the_site_has_the_page(site: Path, name: str) -> None:
    assert "<h1" in (site / name).read_text(encoding="utf-8")


def test_the_python_reference_has_every_public_name(site: Path) -> None:
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert [name for name in estimator.__all__ if f'id="estimator.{name}"' not in page] == []


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//[^"]*', page) == []


WALKTHROUGHS = script("make_walkthroughs")


@pytest.mark.parametrize("path", WALKTHROUGHS.PAGES, ids=lambda path: path.stem)
def test_a_walk_through_shows_what_the_commands_print(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert WALKTHROUGHS.page(text) == text, "run: python docs/make_walkthroughs.py"


FILE_LISTS = script("make_file_lists")


@pytest.mark.parametrize("path", FILE_LISTS.READMES, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_readme_lists_the_files_of_its_folder(path: Path) -> None:
    assert FILE_LISTS.page(path) == path.read_text(encoding="utf-8"), "run: python docs/make_file_lists.py"


def test_the_command_reference_is_of_this_code() -> None:
    reference = script("make_reference")
    assert reference.page() == reference.PAGE.read_text(encoding="utf-8"), "run: python docs/make_reference.py"


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(path: Path) -> None:
    targets = [unquote(target) for target in LINK.findall(path.read_text(encoding="utf-8")) if ":" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []
