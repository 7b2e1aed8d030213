"""What readers of single tools know, beside the keys that public files have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.check import check
from estimator.errors import InputError
from estimator.trainers.shell import parse

AXOLOTL: dict[str, Any] = {
    "base_model": "HuggingFaceTB/SmolLM2-135M",
    "adapter": "lora",
    "lora_r": 8,
    "lora_target_linear": True,
    "micro_batch_size": 1,
    "sequence_len": 64,
}


def test_a_comment_after_a_shell_line_is_no_option() -> None:
    line = "python sft.py --model_name_or_path HuggingFaceTB/SmolLM2-135M --max_length 64 --bf16 true"
    assert check(f"{line}  # --max_length 128: there's room").keys == check(line).keys


@pytest.mark.parametrize(
    "launcher", ["torchrun --nproc_per_node {}", "deepspeed --num_gpus {}", "torchrun --nnodes {}"]
)
def test_a_launcher_of_one_process(launcher: str) -> None:
    """Several are refused in one line."""
    line = f"{launcher} sft.py --model_name_or_path HuggingFaceTB/SmolLM2-135M --max_length 64 --bf16 true"
    assert parse(line.format("1"), "the line").options["max_length"] == "64"
    with pytest.raises(InputError, match="several devices"):
        parse(line.format("2"), "the line")


@pytest.mark.parametrize(
    ("keys", "said"),
    [({}, True), ({"load_in_8bit": True}, False)],
    ids=["16 bits", "8 bits"],
)
def test_fused_kernels_that_axolotl_turns_on(keys: dict[str, Any], said: bool, tmp_path: Path) -> None:
    """Witness: Axolotl's validation: kernels are on by default, but not with 8-bit weights."""
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, **keys}))
    assert any("fused LoRA kernels" in one.why for one in check(str(path)).assumptions) == said


@pytest.mark.parametrize(("keys", "loss"), [({}, "standard"), ({"enable_liger_kernel": True}, "liger")], ids=str)
def test_ligers_loss_is_a_part_of_its_kernels(keys: dict[str, Any], loss: str, tmp_path: Path) -> None:
    """Witness: transformers' ``apply_liger_kernel``, whose default is the fused linear cross entropy."""
    path = tmp_path / "train.yaml"
    base = {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "finetuning_type": "lora", "cutoff_len": 64}
    path.write_text(json.dumps({**base, "stage": "sft", "bf16": True, **keys}))
    assert check(str(path)).plan.loss == loss
