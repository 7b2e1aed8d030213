"""Writes ``model_specs/programs``: the programs of families that are answered without PyTorch. Needs the trace extra.

A file has the programs of one structure of a config: one of ``STRUCTURES`` or that of a built-in model, where none of
the earlier files of the family fits. Give names of files to write those alone:
``python model_specs/make_programs.py gpt2.default``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from estimator.errors import InputError
from estimator.plans import models, recorded_programs
from estimator.programs import families_recorder
from estimator.programs.family import Family
from estimator.programs.files import written_together
from estimator.programs.releases import NEWEST, installed_release
from estimator.steps.recording import record

release = installed_release()
WINDOW = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 4, "num_hidden_layers": 8}
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "head_dim": 128}
STRUCTURES: dict[str, dict[str, Any]] = {
    "apertus.default": {},
    "arcee.default": {},
    "bloom.default": {},
    "cohere.default": {},
    "cohere.qk-norm": {"use_qk_norm": True},
    "cohere2.default": {},
    "deepseek_v2.default": {
        "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3, "n_routed_experts": 160,
        "num_experts_per_tok": 6, "moe_intermediate_size": 1536,
    },
    "deepseek_v3.default": {},
    "deepseek_v3.no-q-lora": {"q_lora_rank": None},
    "exaone4.default": {},
    "exaone4.no-window": {
        "sliding_window": None, "sliding_window_pattern": None, "layer_types": ["full_attention"] * 32,
    },
    "falcon.default": {},
    "falcon.new": {
        "new_decoder_architecture": True, "hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8,
    },
    "falcon.new-one-norm": {
        "new_decoder_architecture": True, "hidden_size": 4096, "num_attention_heads": 32, "num_kv_heads": 8,
        "num_ln_in_parallel_attn": 1,
    },
    "falcon.alibi": {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False},
    "gemma.default": {},
    "gemma2.default": {},
    "gemma3_text.default": {},
    "glm.default": {},
    "glm4.default": {},
    "glm4_moe.default": {},
    "gpt2.default": {},
    "gpt2.gelu": {"activation_function": "gelu"},
    "gpt_neox.default": {},
    "gpt_neox.sequential": {"use_parallel_residual": False},
    "gpt_oss.default": {},
    "granite.default": {},
    "granitemoe.default": {},
    "hunyuan_v1_dense.default": {**HEADS, "rope_scaling": {"rope_type": "default"}},
    "hunyuan_v1_dense.dynamic": {**HEADS, "rope_scaling": {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
    "internlm3.dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 6.0}},
    "llama.default": {},
    "llama.dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "llama.relu": {"hidden_act": "relu"},
    "ministral.default": {},
    "mistral.default": {},
    "mistral.no-window": {"sliding_window": None},
    "mixtral.default": {},
    "mixtral.window": {"sliding_window": 4096},
    "nemotron.default": {**HEADS},
    "olmo.default": {},
    "olmo.clip-qkv": {"clip_qkv": 8.0},
    "olmo2.default": {},
    "olmo3.default": {},
    "olmoe.default": {},
    "opt.default": {},
    "opt.gelu": {"activation_function": "gelu"},
    "phi.default": {},
    "phi.qk-norm": {"qk_layernorm": True},
    "phi3.default": {},
    "phimoe.default": {},
    "qwen2.default": {},
    "qwen2.dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "qwen2.window": WINDOW,
    "qwen3.default": {},
    "qwen3.window": WINDOW,
    "qwen3_moe.default": {},
    "seed_oss.default": {},
    "smollm3.default": {},
    "stablelm.default": {},
    "starcoder2.default": {},
    "starcoder2.window": {"sliding_window": 4096},
}  # fmt: skip
"""Structures of configs: what the class has by default, and what other published models have."""


def structures() -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each file, and the config that it is recorded from."""
    yield from ((name, {"model_type": name.partition(".")[0], **keys}) for name, keys in STRUCTURES.items())
    for name in models.builtin_names():
        raw = dict(models.load(name).raw)
        yield f"{raw['model_type']}.{name}", raw


def settings_of(raw: dict[str, Any]) -> list[families_recorder.Setting]:
    """The settings to record. Of an earlier release, sequences of one token are left out."""
    return [one for one in families_recorder.settings_of(raw) if release == NEWEST or "S" not in one.fixed]


def fits(raw: dict[str, Any], families: list[Family]) -> bool:
    """Whether a program that was written before is for this config."""
    for family in families:
        try:
            family.check_config(raw)
        except InputError:
            continue
        return True
    return False


def _good(name: str, found: dict[families_recorder.Setting, Family | InputError]) -> list[Family]:
    """The programs. Why there are no others is printed."""
    for setting, error in found.items():
        if isinstance(error, InputError):
            print(f"{name}: {setting}: {error}")
    return [one for one in found.values() if isinstance(one, Family)]


def main(only: list[str]) -> None:
    """Record and write."""
    written: dict[str, list[Family]] = {}
    for name, raw in structures():
        model_type, _, word = name.partition(".")
        if (only and name not in only) or fits(raw, written.get(model_type, [])):
            continue
        started = time.monotonic()
        try:
            found = record(raw, settings_of(raw))
        except InputError as error:
            print(f"{name}: {error}")
            continue
        good = _good(name, found)
        if good:
            path = recorded_programs.of_release(recorded_programs.shipped_folder(), release) / f"{name}.json"
            recorded_programs.write(written_together(good), model_type, word, path)
            written.setdefault(model_type, []).append(good[0])
            print(f"{name}: {len(good)} programs, {path.stat().st_size:,} bytes, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
