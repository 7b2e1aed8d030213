"""What is read and changes memory by an amount without a rule lowers the verdict to "not sure", by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.check import check
from estimator.answers.estimate import estimate
from estimator.answers.serving import serving
from estimator.engines.vllm.engine import ServingOptions
from estimator.plans.plan import parse_plan
from estimator.show.cli import main

MODEL = "HuggingFaceTB/SmolLM2-135M"
RECIPE = {
    "model": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"},
    "tokenizer": {"max_seq_len": 64},
    "optimizer": {"_component_": "torch.optim.AdamW"},
    "dtype": "bf16",
    "batch_size": 1,
}
COMPILED = {
    "trl": ({"model_name_or_path": MODEL, "max_length": 64, "torch_compile": True}, "torch_compile"),
    "axolotl": (
        {"base_model": MODEL, "sequence_len": 64, "micro_batch_size": 1, "torch_compile": True},
        "torch_compile",
    ),
    "torchtune": ({**RECIPE, "compile": True}, "compile"),
}


@pytest.mark.parametrize("tool", COMPILED)
def test_a_compiled_step_is_not_sure(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Witness: torchtune's table of a compiled 3B, +4 to +54 % away; torchtitan's 47.65 GiB for 64.2 uncompiled."""
    keys, name = COMPILED[tool]
    file = tmp_path / "file.yaml"
    file.write_text(json.dumps(keys))
    found = check(str(file), {"device": "rtx-4090"}).result
    assert found is not None
    assert (found.verdict, found.unknown, found.to_dict()["fits"]) == ("not sure", (name,), None)
    assert main(["check", str(file), "--device", "rtx-4090"]) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "Not sure whether it fits in 23.51 GiB" in printed
    assert f"without what has no rule here, {name}" in printed
    file.write_text(json.dumps({key: value for key, value in keys.items() if key != name}))
    assert main(["check", str(file), "--device", "rtx-4090"]) == 0


def test_without_a_budget_there_is_no_verdict(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(json.dumps(COMPILED["trl"][0]))
    assert main(["check", str(file)]) == 0


def test_a_launcher_that_compiles(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("distributed_type: 'NO'\ndynamo_config: {dynamo_backend: INDUCTOR}\n")
    line = f"accelerate launch --config_file {tmp_path / 'a.yaml'} sft.py --model_name_or_path {MODEL} --max_length 64"
    found = check(line, {"device": "rtx-4090"}).result
    assert found is not None
    assert found.unknown == ("dynamo_config",)


@pytest.mark.parametrize(
    ("model", "device", "given", "says"),
    [
        ("qwen3-8b", "rtx-4090", {}, ()),
        ("qwen3-8b", "dgx-spark", {}, ("the free share of unified memory",)),
        ("gemma-3-4b", "h100-80gb", {}, ("the vision encoder of its checkpoint",)),
        ("gemma-3-1b", "h100-80gb", {}, ()),
        ("gpt-oss-20b", "rtx-4090", {}, ("Marlin's padding of experts",)),
        ("gpt-oss-20b", "h100-80gb", {}, ()),
        ("qwen3-8b", "rtx-4090", {"release": "0.11", "max_num_batched_tokens": 2048}, ()),
        (
            "qwen3-8b",
            "rtx-4090",
            {"release": "0.11"},
            ("max_num_batched_tokens, whose default before 0.8 was max_model_len",),
        ),
    ],
)
def test_servers(model: str, device: str, given: dict[str, Any], says: tuple[str, ...]) -> None:
    """Witness: starts that public logs show and the rules miss, by the causes that they name."""
    options = {"max_model_len": 4096, **given}
    found = serving(model, device, [1024], ServingOptions(**options), says_mends=False)
    assert (found.unknown, found.fits) == (says, True)
    assert found.to_dict()["fits"] is (None if says else True)
    result = estimate(parse_plan({"model": model, "device": device, "task": "serve", "seq": 4096, "vllm": given}))
    assert (result.unknown, result.verdict == "not sure") == (says, bool(says))


def test_the_command_is_not_sure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serving", "gpt-oss-20b", "--device", "rtx-4090", "--max-model-len", "4096"]) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "Not sure that vLLM starts on rtx-4090: Marlin's padding of experts" in printed


@pytest.mark.parametrize(
    ("model", "block", "says"),
    [
        ("qwen3-30b-a3b", {"split_mode": "row", "build": "2025"}, ("split_mode: row with experts",)),
        ("qwen3-8b", {"split_mode": "row", "build": "2025"}, ()),
        (
            "deepseek-v2-lite",
            {"build": "2025"},
            ("the cache of multi-head latent attention before pull request 19067",),
        ),
        ("deepseek-v2-lite", {}, ()),
    ],
)
def test_llama_cpp(model: str, block: dict[str, Any], says: tuple[str, ...]) -> None:
    """Witness: public logs of 2025: 7.3 GiB of each card where rows of experts go, and caches with values."""
    keys = {"model": model, "devices": ["rtx-3090", "rtx-3090"], "llama_cpp": {"n_ctx": 512, **block}}
    result = estimate(parse_plan({**keys, "dtype": "q4_k_m"}))
    assert result.unknown == says
    assert (result.verdict == "not sure") is bool(says)


@pytest.mark.parametrize(
    ("line", "server"),
    [
        ("mlx_lm.server --model mlx-community/Qwen3-8B-4bit --port 8080", "mlx_lm.server"),
        ("python -m mlx_vlm server --port 80 --model=mlx-community/Qwen3-8B-4bit", "mlx_vlm.server"),
        ("/opt/bin/mlx-openai-server launch --model-path mlx-community/Qwen3-8B-4bit", "mlx-openai-server"),
        ("vllm-mlx serve mlx-community/Qwen3-8B-4bit --port 80", "vllm-mlx"),
    ],
)
def test_servers_on_mlx(line: str, server: str) -> None:
    """Witness: reports of `mlx_lm.server` that take 10 % more than a call, and grow from request to request."""
    plan = parse_plan({"model": line, "device": "apple-64gb", "seq": 4096})
    assert (plan.runtime, plan.task, plan.dtype) == ("mlx", "infer", "mlx-4bit")
    assert plan.model == "mlx-community/Qwen3-8B-4bit"
    roomy, small = estimate(plan), estimate({"model": line, "device": "apple-8gb", "seq": 100_000})
    caches = f"the prompt caches that {server} keeps between requests"
    assert (roomy.verdict, roomy.unknown) == ("not sure", (caches,))
    assert (small.verdict, small.unknown) == ("does not fit", ())


def test_a_server_on_mlx_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "mlx_lm.server --port 80"]) == 2
    assert "names no model; write it like mlx_lm.server --model qwen3-8b" in capsys.readouterr().err
    for line in ("mlx_lm.generate --model qwen3-8b", "mlx_lm --model qwen3-8b"):
        assert main(["estimate", line]) == 2
        assert "`estimator check` reads those of training tools" in capsys.readouterr().err
