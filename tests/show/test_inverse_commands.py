"""The commands of the inverse questions: the object, the lines, the figure and the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimator.answers.estimate import estimate
from estimator.answers.inverse import solve
from estimator.engines.devices import find
from estimator.show.cli import main
from tests.helpers.commands import ask
from tests.helpers.drawings import has_colour, pixels

LORA = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}
MIB = 2**20
SOLUTION = {
    "schema",
    "question",
    "key",
    "answer",
    "answer_without_margin",
    "verdict",
    "margin_bytes",
    "kept_free_bytes",
    "uncertainty_bytes",
    "bytes",
    "peak_at",
    "next",
    "binding",
    "budget_bytes",
    "limit",
    "plan",
    "assumptions",
    "warnings",
}


@pytest.mark.share(6)
@pytest.mark.parametrize(
    ("question", "key", "budget", "options"),
    [
        ("max-seq", "seq", 420, ["--batch", 2]),
        ("max-batch", "batch", 420, ["--seq", 20]),
        ("max-rank", "r", 400, ["--seq", 20, "--target-modules", "all-linear"]),
    ],
)
def test_commands(
    question: str,
    key: str,
    budget: int,
    options: list[Any],
    models: dict[str, str],
    tmp_path: Path,
) -> None:
    """Asks the contract: the object, the lines, the figure, and that ``plan`` is ready for ``estimate``."""
    arguments = [question, models["llama"], "--method", "lora", *options, "--budget", f"{budget}MiB"]
    solution = ask(*arguments, "--json")
    assert set(solution) == SOLUTION
    assert (solution["schema"], solution["question"], solution["key"]) == (1, question, key)
    assert solution["next"]["value"] == solution["answer"] + 1
    assert solution["verdict"] == "fits"
    assert solution["bytes"]["process"] + solution["uncertainty_bytes"] <= budget * MIB
    assert solution["answer_without_margin"] > solution["answer"]
    assert solution["binding"] == solution["next"]["peak_at"]
    assert estimate(solution["plan"]).bytes == solution["bytes"]
    shown = ask(*arguments)
    assert f": {solution['answer']:,}\n" in shown
    assert f"what binds is: {solution['binding']}" in shown
    assert f"Without a margin: {solution['answer_without_margin']:,}." in shown
    assert f"Fits in {budget}.00 MiB: " in shown
    tight = ask(*arguments, "--margin", 0, "--json")
    assert tight["answer"] == tight["answer_without_margin"] == solution["answer_without_margin"]
    assert tight["bytes"]["process"] <= budget * MIB
    assert tight["next"] is None or tight["next"]["process"] > budget * MIB  # none past the highest rank
    assert "estimator advise" in shown
    assert ask(*arguments, "--multiple-of", 4, "--json")["answer"] == solution["answer"] // 4 * 4
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({k: v for k, v in solution["plan"].items() if k not in (key, "method")}))
    again = ask(question, "--plan", plan, "--method", "lora", *options[2:], "--json")
    assert again["answer"] == solution["answer"]


def test_the_commands_say_where_there_is_no_answer_or_no_end(models: dict[str, str]) -> None:
    """Asks the contract: exit status 1 where not even the smallest value fits."""
    nothing = ask("max-seq", models["llama"], "--budget", "2MiB", status=1)
    assert "Does not fit in 2.00 MiB: with seq 1, the smallest" in nothing
    assert ask("max-seq", models["llama"], "--budget", "2MiB", "--json", status=1)["answer"] is None
    assert "largest seq that a plan takes" in ask("max-seq", models["llama"], "--budget", "900000TiB")
    assert "than the model has learned positions of" in ask("max-seq", "gpt2", "--budget", "40GiB")
    every = ask("max-rank", models["llama"], "--method", "lora", "--budget", "900TiB")
    assert "above 96" in every
    refused = ask("max-rank", models["llama"], "--method", "shira", "--budget", "900TiB")
    assert "With r 25 the plan is refused" in refused


@pytest.mark.share(6)
def test_the_device_command(models: dict[str, str], tmp_path: Path) -> None:
    """Asks the contract: the object, the lines and the exit status."""
    arguments = ["smallest-device", "llama-3.2-1b", "--method", "lora", "--kind", "data centre", "--seq", 256]
    answer = ask(*arguments, "--json")
    assert answer["question"] == "smallest-device"
    assert estimate({**answer["plan"], "device": answer["answer"]}).fits
    assert (
        answer["budget_bytes"] == find(answer["answer"]).usable_bytes == answer["margin"] + answer["bytes"]["process"]
    )
    assert answer["below"] is None  # the smallest of that kind
    shown = ask(*arguments)
    assert answer["answer"] in shown
    assert "the next ones that fit" in shown
    assert "The next smaller" in ask("smallest-device", "llama-3.2-1b")
    large = ["smallest-device", "llama-3.1-70b", "--seq", 8192]
    assert "Does not fit: no device is large enough" in ask(*large, status=1)
    none = ask(*large, "--json", status=1)
    assert (none["answer"], none["below"]["margin"] < 0) == (None, True)


WRONG: list[Any] = [
    (["max-seq", "MODEL"], "give a budget"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--seq", 8], "leave seq out"),
    (["max-batch", "MODEL", "--budget", "1GiB", "--batch", 8], "leave batch out"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "lora", "--r", 8], "leave r out"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "adalora", "--init-r", 8, "--total-step", 9], "init_r"),
    (["max-rank", "MODEL", "--budget", "1GiB"], "method full has no rank to look for; those that have: lora"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "ia3"], "no rank"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "oft"], "no rank"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "lora", "--init-lora-weights", "orthogonal"], "even"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--multiple-of", 0], "whole number"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--multiple-of", "x"], "--multiple-of"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--multiple-of", 10**9], "multiple of"),
    (["max-seq", "MODEL", "--budget", "8"], "write it like 24GiB"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--output", "x.gif"], "no figure format"),
    (["max-seq", "no-such-model", "--budget", "1GiB"], "unknown model"),
    (["max-seq"], "no model given"),
    (["smallest-device", "MODEL", "--budget", "1GiB"], "leave budget out"),
    (["smallest-device", "MODEL", "--device", "rtx-4090"], "leave device out"),
    (["smallest-device", "MODEL", "--kind", "toaster"], "kinds are GPU, data centre"),
    (["smallest-device", "no-such-model"], "unknown model"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_wrong_arguments(arguments: list[Any], says: str, models: dict[str, str]) -> None:
    """Asks the contract: status 2 and one line."""
    assert says in ask(*(models["llama"] if word == "MODEL" else word for word in arguments), status=2)


def test_keys_in_a_plans_file(models: dict[str, str], tmp_path: Path) -> None:
    """Asks the contract: a plan that gives the key is refused; the rank of an adapter's own file is replaced."""
    plan, adapter = tmp_path / "plan.json", tmp_path / "adapter_config.json"
    keys = {"model": models["llama"], "seq": 9, "method": {"name": "lora", "r": 4}, "budget": "405MiB"}
    plan.write_text(json.dumps(keys))
    assert "leave seq out" in ask("max-seq", "--plan", plan, status=2)
    assert "leave r out" in ask("max-rank", "--plan", plan, status=2)
    assert "Fits in 8.00 GiB as it is" in ask("advise", "--plan", plan, "--budget", "8GiB")
    adapter.write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]}))
    expected = solve("max-rank", {**keys, "method": LORA}).answer
    plan.write_text(json.dumps({**keys, "method": str(adapter)}))
    assert ask("max-rank", "--plan", plan, "--json")["answer"] == expected
    assert ask("max-rank", "--plan", plan, "--method", adapter, "--json")["answer"] == expected
    assert "leave r out" in ask("max-rank", "--plan", plan, "--r", 3, status=2)


@pytest.mark.share(6)
@pytest.mark.parametrize(("question", "budget"), [("max-seq", "450MiB"), ("max-rank", "425MiB"), ("max-batch", "1MiB")])
def test_figures(question: str, budget: str, models: dict[str, str], tmp_path: Path) -> None:
    """Asks the picture itself: the budget's red line, the process's ink and, where there is one, the answer's mark."""
    path = tmp_path / "figure.png"
    status = 1 if budget == "1MiB" else 0
    arguments = [question, models["llama"], "--method", "lora", "--target-modules", "all-linear", "--budget", budget]
    assert main([*arguments, "--output", str(path)]) == status
    assert len(np.unique(pixels(path).reshape(-1, 3), axis=0)) > 200
    assert has_colour(path, "#B22222", 300)
    assert has_colour(path, "#222222", 800)
    assert has_colour(path, "#0072B2", 300)
    assert has_colour(path, "#D55E00", 100) == (status == 0)
