"""Programs of small modules, line by line as they were recorded: ``tests/data/recorded_lines.json``.

Each case is a question whose answer needs recordings. Everything that is recorded for it is kept, a few digits of a
checksum for each line. ``python -m tests.cases.recorded_programs`` writes the file anew. That a program is right is
shown by measured steps; here it is what it was.
"""

from __future__ import annotations

import json
import string
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cases import recorded_families, recorded_functions
from tests.cases.causal_classes import CLASSES
from tests.cases.generate_calls import ENCODER_DECODERS
from tests.cases.images_and_audio import ALONE, WITH_IMAGES
from tests.cases.recorded_families import CLASSES as FAMILIES
from tests.helpers.files import DATA

RECORD = DATA / "recorded_lines.json"
PACKAGES = ("torch", "transformers", "accelerate", "peft")
"""What the lines depend on. Under other releases they are not compared."""
INFER = {"task": "infer"}
LORA = {"name": "lora", "r": 4, "target_modules": ["q_proj"]}
ENCODER: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
BERT = {"model_type": "bert", **ENCODER}
T5 = {"model_type": "t5", **ENCODER_DECODERS["t5"], "num_layers": 2, "num_hidden_layers": 2, "num_decoder_layers": 2}


def causal(model_type: str, **keys: Any) -> dict[str, Any]:
    """The config.json of a small model of a class."""
    return {"model_type": model_type, **CLASSES[model_type], **keys}


def generate(**block: Any) -> dict[str, Any]:
    """A call of ``generate``."""
    return {"generate": {"max_new_tokens": 3, **block}}


QUESTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gpt2": (causal("gpt2"), {}),
    "llama, many layers": (causal("llama", num_hidden_layers=7), {"autocast": "bfloat16", "attention_mask": True}),
    "gemma 3, window": (causal("gemma3_text"), {"seq": 12, "attention": "eager"}),
    "llama, two processes": (
        causal("llama", num_attention_heads=4, num_key_value_heads=2),
        {"sharding": {"world_size": 2, "tp": 2}, "dtype": "bfloat16"},
    ),
    "mixtral, all experts": (causal("mixtral"), {"experts_implementation": "eager", "routing": "worst"}),
    "qwen 3 with experts": (causal("qwen3_moe"), {"dtype": "bfloat16", "experts_implementation": "batched_mm"}),
    "deepseek": (causal("deepseek_v3"), INFER),
    "bamba, in chunks": (causal("bamba"), {"seq": 23}),
    "qwen 3.5, delta": (causal("qwen3_5_text"), {"seq": 9}),
    "mamba, token by token": (causal("mamba"), {"seq": 5}),
    "big bird": (causal("big_bird"), {"seq": 24}),
    "longrope": (
        causal("phi3", rope_scaling={"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [1.5] * 6},
               original_max_position_embeddings=32),
        INFER,
    ),
    "dynamic rope": (causal("llama", rope_scaling={"rope_type": "dynamic", "factor": 2.0}), {"seq": 70}),
    "packed": (causal("olmo2"), {"packing": True, "seq": 8}),
    "flash attention": (
        causal("llama", num_attention_heads=4, head_dim=16),
        {"attention": "flash", "runtime": "torch-cuda", "device": "rtx-4090", "dtype": "bfloat16"},
    ),
    "checkpoints, cache": (causal("gpt_bigcode"), {"checkpointing": "layer", "use_cache": True}),
    "static cache": (causal("gemma2"), generate(cache_implementation="static")),
    "quantized cache": (causal("llama"), generate(cache_implementation="quantized", max_new_tokens=2)),
    "beams": (causal("mistral"), {**generate(num_beams=2, max_new_tokens=9), "seq": 12}),
    "bert, words": ({**BERT, "architectures": ["BertForMaskedLM"]}, {"attention_mask": True}),
    "bert, labels": ({**BERT, "num_labels": 3}, {"head": "sequence-classification"}),
    "bert, one label": ({**BERT, "num_labels": 1}, {"head": "sequence-classification", "attention": "eager"}),
    "bert, questions": (BERT, {"head": "question-answering", "autocast": "bfloat16"}),
    "bert, vectors": (BERT, {"head": "feature-extraction", **INFER}),
    "llama, labels": (causal("llama", pad_token_id=0, num_labels=3), {"head": "sequence-classification"}),
    "t5": (T5, {"target_seq": 5, "checkpointing": "layer"}),
    "t5, labels": ({**T5, "num_labels": 3, "eos_token_id": 1}, {"head": "sequence-classification"}),
    "t5, beams": (T5, generate(num_beams=2)),
    "whisper": (ALONE["whisper"][0], {**generate(), "seq": None}),
    "wav2vec 2": (ALONE["wav2vec2"][0], {**ALONE["wav2vec2"][1], "seq": None}),
    "bert of audio": (ALONE["wav2vec2-bert"][0], {**ALONE["wav2vec2-bert"][1], "seq": None}),
    "speech to text": (ALONE["speech_to_text"][0], {**ALONE["speech_to_text"][1], "seq": None}),
    "vit": (ALONE["vit"][0], {"seq": None, "freeze": "base_model"}),
    "llava": (WITH_IMAGES["llava"][0], {**WITH_IMAGES["llava"][1], "images": 1}),
    "llava, asked": (WITH_IMAGES["llava"][0], {**WITH_IMAGES["llava"][1], "images": 1, **generate()}),
    "gemma 3 with images": (WITH_IMAGES["gemma3"][0], {**WITH_IMAGES["gemma3"][1], "images": 2, "freeze": "vision"}),
    "qwen 3 with images": (WITH_IMAGES["qwen3_vl"][0], {**WITH_IMAGES["qwen3_vl"][1], "images": 1}),
    "smolvlm": (WITH_IMAGES["smolvlm"][0], {**WITH_IMAGES["smolvlm"][1], "images": 1, "batch": 1}),
    "oft": (causal("llama"), {"method": {"name": "gralora", "r": 8, "target_modules": ["q_proj", "o_proj"]}}),
    "psoft": (causal("llama"), {"method": {"name": "psoft", "r": 4, "target_modules": ["down_proj"]}}),
    "adamss": (
        causal("llama"), {"method": {"name": "adamss", "r": 4, "num_subspaces": 3, "target_modules": ["q_proj"]}},
    ),
    "cartridge": (causal("llama"), {"method": {"name": "cartridge", "num_virtual_tokens": 3}, "attention_mask": True}),
    "vblora, cast": (
        causal("qwen2"),
        {"dtype": "bfloat16", "adapter_dtype": "float32",
         "method": {"name": "vblora", "r": 2, "num_vectors": 8, "vector_length": 16, "target_modules": ["q_proj"]}},
    ),
}  # fmt: skip
"""A config.json and a plan, by what is looked at."""


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "gpt2": (causal("gpt2"), {}, True),
    "gemma 2": (causal("gemma2"), {"attention_mask": True}, True),
    "gpt-oss": (causal("gpt_oss"), {"trains": False}, True),
    "bamba": (causal("bamba"), {"packing": True}, False),
    "mixtral": (
        causal("mixtral"),
        {"trains": False, "use_cache": True, "cache": "dynamic", "device": "cuda", "past": "decode",
         "experts_implementation": "batched_mm"},
        True,
    ),
    "mistral": (causal("mistral"), {"trains": False, "use_cache": True, "cache": "dynamic"}, True),
    "nemotron, norms without autocast": (causal("nemotron"), {}, True),
}  # fmt: skip
"""A config.json, what differs from the default setting, and whether there is a cache: programs for all settings."""
TRAINED: dict[str, dict[str, Any]] = {
    "penalty": {},
    "teacher": {"kind": "taught", "bf16": True, "adapted": True},
    "no cache": {"kind": "plain", "gradient_checkpointing": True, "gradient_accumulation_steps": 3},
    "last tokens": {"kind": "last"},
    "rewards": {"kind": "rewarded"},
    "generates": {"kind": "generates"},
    "fused": {"kind": "fused"},
}
"""Trainers of ``trainer_of``."""


def trainer_of(folder: Path, kind: str = "confident", adapted: bool = False, **more: Any) -> Any:
    """A trainer with a loss of its own."""
    import peft
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        GenerationConfig,
        Trainer,
        TrainingArguments,
    )

    def config(hidden: int, **keys: Any) -> Any:
        return AutoConfig.for_model(
            "qwen2", hidden_size=hidden, num_attention_heads=4, num_key_value_heads=2, intermediate_size=80,
            num_hidden_layers=1, vocab_size=97, pad_token_id=0, **keys,
        )  # fmt: skip

    class Own(Trainer):  # type: ignore[misc]
        """Its step."""

        def __init__(self, *args: Any, **keys: Any) -> None:
            super().__init__(*args, **keys)
            if kind == "taught":
                self.ref_model = AutoModelForCausalLM.from_config(config(48)).eval()
                self.teacher_model = AutoModelForCausalLM.from_config(config(64)).eval()
            if kind == "rewarded":
                scores = [AutoModelForSequenceClassification.from_config(config(32, num_labels=n)) for n in (1, 2)]
                self.reward_funcs = [*scores, len]
            if kind in ("rewarded", "generates"):
                self._buffered_inputs: Any = None

        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            if kind == "generates" and self.state.global_step >= 0:
                with torch.no_grad():
                    asked = GenerationConfig(max_new_tokens=3, use_cache=False)
                    prompt = {key: x[:, :4] for key, x in inputs.items() if key != "labels"}
                    ids = model.generate(**prompt, generation_config=asked)
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
            return super().training_step(model, inputs, *rest)

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs["labels"]
            if kind == "last":
                out = model(**{key: x for key, x in inputs.items() if key != "labels"}, logits_to_keep=5)
                return out.logits.float().logsumexp(-1).mean() + torch.linalg.vector_norm(out.logits[0])
            if kind == "rewarded":
                out = model(**inputs)
                with torch.no_grad():
                    scores = [m(input_ids=inputs["input_ids"]).logits[:, 0] for m in self.reward_funcs[:2]]
                return out.loss * torch.stack(scores).sum(0).mean()
            if kind == "taught":
                given = {key: x for key, x in inputs.items() if key != "labels"}
                out = model(**inputs)
                with torch.no_grad():
                    others = [m(**given).logits for m in (self.ref_model, self.teacher_model)]
                    if adapted:
                        with model.disable_adapter():
                            others.append(model(**given).logits)
                target = torch.stack(others).mean(0).softmax(-1)
                return torch.nn.functional.kl_div(out.logits.log_softmax(-1), target, reduction="batchmean")
            if kind == "fused":
                base = model.get_base_model() if hasattr(model, "get_base_model") else model
                hidden = base.model(**{key: x for key, x in inputs.items() if key != "labels"}).last_hidden_state
                chosen = hidden[labels != -100]
                logits = chosen @ base.lm_head.weight.T
                rows = torch.cat([logits.narrow(0, i, 2) for i in range(0, 6, 2)])
                return torch.nn.functional.cross_entropy(rows, labels[labels != -100][:6], reduction="sum")
            out = model(**inputs)
            if kind == "confident":
                likely = out.logits.float().log_softmax(-1)
                for row in range(len(labels)):
                    likely = likely + likely[row].exp().sum() * labels.shape[1]
                return out.loss - 0.01 * likely.sum(-1).mean()
            return out.loss

    model: Any = AutoModelForCausalLM.from_config(config(48))
    if adapted:
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], per_device_train_batch_size=3, max_steps=3,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, **more,
    )  # fmt: skip
    row = {"input_ids": [5] * 11, "attention_mask": [1] * 11, "labels": [-100] * 4 + [5] * 7}
    return Own(model=model, args=arguments, train_dataset=[row] * 60)


def lines_of(program: Any) -> Iterator[str]:
    """What a program says, in lines: one for each event and each tensor."""
    for field in fields(program):
        value = getattr(program, field.name)
        rows = sorted(value.items()) if isinstance(value, Mapping) else [value]
        rows = sorted(value) if isinstance(value, frozenset) else [*value] if isinstance(value, tuple) else rows
        for i, row in enumerate(rows):
            events = row.events if hasattr(row, "events") else [row]
            yield from (f"{field.name} {i}: {event}" for event in events)


class Noted:
    """Within it, what is recorded is noted, and no program that is shipped is used."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._stack = ExitStack()

    def _watch(self, place: Any, name: str, program_of: Callable[[Any], Any] = lambda found: found) -> None:
        real = getattr(place, name)

        def noted(*args: Any, **keys: Any) -> Any:
            found = real(*args, **keys)
            self.lines += [f"-- {name}", *lines_of(program_of(found))]
            return found

        self._stack.enter_context(mock.patch.object(place, name, noted))

    def __enter__(self) -> Noted:
        from estimator.answers import user_modules
        from estimator.plans import models
        from estimator.recorder import hugging_face, trainer_object, user_module, user_step

        self._stack.enter_context(mock.patch.object(models, "programs_of", return_value=[]))
        self._stack.enter_context(mock.patch.object(hugging_face, "_CONFIGS", {}))
        self._watch(hugging_face.HuggingFaceModel, "_record")
        self._watch(user_module.Own, "_record")
        self._watch(trainer_object, "record_trainer_step")
        self._watch(user_step, "record_step", lambda found: found[0])
        assert user_modules
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()


def of_question(config: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> list[str]:
    """What is recorded for a plan, and what its estimate is."""
    import estimator

    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    keys = {"model": str(folder), "batch": 2, "seq": 7, "dtype": "float32", **plan}
    with Noted() as noted:
        answer = estimator.estimate(**{key: value for key, value in keys.items() if value is not None})
    return [*noted.lines, *(f"{name}: {size}" for name, size in answer.bytes.items())]


def of_setting(config: Mapping[str, Any], keys: Mapping[str, Any], cached: bool, _: Path) -> list[str]:
    """A program for all settings."""
    from estimator.programs.setting import Setting
    from estimator.recorder.hugging_face import HuggingFaceModel

    live = HuggingFaceModel(config, "the config")
    return [*lines_of(live.of_all_settings(Setting(**keys), 2, 9, cached))]


def of_sizes(config: Mapping[str, Any], reached: bool, _: Path) -> list[str]:
    """A program in the batch and the sequence, within a window or beyond it."""
    from estimator.ledger.sizes import symbol
    from estimator.programs.step import Step
    from estimator.recorder.hugging_face import HuggingFaceModel

    step = Step(config["model_type"], "bfloat16", window_reached=reached)
    return [*lines_of(HuggingFaceModel(config, "the config").at(step, symbol("B"), symbol("S")))]


def of_trainer(keys: Mapping[str, Any], folder: Path) -> list[str]:
    """A trainer's step, and what is written of its models."""
    from estimator.recorder.trainer_object import recorded

    with Noted() as noted:
        own = recorded(trainer_of(folder / "output", **keys), folder)
    others = {name: dtype for name, (_, dtype) in own.others.items()}
    return [*noted.lines, *map(str, (own.model, own.reference, own.rows, _in_order(own.keys), own.every, others))]


def _in_order(keys: dict[str, Any]) -> dict[str, Any]:
    """Keys whose adapted modules, which PEFT has as a set, are in order."""
    method = keys["method"]
    return {**keys, "method": {**method, "target_modules": sorted(method.get("target_modules", ()))}}


def cases() -> dict[str, Callable[[Path], list[str]]]:
    """What is recorded, by a name."""
    found: dict[str, Callable[[Path], list[str]]] = {}
    found |= {name: partial(of_question, *asked) for name, asked in QUESTIONS.items()}
    found |= {f"settings of {name}": partial(of_setting, *asked) for name, asked in SETTINGS.items()}
    found |= {f"trainer: {name}": partial(of_trainer, keys) for name, keys in TRAINED.items()}
    found |= {f"family: {name}": partial(recorded_families.lines_of_family, one) for name, one in FAMILIES.items()}
    found |= {
        "functions": recorded_functions.lines_of_functions,
        "inputs": recorded_functions.lines_of_inputs,
        "cases": recorded_functions.lines_of_cases,
    }
    windowed = causal("gemma3_text", num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
    found |= {f"sizes, {word} the window": partial(of_sizes, windowed, beyond) for word, beyond in _SIDES}
    return found


_SIDES = (("within", False), ("beyond", True))
_DIGITS = string.ascii_letters + string.digits + "+-"


def checksums(lines: list[str]) -> str:
    """Two digits for each line."""
    sums = (zlib.crc32(line.encode()) for line in lines)
    return "".join(_DIGITS[x & 63] + _DIGITS[x >> 6 & 63] for x in sums)


def difference(lines: list[str], recorded: str) -> str:
    """The first line that is another one than was recorded; empty where none is."""
    now = checksums(lines)
    for number, line in enumerate(lines):
        if (place := slice(2 * number, 2 * number + 2)) and now[place] != recorded[place]:
            before = lines[max(number - 1, 0)]
            return f"line {number} of {len(recorded) // 2}, after\n  {before}\nis now\n  {line}"
    return "" if now == recorded else f"{len(recorded) // 2} lines were recorded; the last now is\n  {lines[-1]}"


def main() -> None:
    """Write the lines of today."""
    found = {}
    for name, lines_of_case in cases().items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = checksums(lines_of_case(Path(folder)))
    record = {"versions": {name: version(name) for name in PACKAGES}, "lines": found}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
