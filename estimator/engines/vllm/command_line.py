"""A command line of ``vllm serve`` as options: what people paste (``vllm/engine/arg_utils.py``)."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Any, get_args

from ...errors import InputError, shown
from .options import ServingOptions

SHORT = {
    "-tp": "tensor_parallel_size",
    "-pp": "pipeline_parallel_size",
    "-dp": "data_parallel_size",
    "-dcp": "decode_context_parallel_size",
    "-ep": "enable_expert_parallel",
    "-q": "quantization",
}
COSTLESS = frozenset(
    """
    allowed_origins api_key api_server_count attention_backend chat_template chat_template_content_format
    code_revision config_format convert data_parallel_address data_parallel_backend data_parallel_rpc_port
    data_parallel_size_local disable_custom_all_reduce disable_log_requests disable_log_stats
    disable_uvicorn_access_log distributed_executor_backend download_dir enable_auto_tool_choice
    enable_chunked_prefill enable_log_requests enable_prompt_tokens_details enable_request_id_headers
    enable_server_load_tracking enable_sleep_mode generation_config guided_decoding_backend headless
    hf_config_path hf_token host language_model_only load_format long_prefill_token_threshold lora_modules
    master_addr master_port max_log_len max_num_partial_prefills max_parallel_loading_workers middleware
    moe_backend nnodes node_rank optimization_level otlp_traces_endpoint override_generation_config
    performance_mode port prefix_caching_hash_algo reasoning_config reasoning_parser response_role
    return_tokens_as_token_ids revision root_path runner scheduling_policy seed served_model_name
    skip_tokenizer_init ssl_certfile ssl_keyfile stream_interval structured_outputs_config swap_space task
    tokenizer tokenizer_mode tokenizer_revision tool_call_parser trust_remote_code uvicorn_log_level
    """.split()  # noqa: SIM905
)
"""Options that change no byte that is counted here."""
SWITCHES = frozenset(name for name, one in ServingOptions.model_fields.items() if one.annotation is bool)
_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


DTYPES = {"half": "float16", "float": "float32"}
"""vLLM's other names of dtypes."""


@dataclass
class Command:
    """What a command line says."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    """Options that have no rule here, and are left out."""


def is_command(text: str) -> bool:
    """Whether a text is a command line of vLLM, with variables before it perhaps."""
    return bool(re.match(r"(?:\S+=\S* +)*(?:\S*python\S* +-m +)?vllm(?:\.entrypoints\S*)?(?: |$)", text.strip()))


def parse(text: str) -> Command:
    """What a command line says. Raises ``InputError`` with one line."""
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise InputError(f"the command line cannot be read: {str(error).lower()}; close its quotes") from None
    while words and not re.fullmatch(r"vllm(\..*)?", words[0]):
        words.pop(0)
    words = words[1:]
    if words and words[0] in ("serve", "bench"):
        words.pop(0)
    found = Command("")
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            if found.model:
                raise InputError(f"{shown(word)} is a second model, beside {found.model}; give one")
            found.model = word
            continue
        name, equals, value = word.partition("=")
        key = SHORT.get(name) or name.lstrip("-").replace("-", "_")
        negated = key.removeprefix("no_")
        if key in SWITCHES or negated in SWITCHES:
            found.options[negated] = key == negated and value.lower() not in ("false", "0")
            continue
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else ""
        _take(found, key, value, name)
    if not found.model:
        raise InputError("the command line names no model; write it like vllm serve MODEL --max-model-len 8192")
    return found


def _take(found: Command, key: str, value: str, name: str) -> None:
    if key == "model":
        found.model = value
    elif key in ("speculative_config", "speculative_model"):
        _speculative(found, key, value)
    elif key == "num_lookahead_slots" or key in COSTLESS or negated(key) in COSTLESS:
        return
    elif key in ("kv_cache_memory", "kv_cache_memory_bytes"):
        found.options["kv_cache_memory_bytes"] = f"{whole(value, name)}B"
    elif key in ServingOptions.model_fields:
        if not value:
            raise InputError(f"{name} needs a value; write it like {name} 2")
        kinds = _kinds(ServingOptions.model_fields[key].annotation)
        if float in kinds and _is_float(value):
            found.options[key] = float(value)
        else:
            found.options[key] = whole(value, name) if {int, float} & kinds else DTYPES.get(value, value)
    else:
        found.unknown.append(name)


def _kinds(annotation: Any) -> set[Any]:
    """The types in an annotation."""
    return {annotation}.union(*(_kinds(one) for one in get_args(annotation)))


def negated(key: str) -> str:
    """An option without the word that turns it off."""
    return key.removeprefix("no_")


def _is_float(value: str) -> bool:
    return re.fullmatch(r"[0-9]*\.?[0-9]+", value) is not None


def whole(value: str, name: str) -> int:
    """A number as vLLM reads it: 32768, 32k (1000), 32K (1024), 25.6k. Raises ``InputError``."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmgKMG]?)", value)
    if match is None or (match[2] in "KMG" and match[2] and "." in match[1]) or (not match[2] and "." in match[1]):
        raise InputError(f"{name} {shown(value)} is no number; write it like {name} 32768 or 32k")
    return int(float(match[1]) * _SUFFIXES.get(match[2], 1))


def _speculative(found: Command, key: str, value: str) -> None:
    if key == "speculative_model":
        found.options["draft_model"] = value
        return
    try:
        config = json.loads(value)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise InputError(
            f'--speculative-config {shown(value)} is no JSON object; write it like \'{{"method": "mtp"}}\''
        )
    if isinstance(tokens := config.get("num_speculative_tokens"), int):
        found.options["num_speculative_tokens"] = tokens
    if isinstance(config.get("model"), str):
        found.options["draft_model"] = config["model"]
