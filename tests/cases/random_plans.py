"""Plans at random: methods, savings, optimizers and precisions together. Some of them are refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from estimator.methods.registry import METHODS
from tests.cases.method_examples import EXAMPLES
from tests.cases.small_models import FAMILIES

CHOICES: dict[str, tuple[Any, ...]] = {
    "dtype": ("float32", "float32", "bfloat16", "float16", "nf4", "int8"),
    "attention": ("sdpa", "eager"),
    "checkpointing": ("none", "none", "layer", "every-2", "attention", "matmul"),
    "loss": ("standard", "standard", "chunked", "liger", "cce"),
    "mlp_chunks": (1, 1, 3),
    "saved_activations": ("as-is", "as-is", "int8", "int4"),
    "optimizer": ("adamw", "adamw", "sgd", "sgd-momentum", "adamw-8bit", "adamw-fused", "adafactor", "lion", "muon"),
    "keep_logits": (True, False),
    "gradient_accumulation_steps": (1, 1, 2),
    "attention_mask": (False, False, True),
    "autocast": (None, None, None, "float16"),
}


def random_plans(seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Config keys and plan keys, without end."""
    chance = random.Random(seed)
    while True:
        family = chance.choice(list(FAMILIES))
        config = {
            "model_type": family,
            "num_hidden_layers": chance.choice([2, 3, 5, 6]),
            "vocab_size": chance.choice([311, 640]),
            "tie_word_embeddings": chance.random() < 0.3,
        }
        plan = {key: chance.choice(values) for key, values in CHOICES.items()}
        plan["method"] = chance.choice(EXAMPLES[chance.choice(list(METHODS))])
        plan |= {"batch": chance.choice([1, 2, 3]), "seq": chance.choice([9, 24, 40])}
        yield config, plan
