"""The second witness. Every case here asks the trace: the real module on the meta device.

The bar: the coefficients of saved bytes in B and S are the traced ones, for every family, method,
dtype and attention, so the formula is right for every batch and sequence, not at some of them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estimator import operators as ops
from estimator.answers import validation
from estimator.answers.formulas import Regime, regimes
from estimator.answers.validation import Validation, counts_of, validate
from estimator.errors import InputError
from estimator.ledger import Call, Tensor, record
from estimator.operators.table import RULES
from estimator.plans.models import builtin_names, load
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from estimator.show.cli import main
from estimator.witnesses import trace
from estimator.witnesses.reference.libraries import torch
from estimator.witnesses.reference.model import build_model
from tests.cases.small_models import TINY

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 12},
    "mistral": {"head_dim": 10, "sliding_window": None},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
}
WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 9},
    "qwen2": {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1},
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "lora": {"name": "lora", "r": 4},
    "lora-dropout": {"name": "lora", "r": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "down_proj"]},
    "lora-all-linear": {"name": "lora", "r": 4, "target_modules": "all-linear"},
    "lora-head": {"name": "lora", "r": 4, "target_modules": ["q_proj", "lm_head"]},
    "lora-saved-modules": {"name": "lora", "r": 4, "modules_to_save": ["lm_head", "embed_tokens"]},
    "lora-16-bit": {"name": "lora", "r": 4, "target_modules": "all-linear", "lora_dropout": 0.1, "adapter_dtype": ""},
    "ia3": {"name": "ia3"},
}
MORE_METHODS: dict[str, dict[str, Any]] = {
    "embedding": {"name": "lora", "r": 4, "target_modules": ["embed_tokens", "v_proj"]},
    "norm": {"name": "lora", "r": 4, "modules_to_save": ["norm"]},
    "biases": {"name": "lora", "r": 4, "bias": "all", "lora_bias": True},
    "ranks": {
        "name": "lora",
        "r": 4,
        "bias": "lora_only",
        "rank_pattern": {"q_proj": 2},
        "target_modules": ["q_proj", "k_proj"],
    },
    "one-layer": {"name": "lora", "r": 4, "layers_to_transform": [1], "target_modules": ["o_proj"]},
    "ia3-own": {
        "name": "ia3",
        "target_modules": ["q_proj", "o_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    },
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "multi-head": {"num_key_value_heads": 4},
    "multi-query": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "deep": {"num_hidden_layers": 7},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "checkpointing": {"checkpointing": "layer"},
    "cache": {"use_cache": True},
    "mask": {"attention_mask": True},
    "mask-cache": {"attention_mask": True, "use_cache": True},
    "mask-checkpointing": {"attention_mask": True, "checkpointing": "layer"},
}
ATTENTIONS = ("eager", "sdpa")


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """A plan for a small model of a family."""

    def plan(family: str, config: dict[str, Any] | None = None, **keys: Any) -> Plan:
        raw = {**TINY, **FAMILIES[family], **(config or {}), "model_type": family}
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"  # specs are cached by path
        path.write_text(json.dumps(raw))
        return parse_plan({"model": str(path), **keys})

    return plan


def general(plan: Plan) -> list[Regime]:
    """The regimes of every B >= 2 and S >= 2, on both sides of a window."""
    return [regime for regime in regimes(plan) if not regime.batch_one and not regime.seq_one]


def hold(validation: Validation) -> None:
    """Every coefficient and every count is the traced one."""
    for result in validation.regimes:
        assert result.exact
        assert [(c.monomial, c.formula) for c in result.coefficients] == [
            (c.monomial, c.trace) for c in result.coefficients
        ], result.differences
    assert [c for c in validation.counts if not c.equal] == []
    assert validation.equal


@pytest.mark.share(96)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_coefficients(make: Any, family: str, method: str, dtype: str, attention: str) -> None:
    keys = METHODS[method]
    if "adapter_dtype" in keys:
        keys = {**keys, "adapter_dtype": dtype}
    plan = make(family, method=keys, dtype=dtype, attention=attention)
    hold(validate(plan, chosen=general(plan)))


@pytest.mark.share(6)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("method", MORE_METHODS)
def test_other_methods(make: Any, method: str, attention: str) -> None:
    plan = make("llama", {"attention_bias": True, "mlp_bias": True}, method=MORE_METHODS[method], attention=attention)
    hold(validate(plan, chosen=general(plan)))


@pytest.mark.share(16)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("family", FAMILIES)
def test_architectures(make: Any, family: str, architecture: str, attention: str) -> None:
    method = METHODS["lora" if architecture == "deep" else "full"]
    plan = make(family, ARCHITECTURES[architecture], method=method, attention=attention)
    hold(validate(plan, chosen=general(plan)))


@pytest.mark.share(4)
@pytest.mark.parametrize(
    ("family", "config", "attention"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}, "sdpa"),
        ("qwen3", {"attention_bias": True}, "sdpa"),
        ("llama", {"attention_dropout": 0.1}, "eager"),
        ("qwen2", {"hidden_act": "gelu_pytorch_tanh"}, "sdpa"),
        ("llama", {"hidden_size": 44, "head_dim": 7 * 2}, "sdpa"),
    ],
    ids=["biases", "biases-qk-norm", "attention-dropout", "gelu", "head-dim-apart"],
)
def test_config_keys(make: Any, family: str, config: dict[str, Any], attention: str) -> None:
    for method in ("full", "lora-all-linear"):
        plan = make(family, config, method=METHODS[method], attention=attention)
        hold(validate(plan, chosen=general(plan)))


@pytest.mark.share(16)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_options(make: Any, family: str, option: str, attention: str) -> None:
    method = METHODS["lora-dropout" if "checkpointing" in option else "full"]
    plan = make(family, method=method, attention=attention, **OPTIONS[option])
    hold(validate(plan, chosen=general(plan)))


@pytest.mark.share(24)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("option", ["none", "cache", "mask"])
@pytest.mark.parametrize("family", WINDOWS)
def test_both_sides_of_a_window(make: Any, family: str, option: str, attention: str) -> None:
    plan = make(family, WINDOWS[family], method=METHODS["lora"], attention=attention, **OPTIONS.get(option, {}))
    found = validate(plan, chosen=general(plan))
    assert [r.condition for r in found.regimes] == ["B >= 2 and S >= 2 and S >= 9", "B >= 2 and S >= 2 and S < 9"]
    hold(found)


@pytest.mark.share(3)
def test_deep_model_with_two_kinds_of_layers(make: Any) -> None:
    config = {**WINDOWS["qwen3"], "num_hidden_layers": 12, "max_window_layers": 5}
    plan = make("qwen3", config, method=METHODS["lora"], attention="eager")
    hold(validate(plan, chosen=general(plan)))


@pytest.mark.share(8)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_sequence_or_one_token(make: Any, family: str, attention: str) -> None:
    found = validate(make(family, method=METHODS["lora-dropout"], attention=attention))
    assert len(found.regimes) == 4
    hold(found)


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_one_token_with_a_mask(make: Any, key_value_heads: int) -> None:
    """transformers packs grouped queries of a single token (``pack_gqa``)."""
    plan = make("llama", {"num_key_value_heads": key_value_heads}, attention_mask=True)
    hold(validate(plan, chosen=[regime for regime in regimes(plan) if regime.seq_one]))


def test_large_heads(make: Any) -> None:
    """transformers repeats keys and values for heads above 256 (``use_gqa_in_sdpa``)."""
    hold(validate(make("qwen3", {"head_dim": 320})))


@pytest.mark.share(12)
@pytest.mark.parametrize("name", [name for name in builtin_names() if load(name).raw["model_type"] in FAMILIES])
def test_parameters_of_builtin_models(name: str) -> None:
    plan = parse_plan({"model": name})
    found = counts_of(plan, trace.build(resolve(plan)))
    assert {c.name for c in found} >= {"total_parameters", "trainable_parameters", "parameters", "buffers"}
    assert [c for c in found if not c.equal] == []


@pytest.mark.share(3)
def test_a_real_model_in_full() -> None:
    hold(validate(parse_plan({"model": "smollm2-135m", "method": METHODS["lora-all-linear"]}), chosen=[Regime()]))


def _silu_that_saves_nothing(x: Tensor) -> Tensor:
    def backward(call: Call) -> tuple[Tensor | None, ...]:
        return (call.grad,)

    return record("SiluBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (), backward)


@pytest.mark.parametrize("layers", [2, 7])
def test_a_wrong_rule_is_named(make: Any, monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    monkeypatch.setitem(RULES, "silu", lambda out, x, *_, **__: _silu_that_saves_nothing(x))
    plan = make("llama", {"num_hidden_layers": layers}, dtype="float32")
    found = validate(plan, chosen=general(plan))
    assert not found.equal
    assert all(c.equal for c in found.counts)
    (result,) = found.regimes
    (wrong,) = [c for c in result.coefficients if not c.equal]
    assert wrong.monomial == "B*S"
    assert wrong.trace - wrong.formula == layers * 104 * 4
    (difference,) = result.differences
    batch, seq = result.compared_at
    assert difference.only_in == "trace"
    assert difference.module == "model.layers.0.mlp.gate_proj"
    assert difference.operator == "silu"
    assert (difference.shape, difference.dtype) == ((batch, seq, 104), "float32")
    assert (difference.nbytes, difference.times) == (batch * seq * 104 * 4, layers)


def test_what_the_formula_alone_saves_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(x: Tensor, dtype: str, right: Any = ops.softmax) -> Tensor:
        out: Tensor = right(x, dtype)
        return record("Extra", lambda: out.ledger.empty(out.shape, out.dtype), (out,), (out, x), lambda c: (c.grad,))

    monkeypatch.setattr(ops, "softmax", greedy)
    plan = make("llama", dtype="bfloat16", attention="eager", method=METHODS["lora"])
    (result,) = validate(plan, chosen=general(plan)).regimes
    (difference,) = result.differences
    assert difference.only_in == "formula"
    assert difference.operator == "Extra"
    assert difference.module.startswith("model.layers.0.self_attn")
    batch, seq = result.compared_at
    assert (difference.shape, difference.dtype, difference.times) == ((batch, 4, seq, seq), "bfloat16", 2)


def test_a_trace_of_another_degree_is_noticed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def cubic(model: Any, plan: Plan, batch: int, seq: int) -> list[trace.TracedTensor]:
        return [trace.TracedTensor("model", "", (batch, seq), "float32", batch * seq**3)]

    monkeypatch.setattr(trace, "trace", cubic)
    monkeypatch.setattr(validation, "trace", cubic)
    plan = make("llama")
    (result,) = validate(plan, chosen=general(plan)).regimes
    assert not result.exact
    assert not replace(result, coefficients=()).equal


@pytest.mark.share(2)
@pytest.mark.parametrize("keys", [{}, {"attention_mask": True}, {"checkpointing": "layer"}, {"seq": 12}], ids=str)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_trace_saves_what_a_cpu_saves(make: Any, attention: str, keys: dict[str, Any]) -> None:
    """Asks a real forward pass, to see that nothing that the trace replaces matters."""
    given = {"batch": 3, "seq": 7, "dtype": "bfloat16", "method": METHODS["lora-16-bit"], **keys}
    given["method"] = {**METHODS["lora-16-bit"], "adapter_dtype": "bfloat16"}
    plan = make("mistral", WINDOWS["mistral"], attention=attention, **given)
    resolved = resolve(plan)
    model = build_model(resolved)
    resident = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    saved = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in resident:
            saved[storage._cdata] = storage
        return tensor

    ids = torch.randint(0, 211, (plan.batch, plan.seq))
    arguments = {}
    if plan.attention_mask:
        arguments["attention_mask"] = torch.ones_like(ids)
        arguments["attention_mask"][0, -1] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, labels=ids, use_cache=False, **arguments)
    traced = trace.trace(trace.build(resolved), plan, plan.batch, plan.seq)
    assert sorted(row.nbytes for row in traced) == sorted(s.nbytes() for s in saved.values())


def test_rows_name_modules_of_the_base_model(make: Any) -> None:
    plan = make("qwen3", method=METHODS["lora-saved-modules"])
    modules = {row.module for row in trace.trace(trace.build(resolve(plan)), plan, 2, 5)}
    assert "model.layers.1.self_attn.v_proj.lora_A" in modules
    assert not [m for m in modules if "base" in m or "default" in m or "modules_to_save" in m]


def test_nothing_stays_patched(make: Any) -> None:
    before = torch.nn.functional.scaled_dot_product_attention
    plan = make("llama")
    trace.trace(trace.build(resolve(plan)), plan, 2, 5)
    assert torch.nn.functional.scaled_dot_product_attention is before
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_what_cannot_be_traced_says_so(make: Any) -> None:
    with pytest.raises(InputError, match=r"autocast.*measure"):
        validate(make("llama", dtype="float32", autocast="bfloat16"))
    rope = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}
    with pytest.raises(InputError, match=r"reads its data.*measure"):
        validate(make("qwen2", rope))
    with pytest.raises(InputError, match="sliding window of 4"):
        validate(make("mistral", {"sliding_window": 4}))


@pytest.mark.share(3)
def test_command(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = make("llama").model
    assert main(["validate", model, "--method", "lora", "--r", "4"]) == 0
    shown = capsys.readouterr().out
    assert "equal for every B and every S" in shown
    assert "trainable parameters" in shown
    assert main(["validate", model, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["equal"]
    assert result["regimes"][0]["coefficients"][0]["monomial"] == "B*S"
    assert all(c["formula"] == c["trace"] for r in result["regimes"] for c in r["coefficients"])


@pytest.mark.share(2)
def test_command_names_the_tensor(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RULES, "silu", lambda out, x, *_, **__: _silu_that_saves_nothing(x))
    model = make("llama").model
    assert main(["validate", model]) == 1
    shown = capsys.readouterr().out
    assert "not equal for every B >= 2 and S >= 2" in shown
    assert "only in the trace: silu in model.layers.0.mlp.gate_proj: [3, 59, 104] bfloat16" in shown
    assert main(["validate", model, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["equal"]
    assert result["regimes"][0]["differences"][0]["only_in"] == "trace"


def test_command_refuses_autocast(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", make("llama").model, "--autocast", "bfloat16", "--dtype", "float32"]) == 2
    assert "measure" in capsys.readouterr().err
