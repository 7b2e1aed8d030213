"""The documentation: the site builds without a warning, pages show what commands print today, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

import estimator
from tests.helpers.files import script

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "estimator", "model_specs", "benchmarks", "tests")
MARKDOWN = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
FETCHED = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//')
LINK = re.compile(r"\]\(([^)#\s]+)[^)\s]*\)")
MENTIONED = re.compile(rf"`(?:python )?((?:{'|'.join(FOLDERS)})/[^`\s<>]*)`")


LEAST_WORDS = 150
"""The shortest page has 200: the Python reference before mkdocstrings fills it."""
ARTICLE = re.compile(r"<article.*?</article>", re.DOTALL)


def pages_of(nav: Any) -> list[str]:
    """The files that the site's navigation lists."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(part)]


NAV = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


@pytest.mark.parametrize("name", NAV)
def test_a_page_is_whole(name: str) -> None:
    """Title and text; it closes what it opens, and does not end within a sentence. `serving.md` was once empty."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    if included := re.fullmatch(r'--8<-- "(.+)"\n', text):
        text = (ROOT / included[1]).read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(text.split()) > LEAST_WORDS
    assert text.count("\n```") % 2 == 0
    assert re.search(r"^(.*[.|`]|- `.+|::: \S+)\n\Z", text, re.MULTILINE), "it ends within a sentence"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """It has its pages, each public name in the Python reference, and fetches nothing from elsewhere."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # the theme's notice about MkDocs 2, no warning of ours
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert [path for path, page in pages.items() if "<h1" not in page] == []
    articles = {path: re.sub(r"<[^>]+>", " ", "".join(ARTICLE.findall(page))) for path, page in pages.items()}
    short = [path for path, text in articles.items() if len(text.split()) <= LEAST_WORDS]
    assert short == [tmp_path / "404.html"]
    assert [path for path, page in pages.items() if FETCHED.search(page)] == []
    reference = pages[tmp_path / "api" / "index.html"]
    assert [name for name in estimator.__all__ if f'id="estimator.{name}"' not in reference] == []


WALKTHROUGHS = script("make_walkthroughs")


@pytest.mark.share(8)
@pytest.mark.parametrize("path", WALKTHROUGHS.PAGES, ids=lambda path: path.stem)
def test_a_walk_through_shows_what_the_commands_print(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert WALKTHROUGHS.page(text) == text, "run: python docs/make_walkthroughs.py"


@pytest.mark.parametrize("path", WALKTHROUGHS.PAGES, ids=lambda path: path.stem)
def test_tables_of_a_walk_through_are_as_wide_as_the_sites_column(path: Path) -> None:
    """Eighty letters; longer lines of text and code are wrapped by the site's style sheet."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "───" in line and len(line) > 80] == []
    assert "white-space: pre-wrap" in (ROOT / "docs" / "stylesheets" / "site.css").read_text(encoding="utf-8")


FILE_LISTS = script("make_file_lists")


@pytest.mark.parametrize("path", FILE_LISTS.READMES, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_readme_lists_the_files_of_its_folder(path: Path) -> None:
    assert FILE_LISTS.page(path) == path.read_text(encoding="utf-8"), "run: python docs/make_file_lists.py"


def test_the_command_reference_is_of_this_code() -> None:
    reference = script("make_reference")
    assert reference.page() == reference.PAGE.read_text(encoding="utf-8"), "run: python docs/make_reference.py"


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(path: Path) -> None:
    """Files and folders that it links to or names."""
    text = path.read_text(encoding="utf-8")
    linked = [unquote(target) for target in LINK.findall(text) if ":" not in target]
    assert [target for target in linked if not (path.parent / target).exists()] == []
    assert [name for name in MENTIONED.findall(text) if not any(ROOT.glob(name))] == []


def test_the_program_that_is_read_line_by_line_is_the_shipped_one() -> None:
    page = (ROOT / "docs" / "add-an-architecture.md").read_text(encoding="utf-8")
    program = (ROOT / "model_specs" / "programs" / "llama.default.json").read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.+?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        parts = [line.partition("...")[0] for line in block.splitlines()]
        assert not [part for part in parts if part not in program]
    assert blocks[0] in program


@pytest.mark.parametrize("image", script("make_figures").COMMANDS)
def test_a_page_that_shows_a_figure_names_the_command_that_draws_it(image: str) -> None:
    command = f"estimator {script('make_figures').COMMANDS[image]}"
    pages = [page.read_text(encoding="utf-8") for page in MARKDOWN]
    showing = [text for text in pages if f"images/{image})" in text]
    assert showing
    assert [text for text in showing if command not in text] == []
