"""What stands first in an answer, how long ``check`` is, and what a phone is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.commands import refusal, run

LORA = "smollm2-135m --method lora --seq 64"
QLORA = str(Path(__file__).parents[2] / "docs" / "examples" / "qlora.yaml")


@pytest.mark.parametrize(
    ("line", "first"),
    [
        (f"estimate {LORA} --budget 1GiB", "Fits in 1.00 GiB: "),
        (f"estimate {LORA} --budget 300MiB", "Does not fit in 300.00 MiB: "),
        (f"advise {LORA} --budget 1GiB", "Fits in 1.00 GiB as it is: "),
        ("max-seq smollm2-135m --method lora --budget 1GiB", "longest sequence: "),
        (f"smallest-device {LORA} --devices t4,rtx-4090", "smallest device: "),
        (f"smallest-cluster {LORA} --devices t4", "smallest cluster: "),
        ("max-gpu-layers smollm2-135m --device t4 --n-ctx 512", "most layers on devices: "),
        ("largest-quant smollm2-135m --device iphone-15 --n-ctx 512", "largest recipe that fits: "),
        ("serving smollm2-135m --device l4", "vLLM starts on l4, with room for "),
        (
            "serving llama-3.1-8b --device rtx-3060",
            "vLLM does not start on rtx-3060-12gb with requests of 131,072 tokens.",
        ),
        (f"explain {LORA}", "Saved for backward: "),
        (f"timeline {LORA} --device t4", "Allocated peak "),
        (f"check {QLORA} --device rtx-4090", "Does not fit in 23.51 GiB: "),
        (f"check {QLORA} --device rtx-4090 --all", "Does not fit in 23.51 GiB: "),
    ],
)
def test_the_verdict_is_the_first_line(line: str, first: str) -> None:
    assert run(line.split()).out.startswith(first)


def test_check_fits_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the lines that are left out it says how many; JSON has everything."""
    monkeypatch.setenv("COLUMNS", "80")
    line = ["check", QLORA, "--device", "rtx-4090"]
    everything, screen = (run([*line, *more]).out.splitlines() for more in (["--all"], []))
    assert len(screen) == 20
    assert screen[-1] == f"{len(everything) - 19} more lines: --all"
    assert "plan                         value         the file's key" in everything
    record = json.loads(run([*line, "--json"]).out)
    assert {"plan", "assumptions", "ignored", "bytes"} <= record.keys()


def test_check_prints_one_line_where_it_is_quiet() -> None:
    assert run(["check", QLORA, "--budget", "99GiB", "--quiet"]).out.count("\n") == 1


def test_options_of_a_method_are_added_to_the_files() -> None:
    """``--r`` without ``--method``: the file names the method."""
    plan = json.loads(run(["check", QLORA, "--r", "8", "--lora-dropout", "0", "--json"]).out)["plan"]
    assert (plan["method"]["name"], plan["method"]["r"], plan["method"]["lora_dropout"]) == ("lora", 8, 0)
    assert plan["method"]["target_modules"] == "all-linear"  # the file's


def test_a_phone_is_not_asked_about_training_unless_told() -> None:
    """The line names the engines of phones and the commands; each of its mends is answered."""
    line = ["estimate", "smollm2-135m", "--device", "iphone-15"]
    said = refusal(*line)
    assert "a phone, which runs models with llama.cpp, ExecuTorch, LiteRT or MLC" in said
    assert "`estimator max-context`" in said
    assert refusal(*line, "--seq", "64", "--dtype", "float16") == said
    for more in (["--task", "train"], ["--method", "lora"], ["--runtime", "torch-cpu"], ["--batch", "2"]):
        assert run([*line, "--seq", "64", *more]).out.count("A training step in PyTorch on a CPU, without") == 1
    for more in (["--dtype", "Q4_K_M", "--n-ctx", "4096"], ["--task", "infer", "--seq", "64"]):
        assert run([*line, *more]).status == 0
    assert run(["max-context", *line[1:]]).status == 0
    assert run([*line[:3], "laptop-8gb", "--seq", "64"]).status == 0
