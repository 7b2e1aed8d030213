"""Configs of larger models whose causal class is of their ``text_config``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from estimator.answers.estimate import estimate
from estimator.answers.result import Result
from estimator.errors import InputError
from estimator.plans.models import load
from estimator.plans.plan import parse_plan
from estimator.programs.recorded import Config
from estimator.recorder.hugging_face import HuggingFaceModel
from tests.cases.causal_classes import CLASSES


@pytest.mark.parametrize("model_type", ["dots3_note", "emu3", "llama4", "mllama"])
def test_the_class_is_the_one_that_transformers_picks(model_type: str, tmp_path: Path) -> None:
    """Its parts may have to fit one another, and its text may be of no causal class of its own."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CLASSES[model_type], "model_type": model_type}))
    config = load(str(path)).config
    assert isinstance(config, Config)
    assert isinstance(config.source, HuggingFaceModel)
    assert [type(config.source.build("float32")).__name__] == CLASSES[model_type]["architectures"]


def _asked(raw: dict[str, Any], tmp_path: Path, **keys: Any) -> Result:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw))
    return estimate(parse_plan({"model": str(path), "batch": 2, "seq": 12, "dtype": "float32", **keys}))


_TEXT = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "head_dim": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]},
    "pad_token_id": 0,
}
_TOWER = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize(
    "raw",
    [
        {"model_type": "qwen2_5_vl", "text_config": _TEXT, "vision_config": {**_TOWER, "out_hidden_size": 48}},
        {"model_type": "qwen2_5_vl", **_TEXT, "vision_config": {**_TOWER, "out_hidden_size": 48}},
        {"model_type": "qwen3_vl", "text_config": _TEXT, "vision_config": {**_TOWER, "out_hidden_size": 48}},
    ],
    ids=["qwen2_5_vl", "qwen2_5_vl, flat", "qwen3_vl"],
)
def test_a_language_model_without_a_class_of_its_own(raw: dict[str, Any], tmp_path: Path) -> None:
    """Against what autograd saves in the real model of text and images, which is given token ids alone. The answer says
    what it leaves out.
    """
    answered = _asked(raw, tmp_path)
    model = transformers.AutoModelForImageTextToText.from_config(transformers.AutoConfig.for_model(**raw))
    counted = {name: p for name, p in model.named_parameters() if "visual" not in name}
    assert answered.total_parameters == sum(p.numel() for p in counted.values())
    resident = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved = {}

    def pack(tensor: Any) -> Any:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.ones(2, 12, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(input_ids=ids, labels=ids, use_cache=False)
    new = sum(x.untyped_storage().nbytes() for address, x in saved.items() if address not in resident)
    assert answered.bytes["saved"] == new
    assert any("vision_config are not" in warning for warning in answered.warnings)


@pytest.mark.parametrize("model_type", ["bart", "whisper", "musicgen", "t5", "florence2"])
@pytest.mark.parametrize("said", [True, False], ids=["in the config", "in the class"])
def test_an_encoder_and_a_decoder_are_refused(model_type: str, said: bool, tmp_path: Path) -> None:
    """Whether the config.json says ``is_encoder_decoder`` or its class does."""
    with pytest.raises(InputError, match=f"model_type {model_type} has an encoder beside its decoder"):
        _asked({"model_type": model_type, **({"is_encoder_decoder": True} if said else {})}, tmp_path)


def test_a_decoder_alone_is_answered(tmp_path: Path) -> None:
    """``WhisperForCausalLM``, named by the config as transformers saves it and by its class."""
    alone = {key: value for key, value in CLASSES["whisper"].items() if key != "architectures"}
    first = _asked({**alone, "model_type": "whisper", "is_encoder_decoder": False}, tmp_path)
    assert first.bytes == _asked({**CLASSES["whisper"], "model_type": "whisper"}, tmp_path).bytes


@pytest.mark.parametrize(
    ("model_type", "others"),
    [
        ("vit", "it has image-classification"),
        ("clip", "none with another head either"),
        ("qwen2_5_omni_talker", "none with another head either"),
    ],
)
def test_what_is_no_language_model_is_refused(model_type: str, others: str, tmp_path: Path) -> None:
    """The line names the kind of model and the heads that it has, and quotes nothing."""
    with pytest.raises(InputError, match=rf"has no model of model_type \w+ with head: causal-lm; {others}$"):
        _asked({"model_type": model_type}, tmp_path)


def test_another_class_is_named(tmp_path: Path) -> None:
    """The class that runs is the causal one, whatever class the config's weights are of."""
    answered = _asked(
        {**CLASSES["moshi"], "model_type": "moshi", "architectures": ["MoshiForConditionalGeneration"]}, tmp_path
    )
    assert any("of MoshiForCausalLM, and not of MoshiForConditionalGeneration" in x for x in answered.warnings)


def test_a_text_config_that_is_no_mapping_is_refused() -> None:
    """A class takes it as a key that it does not know. The windows are those of no shipped program."""
    raw = {**CLASSES["qwen2"], "model_type": "qwen2", "sliding_window": 8, "text_config": []}
    with pytest.raises(InputError, match=r"text_config must be a mapping, not \[\]"):
        HuggingFaceModel(raw, "config.json")
