"""Advice as a patch of a training file. The witness is the patched file, read again, and ``patch`` itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from estimator.answers.check import check
from estimator.answers.file_advice import advise_file
from estimator.errors import InputError
from estimator.show.cli import main
from estimator.trainers.patches import edited, patch

TRL = """# QLoRA of a small model
model_name_or_path: HuggingFaceTB/SmolLM2-135M   # the base
dtype: bfloat16
use_peft: true
max_length: 512

per_device_train_batch_size: 8  # of one card
"""
FILES: dict[str, Any] = {
    "trl.yaml": TRL,
    "axolotl.yaml": {
        "base_model": "HuggingFaceTB/SmolLM2-135M",
        "plugins": ["axolotl.integrations.spectrum.SpectrumPlugin"],
        "adapter": "lora",
        "lora_r": 8,
        "lora_target_linear": True,
        "micro_batch_size": 8,
        "sequence_len": 512,
    },
    "llama_factory.json": {
        "model_name_or_path": "HuggingFaceTB/SmolLM2-135M",
        "template": "default",
        "cutoff_len": 512,
        "bf16": True,
        "disable_gradient_checkpointing": True,
    },
    "torchtune.yaml": {
        "model": {
            "_component_": "torchtune.models.llama3_2.lora_llama3_2_1b",
            "lora_attn_modules": ["q_proj"],
            "lora_rank": 8,
        },
        "tokenizer": {"_component_": "t", "max_seq_len": 512},
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": True},
        "batch_size": 8,
    },
    "unsloth.json": {
        "from_pretrained": {"model_name": "HuggingFaceTB/SmolLM2-135M", "max_seq_length": 512, "load_in_4bit": False},
        "get_peft_model": {"r": 8, "use_gradient_checkpointing": False},
        "SFTConfig": {"per_device_train_batch_size": 8, "optim": "adamw_torch"},
    },
    "training_args.json": {"per_device_train_batch_size": 8, "optim": "adamw_torch", "output_dir": "o"},
}


def written(name: str, folder: Path) -> Path:
    content = FILES[name]
    path = folder / name
    if isinstance(content, str):
        path.write_text(content)
    else:
        dump = json.dumps(content, indent=2) if name.endswith(".json") else yaml.safe_dump(content, sort_keys=False)
        path.write_text(dump)
    return path


@pytest.mark.share(16)
@pytest.mark.parametrize("share", [0.75, 0.4])
@pytest.mark.parametrize("name", FILES)
def test_the_patched_file_is_answered_as_the_advice_says(name: str, share: float, tmp_path: Path) -> None:
    """No byte more than advised: a loss in as many chunks as before takes smaller ones after a smaller batch."""
    path = written(name, tmp_path)
    keys: dict[str, Any] = {"model": "smollm2-135m", "seq": 512} if name == "training_args.json" else {}
    if name == "unsloth.json":  # its own loss takes no more than half of what a budget leaves, and fits by itself
        keys = {"loss": "chunked"}
    before = check(str(path), keys)
    assert before.result is not None, before.error
    budget = {**keys, "budget": f"{int(before.result.bytes['process'] * share)}B"}
    found = advise_file(str(path), budget)
    assert found.edits
    path.write_text(edited(path.read_text(), found.edits))
    after = check(str(path), budget)
    assert after.result is not None, after.error
    assert found.patched.result is not None
    assert after.result.bytes == found.patched.result.bytes
    assert after.result.bytes["peak"] <= found.advice.best.result.bytes["peak"]


SMOL = "HuggingFaceTB/SmolLM2-135M"
ONE = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "num_processes": 1, "distributed_type": "NO"}
EIGHT = {**ONE, "num_processes": 8}
SHORT = {"model": SMOL, "seq": 64}
WRAPS = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "reshard_after_forward": True}
LAUNCHED = {
    "distributed_type": "FSDP",
    "fsdp_config.fsdp_version": 2,
    **{f"fsdp_config.fsdp_{key}": value for key, value in WRAPS.items()},
}
ASKED = {f"fsdp_config.{key}": value for key, value in WRAPS.items()}
TUNED = {
    "model": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"},
    "tokenizer": {"_component_": "t", "max_seq_len": 64},
    "optimizer": {"_component_": "torch.optim.AdamW"},
    "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
    "enable_activation_checkpointing": True,
    "fsdp_reshard_after_forward": False,
}
SMALL = {"reduce_bucket_size": 10**6}
LEAST = {"checkpointing": "layer", "loss": "chunked", "keep_logits": False}
SHARED: dict[str, tuple[dict[str, Any], dict[str, Any], float, dict[str, Any]]] = {
    # NCCL's buffers would take more than sharding a model of 135M parameters saves.
    "accelerate": (
        ONE,
        {**SHORT, "model": "HuggingFaceTB/SmolLM2-1.7B", **LEAST},
        0.6,
        {**LAUNCHED, "num_processes": 2},
    ),
    "accelerate-ddp": (
        {**EIGHT, "distributed_type": "MULTI_GPU", "mixed_precision": "bf16"},
        {**SHORT, **LEAST},
        0.5,
        LAUNCHED,
    ),
    "accelerate-zero": (
        {**EIGHT, "distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 1}},
        {**SHORT, "checkpointing": "layer", "reduce_bucket_size": 10**6, "allgather_bucket_size": 10**6},
        0.9,
        {"deepspeed_config.zero_stage": 2},
    ),
    "deepspeed": (
        {"zero_optimization": {"stage": 1, **SMALL, "allgather_bucket_size": 10**6}, "train_batch_size": 8},
        {**SHORT, "checkpointing": "layer", "world_size": 8},
        0.9,
        {"zero_optimization.stage": 2},
    ),
    "deepspeed-offload": (
        {"zero_optimization": {"stage": 3, **SMALL}, "train_batch_size": 8},
        {**SHORT, "checkpointing": "layer", "world_size": 8},
        0.9,
        {"zero_optimization.offload_optimizer.device": "cpu", "zero_optimization.offload_param.device": "cpu"},
    ),
    "axolotl": (
        {"base_model": SMOL, "micro_batch_size": 1, "sequence_len": 64, "gradient_checkpointing": True},
        {"world_size": 8, **LEAST},
        0.5,
        {"fsdp_version": 2, **ASKED},
    ),
    "axolotl-offload": (
        {"base_model": SMOL, "micro_batch_size": 1, "sequence_len": 64, "fsdp_version": 2, "fsdp_config": WRAPS},
        {"world_size": 8, **LEAST},
        0.8,
        {"fsdp_config.offload_params": True},
    ),
    "trl": (
        {"model_name_or_path": SMOL, "max_length": 64, "use_peft": False},
        {"world_size": 8, "checkpointing": "layer"},
        0.5,
        {"fsdp": True, "fsdp_config.version": 2, **ASKED},
    ),
    "llama-factory": (
        {"model_name_or_path": SMOL, "stage": "sft", "finetuning_type": "full", "cutoff_len": 64, "bf16": True},
        {"world_size": 8},
        0.6,
        {"fsdp": True, "fsdp_config.version": 2, **ASKED},
    ),
    "torchtune": (TUNED, {"world_size": 8}, 0.9, {"fsdp_reshard_after_forward": True}),
}
"""A file, what is given beside it, the share of its bytes that there is, and the edits."""


@pytest.mark.share(12)
@pytest.mark.parametrize("name", SHARED)
def test_how_processes_share_is_written_as_the_tool_says_it(name: str, tmp_path: Path) -> None:
    """What the table of advice says is what the patched file is answered as, to the byte."""
    keys, beside, share, edits = SHARED[name]
    path = tmp_path / ("train.json" if name.startswith("deepspeed") else "train.yaml")
    path.write_text(json.dumps(keys) if path.suffix == ".json" else yaml.safe_dump(keys, sort_keys=False))
    whole = check(str(path), beside).result
    assert whole is not None, check(str(path), beside).error
    budget = {**beside, "budget": f"{int(whole.bytes['process'] * share)}B"}
    found = advise_file(str(path), budget)
    assert found.edits == edits
    path.write_text(edited(path.read_text(), found.edits))
    after = check(str(path), budget)
    assert after.result is not None, after.error
    assert after.result.bytes["process"] == found.advice.best.bytes


def test_what_is_not_changed_stays_as_it_is(tmp_path: Path) -> None:
    text = edited(TRL, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "dtype": "float16"})
    kept = TRL.replace("size: 8 ", "size: 2 ").replace("dtype: bfloat16", 'dtype: "float16"')
    assert text == f"{kept}gradient_accumulation_steps: 4\n"
    below = edited("plugins:\n  - a\n  - b\nc: 1\n", {"plugins": ["d"]})
    assert yaml.safe_load(below) == {"plugins": ["a", "b", "d"], "c": 1}
    listed = edited("plugins: [a]\nb: 1", {"plugins": ["c"], "d.e": True})
    assert yaml.safe_load(listed) == {"plugins": ["a", "c"], "b": 1, "d": {"e": True}}
    assert json.loads(edited('{"a": 1}', {"b": False, "a": 2})) == {"a": 2, "b": False}
    assert json.loads(edited("{}", {"a": 1})) == {"a": 1}


@pytest.mark.skipif(shutil.which("patch") is None, reason="the program patch is not here")
@pytest.mark.parametrize("ends", ["\n", ""])
def test_the_diff_is_one_that_patch_takes(ends: str, tmp_path: Path) -> None:
    before = TRL.rstrip("\n") + ends
    after = edited(before, {"per_device_train_batch_size": 1, "use_liger_kernel": True})
    (tmp_path / "f.yaml").write_text(before)
    done = subprocess.run(
        ["patch", "-p1"], input=patch("f.yaml", before, after), text=True, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "f.yaml").read_text() == after


@pytest.mark.share(3)
def test_the_command_prints_the_patch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written("trl.yaml", tmp_path)
    assert main(["advise", "--file", str(path), "--budget", "1GiB"]) == 0
    assert "--- a/trl.yaml" in capsys.readouterr().out
    assert main(["advise", "--file", str(path), "--budget", "1GiB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["edits"]


def test_files_without_an_estimate_are_refused(tmp_path: Path) -> None:
    line = f"accelerate launch sft.py --model_name_or_path {SMOL}"
    with pytest.raises(InputError, match="can be written into"):
        advise_file(line, {"seq": 64, "budget": "1GiB"})
    path = tmp_path / "ds.json"
    path.write_text('{"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 0}}')
    with pytest.raises(InputError, match="names no model"):
        advise_file(str(path), {"budget": "1GiB"})
