"""Families of programs that a few lines make up, in the place of those that transformers' modules run.

What a config's class fills in and refuses is real. What its model calls follows from ``CLASSES``: a result for each
size, a parameter for each switch, a dropout for each rate. So it takes milliseconds to find which keys of a config are
sizes, which belong to the structure, and what is the same in all recordings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from estimator.errors import InputError
from estimator.programs.libraries import quiet
from estimator.programs.module_table import NamedModule
from estimator.programs.program import SPAN, Body, Call, Enter, Exit, Made, Program, Ref, Stack, Stored, Weight
from estimator.programs.program_files import written
from estimator.programs.setting import VALUES

SMALL = {"vocab_size": 211, "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 6}


class Class(NamedTuple):
    """What a model of a class does with its config."""

    raw: dict[str, Any]
    sizes: tuple[str, ...]
    """Expressions of the config's keys, of the batch and of the sequence: a layer has a result of each."""
    switches: tuple[str, ...] = ()
    """Keys by which each layer has a parameter more."""
    rates: tuple[str, ...] = ()
    """Keys of a dropout's rate."""
    structure: tuple[str, ...] = ()
    """Keys that change what is called."""
    kind: str = "0"
    """An expression of the layer's number ``i``, which says what kind it is."""
    outside: tuple[str, ...] = ()
    """Sizes of results before the layers."""
    cases: tuple[dict[str, Any], ...] = ()
    """Fields of the cases in which it is recorded, or of the one for all settings."""


ATTENTION = ("num_attention_heads * head_dim", "num_key_value_heads * head_dim", "intermediate_size")
CLASSES: dict[str, Class] = {
    "llama": Class(
        {**SMALL, "model_type": "llama", "num_key_value_heads": 2, "intermediate_size": 160},
        ATTENTION, ("attention_bias",), ("attention_dropout",), ("hidden_act",), cases=({}, {"fixed": ("B",)}),
    ),
    "gpt2": Class(
        {"model_type": "gpt2", "vocab_size": 211, "n_embd": 96, "n_layer": 3, "n_head": 6},
        ("3 * n_embd", "n_inner or 4 * n_embd"), (), ("attn_pdrop", "resid_pdrop"), ("activation_function",),
        outside=("n_positions",), cases=({"interfaces": True},),
    ),
    "mistral": Class(
        {**SMALL, "model_type": "mistral", "num_key_value_heads": 2, "intermediate_size": 160, "sliding_window": 40},
        (*ATTENTION, "S if sliding_window is None or S < sliding_window else sliding_window"),
        cases=({"beyond_window": False}, {"beyond_window": True}),
    ),
    "neox": Class(
        {**SMALL, "model_type": "gpt_neox", "intermediate_size": 160, "rotary_pct": 0.5},
        (
            "3 * hidden_size", "intermediate_size",
            "int(hidden_size // num_attention_heads * rope_parameters['partial_rotary_factor'])",
        ),
        ("attention_bias",), ("hidden_dropout",), ("use_parallel_residual",), cases=({},),
    ),
    "kinds in turn": Class(
        {**SMALL, "model_type": "gemma3_text", "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 160,
         "sliding_window": 40, "num_hidden_layers": 6},
        ATTENTION, kind="layer_types[i]", cases=({}, {"beyond_window": True}),
    ),
    "experts": Class(
        {**SMALL, "model_type": "qwen3_moe", "num_key_value_heads": 2, "head_dim": 16, "num_experts": 6,
         "num_experts_per_tok": 2, "moe_intermediate_size": 40, "mlp_only_layers": [1]},
        (*ATTENTION, "num_experts", "num_experts_per_tok * B * S", "moe_intermediate_size"),
        ("norm_topk_prob",), kind="int(i in mlp_only_layers or (i + 1) % decoder_sparse_step != 0)", cases=({},),
    ),
    "experts in all settings": Class(
        {**SMALL, "model_type": "mixtral", "num_key_value_heads": 2, "num_local_experts": 6, "num_experts_per_tok": 2,
         "intermediate_size": 40},
        (*ATTENTION[:2], "num_local_experts", "num_experts_per_tok * B * S"), cases=({"interfaces": True},),
    ),
    "latent": Class(
        {**SMALL, "model_type": "deepseek_v3", "num_key_value_heads": 6, "kv_lora_rank": 20, "q_lora_rank": 28,
         "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12, "n_routed_experts": 6, "n_group": 3,
         "topk_group": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "first_k_dense_replace": 2,
         "intermediate_size": 160},
        ("kv_lora_rank + qk_rope_head_dim", "q_lora_rank", "num_attention_heads * v_head_dim", "qk_nope_head_dim",
         "n_routed_experts", "n_group", "n_routed_experts // n_group", "topk_group", "intermediate_size",
         "moe_intermediate_size"),
        kind="int(i < first_k_dense_replace)", cases=({},),
    ),
    "chunks": Class(
        {**SMALL, "model_type": "granitemoehybrid", "num_key_value_heads": 2, "intermediate_size": 160,
         "shared_intermediate_size": 72, "mamba_n_heads": 12, "mamba_d_head": 16, "mamba_d_state": 24,
         "mamba_expand": 2, "mamba_chunk_size": 32, "mamba_n_groups": 1, "num_local_experts": 0,
         "layer_types": ["mamba", "attention", "mamba", "mamba"]},
        ("num_attention_heads * (hidden_size // num_attention_heads)", "mamba_n_heads * mamba_d_head", "mamba_d_state",
         "-(-S // mamba_chunk_size) * mamba_chunk_size", "shared_intermediate_size"),
        kind="layer_types[i]", cases=({}, {"whole_chunks": True}, {"fixed": ("chunks",)}, {"fixed": ("S", "chunks")}),
    ),
    "shared": Class(
        {**SMALL, "model_type": "gemma3n_text", "num_hidden_layers": 8, "num_key_value_heads": 2, "head_dim": 16,
         "intermediate_size": 64, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 211,
         "num_kv_shared_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 4,
         "activation_sparsity_pattern": [0.0] * 8},
        (*ATTENTION[:2], "hidden_size_per_layer_input"), outside=("num_hidden_layers * hidden_size_per_layer_input",),
        kind="layer_types[i] + str(i >= num_hidden_layers - num_kv_shared_layers)", cases=({},),
    ),
    "letters": Class(
        {**SMALL, "model_type": "nemotron_h", "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 160,
         "hybrid_override_pattern": "M*-M", "mamba_num_heads": 12, "mamba_head_dim": 16, "ssm_state_size": 24,
         "n_groups": 2, "chunk_size": 32},
        (*ATTENTION, "mamba_num_heads", "n_groups", "ssm_state_size"), kind="layers_block_type[i]", cases=({},),
    ),
    "flash, autocast": Class(
        {**SMALL, "model_type": "olmo2", "num_key_value_heads": 6, "intermediate_size": 160},
        ATTENTION, ("attention_bias",),
        cases=(
            {"settings": {"attention": "flash", "device": "cuda", "dtype": "bfloat16"}},
            {"settings": {"autocast": "bfloat16", "dtype": "float32"}, "fixed": ("B",)},
            {"settings": {"trains": False, "use_cache": True, "cache": "dynamic", "past": "prefill"}},
            {"settings": {"trains": False, "use_cache": True, "cache": "dynamic", "past": "decode"}, "fixed": ("S",)},
        ),
    ),
    "long rope": Class(
        {**SMALL, "model_type": "phi3", "num_key_value_heads": 2, "intermediate_size": 160, "pad_token_id": 0,
         "max_position_embeddings": 64, "original_max_position_embeddings": 32,
         "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.5] * 8}},
        ATTENTION, rates=("resid_pdrop",), structure=("hidden_act",), cases=({},),
    ),
    "encoder": Class(
        {**SMALL, "model_type": "bert", "intermediate_size": 160},
        ("hidden_size", "intermediate_size"), (), ("hidden_dropout_prob",), ("hidden_act",),
        cases=({"head": "masked-lm"}, {"head": "sequence-classification"},
               {"head": "sequence-classification", "fixed": ("num_labels",)}),
    ),
    "decoder with labels": Class(
        {**SMALL, "model_type": "llama", "num_key_value_heads": 2, "intermediate_size": 160, "pad_token_id": 0},
        ATTENTION, ("mlp_bias",), cases=({"head": "sequence-classification", "interfaces": True},),
    ),
}  # fmt: skip


def _names(config: Any) -> dict[str, Any]:
    """What expressions may name: the keys of a config, by all their names."""
    names = {key: getattr(config, key, None) for key in {*config.to_dict(), *config.attribute_map, "head_dim"}}
    if names["head_dim"] is None and hasattr(config, "num_attention_heads"):
        names["head_dim"] = config.hidden_size // config.num_attention_heads
    return names


def _value(text: str, names: Mapping[str, Any], **own: Any) -> Any:
    return eval(text, {"int": int, "str": str, "len": len}, {**names, **own})


def program_of(one: Class, live: Any, dtype: str, batch: int, seq: int, tag: str) -> Program:
    """What a model of a class calls. ``tag`` is what follows from the setting."""
    config = live.config
    depth = config.num_hidden_layers
    own, names = {"B": batch, "S": seq}, _names(config)
    hidden = Made(0, (batch, seq, config.hidden_size), dtype)
    before: list[Any] = [Call("embedding", (Weight("embed.weight"),), (("setting", tag),), (hidden,))]
    for n, text in enumerate(one.outside):
        made = Made(n + 1, (_value(text, names, **own), batch), dtype)
        before.append(Call("outside", (Ref(0),), (), (made,)))
    parameters = [Stored("embed.weight", (config.vocab_size, config.hidden_size), dtype, True)]
    parameters += [Stored(f"outside.{n}", call.out[0].shape[:1], dtype, True) for n, call in enumerate(before[1:])]
    bodies: dict[tuple[Any, ...], int] = {}
    layers: list[int] = []
    modules: list[str] = ["layers"]
    for i in range(depth):
        kind = str(_value(one.kind, names, i=i))
        path = f"layers.{i}"
        modules += [path, *(f"{path}.{n}" for n in range(len(one.sizes)))]
        events: list[Any] = [Enter("{}", (Ref(0),), ())]
        for n, text in enumerate(one.sizes):
            size = _value(text, names, **own)
            if size is None:
                continue
            parameters.append(Stored(f"{path}.{n}.weight", (size, config.hidden_size), dtype, True))
            made = Made(SPAN + n, (batch, seq, size), dtype)
            events.append(Call(f"linear {kind}", (Ref(0), Weight(f"{{}}.{n}.weight")), (), (made,)))
        for key in one.switches:
            if getattr(config, key, None):
                parameters.append(Stored(f"{path}.{key}", (config.hidden_size,), dtype, True))
                events.append(Call("add", (Ref(0), Weight(f"{{}}.{key}")), (), ()))
        for n, key in enumerate(one.rates):
            rate = float(getattr(config, key, 0.0) > 0)
            made = Made(SPAN + 50 + n, (batch, seq, config.hidden_size), dtype)
            events.append(Call("dropout", (Ref(0), rate), (), (made,)))
        events += [Call(str(getattr(config, key)), (Ref(0),), (), ()) for key in one.structure]
        events.append(Exit("{}", (Ref(0),)))
        layers.append(bodies.setdefault(tuple(events), len(bodies)))
    width = live.num_labels if "classification" in live.head else config.vocab_size
    logits = Made(70, (batch, seq, width), dtype)
    return Program(
        modules=(
            NamedModule("embed", "embedding", (config.vocab_size, config.hidden_size), False, "input embedding", None),
            *(NamedModule(path, "container", (), False, None, None) for path in modules),
        ),
        parameters=tuple(parameters),
        buffers=(),
        attributes=(),
        inputs={},
        outputs={"logits": Ref(70)},
        before=tuple(before),
        bodies=tuple(Body(events, len(events) - 1) for events in bodies),
        layers=tuple(layers),
        after=(Call("linear", (Ref(0), Weight("embed.weight")), (), (logits,)),),
        stacks=(Stack("layers.{}", depth),),
        dtype=dtype,
    )


@contextmanager
def made_up(one: Class) -> Iterator[list[str]]:
    """Within it, models of transformers call what ``program_of`` has. Yields what is asked: configs and sizes."""
    from transformers.utils import logging

    from estimator.recorder import families, hugging_face

    asked: list[str] = []

    def at(live: Any, step: Any, batch: int, seq: int) -> Program:
        asked.append(f"{sorted(live.raw.items())} {step.dtype} {batch} {seq}")
        cached = "" if step.cached is None else f"{step.cached.past and 1}"
        tag = f"{step.attention == 'flash'} {step.procedure.trains} {step.autocast} {cached}"
        return program_of(one, live, step.dtype, batch, seq, tag)

    def of_all_settings(live: Any, setting: Any, batch: int, seq: int, cached: bool) -> Program:
        if not cached and live.config.model_type == "gpt2":
            raise InputError("takes a cache alone")
        asked.append(f"{sorted(live.raw.items())} {setting.dtype} {batch} {seq}")
        tag = f"{setting.trains} {setting.packing} {setting.cache} {setting.experts_implementation}"
        return program_of(one, live, setting.dtype, batch, seq, tag)

    def served(own: Any, base: Any, draw: Any, head: str) -> Any:
        found = [draw(beyond, one_row) for beyond in (False, True) for one_row in (False, True)]
        if base.packing:
            return ()
        row: dict[str, Any] = {name: (value,) for name, value in base._asdict().items()}
        row["experts_implementation"] = (None,) if live.experts is None else (None, live.experts)
        return ({**row, **{key: VALUES[key] for key in ("dtype", "device", "autocast", "past")}},) if found else ()

    live = hugging_face.HuggingFaceModel
    with ExitStack() as stack:
        stack.enter_context(quiet())
        experts = "grouped_mm" if "num_experts_per_tok" in one.raw else None
        for name, value in {
            "at": at, "of_all_settings": of_all_settings, "attention": "sdpa", "experts": experts,
            "supports_checkpointing": "num_experts" not in one.raw, "caches_in_checkpoints": False,
            "tp_plan": {"layers.*": "colwise"}, "modules": lambda live: (),
        }.items():  # fmt: skip
            stack.enter_context(mock.patch.object(live, name, value))
        stack.enter_context(mock.patch.object(families, "settings_served", served))
        stack.enter_context(mock.patch.object(logging, "set_verbosity"))  # which takes as long as a config
        stack.enter_context(mock.patch.object(logging, "set_verbosity_error"))
        yield asked


def lines_of_family(one: Class, _: Path) -> list[str]:
    """The programs that are found for a class, or why there is none, and of which models."""
    from estimator.programs.setting import Setting
    from estimator.recorder import families
    from estimator.recorder.families.cases import of_dtypes

    def case_of(fields: Mapping[str, Any]) -> families.Case:
        fields = dict(fields)
        if settings := fields.pop("settings", None):
            setting = Setting(**settings)
            fields["settings"] = (setting,) if "dtype" in settings else of_dtypes(setting)
        return families.Case(**fields)

    with made_up(one) as asked:
        if one.cases[0].get("interfaces"):
            found = families.record_for_all_settings(one.raw, head=one.cases[0].get("head", "causal-lm"))
        else:
            found = families.record_families(one.raw, [case_of(fields) for fields in one.cases])
    lines = []
    for case, family in found.items():
        lines.append(f"-- {case} {case.fixed} {case.beyond_window} {case.whole_chunks}")
        lines += (
            [str(family)] if isinstance(family, InputError) else _FORMULA.sub(_sorted, written(family)).splitlines()
        )
    return [*lines, *asked]


_FORMULA = re.compile(r'"=([^" ]*)"')
_FACTOR = re.compile(r"/?\w+(?:\*\*\d+)?")


def _sorted(formula: re.Match[str]) -> str:
    """A size with its terms and their factors in order: theirs follows from which symbols a process knew first."""
    terms = [(sign or "+", _FACTOR.findall(term)) for sign, term in re.findall(r"([+-]?)([^+-]+)", formula[1])]
    return f'"={sorted((sign, sorted(factors)) for sign, factors in terms)}"'
