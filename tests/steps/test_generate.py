"""``generate`` on a CPU: caches and peaks against measured calls."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.answers.comparison import compare
from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.ledger import Ledger
from estimator.operators import CPU
from estimator.plans.plan import parse_plan
from estimator.show.cli import main
from estimator.steps.caches import DynamicCache, StaticCache, _quantised
from tests.cases.causal_classes import CLASSES
from tests.cases.generate_calls import ENCODER_DECODERS, calls_with_images, encoded_calls, random_call
from tests.cases.images_and_audio import WITH_IMAGES
from tests.cases.small_models import METHODS, write_config
from tests.helpers.measured_steps import assert_call

MODEL = "llama-3.2-1b"


@pytest.mark.share(18)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("seed", range(48))
def test_random_calls(seed: int, tmp_path: Path) -> None:
    """Witness: measurement."""
    config, plan = random_call(seed)
    assert_call(config, plan, tmp_path)


@pytest.mark.share(6)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("cache", ["dynamic", "static", "quantized"])
@pytest.mark.parametrize("beams", [1, 4])
def test_half_precision(cache: str, beams: int, tmp_path: Path) -> None:
    """Witness: measurement. Also under autocast, where keys and values have different dtypes."""
    block = {"max_new_tokens": 9, "num_beams": beams, "cache_implementation": cache}
    assert_call({}, {"dtype": "float16", "generate": block}, tmp_path)
    if cache != "quantized":
        assert_call({}, {"autocast": "bfloat16", "generate": block}, tmp_path)


@pytest.mark.extra("trace")
def test_a_head_with_a_bias(tmp_path: Path) -> None:
    """Witness: measurement. The last token's hidden states are no matrix, so the frozen output matrix is copied."""
    plan = {"dtype": "bfloat16", "method": METHODS["lora"], "batch": 3, "seq": 7, "generate": {"max_new_tokens": 2}}
    assert_call({**CLASSES["gptj"], "model_type": "gptj"}, plan, tmp_path)


@pytest.mark.extra("trace")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantised_cache(dtype: str, tmp_path: Path) -> None:
    """Witness: measurement. Heads are so wide that the peak is where keys are dequantised."""
    block = {"max_new_tokens": 12, "cache_implementation": "quantized"}
    config = {"vocab_size": 19, "num_hidden_layers": 2, "head_dim": 128}
    assert_call(config, {"dtype": dtype, "seq": 1, "generate": block}, tmp_path)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 5), ("bfloat16", 8)])
def test_what_is_live_while_numbers_are_quantised(dtype: str, most: int) -> None:
    """By hand, from ``_quantize``: a float32 copy of other numbers, the scaled ones, and without the copy 8 bits."""
    ledger = Ledger(CPU)
    x = ledger.empty((1, 4, 1024, 64), dtype)
    before = ledger.live
    _quantised(x)
    assert max(ledger.peaks.values()) - before == most * 4 * 1024 * 64


PADDED = [
    ("llama", {"batch": 3, "seq": 33, "generate": {"max_new_tokens": 7, "num_beams": 2}}),
    ("llama", {"batch": 3, "seq": 5, "attention": "eager", "generate": {"max_new_tokens": 30}}),
    ("qwen3", {"batch": 3, "seq": 9, "generate": {"max_new_tokens": 7, "cache_implementation": "static"}}),
    ("qwen2", {"batch": 3, "seq": 3, "generate": {"max_new_tokens": 20, "cache_implementation": "quantized"}}),
    ("mistral", {"batch": 2, "seq": 40, "generate": {"max_new_tokens": 7, "cache_implementation": "static"}}),
    ("mistral", {"batch": 2, "seq": 20, "generate": {"max_new_tokens": 12}}),
]
"""Calls with padded prompts: every mask is made of the padding mask, which grows with each token."""


@pytest.mark.share(6)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(("family", "plan"), PADDED)
def test_padded_prompts(family: str, plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_call({"model_type": family}, {**plan, "attention_mask": True}, tmp_path)


RECORDED = {
    "long prompt": {"seq": 12, "generate": {"max_new_tokens": 4}},
    "long answer": {"seq": 3, "generate": {"max_new_tokens": 30}},
    "static": {"seq": 3, "generate": {"max_new_tokens": 15, "cache_implementation": "static"}},
    "quantized": {"seq": 3, "generate": {"max_new_tokens": 15, "cache_implementation": "quantized"}},
    "beams": {"seq": 3, "generate": {"max_new_tokens": 20, "num_beams": 3}},
    "LoRA": {"seq": 3, "generate": {"max_new_tokens": 5}, "method": {"name": "lora", "target_modules": "all-linear"}},
}
"""Calls of models whose program is recorded."""
EACH = [
    ("gemma2", "long answer"), ("gpt2", "quantized"), ("phi3", "static"), ("bloom", "beams"), ("mamba", "long prompt"),
    ("lfm2", "LoRA"), ("gpt_oss", "long answer"), ("deepseek_v3", "static"), ("falcon", "static"), ("olmo2", "beams"),
]  # fmt: skip


@pytest.mark.share(12)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(("family", "call"), EACH)
def test_recorded_models(family: str, call: str, tmp_path: Path) -> None:
    """Witness: measurement. The library's own cache is filled before each pass is recorded."""
    assert_call({**CLASSES[family], "model_type": family}, RECORDED[call], tmp_path)


SECTIONS = {"program of the package": (512, [16, 24, 24]), "recording": (128, [4, 6, 6])}


@pytest.mark.share(12)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("which", SECTIONS)
def test_positions_in_time_height_and_width(which: str, tmp_path: Path) -> None:
    """Witness: measurement. Qwen2-VL's ``generate`` makes four position ids of a token, also of text alone."""
    hidden, sections = SECTIONS[which]
    config = {
        "model_type": "qwen2_vl_text", "vocab_size": 500, "hidden_size": hidden, "intermediate_size": 7 * hidden // 4,
        "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "mrope_section": sections},
    }  # fmt: skip
    assert_call(config, {"seq": 12, "generate": {"max_new_tokens": 4}}, tmp_path)


LONG_ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [1.5] * 6}


@pytest.mark.share(3)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("call", ["long answer", "static"])
def test_what_a_first_pass_leaves_in_a_module(call: str, tmp_path: Path) -> None:
    """Witness: measurement. Long rope's frequencies are made in the first pass, and are no part of the cache."""
    config = {**CLASSES["phi3"], "model_type": "phi3", "rope_scaling": LONG_ROPE}
    assert_call({**config, "original_max_position_embeddings": 32}, RECORDED[call], tmp_path)


@pytest.mark.witness
@pytest.mark.extra("trace")
@pytest.mark.parametrize("call", RECORDED)
@pytest.mark.parametrize("family", sorted({*(family for family, _ in EACH), "gpt_neox", "mixtral", "qwen3_5_text"}))
def test_all_recorded_models(family: str, call: str, tmp_path: Path) -> None:
    """Witness: measurement. A quantised cache takes full attention alone, and LoRA what PEFT finds on both sides."""
    config = {**CLASSES[family], "model_type": family}
    with contextlib.suppress(InputError) if call in ("quantized", "LoRA") else contextlib.nullcontext():
        assert_call(config, RECORDED[call], tmp_path)


@pytest.mark.share(26)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(("family", "plan"), encoded_calls())
def test_encoders_beside_decoders(family: str, plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement. The encoder runs once; what it gives is held, as are the keys and values of both kinds of
    attention.
    """
    config = {"model_type": family, **ENCODER_DECODERS[family]}
    assert_call(config, plan, tmp_path)


@pytest.mark.share(9)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(("name", "plan"), calls_with_images())
def test_images_of_a_prompt(name: str, plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement. The tower runs before the prompt's pass, and what it gives is held. With two images of
    Qwen2.5-VL 64 bytes of numbers are not recorded.
    """
    assert_call(WITH_IMAGES[name][0], plan, tmp_path, 64 if plan.get("images") and name == "qwen2_5_vl" else 0)


LORA_HEAD = {"name": "lora", "r": 4, "target_modules": ["lm_head", "embed_tokens"]}
DORA = {"name": "lora", "r": 4, "use_dora": True}


@pytest.mark.extra("quantised")
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("dtype", ["int8-weight-only", "float8"])
def test_quantised_bases(dtype: str, cache: str, tmp_path: Path) -> None:
    """Witness: measurement."""
    block = {"max_new_tokens": 6, "cache_implementation": cache}
    assert_call({}, {"dtype": dtype, "rest_dtype": "bfloat16", "generate": block}, tmp_path)


@pytest.mark.share(2)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("method", ["ia3", "ln_tuning", LORA_HEAD, DORA, {"name": "oft", "oft_block_size": 8}], ids=str)
def test_adapters(method: Any, tmp_path: Path) -> None:
    """Witness: measurement. Frozen weights in bfloat16, whose output matrix is copied for each row's last token."""
    plan = {"dtype": "bfloat16", "method": method, "generate": {"max_new_tokens": 6, "num_beams": 2}}
    assert assert_call({}, plan, tmp_path).peak_at == "lm_head prefill"


@pytest.mark.extra("trace")
def test_long_prompt_in_windows(tmp_path: Path) -> None:
    """Witness: measurement. What a window's cache holds of a long prompt goes with the first new token."""
    config = {"model_type": "mistral", "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 8}
    plan = {"batch": 4, "seq": 300, "generate": {"max_new_tokens": 4}}
    result = assert_call({**config, "num_key_value_heads": 8, "num_hidden_layers": 8}, plan, tmp_path)
    assert result.bytes["kv_cache"] < estimate(parse_plan({"model": MODEL, **plan})).bytes["kv_cache"]


@pytest.mark.extra("trace")
def test_bytes_of_a_cache_of_two_attentions(tmp_path: Path) -> None:
    """By hand. A layer of the decoder has keys and values of the source, and of the target's tokens, for all beams."""
    config = ENCODER_DECODERS["bart"]
    model = tmp_path / "config.json"
    model.write_text(json.dumps({"model_type": "bart", **config}))
    block = {"max_new_tokens": 12, "num_beams": 3}
    found = estimate(model=str(model), batch=2, seq=21, target_seq=4, dtype="float32", generate=block)
    assert found.bytes["kv_cache"] == 2 * config["decoder_layers"] * 6 * (21 + 4 + 11) * config["d_model"] * 4
    less = estimate(model=str(model), batch=2, seq=21, dtype="float32", generate=block)  # the token to start with
    assert found.bytes["kv_cache"] - less.bytes["kv_cache"] == 2 * config["decoder_layers"] * 6 * 3 * 64 * 4


def test_caches_differ_as_documented() -> None:
    """A quantised cache is half of a bfloat16 one; a static one has its size from the start."""
    caches = {}
    for kind in ("dynamic", "static", "quantized"):
        plan = {"model": MODEL, "seq": 1000, "generate": {"max_new_tokens": 100, "cache_implementation": kind}}
        caches[kind] = estimate(plan).bytes["kv_cache"]
    assert caches["dynamic"] == caches["static"] == 2 * caches["quantized"] == 2 * 16 * 8 * 64 * 2 * 1099
    beams = estimate(model=MODEL, seq=1000, generate={"max_new_tokens": 100, "num_beams": 3})
    assert beams.bytes["kv_cache"] == 3 * caches["dynamic"]


@pytest.mark.consistency
@settings(max_examples=7, deadline=None)
@given(
    batch=st.integers(1, 5),
    seq=st.integers(1, 3000),
    new=st.integers(1, 300),
    cache=st.sampled_from(["dynamic", "static", "quantized"]),
    key=st.sampled_from(["batch", "seq", "max_new_tokens", "num_beams"]),
)
def test_more_of_anything_takes_no_less(batch: int, seq: int, new: int, cache: str, key: str) -> None:
    """Witness: formula, of a model without windows."""
    block = {"max_new_tokens": new, "num_beams": 2, "cache_implementation": cache}
    keys: dict[str, Any] = {"model": MODEL, "batch": batch, "seq": seq, "generate": block}
    more = {**keys, "generate": {**block}}
    where = more if key in more else more["generate"]
    where[key] = where[key] + 1
    assert estimate(more).bytes["peak"] >= estimate(keys).bytes["peak"]
    parsed = parse_plan(keys)
    assert parse_plan(json.loads(parsed.model_dump_json())) == parsed


def test_windows_of_caches() -> None:
    """Witness: formula, by hand: ``get_mask_sizes`` and what is left in a window of 16 tokens."""
    assert [DynamicCache.keys(16, past, 1, 99) for past in (0, 14, 15, 16, 90)] == [1, 15, 16, 16, 16]
    assert [StaticCache.keys(16, past, 1, 99) for past in (0, 14, 15, 16, 90)] == [16] * 5
    assert StaticCache.keys(16, 0, 40, 99) == 40
    assert DynamicCache.held(16, 40, 99, reordered=False, prefilled=True) == (15, 40)
    assert DynamicCache.held(16, 40, 99, reordered=False, prefilled=False) == (15, 16)
    assert DynamicCache.held(16, 40, 99, reordered=True, prefilled=False) == (15, 15)
    assert StaticCache.held(16, 3, 9, reordered=False, prefilled=True) == (9, 9)


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Options by transformers' names; any of them asks for generate."""
    assert main(["estimate", MODEL, "--seq", "70", "--max-new-tokens", "30", "--num-beams", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = estimate(model=MODEL, seq=70, generate={"max_new_tokens": 30, "num_beams": 2}).to_dict()
    assert result == expected
    assert result["task"] == "infer"
    assert main(["max-seq", MODEL, "--max-new-tokens", "30", "--budget", "4GiB", "--margin", "0", "--json"]) == 0
    longest = json.loads(capsys.readouterr().out)["answer"]
    keys: dict[str, Any] = {"model": MODEL, "generate": {"max_new_tokens": 30}, "budget": "4GiB"}
    assert estimate(**keys, seq=longest).fits
    assert not estimate(**keys, seq=longest + 1).fits


def test_more_positions_than_the_model_was_made_for() -> None:
    """A note, as the other questions have."""
    keys: dict[str, Any] = {"model": "qwen3-0.6b", "generate": {"max_new_tokens": 1000}}
    assert not estimate(keys, seq=39961).warnings  # the last token is not read
    assert "made for 40,960 positions" in estimate(keys, seq=39962).warnings[0]


def test_refused_questions(tmp_path: Path) -> None:
    """Questions that are of training, or of formulas; and a cache that transformers refuses for windows."""
    keys: dict[str, Any] = {"model": MODEL, "generate": {}}
    with pytest.raises(InputError, match="of training steps"):
        compare(keys, [METHODS["lora"]], [64], 64)
    with pytest.raises(InputError, match="a formula does not go with num_beams: 2"):
        compile_plan(parse_plan({**keys, "generate": {"num_beams": 2}}))
    model = write_config(tmp_path, {"model_type": "mistral"})
    with pytest.raises(InputError, match="a formula does not go with generate of a model with a sliding window"):
        compile_plan(parse_plan({**keys, "model": model}))
    with pytest.raises(InputError, match="a model of sliding windows"):
        estimate(model=model, generate={"cache_implementation": "quantized"})
