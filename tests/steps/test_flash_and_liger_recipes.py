"""Recipes of many keys at once, as people train: QLoRA in a bfloat16 trainer with FlashAttention 2 and Liger."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import modeling_flash_attention_utils, modeling_utils

from estimator.answers.estimate import estimate, run, to_result
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.recorder.hugging_face import recorded_config
from estimator.witnesses.measure import run_step
from tests.cases.recipes import BF16, F32, NF4, RECIPES
from tests.cases.small_models import write_config
from tests.helpers.measured_steps import TOLERANCE, assert_measured


class _Flash(torch.autograd.Function):
    """Stands for ``flash_attn_func`` of flash-attn 2: what its ``flash_api.cpp`` makes, saves and needs, without its
    values. Shapes are [B, S, heads, D].
    """

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        assert query.dtype in (torch.float16, torch.bfloat16)
        assert query.dtype == key.dtype == value.dtype
        batch, seq, heads, _ = query.shape
        out = torch.zeros_like(query)
        logsumexp = query.new_empty((batch, heads, seq), dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, logsumexp, query.new_empty(2, dtype=torch.int64))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        batch, seq, heads, dim = query.shape
        rows = -(-seq // 128) * 128
        grads = tuple(torch.zeros_like(x) for x in (query, key, value))
        scratch = [
            query.new_empty((batch, heads, rows), dtype=torch.float32),
            query.new_empty((batch, rows, heads, -(-dim // 32) * 32), dtype=torch.float32),
        ]
        if heads != key.shape[2]:
            scratch += [query.new_empty((batch, seq, heads, dim)) for _ in range(2)]
        return grads


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Attention ``flash`` is transformers' own function, casts and all, around a stand-in for the package's kernel.
    The list gets the dtype of each call.
    """
    dtypes: list[Any] = []

    def kernels(_: Any) -> Any:
        def call(query: Any, key: Any, value: Any, **__: Any) -> Any:
            dtypes.append(query.dtype)
            return _Flash.apply(query, key, value)

        return (call, None, None, None, None), (lambda **_: {}, None)

    for module in (modeling_flash_attention_utils, modeling_utils):
        monkeypatch.setattr(module, "lazy_import_flash_attention", kernels)
    monkeypatch.setattr(modeling_utils.PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    return dtypes


@pytest.mark.share(6)
@pytest.mark.parametrize("keys", [case[1] for case in RECIPES], ids=[case[0] for case in RECIPES])
def test_flash_and_fused_losses(keys: dict[str, Any], flash: list[Any], tmp_path: Path) -> None:
    """Witness: measurement, of transformers, PEFT and bitsandbytes themselves. FlashAttention's kernel and the fused
    losses' are stand-ins that make the same tensors, so of them this shows consistency.
    """
    config = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
    plan = parse_plan({"model": write_config(tmp_path / "model", config), "batch": 2, "seq": 40, **keys})
    plan = plan.model_copy(update={"attention": "flash"})
    measured = run_step(resolve(plan))
    assert_measured(plan, estimate(plan), measured, tolerance=TOLERANCE)
    assert {str(dtype).removeprefix("torch.") for dtype in flash} == {plan.autocast or plan.rest_dtype}


_GROUPED = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "num_key_value_heads": 2}
RECORDED: dict[str, dict[str, Any]] = {
    "granite": _GROUPED,
    "gpt2": {"n_embd": 96, "n_head": 6, "n_layer": 3},
    "gemma2": {**_GROUPED, "head_dim": 16, "sliding_window": 16},
    "phi3": {**_GROUPED, "pad_token_id": 1},
    "mixtral": {**_GROUPED, "num_local_experts": 4},
}
"""Families whose programs are shipped: norms, biases, windows and attention of several kinds."""


@pytest.mark.share(2)
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", RECORDED)
def test_flash_of_recorded_programs(family: str, method: str, flash: list[Any], tmp_path: Path) -> None:
    """Witness: measurement, of transformers and PEFT themselves, around a stand-in for the package's kernel."""
    model = tmp_path / "config.json"
    model.write_text(json.dumps({"model_type": family, "vocab_size": 611, "num_hidden_layers": 3, **RECORDED[family]}))
    lora = {"name": "lora", "target_modules": ["c_proj" if family == "gpt2" else "o_proj"]}
    block = lora if method == "lora" else {"name": method}
    plan = parse_plan({"model": str(model), "batch": 2, "seq": 40, "dtype": BF16, "method": block})
    plan = plan.model_copy(update={"attention": "flash"})
    measured = run_step(resolve(plan))
    assert_measured(plan, estimate(plan), measured, tolerance=TOLERANCE)
    assert set(flash) == {torch.bfloat16}


@pytest.mark.share(2)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("keys", [{}, {"method": "lora"}, {"dtype": F32, "autocast": BF16}])
def test_a_recording_with_flash_is_the_program_by_hand(family: str, keys: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the program for all settings, whose flash attention is measured above."""
    config = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
    model = write_config(tmp_path / "model", {"model_type": family, **config})
    plan = parse_plan({"model": model, "batch": 2, "seq": 40, "attention": "flash", "device": "rtx-4090", **keys})
    resolved = resolve(plan)
    recorded = resolved._replace(spec=replace(resolved.spec, read=recorded_config(resolved.spec.raw, "live")))
    one, other = (
        to_result(found, run(found.step, found.sizes(), found.method, plan.batch, plan.seq))
        for found in (resolved, recorded)
    )
    assert one.bytes == other.bytes


def test_the_commonest_recipe() -> None:
    """It is answered on a GPU; FlashAttention refuses what stays in float32."""
    keys = {**NF4, "model": "llama-3.1-8b", "method": "lora", "device": "rtx-4090", "attention": "flash"}
    found = estimate({**keys, "autocast": BF16, "loss": "liger", "checkpointing": "layer", "seq": 4096})
    assert found.verdict == "fits"
    assert found.warnings == ()
    assert estimate({**keys, "seq": 64}).bytes["saved"] > 0  # cast to rest_dtype
    with pytest.raises(InputError, match="rest_dtype of a quantised base"):
        estimate({**keys, "rest_dtype": F32})
