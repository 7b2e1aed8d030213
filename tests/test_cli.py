"""The command line, end to end. The witness is the contract (DESIGN section 4): names, keys, exit status.
Where a test compares bytes, it compares the command with ``estimate``, so that options, plan files,
lines of plans and PEFT's own adapter files all ask the same question."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from estimator import __version__, estimate
from estimator.engines.llama_cpp.options import LlamaCppOptions
from estimator.methods.registry import METHODS
from estimator.plans.plan import Plan
from estimator.show.cli import COMMANDS, main
from estimator.show.commands.options import add_plan_options
from estimator.steps.generate_options import GenerateOptions

MODEL = "smollm-135m"
CONTRACT = {
    *("schema", "model", "task", "bytes", "trainable_parameters", "peak_at", "fits", "budget_bytes", "warnings"),
    "assumptions",
    "asked",
    "runtime",
}
BYTES = {
    "parameters",
    "adapters",
    "buffers",
    "gradients",
    "optimizer",
    "saved",
    "resident",
    "peak_above_resident",
    "peak",
    "process",
}
LORA = {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs ``estimator estimate ARGUMENTS --json`` and gives the result object."""

    def run(*arguments: object, status: int = 0) -> dict[str, Any]:
        assert main(["estimate", *map(str, arguments), "--json"]) == status
        out, err = capsys.readouterr()
        assert err == ""
        result: dict[str, Any] = json.loads(out)
        return result

    return run


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "estimator.show.cli", *arguments], capture_output=True, text=True, **options
    )


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_result_object_is_the_contracts(answer: Any) -> None:
    """Asks the contract: its keys and no others, of its types."""
    result = answer(MODEL, "--batch", 1, "--seq", 64)
    assert set(result) == CONTRACT
    assert set(result["bytes"]) == BYTES
    assert all(type(size) is int and size >= 0 for size in result["bytes"].values())
    assert result["schema"] == 1
    assert result["model"] == MODEL
    assert result["task"] == "train"
    assert type(result["trainable_parameters"]) is int
    assert isinstance(result["peak_at"], str)
    assert result["peak_at"]
    assert result["fits"] is None
    assert result["budget_bytes"] is None
    assert result["warnings"] == []


def test_the_contracts_own_example(answer: Any) -> None:
    """Asks the contract: the command line that DESIGN section 4 writes out."""
    line = "--method lora --r 16 --target-modules q_proj,v_proj --batch 1 --seq 2048 --budget 8GiB"
    result = answer("llama-3.2-1b", *line.split(), status=1)
    assert result == estimate(model="llama-3.2-1b", method=LORA, batch=1, seq=2048, budget="8GiB").to_dict()
    assert result["fits"] is False
    assert result["budget_bytes"] == 8 * 2**30
    assert 0 < result["bytes"]["adapters"] < result["bytes"]["parameters"]
    # 16 layers; rank 16 between 2048 inputs and 2048 (q) or 512 (v) outputs.
    assert result["trainable_parameters"] == 16 * 16 * ((2048 + 2048) + (2048 + 512))


def test_parts_add_up(answer: Any) -> None:
    """Asks the contract: resident and peak are the sums it says they are."""
    sizes = answer(MODEL, "--method", "lora")["bytes"]
    assert sizes["resident"] == sizes["parameters"] + sizes["buffers"] + sizes["optimizer"]
    assert sizes["peak"] == sizes["resident"] + sizes["peak_above_resident"]


@pytest.mark.parametrize(("budget", "status"), [("1TiB", 0), ("100MiB", 1), ("8", 2)])
def test_exit_status(budget: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: 0 it fits, 1 it does not, 2 the input is wrong."""
    assert main(["estimate", MODEL, "--budget", budget]) == status
    out, err = capsys.readouterr()
    assert ("Fits in" in out, "Does not fit in" in out, err != "") == (status == 0, status == 1, status == 2)


def test_a_device_is_a_budget(answer: Any) -> None:
    """Asks the contract: ``device`` or ``budget``; the device's usable bytes are what must hold the step."""
    from estimator.plans.devices import find

    result = answer(MODEL, "--device", "RTX 4090")
    assert result["budget_bytes"] == find("rtx-4090").usable_bytes
    assert result["fits"] is True
    assert answer("llama-3-70b", "--device", "rtx-4090", status=1)["fits"] is False


def test_the_table_has_units_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: sizes shown to people carry binary units; bytes stand beside them."""
    assert main(["estimate", MODEL, "--method", "lora", "--r", "4", "--budget", "100GiB"]) == 0
    out = capsys.readouterr().out
    result = estimate(model=MODEL, method={"name": "lora", "r": 4}, budget="100GiB")
    for size in result.bytes.values():
        assert f"{size:,}" in out
    assert "GiB" in out
    assert "MiB" in out
    assert "█" in out
    assert result.peak_at in out
    assert f"{result.trainable_parameters:,}" in out
    assert f"{MODEL}, lora r=4, batch 1, seq 2048" in out
    assert "Fits in 100.00 GiB" in out
    assert "\x1b" not in out


NF4 = ["--dtype", "nf4", "--method", "lora", "--seq", "1"]
"""One token, so that the peak is where a weight is dequantised."""
CUDA = ["--runtime", "torch-cuda"]
LITGPT = ["--implementation", "litgpt", "--method", "lora"]
PLAN_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "implementation": (["--implementation", "litgpt"], "litgpt"),
    "litgpt": (["--litgpt", "0.4.12", *LITGPT], "0.4.12"),
    "task": (["--task", "infer"], "infer"),
    "batch": (["--batch", "3"], 3),
    "seq": (["--seq", "100"], 100),
    "lengths": (["--lengths", "{histogram: {64: 9, 100: 1}}"], {"histogram": {64: 9, 100: 1}}),
    "dtype": (["--dtype", "float32"], "float32"),
    "rest_dtype": (["--rest-dtype", "float32", *NF4], "float32"),
    "compute_dtype": (["--compute-dtype", "bfloat16", *NF4], "bfloat16"),
    "double_quant": (["--double-quant", *NF4], True),
    "bitsandbytes": (["--bitsandbytes", "0.43.1", *NF4], "0.43.1"),
    "kbit_preparation": (["--kbit-preparation", *NF4], True),
    "autocast": (["--autocast", "float16"], "float16"),
    "attention": (["--attention", "eager"], "eager"),
    "sdpa_kernel": (["--sdpa-kernel", "math", *CUDA], "math"),
    "checkpointing": (["--checkpointing", "every-2"], "every-2"),
    "saved_activations": (["--saved-activations", "int4"], "int4"),
    "activation_group_size": (["--activation-group-size", "32", "--saved-activations", "int8"], 32),
    "mlp_chunks": (["--mlp-chunks", "4"], 4),
    "loss": (["--loss", "liger"], "liger"),
    "loss_chunk": (["--loss-chunk", "512", "--loss", "chunked"], 512),
    "method": (["--method", "ia3"], "ia3"),
    "optimizer": (["--optimizer", "sgd-momentum"], "sgd-momentum"),
    "optimizer_rank": (["--optimizer", "galore-adamw", "--optimizer-rank", "7"], 7),
    "gradient_accumulation_steps": (["--gradient-accumulation-steps", "2"], 2),
    "keep_logits": (["--no-keep-logits"], False),
    "drop_output_before_step": (["--drop-output-before-step", "--optimizer", "adamw-foreach", "--seq", "1"], True),
    "attention_mask": (["--attention-mask"], True),
    "use_cache": (["--use-cache", "--attention", "eager"], True),
    "previous_output": (["--no-previous-output", *CUDA], False),
    "gradient_clipping": (["--gradient-clipping"], True),
    "runtime": (["--runtime", "torch-cuda"], "torch-cuda"),
    "previous_seq": (["--previous-seq", "500", *CUDA], 500),
    "empty_cache": (
        ["--empty-cache", "--lengths", "{histogram: {64: 9, 700: 1}}", *CUDA],
        True,
    ),
    "expandable_segments": (["--expandable-segments", *CUDA], True),
    "torch": (["--torch", "2.10", "--seq", "1000", *CUDA], "2.10"),
    "device": (["--device", "rtx-4090"], "rtx-4090"),
    "ios_increased_memory_limit": (["--device", "iphone-15", "--ios-increased-memory-limit"], True),
    "budget": (["--budget", "24 GB"], "24 GB"),
}
METHOD_OPTIONS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "target_modules": (
        ["--method", "lora", "--target-modules", "q_proj,o_proj"],
        {"target_modules": ["q_proj", "o_proj"]},
    ),
    "exclude_modules": (["--method", "lora", "--exclude-modules", "v_proj"], {"exclude_modules": ["v_proj"]}),
    "modules_to_save": (["--method", "lora", "--modules-to-save", "norm"], {"modules_to_save": ["norm"]}),
    "adapter_dtype": (["--method", "lora", "--adapter-dtype", "bfloat16"], {"adapter_dtype": "bfloat16"}),
    "r": (["--method", "lora", "--r", "32"], {"r": 32}),
    "lora_alpha": (["--method", "lora", "--lora-alpha", "16.5"], {"lora_alpha": 16.5}),
    "lora_dropout": (["--method", "lora", "--lora-dropout", "0.1"], {"lora_dropout": 0.1}),
    "bias": (["--method", "lora", "--bias", "all"], {"bias": "all"}),
    "lora_bias": (["--method", "lora", "--lora-bias"], {"lora_bias": True}),
    "use_rslora": (["--method", "lora", "--use-rslora"], {"use_rslora": True}),
    "layers_to_transform": (
        ["--method", "lora", "--layers-to-transform", "0,2", "--target-modules", "q_proj"],
        {"layers_to_transform": [0, 2], "target_modules": ["q_proj"]},
    ),
    "layers_pattern": (
        ["--method", "lora", "--layers-pattern", "layers", "--layers-to-transform", "1", "--target-modules", "q_proj"],
        {"layers_pattern": ["layers"], "layers_to_transform": [1], "target_modules": ["q_proj"]},
    ),
    "rank_pattern": (["--method", "lora", "--rank-pattern", "{q_proj: 2}"], {"rank_pattern": {"q_proj": 2}}),
    "feedforward_modules": (
        ["--method", "ia3", "--target-modules", "k_proj,up_proj", "--feedforward-modules", "up_proj"],
        {"name": "ia3", "target_modules": ["k_proj", "up_proj"], "feedforward_modules": ["up_proj"]},
    ),
    "adapter": (
        ["--method", "mezo", "--adapter", "{name: lora, r: 4}"],
        {"name": "mezo", "adapter": {"name": "lora", "r": 4}},
    ),
    "num_virtual_tokens": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8},
    ),
    "token_dim": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--token-dim", "896"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "token_dim": 896},
    ),
    "num_transformer_submodules": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--num-transformer-submodules", "1"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "num_transformer_submodules": 1},
    ),
    "num_attention_heads": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--num-attention-heads", "32"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "num_attention_heads": 32},
    ),
    "num_layers": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--num-layers", "24"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "num_layers": 24},
    ),
    "prompt_tuning_init": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--prompt-tuning-init", "SAMPLE_VOCAB"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "prompt_tuning_init": "SAMPLE_VOCAB"},
    ),
    "prompt_tuning_init_text": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--prompt-tuning-init-text", "Sort:"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "prompt_tuning_init_text": "Sort:"},
    ),
    "tokenizer_name_or_path": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--tokenizer-name-or-path", "gpt2"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "tokenizer_name_or_path": "gpt2"},
    ),
    "tokenizer_kwargs": (
        [
            "--method",
            "prompt_tuning",
            "--num-virtual-tokens",
            "8",
            "--prompt-tuning-init",
            "TEXT",
            "--prompt-tuning-init-text",
            "Sort:",
            "--tokenizer-name-or-path",
            "gpt2",
            "--tokenizer-kwargs",
            "{use_fast: 1}",
        ],
        {
            "name": "prompt_tuning",
            "num_virtual_tokens": 8,
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": "Sort:",
            "tokenizer_name_or_path": "gpt2",
            "tokenizer_kwargs": {"use_fast": 1},
        },
    ),
    "encoder_reparameterization_type": (
        ["--method", "p_tuning", "--num-virtual-tokens", "8", "--encoder-reparameterization-type", "MLP"],
        {"name": "p_tuning", "num_virtual_tokens": 8, "encoder_reparameterization_type": "MLP"},
    ),
    "encoder_hidden_size": (
        ["--method", "p_tuning", "--num-virtual-tokens", "8", "--encoder-hidden-size", "100"],
        {"name": "p_tuning", "num_virtual_tokens": 8, "encoder_hidden_size": 100},
    ),
    "encoder_num_layers": (
        ["--method", "p_tuning", "--num-virtual-tokens", "8", "--encoder-num-layers", "3"],
        {"name": "p_tuning", "num_virtual_tokens": 8, "encoder_num_layers": 3},
    ),
    "encoder_dropout": (
        ["--method", "p_tuning", "--num-virtual-tokens", "8", "--encoder-dropout", "0.1"],
        {"name": "p_tuning", "num_virtual_tokens": 8, "encoder_dropout": 0.1},
    ),
    "prefix_projection": (
        ["--method", "prefix_tuning", "--num-virtual-tokens", "8", "--prefix-projection"],
        {"name": "prefix_tuning", "num_virtual_tokens": 8, "prefix_projection": True},
    ),
    "init_weights": (
        ["--method", "prefix_tuning", "--num-virtual-tokens", "8", "--init-weights", "zero"],
        {"name": "prefix_tuning", "num_virtual_tokens": 8, "init_weights": "zero"},
    ),
    "adapter_len": (
        ["--method", "adaption_prompt", "--adapter-len", "9", "--adapter-layers", "4"],
        {"name": "adaption_prompt", "adapter_len": 9, "adapter_layers": 4},
    ),
    "adapter_layers": (
        ["--method", "adaption_prompt", "--adapter-layers", "5", "--adapter-len", "9"],
        {"name": "adaption_prompt", "adapter_len": 9, "adapter_layers": 5},
    ),
    "top_layers": (["--method", "freeze", "--top-layers", "2"], {"name": "freeze", "top_layers": 2}),
    "train_norm": (
        ["--method", "freeze", "--top-layers", "2", "--no-train-norm"],
        {"name": "freeze", "top_layers": 2, "train_norm": False},
    ),
    "train_head": (
        ["--method", "freeze", "--top-layers", "2", "--no-train-head"],
        {"name": "freeze", "top_layers": 2, "train_head": False},
    ),
}


NEEDED = ("num_virtual_tokens", "adapter_len", "adapter_layers", "top_layers")
"""Keys without a default."""
WITHOUT_EFFECT = (
    "lora_alpha",
    "use_rslora",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
    "encoder_reparameterization_type",
    "encoder_num_layers",
    "encoder_dropout",
    "init_weights",
)
"""Keys that do not change memory."""


def test_every_key_has_an_example_here() -> None:
    """Asks the contract: every key is an option. A new key needs a row in the tables above."""
    assert PLAN_OPTIONS.keys() | {"model", "llama_cpp", "generate"} == Plan.model_fields.keys()
    assert ENGINE_OPTIONS.keys() == LlamaCppOptions.model_fields.keys()
    assert GENERATE_OPTIONS.keys() == GenerateOptions.model_fields.keys()
    assert {key for kind in METHODS.values() for key in kind.model_fields} >= METHOD_OPTIONS.keys()


ENGINE_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "n_ctx": (["--n-ctx", "2048"], 2048),
    "n_batch": (["--n-batch", "64"], 64),
    "n_ubatch": (["--n-ubatch", "128"], 128),
    "type_k": (["--type-k", "q8_0"], "q8_0"),
    "type_v": (["--type-v", "Q4_0"], "q4_0"),
    "flash_attn": (["--no-flash-attn"], False),
    "n_seq_max": (["--n-seq-max", "3"], 3),
    "kv_unified": (["--kv-unified", "--n-seq-max", "2"], True),
    "swa_full": (["--swa-full"], True),
    "use_mmap": (["--no-use-mmap"], False),
    "repack": (["--no-repack"], False),
    "n_outputs_max": (["--n-outputs-max", "1"], 1),
    "backend": (["--backend", "cpu-arm"], "cpu-arm"),
    "build": (["--build", "b11739"], "b11739"),
}


@pytest.mark.parametrize("key", ENGINE_OPTIONS)
def test_every_key_of_the_engine_is_an_option(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: the option gives what the key gives, and something else than leaving it out."""
    options, value = ENGINE_OPTIONS[key]
    plan: dict[str, Any] = {"model": "gemma-3-270m", "runtime": "llama.cpp", "dtype": "q4_0"}
    block = {"n_seq_max": 2} if key == "kv_unified" else {}
    arguments = ["estimate", "gemma-3-270m", "--runtime", "llama.cpp", "--dtype", "Q4_0", "--json"]
    assert main([*arguments, *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == estimate(plan, llama_cpp={**block, key: value}).to_dict()
    assert printed != estimate(plan, llama_cpp=block).to_dict()


GENERATE_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "max_new_tokens": (["--max-new-tokens", "700"], 700),
    "num_beams": (["--num-beams", "3"], 3),
    "cache_implementation": (["--cache-implementation", "quantized"], "quantized"),
}


@pytest.mark.parametrize("key", GENERATE_OPTIONS)
def test_every_key_of_generate_is_an_option(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: the option gives what the key gives, and something else than one pass."""
    options, value = GENERATE_OPTIONS[key]
    plan: dict[str, Any] = {"model": "llama-3.2-1b", "seq": 100}
    assert main(["estimate", "llama-3.2-1b", "--seq", "100", "--json", *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == estimate(plan, generate={key: value}).to_dict()
    assert printed != estimate(plan, generate={}).to_dict()


@pytest.mark.parametrize("name", METHODS)
def test_every_key_of_every_method_is_an_option(name: str) -> None:
    """Asks the contract: each key has an option, whether or not the method is named on the command line."""
    for arguments in (["--method", name], ["--method", ""]):
        parser = argparse.ArgumentParser()
        add_plan_options(parser, arguments)
        options = {action.dest for action in parser._actions}
        assert METHODS[name].model_fields.keys() - {"name"} <= options


@pytest.mark.parametrize("key", PLAN_OPTIONS)
def test_every_plan_key_is_an_option(key: str, answer: Any) -> None:
    """Asks the contract: the option gives what the key gives, and something else than leaving it out."""
    options, value = PLAN_OPTIONS[key]
    # With sdpa the cache of this plan is what backward keeps anyway, so eager shows that the option arrives.
    needed: dict[str, dict[str, Any]] = {
        "use_cache": {"attention": "eager"},
        "drop_output_before_step": {"optimizer": "adamw-foreach", "seq": 1},
        "optimizer_rank": {"optimizer": "galore-adamw"},
        "activation_group_size": {"saved_activations": "int8"},
        "loss_chunk": {"loss": "chunked"},
        "litgpt": {"implementation": "litgpt", "method": "lora"},
        "empty_cache": {"lengths": {"histogram": {64: 9, 700: 1}}},
        "ios_increased_memory_limit": {"device": "iphone-15"},
        "torch": {"seq": 1000},
    }
    model = {"implementation": "llama-3.2-1b", "litgpt": "gemma-2-2b"}.get(key, MODEL)
    rest: dict[str, Any] = {"model": model, **needed.get(key, {})}
    if options[-len(NF4) :] == NF4:
        rest |= {"dtype": "nf4", "method": "lora", "seq": 1}
    if options[-len(CUDA) :] == CUDA and key != "runtime":
        rest |= {"runtime": "torch-cuda"}
    result = answer(model, *options)
    assert result == estimate(rest, **{key: value}).to_dict()
    if key != "gradient_clipping":  # the norms are small beside the optimizer's own temporaries
        assert result != estimate(rest).to_dict()


@pytest.mark.parametrize("key", METHOD_OPTIONS)
def test_every_method_key_is_an_option(key: str, answer: Any) -> None:
    """Asks the contract: PEFT's own names are options, hyphens for underscores."""
    options, block = METHOD_OPTIONS[key]
    method = {"name": "lora", **block}
    model = MODEL if method["name"] == "adaption_prompt" else "qwen2.5-0.5b"  # has biases
    result = answer(model, *options)
    assert result == estimate(model=model, method=method).to_dict()
    if key in NEEDED:
        assert result != estimate(model=model, method={**method, key: 1}).to_dict()
    elif key not in WITHOUT_EFFECT:
        rest = {name: value for name, value in method.items() if name == "name" or name in NEEDED}
        assert result != estimate(model=model, method=rest).to_dict()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all-linear", "all-linear"),
        (".*[qv]_proj", ".*[qv]_proj"),
        ("model.layers.0.self_attn.q_proj", ["model.layers.0.self_attn.q_proj"]),
        (" q_proj , v_proj,", ["q_proj", "v_proj"]),
    ],
)
def test_target_modules_as_text(text: str, names: Any, answer: Any) -> None:
    """Asks the contract: PEFT's forms of target_modules, a list, a regular expression and all-linear."""
    expected = estimate(model=MODEL, method={"name": "lora", "target_modules": names}).to_dict()
    assert answer(MODEL, "--method", "lora", "--target-modules", text) == expected


YAML_PLAN = """\
model: smollm-135m
batch: 2   # a comment
seq: 512
method: {name: lora, r: 16, target_modules: [q_proj, v_proj]}
keep_logits: false
"""
KEYS = {"model": MODEL, "batch": 2, "seq": 512, "method": LORA, "keep_logits": False}


@pytest.mark.parametrize("name", ["plan.yaml", "plan.json", "plan-with-tabs.json", "plan-with-mark.json"])
def test_plan_files(name: str, answer: Any, tmp_path: Path) -> None:
    """Asks the contract: a plan is one YAML or JSON object (JSON with tabs is no YAML, some editors write a mark)."""
    texts = {"plan.yaml": YAML_PLAN, "plan-with-tabs.json": json.dumps(KEYS, indent="\t")}
    texts["plan-with-mark.json"] = "\ufeff" + json.dumps(KEYS)
    file = write(tmp_path / name, texts.get(name, KEYS))
    assert answer("--plan", file) == estimate(KEYS).to_dict()


def test_options_override_the_plan(answer: Any, tmp_path: Path) -> None:
    """Asks the contract: an option has the last word, key by key, the method's keys too."""
    file = write(tmp_path / "plan.yaml", YAML_PLAN)
    assert answer("--plan", file, "--batch", 5) == estimate({**KEYS, "batch": 5}).to_dict()
    assert answer("smollm2-360m", "--plan", file) == estimate({**KEYS, "model": "smollm2-360m"}).to_dict()
    assert answer("--plan", file, "--keep-logits") == estimate({**KEYS, "keep_logits": True}).to_dict()
    assert answer("--plan", file, "--r", 2) == estimate({**KEYS, "method": {**LORA, "r": 2}}).to_dict()
    assert answer("--plan", file, "--method", "full") == estimate({**KEYS, "method": "full"}).to_dict()


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


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folders that PEFT itself has written, with the method block each stands for."""
    import peft

    folder = tmp_path_factory.mktemp("adapters")
    configs: dict[str, tuple[Any, dict[str, Any]]] = {
        "lora": (
            peft.LoraConfig(
                r=4, lora_alpha=32, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
            ),
            {"name": "lora", "r": 4, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]},
        ),
        "lora-defaults": (peft.LoraConfig(), {"name": "lora"}),
        "lora-more": (
            peft.LoraConfig(
                r=2,
                target_modules=["q_proj", "down_proj"],
                layers_to_transform=[1, 3],
                layers_pattern="layers",
                rank_pattern={"down_proj": 7},
                use_rslora=True,
                bias="lora_only",
            ),
            {
                "name": "lora",
                "r": 2,
                "target_modules": ["q_proj", "down_proj"],
                "layers_to_transform": [1, 3],
                "layers_pattern": "layers",
                "rank_pattern": {"down_proj": 7},
                "bias": "lora_only",
            },
        ),
        "lora-all": (
            peft.LoraConfig(target_modules="all-linear", modules_to_save=["norm"]),
            {"name": "lora", "target_modules": "all-linear", "modules_to_save": ["norm"]},
        ),
        "ia3": (
            peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
            {"name": "ia3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        ),
        "ia3-defaults": (peft.IA3Config(), {"name": "ia3"}),
    }
    for name, (config, _) in configs.items():
        config.save_pretrained(folder / name)
    return {name: (folder / name / "adapter_config.json", block) for name, (_, block) in configs.items()}


@pytest.mark.parametrize("name", ["lora", "lora-defaults", "lora-more", "lora-all", "ia3", "ia3-defaults"])
def test_an_adapter_config_is_a_method(
    name: str, adapters: dict[str, tuple[Path, dict[str, Any]]], answer: Any, tmp_path: Path
) -> None:
    """Asks the contract: the file PEFT writes works as option, as key, and by its folder; options still override."""
    file, block = adapters[name]
    expected = estimate(model=MODEL, method=block).to_dict()
    assert answer(MODEL, "--method", file) == expected
    assert answer(MODEL, "--method", file.parent) == expected
    assert answer("--plan", write(tmp_path / "plan.json", {"model": MODEL, "method": str(file)})) == expected
    if block["name"] == "lora":
        assert answer(MODEL, "--method", file, "--r", 3) == estimate(model=MODEL, method={**block, "r": 3}).to_dict()


def test_adapter_options_without_a_rule_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: what changes memory and has no rule (DoRA here) is refused, not left out of the sum."""
    import peft

    peft.LoraConfig(use_qalora=True).save_pretrained(tmp_path)
    assert main(["estimate", MODEL, "--method", str(tmp_path)]) == 2
    assert "use_qalora" in capsys.readouterr().err


def test_an_estimate_imports_nothing_heavy() -> None:
    """Asks the contract: ``import estimator`` and every estimate work without torch; sympy and NumPy cost time."""
    script = (
        "import sys, estimator, estimator.show.cli\n"
        "estimator.estimate(model='smollm-135m', method='lora', budget='8GiB')\n"
        "assert estimator.show.cli.main(['estimate', 'smollm-135m', '--json']) == 0\n"
        "heavy = 'torch transformers peft sympy numpy matplotlib huggingface_hub'.split()\n"
        "assert not [name for name in heavy if name in sys.modules]"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_runs() -> None:
    """Asks the contract, in a process of its own: output, standard error and exit status."""
    done = command("estimate", MODEL, "--seq", "16", "--budget", "1MiB", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == estimate(model=MODEL, seq=16, budget="1MiB").to_dict()
    done = command("estimate", "nope")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: every command explains itself."""
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"usage: estimator {arguments[0] if len(arguments) == 2 else ''}".rstrip())
    if len(arguments) < 2:
        assert all(name in out for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"estimator {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["estimate", MODEL], ["estimate", MODEL, "--json"], ["devices", "--json"], ["devices"]]
)
def test_a_reader_that_goes_away(arguments: list[str]) -> None:
    """Asks the contract: an answer that was not written out is no answer, so neither 0 nor 1; no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "estimator.show.cli", *arguments], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "was closed" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--json", "--keep-logits"])
def test_a_full_disk_is_one_line(option: str) -> None:
    """Asks the contract: one line, no traceback."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "estimator.show.cli", "estimate", MODEL, option],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_terminal_without_unicode() -> None:
    """Asks the contract: a table, not a traceback, where bars cannot be written."""
    done = command("estimate", MODEL, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "GiB" in done.stdout


def test_a_notebook_sees_an_edited_config(tmp_path: Path) -> None:
    """Asks the contract: a local config.json is read anew for every plan of a long-lived process."""
    from estimator.plans.models import load

    config = dict(load(MODEL).raw)
    file = write(tmp_path / "config.json", config)
    before = estimate(model=str(file)).bytes["parameters"]
    write(file, {**config, "num_hidden_layers": 2})
    assert estimate(model=str(file)).bytes["parameters"] < before


def test_results_render_in_notebooks() -> None:
    """Witness: the contract. A result is an HTML table with units, and says whether it fits."""
    html = estimate(model="llama-3.2-1b", method="ia3", budget="4GiB")._repr_html_()
    assert html.startswith("<table>")
    assert "GiB" in html
    assert "Does not fit" in html
    assert "loss backward" in html
