"""A command line of ``vllm serve`` as options (``vllm/engine/arg_utils.py``)."""

from __future__ import annotations

import json
import re

from ...errors import InputError, shown
from ..served.command_line import Command, Grammar, whole
from .options import AUTO, SERVER
from .serving_options import ServingOptions

SHORT = {
    "-tp": "tensor_parallel_size",
    "-pp": "pipeline_parallel_size",
    "-dp": "data_parallel_size",
    "-dcp": "decode_context_parallel_size",
    "-ep": "enable_expert_parallel",
    "-q": "quantization",
    "--spec-model": "draft_model",
    "--spec-tokens": "num_speculative_tokens",
}
COSTLESS = frozenset(
    """
    O0 O1 O2 O3 all2all_backend allowed_local_media_path allowed_media_domains allowed_origins api_key
    api_server_count attention_backend chat_template chat_template_content_format code_revision
    collect_detailed_traces config_format convert cudagraph_metrics data_parallel_address data_parallel_backend
    data_parallel_external_lb data_parallel_hybrid_lb data_parallel_rank data_parallel_rpc_port
    data_parallel_size_local data_parallel_start_rank device_ids disable_cascade_attn disable_custom_all_reduce
    disable_log_requests disable_log_stats disable_uvicorn_access_log distributed_executor_backend download_dir
    enable_auto_tool_choice enable_chunked_prefill enable_log_requests enable_prompt_tokens_details
    enable_request_id_headers enable_server_load_tracking enable_sleep_mode generation_config
    guided_decoding_backend headless hf_config_path hf_token host kv_cache_metrics kv_events_config
    language_model_only load_format log_config_file logits_processors logprobs_mode long_prefill_token_threshold
    lora_modules master_addr master_port max_cpu_loras max_log_len max_logprobs max_num_partial_prefills
    max_parallel_loading_workers media_io_kwargs middleware model_loader_extra_config moe_backend nnodes
    node_rank num_lookahead_slots optimization_level otlp_traces_endpoint override_generation_config
    performance_mode port prefix_caching_hash_algo pt_load_map_location reasoning_config reasoning_parser
    reasoning_parser_plugin response_role return_tokens_as_token_ids revision root_path runner
    safetensors_load_strategy scheduling_policy seed served_model_name shutdown_timeout skip_tokenizer_init
    spec_method ssl_certfile ssl_keyfile stream_interval structured_outputs_config task tokenizer
    tokenizer_mode tokenizer_revision tool_call_parser trust_remote_code uvicorn_log_level
    """.split()  # noqa: SIM905
)
"""Options that change no byte that is counted here."""


def _speculative(found: Command, value: str, name: str) -> None:
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


def _cache(found: Command, value: str, name: str) -> None:
    if size := re.fullmatch(r"([0-9]+)([kmgt])(i?)b", value.lower()):
        unit = size[2].upper() if size[3] else size[2]
        raise InputError(
            f"{name} {value}: vLLM reads no such size (`human_readable_int`); write {name} {size[1]}{unit}"
        )
    found.options["kv_cache_memory_bytes"] = f"{whole(value, name)}B"


def _length(found: Command, value: str, name: str) -> None:
    found.options["max_model_len"] = AUTO if value.lower() == "auto" else whole(value, name)


def _draft(found: Command, value: str, name: str) -> None:
    found.options["draft_model"] = value


GRAMMAR = Grammar(
    server=SERVER,
    commands=("serve", "bench"),
    options=ServingOptions,
    short=SHORT,
    costless=COSTLESS,
    readers={
        "kv_cache_memory": _cache,
        "kv_cache_memory_bytes": _cache,
        "max_model_len": _length,
        "speculative_config": _speculative,
        "speculative_model": _draft,
    },
)
