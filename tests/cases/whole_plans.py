"""Questions about plans whose whole readings are recorded (``tests/helpers/whole_answers.py``).

Every key of a plan is given in every situation, such as a trainer or a runtime: the plan as it is read, the step that
follows from it, or the sentence that refuses it. So are words of other tools, models' names, and lengths of data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from estimator.errors import InputError
from estimator.plans import litgpt, quantised_checkpoints, words
from estimator.plans.flat import nested
from estimator.plans.lengths import length_options, packed, quantile
from estimator.plans.models import ModelSpec, builtin_names, load, names_for
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.refusals import QUESTIONS, budget_of, check_question, listed
from estimator.plans.repacked import packing_of
from estimator.plans.resolve import _second, given_of, resolve, tokens_of_images
from estimator.plans.second_model import SecondModel
from tests.helpers.extras import without
from tests.helpers.whole_answers import Each, Parts

Question = tuple[str, Callable[[], Parts]]
LORA = {"name": "lora", "r": 5, "target_modules": ["q_proj", "v_proj"]}
SMOL = {"model": "smollm2-135m", "seq": 40, "batch": 2}
SITUATIONS: dict[str, dict[str, Any]] = {
    "plain": SMOL, "card": {**SMOL, "runtime": "torch-cuda"}, "lora": {**SMOL, "method": LORA},
    "nf4": {**SMOL, "dtype": "nf4", "method": LORA, "device": "t4"}, "infer": {**SMOL, "task": "infer"},
    "generate": {**SMOL, "runtime": "torch-cuda", "generate": {"max_new_tokens": 5}},
    "llama.cpp": {"model": "smollm2-135m", "runtime": "llama.cpp"}, "mlx": {**SMOL, "runtime": "mlx"},
    "vllm": {"model": "smollm2-135m", "runtime": "vllm", "device": "l4", "seq": 99},
    "executorch": {"model": "llama-3.2-1b", "runtime": "executorch"},
    "hf-trainer": {**SMOL, "trainer": "hf-trainer", "device": "rtx-4090"},
    **{name: {**SMOL, "trainer": name} for name in ("trl-sft", "trl-dpo", "trl-kto", "trl-reward", "axolotl",
    "torchtune")},
    "trl-grpo": {**SMOL, "trainer": "trl-grpo", "batch": 8}, "llama-factory": {**SMOL, "trainer": "llama-factory"},
    **{name: {**SMOL, "sharding": {"name": name, "world_size": 4}} for name in ("ddp", "fsdp2", "zero3")},
    "fsdp2, trainer": {**SMOL, "sharding": {"name": "fsdp2", "world_size": 4}, "trainer": "trl-sft", "method": LORA},
    "encoder": {"model": "bert-base", "seq": 40}, "seq2seq": {"model": "t5-small", "seq": 40, "method": "lora"},
    "images": {"model": "smolvlm-256m", "seq": 1500, "images": 1}, "audio": {"model": "whisper-tiny"},
    "classifier": {**SMOL, "head": "sequence-classification"}, "4.48": {**SMOL, "transformers": "4.48"},
    "embeddings": {"model": "all-minilm-l6-v2", "trainer": "sentence-transformers", "seq": 40, "batch": 4},
    "litgpt": {"model": "tiny-llama-1.1b", "implementation": "litgpt", "seq": 40},
    "lengths": {"model": "smollm2-135m", "lengths": {"histogram": {9: 5, 40: 2}}, "batch": 2},
}  # fmt: skip
"""Plans to which one key is added."""
KEYS: tuple[dict[str, Any], ...] = (
    {}, *({"model": name} for name in ("qwen3-0.6b", "HuggingFaceTB/SmolLM2-135M", "gemma-3-1b", "no-such-model",
    "gpt2")),
    {"implementation": "litgpt"}, {"transformers": "4.57"}, {"transformers": "4.45"}, {"litgpt": "0.4.12"},
    {"task": "infer"},
    {"task": "train"}, {"task": "serve"}, *({"trainer": name} for name in ("trl-sft", "trl-cpo", "hf-trainer",
    "axolotl", "trl-rloo")),
    {"trl": "1.14"}, {"prompt_seq": 7}, {"loss_type": "ipo"}, {"loss_type": ["sigmoid", "sft"]},
    {"loss_type": "dft"}, {"anchor_seq": 9},
    {"negatives": 2}, {"pooling_mode": "cls"}, {"normalize": True}, {"matryoshka_dims": [8, 16]}, {"beta": 0.0},
    {"beta": 0.3},
    {"precompute_ref_log_probs": True}, {"num_generations": 4}, {"steps_per_generation": 2}, {"num_iterations": 2},
    {"use_vllm": True}, {"vllm_mode": "server"}, {"vllm_gpu_memory_utilization": 0.5},
    {"vllm_enable_sleep_mode": True},
    {"vllm_tensor_parallel_size": 2}, {"vllm_max_model_length": 99}, {"reference": "copy"}, {"reference": "none"},
    {"reference": {"model": "smollm2-360m", "dtype": "float16"}}, {"reward_model": "smollm2-135m"},
    {"teacher": "smollm2-360m"},
    {"lmbda": 1.0}, {"seq_kd": True}, {"batch": 3}, {"seq": 9}, {"seq": 99999}, {"target_seq": 5}, {"images": 2},
    {"image_size": "300x200"}, {"video_frames": 3}, {"audio_frames": 200}, {"audio_seconds": 3},
    {"freeze": ["vision"]},
    {"freeze": ["embeddings"]}, {"freeze": ["encoder", "projector"]}, {"head": "masked-lm"},
    {"head": "token-classification"},
    {"head": "causal-lm"}, {"lengths": {"histogram": {9: 5, 33: 1}, "pad_to_multiple_of": 8}}, {"dtype": "float32"},
    {"dtype": "float16"}, {"dtype": "int8"}, {"dtype": "nf4"}, {"dtype": "q8_0"}, {"dtype": "gptq"},
    {"rest_dtype": "float16"},
    {"compute_dtype": "bfloat16"}, {"double_quant": True}, {"quant_storage": "bfloat16"}, {"bitsandbytes": "0.49"},
    {"weight_group_size": 64}, {"kbit_preparation": True}, {"autocast": "bfloat16"}, {"autocast": "float16"},
    {"attention": "eager"},
    {"attention": "flash"}, {"sdpa_kernel": "math"}, {"experts_implementation": "batched_mm"}, {"routing": "worst"},
    {"checkpointing": "layer"}, {"checkpointing": "every-2"}, {"checkpointing": "attention"},
    {"checkpointing": "offloaded"},
    {"checkpointing": "none"}, {"use_reentrant": True}, {"use_reentrant": False}, {"saved_activations": "int8"},
    {"saved_activations": "on-host"}, {"activation_group_size": 32}, {"mlp_chunks": 3}, {"loss": "chunked"},
    {"loss": "liger"},
    {"loss": "cce"}, {"loss": "ce-chunked-output"}, {"loss": "standard"}, {"loss_chunk": 9}, {"num_output_chunks": 4},
    {"label_share": 0.5}, {"method": "full"}, {"method": "lora"}, {"method": "qlora"}, {"method": LORA},
    {"method": "ia3"},
    {"method": {"name": "prompt_tuning", "num_virtual_tokens": 3}}, {"method": {"name": "lora", "use_dora": True}},
    {"method": "lisa"},
    {"optimizer": "sgd"}, {"optimizer": "adamw-8bit"}, {"optimizer": "adafactor"}, {"optimizer": "galore-adamw"},
    {"optimizer": "muon"},
    {"optimizer": "adamw-in-backward"}, {"optimizer_rank": 3}, {"embedding_optim_bits": 32},
    {"gradient_accumulation_steps": 3},
    {"keep_logits": False}, {"drop_output_before_step": True}, {"attention_mask": True}, {"data_collator": True},
    {"packing": True}, {"packing": True, "attention": "flash"}, {"return_seq_idx": True}, {"use_cache": True},
    {"generate": {"max_new_tokens": 3}},
    {"generate": {"cache_implementation": "static"}}, {"convert_outputs_to_fp32": True}, {"neftune_noise_alpha": 5},
    {"previous_output": True}, {"previous_output": False}, {"gradient_clipping": True}, {"gradient_clipping": False},
    {"sharding": {"name": "ddp", "world_size": 2}}, {"sharding": {"name": "fsdp2", "world_size": 2}},
    {"cpu_offload": True},
    {"sharding": {"name": "zero2", "world_size": 2, "offload_optimizer": "cpu"}},
    {"sharding": {"tp": 2, "world_size": 2}},
    {"run": {"eval_samples": 9}}, {"run": {"dataloader_num_workers": 2, "save_total_limit": 1}},
    {"runtime": "torch-cuda"},
    {"runtime": "llama.cpp"}, {"runtime": "mlx"}, {"n_ctx": 300}, {"delegate": "none"}, {"num_layers": 2},
    {"max_model_len": 99},
    {"devices": ["rtx-3090", "t4"]}, {"previous_seq": 5}, {"empty_cache": True}, {"expandable_segments": True},
    {"torch": "2.4"},
    {"device": "t4"}, {"device": "h100-80gb"}, {"device": "apple-16gb"}, {"device": "iphone-15"},
    {"device": "no-such-device"},
    {"ios_increased_memory_limit": True}, {"budget": "3GiB"}, {"budget": "much"}, {"no_such_key": 1},
)  # fmt: skip
PROPERTIES = sorted(name for name, one in vars(Plan).items() if isinstance(one, property))


def _read(keys: dict[str, Any]) -> Any:
    """A plan and its step, or why there is none."""
    try:
        plan = parse_plan(keys)
    except InputError as error:
        return error
    skipped = ("engine", *(("beside_sharding",) if plan.sharding is None else ()))
    said = {name: _or_why(partial(getattr, plan, name)) for name in PROPERTIES if name not in skipped}
    own = {name: getattr(plan, name) for name in Plan.model_fields}
    found: list[Any] = [own, said, type(plan.engine), _or_why(plan.assumptions), _or_why(plan.budget_bytes)]
    if plan.engine.runs_steps:
        found.append(_or_why(lambda: _resolved(plan)))
    found += [_or_why(partial(check_question, question, plan)) for question in QUESTIONS]
    return [*found, _or_why(partial(budget_of, plan))]


def _or_why(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except InputError as error:
        return error


def _resolved(plan: Plan) -> list[Any]:
    found = resolve(plan)
    method, spec = found.method, found.spec
    changed = found.plan.model_dump(include={"seq", "attention", "previous_seq"})
    step = {name: one for name, one in found.step._asdict().items() if name != "teacher"}
    with suppress(InputError):
        changed["at"] = found.at(3, 17).step.lengths
    return [
        changed,
        step,
        spec.head,
        spec.warnings,
        type(method),
        method.untrained,
        method.virtual_tokens,
        method.by_layer,
    ]


def _situation(asked: dict[str, Any], keys: dict[str, Any]) -> Any:
    given = {key: one for key, one in asked.items() if key not in ("seq",) or "lengths" not in keys}
    with without("torch"):  # what would be recorded is refused
        return _or_why(lambda: _read(nested(given, keys)))


# ---- words, models, lengths --------------------------------------------------------------------

QWEN = {"model": "qwen2-vl-2b", "seq": 3000}
NF4 = {"dtype": "nf4", "method": LORA}
OTHERS: tuple[dict[str, Any], ...] = (
    *({**QWEN, "video_frames": frames, "image_size": "300x200"} for frames in (1, 4, 5, 900)),
    {**QWEN, "image_size": "300x200,640x480", "freeze": ["vision", "projector"]}, {**QWEN, "images": 2},
    {**QWEN, "image_size": "640x480", "seq": 390}, {**QWEN, "image_size": "640x480", "seq": 391},
    {**QWEN, "image_size": [[300, 200], "64x99"]}, {**QWEN, "image_size": [300, 200, 100]},
    {"model": "llava-1.5-7b", "images": 1, "seq": 600}, {"model": "llava-1.5-7b", "images": 2, "video_frames": 3},
    {"model": "gemma-3-4b", "images": 1}, {"model": "gemma-3-4b", "head": "image-text", "images": 1, "seq": 500},
    {"model": "gemma-3-4b", "head": "seq2seq-lm"}, {"model": "smollm2-135m", "images": 1},
    {"model": "smollm2-135m", "freeze": ["vision"]}, {"model": "whisper-tiny", "audio_seconds": 20},
    {"model": "whisper-tiny", "head": "ctc"}, {"model": "t5-small", "head": "sequence-classification", "seq": 20},
    *({**SMOL, "trainer": "trl-gkd", "teacher": teacher, **more}
      for teacher in ("smollm2-360m", {"model": "smollm2-360m", "dtype": "float16"}, "gpt2", "bert-base", None)
      for more in ({}, {"seq_kd": True, "lmbda": 0.0}, {"lmbda": 0.5, "seq_kd": True}, {"beta": 1.0}, {"beta": 1.1})),
    *({**SMOL, **NF4, "trainer": "trl-distillation", "teacher": teacher, "batch": 8, "kbit_preparation": True}
      for teacher in ("smollm2-360m", {"model": "smollm2-360m", "dtype": "int8"})),
    *({**SMOL, "trainer": "trl-dpo", "reference": reference, **more}
      for reference in ({"model": "smollm2-360m", "device": "cpu"}, {"model": "smollm2-360m", "device": "cuda"},
                        {"model": "gpt2"}, {"model": "t5-small"}, "copy", "adapter-off")
      for more in ({}, {"attention": "eager", "checkpointing": "layer"}, {"runtime": "torch-cuda", "method": LORA})),
    *({**SMOL, "trainer": "trl-grpo", "batch": 8, "reward_model": reward, **more}
      for reward in ("smollm2-135m", ["smollm2-135m", "smollm2-360m"], {"model": "bert-base"})
      for more in ({}, {"data_collator": True, "num_generations": 4},
                   {"sharding": {"name": "fsdp2", "world_size": 3}})),
    {**SMOL, "trainer": "llama-factory", "loss_type": "sigmoid"}, {**SMOL, "trainer": "llama-factory-dpo"},
    *({**SMOL, "trainer": "llama-factory-dpo", "loss_type": loss, "method": method}
      for loss in ("sigmoid", "simpo", "ipo") for method in ("full", "lora", {"name": "full"})),
    *({"model": "smollm2-135m", "device": device, "budget": budget, "runtime": runtime}
      for device, runtime in (("t4", "torch-cuda"), ("rtx-4090", "llama.cpp"), ("apple-16gb", "llama.cpp"),
                              ("raspberry-pi-5-8gb", "llama.cpp")) for budget in ("3GiB", "999GiB", None)),
    *({**SMOL, "trainer": "trl-dpo", "prompt_seq": n} for n in (39, 40)),
    *({**SMOL, "batch": batch, "runtime": "torch-cuda", "attention": "flash", "dtype": "bfloat16", **more}
      for batch in (1, 2) for more in (
      {"data_collator": True}, {"data_collator": True, "packing": True}, {"packing": True},
        {"trainer": "hf-trainer"}, {"trainer": "trl-sft"}, {"trainer": "trl-sft", "packing": True})),
    *({"model": "all-minilm-l6-v2", "trainer": "sentence-transformers", "seq": 40, "batch": 4, **more}
      for more in ({"matryoshka_dims": 384}, {"matryoshka_dims": [384, 385]}, {"matryoshka_dims": "8,16"},
                   {"anchor_seq": 40}, {"anchor_seq": 41}, {"head": "feature-extraction"}, {"negatives": 3})),
    *({"model": "phi-3-mini-4k", "seq": seq, "method": method} for seq in (2044, 2045, 2046, 2047)
      for method in ("full", {"name": "prompt_tuning", "num_virtual_tokens": 2})),
    *({"model": "tiny-llama-1.1b", "implementation": "litgpt", "seq": 40, **more} for more in (
        *({"method": {"name": "lora", **own}} for own in (
            {"use_dora": True}, {"r": 3, "lora_alpha": 5}, {"target_modules": ["query", "mlp"]}, {"target_modules": []},
            {"target_modules": "head"}, {"target_modules": ["q_proj"]}, {"lora_dropout": 0.1},
            {"use_rslora": True},
        )),
        {"method": "lora", "dtype": "nf4"}, {"method": "lora", "dtype": "nf4", "litgpt": "0.4.12"}, {"method": "ia3"},
    )),
    *({"model": name, "implementation": "litgpt", "seq": 40, "litgpt": release, "method": method}
      for name in ("gemma-2-2b", "mistral-7b-v0.1") for release in ("0.4.12", "0.5.13") for method in ("full", "lora")),
    *({"model": "smollm2-135m", "seq": 40, "lengths": lengths} for lengths in ({"length": 9}, {"length": 0})),
)  # fmt: skip
"""Plans whose keys are asked together."""


def _other(keys: dict[str, Any]) -> Any:
    with without("torch"):
        return [_or_why(lambda: _read(nested({}, keys))), _or_why(lambda: _seconds(parse_plan(keys)))]


def _seconds(plan: Plan) -> list[Any]:
    """What a plan's images take, and its second models."""
    spec, found = resolve(plan).spec, []
    for key in ("teacher", "reference", "reward_model"):
        given = getattr(plan, key)
        for second in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(second, SecondModel):
                found.append([key, _second(plan, second, key, spec.config.vocab_size).step])
    given = given_of(plan, spec)
    return [found, given, given.tokens, given.least, tokens_of_images(plan)]


NAMES = (
    "HuggingFaceTB/SmolLM2-135M-Instruct", "unsloth/Llama-3.2-1B-bnb-4bit", "unsloth/Qwen3-4B-unsloth-bnb-4bit",
    "Qwen/Qwen2.5-7B-Instruct-AWQ",
    "TheBloke/Mistral-7B-v0.1-GPTQ", "unsloth/Llama-3.2-1B", "someone/Llama-3.2-1B", "meta-llama/Llama-3.2-1B",
    "llama3.2-1b", "Llama-3.2-1B",
    "bartowski/Llama-3.2-1B-GGUF", "../x", "a/b/c", "llama", "qwen", "", "x.gguf", "gpt-5",
    "Qwen/Qwen3-0.6B-FP8",
)  # fmt: skip
QUANTISED: tuple[dict[str, Any], ...] = (
    *({"quant_method": "bitsandbytes", **more} for more in (
        {"load_in_4bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True},
        {"load_in_8bit": True}, {"load_in_8bit": True, "llm_int8_has_fp16_weight": True}, {},
        {"bnb_4bit_quant_type": "int4", "load_in_4bit": True},
        {"load_in_4bit": True, "bnb_4bit_compute_dtype": "torch.bfloat16"},
    )),
    *({"quant_method": "gptq", **more} for more in ({"bits": 4}, {"bits": 4, "group_size": 64}, {"bits": 3},
    {"bits": 4, "lm_head": True})),
    *({"quant_method": "awq", **more} for more in ({"bits": 4, "group_size": 32}, {"bits": 4, "version": "gemv"},
    {"bits": 4, "zero_point": False})),
    *({"quant_method": "torchao", "quant_type": kind} for kind in (
        "int8_weight_only", "int4_weight_only", {"default": {"_type": "Float8WeightOnlyConfig", "_data": {}}},
        {"default": {"_type": "Int8WeightOnlyConfig", "_data": {"group_size": 32}}}, {"default": 3}, None,
    )),
    {"quant_method": "mxfp4"}, {"quant_method": "fp8", "format": "e4m3"}, {"quant_method": 3}, {},
    {"quant_method": "compressed-tensors", "format": "x"},
)  # fmt: skip
LENGTHS: tuple[Any, ...] = (
    {"histogram": {9: 5, 21: 3, 64: 1}}, {"histogram": {9: 50, 21: 30, 64: 7}, "pad_to_multiple_of": 8},
    {"histogram": {5: 900, 700: 2}},
    {"histogram": {9: 5, 21: 3, 64: 1}, "group_by_length": True}, {"histogram": {9: 5, 64: 3}, "truncate": 30},
    {"histogram": {}},
    {"histogram": {9: 5, 21: 3, 64: 1}, "packing": "bfd", "truncate": 64}, {"histogram": {"a": 1}},
    {"histogram": {9: -1}}, {"histogram": {0: 1}}, 3,
    {"file": "missing.csv"}, {}, {"histogram": {7: 1}, "pad_to_multiple_of": 0}, "{histogram: {8: 2, 31: 3}}",
)  # fmt: skip


def _lengths(given: Any) -> Parts:
    lengths = length_options(given).read()
    found: dict[str, Any] = {
        "counts": lengths.counts,
        "longest": [lengths.longest, lengths.samples, lengths.padded(lengths.longest)],
    }
    for batch in (1, 2, 5):
        with suppress(InputError):
            of_batch = lengths.batch_distribution(batch)
            run = [lengths.run_distribution(batch, batches) for batches in (1, 3, 40)]
            over = [lengths.probability_of_exceeding(length, batch, 3) for length in (8, 9, 30, 64)]
            found[f"batch {batch}"] = Each([of_batch, run, over, lengths.representative_batches(batch, 6)])
            found[f"quantiles {batch}"] = [quantile(of_batch, share) for share in (0, 0.3, 0.5, 0.9, 0.99, 1)]
    found["packed"] = [
        _or_why(partial(packed, dict(lengths.counts), 64, one)) for one in ("bfd", "wrapped", "bfd_split", "no")
    ]
    return found


def _spec(name: str, reads: bool) -> Parts:
    spec = load(name)
    said = {
        one.name: getattr(spec, one.name)
        for one in spec.__dataclass_fields__.values()
        if one.name not in ("raw", "read")
    }
    more = {key: _or_why(partial(getattr, spec, key)) for key in _OF_SPECS if reads}
    return {"spec": said, "more": more, "packing": packing_of(name)}


_OF_SPECS = sorted(
    name for name, one in vars(ModelSpec).items()
    if isinstance(one, (property, cached_property)) and name != "config" and not name.startswith("_")
)  # fmt: skip


def _words() -> Parts:
    """Every word of other tools, with a value that means nothing and one that turns it off; and every value."""
    keys = {
        w: [_or_why(partial(words.refuse_word, w, v)) for v in ("x", False, 8, "fp4", "fp16", 3)] for w in words.KEYS
    }
    values = {f"{k} {w}": _or_why(partial(words.refuse_words, {k: w})) for k, own in words.VALUES.items() for w in own}
    blocks = [
        {"mlx": {"bf16": True}},
        {"world_size": 2},
        {"method": {"name": "qlora"}},
        {"method": {"adapter": "lora"}},
    ]
    return {
        "keys": Each([*keys.items()]),
        "values": Each([*values.items()]),
        "blocks": [_or_why(partial(words.refuse_words, one)) for one in blocks],
    }


def _litgpt() -> Parts:
    rows = litgpt.models()
    return {
        "models": Each([[name, litgpt.config(row), litgpt.model(name, row).hub_id] for name, row in rows.items()]),
        "before": Each([_or_why(partial(litgpt.before, row, method)) for row in rows.values() for method in ("full",
        "lora")]),
    }  # fmt: skip


def plans() -> Iterator[Question]:
    """Every key in every situation."""
    for keys in KEYS:
        name = ", ".join(f"{key} {value}" for key, value in keys.items()) or "nothing more"
        yield name, lambda keys=keys: {"situations": Each([_situation(asked, keys) for asked in SITUATIONS.values()])}
    yield "keys together", lambda: {"plans": Each([_other(keys) for keys in OTHERS])}
    yield "words", _words
    yield "litgpt", _litgpt
    for number, given in enumerate(LENGTHS):
        yield f"lengths {number}", partial(_lengths, given)
    readers = {
        name: partial(quantised_checkpoints._method, {"quant_method": name}, "a model") for name in ("gptq", "x")
    }
    yield "methods of checkpoints", lambda: {name: _or_why(ask) for name, ask in readers.items()}
    for number, given in enumerate(QUANTISED):
        yield f"quantization_config {number}", partial(_quantised, given)
    said = (*builtin_names(), *NAMES)
    yield "models", lambda: {"specs": Each([[name, _or_why(partial(_spec, name, name in NAMES))] for name in said])}
    yield (
        "refusals",
        lambda: {"listed": Each(listed()), "names": [len(names_for(one)) for one in ("llama.cpp", "vllm", "mlx")]},
    )


def _quantised(given: dict[str, Any]) -> Parts:
    method = quantised_checkpoints._method(given, "a model")
    return {"keys": [method, quantised_checkpoints._keys(method, given, "a model")]}


GROUPS: dict[str, Callable[[Path], Iterator[Question]]] = {"plans": lambda folder: plans()}
"""By the name of a table, its questions; a folder is for files that are asked about."""
