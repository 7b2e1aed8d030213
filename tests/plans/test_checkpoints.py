"""Folders of safetensors: what the headers say, against what torch says of the model that was saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from estimator import estimate
from estimator.errors import InputError
from estimator.plans import checkpoints
from estimator.plans.models import load

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def saved(folder: Path, dtype: torch.dtype = torch.float32, **more: Any) -> transformers.PreTrainedModel:
    """A small model, saved in shards of a few kilobytes."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **more)).to(dtype)
    model.save_pretrained(folder, max_shard_size="100KB")
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_folder_says_its_parameters_and_dtype(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    model = saved(tmp_path, dtype, tie_word_embeddings=tied)
    found = load(str(tmp_path))
    assert found.checkpoint is not None
    assert found.checkpoint.parameters == model.num_parameters()
    assert f"torch.{found.dtype}" == str(dtype)
    assert found.checkpoint.files == len(list(tmp_path.glob("*.safetensors"))) > 1
    assert found.checkpoint.nbytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))


def test_the_dtype_of_the_files_is_said_and_is_a_trainers_default(tmp_path: Path) -> None:
    saved(tmp_path)
    assert "give dtype float32" in " ".join(estimate(str(tmp_path)).warnings)
    chosen = estimate(str(tmp_path), dtype="bfloat16")
    assert "give dtype" not in " ".join(chosen.warnings)
    preset = estimate(str(tmp_path), trainer="hf-trainer", batch=1)
    assert preset.bytes["parameters"] == 2 * chosen.bytes["parameters"]


def test_files_of_another_model_are_noticed(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "the files hold" in " ".join(estimate(str(tmp_path), dtype="float32").warnings)


def test_wrong_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    model = saved(tmp_path)
    shard = next(iter(sorted(tmp_path.glob("*.safetensors"))))
    content = shard.read_bytes()
    for wrong in (content[:5], content[:60], content[:-1], b"\xff" * 64):
        shard.write_bytes(wrong)
        with pytest.raises(InputError, match="not a whole safetensors file"):
            load(str(tmp_path))
    shard.write_bytes(content)
    (tmp_path / "again.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="is in two files"):
        load(str(tmp_path))
    with pytest.raises(InputError, match="give its folder"):
        load(str(shard))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match="holds an adapter"):
        load(str(adapter))
    assert checkpoints.read(adapter) is None
    assert model.num_parameters() > 0


def test_headers_of_many_tensors_are_read_once_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    monkeypatch.setattr(checkpoints, "_MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"headers .* more than 1,000 bytes"):
        estimate(str(tmp_path))
    monkeypatch.undo()
    first = checkpoints.read(tmp_path)
    assert checkpoints.read(tmp_path) is first
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        checkpoints.read(tmp_path)


def test_images_and_videos_have_files_of_their_own(tmp_path: Path) -> None:
    """In transformers' order: one file may have both, and a video's own file stands before that of images."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))

    def where(what: Any) -> str | None:
        found = load(str(tmp_path)).processor(what)
        return None if found is None else Path(found.name).name

    assert (where("image"), where("video")) == (None, None)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert (where("image"), where("video")) == ("preprocessor_config.json", "preprocessor_config.json")
    (tmp_path / "video_preprocessor_config.json").write_text("{}")
    assert (where("image"), where("video")) == ("preprocessor_config.json", "video_preprocessor_config.json")
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {}, "video_processor": 7}))
    assert (where("image"), where("video")) == ("processor_config.json", "video_preprocessor_config.json")
