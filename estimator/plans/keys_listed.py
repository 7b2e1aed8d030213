"""The keys of a plan, as ``help`` lists them for Python's functions; written by ``make pages``."""

# fmt: off
LISTED = """\
Keys of a plan, as keywords:
    model: built-in name, config.json or its folder, hub id, or .gguf file
    implementation (default transformers): whose model and training loop; litgpt has its own names
        for models and LoRA's parts
    transformers (default 5.24): transformers' release, whose modules run; 4.48.3 is read as 4.48
    litgpt (default 0.5.13): litgpt's release; 0.4.12 stands for 0.3 to 0.4.12, which run alike
    task (default train): an optimizer step; one forward pass over the whole prompts (prefill), or
        generate; a server of batch requests of seq tokens; if not given, infer where generate or
        llama.cpp is asked for, serve with vllm
    trainer (default None): a training tool whose defaults hold for keys that are not given
    trl (default 1.16): TRL's release, whose trainer's step runs
    prompt_seq (default None): trainer: tokens of a row that are its prompt; half of seq if not
        given
    loss_type (default None): trl-dpo, trl-kto, trl-cpo, trl-grpo: TRL's name of the loss; of trl-
        dpo several with + between; sentence-transformers: that of its class
    anchor_seq (default None): sentence-transformers: tokens of a row's first text, such as a query;
        seq if not given
    negatives (default None): sentence-transformers: texts of a row beside an anchor and a positive;
        0, or 1 for triplets
    pooling_mode (default mean): sentence-transformers: how a text's tokens become its embedding
        (Pooling)
    normalize (default False): sentence-transformers: embeddings have the length 1 (Normalize)
    matryoshka_dims (default ()): sentence-transformers: MatryoshkaLoss around the loss, with these
        dimensions: 768,256,64
    beta (default None): TRL's; with trl-grpo and trl-rloo there is no reference where it is 0; of a
        teacher's divergence 0 to 1
    precompute_ref_log_probs (default False): trl-dpo, trl-kto: the reference's log-probabilities
        come with the batch
    num_generations (default None): trl-grpo, trl-rloo: completions of a prompt; 8, or 2 for trl-
        rloo
    steps_per_generation (default None): trl-grpo, trl-rloo: batches from one generation; if not
        given, gradient_accumulation_steps
    num_iterations (default 1): trl-grpo, trl-rloo: how often a generation's batches train
    use_vllm (default False): trl-grpo, trl-rloo: vLLM generates, not transformers
    vllm_mode (default colocate): use_vllm: in the trainer's processes, on their GPUs, or elsewhere
    vllm_gpu_memory_utilization (default 0.3): vllm_mode colocate: the share of each GPU that vLLM
        takes beside the trainer
    vllm_enable_sleep_mode (default False): vllm_mode colocate: vLLM gives its weights and its cache
        back while the step runs
    vllm_tensor_parallel_size (default 1): vllm_mode colocate: processes of the job that split
        vLLM's layers
    vllm_max_model_length (default None): vllm_mode colocate: tokens of vLLM's longest request; the
        model's positions if not given
    reference (default None): what the policy is compared with: none, adapter-off, copy, or a model,
        also as a block {model, dtype, device}; if not given, what the trainer takes
    reward_model (default None): trl-grpo, trl-rloo: a model that scores the completions, also as a
        block {model, dtype, device}, or a list of them; if not given, functions that take nothing
        of the device
    teacher (default None): trl-gkd, trl-distillation: the model whose next tokens are learnt, also
        as a block {model, dtype, device}
    lmbda (default 0.5): trl-gkd: the share of the batches whose completions the model generates
        itself
    seq_kd (default False): trl-gkd: the teacher generates the other completions
    batch (default 1): micro-batch: sequences per forward
    seq (default 2048): sequence length in tokens
    target_seq (default 128): head seq2seq-lm: tokens of the decoder, whose labels they are; with
        generate its prompt, 1 if not given
    images (default None): head image-text: images of a row, whose tokens are among seq; 1 if not
        given
    image_size (default None): height x width of each image in pixels, as the processor is given it:
        1024x768, or one for each image: 1024x768,448x448
    video_frames (default None): head image-text: frames of a video in each row in place of images,
        of image_size each
    audio_frames (default None): frames of an audio encoder's features, or samples; if not given, as
        many as it takes
    audio_seconds (default None): audio_frames as a time: 16,000 samples, or 100 frames of features,
        a second
    freeze (default ()): parts that do not train, beside the method: vision, projector, language,
        embeddings, encoder, feature_encoder, base_model
    head (default None): what the model ends with; if not given, what the config's architectures
        say, else causal-lm
    lengths (default None): lengths of the run's samples in place of seq: a JSONL or parquet file of
        token counts, or a mapping such as {histogram: {512: 900, 2048: 12}, pad_to_multiple_of: 8}
    dtype (default bfloat16): dtype of the base weights (bf16, fp16, fp32 mean PyTorch's), or how
        its linear layers are quantised; on llama.cpp the recipe of llama-quantize (Q4_K_M if not
        given)
    rest_dtype (default bfloat16): quantised base: dtype of the other weights (from_pretrained's
        dtype)
    compute_dtype (default float32): nf4, fp4: dtype of the products (bnb_4bit_compute_dtype)
    double_quant (default False): nf4, fp4: block scales are quantised too
        (bnb_4bit_use_double_quant)
    quant_storage (default uint8): nf4, fp4: dtype of the packed weights (bnb_4bit_quant_storage);
        for FSDP1 that of the others
    bitsandbytes (default 0.50): nf4, fp4: release of bitsandbytes; 0.49 stands for 0.43.2 to 0.49,
        which run alike
    weight_group_size (default 128): gptq, awq: inputs of a layer that share a scale and a zero
        point; -1 for all of them
    kbit_preparation (default False): quantised base: peft.prepare_model_for_kbit_training, without
        its checkpointing
    autocast (default None): torch.autocast dtype
    attention (default sdpa): attention implementation; flash (the flash-attn package) on torch-cuda
        only
    sdpa_kernel (default None): torch-cuda, sdpa: the one kernel allowed
        (torch.nn.attention.sdpa_kernel)
    experts_implementation (default None): how a mixture of experts runs (transformers' name); if
        not given, as transformers picks
    routing (default balanced): how tokens choose experts, where memory depends on it: all of them
        evenly, or each token the same
    checkpointing (default none): gradient checkpointing; every-K (as in every-2): of K layers
        together; offloaded (torch-cuda): of each layer, with its input held in the host's pinned
        memory
    use_reentrant (default None): checkpointing layer, offloaded: torch.utils.checkpoint's
        use_reentrant; if not given, transformers' default, true before release 5
    saved_activations (default as-is): how activations saved for backward are held: as they are,
        quantised by group, or (torch-cuda) in the host's pinned memory
        (torch.autograd.graph.save_on_cpu, which moves saved weights too)
    activation_group_size (default 64): elements that share a scale where saved activations are
        quantised
    mlp_chunks (default 1): number of chunks of tokens that the MLP runs one after the other
    loss (default standard): loss implementation; chunked-nll is the default of TRL 1.4 to 1.14,
        fused-lm-head that of 1.15 on, ce-chunked-output and linear-cross-entropy are torchtune's
    loss_chunk (default None): tokens per chunk of the chunked loss; 256 if not given
    num_output_chunks (default 8): torchtune's losses: number of chunks of tokens
    label_share (default 1.0): TRL's losses: share of the tokens that have a label; below 1 for a
        loss on completions only
    method: full (default), lora, lora-fa, adalora, vera, trainable_tokens, delora, hra, road, ia3,
        lars, loha, lokr, oft, boft, miss, fourierft, c3a, shira, randlora, hira, mezo, forward-ad,
        prompt_tuning, p_tuning, prefix_tuning, adaption_prompt, ln_tuning, beft, bitfit, freeze
    optimizer (default adamw): optimizer
    optimizer_rank (default None): rank of galore-adamw's projection; 128 if not given
    embedding_optim_bits (default 8): 8-bit optimizers: bits of the states of embeddings; 32 in
        transformers' Trainer
    gradient_accumulation_steps (default 1): micro-batches per step; above 1, gradients exist when a
        forward starts
    keep_logits (default True): the loop holds the model's output during backward
    drop_output_before_step (default False): the loop frees the model's output after backward,
        before the optimizer's step
    attention_mask (default False): a padding mask (with padding in it) is passed
    data_collator (default False): the batch is a data collator's: labels are a tensor of their own,
        and a mask is passed even where nothing is padded
    packing (default False): the batch is one row of batch x seq tokens without padding, with
        position ids that start again in each sequence, and labels of its own (packed, padding-free)
    return_seq_idx (default False): packing: the batch also has the number of each token's sequence,
        in int32
    use_cache (default False): the model also returns its KV cache
    generate: infer: a call of transformers' generate, by its names, in place of one pass
    convert_outputs_to_fp32 (default False): autocast: the model's output is cast to float32, as
        accelerate does
    neftune_noise_alpha (default None): NEFTune: noise is added to the embeddings
    previous_output (default None): the loop still holds the previous step's output while the next
        forward runs; if not given, true in training on torch-cuda with keep_logits and without
        drop_output_before_step, else false
    gradient_clipping (default False): clip_grad_norm_ before the optimizer's step
    sharding: how processes share the model: a block such as {name: fsdp2, world_size: 8}
    run: what surrounds the step, by the Trainer's names: loading, evaluation, saving; the verdict
        is on the largest moment
    runtime (default torch-cpu): what runs the model; if not given, llama.cpp for a .gguf file, a
        recipe of llama.cpp or the block llama_cpp, else torch-cuda where the device is a CUDA GPU
    executorch: runtime executorch: the program's export, by the exporter's names
    mlx: runtime mlx: mlx-lm's options, by its names
    sglang: runtime sglang: the options of `sglang serve`, by its names
    vllm: runtime vllm: the options of `vllm serve`, by its names
    llama_cpp: runtime llama.cpp: the context's parameters, by the engine's names
    devices (default None): runtime llama.cpp: devices that share one model, by name; rpc: a worker
        on a CPU. budget is then the host's, and NAME=SIZE gives a device another one
    previous_seq (default None): torch-cuda: length of the batch before the longest one; an eighth
        of seq if not given
    empty_cache (default False): torch-cuda, with lengths: the loop calls torch.cuda.empty_cache()
        after each step
    expandable_segments (default False): torch-cuda:
        PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
    torch (default 2.14): torch-cuda: PyTorch's release, whose caching allocator runs
    device (default None): device to fit, by name (`estimator devices`); this: what is free on this
        machine now
    ios_increased_memory_limit (default False): iPhone, iPad: the app has the increased-memory-limit
        entitlement, and a higher limit
    budget (default None): memory to fit, with a unit: 8GiB, 24GB; beside a device it replaces the
        limit of one application
    host_memory (default None): the machine's RAM (a size, or this) for what is offloaded, loaded or
        served from it beside a GPU
    beside them, of llama_cpp: n_ctx, n_batch, n_ubatch, type_k, type_v, flash_attn, n_seq_max,
        kv_unified, swa_full, use_mmap, repack, n_outputs_max, n_gpu_layers, tensor_split,
        split_mode, main_gpu, cache_ram, no_kv_offload, n_cpu_moe, override_tensor, mmproj,
        model_draft, n_gpu_layers_draft, preset, backend, build
    beside them, of vllm: release, kv_cache_dtype, max_model_len, tensor_parallel_size,
        pipeline_parallel_size, data_parallel_size, decode_context_parallel_size,
        enable_expert_parallel, gpu_memory_utilization, kv_cache_memory_bytes,
        max_num_batched_tokens, max_num_seqs, enforce_eager, enable_prefix_caching,
        disable_hybrid_kv_cache_manager, async_scheduling, quantization, enable_lora, max_loras,
        max_lora_rank, num_speculative_tokens, draft_model, kv_offloading_size, cpu_offload_gb,
        free, weights, activation, non_torch, cudagraph
    beside them, of sglang: release, kv_cache_dtype, page_size, context_length, tp_size, pp_size,
        dp_size, ep_size, enable_dp_attention, enable_dp_lm_head, mem_fraction_static,
        max_total_tokens, max_running_requests, chunked_prefill_size, max_prefill_tokens,
        cuda_graph_max_bs_decode, disable_decode_cuda_graph, disable_prefill_cuda_graph,
        disable_radix_cache, disable_overlap_schedule, swa_full_tokens_ratio,
        disable_hybrid_swa_memory, max_mamba_cache_size, mamba_full_memory_ratio, mamba_ssm_dtype,
        quantization, enable_lora, max_loras_per_batch, max_lora_rank, speculative_algorithm,
        speculative_draft_model_path, speculative_num_draft_tokens, cpu_offload_gb, free, weights,
        non_torch
    beside them, of mlx: num_layers, max_tokens, prefill_step_size, max_kv_size, kv_bits,
        kv_group_size, quantized_kv_start, q_group_size, iogpu_wired_limit_mb
    beside them, of executorch: delegate, max_context_length, max_seq_length, use_kv_cache,
        use_sdpa_with_kv_cache, quantize_kv_cache, enable_dynamic_shape, generate_full_logits,
        use_hf_rope, quantization_group_size, embedding_quantize
    beside them, of generate: max_new_tokens, num_beams, cache_implementation, disable_compile
    beside them, of sharding: world_size, replicate, tp, cp, pp, ep, reshard_after_forward,
        param_dtype, reduce_dtype, groups, sync_each_batch, cpu_offload, gradient_as_bucket_view,
        find_unused_parameters, static_graph, bucket_cap_mb, reduce_bucket_size,
        allgather_bucket_size, overlap_comm, contiguous_gradients, stage3_prefetch_bucket_size,
        stage3_param_persistence_threshold, offload_optimizer, offload_param, sequence_parallel
    beside them, of run: moment, checkpoint_dtype, disable_mmap, max_shard_size, device_map,
        processes_per_host, cpu_ram_efficient_loading, eval_samples, per_device_eval_batch_size,
        compute_metrics, prediction_loss_only, preprocess_logits_for_metrics,
        eval_accumulation_steps, batch_eval_metrics, eval_do_concat_batches, save_total_limit,
        save_only_model, merge_and_unload, safe_merge, dataloader_num_workers,
        dataloader_prefetch_factor, dataloader_pin_memory
    beside them, of the method, by PEFT's names: r, target_modules, ...
"""
