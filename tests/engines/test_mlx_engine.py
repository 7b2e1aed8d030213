"""MLX: what mlx-lm's own steps and calls take on a CPU is what the engine says. The witness is mlx-lm itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator import estimate
from estimator.answers.inverse import solve
from estimator.engines.mlx.layers import Setting
from estimator.engines.mlx.models import GEMMA_3, is_sliding, rope_of
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from tests.cases.mlx_steps import CASES, LLAMA, RECORD
from tests.cases.small_models import write_config

RUNS: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))["runs"]
SPREAD = 0.03
"""By this a peak may differ from one of those that were measured, where none of them is the largest there can be."""
EQUAL = 0.0005
SPREAD_OUT = {
    *("qwen3-dora", "qwen3-lora-layer", "phi3-lora", "qwen3-moe-full-layer", "llama-generate", "qwen3-generate"),
    *("gemma3-generate", "qwen3-generate-rotating"),
}
"""In these the thread that frees was never as far behind as it can be."""


@pytest.mark.parametrize("name", RUNS)
def test_measured(name: str, tmp_path: Path) -> None:
    """Parameters, gradients, states and caches are equal. So is the peak to the largest that was measured, where the
    thread that frees was behind for as long as MLX lets it."""
    config, plan = CASES[name]
    on_cpu = {**plan["mlx"], "default_device": "cpu"}
    found = estimate({**plan, "model": write_config(tmp_path, config), "runtime": "mlx", "mlx": on_cpu}).bytes
    run = dict(RUNS[name])
    peaks = run.pop("peaks_above_resident")
    assert {key: found[key] for key in run} == run
    assert found["peak"] - found["peak_above_resident"] == found["parameters"] + found["buffers"] + found["optimizer"]
    assert found["saved"] == 0
    differs = min(abs(found["peak_above_resident"] / peak - 1) for peak in peaks)
    assert differs <= (SPREAD if name in SPREAD_OUT else EQUAL)


def test_a_mac_has_a_kernel_for_attention() -> None:
    """Asks the contract: while it generates, a GPU has no scores of the whole prompt."""
    plan = {"model": "qwen3-0.6b", "runtime": "mlx", "task": "infer", "seq": 4097, "mlx": {"prefill_step_size": 4096}}
    on_cpu = {**plan, "mlx": {**plan["mlx"], "default_device": "cpu"}}
    assert estimate(plan, device="apple-16gb").bytes["peak"] < 0.9 * estimate(on_cpu).bytes["peak"]


@pytest.mark.parametrize("keys", [{"method": "lora"}, {"task": "infer"}], ids=str)
def test_without_a_device_the_answer_is_that_of_a_mac(keys: dict[str, Any]) -> None:
    """Asks the contract: Macs run MLX, so a Mac is meant where none is named, and the report states it."""
    plan = {"model": "smollm2-135m", "runtime": "mlx", "seq": 300, "dtype": "mlx-4bit", **keys}
    unnamed, mac = estimate(plan), estimate(plan, device="apple-16gb")
    assert unnamed.bytes == mac.bytes
    assert any("the answer is for Apple silicon" in line for line in unnamed.warnings)


def test_the_wired_limit_of_a_mac_can_be_set() -> None:
    """Asks the contract: sysctl iogpu.wired_limit_mb is the limit, where it is set."""
    plan = {"model": "qwen3-0.6b", "runtime": "mlx", "task": "infer", "device": "apple-16gb"}
    assert estimate(plan, iogpu_wired_limit_mb=14000).budget_bytes == 14000 * 2**20


QUANTISED_CACHE = {"task": "infer", "mlx": {"kv_bits": 8, "quantized_kv_start": 0}}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"mlx": {"num_layers": 99}}, "which has 28 layers; set num_layers: -1"),
        ({"model": "gpt2"}, "model_type: gpt2 has no rule with runtime: mlx"),
        (
            {"model": "qwen3-30b-a3b", "mlx": {"default_device": "cpu"}},
            "set dtype: float32 or mlx-4bit, or default_device: gpu",
        ),
        ({"method": {"name": "lora", "target_modules": ["c_attn"]}}, "target_modules: none of them is a layer"),
        (
            {"model": "qwen3-30b-a3b", "dtype": "mlx-4bit", "method": {"name": "lora", "use_dora": True}},
            "use_dora: true does not go with experts",
        ),
        ({"model": "gemma-2-2b", **QUANTISED_CACHE}, "kv_bits does not go with this model, whose attention"),
        ({"model": "gemma-3-1b", **QUANTISED_CACHE}, "kv_bits: 8 does not go with a cache that rotates"),
    ],
)
def test_refused_once_the_model_is_known(keys: dict[str, Any], says: str) -> None:
    """Asks the contract: one line that says what is wrong and how to mend it."""
    with pytest.raises(InputError, match=says):
        estimate({"model": "qwen3-0.6b", "runtime": "mlx", "seq": 8, **keys})


@pytest.mark.share(2)
@pytest.mark.parametrize(("question", "key"), [("max-seq", "seq"), ("max-batch", "batch")])
def test_what_fits(question: str, key: str, tmp_path: Path) -> None:
    """Asks the contract: the answer fits with its margin, and the next value does not."""
    plan = {"model": write_config(tmp_path, LLAMA), "runtime": "mlx", "method": "lora", "budget": "400MiB", "batch": 2}
    found = solve(question, plan if key == "seq" else {**plan, "seq": 40})
    assert found.value is not None
    assert found.result is not None
    assert found.result.margin_bytes is not None
    assert found.result.margin_bytes >= found.kept_free_bytes
    assert found.next_result is not None
    assert found.next_result.bytes["process"] + found.next_result.kept(found.margin) > found.budget_bytes


def test_which_layers_slide() -> None:
    """Asks mlx-lm's own rules: of Gemma 3's layers every sixth attends to all; Llama's and Mistral's are as the config
    lists them, and Qwen's list is not read (``gemma3_text.py``, ``llama.py``, ``qwen3.py``)."""
    pattern = {"model_type": "gemma3_text", "sliding_window_pattern": 6}
    assert [is_sliding(pattern, i) for i in range(7)] == [True] * 5 + [False, True]
    kinds = {"layer_types": ["sliding_attention", "full_attention"]}
    for family, found in {"llama": [True, False], "mistral": [True, False], "qwen3": [False, False]}.items():
        assert [is_sliding({"model_type": family, **kinds}, i) for i in (0, 1)] == found
    assert not is_sliding({"model_type": "mistral"}, 0)


ON_A_CPU = Setting("float32", None, metal=False)


@pytest.mark.parametrize(
    ("config", "sliding", "dims", "base", "table", "rescaled"),
    [
        ({"model_type": "phi3", "partial_rotary_factor": 0.5}, False, 48, 1e4, False, False),
        ({"model_type": "phi3"}, False, 96, 1e4, False, False),
        ({"model_type": "llama", "partial_rotary_factor": 0.5, "rope_theta": 5e5}, False, 96, 5e5, False, False),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "dynamic"}}, False, 96, 1e4, False, False),
        ({"model_type": "llama", "rope_scaling": {"type": "llama3"}}, True, 96, 1e4, True, False),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "yarn"}}, False, 96, 1e4, True, False),
        ({"model_type": "qwen3", "rope_scaling": {"type": "yarn", "factor": 1}}, False, 96, 1e4, True, False),
        ({"model_type": "qwen3", "rope_scaling": {"type": "yarn", "factor": 2}}, False, 96, 1e4, True, True),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}}, False, 96, 1e4, True, True),
        ({"model_type": "phi3", "rope_scaling": {"type": "su"}}, False, 96, 1e4, True, True),
        ({"model_type": "mixtral", "rope_scaling": {"type": "llama3"}}, False, 96, 1e4, False, False),
        ({"model_type": "gemma2", "rope_scaling": {"type": "llama3"}}, False, 96, 1e4, False, False),
        (GLOBAL := {**GEMMA_3, "model_type": "gemma3_text", "rope_local_base_freq": 3e4}, False, 96, 1e6, False, False),
        (GLOBAL, True, 96, 3e4, False, False),
        ({**GLOBAL, "rope_scaling": {"type": "llama3"}}, True, 96, 3e4, False, False),
        ({**GLOBAL, "rope_scaling": {"type": "llama3"}}, False, 96, 1e6, True, False),
    ],
)
def test_rotary_embeddings(
    config: dict[str, Any], sliding: bool, dims: int, base: float, table: bool, rescaled: bool
) -> None:
    """Asks mlx-lm's own rules (``rope_utils.py: initialize_rope``, ``phi3.py``): how many of 96 elements are rotated,
    by which base, whether the frequencies are an array that the model has, of half as many, and whether what is rotated
    is scaled first. Gemma 3's windows have a base of their own, and no scaling."""
    found = rope_of(config, 96, ON_A_CPU, sliding)
    assert (found.dims, found.base, found.rescaled) == (dims, base, rescaled)
    assert [array.shape for array in found.arrays.values()] == [(dims // 2,)] * table


def test_all_layers_may_be_trained_by_number() -> None:
    """``--num-layers`` of as many layers as the model has is that of all of them."""
    keys = {"model": "smollm2-135m", "runtime": "mlx", "seq": 64, "method": "lora", "dtype": "float32"}
    by_number, all_of_them = (estimate({**keys, "mlx": {"num_layers": number}}) for number in (30, -1))
    assert by_number.bytes == all_of_them.bytes


@pytest.mark.parametrize(
    ("keys", "runtime"),
    [({"dtype": "mlx-4bit"}, "mlx"), ({"mlx": {"num_layers": 2}}, "mlx"), ({"dtype": "bfloat16"}, "torch-cpu")],
    ids=str,
)
def test_what_mlx_alone_has_says_the_runtime(keys: dict[str, Any], runtime: str) -> None:
    assert parse_plan({"model": "smollm2-135m", **keys}).runtime == runtime
