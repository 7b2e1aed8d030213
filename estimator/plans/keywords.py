"""The keys of a plan and of its blocks, as keywords of Python's functions; written by ``make pages``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


# fmt: off
class OneDeviceKeys(TypedDict, total=False):
    """The keys of a plan for one device, of its blocks, and of every method."""

    model: str
    implementation: Literal['transformers', 'litgpt']
    transformers: Literal['4.45', '4.48', '4.57', '5.24'] | str
    litgpt: Literal['0.4.12', '0.5.13']
    task: Literal['train', 'infer', 'serve']
    trainer: (
        Literal['trl-sft', 'trl-dpo', 'trl-kto', 'trl-reward', 'trl-orpo', 'trl-cpo', 'trl-grpo', 'trl-rloo', 'trl-gkd',
        'trl-distillation', 'hf-trainer', 'axolotl', 'axolotl-dpo', 'axolotl-kto', 'axolotl-orpo', 'axolotl-simpo',
        'llama-factory', 'llama-factory-dpo', 'llama-factory-kto', 'sentence-transformers', 'torchtune', 'loop'] | None
    )
    trl: Literal['1.9', '1.14', '1.16']
    prompt_seq: int | None
    loss_type: str | None
    anchor_seq: int | None
    negatives: int | None
    pooling_mode: Literal['mean', 'cls', 'max', 'mean_sqrt_len_tokens', 'weightedmean', 'lasttoken']
    normalize: bool
    matryoshka_dims: Sequence[int]
    beta: float | None
    precompute_ref_log_probs: bool
    num_generations: int | None
    steps_per_generation: int | None
    num_iterations: int
    use_vllm: bool
    vllm_mode: Literal['colocate', 'server']
    vllm_gpu_memory_utilization: float
    vllm_enable_sleep_mode: bool
    vllm_tensor_parallel_size: int
    vllm_max_model_length: int | None
    reference: Mapping[str, Any] | str | None
    reward_model: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    teacher: Mapping[str, Any] | None
    lmbda: float
    seq_kd: bool
    batch: int
    seq: int
    target_seq: int
    images: int | None
    image_size: Sequence[int] | Sequence[Sequence[int]] | None
    video_frames: int | None
    audio_frames: int | None
    audio_seconds: float | None
    freeze: (
        Sequence[Literal['vision', 'projector', 'language', 'embeddings', 'encoder', 'feature_encoder', 'base_model']]
    )
    head: (
        Literal['causal-lm', 'masked-lm', 'seq2seq-lm', 'sequence-classification', 'token-classification',
        'question-answering', 'speech-seq2seq', 'ctc', 'audio-classification', 'image-classification', 'image-text',
        'feature-extraction'] | None
    )
    lengths: Mapping[str, Any] | str | None
    dtype: (
        Literal['float32', 'float', 'fp32', 'f32', 'bfloat16', 'bf16', 'float16', 'half', 'fp16', 'f16'] |
        Literal['nf4', 'fp4', 'int8', 'gptq', 'awq', 'int8-weight-only', 'float8', 'fp8-blocks', 'fp8-blocks-ue8m0',
        'fp8-blocks-fp4-experts'] | Literal['f32', 'F32', 'f16', 'F16', 'bf16', 'BF16', 'q8_0', 'Q8_0', 'q6_k', 'Q6_K',
        'q5_k_m', 'Q5_K_M', 'q5_k_s', 'Q5_K_S', 'q5_1', 'Q5_1', 'q5_0', 'Q5_0', 'q4_k_m', 'Q4_K_M', 'q4_k_s', 'Q4_K_S',
        'q4_1', 'Q4_1', 'q4_0', 'Q4_0', 'iq4_nl', 'IQ4_NL', 'iq4_xs', 'IQ4_XS', 'q3_k_l', 'Q3_K_L', 'q3_k_m', 'Q3_K_M',
        'q3_k_s', 'Q3_K_S', 'iq3_m', 'IQ3_M', 'iq3_s', 'IQ3_S', 'q2_k', 'Q2_K', 'mxfp4_moe', 'MXFP4_MOE']
    )
    rest_dtype: Literal['float32', 'float', 'fp32', 'f32', 'bfloat16', 'bf16', 'float16', 'half', 'fp16', 'f16']
    compute_dtype: Literal['float32', 'float', 'fp32', 'f32', 'bfloat16', 'bf16', 'float16', 'half', 'fp16', 'f16']
    double_quant: bool
    quant_storage: Literal['uint8', 'bfloat16', 'float16', 'float32']
    bitsandbytes: Literal['0.43.1', '0.49', '0.50']
    weight_group_size: Literal[-1] | int
    kbit_preparation: bool
    autocast: Literal['bfloat16', 'bf16', 'float16', 'half', 'fp16', 'f16'] | None
    attention: Literal['eager', 'sdpa', 'flash']
    sdpa_kernel: Literal['flash', 'efficient', 'cudnn', 'math'] | None
    experts_implementation: Literal['eager', 'batched_mm', 'grouped_mm'] | None
    routing: Literal['balanced', 'worst']
    checkpointing: Literal['none', 'layer', 'attention', 'matmul', 'offloaded'] | str
    use_reentrant: bool | None
    saved_activations: Literal['as-is', 'int8', 'int4', 'on-host']
    activation_group_size: int
    kernels: Literal['transformers', 'unsloth']
    mlp_chunks: int
    loss: (
        Literal['standard', 'chunked', 'liger', 'cce', 'chunked-nll', 'chunked_nll', 'fused-lm-head', 'fused_lm_head',
        'ce-chunked-output', 'ce_chunked_output', 'linear-cross-entropy', 'linear_cross_entropy', 'unsloth']
    )
    loss_chunk: int | None
    num_output_chunks: int
    label_share: float
    method: Mapping[str, Any] | str
    optimizer: (
        Literal['adamw', 'adamw-foreach', 'adamw_foreach', 'adamw-fused', 'adamw_fused', 'adamw-master', 'adamw_master',
        'adamw-in-backward', 'adamw_in_backward', 'adamw-8bit', 'adamw_8bit', 'paged-adamw', 'paged_adamw',
        'paged-adamw-8bit', 'paged_adamw_8bit', 'adafactor', 'galore-adamw', 'galore_adamw', 'lion', 'lomo', 'muon',
        'sgd', 'sgd-momentum', 'sgd_momentum']
    )
    optimizer_rank: int | None
    embedding_optim_bits: Literal[8, 32]
    gradient_accumulation_steps: int
    keep_logits: bool
    drop_output_before_step: bool
    attention_mask: bool
    data_collator: bool
    packing: bool
    return_seq_idx: bool
    use_cache: bool
    generate: Mapping[str, Any] | None
    convert_outputs_to_fp32: bool
    neftune_noise_alpha: float | None
    previous_output: bool | None
    gradient_clipping: bool
    sharding: Mapping[str, Any] | str | None
    run: Mapping[str, Any] | None
    runtime: Literal['torch-cpu', 'torch-cuda', 'llama.cpp', 'vllm', 'sglang', 'mlx', 'executorch', 'litert', 'mlc']
    executorch: Mapping[str, Any]
    mlx: Mapping[str, Any]
    sglang: Mapping[str, Any]
    vllm: Mapping[str, Any]
    llama_cpp: Mapping[str, Any]
    previous_seq: int | None
    empty_cache: bool
    expandable_segments: bool
    torch: (
        Literal['2.1', '2.2', '2.3', '2.4', '2.5', '2.6', '2.7', '2.8', '2.9', '2.10', '2.11', '2.12', '2.13', '2.14'] |
        str
    )
    device: str | None
    ios_increased_memory_limit: bool
    budget: str | None
    host_memory: str | None
    n_ctx: int | None
    n_batch: int
    n_ubatch: int
    type_k: (
        Literal['f32', 'F32', 'f16', 'F16', 'bf16', 'BF16', 'q8_0', 'Q8_0', 'q5_1', 'Q5_1', 'q5_0', 'Q5_0', 'q4_1',
        'Q4_1', 'q4_0', 'Q4_0', 'iq4_nl', 'IQ4_NL']
    )
    type_v: (
        Literal['f32', 'F32', 'f16', 'F16', 'bf16', 'BF16', 'q8_0', 'Q8_0', 'q5_1', 'Q5_1', 'q5_0', 'Q5_0', 'q4_1',
        'Q4_1', 'q4_0', 'Q4_0', 'iq4_nl', 'IQ4_NL']
    )
    flash_attn: bool
    n_seq_max: int | None
    kv_unified: bool
    swa_full: bool
    use_mmap: bool
    repack: bool
    n_outputs_max: int
    n_gpu_layers: int | None
    tensor_split: Sequence[float] | None
    split_mode: Literal['layer', 'row', 'none']
    main_gpu: int
    cache_ram: int
    no_kv_offload: bool
    n_cpu_moe: int
    override_tensor: str | None
    mmproj: str | None
    model_draft: str | None
    n_gpu_layers_draft: int | None
    preset: Literal['ollama'] | None
    backend: Literal['cpu', 'cpu-avx512', 'cpu-arm', 'cpu-plain', 'metal', 'vulkan', 'cuda'] | None
    build: Literal['2025', '0c1e57098', 'b11739']
    release: Literal['0.11', '0.33'] | Literal['0.5.23']
    kv_cache_dtype: (
        Literal['auto', 'bfloat16', 'float16', 'fp8'] | Literal['auto', 'bfloat16', 'fp8_e4m3', 'fp8_e5m2'] | str
    )
    block_size: int | None
    max_model_len: int | None
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    decode_context_parallel_size: int
    enable_expert_parallel: bool
    gpu_memory_utilization: float | None
    kv_cache_memory_bytes: str | None
    max_num_batched_tokens: int | None
    max_num_seqs: int | None
    enforce_eager: bool
    enable_prefix_caching: bool
    disable_hybrid_kv_cache_manager: bool
    async_scheduling: bool
    quantization: str | None
    enable_lora: bool
    max_loras: int
    max_lora_rank: int
    num_speculative_tokens: int
    draft_model: str | None
    kv_offloading_size: float | None
    swap_space: float | None
    cpu_offload_gb: float
    free: str | None
    weights: str | None
    activation: str | None
    non_torch: str | None
    cudagraph: str | None
    page_size: int | None
    context_length: int | None
    tp_size: int
    pp_size: int
    dp_size: int
    ep_size: int
    enable_dp_attention: bool
    enable_dp_lm_head: bool
    mem_fraction_static: float | None
    max_total_tokens: int | None
    max_running_requests: int | None
    chunked_prefill_size: int | None
    max_prefill_tokens: int
    cuda_graph_max_bs_decode: int | None
    disable_decode_cuda_graph: bool
    disable_prefill_cuda_graph: bool
    disable_radix_cache: bool
    disable_overlap_schedule: bool
    swa_full_tokens_ratio: float
    disable_hybrid_swa_memory: bool
    max_mamba_cache_size: int | None
    mamba_full_memory_ratio: float
    mamba_ssm_dtype: Literal['float32', 'bfloat16', 'float16'] | None
    max_loras_per_batch: int
    speculative_algorithm: Literal['EAGLE', 'EAGLE3', 'NEXTN', 'STANDALONE', 'NGRAM'] | None
    speculative_draft_model_path: str | None
    speculative_num_draft_tokens: int | None
    num_layers: int | None
    max_tokens: int
    prefill_step_size: int
    max_kv_size: int | None
    kv_bits: Literal[4, 8] | None
    kv_group_size: Literal[32, 64, 128]
    quantized_kv_start: int
    server: Literal['mlx_lm.server', 'mlx_vlm.server', 'mlx-openai-server', 'vllm-mlx'] | None
    q_group_size: Literal[32, 64, 128]
    default_device: Literal['gpu', 'cpu']
    iogpu_wired_limit_mb: int | None
    delegate: Literal['xnnpack', 'none'] | None
    max_context_length: int | None
    max_seq_length: int | None
    use_kv_cache: bool
    use_sdpa_with_kv_cache: bool | None
    quantize_kv_cache: bool
    enable_dynamic_shape: bool
    generate_full_logits: bool
    use_hf_rope: bool | None
    quantization_group_size: int
    embedding_quantize: Literal['4,32', '8,0', 'none']
    max_new_tokens: int
    num_beams: int
    cache_implementation: Literal['dynamic', 'static', 'quantized', 'offloaded', 'offloaded_static']
    disable_compile: bool
    world_size: int | None
    replicate: int
    tp: int
    cp: int
    pp: int
    ep: int
    reshard_after_forward: bool | int | None
    param_dtype: Literal['float32', 'float', 'fp32', 'f32', 'bfloat16', 'bf16', 'float16', 'half', 'fp16', 'f16'] | None
    reduce_dtype: (
        Literal['float32', 'float', 'fp32', 'f32', 'bfloat16', 'bf16', 'float16', 'half', 'fp16', 'f16'] | None
    )
    groups: Literal['layers', 'accelerate', 'transformers'] | None
    sync_each_batch: bool
    cpu_offload: bool
    gradient_as_bucket_view: bool
    find_unused_parameters: bool
    static_graph: bool
    bucket_cap_mb: int | None
    reduce_bucket_size: int | Literal['auto'] | None
    allgather_bucket_size: int | None
    overlap_comm: bool | None
    contiguous_gradients: bool
    stage3_prefetch_bucket_size: int | Literal['auto'] | None
    stage3_param_persistence_threshold: int | Literal['auto'] | None
    offload_optimizer: Literal['none', 'cpu']
    offload_param: Literal['none', 'cpu']
    sequence_parallel: bool
    moment: Literal['loading', 'first step', 'step', 'evaluation', 'saving', 'merging', 'precomputing'] | None
    checkpoint_dtype: (
        Literal['float32', 'float', 'fp32', 'f32', 'bfloat16', 'bf16', 'float16', 'half', 'fp16', 'f16'] | None
    )
    disable_mmap: bool
    max_shard_size: str
    device_map: Literal['none', 'auto']
    processes_per_host: int | None
    cpu_ram_efficient_loading: bool
    eval_samples: int | None
    per_device_eval_batch_size: int
    compute_metrics: bool
    prediction_loss_only: bool
    preprocess_logits_for_metrics: Literal['none', 'argmax']
    eval_accumulation_steps: int | None
    batch_eval_metrics: bool
    eval_do_concat_batches: bool
    precompute_ref_batch_size: int | None
    save_total_limit: int | None
    save_only_model: bool
    merge_and_unload: bool
    safe_merge: bool
    dataloader_num_workers: int
    dataloader_prefetch_factor: int | None
    dataloader_pin_memory: bool
    target_modules: Sequence[str] | str | None
    exclude_modules: Sequence[str] | str | None
    modules_to_save: Sequence[str] | None
    task_type: Literal['SEQ_CLS', 'SEQ_2_SEQ_LM', 'CAUSAL_LM', 'TOKEN_CLS', 'QUESTION_ANS', 'FEATURE_EXTRACTION'] | None
    adapter_dtype: Literal['float32', 'float', 'fp32', 'f32', 'bfloat16', 'bf16', 'float16', 'half', 'fp16', 'f16']
    layers_to_transform: int | Sequence[int] | None
    layers_pattern: Sequence[str] | str | None
    r: int
    lora_alpha: float
    lora_dropout: float
    bias: (
        Literal['none', 'all', 'lora_only'] | Literal['none', 'all', 'vera_only'] | Literal['none', 'all',
        'delora_only'] | Literal['none', 'all', 'hra_only'] | Literal['none', 'all', 'oft_only'] | Literal['none',
        'all', 'boft_only'] | str
    )
    lora_bias: bool
    use_rslora: bool
    use_dora: bool
    init_lora_weights: bool | str
    rank_pattern: Mapping[str, Any] | None
    alpha_pattern: Mapping[str, Any] | None
    target_parameters: Sequence[str] | None
    trainable_token_indices: Sequence[int] | Mapping[str, Any] | None
    use_bdlora: Mapping[str, Any] | None
    init_r: int
    target_r: int
    total_step: int
    tinit: int
    tfinal: int
    deltaT: int
    beta1: float
    beta2: float
    orth_reg_weight: float
    update_and_allocate: bool | None
    peft_version: Literal['0.20', '0.21'] | str
    vera_dropout: float
    projection_prng_key: int
    save_projection: bool
    d_initial: float
    init_weights: bool | Literal['bat', 'mini'] | Literal['zero'] | None
    token_indices: Sequence[int]
    delora_lambda: float
    module_dropout: float
    apply_GS: bool
    variant: Literal['road_1', 'road_2', 'road_4']
    group_size: int
    feedforward_modules: Sequence[str] | str | None
    lars_dropout: float
    alpha: float
    rank_dropout: float
    decompose_both: bool
    decompose_factor: int
    rank_dropout_scale: bool
    oft_block_size: int
    coft: bool
    block_share: bool
    use_cayley_neumann: bool
    num_cayley_neumann_terms: int
    boft_block_size: int
    boft_block_num: int
    boft_n_butterfly_factor: int
    boft_dropout: float
    miss_dropout: float
    mini_r: int
    n_frequency: int
    scaling: float
    random_loc_seed: int | None
    n_frequency_pattern: Mapping[str, Any] | None
    block_size_pattern: Mapping[str, Any] | None
    mask_type: Literal['random']
    random_seed: int | None
    randlora_alpha: float
    randlora_dropout: float
    sparse: bool
    very_sparse: bool
    hira_dropout: float
    adapter: Mapping[str, Any] | None
    num_virtual_tokens: int | None
    token_dim: int | None
    num_transformer_submodules: int | None
    num_attention_heads: int | None
    prompt_tuning_init: Literal['RANDOM', 'SAMPLE_VOCAB', 'TEXT']
    prompt_tuning_init_text: str | None
    tokenizer_name_or_path: str | None
    tokenizer_kwargs: Mapping[str, Any] | None
    encoder_reparameterization_type: Literal['MLP', 'LSTM']
    encoder_hidden_size: int | None
    encoder_num_layers: int
    encoder_dropout: float
    prefix_projection: bool
    adapter_len: int | None
    adapter_layers: int | None
    top_layers: int | None
    train_norm: bool
    train_head: bool


class PlanKeys(OneDeviceKeys, total=False):
    """The keys of a plan, of its blocks, and of every method."""

    devices: Sequence[str] | None
