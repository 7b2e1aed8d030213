"""Questions about training files whose whole readings are recorded (``tests/helpers/whole_answers.py``).

Each key that a reader asks for is asked with values of every kind, in a plain file and in one that says more; so are
shell lines, and changes as edits of a file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from estimator.errors import InputError
from estimator.trainers import formats, hugging_face, patches, shell
from estimator.trainers.settings import MOST_KEYS, Reading, Settings
from estimator.trainers.sharing import settled
from tests.cases.training_files import FORMATS, cases
from tests.helpers.whole_answers import Each, Parts, said

Question = tuple[str, Callable[[], Parts]]
SMOL = "HuggingFaceTB/SmolLM2-135M"
PLAIN: dict[str, dict[str, Any]] = {
    "trl": {"model_name_or_path": SMOL, "bf16": True, "max_length": 64},
    "axolotl": {"base_model": SMOL, "micro_batch_size": 3, "sequence_len": 64},
    "llama-factory": {"model_name_or_path": SMOL, "stage": "sft", "cutoff_len": 64, "bf16": True},
    "torchtune": {
        "model": {"_component_": "torchtune.models.llama3_2.lora_llama3_2_1b"},
        "tokenizer": {"_component_": "torchtune.models.llama3.llama3_tokenizer", "max_seq_len": 64},
        "optimizer": {"_component_": "torch.optim.AdamW"}, "batch_size": 3, "dtype": "bf16",
    },
    "mlx-lm": {"model": SMOL, "max_seq_length": 64},
    "unsloth": {"from_pretrained": {"model_name": SMOL, "max_seq_length": 64}, "SFTConfig": {"optim": "adamw_torch"}},
    "training-arguments": {"per_device_train_batch_size": 3}, "deepspeed": {"train_micro_batch_size_per_gpu": 3},
    "accelerate": {"distributed_type": "MULTI_GPU", "num_processes": 2},
}  # fmt: skip
"""A file of each format that says little."""
VALUES: dict[str, tuple[Any, ...]] = {
    "flag": (True, False), "number": (0, 3, 0.25), "whole": (2, 2.5), "dtype": ("bf16", "float32", "int8"),
    "names": (["q_proj", "lm_head"], "k_proj, v_proj", []), "text": ("word",), "block": ({"a": 1}, {}),
    "value": (True, 5, "word", ["a_proj"], {"enabled": True}),
}  # fmt: skip
"""Values of a key, by how it is read. Each is asked with one of no kind and a variable, too."""
WRONG = ({"no": [1]}, "${HOME}", "auto")
WORDS: dict[str, tuple[Any, ...]] = {
    "rl": ("dpo", "ipo", "kto", "orpo", "simpo", "grpo", "gdpo"), "adapter": ("lora", "qlora", "llama-adapter"),
    "stage": ("pt", "sft", "rm", "dpo", "kto", "ppo"), "finetuning_type": ("full", "lora", "freeze", "oft"),
    "pref_loss": ("sigmoid", "hinge", "ipo", "orpo", "simpo", "kto_pair", "bco"), "optim_args": ("rank=3", "rank=x"),
    "loss_type": ("nll", "dft", "chunked_nll", "sigmoid", ["sigmoid", "sft"], "kto", "dr_grpo", "simpo",
    "apo_zero_unpaired"),
    "flash_attn": ("fa2", "sdpa", "disabled", "auto", "fa3"), "fine_tune_type": ("lora", "dora", "full"),
    "attn_implementation": ("eager", "sdpa", "flash_attention_2", "flex_attention", "kernels-community/flash-attn2"),
    "eval_strategy": ("steps", "epoch", "no"), "quantization_type": ("nf4", "fp4"), "vllm_mode": ("colocate",
    "server"),
    "quantization_method": ("bnb", "hqq", "gptq"), "bnb_4bit_quant_type": ("nf4", "fp4"),
    "quantization_bit": (4, 8, 3),
    "optimizer": ("adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit", "adafactor", "sgd", "lion_8bit", "muon",
    "adam", "adamw"),
    "distributed_type": ("NO", "FSDP", "DEEPSPEED", "MULTI_GPU", "MULTI_CPU", "MEGATRON_LM", "TP"),
    "mixed_precision": ("no", "bf16", "fp16", "fp8"), "device": ("cpu", "cuda", "none", "nvme"),
    "fsdp_version": (1, 2),
    "fsdp_auto_wrap_policy": ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"), "zero_stage": (0, 1, 2, 3),
    "stage_": (1, 2, 3),
    "fsdp_sharding_strategy": ("FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_SHARD", "NO_SHARD", 1, 4),
    "gradient_checkpointing": ("offload", "unsloth"),
    "fsdp": (True, "full_shard auto_wrap", "shard_grad_op offload", ["full_shard"], "no_shard"),
    "use_gradient_checkpointing": ("unsloth", True, False),
    "_component_": (
        "torchtune.models.llama3_2.llama3_2_3b", "torchtune.models.qwen2_5.qlora_qwen2_5_0_5b", "torch.optim.SGD",
        "bitsandbytes.optim.PagedAdamW8bit", "torchtune.modules.loss.LinearCrossEntropyLoss",
        "torchtune.modules.loss.CEWithChunkedOutputLoss", "torch.nn.CrossEntropyLoss", "torchao.optim.AdamW4bit",
    ),
    "dtype": ("bf16", "fp16", "fp32"), "deepspeed": ({"zero_optimization": {"stage": 3}}, "zero2.json"),
    "training_type": ("sft", "dpo"),
    "lora_target_modules": ("all-linear", ".*q_proj"), "target_modules": ("all-linear", ["up_proj"]),
    "lora_target": ("all", "q_proj,v_proj"),
    "deepspeed_config": ({"zero_stage": 2, "offload_optimizer_device": "cpu"},), "activation_offloading": ("legacy",
    "disk", True),
    "gradient_checkpointing_kwargs": ({"use_reentrant": True}, {"use_reentrant": False}),
    "image_size": ([640, 480], 512, "big"),
    "fsdp_config": (
        {"fsdp_version": 2, "reshard_after_forward": False}, {"version": 1, "offload_params": True,
        "fsdp_cpu_ram_efficient_loading": True},
        {"fsdp_version": 2, "fsdp_offload_params": True, "fsdp_activation_checkpointing": True},
    ),
    "liger_kernel_config": ({"fused_linear_cross_entropy": False, "cross_entropy": True}, {"rope": True}),
    "plugins": (["axolotl.integrations.liger.LigerPlugin"],
    ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"]),
}  # fmt: skip
"""Values that tools know, by the last name of a key."""
TOGETHER: dict[str, tuple[dict[str, Any], ...]] = {
    "axolotl": (
        {"rl": "dpo"}, {"adapter": "qlora", "load_in_4bit": True, "lora_target_linear": True},
        {"fsdp_config": {"fsdp_version": 2}, "bf16": True}, {"adapter": "lora",
        "lora_r": 3, "lora_target_modules": ["q_proj"]},
    ),
    "llama-factory": (
        {"stage": "dpo"}, {"stage": "kto"}, {"finetuning_type": "lora", "quantization_bit": 4},
        {"finetuning_type": "full"},
        {"finetuning_type": "freeze"},
    ),
    "trl": (
        {"use_peft": True, "load_in_4bit": True}, {"beta": 0.1}, {"num_generations": 2, "use_vllm": True},
        {"teacher_model_name_or_path": SMOL}, {"fsdp": "full_shard", "fp16": True},
    ),
    "unsloth": ({"get_peft_model": {"r": 5}}, {"DPOConfig": {"beta": 0.3}},
    {"from_pretrained": {"model_name": SMOL, "load_in_4bit": True}}),
    "torchtune": ({"enable_activation_checkpointing": True},
    {"loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"}}),
    "training-arguments": ({"bf16": True, "gradient_checkpointing": True}, {"fsdp": "full_shard"}),
    "deepspeed": ({"zero_optimization": {"stage": 3}}, {"bf16": {"enabled": True},
    "zero_optimization": {"stage": 2}}),
    "accelerate": ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}},
    {"distributed_type": "DEEPSPEED"}),
    "mlx-lm": ({"fine_tune_type": "dora", "grad_checkpoint": True},),
}  # fmt: skip
"""What makes readers ask for more keys."""
LAUNCHERS = (
    "python {}", "accelerate launch {}", "accelerate launch --num_processes 4 --mixed_precision bf16 {}",
    "torchrun --nproc_per_node=2 --nnodes 3 {}", "deepspeed --num_gpus 2 {} --deepspeed zero.json", "uv run {}",
    "CUDA_VISIBLE_DEVICES=0 nohup python3 -u {} > log 2>&1 &",
    "python -m torch.distributed.run --nproc_per_node 2 {}",
    "accelerate launch --use_fsdp --fsdp_version 2 --fsdp_offload_params true --num_machines 2 --num_processes 8 {}",
    "accelerate launch --use_deepspeed --zero_stage 3 --multi_gpu {}", "deepspeed --include localhost:0,1,2 {}",
    "torchrun --nnodes 1:4 --nproc_per_node gpu {}", "uv run --with trl python {}", "sh {}",
    "torchrun --nnodes 1:4 {}",
    "accelerate launch --config_file there.yaml {}", "accelerate launch --config_file=missing.yaml {}",
)  # fmt: skip
PROGRAMS = (
    f"sft.py --model_name_or_path {SMOL} --max_length 64 --no_packing --bf16",
    "dpo.py --config train.yaml --beta=0.2",
    f"train_kto.py model_name_or_path={SMOL} peft.lora_r=3 --loss_type a b", "grpo_trainer.py train.yaml",
    f"sft_vlm.py --model_name_or_path {SMOL} --no_cuda", "-m axolotl.cli.train train.yml",
    "train.py --config gone.yaml",
)  # fmt: skip
LINES = (
    f"trl sft --model_name_or_path {SMOL} --num_processes 2 --use_peft", "trl vllm-serve --model x",
    "axolotl train axolotl.yml",
    "llamafactory-cli train lf.yaml cutoff_len=99", "llamafactory-cli api lf.yaml",
    "trl dpo --config train.yaml --beta 0.5",
    "tune run lora_finetune_single_device --config tt.yaml batch_size=5", "python 'sft.py", "echo hi",
    "tune run --nproc_per_node 2 full_finetune_distributed --config tt.yaml optimizer.fused=False",
    "axolotl preprocess a.yml",
    "pip install trl && trl sft --config train.yaml\\ntrl dpo --config train.yaml",
    "accelerate launch -m axolotl.cli.train axolotl.yml",
    f"trl grpo --model_name_or_path {SMOL} --max_completion_length 90 --num_generations 4 --use_peft --sync_ref_model",
    f"trl grpo --model_name_or_path {SMOL} --max_prompt_length 30 --use_vllm --vllm_gpu_memory_utilization 0.3",
    f"trl grpo --model_name_or_path {SMOL} --beta 0.1 --sync_ref_model --steps_per_generation 2 --num_iterations 3",
    f"trl grpo --model_name_or_path {SMOL} --sync_ref_model --generation_batch_size 8",
    f"trl rloo --model_name_or_path {SMOL} --rloo_k 4 --sync_ref_model --reward_model_path {SMOL} --use_vllm "
    "--vllm_mode server --vllm_tensor_parallel_size 2",
    f"trl rloo --model_name_or_path {SMOL} --use_vllm --vllm_mode colocate --vllm_enable_sleep_mode "
    "--vllm_max_model_length 99 --vllm_tensor_parallel_size 2 --use_transformers_paged",
    f"trl gkd --model_name_or_path {SMOL} --teacher_model_name_or_path {SMOL} --lmbda 0.0 --seq_kd --max_new_tokens 40",
    f"trl gkd --model_name_or_path {SMOL} --max_length 64 --max_new_tokens 64",
    f"trl gkd --model_name_or_path {SMOL} --max_length 500",
    f"trl distillation --model_name_or_path {SMOL} --teacher_model_name_or_path {SMOL} --max_completion_length 20",
    f"trl dpo --model_name_or_path {SMOL} --max_length 64 --max_prompt_length 64 --precompute_ref_log_probs "
    "--sync_ref_model",
    f"trl dpo --model_name_or_path {SMOL} --max_length 64 --max_prompt_length 63 --f_divergence_type js_divergence",
    f"trl kto --model_name_or_path {SMOL} --sync_ref_model --f_divergence_type reverse_kl --use_liger_loss",
    f"trl reward --model_name_or_path {SMOL} --center_rewards_coefficient 0.1 --max_length 99",
    f"trl sft --model_name_or_path {SMOL} --packing --packing_strategy wrapped --loss_type dft",
    f"trl sft --model_name_or_path {SMOL} --padding_free --packing_strategy ffd --assistant_only_loss",
    "python sft_vlm.py --model_name_or_path HuggingFaceTB/SmolVLM-256M-Instruct --bf16",
    "python dpo_vlm.py --model_name_or_path llava-hf/llava-1.5-7b-hf --use_peft --eval_strategy steps",
)  # fmt: skip
SEEING: dict[str, tuple[dict[str, Any], ...]] = {
    "axolotl": tuple({"base_model": model, **more}
        for model in ("HuggingFaceTB/SmolVLM-256M-Instruct", SMOL) for more in (
        {"processor_type": "AutoProcessor"}, {"image_size": 512}, {"image_size": [640, 480], "eval_strategy": "epoch"},
        {"image_size": "big"}, {"image_resize_algorithm": "bilinear", "is_multimodal": True, "image_size": [1, 2, 3]},
    )),
    "llama-factory": tuple({**PLAIN["llama-factory"], "model_name_or_path": model, **more}
        for model in ("Qwen/Qwen2-VL-2B-Instruct", SMOL) for more in (
        {"template": "qwen2_vl"}, {"template": "llava_next"}, {"template": "llama3"}, {"image_max_pixels": 262144},
        {"image_max_pixels": 262143}, {"image_max_pixels": -1}, {"image_max_pixels": 10**9},
        {"image_max_pixels": 10**9 - 1}, {"image_min_pixels": 99, "freeze_vision_tower": False},
        {"template": "paligemma", "freeze_multi_modal_projector": False, "freeze_language_model": True},
        {"image_max_pixels": 0, "save_total_limit": 2, "eval_strategy": "steps"},
    )),
}  # fmt: skip
"""Files for models that look at images, and for one that does not."""
FSDP: tuple[dict[str, Any], ...] = tuple(
    {**PLAIN["trl"], "fsdp": given, "fsdp_config": config}
    for given in ("full_shard auto_wrap", ["full_shard", "offload"], True, False, "false", "", 3)
    for config in ('{"version": 2}', "fsdp.json", "  {broken", {"fsdp_version": 2}, None)
)
FOUND = (
    {"batch_size": 3}, {"model_name_or_path": SMOL, "dataset_name": "x"},
    {"learning_rate": 0.1, "optim": "adamw_torch"},
    {"model_name_or_path": SMOL, "dataset_name": "x", "stage": "sft"}, {"base_model": SMOL}, {"zero_optimization": {}},
    {"fine_tune_type": "lora", "model": SMOL}, {"distributed_type": "NO"}, {"unknown": 1}, {},
    {"SFTConfig": {"max_length": 9}}, {"trl.SFTConfig": {"max_length": 9}},
)  # fmt: skip
BESIDE: dict[str, Any] = {
    "train.yaml": {**PLAIN["trl"], "loss_type": "sigmoid"}, "axolotl.yml": PLAIN["axolotl"],
    "train.yml": PLAIN["axolotl"],
    "lf.yaml": PLAIN["llama-factory"], "tt.yaml": PLAIN["torchtune"],
    "zero.json": {"zero_optimization": {"stage": 2}},
    "there.yaml": {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}, "num_processes": 3},
}  # fmt: skip


@contextmanager
def _noted(asked: dict[str, set[str]]) -> Iterator[None]:
    """Note the keys that readers ask for, and as what."""

    def noting(kind: str) -> Callable[..., Any]:
        real = getattr(Settings, kind)

        def method(self: Settings, *names: str, **keywords: Any) -> Any:
            for name in names:
                asked.setdefault(self.prefix + name, set()).add(kind)
            return real(self, *names, **keywords)

        return method

    found = {kind: noting(kind) for kind in VALUES}
    with patch.multiple(Settings, **found):
        yield


def _with(keys: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    name, *rest = path
    inner = keys.get(name)
    return {**keys, name: _with(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def _meant(reading: Reading) -> list[Any]:
    """A reading, and what it means for one process and for several."""
    plain = replace(reading, path=None)
    return [plain, *(settled(plain, given).plan for given in ({}, {"world_size": 4}))]


def _read(tool: str, keys: Mapping[str, Any]) -> Any:
    try:
        return _meant(formats._read(tool, keys, "train.yaml"))
    except InputError as error:
        return error


def _key(tool: str, bases: list[dict[str, Any]], path: list[str], values: list[Any]) -> Parts:
    return {"values": Each([_read(tool, _with(base, path, value)) for base in bases for value in values])}


def _tool(name: str) -> Iterator[Question]:
    public = [case["config"] for table in FORMATS if table.replace("_", "-") == name for case in cases(table)]
    files = [PLAIN[name], *({**PLAIN[name], **more} for more in TOGETHER[name])]
    asked: dict[str, set[str]] = {}
    with _noted(asked):
        for keys in (*files, *public):
            _read(name, keys)
    yield f"{name}, files", lambda: {"readings": Each([_read(name, keys) for keys in (*files, *public)])}
    for number, key in enumerate(sorted(asked)):
        path = key.split(".")
        values = [
            *itertools.chain(*(VALUES[kind] for kind in sorted(asked[key]))),
            *WORDS.get(path[-1], ()),
            WRONG[number % 3],
        ]
        if path[-1] in ("optim", "optimizer"):
            values += hugging_face.OPTIMIZERS
        others = [file for file in files[1:] if len(path) > 1 or path[0] not in file]
        bases = [files[0], others[number % len(others)]] if others else files[:1]
        yield f"{name} {key}", partial(_key, name, bases, path, values)


def _line(folder: Path, text: str) -> Any:
    with patch.object(Path, "cwd", lambda: folder):
        try:
            return [
                shell.is_line(text),
                shell.parse(text, "the line"),
                _meant(formats._of_line(text, "the line", folder, None)),
            ]
        except InputError as error:
            return error


def _lines(folder: Path) -> Parts:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in BESIDE.items():
        (folder / name).write_text(json.dumps(content))
    lines = [launcher.format(program) for launcher in LAUNCHERS for program in PROGRAMS]
    read = {text.replace("\\n", "\n"): _line(folder, text.replace("\\n", "\n")) for text in (*lines, *LINES)}
    return {
        "lines": Each(
            [str(one).replace(str(folder), "") if isinstance(one, InputError) else one for one in read.values()]
        )
    }


def _or_why(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except InputError as error:
        return error


FOLDERS: tuple[dict[str, Any], ...] = (
    {}, {"training_args.bin": {}}, {"adapter_config.json": {"peft_type": "LORA", "r": 3, "target_modules": ["q_proj"]}},
    {"train.yaml": PLAIN["trl"], "accelerate.yaml": PLAIN["accelerate"]}, {"a.yaml": PLAIN["axolotl"]},
    {"ds.json": {"zero_optimization": {"stage": 2}}}, {"config.json": {"model_type": "llama"}, "a.yml": {"lr": 1}},
    {"training_args.json": PLAIN["training-arguments"], "config.json": {"model_type": "llama"},
     "adapter_config.json": {"peft_type": "LORA", "r": 3, "base_model_name_or_path": SMOL}},
    {"a.yaml": PLAIN["trl"], "b.yaml": PLAIN["axolotl"]},
)  # fmt: skip
"""Folders that a trainer leaves, by their files."""


def _folders(folder: Path) -> Parts:
    found = []
    for number, files in enumerate(FOLDERS):
        inside = folder / str(number)
        inside.mkdir(parents=True)
        for name, content in files.items():
            (inside / name).write_text(json.dumps(content))
        read = _or_why(partial(formats._of_folder, inside, None))
        text = said(read if isinstance(read, InputError) else _meant(read)).replace(str(folder), "")
        found.append(text)
    return {"folders": Each(found)}


def _edits(tool: str, writer: Mapping[str, Any]) -> Parts:
    """Each change of a plan, written into a plain file of the tool in YAML and in JSON."""
    import yaml

    texts = [yaml.safe_dump(PLAIN[tool], sort_keys=False), json.dumps(PLAIN[tool], indent=1), json.dumps(PLAIN[tool])]
    found: list[Any] = []
    for key, written in writer.items():
        for value in (7,) if isinstance(written, str) else (*written, "a word"):
            block, _, name = key.partition(".")
            changes = {block: {name: value, "same": 1}} if name else {block: value}
            said = patches.edits(tool, changes, {"batch": "own_batch"}, {"same": 1})
            after = [patches.edited(text, said or {}) for text in texts]
            found.append([said, after, patches.patch("f.yaml", texts[0], after[0])])
    return {"edits": Each(found)}


def training_files(folder: Path) -> Iterator[Question]:
    """Every key of every format."""
    for name in PLAIN:
        yield from _tool(name)
    yield "lines", lambda: _lines(folder)
    many = {f"key {i}": 1 for i in range(MOST_KEYS + 1)}
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"more": [deep]}
    large = ({**PLAIN["trl"], **more} for more in (many, {"model_init_kwargs": many}, deep))
    yield "large files", lambda: {"readings": [_read("trl", keys) for keys in large]}
    for tool, rows in SEEING.items():
        yield f"{tool}, images", partial(lambda tool, rows: {"readings": Each([_read(tool, keys) for keys in rows])},
                                         tool, rows)  # fmt: skip
    yield "folders", lambda: _folders(folder / "folders")
    yield "trl, FSDP", lambda: {"readings": Each([_read("trl", keys) for keys in FSDP])}
    yield "formats", lambda: {"tools": Each([_or_why(partial(formats.detect, keys, "a file")) for keys in FOUND])}
    for tool, writer in patches.WRITERS.items():
        yield f"{tool}, patches", partial(_edits, tool, writer)


GROUPS: dict[str, Callable[[Path], Iterator[Question]]] = {"training_files": training_files}
"""By the name of a table, its questions; a folder is for files that are asked about."""
