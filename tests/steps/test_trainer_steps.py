"""Steps of real trainers: what a plan says of them is what they take."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from estimator.plans import models
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve, step_of, window_of
from estimator.recorder.hugging_face import recorded_config
from estimator.steps.sharding.fsdp2 import Fsdp2
from estimator.steps.step import run
from estimator.witnesses.reference.sharding import as_rank
from tests.cases import trl_steps
from tests.cases.images_and_audio import WITH_IMAGES
from tests.cases.small_models import write_config
from tests.cases.trainer_loops import HF_TRAINER, TRAINERS
from tests.helpers.recordings import refuse
from tests.helpers.trainer_steps import assert_step_of, assert_trainer_step, hf_trainer, trl_sft

RECORDED = json.loads(trl_steps.RECORD.read_text(encoding="utf-8"))
SFT = [
    pytest.param(release, *case, id=f"{release}-{case[0]}") for release in RECORDED for case in trl_steps.cases(release)
]
INSTALLED = ".".join(version("trl").split(".")[:2]) if find_spec("trl") else None


@pytest.mark.share(6)
@pytest.mark.parametrize(("config", "plan"), [pytest.param(*case, id=name) for name, *case in TRAINERS])
def test_hf_trainer(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: ``Trainer.training_step``, clipping, the optimizer's step and ``zero_grad``."""
    assert_trainer_step(hf_trainer, config, {**HF_TRAINER, **plan}, tmp_path)


IMAGES: list[tuple[str, dict[str, Any]]] = [
    ("llava", {"attention": "eager"}),
    ("llava", {"autocast": "bfloat16", "convert_outputs_to_fp32": True, "dtype": "float32"}),
    ("qwen2_vl", {"checkpointing": "layer", "images": 2, "seq": 240}),
    ("gemma3", {"method": "lora", "freeze": ["vision"], "autocast": "bfloat16", "convert_outputs_to_fp32": True}),
    ("mistral3", {"method": "lora", "freeze": ["vision", "projector"], "checkpointing": "layer"}),
    ("internvl", {"dtype": "float32", "method": "lora"}),
]


@pytest.mark.share(24)
@pytest.mark.parametrize(("name", "plan"), IMAGES, ids=str)
def test_hf_trainer_of_a_model_that_looks_at_images(name: str, plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the same. The decoder makes a cache: ``Trainer`` turns it off in the larger model's config alone."""
    config, keys = WITH_IMAGES[name]
    assert_trainer_step(
        hf_trainer, config, {**HF_TRAINER, "trainer": "hf-trainer", "images": 1, **keys, **plan}, tmp_path
    )


BERT = {"model_type": "bert", "num_labels": 2, "pad_token_id": 0}
HEADS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (BERT, {"head": "sequence-classification", "dtype": "float32"}),
    (BERT, {"head": "token-classification", "dtype": "float32", "autocast": "bfloat16", "checkpointing": "layer"}),
    (BERT, {"head": "question-answering", "method": {"name": "lora", "target_modules": ["query", "value"]}}),
    (BERT, {"head": "masked-lm", "dtype": "float32"}),
    (BERT, {"head": "masked-lm", "dtype": "float32", "autocast": "bfloat16", "checkpointing": "layer"}),
    ({"model_type": "distilbert"}, {"head": "masked-lm", "dtype": "float32"}),
    ({"model_type": "electra", "embedding_size": 32, "num_labels": 1}, {"head": "sequence-classification"}),
    (
        {**BERT, "model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1},
        {"head": "token-classification", "dtype": "float32"},
    ),
    (
        {"model_type": "qwen2", "num_labels": 3, "pad_token_id": 0},
        {"head": "sequence-classification", "method": "lora"},
    ),
]


@pytest.mark.share(3)
@pytest.mark.parametrize(("config", "plan"), HEADS, ids=str)
def test_hf_trainer_of_heads_that_shift_no_labels(
    config: Any, plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Witness: the same. The batch is a collator's, with ``token_type_ids`` where a tokenizer makes them. The programs
    are those that come with the package.
    """
    monkeypatch.setattr(models, "_live", refuse)
    keys = {**HF_TRAINER, "trainer": "hf-trainer", "batch": 3, "seq": 40, "data_collator": True, **plan}
    assert_trainer_step(hf_trainer, config, keys, tmp_path)


@pytest.mark.parametrize(
    ("adapted", "options"),
    [
        (None, {}),
        ({}, {}),
        ({"modules_to_save": ["lm_head"]}, {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}),
    ],
    ids=["plain", "lora", "saved"],
)
def test_groups_of_hf_trainer_under_fsdp2(adapted: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """Witness: ``Trainer.train``, told that it has a GPU, without which accelerate shares no model."""
    from accelerate.state import AcceleratorState, DistributedType, PartialState
    from peft import LoraConfig, get_peft_model
    from torch.distributed.fsdp import FSDPModule
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    class State(PartialState):  # type: ignore[misc,unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.__dict__["distributed_type"] = DistributedType.MULTI_GPU

    config = LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    model: Any = LlamaForCausalLM(config)
    start = ""
    if adapted is not None:
        model, start = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **adapted)), "base_model.model."
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with (
            patch.dict(os.environ, {**ranks, "ACCELERATE_USE_CPU": "1"}),
            patch("accelerate.state.PartialState", State),
            patch("transformers.training_args.PartialState", State),
            as_rank(Fsdp2(name="fsdp2", world_size=2)),
        ):
            args = TrainingArguments(
                output_dir=str(tmp_path), use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no",
                disable_tqdm=True, max_steps=1, fsdp=True, fsdp_config=options,
            )  # fmt: skip
            data = [{"input_ids": [1, 2], "labels": [1, 2]}] * 16
            Trainer(model=model, args=args, train_dataset=data).train()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    norm = [] if adapted is not None else ["model.norm"]
    names = ["model.embed_tokens", "model.layers.0", "model.layers.1", *norm, "lm_head"]
    found = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    assert found == ["", *[f"{start}{name}" for name in names]]


@pytest.mark.share(4)
@pytest.mark.parametrize(("release", "name", "config", "plan"), SFT)
def test_trl_recorded(release: str, name: str, config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: TRL's ``SFTTrainer.training_step``, measured where that release is installed."""
    keys = {"model": write_config(tmp_path, config), **plan, "loss": trl_steps.LOSSES[release]}
    assert_step_of(parse_plan(keys), RECORDED[release]["steps"][name])


@pytest.mark.witness
@pytest.mark.skipif(INSTALLED is None, reason="needs TRL, which no extra brings: make witness installs it")
@pytest.mark.parametrize(("release", "name", "config", "plan"), SFT)
def test_trl(release: str, name: str, config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the installed TRL's ``SFTTrainer.training_step``."""
    if release != INSTALLED:
        pytest.skip(f"TRL {INSTALLED} is installed")
    assert_trainer_step(trl_sft, config, {**plan, "loss": trl_steps.LOSSES[release]}, tmp_path)


@pytest.mark.share(3)
@pytest.mark.consistency
@pytest.mark.parametrize("attention", ["sdpa", "flash"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_packed_rows_on_a_gpu(family: str, attention: str, tmp_path: Path) -> None:
    """A packed row of a hand-written model takes what the recording of its real module takes."""
    keys = {"batch": 3, "seq": 40, "packing": True, "attention": attention, "checkpointing": "layer", "method": "lora"}
    model = write_config(tmp_path, {"model_type": family})
    plan = parse_plan({"model": model, "device": "h100-80gb", **keys})
    written = resolve(plan)
    config = recorded_config(written.spec.raw, model)
    method = plan.method.build(config, plan.dtype)
    step = step_of(plan, config, window_of(config, method))
    recorded = Resolved(plan, replace(written.spec, read=config), method, step)
    totals = [run(one.step, one.sizes(), one.method, plan.batch, plan.seq) for one in (written, recorded)]
    assert totals[0].saved == totals[1].saved
    assert max(map(max, totals[0].moments.values())) == max(map(max, totals[1].moments.values()))
