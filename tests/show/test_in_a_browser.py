"""What the page's worker calls. The witness is what the page does with the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.show.in_a_browser import dropped

FILES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str] | None]] = {
    "adapter_config.json": ({"peft_type": "LORA", "r": 4}, {"method": {"name": "lora", "r": 4}}, None),
    "plan.json": ({"model": "gpt2", "seq": 8}, {"model": "gpt2", "seq": 8}, []),
    "axolotl.yaml": (
        {"base_model": "Qwen/Qwen3-0.6B", "adapter": "lora", "lora_target_linear": True},
        {"model": "Qwen/Qwen3-0.6B"},
        [],
    ),
}
"""By its name what a file holds, keys that it stands for, and the keys of the page's plan that stay beside them."""


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_stands_for(tmp_path: Path, name: str) -> None:
    content, keys, beside = FILES[name]
    (tmp_path / name).write_text(json.dumps(content))
    found = json.loads(dropped(str(tmp_path / name)))
    assert found["keys"] == found["keys"] | keys
    assert found.get("beside") == beside


def test_a_gguf_leaves_no_keys_of_a_training() -> None:
    found = json.loads(dropped("Model.GGUF"))
    assert found["keys"] == {"model": "Model.GGUF"}
    assert not {"method", "dtype", "optimizer"} & set(found["beside"])
