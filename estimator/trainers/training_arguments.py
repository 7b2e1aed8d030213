"""transformers' ``TrainingArguments`` as JSON, such as a script writes with ``to_json_string``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import hugging_face
from .settings import Reading, Settings

TOOL = "transformers 5.24"
MARKS = frozenset({"per_device_train_batch_size", "per_gpu_train_batch_size", "num_train_epochs", "max_steps", "optim"})
"""Keys by which a file is known, where it has no key of another tool."""


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What a Trainer does with these arguments. Raises ``InputError``."""
    reading = Reading(TOOL, plan={"trainer": "hf-trainer"})
    settings = Settings(keys, reading, where)
    if (model := settings.text("model_name_or_path", "model_name", "model")) is not None:
        settings.say("model", model, "model_name_or_path", "model_name", "model")
    hugging_face.read(settings)
    if (dtype := settings.dtype("torch_dtype", "dtype")) is not None:
        settings.say("dtype", dtype, "torch_dtype", "dtype")
    hugging_face.attention(settings, "attn_implementation")
    settings.whole_of("seq", "max_seq_length", "max_length", "block_size", "model_max_length")
    settings.finish()
    return reading
