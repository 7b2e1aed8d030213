"""Serving: how vLLM divides a GPU. ``engines/test_vllm_cache.py`` asks about blocks and groups of layers."""

from __future__ import annotations

import pytest

from estimator.answers.serving import serving
from estimator.engines.vllm import command_line
from estimator.engines.vllm.options import ServingOptions
from estimator.errors import InputError


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_vllm_takes_its_share_of_the_card(share: float) -> None:
    """Witness: the meaning of ``--gpu-memory-utilization``. What weights and work leave of it is the cache."""
    found = serving("llama-3.2-1b", "a100-80gb", [100, 1000], ServingOptions(gpu_memory_utilization=share))
    assert found.bytes["requested"] == int(share * found.bytes["total"])
    parts = (found.bytes[part] for part in ("weights", "activation", "non_torch", "cudagraph", "kv_cache"))
    assert sum(parts) == found.bytes["requested"]
    assert found.blocks * found.bytes["block"] <= found.bytes["kv_cache"] < (found.blocks + 1) * found.bytes["block"]
    short, long = found.contexts
    assert [short.blocks, long.blocks] == [7, 63]  # of 16 tokens, the last of which may be empty
    assert (short.requests, long.requests) == (found.blocks / 7, found.blocks / 63)


def test_a_command_line() -> None:
    """Witness: vLLM's own parser of the same words: spellings, numbers with units, switches, JSON."""
    text = """VLLM_USE_V1=1 CUDA_VISIBLE_DEVICES=0,1 vllm serve Qwen/Qwen3-32B -tp 2 \\
        --max-model-len=32k --no-enable-prefix-caching \\
        --enable_expert_parallel --gpu-memory-utilization .85 --port 8000 --max-num-seqs 1K --foo 3 --bar \\
        --speculative-config '{"method": "mtp", "num_speculative_tokens": 2}' --kv-cache-memory-bytes 2G"""
    assert command_line.is_command(text)
    assert not command_line.is_command("llama-3.1-8b")
    found = command_line.parse(text)
    assert (found.model, found.unknown) == ("Qwen/Qwen3-32B", ["--foo", "--bar"])
    assert found.options == {
        "tensor_parallel_size": 2,
        "max_model_len": 32000,
        "enable_prefix_caching": False,
        "enable_expert_parallel": True,
        "gpu_memory_utilization": 0.85,
        "max_num_seqs": 1024,
        "num_speculative_tokens": 2,
        "kv_cache_memory_bytes": "2147483648B",
    }
    module = command_line.parse("python3 -m vllm.entrypoints.openai.api_server --model gpt2 --dtype half -q fp8")
    assert (module.model, module.options["quantization"]) == ("gpt2", "fp8")


WRONG = [
    ("vllm serve", "names no model"),
    ("vllm serve a b", "'b' is a second model"),
    ("vllm serve a --max-model-len", "--max-model-len needs a value"),
    ("vllm serve a --max-model-len 8.5", "is no number"),
    ("vllm serve a --max-model-len 8x", "is no number"),
    ("vllm serve 'a", "close its quotes"),
    ("vllm serve a --speculative-config mtp", "is no JSON object"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_wrong_command_lines(text: str, message: str) -> None:
    """One line that says how to write it."""
    with pytest.raises(InputError, match=message):
        command_line.parse(text)


def test_each_mend_lets_it_start() -> None:
    """What an error suggests is asked again."""
    options = ServingOptions(max_model_len=40960)
    stopped = serving("qwen3-32b", "h100-80gb", [8192], options)
    assert stopped.refusal is not None
    assert stopped.mends
    for mend in stopped.mends:
        given = command_line.parse(f"vllm serve qwen3-32b --max-model-len 40960 {mend}").options
        assert serving("qwen3-32b", "h100-80gb", [8192], ServingOptions(**given)).refusal is None, mend
    longest = int(stopped.mends[0].split()[1])
    assert f"estimated maximum model length is {longest}." in stopped.refusal
    one_more = serving("qwen3-32b", "h100-80gb", [8192], ServingOptions(max_model_len=longest + 16))
    assert one_more.refusal is not None
