"""Which layers tools mean by all linear ones, where a model has experts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
import yaml

from estimator.answers.check import check
from estimator.recorder.model_classes import build_model
from tests.cases.causal_classes import CLASSES

FILES = {
    "llama-factory": {"stage": "sft", "finetuning_type": "lora", "lora_target": "all", "cutoff_len": 64, "bf16": True},
    "axolotl": {"adapter": "lora", "lora_r": 8, "lora_target_linear": True, "sequence_len": 64},
}
MODEL = {"llama-factory": "model_name_or_path", "axolotl": "base_model"}


@pytest.mark.share(3)
@pytest.mark.parametrize("model_type", ["qwen3_moe", "deepseek_v3", "llama"])
@pytest.mark.parametrize("tool", FILES)
def test_the_layers_that_the_tool_finds(tool: str, model_type: str, tmp_path: Path) -> None:
    """Witness: the module, whose classes with ``Linear`` in their names both tools list, but for the head's."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **CLASSES[model_type]}))
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump({MODEL[tool]: str(tmp_path), **FILES[tool]}))
    with torch.device("meta"):
        model = build_model(
            "causal-lm", transformers.AutoConfig.for_model(model_type, **CLASSES[model_type]), torch.bfloat16
        )
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if "Linear" in type(module).__name__}
    found = check(str(file), {"runtime": "torch-cpu"}, tool)
    method = found.keys["method"]
    if model_type == "llama":
        assert method["target_modules"] == "all-linear"
    else:
        assert set(method["target_modules"]) == linear - {"lm_head"}
