"""Settings of the whole suite, and what is skipped where an extra is not installed.

Two rules. A test file that imports a module of an absent extra is skipped whole. A test that needs one only while it
runs is marked ``@pytest.mark.extra("trace")``.
"""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Generator, Iterator

import pytest

from tests.cases.small_models import FAMILIES, write_config
from tests.helpers.extras import extra_of, missing
from tests.helpers.shares import in_turn, turn

# Two processes of two threads each share two cores: a thread that waits must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A plan's CPU has no float16 products of oneDNN, as no processor without AVX512-FP16 has. Read when torch is imported.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
# Sentences on one line, where tests look for them; `show/test_terminal_width.py` asks about narrow terminals.
os.environ["COLUMNS"] = "300"
# While files are imported there is nothing to collect, and more and more to look through.
gc.disable()
# No test reaches the hub, nor what a user has of it or has recorded. Nothing is below a file that is no folder.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = "/dev/null/hub"
os.environ["ESTIMATOR_PROGRAMS"] = "/dev/null/programs"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say which share is asked. ``-q`` leaves pytest's own header out, and workers print nothing."""
    number, reporter = turn(), session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and number is not None:
        reporter.write_line(f"Each commit asks other cases of tests marked `share`; SHARE={number} asks these again.")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that cannot be imported for want of an extra's module is skipped, with the extra's name."""
    report = yield
    error = report.call.excinfo.value if report.call and report.call.excinfo else None
    while error and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    extra = extra_of((error.name or "").partition(".")[0]) if error else ""
    if extra:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 1, f"Skipped: {missing(extra)}")
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the cases of a test marked ``share(n)`` one in n is asked; of fewer than n one or none. The next n - 1 commits
    ask the others, and so does ``make witness``. Which go together is as if drawn, since settings alternate in most
    tables. Tests of the same cases ask the same ones, where they are in one file; the files take turns.
    """
    number = turn()
    if number is None:
        return
    shared: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        mark = item.get_closest_marker("share")
        if mark is not None and item.get_closest_marker("witness") is None:
            shared.setdefault((item.nodeid.partition("[")[0], mark.args[0]), []).append(item)
    for (name, n), cases in shared.items():
        cases.sort(key=lambda item: zlib.crc32(item.name.partition("[")[2].encode()))
        of_file = number + zlib.crc32(name.partition("::")[0].encode())
        asked = {id(item) for item in in_turn(cases, n, of_file)}
        for item in cases:
            if id(item) not in asked:
                item.add_marker("witness")


def pytest_collection_finish() -> None:
    """What was imported is not looked through again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _kept() -> Iterator[None]:
    """What a file's tests leave in caches is not looked through again: some tests collect garbage many times.

    The whole suite took 19 minutes without this, and 16 with it (two cores).
    """
    yield
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked with an extra is skipped where a module of it is absent."""
    for mark in item.iter_markers("extra"):
        reason = missing(mark.args[0])
        if reason:
            pytest.skip(reason)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small model of every family; Mistral's window is 24 tokens."""
    folder = tmp_path_factory.mktemp("models")
    return {
        family: write_config(folder / family, {"model_type": family, "num_hidden_layers": 2, "vocab_size": 211})
        for family in FAMILIES
    }


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of PyTorch, where it is installed, which waits for no other."""
    if missing("trace"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
