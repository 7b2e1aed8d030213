"""TRL's trainers with a small model and rows of equal length, as a plan has them. Needs PyTorch and TRL."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from ..errors import InputError
from ..steps.trainers import TRAINERS, Trainer

_PLACES = {
    "trl-sft": ("trl", "SFT"),
    "trl-dpo": ("trl", "DPO"),
    "trl-kto": ("trl", "KTO"),
    "trl-reward": ("trl", "Reward"),
    "trl-orpo": ("trl.experimental.orpo", "ORPO"),
    "trl-cpo": ("trl.experimental.cpo", "CPO"),
    "trl-grpo": ("trl", "GRPO"),
    "trl-rloo": ("trl", "RLOO"),
    "trl-gkd": ("trl.experimental.gkd", "GKD"),
    "trl-distillation": ("trl", "Distillation"),
}
"""Where each trainer is, and how its classes begin."""


def trainer_of(
    name: str,
    config: Mapping[str, Any],
    folder: Path,
    batch: int,
    seq: int,
    prompt_seq: int,
    dtype: str = "float32",
    peft_config: Any = None,
    reference: Mapping[str, Any] | None = None,
    unequal: bool = False,
    reward_models: Sequence[Mapping[str, Any]] = (),
    teacher: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """A trainer by the plan's name, of a model of a ``config.json`` with random weights, which is written to a folder.

    A row has ``seq`` tokens, of which ``prompt_seq`` are the prompt. ``arguments`` are those of its config's class. The
    vocabulary has words 3 and up; of GRPO's and RLOO's completions no one ends early. ``reference`` has the config of
    another model, and its ``dtype``, and so have ``reward_models``, which score completions, and ``teacher``. Of
    ``unequal`` rows the longest has ``seq`` tokens. Raises ``InputError`` where TRL is not installed, or has no such
    trainer.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    module, prefix = _PLACES[name]
    try:
        classes = importlib.import_module(module)
        arguments_class, trainer_class = getattr(classes, f"{prefix}Config"), getattr(classes, f"{prefix}Trainer")
    except (ImportError, AttributeError) as error:
        raise InputError(f"{name} needs TRL with {module}.{prefix}Trainer: pip install trl ({error})") from None
    config = {key: value for key, value in config.items() if key != "transformers_version"}
    read = AutoConfig.for_model(**{**config, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1})
    auto: Any = AutoModelForCausalLM
    if name == "trl-reward":
        read.num_labels, auto = 1, AutoModelForSequenceClassification
    auto.from_config(read, dtype=getattr(torch, dtype)).save_pretrained(folder / "model")
    tokenizer = tokenizer_of(read.vocab_size)
    tokenizer.save_pretrained(folder / "model")
    new = seq - prompt_seq
    rows = _rows(name, batch * 8, prompt_seq, new, min(read.vocab_size - 3, 50), (0, 3, 7, 11) if unequal else (0,))
    given = {
        "output_dir": str(folder / "output"),
        "use_cpu": True,
        "report_to": [],
        "per_device_train_batch_size": batch,
        "max_steps": 2,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": dtype},
        **_lengths(name, seq, new),
        **arguments,
    }
    more: dict[str, Any] = {"reward_funcs": _reward} if _trainer(name).scores else {}
    for argument, second in (("ref_model", reference), ("teacher_model", teacher)):
        if second is not None:
            own = AutoConfig.for_model(**{**second["config"], "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1})
            more[argument] = auto.from_config(own, dtype=getattr(torch, second["dtype"])).eval()
    scores: list[Any] = []
    for one in reward_models:
        own = AutoConfig.for_model(**{**one["config"], "pad_token_id": 0, "num_labels": 1})
        made = AutoModelForSequenceClassification.from_config(own, dtype=getattr(torch, one["dtype"]))
        scores.append(made.eval())
    if scores:
        more |= {"reward_funcs": scores, "reward_processing_classes": [tokenizer] * len(scores)}
    own_place = importlib.import_module(trainer_class.__module__)
    with mock.patch.object(own_place, "VLLMGeneration", _Vllm) if given.get("use_vllm") else nullcontext():
        trainer = trainer_class(
            model=str(folder / "model"),
            args=arguments_class(**given),
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            peft_config=peft_config,
            **more,
        )
    if name == "trl-gkd":  # no completion ends early
        trainer.generation_config.min_new_tokens = new
    if name == "trl-kto":  # half of each batch is desirable
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    return trainer


class _Vllm:
    """In place of TRL's ``VLLMGeneration``: completions of the most tokens, each with its log-probability."""

    def __init__(self, *, max_completion_length: int, **_: Any) -> None:
        self.new = max_completion_length

    def sync_weights(self) -> None:
        """Copy the policy's weights, where there is an engine."""

    def generate(self, prompts: list[Any], *_: Any, **__: Any) -> tuple[Any, ...]:
        """Prompts, completions, and what each token's most likely ones had."""
        return prompts, [[3] * self.new for _ in prompts], [[[-1.0]] * self.new for _ in prompts], None


def _trainer(name: str) -> Trainer:
    """What a plan of it means. That of ``trl-sft``, which is not recorded, has neither pairs nor generations."""
    return TRAINERS.get(name, Trainer())


def _lengths(name: str, seq: int, new: int) -> dict[str, Any]:
    if name == "trl-gkd":
        return {"max_length": seq, "max_new_tokens": new}
    if _trainer(name).num_generations:
        return {"max_completion_length": new, "generation_kwargs": {"min_new_tokens": new}}
    return (
        {"max_length": 2 * seq, "max_completion_length": None}
        if name in ("trl-orpo", "trl-cpo")
        else {"max_length": None}
    )


def _reward(completions: list[Any], **_: Any) -> list[float]:
    return [float(i % 3) for i, _ in enumerate(completions)]


def _rows(
    name: str, count: int, prompt: int, new: int, words: int, fewer: Sequence[int] = (0,)
) -> dict[str, list[Any]]:
    """Prompts of so many tokens, and completions of so many, the last of which ends the text.

    ``fewer``: tokens that the completions of each batch lack, one after the other.
    """

    def text(length: int, start: int) -> str:
        return " ".join(f"w{3 + (i * 7 + start) % words}" for i in range(length))

    lacks = [fewer[i % len(fewer)] for i in range(count + 1)]
    space = " " if _trainer(name).num_generations else ""  # behind which the words of a completion are words
    rows: dict[str, list[Any]] = {"prompt": [text(prompt, i) + space for i in range(count)]}
    if _trainer(name).pairs:
        rows["chosen"] = [" " + text(new - 1 - lacks[i], i + 1) for i in range(count)]
        rows["rejected"] = [" " + text(new - 1 - lacks[i + 1] // 2, i + 2) for i in range(count)]
    elif name == "trl-kto":
        rows["completion"] = [" " + text(new - 1 - lacks[i], i + 1) for i in range(count)]
        rows["label"] = [i % 2 == 0 for i in range(count)]
    elif name == "trl-sft":
        rows["completion"] = [" " + text(new - 1, i + 1) for i in range(count)]
    elif name == "trl-gkd":
        said = [(one, " " + text(new - lacks[i], i + 1)) for i, one in enumerate(rows.pop("prompt"))]
        rows["messages"] = [[{"role": "user", "content": x}, {"role": "assistant", "content": y}] for x, y in said]
    return rows


def tokenizer_of(vocab: int, padding_side: str = "left", **keys: Any) -> Any:
    """A tokenizer of whole words. ``keys`` are more of its class's."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, vocab)}}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="<eos>", pad_token="<pad>", padding_side=padding_side,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
        **keys,
    )  # fmt: skip
