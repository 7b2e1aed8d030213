"""Command lines of vLLM as people have them."""

from __future__ import annotations

import pytest

from estimator.engines.vllm.command_line import GRAMMAR
from estimator.errors import InputError


def test_a_command_line() -> None:
    """Witness: vLLM's own parser of the same words: spellings, numbers with units, switches, JSON."""
    text = """VLLM_USE_V1=1 CUDA_VISIBLE_DEVICES=0,1 vllm serve Qwen/Qwen3-32B -tp 2 \\
        --max-model-len=32k --no-enable-prefix-caching \\
        --enable_expert_parallel --gpu-memory-utilization .85 --port 8000 --max-num-seqs 1K --foo 3 --bar \\
        --speculative-config '{"method": "mtp", "num_speculative_tokens": 2}' --kv-cache-memory-bytes 2G"""
    assert GRAMMAR.server.is_command(text)
    assert not GRAMMAR.server.is_command("llama-3.1-8b")
    found = GRAMMAR.parse(text)
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
    module = GRAMMAR.parse("python3 -m vllm.entrypoints.openai.api_server --model gpt2 --dtype half -q fp8")
    assert (module.model, module.options["quantization"]) == ("gpt2", "fp8")


PASTED = [
    "CUDA_VISIBLE_DEVICES=1 nohup vllm serve gpt2 -tp 4 > logs/vllm.log 2>&1 &",
    "# first node\nuv run --with vllm vllm serve gpt2 -tp 4  # all cards\nvllm serve opt-125m",
    "python3 -u -m vllm.entrypoints.openai.api_server --model gpt2 -tp=4 2>&1 | tee log",
    "cd /opt/vllm && conda activate vllm && vllm serve gpt2 -tp 4",
    "vllm serve --trust-remote-code --enable-auto-tool-choice true -O3 gpt2 --tensor-parallel 4 && echo done",
    'docker run --name vllm --gpus all -e "A=b c" -p 8000:8000 vllm/vllm-openai:latest --model gpt2 -tp 4',
    "podman run docker.io/vllm/vllm-openai:v0.30.0 gpt2 --served-model-name vllm -tp 4",
    "docker run --rm vllm/vllm-openai vllm serve gpt2 -tp 4 \\ \n --no-enable-log-requests",
]


@pytest.mark.parametrize("text", PASTED)
def test_a_command_line_as_it_is_pasted(text: str) -> None:
    """Of a shell: other programs before it, redirections and further commands behind it; and of a container."""
    assert GRAMMAR.server.is_command(text)
    found = GRAMMAR.parse(text)
    assert (found.model, found.options, found.unknown) == ("gpt2", {"tensor_parallel_size": 4}, [])


def test_values_of_an_object() -> None:
    """Witness: ``FlexibleArgumentParser``, which puts them together."""
    text = "vllm serve gpt2 --speculative-config.model opt-125m --speculative-config.num_speculative_tokens=3"
    assert GRAMMAR.parse(text).options == {"draft_model": "opt-125m", "num_speculative_tokens": 3}


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("swift rlhf --rlhf_type grpo --infer_backend vllm --model gpt2", False),
        ("uv run --no-sync vllm serve gpt2", True),
        ("docker run --rm vllm/vllm-openai:latest --model gpt2", True),
        ("python -m vllm.entrypoints.openai.api_server --model gpt2", True),
        ("vllm-serve gpt2", False),
    ],
)
def test_whose_command_line_it_is(text: str, is_one: bool) -> None:
    """A program's name as the value of another one's option is none."""
    assert GRAMMAR.server.is_command(text) == is_one


@pytest.mark.parametrize(("text", "size"), [("36G", 36 * 2**30), ("1T", 2**40), ("1.5t", 15 * 10**11), ("7", 7)])
def test_sizes_as_vllm_reads_them(text: str, size: int) -> None:
    """Witness: ``vllm/engine/arg_utils.py: human_readable_int``."""
    assert GRAMMAR.parse(f"vllm serve a --kv-cache-memory-bytes {text}").options == {
        "kv_cache_memory_bytes": f"{size}B"
    }


WRONG = [
    ("vllm serve gpt2 --config serve.yaml", "--config names a file, which is not read"),
    ("vllm serve", "names no model"),
    ("vllm serve a b", "'b' is a second model"),
    ("vllm serve a --max-model-len", "--max-model-len needs a value"),
    ("vllm serve a --max-model-len 8.5", "is no number"),
    ("vllm serve a --gpu-memory-utilization most", "write it like --gpu-memory-utilization 0.9"),
    ("vllm serve a --max-model-len 8x", "is no number"),
    (f"vllm serve a --max-model-len {'9' * 400}", "is no number"),
    ("vllm serve a --kv-cache-memory-bytes 36GiB", "vLLM reads no such size .* write --kv-cache-memory-bytes 36G$"),
    ("vllm serve a --kv-cache-memory-bytes 36GB", "write --kv-cache-memory-bytes 36g$"),
    ("vllm serve 'a", "close its quotes"),
    (f"vllm serve a --speculative-config{'.a' * 2000} 1", "has more than 20 parts"),
    (f"vllm serve a --speculative-config{'.a' * 21} 1", "has more than 20 parts"),
    ("vllm serve a --speculative-config mtp", "is no JSON object"),
    ("vllm serve a --speculative-config.x 1 --speculative-config.x.y 2", "is within what has a value"),
    (f"vllm serve a --speculative-config.x {'9' * 400}", "--speculative-config.x '999.* is no number"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_wrong_command_lines(text: str, message: str) -> None:
    """One line that says how to write it."""
    with pytest.raises(InputError, match=message):
        GRAMMAR.parse(text)


def test_twenty_parts_are_read() -> None:
    assert GRAMMAR.parse(f"vllm serve a --speculative-config{'.a' * 20} 1").options == {}
