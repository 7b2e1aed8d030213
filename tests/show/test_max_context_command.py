"""``estimator max-context``: its tables, its figure, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimator.engines.llama_cpp.engine import ENGINE
from estimator.show.cli import main
from tests.helpers.commands import output, refusal
from tests.helpers.drawings import has_colour, pixels


def assert_drawn(path: Path) -> None:
    """The figure has its red limit and lines of several colours."""
    colours, counts = np.unique(pixels(path).reshape(-1, 3), axis=0, return_counts=True)
    assert len(colours) > 50
    assert counts.max() < 0.98 * counts.sum()
    assert has_colour(path, "#B22222", 300)


@pytest.mark.share(5)
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of two models, two recipes and two caches, and its figure."""
    figure = tmp_path / "context.png"
    models = ["max-context", "smollm2-135m,gemma-3-270m", "--budget", "600MiB"]
    assert main([*models, "--dtypes", "Q4_0,q8_0", "--caches", "f16,q8_0/f16", "--output", str(figure)]) == 0
    text = capsys.readouterr().out
    assert "Longest context in 600.00 MiB" in text
    assert text.count("smollm2-135m") == text.count("gemma-3-270m") == 4
    assert "q8_0/f16" in text
    assert_drawn(figure)
    assert main([*models, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in answer["rows"]] == ["smollm2-135m", "gemma-3-270m"]
    for row in answer["rows"]:
        assert row["answer"] % ENGINE.context_step == row["answer_without_margin"] % ENGINE.context_step == 0
        assert row["margin_bytes"] >= row["kept_free_bytes"] == row["uncertainty_bytes"] > 0
        assert row["verdict"] == "fits"
        assert row["assumptions"] == []
        (limit,) = row["limits"]
        assert limit["left_bytes"] == limit["limit_bytes"] - limit["bytes"] == row["margin_bytes"]
    tight = [*models, "--budget", "170MiB", "--dtypes", "q8_0", "--margin"]
    for margin, status in (("0", 0), ("40%", 0), ("40 cows", 2)):
        assert main([*tight, margin]) == status
        assert ("tight" in capsys.readouterr().out) == (margin == "40%")
    assert main(["max-context", "llama-3.1-8b", "--budget", "1GiB"]) == 1
    assert "weights alone are too large" in capsys.readouterr().out


@pytest.mark.share(3)
def test_catalogue_on_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The reverse question; once of a few models alone."""
    assert main(["max-context", "--runs-at", "8192", "--device", "raspberry-pi-5-8gb"]) == 0
    text = capsys.readouterr().out
    assert "models that were made for it run with 8,192 tokens in raspberry-pi-5-8gb" in text
    assert "Assumed limit of one application, 7.13 GiB: the operating system is assumed to take 750 MiB" in text
    monkeypatch.setattr("estimator.answers.max_context.names_for", lambda runtime: ["qwen3-0.6b", "llama-3.1-8b"])
    assert main(["max-context", "--runs-at", "8192", "--budget", "2GiB", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert {row["verdict"] for row in models} == {"fits", "does not fit"}
    assert all(row["fits"] == (row["verdict"] != "does not fit") for row in models)


@pytest.mark.share(6)
def test_columns_count_one_quantity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the text: a column and a panel for each limit, named by what it counts, and what the limits rest on."""
    figure = tmp_path / "context.png"
    phone = ["max-context", "qwen3-0.6b,smollm2-135m", "--device", "iphone-15-pro"]
    assert main([*phone, "--output", str(figure)]) == 0
    text = capsys.readouterr().out
    assert "Longest context in iphone-15-pro: 3.00 GiB of dirty memory and 6.00 GiB of RAM in use" in text
    for word in (
        "dirty GiB",
        "used GiB",
        "Margin: answers keep free 3.9 %",
        "Assumed limit of one application, 3.00 GiB",
    ):
        assert word in text
    assert "Assumed part of the RAM that the system keeps, 2.00 GiB" in text
    assert "beside the device replaces it" in text
    assert_drawn(figure)
    assert main(["estimate", "qwen3-0.6b", "--dtype", "q8_0", "--n-ctx", "512", "--device", "iphone-15-pro"]) == 0
    text = capsys.readouterr().out
    assert "Fits in 3.00 GiB of dirty memory" in text
    assert "Of 6.00 GiB of RAM in use" in text
    assert main(["max-context", "qwen3-0.6b", "--device", "pixel-8"]) == 0
    text = capsys.readouterr().out
    assert "used GiB" in text
    assert "dirty GiB" not in text
    assert "Assumed limit of one application" in text


WRONG: list[tuple[list[str], str]] = [
    (["qwen3-0.6b"], "needs something to fit"),
    (["qwen3-0.6b", "--budget", "4GiB", "--dtypes", "q4_k_x"], "is no recipe"),
    (["qwen3-0.6b", "--budget", "4GiB", "--dtypes", ","], "--dtypes is an empty list"),
    (["qwen3-0.6b", "--budget", "4GiB", "--caches", "q9"], "'q9' is no cache type"),
    ([",", "--budget", "4GiB"], "no model given"),
    (["qwen3-0.6b", "--budget", "4GiB", "--runtime", "torch-cpu"], "max-context is about llama.cpp"),
    (["qwen3-0.6b", "--budget", "4GiB", "--methods", ","], "--methods is an empty list"),
    (["qwen3-0.6b", "--budget", "4GiB", "--methods", "full", "--caches", "q8_0"], "does not go with --methods"),
    (["qwen3-0.6b", "--budget", "4GiB", "--margin", "150%"], "is more than the prediction"),
    (["qwen3-0.6b", "--device", "pixel-8", "--ios-increased-memory-limit"], "runs no iOS"),
    (["qwen3-0.6b,qwen3-1.7b", "--budget", "4GiB", "--methods", "full"], "of one model"),
    (["qwen3-0.6b", "--device", "rtx-4060", "--methods", "full"], "own RAM"),
    (["qwen3-0.6b", "--device", "gaudi-2"], "no backend"),
    (["qwen3-0.6b", "--device", "raspberry-pi-5-8gb", "--backend", "metal"], "does not run on"),
    (["qwen3-0.6b", "--device", "iphone-15", "--backend", "cuda"], "does not run on"),
    (["qwen3-0.6b", "--budget", "4GiB", "--caches", "q8_0", "--no-flash-attn"], "flash attention"),
    (["qwen3-0.6b", "--budget", "4GiB", "--output", "figure.txt"], "no figure format"),
    (["qwen3-0.6b", "--budget", "4GiB", "--runs-at", "8192"], "leave MODEL"),
    (["--budget", "4GiB", "--runs-at", "0"], "--runs-at is 0"),
    (["--runs-at", "8192"], "needs something to fit"),
    (["qwen3-0.6b", "--budget", "4GiB", "--methods", "lorax"], "is unknown"),
    (["qwen3-0.6b", "--budget", "4GiB", "--methods", "lora", "--n-ubatch", "64"], "does not train"),
    (["no-such-model", "--budget", "4GiB"], "no-such-model"),
    (["llama-3.1-8b", "--device", "iphone-15", "--budget", "20GiB"], "device: iphone-15, which has 6.00 GiB in all"),
]


def test_a_plan_says_what_is_not_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan's recipe and cache are the ones compared; its context is refused, since that is the question."""
    plan = tmp_path / "plan.json"
    keys: dict[str, Any] = {"model": "qwen3-0.6b", "dtype": "q8_0", "budget": "2GiB"}
    plan.write_text(json.dumps({**keys, "llama_cpp": {"type_k": "q4_0", "type_v": "q4_0"}}))
    assert main(["max-context", "--plan", str(plan), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["recipe"], row["type_k"], row["type_v"]) == ("q8_0", "q4_0", "q4_0")
    plan.write_text(json.dumps({**keys, "llama_cpp": {"n_ctx": 4096}}))
    assert main(["max-context", "--plan", str(plan)]) == 2
    assert "leave seq and n_ctx out" in capsys.readouterr().err


def test_a_plan_whose_model_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 2."""
    (tmp_path / "plan.json").write_text('{"model": 4097}')
    assert main(["max-context", "--plan", str(tmp_path / "plan.json"), "--device", "iphone-15"]) == 2
    assert capsys.readouterr().err == "estimator: model: input should be a valid string, not 4097\n"


@pytest.mark.parametrize("command", ["max-seq", "max-batch", "smallest-device", "formula", "advise"])
def test_other_questions_say_whom_to_ask(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are about steps in PyTorch."""
    limit = [] if command in ("smallest-device", "formula") else ["--budget", "2GiB"]
    assert main([command, "qwen3-0.6b", "--runtime", "llama.cpp", *limit]) == 2
    assert "max-context" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_arguments(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 2."""
    assert main(["max-context", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_training_is_asked_about_one_model() -> None:
    """The longest sequence of a step, and one line for several models."""
    asked = ["--budget", "1GiB", "--methods", "lora", "--quiet"]
    name, answer = output("max-context", "smollm2-135m", *asked).split(": ")
    assert (name, int(answer) > 100) == ("lora", True)
    assert "name one" in refusal("max-context", "smollm2-135m,qwen3-0.6b", *asked)


def test_one_method_that_fits_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    for budget, status in (("1GiB", 0), ("10MiB", 1)):
        assert main(["max-context", "smollm2-135m", "--methods", "full,lora", "--budget", budget, "--quiet"]) == status
        assert capsys.readouterr().out.startswith("full: none\n")


def test_engines_are_compared_by_what_their_first_limits_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a phone dirty memory, before what is in use."""
    asked = ["max-context", "qwen3-0.6b", "--engines", "llama.cpp,executorch", "--device", "iphone-15"]
    assert main([*asked, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [[limit["counted"] for limit in row["limits"]] for row in rows] == [["dirty", "used"]] * 2
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert ", by engine\n" in text
    assert "needs GiB" in text
    for row, engine in zip(rows, ("llama.cpp", "ExecuTorch"), strict=True):
        line = next(line for line in text.splitlines() if f"qwen3-0.6b, {engine}" in line)
        assert f" {row['limits'][0]['bytes'] / 2**30:.2f} " in line
