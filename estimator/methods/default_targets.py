"""What PEFT adapts where no ``target_modules`` are given, for every ``model_type`` that it lists.

Copied from ``peft/utils/constants.py`` and ``peft/tuners/adaption_prompt/config.py``. A test compares the tables with
the installed PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping

PEFT = "0.21.2"
"""The release of PEFT that the tables are copied from."""
EXPERT_LAYERS: Mapping[str, Mapping[str, str]] = {
    "mixtral": {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"},
    "qwen2_moe": {
        "gate": "gate.weight",
        "gate_proj": "gate_up_proj",
        "up_proj": "gate_up_proj",
        "down_proj": "down_proj",
    },
}
"""The layers that experts had before transformers 5, each with the parameter that its weight is in now
(``peft/utils/transformers_weight_conversion.py``)."""
ADAPTED_EXPERTS: Mapping[str, str] = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), "mixtral"),
    **dict.fromkeys((
        "Dots3NoteTextModel", "UnlimitedOcrTextModel", "afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3",
        "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe",
        "glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next",
        "qwen3_omni_moe", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "sarvam_mla", "solar_open",
    ), "qwen2_moe"),
}  # fmt: skip
"""For each ``model_type`` whose experts LoRA adapts as parameters: whose names they had."""
TRANSPOSED_EXPERTS = frozenset({"aria_text", "gpt_oss"})
"""Each ``model_type`` whose experts' weights are [experts, n_in, n_out]."""
Names = str | list[str]
"""Module names, or a regular expression."""


def _by_type(types: Mapping[str, str]) -> Mapping[str, Names]:
    """Turn {names: model types}, both separated by spaces, into {model type: names}."""
    return {kind: n if "(" in n else n.split() for n, kinds in types.items() for kind in kinds.split()}


_LORA = _by_type(
    {
        "q v": "t5 mt5",
        "q_proj v_proj": "bart opt gptj gpt_neo llama llama4 mistral mixtral stablelm gemma gemma2 gemma3_text qwen2 "
        "qwen3",
        "c_attn": "gpt2 gpt_bigcode",
        "query_key_value": "bloom gpt_neox chatglm RefinedWebModel RefinedWeb falcon",
        "q v q_proj v_proj": "blip-2",
        "query value": "bert roberta xlm-roberta electra layoutlm",
        "query_proj value_proj": "deberta-v2",
        "in_proj": "deberta",
        "Wqkv": "mpt",
        "c_proj c_attn": "btlm",
        "qkv_proj": "codegen",
        "q_proj v_proj fc1 fc2": "phi",
        r".*language_model\..*\.(q_proj|v_proj)": "gemma4",
        "q_proj k_proj v_proj o_proj": "nemotron_h",
        "key value receptance output": "rwkv",
        "r_proj k_proj v_proj o_proj key value": "rwkv7",
    }
)
_PHI = {**_LORA, "phi": ["q_proj", "v_proj"]}
_GPT2 = {**_LORA, **_by_type({"mlp.c_proj": "gpt2 gpt_bigcode"})}

TARGET_MODULES: Mapping[str, Mapping[str, Names]] = {
    **dict.fromkeys(
        ("lora", "boft", "delora", "hira", "hra", "loha", "lokr", "miss", "oft", "randlora", "road"), _LORA
    ),
    **dict.fromkeys(("shira", "vera"), _PHI),
    **dict.fromkeys(("c3a", "fourierft"), _GPT2),
    "adalora": _by_type(
        {
            "q k v o wi wo": "t5",
            "q k v o wi_0 wi_1 wo": "mt5",
            "q_proj k_proj v_proj out_proj fc1 fc2": "bart opt",
            "c_attn": "gpt2 gpt_bigcode",
            "query_key_value": "bloom gpt_neox",
            "q_proj v_proj": "gptj gpt_neo llama llama4 gemma gemma2 gemma3_text qwen2 qwen3",
            "query value": "bert",
            "query key value dense": "roberta",
            "query_proj key_proj value_proj dense": "deberta-v2",
            "in_proj": "deberta",
            r".*language_model\..*\.(q_proj|v_proj)": "gemma4",
            "q_proj k_proj v_proj o_proj": "nemotron_h",
        }
    ),
    "adaption_prompt": _by_type({"self_attn": "llama mistral", "attn": "gpt2"}),
    "beft": _by_type(
        {
            "v": "t5 mt5",
            "value": "roberta bert",
            "v_proj": "opt gptj gpt_neo bart llama llama4 mistral mixtral phi gemma gemma2 gemma3_text qwen2 qwen3",
            "value_proj": "deberta-v2",
        }
    ),
    "ia3": _by_type(
        {
            "k v wo": "t5",
            "k v wi_1": "mt5",
            "c_attn mlp.c_proj": "gpt2 gpt_bigcode",
            "query_key_value mlp.dense_4h_to_h": "bloom",
            "key value output.dense": "roberta bert",
            "q_proj k_proj fc2": "opt",
            "q_proj v_proj fc_out": "gptj",
            "query_key_value dense_4h_to_h": "gpt_neox RefinedWebModel RefinedWeb falcon",
            "q_proj v_proj c_proj": "gpt_neo",
            "q_proj v_proj fc2": "bart phi",
            "k_proj v_proj down_proj": "llama mistral",
            "q_proj v_proj down_proj": "llama4 gemma gemma2 gemma3_text qwen2 qwen3",
            "k_proj v_proj w2": "mixtral",
            "key_proj value_proj output.dense": "deberta-v2",
            "in_proj output.dense": "deberta",
        }
    ),
    "ln_tuning": _by_type(
        {
            "input_layernorm post_attention_layernorm norm": "llama mistral gemma",
            "input_layernorm post_attention_layernorm ln_f": "bloom falcon",
            "multi_modal_projector input_layernorm post_attention_layernorm norm embed_tokens lm_head": "llava",
            "layer_norm final_layer_norm": "t5 mt5",
            "self_attn_layer_norm encoder_attn_layer_norm final_layer_norm": "bart",
            "ln_1 ln_2 ln_f": "gpt2",
            "layernorm LayerNorm final_layer_norm self_attn_layer_norm": "blip-2",
            "ln_1 ln_f": "gptj",
            "input_layernorm final_layernorm": "phi",
            "input_layernorm post_attention_layernorm pre_feedforward_layernorm post_feedforward_layernorm norm": (
                "gemma2 gemma3_text"
            ),
            "post_attention_layernorm": "qwen2 qwen3",
        }
    ),
}
"""Default targets, by PEFT's name of the method and by the model's ``model_type``."""

FEEDFORWARD_MODULES = _by_type(
    {
        "wo": "t5",
        "": "mt5",
        "mlp.c_proj": "gpt2 gpt_bigcode",
        "mlp.dense_4h_to_h": "bloom",
        "output.dense": "roberta bert deberta-v2 deberta",
        "fc2": "opt bart phi",
        "fc_out": "gptj",
        "dense_4h_to_h": "gpt_neox RefinedWeb RefinedWebModel falcon",
        "c_proj": "gpt_neo",
        "down_proj": "llama llama4 mistral gemma gemma2 gemma3_text qwen2 qwen3",
        "w2": "mixtral",
    }
)
"""IA3's default targets whose input is scaled, not the output, by ``model_type``."""
