"""A command line of ``sglang serve`` or ``python -m sglang.launch_server`` as options (``srt/arg_groups/fields``)."""

from __future__ import annotations

from ..served.command_line import Command, Grammar
from .options import SERVER
from .serving_options import ServingOptions

SHORT = {
    "--model": "model_path",
    "--tp": "tp_size",
    "--tensor-parallel-size": "tp_size",
    "--pp": "pp_size",
    "--pipeline-parallel-size": "pp_size",
    "--dp": "dp_size",
    "--data-parallel-size": "dp_size",
    "--ep": "ep_size",
    "--expert-parallel-size": "ep_size",
    "--cuda-graph-max-bs": "cuda_graph_max_bs_decode",
    "--disable-piecewise-cuda-graph": "disable_prefill_cuda_graph",
    "--speculative-draft-model": "speculative_draft_model_path",
    "--context-len": "context_length",
    "--mem-frac": "mem_fraction_static",
}
COSTLESS = frozenset(
    """
    allow_auto_truncate api_key attention_backend attn_cp_size bench chat_template completion_template
    constrained_json_whitespace_pattern crash_dump_folder decode_attention_backend decode_log_interval
    delete_ckpt_after_loading device dist_init_addr dist_timeout download_dir enable_cache_report
    enable_custom_logit_processor enable_metrics enable_mixed_chunk enable_multimodal enable_nccl_nvls
    enable_p2p_check enable_priority_scheduling enable_request_time_stats_logging enable_torch_compile
    enable_trace fp8_gemm_backend gpu_id_step grammar_backend host hybrid_kvcache_ratio is_embedding
    json_model_override_args kv_events_config load_balance_method load_format log_level log_level_http
    log_requests log_requests_level lora_backend lora_paths lora_target_modules mamba_backend
    mamba_radix_cache_strategy mamba_track_interval max_loaded_loras max_queued_requests
    model_loader_extra_config moe_runner_backend nccl_init_addr nccl_port nnodes node_rank
    num_continuous_decode_steps port preferred_sampling_params prefill_attention_backend quantization_param_path
    radix_eviction_policy random_seed reasoning_parser revision sampling_backend sampling_defaults
    schedule_conservativeness schedule_policy served_model_name show_time_cost skip_server_warmup
    skip_tokenizer_init speculative_accept_threshold_acc speculative_accept_threshold_single
    speculative_attention_mode speculative_eagle_topk speculative_num_steps speculative_token_map
    stream_interval stream_output tokenizer_metrics_custom_labels_header tokenizer_mode tokenizer_path
    tokenizer_worker_num tool_call_parser trust_remote_code warmups watchdog_timeout weight_version
    """.split()  # noqa: SIM905
)
"""Options that change no byte that is counted here."""


def _model(found: Command, value: str, name: str) -> None:
    found.model = value


def _graphs(found: Command, value: str, name: str) -> None:
    sizes = [int(size) for size in value.split() if size.isdecimal()]
    if sizes:
        found.options["cuda_graph_max_bs_decode"] = max(sizes)


def _no_graphs(found: Command, value: str, name: str) -> None:
    found.options |= {"disable_decode_cuda_graph": True, "disable_prefill_cuda_graph": True}


GRAMMAR = Grammar(
    server=SERVER,
    commands=("serve",),
    options=ServingOptions,
    short=SHORT,
    costless=COSTLESS,
    readers={"model_path": _model, "cuda_graph_bs": _graphs, "cuda_graph_bs_decode": _graphs},
    switches={"disable_cuda_graph": _no_graphs},
    many=frozenset(
        ("cuda_graph_bs", "cuda_graph_bs_decode", "cuda_graph_bs_prefill", "lora_paths", "lora_target_modules")
    ),
)
