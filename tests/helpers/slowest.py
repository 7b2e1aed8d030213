"""A plugin of pytest that lists the slowest tests in ``tests/README.md``: ``make slowest`` runs all and writes it."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "README.md"
MARK = "<!-- `make slowest` writes the list below. -->\n"
COUNT = 20


def _cpu() -> float:
    """CPU seconds of this process, and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Slowest:
    """CPU seconds of each test, added up over its cases, with those of the fixtures that they are the first to need."""

    def __init__(self) -> None:
        self.start = 0.0
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self.start = _cpu()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":  # reports go from the workers to the process that writes the page
            report.user_properties.append(("cpu", _cpu() - self.start))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, seconds in report.user_properties if report.when == "teardown" else ():
            if name == "cpu":
                self.seconds[report.nodeid.partition("[")[0]].append(float(seconds))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput"):
            self.write()

    def write(self) -> None:
        """Put the list into the page, below ``MARK``."""
        totals = sorted(((sum(found), len(found), name) for name, found in self.seconds.items()), reverse=True)
        names = [(seconds, count, name.removeprefix("tests/")) for seconds, count, name in totals[:COUNT]]
        rows = [f"| {seconds:.1f} | {count} | `{name}` |" for seconds, count, name in names]
        whole = f"All {sum(count for _, count, _ in totals):,} cases: {sum(seconds for seconds, *_ in totals):,.0f} s."
        table = ["| CPU seconds | cases | test |", "| ---: | ---: | --- |", *rows]
        above = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
        PAGE.write_text("\n".join([above + MARK, *table, "", whole, ""]), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Slowest())
