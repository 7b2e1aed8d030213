"""Unsloth's kernels, offloaded checkpoints and loss."""

from __future__ import annotations

from typing import Any

import pytest

from estimator import estimate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.offloading import block_bytes
from estimator.steps.unsloth import UNCERTAINTY, loss_chunks
from tests.cases.unsloth_lengths import PUBLISHED, plan, slope

GIB = 2**30
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SMALL: dict[str, Any] = {
    "model": "llama-3.2-1b",
    "method": {"name": "lora", "r": 8, "target_modules": LAYERS},
    "dtype": "bfloat16",
    "runtime": "torch-cuda",
    "autocast": "bfloat16",
    "checkpointing": "layer",
    "use_reentrant": True,
    "keep_logits": False,
    "loss": "unsloth",
    "kernels": "unsloth",
    "seq": 4096,
}
KERNELS = ("transformers", "unsloth")
HIDDEN, INNER, LAYERS_OF, VOCAB = 2048, 8192, 16, 128256


def needed(model: str, whose: str, gib: int, tokens: int) -> float:
    """GiB of the process within a GPU's memory."""
    return estimate({**plan(model, whose, gib), "seq": tokens}).bytes["process"] / GIB


@pytest.mark.share(3)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.3-70b"])
def test_the_lengths_that_unsloth_published_take_the_memory_of_their_gpus(model: str) -> None:
    """Witness: Unsloth's table of context lengths, calculated for December 2024. Tokens a GiB between its least and its
    most memory: with our figures at these lengths 8 % more at most, and with transformers' kernels far fewer.
    """
    published = PUBLISHED[model, "unsloth"]
    ends = min(published), max(published)
    found = {}
    for whose in ("unsloth", "transformers"):
        first, last = (needed(model, whose, gib, published[gib]) for gib in ends)
        found[whose] = (published[ends[1]] - published[ends[0]]) / (last - first)
        if whose == "unsloth":
            for gib, process in zip(ends, (first, last), strict=True):
                assert process < gib < process * (1 + UNCERTAINTY)
    assert found["transformers"] < slope(published) / 1.5
    assert slope(published) < found["unsloth"] < slope(published) * 1.08


def test_the_verdict_keeps_the_margin_of_the_published_lengths() -> None:
    keys = {**SMALL, "dtype": "bfloat16"}
    assert estimate(keys).uncertainty == UNCERTAINTY
    assert estimate({**keys, "kernels": "transformers"}).uncertainty < UNCERTAINTY


def test_what_the_kernels_save() -> None:
    """Witness: what ``LoRA_MLP``, ``LoRA_W`` and ``Fast_RMS_Layernorm`` save (``save_for_backward``), added up
    independently. In a layer's checkpoint it is alive at the peak, in the backward pass of the MLP.
    """
    tokens, wide = SMALL["seq"], 2  # bytes of bfloat16
    without = {**SMALL, "checkpointing": "none", "use_reentrant": None}
    saved, fewer = (estimate({**without, "seq": seq}).bytes["saved"] for seq in (tokens, tokens // 2))
    heads, keys = 32, 512
    norms = 2 * (HIDDEN * wide + 4)  # their inputs, and a float32 deviation of each row
    projections = HIDDEN * wide  # what q, k and v take is one tensor
    attention = (HIDDEN + 2 * keys + HIDDEN) * wide + 4 * heads  # q, k, v, the output, and log-sum-exps
    mlp = (HIDDEN + 2 * INNER) * wide  # its input, and the results of gate and up
    layer = norms + projections + attention + mlp
    last = HIDDEN * wide + 4 + HIDDEN * wide  # the last norm, and the gradient that the loss computes
    ours = (saved - fewer) / (tokens - tokens // 2)
    assert abs(ours - (LAYERS_OF * layer + last)) / ours < 0.01


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"lora_dropout": 0.1}, "with dropout"),
        ({"use_dora": True}, "DoRA"),
        ({"target_modules": ["q_proj", "v_proj"]}, "no MLP"),
    ],
)
def test_adapters_that_the_kernels_do_not_take_stay_peft_s(changes: dict[str, Any], kept: str) -> None:
    """Witness: the conditions of ``patch_peft_model``. What is left are norms."""
    method = {**SMALL["method"], **changes}
    keys = {**SMALL, "seq": 512, "checkpointing": "none", "use_reentrant": None}
    less = []
    for adapters in (method, SMALL["method"]):
        saved = [estimate({**keys, "method": adapters, "kernels": one}).bytes["saved"] for one in KERNELS]
        less.append(saved[0] - saved[1])
    assert 0 < less[0] < less[1] / 2, kept


def test_other_families_run_transformers_modules() -> None:
    """OLMo 2 has no kernels: the loss and the checkpoints are Unsloth's, the modules are not."""
    keys = {**SMALL, "model": "olmo-2-1b", "seq": 512}
    ours, theirs = (estimate({**keys, "kernels": one}).bytes for one in ("unsloth", "transformers"))
    assert ours["peak"] == theirs["peak"]


def test_inputs_of_layers_are_offloaded_but_the_last_one_s_and_small_ones() -> None:
    """Witness: ``UnslothCheckpointFunction``: inputs above 2 MiB, until the last layer (``LAST_GC_INDEX``)."""
    keys = {**SMALL, "checkpointing": "offloaded"}
    for tokens, count in ((4096, LAYERS_OF - 1), (513, LAYERS_OF - 1), (512, 0)):
        found = estimate({**keys, "seq": tokens}).bytes
        assert found.get("host_pinned", 0) == count * block_bytes(tokens * HIDDEN * 2)
    plain = estimate({**keys, "kernels": "transformers", "loss": "standard"}).bytes
    assert plain["host_pinned"] == LAYERS_OF * block_bytes(4096 * HIDDEN * 2)
    # On the GPU it leaves the buffer, the last layer's input, and the first one's: a leaf, which its gradient holds.
    on_gpu = estimate({**SMALL, "checkpointing": "layer"}).bytes["peak"]
    less = on_gpu - estimate(keys).bytes["peak"]
    assert abs(less - (LAYERS_OF - 3) * 4096 * HIDDEN * 2) < 2**20


@pytest.mark.parametrize(
    ("tokens", "vocab", "target", "fixed", "number"),
    [
        (2048, VOCAB, 4 * GIB, 0, 1),  # 3.91 GiB
        (2048, VOCAB, 4 * GIB, GIB // 2, 4),  # of 3.5 GiB that are left
        (4096, VOCAB, 4 * GIB, 0, 4),
        (20_000, VOCAB, 4 * GIB, 0, 12),  # 38.2 GiB: 9.6, rounded up to a multiple of four
        (20_000, VOCAB, 4 * GIB, 5 * GIB, 12),  # what chunks do not make smaller does not fit by itself
        (3, VOCAB, 2**20, 0, 3),  # no more than there are tokens
    ],
)
def test_chunks_of_the_loss(tokens: int, vocab: int, target: int, fixed: int, number: int) -> None:
    """Witness: ``get_chunk_size`` of unsloth_zoo 2026.10.9, computed independently: 16 bytes a logit."""
    assert loss_chunks(tokens, vocab, target, fixed) == number


def test_a_chunk_takes_half_of_what_the_weights_leave() -> None:
    """Witness: ``_free_target_gb``: half of the free memory, and 4 GiB at most."""
    weights = 1_235_814_400 * 2
    for budget, target in (("24GiB", 4 * GIB), ("6GiB", None), ("2GiB", 64 << 20)):
        asked = parse_plan({**SMALL, "budget": budget})
        capacity = asked.engine.capacity(asked)
        assert capacity is not None
        found = resolve(asked).step.loss_target
        assert found == target if target else abs(found - (capacity - weights) // 2) < 2**20
    assert resolve(parse_plan(SMALL)).step.loss_target == 4 * GIB


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mlp_chunks": 4}, "kernels: unsloth does not go with mlp_chunks: 4"),
        ({"method": "ia3"}, "kernels: unsloth has no rule with method: ia3"),
        ({"runtime": "torch-cpu", "checkpointing": "layer", "autocast": None, "loss": "standard"}, "torch-cpu"),
        ({"runtime": "torch-cpu", "kernels": "transformers", "autocast": None}, "loss: unsloth has no rule"),
    ],
)
def test_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        estimate({**SMALL, **changes})
