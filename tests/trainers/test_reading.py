"""What readers of single tools know, beside the keys that public files have."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.check import Checked, check
from estimator.errors import InputError
from estimator.trainers.formats import read
from estimator.trainers.settings import MOST_KEYS, Reading, Settings
from estimator.trainers.shell import parse
from tests.cases.images_and_audio import WITH_IMAGES
from tests.cases.small_models import write_config

AXOLOTL: dict[str, Any] = {
    "base_model": "HuggingFaceTB/SmolLM2-135M",
    "adapter": "lora",
    "lora_r": 8,
    "lora_target_linear": True,
    "micro_batch_size": 1,
    "sequence_len": 64,
}


def test_a_comment_after_a_shell_line_is_no_option() -> None:
    line = "python sft.py --model_name_or_path HuggingFaceTB/SmolLM2-135M --max_length 64 --bf16 true"
    assert check(f"{line}  # --max_length 128: there's room").keys == check(line).keys


@pytest.mark.parametrize(
    ("text", "why"),
    [(" ", "no file ' '"), ("env A=1", "no file"), ("A=1 swift sft", "ms-swift's options are not read")],
)
def test_a_line_without_a_command_that_is_read(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check(text)


@pytest.mark.parametrize(
    "launcher", ["torchrun --nproc_per_node {}", "deepspeed --num_gpus {}", "torchrun --nnodes {}"]
)
def test_a_launcher_of_processes(launcher: str) -> None:
    """Several are counted."""
    line = f"{launcher} sft.py --model_name_or_path HuggingFaceTB/SmolLM2-135M --max_length 64 --bf16 true"
    assert parse(line.format("1"), "the line").options["max_length"] == "64"
    assert [parse(line.format(number), "the line").processes for number in "12"] in ([1, 2], [None, 2])


@pytest.mark.parametrize(
    ("words", "processes"),
    [
        ("--nproc_per_node 8", 8),
        ("--nproc_per_node=8", 8),
        ("--nnodes 1 --nproc_per_node 4", 4),
        ("--rdzv_backend c10d --nnodes 2 --nproc_per_node 4", 8),
    ],
)
def test_torchruns_options_before_a_recipe_of_torchtune(words: str, processes: int) -> None:
    """``tune run`` takes them as torchrun does, with a space or an equals sign."""
    line = parse(f"tune run {words} full_finetune_distributed --config tt.yaml", "the line")
    assert (line.processes, line.files, line.options) == (processes, ["tt.yaml"], {})


@pytest.mark.parametrize("text", ["swift sft --model gpt2", "#!/bin/sh\nA=1 swift rlhf \\\n  --model gpt2\n"])
def test_a_tool_that_is_not_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text(text, encoding="utf-8")
    for source in (text, str(path)):
        with pytest.raises(InputError, match="ms-swift's options are not read; give them as a plan"):
            read(source)


def test_llama_factory_has_two_keys_for_a_quantisation(tmp_path: Path) -> None:
    keys = {"model_name_or_path": "gpt2", "stage": "sft", "finetuning_type": "lora", "cutoff_len": 64}
    path = tmp_path / "lora.yaml"
    path.write_text(
        json.dumps({**keys, "quantization_bit": 4, "quantization_method": "bnb", "quantization_type": "fp4"})
    )
    assert read(str(path)).plan["dtype"] == "fp4"


@pytest.mark.parametrize(
    ("keys", "said"),
    [({}, True), ({"load_in_8bit": True}, False)],
    ids=["16 bits", "8 bits"],
)
def test_fused_kernels_that_axolotl_turns_on(keys: dict[str, Any], said: bool, tmp_path: Path) -> None:
    """Witness: Axolotl's validation: kernels are on by default, but not with 8-bit weights."""
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, **keys}))
    assert any("fused LoRA kernels" in one.why for one in check(str(path)).assumptions) == said


@pytest.mark.share(3)
@pytest.mark.parametrize(("keys", "loss"), [({}, "standard"), ({"enable_liger_kernel": True}, "liger")], ids=str)
def test_ligers_loss_is_a_part_of_its_kernels(keys: dict[str, Any], loss: str, tmp_path: Path) -> None:
    """Witness: transformers' ``apply_liger_kernel``, whose default is the fused linear cross entropy."""
    path = tmp_path / "train.yaml"
    base = {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "finetuning_type": "lora", "cutoff_len": 64}
    path.write_text(json.dumps({**base, "stage": "sft", "bf16": True, **keys}))
    assert check(str(path)).plan.loss == loss


@pytest.mark.share(3)
def test_batches_of_an_evaluation_that_are_not_joined(tmp_path: Path) -> None:
    """Witness: TrainingArguments, whose default joins them."""
    path = tmp_path / "train.yaml"
    base = {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "finetuning_type": "lora", "cutoff_len": 64}
    evaluates = {
        "stage": "sft",
        "bf16": True,
        "eval_strategy": "steps",
        "eval_steps": 9,
        "per_device_eval_batch_size": 2,
    }
    for keys, joins in (({}, True), ({"eval_do_concat_batches": False}, False)):
        path.write_text(json.dumps({**base, **evaluates, **keys}))
        run = check(str(path)).plan.run
        assert (run.per_device_eval_batch_size, run.eval_do_concat_batches) == (2, joins)


TEACHER = "HuggingFaceTB/SmolLM2-360M"
TAUGHT = {"model": TEACHER, "device": None}
TRL: dict[str, Any] = {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "bf16": True}


@pytest.mark.share(9)
@pytest.mark.parametrize(
    ("keys", "expect"),
    [
        ({"max_length": 64}, {"trainer": "trl-sft", "seq": 64}),
        ({"loss_type": "chunked_nll", "beta": 0.1, "max_length": 64}, {"trainer": "trl-sft"}),
        ({"beta": 0.3, "max_length": 64}, {"trainer": "trl-dpo", "beta": 0.3, "seq": 64}),
        ({"loss_type": ["sigmoid"], "max_length": 64}, {"trainer": "trl-dpo", "loss_type": "sigmoid"}),
        ({"loss_type": "sft", "use_weighting": False}, {"trainer": "trl-dpo", "loss_type": "sft"}),
        (
            {"precompute_ref_log_probs": True, "desirable_weight": 1.2, "max_prompt_length": 9, "max_length": 64},
            {"trainer": "trl-kto", "precompute_ref_log_probs": True, "prompt_seq": 9, "loss_type": "kto"},
        ),
        ({"precompute_ref_log_probs": True, "max_prompt_length": 70, "max_length": 64}, {"trainer": "trl-dpo"}),
        ({"center_rewards_coefficient": 0.01}, {"trainer": "trl-reward", "head": "sequence-classification"}),
        ({"simpo_gamma": 0.5, "loss_type": "simpo"}, {"trainer": "trl-cpo", "loss_type": "simpo"}),
        (
            {"num_generations": 4, "beta": 0.04, "max_completion_length": 40, "per_device_train_batch_size": 4},
            {"trainer": "trl-grpo", "num_generations": 4, "beta": 0.04, "seq": 80, "prompt_seq": 40, "batch": 4},
        ),
        (
            {"rloo_k": 2, "max_prompt_length": 20, "max_completion_length": 40},
            {"trainer": "trl-rloo", "num_generations": 2, "seq": 60, "prompt_seq": 20},
        ),
        (
            {
                "num_generations": 2,
                "use_vllm": True,
                "vllm_mode": "server",
                "vllm_server_host": "a",
                "vllm_server_port": 8000,
                "max_completion_length": 20,
            },
            {"trainer": "trl-grpo", "vllm_mode": "server", "prompt_seq": 20},
        ),
        (
            {
                "use_peft": True,
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_quant_storage": "uint8",
                "max_length": 64,
            },
            {"trainer": "trl-sft", "dtype": "nf4", "quant_storage": "uint8"},
        ),
        (
            {"teacher_model_name_or_path": TEACHER, "max_completion_length": 40, "beta": 0.0},
            {
                "trainer": "trl-distillation",
                "teacher": {**TAUGHT, "dtype": None},
                "beta": 0.0,
                "seq": 80,
                "prompt_seq": 40,
            },
        ),
        (
            {
                "teacher_model_name_or_path": TEACHER,
                "teacher_model_init_kwargs": {"dtype": "bfloat16"},
                "lmbda": 0.0,
                "seq_kd": True,
                "max_new_tokens": 44,
                "max_length": 64,
            },
            {
                "trainer": "trl-gkd",
                "teacher": {**TAUGHT, "dtype": "bfloat16"},
                "lmbda": 0.0,
                "seq_kd": True,
                "prompt_seq": 20,
            },
        ),
    ],
    ids=str,
)
def test_the_trainer_that_a_file_of_trl_is_of(keys: dict[str, Any], expect: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the fields of TRL 1.16's config classes, of which each trainer has some alone."""
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps({**TRL, **keys}))
    checked = check(str(path), None, "trl")
    found = dict(checked.keys)
    assert {key: found.get(key) for key in expect} == expect, checked.error
    if "prompt_seq" not in expect:
        assert found.get("prompt_seq") is None


@pytest.mark.parametrize(
    ("words", "trainer"),
    [("trl dpo", "trl-dpo"), ("trl kto", "trl-kto"), ("trl sft", "trl-sft"), ("python dpo.py", "trl-dpo"),
     ("accelerate launch trl/scripts/reward.py", "trl-reward"), ("python scripts/run_orpo.py", "trl-orpo"),
     ("python train_dpo.py", "trl-dpo"), ("trl distillation", "trl-distillation"),
     ("python examples/scripts/gkd.py", "trl-gkd")],
)  # fmt: skip
def test_the_trainer_that_a_command_of_trl_starts(words: str, trainer: str) -> None:
    line = parse(f"{words} --model_name_or_path HuggingFaceTB/SmolLM2-135M --max_length 64", "the line")
    assert (line.tool, line.trainer, line.images) == ("trl", trainer, False)


@pytest.mark.share(9)
def test_a_script_of_trl_for_images() -> None:
    line = "python {} --model_name_or_path llava-hf/llava-1.5-7b-hf --max_length 700 --bf16 true"
    for script in ("sft_vlm.py", "examples/scripts/sft_vlm_gemma3.py"):
        checked = check(line.format(script), {"device": "h100-80gb"})
        assert checked.plan is not None
        assert (checked.plan.images, checked.plan.trainer) == (1, "trl-sft")
        assert any(one.key == "images" and "to the data" in one.why for one in checked.assumptions)
    assert check(line.format("sft_vlm.py"), {"images": 2, "seq": 1300, "device": "h100-80gb"}).keys["images"] == 2
    assert check(line.format("sft.py")).keys["images"] is None


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"num_generations": 2, "use_transformers_paged": True}, "generates in another way"),
        ({"num_generations": 2, "generation_batch_size": 16}, "give steps_per_generation"),
        (
            {"num_generations": 2, "gradient_accumulation_steps": 3, "steps_per_generation": 4},
            "generated every 4 batches",
        ),
        ({"beta": 0.1, "f_divergence_type": "js_divergence"}, "f_divergence_type: 'js_divergence' has no rule"),
        ({"beta": 0.1, "use_weighting": True}, "use_weighting: True has no rule"),
        ({"beta": 0.1, "sync_ref_model": True, "use_peft": True}, "sync_ref_model: True does not go with use_peft"),
        ({"num_generations": 2, "sync_ref_model": True}, "sync_ref_model: True does not go with beta: 0"),
        ({"num_generations": 2, "use_liger_loss": True}, "use_liger_loss: True is a loss of Liger's in earlier"),
    ],
    ids=str,
)
def test_what_trainers_of_trl_do_without_a_rule(keys: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps({**TRL, **keys}))
    assert why in check(str(path), None, "trl").error


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("given", "kind"), [(None, "offloaded"), ("unsloth", "offloaded"), (False, "none"), (True, "layer")]
)
def test_unsloth_checkpoints_on_the_host_unless_told(given: Any, kind: str, tmp_path: Path) -> None:
    """Witness: the default of ``FastLanguageModel.get_peft_model``."""
    path = tmp_path / "train.yaml"
    adapters = {"r": 8} if given is None else {"r": 8, "use_gradient_checkpointing": given}
    calls = {"from_pretrained": {"model_name": "HuggingFaceTB/SmolLM2-135M", "max_seq_length": 64}}
    path.write_text(json.dumps({**calls, "get_peft_model": adapters, "args": {"per_device_train_batch_size": 1}}))
    plan = check(str(path)).plan
    assert (plan.checkpointing, plan.seq, plan.double_quant) == (kind, 64, True)


UNSLOTH: dict[str, Any] = {
    "from_pretrained": {"model_name": "HuggingFaceTB/SmolLM2-135M", "max_seq_length": 128},
    "get_peft_model": {"r": 8},
}


def unsloth(blocks: dict[str, Any], folder: Path, **beside: Any) -> Checked:
    path = folder / "train.yaml"
    path.write_text(json.dumps({**UNSLOTH, **blocks}))
    return check(str(path), beside)


@pytest.mark.share(4)
@pytest.mark.parametrize(
    ("blocks", "keys"),
    [
        ({"SFTConfig": {}}, {"trainer": "trl-sft", "batch": 4, "seq": 128, "loss": "unsloth", "kernels": "unsloth"}),
        (
            {"DPOConfig": {"beta": 0.3, "max_length": 96, "max_prompt_length": 40, "per_device_train_batch_size": 2}},
            {"trainer": "trl-dpo", "batch": 2, "seq": 96, "prompt_seq": 40, "beta": 0.3, "loss": "standard"},
        ),
        ({"UnslothKTOConfig": {"beta": 0.2}}, {"trainer": "trl-kto", "beta": 0.2, "kernels": "unsloth"}),
        ({"ORPOTrainer": {}, "args": {"beta": 0.2}}, {"trainer": "trl-orpo", "beta": 0.2}),
        (
            {"GRPOConfig": {"max_completion_length": 48}},
            {"trainer": "trl-grpo", "batch": 4, "seq": 128, "prompt_seq": 80, "beta": 0.0, "num_generations": 8},
        ),
        (  # Unsloth takes num_generations where the batches of an update are no multiple, and a beta of its own
            {"GRPOConfig": {"num_generations": 6, "loss_type": "bnpo", "max_prompt_length": 16}},
            {"batch": 6, "seq": 528, "prompt_seq": 16, "beta": 0.001},
        ),
        ({"args": {"num_generations": 4, "max_completion_length": 64}}, {"trainer": "trl-grpo", "batch": 4}),
    ],
    ids=str,
)
def test_the_trainers_of_unsloth(blocks: dict[str, Any], keys: dict[str, Any], tmp_path: Path) -> None:
    """Witness: ``unsloth/models/rl.py`` of 2026.10.9: what it sets in place of the defaults of TRL's configs."""
    found = unsloth(blocks, tmp_path)
    assert found.error == ""
    assert {key: getattr(found.plan, key) for key in keys} == keys


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ({"PPOConfig": {}}, "PPO is no trainer with rules; known are SFT, DPO, KTO"),
        ({"SFTConfig": {}, "GRPOTrainer": {}}, "SFT and GRPO are two trainers; keep the blocks of one of them"),
    ],
)
def test_trainers_of_unsloth_that_have_no_answer(blocks: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        unsloth(blocks, tmp_path)


def test_unsloth_takes_float16_where_a_gpu_has_no_bfloat16(tmp_path: Path) -> None:
    """Witness: ``FastLlamaModel.from_pretrained``, and xFormers' attention, which its notebooks install on a T4.

    Where the GPU has bfloat16 the model is loaded in it, and Unsloth stops where the trainer asks for fp16.
    """
    four = {**UNSLOTH["from_pretrained"], "load_in_4bit": True}
    for asked in ({}, {"fp16": True}, {"bf16": True}):
        found = unsloth({"from_pretrained": four, "SFTConfig": asked}, tmp_path, device="t4")
        assert found.plan is not None, found.error
        assert (found.plan.autocast, found.plan.compute_dtype, found.plan.rest_dtype) == ("float16",) * 3
        assert (found.plan.sdpa_kernel, found.plan.dtype) == ("efficient", "nf4")
        assert found.result is not None
        assert not any("math kernel" in one for one in found.result.warnings)
    assert "Set fp16" in unsloth({"SFTConfig": {"fp16": True}}, tmp_path, device="rtx-4090").error
    wide = unsloth({"SFTConfig": {}}, tmp_path, device="rtx-4090").plan
    assert wide is not None
    assert (wide.autocast, wide.sdpa_kernel) == ("bfloat16", None)


def test_a_key_without_a_rule_is_said(tmp_path: Path) -> None:
    """By its whole name; one that is off is not."""
    model = {"_component_": "torchtune.models.llama3_2.lora_llama3_2_1b", "lora_attn_modules": ["q_proj"]}
    path = tmp_path / "train.yaml"
    for value, said in ((True, 1), (False, 0)):
        keys = {"model": model, "batch_size": 1, "tokenizer": {"max_seq_len": 64}, "compile": value}
        path.write_text(json.dumps(keys))
        assert sum(one.key == "compile" for one in check(str(path)).ignored) == said


def test_modules_that_torchtune_adapts(tmp_path: Path) -> None:
    """Witness: torchtune's builders: attention's by name, the MLP's and the output's by flags."""
    path = tmp_path / "train.yaml"
    model = {
        "_component_": "torchtune.models.llama3_2.lora_llama3_2_1b",
        "lora_attn_modules": ["q_proj", "output_proj"],
    }
    tokenizer = {"_component_": "t", "max_seq_len": 64}
    for flags, more in (({}, []), ({"apply_lora_to_mlp": True}, ["gate_proj", "up_proj", "down_proj"])):
        path.write_text(json.dumps({"model": {**model, **flags}, "tokenizer": tokenizer, "batch_size": 1}))
        found = check(str(path))
        assert sorted(found.plan.method.target_modules) == sorted(["q_proj", "o_proj", *more])
        assert found.plan.method.r == 8  # the builders' default


def test_tables_of_positions_that_torchtune_has(tmp_path: Path) -> None:
    """Witness: ``lora_llama3_1`` of torchtune 0.3.0 and of 0.3.1, each made with 4 layers, heads of 128 and 131,072
    positions: its buffers are 256.001 and 64.0002 MiB. The pairs' frequencies are the rest.
    """
    path = tmp_path / "train.yaml"
    model = {"_component_": "torchtune.models.llama3_1.lora_llama3_1_8b", "lora_attn_modules": ["q_proj", "v_proj"]}
    path.write_text(json.dumps({"model": model, "tokenizer": {"max_seq_len": 64}, "batch_size": 1}))
    why = next(one.why for one in check(str(path)).assumptions if one.key == "modules")
    assert "(64.00 MiB; before release 0.3.1 one a layer, 2.00 GiB)" in why


@pytest.mark.parametrize(("norm", "clips"), [(None, False), (0, True), (1.0, True), ("1e-1", True)])
def test_torchtune_clips_to_any_number(norm: Any, clips: bool, tmp_path: Path) -> None:
    """Witness: its recipes, which ask ``if self._clip_grad_norm is not None``."""
    path = tmp_path / "train.yaml"
    model = {"_component_": "torchtune.models.llama3_2.lora_llama3_2_1b", "lora_attn_modules": ["q_proj"]}
    keys = {"model": model, "tokenizer": {"max_seq_len": 64}, "batch_size": 1, "clip_grad_norm": norm}
    path.write_text(json.dumps(keys))
    assert check(str(path)).plan.gradient_clipping is clips


def test_words_that_are_flags_and_the_most_keys() -> None:
    """Each word that YAML's tools read as a flag, in either case; as many keys as a file may have, and one more."""
    words = {"true": True, "Yes": True, "ON": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    settings = Settings(words, Reading(""), "")
    assert {key: settings.flag(key) for key in words} == words
    most = {str(i): i for i in range(MOST_KEYS)}
    Settings(most, Reading(""), "")
    with pytest.raises(InputError, match="give 2,000 at most"):
        Settings({**most, "more": 0}, Reading(""), "")


def test_all_linear_layers_stay_a_word_with_peft(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    keys = {
        "model_name_or_path": AXOLOTL["base_model"],
        "max_length": 64,
        "use_peft": True,
        "lora_target_modules": "all-linear",
    }
    path.write_text(json.dumps(keys))
    assert check(str(path)).plan.method.target_modules == "all-linear"


@pytest.mark.parametrize(
    ("keys", "storage"),
    [
        ({**AXOLOTL, "adapter": "qlora", "load_in_4bit": True}, "bfloat16"),
        ({"model_name_or_path": AXOLOTL["base_model"], "max_length": 64, "load_in_4bit": True}, "uint8"),
        (
            {
                "model_name_or_path": AXOLOTL["base_model"],
                "max_length": 64,
                "load_in_4bit": True,
                "use_peft": True,
                "bnb_4bit_quant_storage": "torch.bfloat16",
            },
            "bfloat16",
        ),
        (
            {
                "model_name_or_path": AXOLOTL["base_model"],
                "finetuning_type": "lora",
                "template": "x",
                "cutoff_len": 64,
                "quantization_bit": 4,
                "fp16": True,
            },
            "float16",
        ),
    ],
)
def test_storage_of_packed_weights(keys: dict[str, Any], storage: str, tmp_path: Path) -> None:
    """Witness: the ``bnb_4bit_quant_storage`` that each tool gives to ``BitsAndBytesConfig``."""
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps(keys))
    assert check(str(path)).keys["quant_storage"] == storage


@pytest.mark.share(9)
def test_stages_of_llama_factory(tmp_path: Path) -> None:
    """``create_ref_model``: a full model's reference has the checkpoint's dtype, an adapter's is without it."""
    keys = {"model_name_or_path": "smollm-135m", "cutoff_len": 64, "bf16": True, "per_device_train_batch_size": 2}
    path = tmp_path / "train.yaml"

    def found(**more: Any) -> Checked:
        path.write_text(json.dumps({**keys, **more}))
        return check(str(path))

    lora = found(stage="dpo", pref_loss="hinge")
    assert (lora.keys["trainer"], lora.keys["loss_type"]) == ("llama-factory-dpo", "hinge")
    assert lora.result is not None
    assert "reference" not in lora.result.bytes
    full = found(stage="kto", finetuning_type="full")
    assert full.result is not None
    assert 2 * full.result.bytes["reference"] == full.result.bytes["parameters"]
    other = found(stage="dpo", ref_model="smollm-360m", ref_model_quantization_bit=4)
    assert (other.keys["reference"]["model"], other.keys["reference"]["dtype"]) == ("smollm-360m", "nf4")
    alone = found(stage="dpo", finetuning_type="full", pref_loss="orpo")
    assert alone.result is not None
    assert "reference" not in alone.result.bytes
    for stage, why in (("rm", "value head"), ("ppo", "generates"), ("dop", "not known")):
        with pytest.raises(InputError, match=why):
            found(stage=stage)


@pytest.mark.extra("trace")
@pytest.mark.share(12)
@pytest.mark.parametrize(
    ("tool", "keys", "expect"),
    [
        (
            "llama-factory", {"image_max_pixels": 3136, "template": "qwen2_vl"},
            {"images": 1, "image_size": (56, 56), "freeze": ("vision", "projector")},
        ),
        ("llama-factory", {"template": "llava"}, {"image_size": (768, 768), "freeze": ("vision", "projector")}),
        (
            "llama-factory", {"freeze_vision_tower": False, "freeze_language_model": True},
            {"images": 1, "freeze": ("projector", "language")},
        ),
        ("llama-factory", {}, {"images": None, "image_size": None, "freeze": ()}),
        ("axolotl", {"image_size": 56, "processor_type": "AutoProcessor"}, {"images": 1, "image_size": (56, 56)}),
        ("axolotl", {"image_size": [112, 56]}, {"images": 1, "image_size": (56, 112), "freeze": ()}),
        ("axolotl", {}, {"images": None}),
    ],
    ids=str,
)  # fmt: skip
def test_images(tool: str, keys: dict[str, Any], expect: dict[str, Any], tmp_path: Path) -> None:
    """Witness: ``ProcessorArguments`` and ``FinetuningArguments`` of LLaMA-Factory, ``MultiModalConfig`` of Axolotl,
    which has the width first.
    """
    model = write_config(tmp_path / "model", WITH_IMAGES["qwen2_vl"][0])
    own: dict[str, Any] = {"base_model": model, "sequence_len": 10_000, "micro_batch_size": 1}
    if tool == "llama-factory":
        own = {"model_name_or_path": model, "stage": "sft", "finetuning_type": "full", "cutoff_len": 10_000}
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**own, **keys}))
    found = check(str(path))
    assert found.plan is not None, found.error
    assert {key: getattr(found.plan, key) for key in expect} == expect
    left_open = [one.why for one in found.assumptions if "leaves the number" in one.why]
    assert len(left_open) == bool(found.plan.images)


def test_what_a_file_of_trl_says_is_repeated(tmp_path: Path) -> None:
    """Keys that set none of a plan's are assumptions, with the file's own values."""
    keys = {"completion_only_loss": True, "assistant_only_loss": True, "loss_type": "dft"}
    keys |= {"packing": True, "packing_strategy": "wrapped"}
    model = {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "max_length": 64}
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**model, **keys}))
    checked = check(str(path))
    said = {one.key: one.value for one in checked.assumptions}
    assert {key: said.get(key) for key in keys if key != "packing"} == {k: v for k, v in keys.items() if k != "packing"}


def test_images_of_a_model_that_looks_at_none(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, "image_size": 512}))
    found = check(str(path))
    assert found.plan is not None
    assert found.plan.images is None
    assert [one.why for one in found.ignored if one.key == "image_size"] == ["the model looks at no images"]


def test_a_file_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = b"model_name_or_path: gpt2\nper_device_train_batch_size: 3\nlearning_rate: 1.0e-4\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(arguments)))
    reading = read("-", "trl")
    assert (reading.plan["model"], reading.plan["batch"]) == ("gpt2", 3)
