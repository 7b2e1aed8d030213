"""Virtual tokens (prompt_tuning, p_tuning, prefix_tuning, adaption_prompt), norms, biases and freezing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from estimator import operators as ops
from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan, regimes
from estimator.answers.validation import validate
from estimator.errors import InputError
from estimator.ledger import Ledger, Tensor
from estimator.operators import CPU
from estimator.plans.plan import parse_plan

from .cases import write_config
from .measured import assert_step
from .test_ops import Given, ours, real

Case = tuple[str, dict[str, Any], dict[str, Any]]
PROMPT = {"name": "prompt_tuning", "num_virtual_tokens": 7}
P_TUNING = {"name": "p_tuning", "num_virtual_tokens": 9}
PREFIX = {"name": "prefix_tuning", "num_virtual_tokens": 7}
ADAPTION = {"name": "adaption_prompt", "adapter_len": 5, "adapter_layers": 2}
LN = {"name": "ln_tuning"}
FREEZE = {"name": "freeze", "top_layers": 2}
WINDOW = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
NARROW = {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 20}
BIASES = {"attention_bias": True, "mlp_bias": True}

CASES: list[Case] = [
    ("prompt-tuning", {}, {"method": PROMPT}),
    ("prompt-tuning-b1", {"model_type": "qwen2"}, {"method": PROMPT, "batch": 1, "dtype": "bfloat16"}),
    ("prompt-tuning-eager", {"model_type": "qwen3"}, {"method": PROMPT, "attention": "eager", "dtype": "float16"}),
    ("prompt-tuning-layer", {}, {"method": PROMPT, "checkpointing": "layer", "dtype": "float16"}),
    ("prompt-tuning-mask", {"model_type": "mistral"}, {"method": PROMPT, "attention_mask": True, "seq": 18}),
    ("prompt-tuning-window", {"model_type": "mistral"}, {"method": PROMPT, "seq": 17, "use_cache": True}),
    ("prompt-tuning-long", {"vocab_size": 19}, {"method": PROMPT, "batch": 1, "seq": 186}),
    ("p-tuning", {}, {"method": P_TUNING}),
    ("p-tuning-width", {"model_type": "qwen3"}, {"method": {**P_TUNING, "encoder_hidden_size": 45}, "batch": 1}),
    ("p-tuning-autocast", {}, {"method": P_TUNING, "autocast": "bfloat16", "checkpointing": "layer"}),
    ("p-tuning-wide", {"vocab_size": 19}, {"method": {**P_TUNING, "encoder_hidden_size": 300}, "seq": 2}),
    ("prefix-tuning", {}, {"method": PREFIX}),
    ("prefix-tuning-eager", {"model_type": "qwen3"}, {"method": PREFIX, "attention": "eager", "dtype": "float16"}),
    ("prefix-tuning-one-token", {"num_hidden_layers": 6}, {"method": PREFIX, "seq": 1, "dtype": "float16"}),
    ("prefix-tuning-deep", {"num_hidden_layers": 8, "vocab_size": 19}, {"method": PREFIX, "seq": 2, "batch": 3}),
    ("prefix-tuning-mask", {"model_type": "qwen2"}, {"method": PREFIX, "attention_mask": True, "keep_logits": False}),
    ("prefix-tuning-windows", {"model_type": "qwen2", **WINDOW}, {"method": PREFIX, "seq": 20}),
    ("prefix-tuning-autocast", {}, {"method": PREFIX, "autocast": "bfloat16"}),
    (
        "prefix-tuning-projection",
        {"num_hidden_layers": 6},
        {"method": {**PREFIX, "prefix_projection": True, "encoder_hidden_size": 300}, "seq": 2, "optimizer": "sgd"},
    ),
    (
        "prefix-tuning-accumulation",
        {"model_type": "qwen3", "num_hidden_layers": 7},
        {"method": {**PREFIX, "prefix_projection": True}, "batch": 1, "gradient_accumulation_steps": 2},
    ),
    (
        "prefix-tuning-save-embedding",
        {"tie_word_embeddings": True},
        {"method": {**PREFIX, "modules_to_save": ["embed_tokens"]}},
    ),
    ("adaption-prompt", {"num_hidden_layers": 6}, {"method": ADAPTION, "dtype": "bfloat16"}),
    ("adaption-prompt-eager", {**NARROW}, {"method": ADAPTION, "attention": "eager", "dtype": "float16", "batch": 1}),
    ("adaption-prompt-layer", {"attention_bias": True}, {"method": ADAPTION, "checkpointing": "layer"}),
    ("adaption-prompt-autocast", {}, {"method": {**ADAPTION, "adapter_len": 90}, "autocast": "bfloat16", "seq": 2}),
    ("ln-tuning", {}, {"method": LN}),
    ("ln-tuning-qwen3", {"model_type": "qwen3"}, {"method": LN, "attention": "eager", "dtype": "bfloat16"}),
    ("ln-tuning-layer", {"model_type": "mistral"}, {"method": LN, "checkpointing": "layer", "dtype": "float16"}),
    (
        "ln-tuning-regex",
        {"num_hidden_layers": 5},
        {"method": {**LN, "target_modules": r"model\.layers\.[13]\..*norm|model.norm"}},
    ),
    (
        "ln-tuning-other-modules",
        {"tie_word_embeddings": True},
        {"method": {**LN, "target_modules": ["norm", "lm_head", "embed_tokens"], "modules_to_save": ["up_proj"]}},
    ),
    ("bitfit", {"model_type": "qwen2"}, {"method": "bitfit", "dtype": "bfloat16"}),
    ("bitfit-eager", {**BIASES}, {"method": "bitfit", "attention": "eager", "dtype": "float16"}),
    ("freeze", {"num_hidden_layers": 6}, {"method": FREEZE}),
    ("freeze-tied", {"model_type": "qwen3"}, {"method": FREEZE, "attention": "eager"}),
    ("freeze-tied-head", {"model_type": "qwen3"}, {"method": {**FREEZE, "train_head": False}, "dtype": "bfloat16"}),
    ("freeze-layer", {"model_type": "qwen2"}, {"method": FREEZE, "checkpointing": "layer", "dtype": "float16"}),
    ("freeze-head-only", {"num_hidden_layers": 9}, {"method": {**FREEZE, "top_layers": 0, "train_norm": False}}),
]


@pytest.mark.parametrize(("config", "plan"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_step(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_step(config, {"batch": 2, "seq": 33, "dtype": "float32", **plan}, tmp_path)


@pytest.mark.parametrize("method", [PROMPT, P_TUNING, {**PREFIX, "prefix_projection": True}, {**ADAPTION}, LN, FREEZE])
def test_trace(method: dict[str, Any], tmp_path: Path) -> None:
    """Witness: trace. Saved bytes in every regime, a window among them, and the counts."""
    model = write_config(tmp_path, {**NARROW, "num_hidden_layers": 5})
    plan = parse_plan({"model": model, "dtype": "bfloat16", "method": method})
    assert validate(plan).equal
    assert {regime.window for regime in regimes(plan)} == {24 - method.get("num_virtual_tokens", 0)}


@pytest.mark.parametrize("method", [PROMPT, PREFIX, FREEZE])
@pytest.mark.parametrize("symbolic", [False, True])
def test_formulas(method: dict[str, Any], symbolic: bool, tmp_path: Path) -> None:
    """Formulas at a point equal the ledger's integers, on either side of where blocks and masks change."""
    model = write_config(tmp_path, {"model_type": "qwen3", "num_hidden_layers": 6, **WINDOW})
    for batch, seq in ((1, 1), (2, 16), (2, 17), (3, 185)):
        plan = parse_plan({"model": model, "batch": batch, "seq": seq, "method": method})
        expected = estimate(plan).bytes
        values = compile_plan(plan, symbolic=symbolic).evaluate(batch, seq)
        assert {key: values[key] for key in ("peak", "saved", "resident")} == {
            key: expected[key] for key in ("peak", "saved", "resident")
        }


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"method": "prompt_tuning"}, "needs num_virtual_tokens"),
    ({}, {"method": {**PROMPT, "token_dim": 5}}, "hidden size is 96"),
    ({}, {"method": {**PROMPT, "num_layers": 5}}, "has 3 layers"),
    ({}, {"method": {**PROMPT, "modules_to_save": ["embed_tokens"]}}, "would never train"),
    ({}, {"method": {**PROMPT, "modules_to_save": ["nothing"]}}, "matches nothing"),
    ({}, {"method": {**PROMPT, "prompt_tuning_init": "TEXT"}}, "needs prompt_tuning_init_text"),
    ({}, {"method": {**PROMPT, "tokenizer_kwargs": {"a": 1}}}, "TEXT only"),
    ({}, {"method": {**P_TUNING, "encoder_reparameterization_type": "LSTM"}}, "use MLP"),
    ({}, {"method": PREFIX, "checkpointing": "layer"}, "use checkpointing: none"),
    ({}, {"method": {**ADAPTION, "adapter_layers": 4}}, "adapter_layers 4: the model has 3"),
    ({}, {"method": {**ADAPTION, "target_modules": ["mlp"]}}, "self_attn only"),
    ({}, {"method": "adaption_prompt"}, "needs adapter_len"),
    ({"model_type": "qwen2"}, {"method": ADAPTION}, "llama and mistral only"),
    ({"model_type": "mistral"}, {"method": ADAPTION}, "to be the hidden size"),
    ({}, {"method": {**LN, "target_modules": ["mlp"]}}, "matches nothing"),
    ({}, {"method": {**LN, "target_modules": r".*(mlp|norm)"}}, "holds other modules"),
    ({}, {"method": "bitfit"}, "this model has none"),
    ({}, {"method": "freeze"}, "needs top_layers"),
    ({}, {"method": {**FREEZE, "top_layers": 4}}, "has 3 layers"),
    (
        {},
        {"method": {"name": "freeze", "top_layers": 0, "train_norm": False, "train_head": False}},
        "nothing to train",
    ),
]


@pytest.mark.parametrize(("config", "plan", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_refused(config: dict[str, Any], plan: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = write_config(tmp_path, config)
    with pytest.raises(InputError, match=message):
        estimate({"model": model, **plan})


# ---- operator rules ------------------------------------------------------------------------

Rule = Callable[..., Any]
OPERATORS: list[tuple[str, Rule, Rule, tuple[Given, ...]]] = [
    ("permute", lambda x: ops.permute(x, (2, 0, 1)), lambda x: x.permute(2, 0, 1), (Given((2, 3, 5)),)),
    ("repeat", lambda x: ops.repeat(x, 3, 1, 1), lambda x: x.repeat(3, 1, 1), (Given((1, 4, 5)),)),
    ("repeat-once", lambda x: ops.repeat(x, 1, 1, 1), lambda x: x.repeat(1, 1, 1), (Given((1, 4, 5)),)),
    (
        "repeat-interleave",
        lambda x: ops.repeat_interleave(x, 3, 1),
        lambda x: torch.repeat_interleave(x, repeats=3, dim=1),
        (Given((2, 4, 5, 6)),),
    ),
    (
        "unbind",
        lambda x: ops.add(*(ops.exp(part) for part in ops.unbind(x))),
        lambda x: torch.add(*(torch.exp(part) for part in x.unbind(0))),
        (Given((2, 4, 5)),),
    ),
    (
        "split",
        lambda x: ops.add(*(ops.exp(part) for part in ops.split(x, 3, count=2))),
        lambda x: torch.add(*(torch.exp(part) for part in x.split(3))),
        (Given((6, 4, 5)),),
    ),
    (
        "split-permuted",
        lambda x: ops.add(*(ops.exp(part) for part in ops.split(ops.permute(x, (2, 0, 1)), 3, count=2))),
        lambda x: torch.add(*(torch.exp(part) for part in x.permute(2, 0, 1).split(3))),
        (Given((4, 5, 6)),),
    ),
]


@pytest.mark.parametrize(("rule", "function", "given"), [row[1:] for row in OPERATORS], ids=[r[0] for r in OPERATORS])
def test_operator(rule: Rule, function: Rule, given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the real allocator."""
    assert ours(rule, given) == real(function, given)


@pytest.mark.parametrize("batch", [1, 3])
def test_embedding_of_expanded_ids(batch: int) -> None:
    """Witness: autograd's saved tensors and the real allocator. The ids' one row is what is saved."""
    row = torch.zeros(7, dtype=torch.int64)

    def rule(weight: Tensor) -> Tensor:
        ids = ops.expand(ops.unsqueeze(weight.ledger.attribute((7,), "int64"), 0), (batch, 7))
        return ops.embedding(ids, weight)

    given = (Given((11, 300)),)
    assert ours(rule, given) == real(lambda w: torch.nn.functional.embedding(row[None].expand(batch, -1), w), given)


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "bfloat16")])
def test_cat_under_autocast(dtypes: tuple[str, str]) -> None:
    """Witness: autograd's saved tensors and the real allocator. Autocast promotes to the widest dtype."""
    given = tuple(Given((2, 3, 40), dtype) for dtype in dtypes)
    found = ours(lambda a, b: ops.cat((a, b), (2, 6, 40)), given, "bfloat16")
    assert found == real(lambda a, b: torch.cat((a, b), dim=1), given, "bfloat16")


def test_gathered_gradients_of_counted_parts() -> None:
    """A split whose parts run in a counted part: the running total is that of the parts written out."""

    def run(copies: tuple[int, ...]) -> tuple[Any, ...]:
        """Live bytes after forward and after backward, and the peak."""
        ledger = Ledger(CPU)
        x = ledger.empty((sum(copies), 1000), "float32")
        x.requires_grad = True
        out = None
        for part, count in zip(ops.split(x, 1, count=len(copies)), copies, strict=True):
            with ledger.repeated(count):
                y = ops.exp(part)
                out = y if out is None else ops.add(out, y)
        assert out is not None
        live = ledger.live
        ledger.backward(out)
        return live, ledger.live, max(ledger.peaks.values())

    assert run((1, 1, 4, 1)) == run((1,) * 7)


def test_blocks_of_longer_sequences() -> None:
    """A block's size over S + 20 tokens is a symbol of its own, with its definition."""
    from estimator.ledger.sizes import registered, symbol, value_of

    rows = ops.query_block(symbol("S") + 20)
    assert rows == symbol("query_block_20") != ops.query_block(symbol("S"))
    for seq in (3, 171, 172, 747, 748):
        assert value_of(registered("query_block_20"), {"S": seq}) == ops.query_block(seq + 20)
        assert value_of(registered("query_block"), {"S": seq}) == ops.query_block(seq)
