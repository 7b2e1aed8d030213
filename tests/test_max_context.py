"""The longest context: answers asked of the engine, tables, figures, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from estimator.cli import main
from estimator.errors import InputError
from estimator.estimate import estimate
from estimator.llama_cpp import engine
from estimator.max_context import STEP, curve, longest, rows, runs_at
from estimator.plan import parse_plan
from estimator.runtimes.llama_cpp import model_of, usage_of
from estimator.specs import builtin_names

has_engine = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp_py_sync") is None or sys.platform != "linux",
    reason="the engine's wheel is not installed",
)
ASKED: list[tuple[str, str, str, int, str]] = [
    ("qwen3-0.6b", "q4_k_m", "f16", 1, "2GiB"),
    ("gemma-3-1b", "q4_0", "q8_0", 1, "885MiB"),
    ("llama-3.2-3b", "q5_k_m", "q8_0", 2, "4GiB"),
    ("deepseek-v2-lite", "iq4_nl", "f16", 1, "11GiB"),
    ("lfm2-1.2b", "q8_0", "f16", 1, "1500MiB"),
    ("granite-4.0-h-tiny", "q4_k_m", "f16", 4, "6GiB"),
]


@has_engine
@pytest.mark.parametrize(("model", "recipe", "kind", "sequences", "budget"), ASKED, ids=[case[0] for case in ASKED])
def test_the_engine_fits_and_not_one_step_further(
    model: str, recipe: str, kind: str, sequences: int, budget: str, tmp_path: Path
) -> None:
    """Witness: the engine. What it holds at the answer is within the budget; with one padding step more it is not."""
    block = {"use_mmap": False, "repack": False, "n_outputs_max": sequences, "n_seq_max": sequences, "build": "b11739"}
    keys = {"model": model, "runtime": "llama.cpp", "dtype": recipe, "budget": budget}
    plan = parse_plan({**keys, "llama_cpp": {**block, "type_k": kind, "type_v": kind}})
    row = longest(plan)
    assert row.answer is not None
    assert row.following is not None
    spec = model_of(plan)
    path = tmp_path / "model.gguf"
    engine.write_sparse(spec.header, path)
    limit = plan.budget_bytes()
    assert limit is not None
    for context, fits in ((row.answer, True), (row.answer + STEP, False)):
        options = plan.llama_cpp.model_copy(update={"n_ctx": context * sequences})
        one = plan.model_copy(update={"llama_cpp": options})
        report = engine.ask(path, options.parameters(plan.batch, None, row.trained), use_mmap=False, repack=False)
        use = usage_of(one, spec)
        output = use.context.output_bytes
        held = report.total("model") + report.total("context") + report.total("compute") + output + use.overhead
        assert (held <= limit) is fits
        assert held == estimate(one).bytes["process"]


@settings(max_examples=20, deadline=None)
@given(
    model=st.sampled_from(["smollm2-135m", "gemma-3-270m", "qwen3-0.6b", "lfm2-350m"]),
    recipe=st.sampled_from(["q4_0", "q8_0", "q4_k_m"]),
    kind=st.sampled_from(["f16", "q8_0", "f32"]),
    budget=st.integers(150, 3000),
)
def test_answers_are_edges(model: str, recipe: str, kind: str, budget: int) -> None:
    """Witness: formula. The answer fits, the next step does not, and a larger budget never has a shorter answer."""
    keys = {"model": model, "runtime": "llama.cpp", "dtype": recipe, "llama_cpp": {"type_k": kind, "type_v": kind}}
    row, more = (longest(parse_plan({**keys, "budget": f"{size}MiB"})) for size in (budget, budget + 100))
    if row.answer is None:
        assert not row.result.fits
        return
    assert row.result.fits
    assert row.following is None or not row.following.fits
    assert more.answer is not None
    assert more.answer >= row.answer


def test_a_phone_counts_dirty_memory() -> None:
    """iOS kills for dirty memory and mapped weights must find room in the RAM: whichever binds first is named."""
    found = {
        row.plan.recipe: row
        for row in rows({"device": "iphone-15"}, ["llama-3.2-1b"], ["q4_0", "q8_0"], [("f16", "f16")])
    }
    for row in found.values():
        assert row.result.against in ("dirty", "process")
        assert row.result.bytes[row.result.against] <= (row.result.budget_bytes or 0)
    with pytest.raises(InputError, match="publishes no limit"):
        longest(parse_plan({"model": "llama-3.2-1b", "runtime": "llama.cpp", "device": "pixel-9"}))


def test_catalogue_at_a_context() -> None:
    """Every model that was made for so long a context is there once; those that fit are within the budget."""
    fits = runs_at({"budget": "3GiB"}, 8192, ["q4_k_m"], [("f16", "f16")])
    names = [fit.plan.model for fit in fits]
    assert len(names) == len(set(names))
    assert set(names) <= set(builtin_names())
    assert 10 < sum(bool(fit.result.fits) for fit in fits) < len(fits)
    for fit in fits:
        assert fit.result.fits == (fit.result.bytes["process"] <= 3 * 2**30)


def test_catalogue_without_the_models_that_refuse_a_cache() -> None:
    """Latent attention has one type for keys and values; the other models answer. What all refuse is refused."""
    mixed = {fit.plan.model for fit in runs_at({"budget": "3GiB"}, 8192, ["q4_k_m"], [("q8_0", "f16")])}
    alike = {fit.plan.model for fit in runs_at({"budget": "3GiB"}, 8192, ["q4_k_m"], [("q8_0", "q8_0")])}
    assert alike - mixed == {"deepseek-v2-lite", "deepseek-v3"}
    assert mixed < alike
    with pytest.raises(InputError, match="flash attention"):
        runs_at({"budget": "3GiB", "llama_cpp": {"flash_attn": False}}, 8192, ["q4_k_m"], [("f16", "q8_0")])


def assert_drawn(path: Path) -> None:
    """The figure has its red limit and lines of several colours."""
    pixels = (np.asarray(imread(path))[..., :3] * 255).round().astype(np.uint8)
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    assert len(colours) > 50
    assert counts.max() < 0.98 * counts.sum()
    assert (np.abs(pixels.astype(int) - (0xB2, 0x22, 0x22)).sum(axis=-1) < 12).sum() > 300


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
    assert all(row["answer"] % STEP == 0 and row["margin_bytes"] >= 0 for row in answer["rows"])
    assert main(["max-context", "llama-3.1-8b", "--budget", "1GiB"]) == 1
    assert "weights alone are too large" in capsys.readouterr().out


def test_catalogue_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The reverse question."""
    assert main(["max-context", "--runs-at", "8192", "--device", "raspberry-pi-5-8gb"]) == 0
    assert "models that were made for it run with 8,192 tokens in raspberry-pi-5-8gb" in capsys.readouterr().out
    assert main(["max-context", "--runs-at", "8192", "--budget", "2GiB", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert any(row["fits"] for row in models)
    assert not all(row["fits"] for row in models)


def test_training_on_a_phone(capsys: pytest.CaptureFixture[str]) -> None:
    """The longest training sequence of each method: parameter-efficient is not memory-efficient."""
    asked = ["max-context", "smollm2-135m", "--budget", "3GiB", "--methods", "full,lora,ia3", "--batch", "1"]
    assert main([*asked, "--json"]) == 0
    training = {row["method"]: row for row in json.loads(capsys.readouterr().out)["training"]}
    for name, row in training.items():
        keys: dict[str, Any] = {"model": "smollm2-135m", "method": name, "budget": "3GiB"}
        assert estimate(keys, seq=row["answer"]).fits
        assert not estimate(keys, seq=row["answer"] + 1).fits
    assert training["full"]["answer"] < training["lora"]["answer"] < 2 * training["full"]["answer"]
    assert main(asked) == 0
    assert "Longest training sequence in 3.00 GiB" in capsys.readouterr().out


def test_curves_rise() -> None:
    """A figure's points: memory never falls as the context grows, and ends past the answer."""
    row = longest(parse_plan({"model": "qwen3-0.6b", "runtime": "llama.cpp", "budget": "2GiB"}))
    points = curve(row).points
    assert [size for _, size in points] == sorted(size for _, size in points)
    assert row.answer is not None
    assert points[-1][0] >= row.answer


WRONG: list[tuple[list[str], str]] = [
    (["qwen3-0.6b"], "needs a limit"),
    (["qwen3-0.6b", "--budget", "4GiB", "--dtypes", "q4_k_x"], "is no recipe"),
    (["qwen3-0.6b", "--budget", "4GiB", "--dtypes", ","], "--dtypes is empty"),
    (["qwen3-0.6b", "--budget", "4GiB", "--caches", "q9"], "'q9' is no cache type"),
    ([",", "--budget", "4GiB"], "no model given"),
    (["qwen3-0.6b", "--budget", "4GiB", "--runtime", "torch-cpu"], "max-context is of llama.cpp"),
    (["qwen3-0.6b", "--budget", "4GiB", "--methods", ","], "--methods is empty"),
    (["qwen3-0.6b", "--budget", "4GiB", "--methods", "full", "--caches", "q8_0"], "no matter of --methods"),
    (["qwen3-0.6b,qwen3-1.7b", "--budget", "4GiB", "--methods", "full"], "of one model"),
    (["qwen3-0.6b", "--device", "rtx-4060", "--methods", "full"], "own RAM"),
    (["qwen3-0.6b", "--device", "gaudi-2"], "no backend"),
    (["qwen3-0.6b", "--device", "raspberry-pi-5-8gb", "--backend", "metal"], "does not run on"),
    (["qwen3-0.6b", "--device", "iphone-15", "--backend", "cuda"], "does not run on"),
    (["qwen3-0.6b", "--budget", "4GiB", "--caches", "q8_0", "--no-flash-attn"], "flash attention"),
    (["qwen3-0.6b", "--budget", "4GiB", "--output", "figure.txt"], "no figure format"),
    (["qwen3-0.6b", "--budget", "4GiB", "--runs-at", "8192"], "leave MODEL"),
    (["--budget", "4GiB", "--runs-at", "0"], "--runs-at is 0"),
    (["--runs-at", "8192"], "needs a limit"),
    (["qwen3-0.6b", "--budget", "4GiB", "--methods", "lorax"], "is unknown"),
    (["qwen3-0.6b", "--budget", "4GiB", "--methods", "lora", "--n-ubatch", "64"], "does not train"),
    (["no-such-model", "--budget", "4GiB"], "no-such-model"),
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


@pytest.mark.parametrize("command", ["max-seq", "max-batch", "smallest-device", "formula", "advise"])
def test_other_questions_say_whom_to_ask(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are about steps in PyTorch."""
    limit = [] if command in ("smallest-device", "formula") else ["--budget", "2GiB"]
    assert main([command, "qwen3-0.6b", "--runtime", "llama.cpp", *limit]) == 2
    assert "max-context" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_input(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 2."""
    assert main(["max-context", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
