"""vLLM's paged cache and the parts of a GPU. ``test_public_serving.py`` has published logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.serving import serving
from estimator.engines.served.checkpoint import adapter_bytes
from estimator.engines.served.weights import Part
from estimator.engines.vllm.caches import Cache, Layer, grouped
from estimator.engines.vllm.profile import _forward_bytes
from estimator.engines.vllm.serving_options import ServingOptions
from estimator.errors import InputError
from estimator.plans.models import load
from estimator.show.cli import main
from tests.cases.small_models import write_config

LLAMA = "llama-3.1-8b"
GIB = 2**30


def old(**options: Any) -> ServingOptions:
    """Options of the releases whose sampler sorts."""
    return ServingOptions(release="0.11", gpu_memory_utilization=0.9, **options)


def test_defaults_of_the_gpu() -> None:
    """``arg_utils.py``: large GPUs but the A100 batch more tokens and more requests."""
    large = serving(LLAMA, "h100-80gb", [8192], ServingOptions()).options
    small = serving(LLAMA, "a100-80gb", [8192], ServingOptions()).options
    huge = serving(LLAMA, "b200", [8192], ServingOptions()).options
    assert (large.tokens, large.rows, large.share) == (8192, 1024, 0.92)
    assert (small.tokens, small.rows) == (2048, 256)
    assert (huge.tokens, huge.rows) == (16384, 1024)
    assert serving(LLAMA, "b200", [8192], old()).options.tokens == 8192
    assert serving(LLAMA, "a100-80gb", [8192], ServingOptions(max_num_batched_tokens=100)).options.rows == 100


def test_few_requests() -> None:
    """Up to 127 rows PyTorch sorts as one, which takes 12 bytes a logit more; one row alone does not."""

    def sampled(rows: int) -> int:
        options = old(max_num_seqs=rows, max_num_batched_tokens=rows)
        return serving(LLAMA, "h100-80gb", [8192], options).bytes["activation"] - 2**25 - 2 * rows * 4096 * 2

    assert [sampled(rows) // (rows * 128256) for rows in (1, 2, 127, 128)] == [38, 50, 50, 38]


def test_groups_of_layers(tmp_path: Path) -> None:
    """Witness: formula, by hand: vLLM's rule for layers of two kinds."""

    def kinds(full: int, layers: int, **options: Any) -> list[tuple[int | None, int]]:
        keys = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": full}
        path = write_config(tmp_path / f"{full}-{layers}", {"model_type": "qwen2", "num_hidden_layers": layers, **keys})
        from estimator.engines.vllm.caches import layers as kept

        asked = ServingOptions(dtype="bfloat16", **options)
        spec = load(path)
        cache = grouped(kept(spec.config, spec.raw, asked), asked)
        return [(group.layers[0].seen, len(group.layers)) for group in cache.groups]

    assert kinds(2, 8) == [(None, 2), (16, 2), (16, 2), (16, 2)]
    assert kinds(4, 9) == [(None, 4), (16, 5)]  # 5 is less than 1.5 times 4
    assert kinds(4, 9, release="0.11") == [(None, 4), (16, 3), (16, 2)]
    assert kinds(2, 8, disable_hybrid_kv_cache_manager=True) == [(None, 8)]


def test_blocks_of_a_request() -> None:
    """Witness: formula, by hand. A window's blocks also hold the tokens of the steps in flight."""
    options = ServingOptions(max_num_batched_tokens=50, async_scheduling=False)
    full, window = Layer("full", 16, 1), Layer("window", 16, 1, 16)
    assert [full.blocks(tokens, options) for tokens in (1, 16, 17)] == [1, 1, 2]
    assert [window.blocks(tokens, options) for tokens in (1, 65, 5000)] == [2, 6, 6]
    twice = ServingOptions(max_num_batched_tokens=50)
    assert window.blocks(5000, twice) == -(-115 // 16) + 1
    assert Layer("chunk", 16, 1, 32).blocks(5000, options) == -(-82 // 16)
    assert Cache(()).block == 0


@pytest.mark.share(3)
def test_what_more_takes() -> None:
    """An 8-bit cache has twice the blocks' tokens; more tokens in a step leave less."""
    plain = serving(LLAMA, "a100-80gb", [8192], ServingOptions())
    quantised = serving(LLAMA, "a100-80gb", [8192], ServingOptions(kv_cache_dtype="fp8"))
    larger = serving(LLAMA, "a100-80gb", [8192], ServingOptions(max_num_batched_tokens=65536))
    more = serving(LLAMA, "a100-80gb", [8192], ServingOptions(max_num_seqs=2048, max_num_batched_tokens=2048))
    assert quantised.bytes["block"] * 2 == plain.bytes["block"] == 16 * 32 * 2 * 8 * 128 * 2
    assert larger.blocks < more.blocks < plain.blocks < quantised.blocks
    slots = serving(LLAMA, "a100-80gb", [8192], ServingOptions(enable_lora=True, max_loras=4)).bytes["weights"]
    per_layer = sum(a + b for a, b in [(4096, 4096)] * 2 + [(4096, 1024)] * 2 + [(4096, 14336)] * 3)
    assert slots - plain.bytes["weights"] == 4 * 16 * 32 * per_layer * 2
    assert _slots(LLAMA, 2) == 32 * (2 * (4096 + 2048) + 2 * (4096 + 512) + 3 * (4096 + 7168))
    attention, expert = 2 * (4096 + 4096) + 2 * (4096 + 1024), 3 * (4096 + 14336)
    assert _slots("mixtral-8x7b", 1) == 32 * (attention + 4096 + 8 + 8 * expert)
    assert _slots("mixtral-8x7b", 1, release="0.11") == 32 * (attention + 4096 + 8)
    parts = sum(plain.bytes[key] for key in ("weights", "activation", "non_torch", "cudagraph", "kv_cache"))
    assert parts == plain.bytes["requested"]
    eager = serving(LLAMA, "a100-80gb", [8192], ServingOptions(enforce_eager=True, cpu_offload_gb=2))
    assert eager.bytes["cudagraph"] == 0
    assert plain.bytes["weights"] - eager.bytes["weights"] == 2 * GIB


def _slots(model: str, ranks: int, **options: Any) -> int:
    """Numbers of a rank's slot for an adapter of rank one."""
    asked = {"tensor_parallel_size": ranks, **options}
    without, one = (
        serving(model, "b200", [8192], ServingOptions(enable_lora=lora, max_lora_rank=1, **asked)).bytes["weights"]
        for lora in (False, True)
    )
    return (one - without) // 2


def test_pipeline() -> None:
    """The embedding is on the first rank, the output on the last; tied, on both. The fewest blocks count."""
    two = serving("llama-3.1-8b", "rtx-4090", [8192], ServingOptions(pipeline_parallel_size=2, max_model_len=8192))
    alone = serving("llama-3.1-8b", "h100-80gb", [8192], ServingOptions(max_model_len=8192))
    half = (alone.bytes["weights"] - 2 * 128256 * 4096 * 2 - 4096 * 2 - 131072 * 128 * 2) // 2
    assert two.bytes["weights"] == half + 128256 * 4096 * 2 + 4096 * 2 + 131072 * 128 * 2
    assert two.bytes["block"] * 2 == alone.bytes["block"]


def test_the_rank_with_the_fewest_blocks_counts(tmp_path: Path) -> None:
    """Witness: formula, by hand. Of seven layers on three ranks the middle one has three (vLLM's ``get_pp_indices``),
    and neither embedding nor output: it has the most memory for a cache, and the fewest blocks of it."""
    path = write_config(tmp_path, {"model_type": "llama", "num_hidden_layers": 7, "vocab_size": 100_000})
    found = serving(path, "a100-80gb", [64], ServingOptions(pipeline_parallel_size=3))
    heads, dim = (load(path).config.heads[key] for key in ("num_key_value_heads", "head_dim"))
    assert found.bytes["block"] == 3 * 2 * 16 * heads * dim * 2
    assert found.blocks == found.bytes["available"] // found.bytes["block"]


def test_a_pipeline_has_a_layer_for_each_rank() -> None:
    """As many ranks as layers, and one more, which is refused."""
    many = serving("llama-3.2-1b", "h100-80gb", [64], ServingOptions(pipeline_parallel_size=16))
    assert many.bytes["block"] == 2 * 16 * 8 * 64 * 2
    with pytest.raises(InputError, match="17 ranks have no layer each of 16; take fewer"):
        serving("llama-3.2-1b", "h100-80gb", [64], ServingOptions(pipeline_parallel_size=17))


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A log, a table, an object, and status 1 where vLLM stops."""
    assert main(["serving", LLAMA, "--device", "a100-80gb", "--seqs", "8192", "--weights", "5.5GiB"]) == 0
    text = capsys.readouterr().out
    assert "requests at once" in text
    assert "Model loading took 5.50 GiB memory" in text
    assert "Maximum concurrency for 131,072 tokens per request" in text
    assert main(["serving", LLAMA, "--device", "t4", "--dtype", "float16", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["blocks"] == 0
    assert answer["error"].startswith("No available memory for the cache blocks.")
    assert [one["tokens"] for one in answer["contexts"]] == [2048, 8192, 32768, 131072]


WRONG: list[tuple[list[str], str]] = [
    (["--seqs", "8k"], "no list of token counts"),
    (["--seqs", ","], "no list of token counts"),
    (["--block-size", "0"], "block_size"),
    (["--gpu-memory-utilization", "1.5"], "gpu_memory_utilization"),
    (["--gpu-memory-utilization", "x"], "gpu_memory_utilization"),
    (["--weights", "5"], "not a number with a unit"),
    (["--dtype", "int3"], "dtype"),
    (["--block-size", "7"], "must be one of 1, 8, 16"),
    (["--device", "t4"], "set dtype to float16"),
    (["--device", "gtx-1060-6gb"], "compute capability 7.0"),
    (["--device", "raspberry-pi-5-8gb"], "runs no CUDA"),
    (
        ["--tensor-parallel-size", "3"],
        "Total number of attention heads (32) must be divisible by tensor parallel size (3)",
    ),
    (["--quantization", "bitsandbytes"], "Unknown quantization method: bitsandbytes. Must be one of"),
    (["--quantization", "humming", "--release", "0.11"], "Unknown quantization method: humming"),
    (["--quantization", "quark"], "has no rule without the checkpoint's config.json"),
    (["--free", "70GiB"], "Free memory on device cuda:0 (70.00/"),
    (["--max-model-len", "200000"], "User-specified max_model_len (200000) is greater than the derived max_model_len"),
    (["--pipeline-parallel-size", "64"], "take fewer"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_wrong_input(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 2."""
    assert main(["serving", LLAMA, "--device", "a100-80gb", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_models_without_a_class() -> None:
    """A family for which vLLM has no class."""
    with pytest.raises(InputError, match="Number of experts in the model must be greater than 0"):
        serving(LLAMA, "h100-80gb", [8192], ServingOptions(enable_expert_parallel=True))
    with pytest.raises(InputError, match="Model architectures \\['GPTNeoForCausalLM'\\] are not supported for now"):
        serving("gpt-neo-1.3b", "a100-80gb", [8192], ServingOptions())


def test_what_latent_attention_takes(tmp_path: Path) -> None:
    """By hand: three hidden states of 2,048, and for 16 heads queries twice, of 128 and 64, keys and values of 128 from
    a latent vector of 512 with 64 that rotate. Without so many tokens it is the workspace, of at most 64 a request."""
    small = {"intermediate_size": 64, "moe_intermediate_size": 16, "num_experts_per_tok": 1, "num_hidden_layers": 4}
    spec = load(write_config(tmp_path, {**load("deepseek-v2-lite").raw, **small}))
    upper = 16 * (128 + 128)
    for tokens, rows, length, largest in (
        (32768, 1, 64, 32768 * (2 * 16 * (128 + 64) + upper + 512 + 64)),
        (16, 9, 64, 64 * 9 * upper),
        (16, 9, 1024, 8 * 1024 * upper),
        (16, 9, None, 64 * 1024 * upper),
    ):
        batch = {"max_num_batched_tokens": tokens, "max_num_seqs": rows}
        options = ServingOptions(dtype="bfloat16", max_model_len=length, **batch)
        assert _forward_bytes(spec.config, spec.raw, options) == 2 * (tokens * 3 * 2048 + largest)


def test_slots_for_adapters() -> None:
    """By hand: an A for each half of an expert's gate, and one for any other layer; in 16 bits."""
    gate_up, down = "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"
    held = [
        Part(gate_up, 3 * 80 * 48, linear=(80, 48)), Part(down, 3 * 48 * 40, linear=(48, 40)),
        Part("model.layers.0.mlp.gate_up_proj.weight", 80 * 48, linear=(80, 48)), Part("norm.weight", 48),
    ]  # fmt: skip
    dense = 80 + 48
    assert adapter_bytes(held, 4, 5, "bfloat16") == 2 * 4 * 5 * dense
    experts = 3 * (80 + 2 * 48) + 3 * (48 + 40)
    assert adapter_bytes(held, 4, 5, "bfloat16", experts=2) == 2 * 4 * 5 * (dense + experts)
