"""Programs that are recorded with a few of a model's equal layers, against recordings of all layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

import torch

import estimator
from estimator.plans import models
from estimator.programs.program import Program
from estimator.programs.step import Step
from estimator.recorder import hugging_face
from estimator.recorder.fewer_layers import fewer_layers, kept_layers
from tests.cases.peft_methods import block

pytestmark = pytest.mark.extra("trace")
SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 13,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 131,
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "olmo2": SIZES,
    "gemma2": {**SIZES, "head_dim": 12},
    "gemma3_text": {**SIZES, "head_dim": 12, "sliding_window": 6},
    "gpt2": {"n_embd": 48, "n_layer": 13, "n_head": 4, "vocab_size": 131},
    "deepseek_v3": {
        **SIZES,
        "num_key_value_heads": 4,
        "first_k_dense_replace": 2,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 12,
    },
}


@pytest.mark.share(6)
@pytest.mark.parametrize("family", CONFIGS)
def test_equal_to_a_recording_of_all_layers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: the recording of every layer. Modules, weights and each layer's calls are equal."""
    raw = {**CONFIGS[family], "model_type": family}

    def program() -> Program:
        source = hugging_face.HuggingFaceModel(raw, "the config")
        attention: Any = source.attention
        return source.at(Step(family, "float32", attention=attention), 2, 12)

    few = program()
    monkeypatch.setattr(hugging_face.HuggingFaceModel, "_of_few_layers", lambda *_: None)
    every = program()
    for name in ("modules", "parameters", "buffers", "before", "after", "outputs", "plain", "tied", "stacks"):
        assert getattr(few, name) == getattr(every, name), name
    assert [few.bodies[i] for i in few.layers] == [every.bodies[i] for i in every.layers]


METHODS = [
    ("frod", "llama"), ("glora", "gemma2"), ("bd-lora", "llama"), ("tinylora", "llama"),
    ("prefix_tuning", "llama"), ("cartridge", "gemma2"), ("cpt", "llama"), ("trainable_tokens", "gpt2"),
]  # fmt: skip


EVERY = ("tinylora", "prefix_tuning", "cartridge")
"""Methods that treat each layer by itself: they share one tensor among all, or give each its own keys and values."""


@pytest.mark.share(6)
@pytest.mark.parametrize(("method", "family"), METHODS)
def test_of_a_model_that_peft_has_wrapped(
    method: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Witness: the recording of every layer. Of methods in ``EVERY`` all are recorded."""
    raw = {**CONFIGS.get(family, SIZES), "model_type": family}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    monkeypatch.setattr(models, "programs_of", lambda *_: [])
    plan = {"model": str(tmp_path), "batch": 2, "seq": 9, "dtype": "float32", "method": block(method, family)}

    def answer() -> tuple[Any, ...]:
        hugging_face._CONFIGS.clear()
        result = estimator.estimate(**plan)
        return result.bytes, result.peak_at, result.trainable_parameters

    used = []
    of_few_layers = hugging_face.HuggingFaceModel._of_few_layers
    monkeypatch.setattr(
        hugging_face.HuggingFaceModel, "_of_few_layers", lambda *args: used.append(of_few_layers(*args)) or used[-1]
    )
    few = answer()
    assert any(one is not None for one in used) == (method not in EVERY)
    monkeypatch.setattr(hugging_face.HuggingFaceModel, "_of_few_layers", lambda *_: None)
    assert few == answer()


def test_a_setting_that_equals_an_index_tells_no_layers_apart() -> None:
    """The width of a convolution, 4, is the index of a layer, too."""

    class Layer(torch.nn.Module):
        def __init__(self, index: int) -> None:
            super().__init__()
            self.layer_idx, self.kernel_size = index, 4

    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([Layer(i) for i in range(9)])
    with fewer_layers(model, [f"layers.{i}" for i in range(9)]) as like:
        assert like == [0, 1, 2, 2, 2, 2, 2, 2, 3]


def test_a_setting_by_a_private_name_tells_layers_apart() -> None:
    class Layer(torch.nn.Module):
        def __init__(self, index: int) -> None:
            super().__init__()
            self._doubles = index == 5

    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([Layer(i) for i in range(11)])
    with fewer_layers(model, [f"layers.{i}" for i in range(11)]) as like:
        assert like == [0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8]


@pytest.mark.parametrize("does_more", [lambda i: i % 2 == 0, lambda i: i % 3 == 2])
def test_layers_that_differ_without_a_setting_are_all_recorded(does_more: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: the recording of every layer. What a layer calls follows from its index alone."""
    from transformers.models.olmo2.modeling_olmo2 import Olmo2DecoderLayer

    plain = Olmo2DecoderLayer.forward

    def forward(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        out = plain(self, hidden_states, *args, **kwargs)
        return torch.nn.functional.gelu(out) if does_more(self.self_attn.layer_idx) else out

    monkeypatch.setattr(Olmo2DecoderLayer, "forward", forward)
    raw = {**SIZES, "model_type": "olmo2", "num_hidden_layers": 8}
    program = hugging_face.HuggingFaceModel(raw, "the config").at(Step("olmo2", "float32"), 2, 12)
    gelu = [any(getattr(e, "op", "") == "gelu" for e in program.bodies[i].events) for i in program.layers]
    assert gelu == [does_more(i) for i in range(8)]


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ("aaaa", [0, 1, 2, 3]),
        ("aaaaaaa", [0, 1, 2, 2, 2, 2, 6]),
        ("abababababab", [0, 1, 2, 3, 4, 5, 4, 5, 4, 5, 10, 11]),
        ("aabbbbbbb", [0, 1, 2, 3, 4, 4, 4, 4, 8]),
        ("abcdef", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_which_layers_are_kept(layers: str, kept: list[int]) -> None:
    assert kept_layers(layers) == kept
