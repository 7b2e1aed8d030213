"""What a file is read as, against a step that its tool itself took.

The witness is the tool: ``docs/make_trainer_runs.py`` took a step of each config with the tool's own entry point, and
wrote down what the step held (``docs/measured/trainer_runs``). The model was saved in bfloat16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from estimator.answers.check import Checked, check
from tests.cases.small_models import write_config

RUNS = Path(__file__).parents[2] / "docs" / "measured" / "trainer_runs"
FORMATS = {
    "transformers": "training-arguments",
    "trl": "trl",
    "axolotl": "axolotl",
    "llama_factory": "llama-factory",
}
CASES = [
    pytest.param(tool, run, id=f"{tool}-{json.dumps(run['config'])}")
    for tool in FORMATS
    for run in json.loads((RUNS / f"{tool}.json").read_text(encoding="utf-8"))["runs"]
]


def read(tool: str, config: dict[str, Any], folder: Path) -> Checked:
    """The answer to a run's config, written as the file that a user of the tool would have."""
    model = write_config(folder / "model", {"dtype": "bfloat16"})
    keys = dict(config)
    adapter, loading = keys.pop("peft", None), keys.pop("model", {})
    if adapter is not None and tool == "trl":
        named = {"use_dora": "use_dora"}
        keys |= {"use_peft": True, **{named.get(key, f"lora_{key}"): value for key, value in adapter.items()}}
    elif adapter is not None:
        block = {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"], **adapter}
        (folder / "adapter_config.json").write_text(json.dumps(block))
    beside: dict[str, Any] = {}
    if tool == "trl":
        keys |= loading
    elif loading.get("load_in_4bit"):
        beside = {"dtype": "nf4"}
    elif loading:
        beside = loading
    name = "base_model" if tool == "axolotl" else "model_name_or_path"
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump({name: model, **keys}))
    return check(str(path), beside, FORMATS[tool])


@pytest.mark.share(9)
@pytest.mark.parametrize(("tool", "run"), CASES)
def test_a_config_is_read_as_its_tool_runs_it(tool: str, run: dict[str, Any], tmp_path: Path) -> None:
    checked = read(tool, run["config"], tmp_path)
    plan, block = checked.keys, checked.keys["method"]
    parts = {(part, trained): dtype for part, dtype, trained, _ in run["parameters"]}
    assert plan["autocast"] == run["autocast"]
    assert plan["gradient_clipping"] == run["gradient_clipping"]
    assert (plan["checkpointing"] != "none") == (run["checkpointed_layers"] > 0)
    if run["checkpointed_layers"]:
        assert plan["use_reentrant"] == run["use_reentrant"]
    linear = parts["linear", "frozen"] if ("linear", "frozen") in parts else parts["linear", "trained"]
    assert plan["dtype"] == linear
    if linear in ("nf4", "int8"):
        assert plan["rest_dtype"] == parts["embedding", "frozen"]
    adapter = parts.get(("adapter", "trained"))
    if adapter is not None:
        assert block["name"] == "lora"
        assert block["adapter_dtype"] == adapter
        assert _targets(block.get("target_modules")) == set(run["target_modules"])
    elif ("linear", "frozen") not in parts:
        assert block["name"] == "full"
    # What the plan cannot say is said: parts of another dtype than the plan has them in.
    others = {part: dtype for (part, _), dtype in parts.items() if part in ("embedding", "norm") and dtype != linear}
    if others and linear not in ("nf4", "int8"):
        assert any(one.key in ("embeddings", "norms", "freeze") for one in checked.assumptions) or checked.ignored


def _targets(names: Any) -> set[str]:
    everything = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    return everything if names == "all-linear" else {"q_proj", "v_proj"} if names is None else set(names)
