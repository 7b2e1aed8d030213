"""Lines of plans: one answer for each, in order, whatever is wrong with one."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.bulk import estimate_lines
from estimator.answers.estimate import estimate
from estimator.answers.result import Result
from estimator.errors import InputError
from estimator.io.files import LONGEST_LINE, lines
from estimator.plans.plan import Plan
from estimator.show.cli import main
from tests.cases.small_models import write_config
from tests.helpers.files import write

MODEL = "smollm-135m"


def jsonl(*plans: Any) -> str:
    return "".join((plan if isinstance(plan, str) else json.dumps(plan)) + "\n" for plan in plans)


PLANS = [
    {"model": MODEL, "seq": 64},
    {"model": MODEL, "seq": 64, "bacth": 1},
    "",
    '{"model": "smollm-135m", "seq"',
    {"model": "nope"},
    "   ",
    "[1]",
    {"model": MODEL, "seq": 64, "method": "lora", "budget": "1KiB"},
    '{"model": "smollm-135m", "seq": 8, "seq": 9}',
]


def check_answers(lines: list[str]) -> None:
    assert len(lines) == 7
    good = {0: PLANS[0], 5: PLANS[7]}
    for number, line in enumerate(lines):
        result = json.loads(line)
        if number in good:
            assert result == estimate(good[number]).to_dict()
        else:
            assert set(result) == {"error"}
            assert 0 < len(result["error"]) < 500


def test_lines_of_plans(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Asks the contract: one object per line, in order, none for a blank line; an error for a wrong plan."""
    file = write(tmp_path / "plans.jsonl", jsonl(*PLANS))
    assert main(["estimate", "--plans", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    check_answers(out.splitlines())


def test_lines_of_plans_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asks the contract: - reads standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(jsonl(*PLANS).encode())))
    assert main(["estimate", "--plans", "-", "--json"]) == 0
    check_answers(capsys.readouterr().out.splitlines())


def test_a_line_that_is_no_text_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: also a line of bytes, of too many digits or of too many brackets is only one error."""
    good = jsonl(PLANS[0]).encode()
    bad = [b"\xff\xfe\x00{\x80\n", b'{"model": "smollm-135m", "seq": ' + b"9" * 5000 + b"}\n", b"[" * 50_000 + b"\n"]
    file = tmp_path / "plans.jsonl"
    file.write_bytes(good + b"".join(bad) + good)
    assert main(["estimate", "--plans", str(file), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in line for line in lines] == [False, True, True, True, False]
    assert lines[0] == lines[-1]


def test_answers_come_line_by_line() -> None:
    """Asks the contract's use: a planner that asks on only after it has read an answer does not wait for ever."""
    arguments = [sys.executable, "-m", "estimator.show.cli", "estimate", "--plans", "-", "--json"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for batch in (1, 2):
            process.stdin.write(jsonl({"model": MODEL, "seq": 8, "batch": batch}).encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == estimate(model=MODEL, seq=8, batch=batch).to_dict()
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.consistency
def test_the_formulas_of_many_plans_give_the_same_answers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Asks the formula itself: past the first few plans of a structure, compiled formulas answer; nothing changes."""
    plans = [
        {"model": model, "seq": 40 + i, "batch": 2, "method": {"name": "lora", "r": 1 + i}}
        for i in range(8)
        for model in (MODEL, "smollm2-360m")
    ]
    file = write(tmp_path / "plans.jsonl", jsonl(*plans))
    assert main(["estimate", "--plans", str(file), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [estimate(plan).to_dict() for plan in plans]


def test_few_plans_of_a_structure_are_answered_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks what makes a thousand plans a second possible: compiled formulas answer all but the first ones."""
    from estimator.answers import bulk as many

    asked: list[int] = []

    def one_by_one(plan: Plan) -> Result:
        asked.append(plan.seq)
        return estimate(plan)

    monkeypatch.setattr(many, "estimate", one_by_one)
    answers = list(estimate_lines(jsonl(*({"model": MODEL, "seq": 40 + i} for i in range(12))).splitlines()))
    assert asked == [40 + i for i in range(many.COMPILE_AFTER)]
    assert json.loads(answers[-1]) == estimate(model=MODEL, seq=51).to_dict()


def test_formulas_of_one_dropout_do_not_answer_for_another(tmp_path: Path) -> None:
    """Asks the formula itself: models that differ in the dropout of attention have formulas of their own."""
    models = [write_config(tmp_path / str(p), {"attention_dropout": p}) for p in (0.0, 0.1)]
    plans = [{"model": model, "seq": 40 + i, "batch": 2, "attention": "eager"} for model in models for i in range(8)]
    answers = [json.loads(line) for line in estimate_lines(jsonl(*plans).splitlines())]
    assert answers == [estimate(plan).to_dict() for plan in plans]


SMOLLM2 = "smollm2-135m"


def test_a_defect_costs_one_line_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: the others are answered, whatever is wrong with one."""
    from estimator.answers import bulk as batch

    def parse(data: dict[str, Any]) -> Any:
        raise ZeroDivisionError if data.get("seq") == 3 else InputError("wrong")

    monkeypatch.setattr(batch, "parse_plan", parse)
    answers = [json.loads(line) for line in estimate_lines(['{"seq": 3}', '{"seq": 4}'])]
    assert "ZeroDivisionError" in answers[0]["error"]
    assert answers[1] == {"error": "wrong"}


def test_a_line_too_long_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract; what never ends is refused, in little memory."""
    good = json.dumps({"model": SMOLLM2, "seq": 8}).encode()
    file = io.BytesIO(good + b"\n" + b"x" * (3 * LONGEST_LINE) + b"\n" + good + b"\n" + b"y" * LONGEST_LINE)
    monkeypatch.setattr("estimator.io.files.standard_input", lambda: file)
    answers = [json.loads(line) for line in estimate_lines(lines("-", "plans"))]
    assert ["error" in answer for answer in answers] == [False, True, False, True]
    assert "longer than" in answers[1]["error"]

    class Endless(io.RawIOBase):
        def readline(self, size: int | None = -1) -> bytes:
            return b"z" * (size or 0)

    monkeypatch.setattr("estimator.io.files.standard_input", Endless)
    with pytest.raises(InputError, match="a line of more than"):
        list(lines("-", "plans"))


@pytest.mark.parametrize(
    "line",
    [
        r'{"\ud800": 1, "model": "smollm2-135m"}',
        r'{"model": "\udfff"}',
        r'{"model": "smollm2-135m", "method": {"name": "lora", "rank_pattern": {"\ud800": 3}}}',
        r'{"model": "smollm2-135m", "llama_cpp": ["\ud800\ud800"]}',
        b'{"model": "\xed\xa0\x80"}',
        '{"model": "\ud800"}',
        '{"model": ' + "9" * 5000 + "}",
        '{"model": ' + "[" * 100_000,
        '{"a":' * 20_000 + "1" + "}" * 20_000,
    ],
)
def test_a_bad_line_costs_one_line(line: Any) -> None:
    """Asks the contract: also of what is no character, and what is too deep or too large for Python."""
    good = json.dumps({"model": SMOLLM2, "seq": 8})
    answers = list(estimate_lines([good, line, good]))
    assert [set(json.loads(answer)) == {"error"} for answer in answers] == [False, True, False]
    answers[1].encode("utf-8")
    assert not re.search(r"\\ud[89a-f]", answers[1].replace("\\\\", ""))
