"""What a rank holds, against what vLLM's own model classes and functions said (``tests/cases/vllm_models.py``)."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.serving import serving
from estimator.engines.served.checkpoint import bytes_of, rope_bytes
from estimator.engines.served.formats import Format, of_config
from estimator.engines.vllm.caches import grouped, layers
from estimator.engines.vllm.command_line import GRAMMAR
from estimator.engines.vllm.engine import ENGINE, Rank, _fitted, parts, usual_length
from estimator.engines.vllm.serving_options import ServingOptions
from estimator.errors import InputError
from estimator.ledger import ITEMSIZE
from estimator.plans.models import load

RECORDED = json.loads((Path(__file__).parent.parent / "data" / "vllm_models.json").read_text(encoding="utf-8"))
AVAILABLE, CONTEXT = 64 * 2**30, 8192
"""What was asked (``tests/cases/vllm_models.py``)."""
NOT_ASKED = ("internlm3-8b",)
"""Models that the installed transformers does not know, so that vLLM would run code that comes with them."""
WITHOUT_STATES = (("0.11", "granite-4.0-micro"),)
"""A model of a family with states that has none: 0.11 makes its blocks as large as a state of the class's defaults."""
CASES = [
    (release, model, int(ranks))
    for release, asked in RECORDED.items()
    for model, answers in asked["models"].items()
    for ranks in answers
]


@pytest.mark.share(24)
@pytest.mark.parametrize(("release", "model", "ranks"), CASES, ids=["-".join(map(str, case)) for case in CASES])
def test_a_rank(release: str, model: str, ranks: int) -> None:
    """Witness: vLLM itself: bytes of parameters, kinds of layers, groups, blocks of 64 GiB, and requests."""
    said: dict[str, Any] = RECORDED[release]["models"][model][str(ranks)]
    spec = load(model)
    config, raw = spec.config, spec.raw
    dtype = "bfloat16" if spec.dtype == "float32" else spec.dtype
    asked = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "block_size": 16, "async_scheduling": False}
    options = ServingOptions(release=release, dtype=dtype, tensor_parallel_size=ranks, **asked)
    if "error" in said:
        if "divisible" in said["error"] or "AssertionError" in said["error"]:
            with pytest.raises(InputError, match="vLLM stops"):
                list(parts(config, raw, options))
        return
    held = list(parts(config, raw, options))
    assert sum(part.elements * (4 if part.float32 else ITEMSIZE[dtype]) for part in held) == said["parameters"]
    if "groups" not in said or (release, model) in WITHOUT_STATES:
        return
    cache = grouped(layers(config, raw, options), options)
    assert sorted(len(group.layers) for group in cache.groups) == sorted(said["groups"])
    blocks = AVAILABLE // cache.block
    assert blocks == said["blocks"]
    length = min(CONTEXT, usual_length(raw, options.is_old))
    assert blocks / cache.needed(length, options) == pytest.approx(said["concurrency"], abs=1e-5)


def _tensors(weights: dict[str, Any], kind: str) -> dict[str, Any]:
    """The ``quantization_config`` of a checkpoint by compressed-tensors."""
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": kind, "config_groups": groups, "ignore": ["lm_head"]}


CHANNELS = _tensors({"num_bits": 8, "type": "float", "strategy": "channel"}, "float-quantized")
PACKED = _tensors({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}, "pack-quantized")
QUANTISED: list[tuple[str, int, int, dict[str, Any], int]] = [
    ("falcon-7b", 6, 1, {"quant_method": "gptq", "bits": 4, "group_size": 128}, 1236307840),
    ("qwen2.5-7b", 4, 1, {"quant_method": "awq", "bits": 4, "group_size": 128}, 2664389632),
    ("mixtral-8x7b", 8, 1, CHANNELS, 12143501456),
    ("phi-4", 8, 2, CHANNELS, 2391951504),
    ("starcoder2-7b", 8, 4, PACKED, 337642128),
    ("deepseek-v3", 4, 1, {"quant_method": "fp8", "activation_scheme": "dynamic"}, 16966371456),
]
"""Built-in models of so many layers on so many ranks, a checkpoint's format, and bytes of vLLM 0.33.0's parameters."""


@pytest.mark.parametrize(("model", "layers", "ranks", "quantization", "said"), QUANTISED)
def test_a_rank_of_a_quantised_checkpoint(
    model: str, layers: int, ranks: int, quantization: Any, said: int, tmp_path: Path
) -> None:
    """Witness: vLLM itself, on a platform that says it is a Hopper GPU. Scales of each layer's attention, 18 bytes, and
    the shape of each packed weight, 16, are left out, and one scale for a whole weight.
    """
    file, raw = tmp_path / "config.json", load(model).raw
    file.write_text(json.dumps({**raw, "num_hidden_layers": layers}), encoding="utf-8")
    small, format = load(str(file)), of_config(quantization, "")
    options = ServingOptions(dtype="bfloat16", tensor_parallel_size=ranks)
    held = sum(bytes_of(part, "bfloat16", format) for part in parts(small.config, small.raw, options))
    assert 0 <= said - held <= layers * (18 + 16 * 8) + 4096


SHORTENED = [
    ("llama-3.1-8b", 1, 30358044, 208),
    ("llama-3.1-8b", 1, 387803532, 2928),
    ("gemma-3-12b", 2, 7233920, 16),
    ("gemma-3-12b", 2, 4445285658, 120192),
    ("qwen3-30b-a3b", 4, 16568661708, 40960),
    ("qwen3-30b-a3b", 4, 209614327, 8512),
    ("deepseek-v2-lite", 1, 14680493, 448),
    ("deepseek-v2-lite", 1, 824147829, 26480),
    ("granite-4.0-h-tiny", 1, 1116965674, 124800),
    ("granite-4.0-h-tiny", 1, 572696281, 58400),
    ("gpt-oss-20b", 1, 5428570, 80),
    ("gpt-oss-20b", 1, 213993103, 6496),
    ("mistral-7b-v0.1", 1, 1593502132, 32768),
    ("mistral-7b-v0.1", 1, 112049490, 816),
    ("phi-3.5-mini", 1, 10053931129, 4096),
    ("phi-3.5-mini", 1, 25497337, 32),
    ("qwen3.5-27b", 2, 12892041323, 262144),
    ("qwen3.5-27b", 2, 769731202, 17248),
]
"""Built-in models on so many ranks, bytes for the cache, and ``max_model_len`` by ``get_kv_cache_configs`` of vLLM
0.33.0 where it is given -1; 0 where it stops."""


@pytest.mark.parametrize(("model", "ranks", "available", "said"), SHORTENED)
def test_the_longest_request_that_fits(model: str, ranks: int, available: int, said: int) -> None:
    """Witness: vLLM's own function."""
    spec = load(model)
    asked = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "block_size": 16, "async_scheduling": False}
    options = ServingOptions(tensor_parallel_size=ranks, max_model_len=usual_length(spec.raw, False), **asked)
    options = options.model_copy(update={"dtype": spec.dtype})
    rank = Rank(0, grouped(layers(spec.config, spec.raw, options), options))
    fitted, log = _fitted([({"available": available}, rank)], options)
    assert fitted.max_model_len == said
    assert log.startswith("Auto-fit max_model_len: " if said else "Cannot auto-fit max_model_len: ")


def test_auto_on_the_command_line() -> None:
    """By hand: 131,072 positions are more than there is room for."""
    options = GRAMMAR.parse("vllm serve llama-3.1-8b --max-model-len AUTO").options
    assert options == GRAMMAR.parse("vllm serve llama-3.1-8b --max-model-len -1").options == {"max_model_len": -1}
    answer = serving("llama-3.1-8b", "rtx-4090", [4096], ServingOptions(**options))
    assert answer.options.max_model_len == (answer.blocks - 1) * 16 < 131072
    assert "reduced from 131072 to" in str(answer.log)
    assert answer.fits
    none = serving("llama-3.1-70b", "rtx-4090", [4096], ServingOptions(max_model_len="auto"))
    assert not none.fits
    assert "not enough GPU memory available to serve even a single token" in str(none.refusal)
    with pytest.raises(InputError, match=r"has no rule with vLLM 0\.11"):
        serving("llama-3.1-8b", "rtx-4090", [4096], ServingOptions(max_model_len=-1, release="0.11"))
    with pytest.raises(ValueError, match="must be at least 1, or auto"):
        ServingOptions(max_model_len=0)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("llama-3.1-8b", {"tensor_parallel_size": 2, "decode_context_parallel_size": 4}, "divisible by dcp_size=4"),
        ("llama-3.1-8b", {"tensor_parallel_size": 8, "decode_context_parallel_size": 2}, "number of KV heads (8). "),
        (
            "llama-3.1-8b",
            {"tensor_parallel_size": 16, "decode_context_parallel_size": 4},
            "maximum supported value (2)",
        ),
        ("llama-3.1-8b", {"enable_lora": True, "max_lora_rank": 7}, "max_lora_rank (7) must be one of (1, 8, "),
    ],
)
def test_what_it_refuses(model: str, options: dict[str, Any], words: str) -> None:
    """In vLLM's words: ``config/parallel.py``, ``config/model.py``, ``config/lora.py``."""
    with pytest.raises(InputError, match=re.escape(words)):
        serving(model, "h100-80gb", [4096], ServingOptions(**options))


@pytest.mark.share(8)
@pytest.mark.parametrize("model", RECORDED["0.33"]["pipelines"])
def test_ranks_of_a_pipeline(model: str) -> None:
    """Witness: vLLM itself: bytes of the parameters of two ranks, of one model of each family."""
    spec = load(model)
    dtype = "bfloat16" if spec.dtype == "float32" else spec.dtype
    options = ServingOptions(dtype=dtype, pipeline_parallel_size=2, max_num_batched_tokens=2048, max_num_seqs=256)
    tables = rope_bytes(spec.raw, spec.config, ITEMSIZE[dtype])
    held = [rank.weights - tables for rank in ENGINE.ranks(spec.config, spec.raw, options)]
    assert held == RECORDED["0.33"]["pipelines"][model]


@pytest.mark.parametrize("model", ["bert-base", "bge-base-en-v1.5"])
def test_a_model_without_a_cache_is_refused(model: str) -> None:
    """An encoder keeps nothing for further tokens."""
    with pytest.raises(InputError, match="causal language models alone"):
        serving(model, "h100-80gb", [512], ServingOptions())


def test_latent_heads_are_split_by_tokens() -> None:
    """Latent keys and values are whole on each rank, so ranks may have some tokens each."""
    assert serving(
        "deepseek-v2-lite",
        "h100-80gb",
        [4096],
        ServingOptions(tensor_parallel_size=4, decode_context_parallel_size=4, enable_lora=True, max_lora_rank=8),
    ).fits


@pytest.mark.parametrize(("release", "least"), [("0.33", 176), ("0.11", 150)])
def test_built_in_models_were_asked(release: str, least: int) -> None:
    """Of 0.33 only what it refuses has no answer. 0.11 runs with a transformers that knows fewer models."""
    asked = RECORDED[release]["models"]
    assert sum("parameters" in answers["1"] for answers in asked.values()) >= least
    for model, answers in asked.items() if release == "0.33" else ():
        why = [one["error"] for one in answers.values() if "error" in one]
        allowed = ("divisible", "AssertionError", "not supported for now")
        assert model in NOT_ASKED or all(any(word in text for word in allowed) for text in why), (model, why)


@pytest.mark.parametrize(
    ("weights", "more", "expected"),
    [
        ({}, {}, Format("compressed-tensors", Fraction(8), of_output=4)),
        ({"num_bits": 8}, {"format": "pack-quantized"}, Format("compressed-tensors", Fraction(8), of_output=4)),
        ({"num_bits": 4}, {}, Format("compressed-tensors", Fraction(4), of_output=4)),
        ({"num_bits": 4, "group_size": 128}, {}, Format("compressed-tensors", Fraction(4), 128, Fraction(2))),
    ],
    ids=str,
)
def test_bits_of_compressed_tensors(weights: dict[str, Any], more: dict[str, Any], expected: Format) -> None:
    """Eight where the config says none (``QuantizationArgs``); a scale for each group, or for each output."""
    given = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}, **more}
    assert of_config(given, "") == expected


@pytest.mark.parametrize(
    ("given", "bits", "group", "of_group", "of_output"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8, None, 0, 4),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8, None, 3, 0),
        ({"quant_method": "awq"}, 4, 128, Fraction(5, 2), 0),
        ({"quant_method": "gptq", "bits": 3, "group_size": 1}, 3, 1, 2 + Fraction(3, 8), 0),
        ({"quant_method": "fp8"}, 8, None, 0, 0),
    ],
    ids=str,
)
def test_bits_and_scales(given: dict[str, Any], bits: int, group: int | None, of_group: Any, of_output: int) -> None:
    """By hand: a group has a 16-bit scale and a zero point of a weight's bits, LLM.int8 a scale for each row."""
    found = of_config({**given, "modules_to_not_convert": ["lm_head", "re:.*gate.*", 7]}, "")
    assert (found.bits, found.group, found.of_group, found.of_output) == (bits, group, of_group, of_output)
    assert found.kept == ("lm_head", "gate")
