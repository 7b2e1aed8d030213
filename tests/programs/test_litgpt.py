"""litgpt's implementation: against measured steps of its own loop, and against the memory tables it publishes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from estimator import estimate
from estimator.errors import InputError
from estimator.operators import Cuda
from estimator.plans.litgpt import config, models
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.step import StepTotals, run
from tests.cases import litgpt_steps as witness
from tests.helpers.figures import assert_figures

CUBLAS_WORKSPACE = 2 * 4096 * 1024 + 8 * 16 * 1024
"""Bytes PyTorch keeps for cuBLAS on an A100 or A10: CUBLAS_WORKSPACE_CONFIG's default, :4096:2:16:8."""
RECORD = json.loads(witness.RECORD.read_text(encoding="utf-8"))


@pytest.mark.share(6)
@pytest.mark.parametrize("row", RECORD["rows"], ids=["-".join(map(str, row["case"])) for row in RECORD["rows"]])
def test_recorded_step(row: dict[str, Any]) -> None:
    """Witness: measurement, of litgpt 0.5.13 under Lightning 2.6.6 and PyTorch 2.13 on a CPU with two threads, recorded
    by tests/cases/litgpt_steps.py. Equal to the byte, the peak without the scratch of oneDNN's kernels.
    """
    assert_figures(witness.predicted(*row["case"]), row["measured"])


def test_record_is_of_these_cases() -> None:
    """Witness: the cases themselves."""
    assert [tuple(row["case"]) for row in RECORD["rows"]] == [*witness.cases(), *witness.SHARED]


@pytest.mark.parametrize("case", witness.cases()[::9], ids=lambda case: "-".join(map(str, case)))
def test_step(case: tuple[str, str, str, int, int, int, int]) -> None:
    """Witness: measurement, here and now, where litgpt and Lightning are installed."""
    pytest.importorskip("litgpt")
    pytest.importorskip("lightning")
    assert_figures(witness.predicted(*case), witness.measured(*case))


SWITCHES = (
    *("bias", "lm_head_bias", "parallel_residual", "shared_attention_norm", "scale_embeddings"),
    *("post_attention_norm", "post_mlp_norm", "attention_logit_softcapping", "final_logit_softcapping"),
)


def test_models_are_litgpts() -> None:
    """Witness: litgpt's own config, where litgpt is installed."""
    theirs = pytest.importorskip("litgpt.config").Config
    for name, row in models().items():
        other = theirs.from_name(name)
        c = config(row)
        for key in ("block_size", "n_layer", "n_embd", "n_head", "head_size", "n_query_groups", "padded_vocab_size"):
            assert row[key] == getattr(other, key)
        for key in ("intermediate_size", "rope_n_elem", "norm_class_name", "mlp_class_name", "sliding_window_size"):
            assert row.get(key) == getattr(other, key)
        for key in SWITCHES:
            assert row.get(key, False) == (getattr(other, key) or False)
        assert c["sliding_window_indices"] == (other.sliding_window_indices or [0] * other.n_layer)
        assert int(c["partial_rotary_factor"] * c["head_size"]) == other.rope_n_elem


RESOURCE_TABLE: list[tuple[str, str, int, int, float | None, int]] = [
    # model, dtype, micro-batch, longest sample, "Max GPU RAM" in 10^9 B (None: out of memory), trainable parameters
    ("phi-1_5", "bfloat16", 1, 1044, 4.82, 1_572_864),
    ("phi-1_5", "nf4", 1, 1044, 3.78, 1_572_864),
    ("phi-1_5", "nf4-dq", 1, 1044, 3.72, 1_572_864),
    ("phi-1_5", "bfloat16", 2, 1044, 6.76, 1_572_864),
    ("phi-1_5", "bfloat16", 4, 1044, 10.68, 1_572_864),
    ("stablelm-base-alpha-3b", "bfloat16", 1, 1034, 9.69, 2_097_152),
    ("stablelm-base-alpha-3b", "nf4", 1, 1034, 6.35, 2_097_152),
    ("stablelm-base-alpha-3b", "nf4-dq", 1, 1034, 6.19, 2_097_152),
    ("stablelm-base-alpha-3b", "bfloat16", 2, 1034, 12.10, 2_097_152),
    ("stablelm-base-alpha-3b", "bfloat16", 4, 1034, 16.92, 2_097_152),
    ("Llama-2-7b-hf", "bfloat16", 1, 1304, 21.30, 4_194_304),
    ("Llama-2-7b-hf", "nf4", 1, 1304, 14.14, 4_194_304),
    ("Llama-2-7b-hf", "nf4-dq", 1, 1304, 13.84, 4_194_304),
    ("Llama-2-7b-hf", "bfloat16", 2, 1304, 29.07, 4_194_304),
    ("Llama-2-7b-hf", "bfloat16", 4, 1304, None, 4_194_304),
    ("Llama-2-13b-hf", "bfloat16", 1, 1304, 38.12, 6_553_600),
    ("Llama-2-13b-hf", "nf4", 1, 1304, 23.14, 6_553_600),
    ("Llama-2-13b-hf", "nf4-dq", 1, 1304, 22.55, 6_553_600),
    ("Llama-2-13b-hf", "bfloat16", 2, 1304, None, 6_553_600),
    ("falcon-40b", "bfloat16", 1, 1079, None, 12_042_240),
    ("falcon-40b", "nf4", 1, 1079, None, 12_042_240),
    ("falcon-40b", "nf4-dq", 1, 1079, None, 12_042_240),
]
"""github.com/Lightning-AI/litgpt, tutorials/resource-tables.md (added in 0cc02afa; lit-gpt 8641822, PyTorch 2.1.0,
bitsandbytes 0.41.1, A100 of 40 GB): LoRA of rank 8 on query and value. The longest sample is the first one that is
trained on, before there are gradients or optimizer states."""
CONFIG_HUB: list[tuple[str, str, int, str, int, float, float | None]] = [
    # model, dtype, micro-batch, parts, rank, dropout, "Peak memory" in 10^9 B (None: out of memory)
    ("falcon-7b", "bfloat16", 1, "qv", 32, 0.05, 16.69),
    ("falcon-7b", "nf4", 1, "qv", 32, 0.05, 9.44),
    ("Gemma-2b", "bfloat16", 2, "all", 8, 0.1, 12.62),
    ("Gemma-2b", "nf4", 2, "all", 16, 0.1, 11.58),
    ("Gemma-7b", "bfloat16", 1, "all", 16, 0.1, None),
    ("Gemma-7b", "nf4", 1, "all", 16, 0.1, 17.18),
    ("Gemma-2-2b", "bfloat16", 2, "all", 8, 0.1, 14.31),
    ("Gemma-2-2b", "nf4", 2, "all", 16, 0.1, 13.52),
    ("Gemma-2-9b", "bfloat16", 1, "all", 16, 0.1, None),
    ("Gemma-2-9b", "nf4", 1, "all", 16, 0.1, 20.92),
    ("Llama-2-7b-hf", "bfloat16", 2, "qv", 32, 0.05, 19.77),
    ("Llama-2-7b-hf", "nf4", 2, "qv", 32, 0.05, 13.68),
    ("Llama-3-8B", "bfloat16", 1, "qv", 32, 0.05, 19.73),
    ("Llama-3-8B", "nf4", 2, "qv", 32, 0.05, 17.41),
    ("Llama-3.1-8B", "bfloat16", 1, "qv", 32, 0.05, 19.73),
    ("Llama-3.1-8B", "nf4", 2, "qv", 32, 0.05, 17.41),
    ("Llama-3.2-1B", "bfloat16", 1, "qv", 32, 0.05, 4.49),
    ("Llama-3.2-1B", "nf4", 2, "qv", 32, 0.05, 5.53),
    ("Llama-3.2-3B", "bfloat16", 1, "qv", 32, 0.05, 9.67),
    ("Llama-3.2-3B", "nf4", 2, "qv", 32, 0.05, 10.30),
    ("Mistral-7B-v0.2", "bfloat16", 2, "qv", 32, 0.05, 20.66),
    ("Mistral-7B-v0.2", "nf4", 2, "qv", 32, 0.05, 14.29),
    ("Mistral-7B-v0.1", "bfloat16", 2, "qv", 32, 0.05, 20.66),
    ("Mistral-7B-v0.1", "nf4", 2, "qv", 32, 0.05, 14.29),
    ("phi-2", "bfloat16", 4, "all", 8, 0.05, 13.98),
    ("phi-2", "nf4", 4, "all", 8, 0.05, 14.27),
    ("Phi-3-mini-4k-instruct", "bfloat16", 4, "all", 8, 0.05, 19.75),
    ("Phi-3-mini-4k-instruct", "nf4", 4, "all", 8, 0.05, 19.13),
    ("stablelm-base-alpha-3b", "bfloat16", 1, "qv", 32, 0.05, 8.58),
    ("stablelm-base-alpha-3b", "nf4", 1, "qv", 32, 0.05, 5.24),
    ("tiny-llama-1.1b", "bfloat16", 8, "all", 32, 0.05, 13.50),
    ("tiny-llama-1.1b", "nf4", 8, "all", 32, 0.05, 16.24),
]
"""github.com/Lightning-AI/litgpt, config_hub/finetune/README.md and the files it names (rows of March to
September 2024, one A10G of 24 GB): samples cut at 512 tokens, and a micro-batch of that length right after another."""


def cuda_step(capability: tuple[int, int], dtype: str, **keys: Any) -> StepTotals:
    """A step of litgpt up to 0.4.12 on CUDA."""
    four_bit = {"dtype": "nf4", "double_quant": dtype == "nf4-dq", "bitsandbytes": "0.43.1"}
    plan = {"implementation": "litgpt", "litgpt": "0.4.12", **(four_bit if dtype.startswith("nf4") else {}), **keys}
    resolved = resolve(parse_plan(plan))
    options = resolved.step._replace(device=Cuda(capability))
    return run(options, resolved.sizes(), resolved.method, resolved.plan.batch, resolved.plan.seq)


def allocated(totals: Any, optimizer: bool = True) -> int:
    """``torch.cuda.max_memory_allocated()``, in bytes."""
    above = max(max(values) for values in totals.moments.values())
    states = totals.optimizer if optimizer else 0
    total: int = totals.parameters + totals.buffers + states + above + CUBLAS_WORKSPACE
    return total


@pytest.mark.parametrize("row", RESOURCE_TABLE, ids=lambda row: f"{row[0]}-{row[1]}-b{row[2]}")
def test_resource_table(row: tuple[str, str, int, int, float | None, int]) -> None:
    """Witness: published measurements. Within 0.5 %; out of memory where it says so."""
    model, dtype, batch, seq, published, trainable = row
    lora = {"name": "lora", "r": 8, "lora_dropout": 0.05}
    totals = cuda_step((8, 0), dtype, model=model, batch=batch, seq=seq, method=lora)
    assert totals.trainable_parameters == trainable
    if published is None:
        assert allocated(totals, optimizer=False) > 40e9
    else:
        assert allocated(totals, optimizer=False) == pytest.approx(published * 1e9, rel=0.005)


@pytest.mark.share(2)
@pytest.mark.parametrize("row", CONFIG_HUB, ids=lambda row: f"{row[0]}-{row[1]}-b{row[2]}")
def test_config_hub(row: tuple[str, str, int, str, int, float, float | None]) -> None:
    """Witness: published measurements. Within 2 %; out of memory where it says so."""
    model, dtype, batch, parts, rank, dropout, published = row
    targets = ["query", "value"] if parts == "qv" else list(witness.METHODS["all"]["parts"])  # type: ignore[index]
    lora = {"name": "lora", "r": rank, "lora_dropout": dropout, "target_modules": targets}
    keys = {"model": model, "batch": batch, "seq": 512, "method": lora, "gradient_accumulation_steps": 4}
    total = allocated(cuda_step((8, 6), dtype, **keys))
    if published is None:
        assert total > 24e9
    else:
        assert total == pytest.approx(published * 1e9, rel=0.02)


@pytest.mark.parametrize(
    ("model", "published"), [("Llama-3.2-1B", 8.70), ("Llama-3.2-3B", 16.51), ("Phi-3-mini-4k-instruct", 17.01)]
)
def test_full_rows_that_cannot_be(model: str, published: float) -> None:
    """Witness: arithmetic. The table's rows for full fine-tuning of these on one A10G are below what their parameters,
    gradients and AdamW states take in bfloat16 before there is any activation.
    """
    totals: Any = cuda_step((8, 6), "bfloat16", model=model, batch=4, seq=512)
    assert totals.parameters + totals.gradients + totals.optimizer > 1.35 * published * 1e9


LORA = {"name": "lora", "r": 8}


def test_defaults() -> None:
    """Witness: litgpt's finetune/lora.py, which adapts query and value unless told otherwise."""
    plan = {"model": "tiny-llama-1.1b", "implementation": "litgpt", "seq": 128}
    named = {**LORA, "target_modules": ["query", "value"]}
    assert estimate(plan, method=LORA).bytes == estimate(plan, method=named, loss="standard").bytes
    assert estimate(plan, method=LORA).bytes["saved"] != estimate(plan, method="full").bytes["saved"]


def test_stable_embedding() -> None:
    """Witness: litgpt's finetune/lora.py since 0.5.0: a second embedding and its gradient, which stay."""
    plan = {"model": "tiny-llama-1.1b", "implementation": "litgpt", "seq": 128, "dtype": "nf4", "method": LORA}
    old, new = estimate(plan, litgpt="0.4.12"), estimate(plan)
    embedding, norm = 32000 * 2048 * 2, 2 * 2048 * 2
    assert new.bytes["resident"] - old.bytes["resident"] == 2 * embedding + 2 * norm
    assert new.trainable_parameters == old.trainable_parameters


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model": "llama-3.2-1b-instruct"}, "litgpt model 'llama-3.2-1b-instruct' is not known here (did you mean"),
        ({"method": {**LORA, "target_modules": ["q_proj"]}}, "target_modules 'q_proj' is no part of litgpt's LoRA"),
        ({"method": {**LORA, "target_modules": []}}, "target_modules is empty; name a part"),
        ({"method": {**LORA, "use_dora": True}}, "litgpt's LoRA has no use_dora; leave it out"),
        ({"method": "ia3"}, "method: ia3 has no rule with implementation: litgpt; take full or lora"),
        (
            {"checkpointing": "layer"},
            "whose loop has checkpoints of blocks where FSDP shares the model, and nowhere else",
        ),
        ({"keep_logits": False}, "keep_logits belongs to implementation: transformers, not litgpt; leave it out"),
        ({"optimizer": "lomo"}, "optimizer: lomo does not go with implementation: litgpt"),
        ({"dtype": "int8", "method": LORA}, "of quantised bases take nf4 or fp4"),
        ({"dtype": "nf4", "litgpt": "0.4.12"}, "does not go with method: full"),
        (
            {"dtype": "nf4", "compute_dtype": "float16", "method": LORA},
            "compute_dtype: float16 does not go with implementation: litgpt",
        ),
        ({"seq": 2049}, "takes from 2 to 2048 tokens"),
        ({"seq": 1}, "takes from 2 to 2048 tokens"),
        (
            {"implementation": "transformers", "model": "llama-3.2-1b", "litgpt": "0.4.12"},
            "litgpt belongs to implementation: litgpt",
        ),
    ],
)
def test_refusals(keys: dict[str, Any], words: str) -> None:
    """Witness: the message."""
    with pytest.raises(InputError) as caught:
        estimate({"model": "tiny-llama-1.1b", "implementation": "litgpt", **keys})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
