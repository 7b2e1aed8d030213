"""The table of all classes is whole, and a share of its rows is measured again (``make witness``: all)."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.cases.causal_classes import CLASSES, WHY_NOT
from tests.cases.head_classes import WHY_APART
from tests.helpers.coverage import HEADS_ASKED, VARIANTS, check, classes_of, read_table, variants_of

ROWS = {(row.head, row.name, row.variant): row for row in read_table()[1]}
SHARE = [(name, list(VARIANTS)[i % len(VARIANTS)]) for i, name in enumerate(sorted(CLASSES)[5::20])]
"""Every twentieth class, each in another variant."""
UNUSUAL = [
    ("dbrx", "full float32"),  # runs its experts one by one
    ("dory", "LoRA float32"),  # has a linear layer with a parameter of its own
    ("gemma3n_text", "checkpointed float32"),  # layers share keys and values, and are given a tuple
    ("glm_moe_dsa", "checkpointed float32"),  # layers give the next one two tensors
    ("hunyuan_v1_moe", "full bfloat16"),  # has a linear layer in float32
    ("hrm_text", "checkpointed float32"),  # runs its layers several times, some of them without a graph
    ("zamba2", "checkpointed float32"),  # has checkpoints within checkpoints
    ("prophetnet", "checkpointed float32"),  # ends its layers with a layer norm
    ("ctrl", "checkpointed float32"),  # has no checkpoints
]
"""Of what few classes have, one each."""


def test_rows_are_of_classes_that_are_there() -> None:
    """All causal ones are asked; the page says how many of another head are not yet."""
    asked = {
        (head, name, v) for head in ("causal-lm", *HEADS_ASKED) for name in classes_of(head) for v in variants_of(head)
    }
    assert set(ROWS) <= asked
    assert {row for row in asked if row[0] == "causal-lm"} <= set(ROWS)


def test_what_is_not_equal_is_explained() -> None:
    causal = [row for row in ROWS.values() if row.head == "causal-lm"]
    assert {row.name for row in causal if row.found not in ("equal", "neither")} == set(WHY_NOT)
    others = [row for row in ROWS.values() if row.head != "causal-lm"]
    assert {row.name for row in others if row.found == "apart"} == set(WHY_APART)
    assert all(row.reason for row in others if row.found not in ("equal", "apart"))


@pytest.mark.share(3)
@pytest.mark.parametrize(("name", "variant"), [*SHARE, *UNUSUAL])
def test_a_row_is_what_is_measured_now(name: str, variant: str, tmp_path: Path) -> None:
    """Witness: measurement."""
    row = check("causal-lm", name, variant, str(tmp_path))
    assert row._replace(differences=()) == ROWS["causal-lm", name, variant]._replace(differences=()), row.differences
