"""vLLM's paged cache: blocks against published logs, groups of layers by hand, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.serving import serving
from estimator.engines.vllm import ServingOptions, blocks_of, layer_groups
from estimator.errors import InputError
from estimator.plans.models import load
from estimator.show.cli import main
from tests.cases.small_models import write_config

LLAMA = "llama-3.1-8b"
GIB = 2**30


@pytest.mark.parametrize(("tokens", "cache", "blocks"), [(20000, 3.81, 1952), (29000, 2.89, 1478)])
def test_rtx_3090(tokens: int, cache: float, blocks: int) -> None:
    """Witness: a published log (vllm-project/vllm/issues/10517): Llama-3.1-8B, prompts in one step, within 1 %."""
    found = serving(LLAMA, "rtx-3090", [tokens], ServingOptions(max_num_batched_tokens=tokens))
    assert found.bytes["kv_cache"] / GIB == pytest.approx(cache, rel=0.01)
    assert found.blocks == pytest.approx(blocks, rel=0.01)
    assert found.bytes["activation"] / GIB == pytest.approx({20000: 17.06, 29000: 17.98}[tokens] - 15.02, rel=0.015)
    assert found.contexts[0].requests == pytest.approx(blocks * 16 / tokens, rel=0.01)


def test_80_gb_card() -> None:
    """Witness: a published log (vllm-project/vllm/pull/10511): Llama-3-8B, given what is outside PyTorch. Its
    activations are 1.26 GiB, sampling's copies of the logits among them; the cache is within 1 % all the same.
    """
    found = serving("llama-3-8b", "h100-80gb", [8192], ServingOptions(non_torch="1.79GiB"))
    assert found.bytes["weights"] / GIB == pytest.approx(14.96, abs=0.005)
    assert found.bytes["requested"] / GIB == pytest.approx(71.29, rel=0.001)
    assert found.bytes["kv_cache"] / GIB == pytest.approx(53.29, rel=0.01)


def test_groups_of_layers(tmp_path: Path) -> None:
    """Witness: formula, by hand: vLLM's rule for layers of two kinds."""
    assert layer_groups(load(LLAMA).config) == ([None], 32)
    mistral = load(write_config(tmp_path / "mistral", {"model_type": "mistral", "num_hidden_layers": 7})).config
    assert layer_groups(mistral) == ([24], 7)
    for full, layers, expected in [
        (2, 8, ([None, 16, 16, 16], 2)),
        (4, 9, ([None, 16, 16], 4)),
        (5, 11, ([None, 16], 6)),
    ]:
        keys = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": full}
        config = load(write_config(tmp_path / str(full), {"model_type": "qwen2", "num_hidden_layers": layers, **keys}))
        groups, size = layer_groups(config.config)
        assert size == expected[1]
        assert groups == expected[0]
    options = ServingOptions(max_num_batched_tokens=100)
    assert [blocks_of(tokens, None, options) for tokens in (1, 16, 17)] == [1, 1, 2]
    assert [blocks_of(tokens, 16, options) for tokens in (1, 115, 5000)] == [2, 9, 9]


def test_what_more_takes() -> None:
    """An 8-bit cache has twice the blocks' tokens; more tokens in a step leave less."""
    plain = serving(LLAMA, "a100-80gb", [8192], ServingOptions())
    quantised = serving(LLAMA, "a100-80gb", [8192], ServingOptions(kv_cache_dtype="fp8"))
    larger = serving(LLAMA, "a100-80gb", [8192], ServingOptions(max_num_batched_tokens=65536))
    assert quantised.bytes["block"] * 2 == plain.bytes["block"] == 16 * 32 * 2 * 8 * 128 * 2
    assert larger.blocks < plain.blocks < quantised.blocks
    parts = sum(plain.bytes[key] for key in ("weights", "activation", "non_torch", "kv_cache"))
    assert parts == plain.bytes["requested"]


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A table, an object, and status 1 where nothing fits."""
    assert main(["serving", LLAMA, "--device", "a100-80gb", "--seqs", "8192", "--weights", "5.5GiB"]) == 0
    text = capsys.readouterr().out
    assert "requests at once" in text
    assert "5.50 GiB" in text
    assert main(["serving", LLAMA, "--device", "t4", "--dtype", "float16", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["blocks"] == 0
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
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_wrong_input(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 2."""
    assert main(["serving", LLAMA, "--device", "a100-80gb", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_models_without_rules() -> None:
    """A family that vLLM's rules do not know."""
    options: Any = ServingOptions()
    with pytest.raises(InputError, match="no rules of vLLM's"):
        serving("gemma-3-1b", "a100-80gb", [8192], options)
