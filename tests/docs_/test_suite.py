"""How the suite itself is run: shares of cases, ``make witness``, and the list of slow tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.helpers import slowest
from tests.helpers.files import script
from tests.helpers.shares import in_turn, turn

WITNESS = script("make_witness")


@pytest.mark.parametrize("count", [1, 2, 5, 12, 13])
@pytest.mark.parametrize("n", [1, 3, 12])
def test_runs_in_turn_ask_all_cases(n: int, count: int) -> None:
    cases = list(range(count))
    asked = [in_turn(cases, n, number) for number in range(872, 872 + n)]
    assert sorted({case for cases in asked for case in cases}) == cases
    assert {len(cases) for cases in asked} <= {count // n, -(-count // n)}


def test_a_share_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARE", "7")
    assert turn() == 7
    monkeypatch.setenv("SHARE", "all")
    assert turn() is None
    monkeypatch.setenv("SHARE", "x")
    with pytest.raises(pytest.UsageError, match="SHARE is 'x'; it must be a whole number"):
        turn()


def test_a_step_of_make_witness_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What changed before the run is no change of it; nor is a file of which a date alone is another."""
    (tmp_path / "docs").mkdir()
    for name in ("dated.md", "edited.md", "measured.md"):
        (tmp_path / "docs" / name).write_text("on 2026-01-01\n")
    monkeypatch.setattr(WITNESS, "ROOT", tmp_path)
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "a")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        WITNESS.git(*command)
    (tmp_path / "docs" / "edited.md").write_text("by hand\n")

    def write(name: str, text: str) -> list[str]:
        return [sys.executable, "-c", f"open({name!r}, 'w').write({text!r})"]

    steps = {
        "bad": [sys.executable, "-c", "import sys; sys.exit(3)"],
        "absent": ["./absent"],
        "dated": write("docs/dated.md", "on 2026-02-02\n"),
        "measured": write("docs/measured.md", "9 on 2026-02-02\n"),
        "made": write("docs/made.md", "new\n"),
    }
    assert WITNESS.asked(steps) == 1
    changed, failed = capsys.readouterr().out.split("== results that changed:\n")[1].split("== 2 of 5 steps failed\n")
    assert {line.split("|")[0].strip() for line in changed.splitlines() if "|" in line} == {
        "docs/measured.md",
        "docs/made.md",
    }
    assert [line.partition(":")[0] for line in failed.splitlines()] == ["bad", "absent"]
    assert "bad: exit status 3" in failed
    assert WITNESS.run([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.1) == "no end after 0 s"


def test_make_witness_names_what_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert WITNESS.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}: " in listed for name in WITNESS.STEPS)
    assert WITNESS.main(["abacus"]) == 2
    assert "no step has one of these words" in capsys.readouterr().err
    for command in WITNESS.STEPS.values():
        for word in command:
            if word.endswith(".py"):
                assert (WITNESS.ROOT / word).is_file()
            elif word.startswith("tests.cases."):
                assert (WITNESS.ROOT / f"{word.replace('.', '/')}.py").is_file()


def test_the_slowest_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above, mark, _ = slowest.PAGE.read_text(encoding="utf-8").partition(slowest.MARK)
    assert mark
    page = tmp_path / "README.md"
    page.write_text(above + mark + "old", encoding="utf-8")
    monkeypatch.setattr(slowest, "PAGE", page)
    plugin = slowest.Slowest()
    plugin.seconds |= {"tests/a.py::test_a": [1.0, 2.0], "tests/b.py::test_b": [4.0]}
    plugin.write()
    rows = page.read_text(encoding="utf-8").removeprefix(above + mark).splitlines()
    assert rows[3:5] == ["| 4.0 | 1 | `b.py::test_b` |", "| 3.0 | 2 | `a.py::test_a` |"]
    assert rows[-1] == "All 3 cases: 7 s."
