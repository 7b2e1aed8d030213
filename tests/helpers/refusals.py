"""What is not answered: one line that says what is wrong and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from tests.cases.small_models import write_config
from tests.cases.tables import REFUSED

RULES_OF = {
    "methods": ("lora_variants", "factors_and_rotations", "structured_updates", "prompts_and_subsets", "beft"),
    "bases": ("quantised_bases",),
    "plans": ("inference",),
    "steps": (
        *("memory_savings", "offloading", "activations_and_gradients", "optimizers", "trainer_loops"),
        *("sharding", "sharding_fsdp1", "tensor_parallel"),
    ),
}
"""The subjects of ``REFUSED`` by the folder whose rules refuse them."""
TRACED = ("psoft", {"name": "vblora"})
"""Methods of PEFT's without rules, whose plans are read where it is installed."""
LONGEST = 500
"""Characters of a line that a person still reads."""


def assert_one_line(text: str) -> None:
    """A message is one readable line: no line break, no escape sequence."""
    assert 0 < len(text) < LONGEST
    assert text.isprintable()


def assert_refused(keys: dict[str, Any], says: str, folder: Path, config: dict[str, Any] | None = None) -> None:
    """A plan is refused with a line that holds ``says``. Without a model it is of a small one, made of ``config``."""
    model = {} if "model" in keys else {"model": write_config(folder / "model", config or {})}
    with pytest.raises(InputError) as caught:
        estimate({**model, **keys})
    assert says in str(caught.value)
    assert_one_line(str(caught.value))


def refused_by(folder: str) -> list[Any]:
    """The cases of a test of a folder: a config, keys of a plan, and what the line says."""
    return [
        pytest.param(
            *row, id=f"{subject}-{row[2]}-{i}", marks=[pytest.mark.extra("trace")] * (row[1].get("method") in TRACED)
        )
        for subject in RULES_OF[folder]
        for i, row in enumerate(REFUSED[subject])
    ]
