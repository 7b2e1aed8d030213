"""PEFT's ``task_type``: which heads train as full copies beside the adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from tests.cases.small_models import write_config
from tests.helpers.measured_steps import assert_step

BERT = {
    "model_type": "bert",
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 100,
    "num_labels": 3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "num_hidden_layers": 2,
    "vocab_size": 300,
}
LABELLED = {"num_labels": 5, "pad_token_id": 0}
ROWS = {"batch": 2, "seq": 13, "dtype": "float32"}
SEQUENCES, TOKENS, ANSWERS = "sequence-classification", "token-classification", "question-answering"
LORA = {"name": "lora", "r": 4}


@pytest.mark.extra("trace")
@pytest.mark.parametrize(
    ("config", "head", "method"),
    [
        (LABELLED, SEQUENCES, {**LORA, "task_type": "SEQ_CLS"}),
        (LABELLED, SEQUENCES, {**LORA, "task_type": "SEQ_CLS", "target_modules": "all-linear"}),
        (LABELLED, SEQUENCES, {"name": "ia3", "task_type": "SEQ_CLS"}),
        (LABELLED, TOKENS, {**LORA, "task_type": "TOKEN_CLS"}),
        (BERT, SEQUENCES, {**LORA, "task_type": "SEQ_CLS"}),
        ({**BERT, "model_type": "roberta", "pad_token_id": 1}, SEQUENCES, {**LORA, "task_type": "SEQ_CLS"}),
        ({**BERT, "num_labels": 2}, ANSWERS, {**LORA, "task_type": "QUESTION_ANS", "target_modules": ["query"]}),
        (LABELLED, SEQUENCES, {**LORA, "task_type": "FEATURE_EXTRACTION"}),
    ],
    ids=str,
)
def test_heads_of_tasks_are_trained(config: dict[str, Any], head: str, method: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement of PEFT's own model."""
    assert_step(config, {**ROWS, "head": head, "method": method}, tmp_path)


def test_an_adapter_config_s_task_is_read(tmp_path: Path) -> None:
    """Witness: ``PeftModelForSequenceClassification``: a copy of ``score``, its gradient and two states."""
    file = tmp_path / "adapter_config.json"
    plan = {**ROWS, "model": write_config(tmp_path / "model", LABELLED), "head": SEQUENCES, "method": str(file)}

    def asked(task: str | None) -> dict[str, int]:
        file.write_text(json.dumps({"peft_type": "LORA", "r": 4, "task_type": task}))
        return dict(estimate(parse_plan(plan)).bytes)

    plain, causal, labelled = asked(None), asked("CAUSAL_LM"), asked("SEQ_CLS")
    hidden = json.loads((Path(plan["model"]) / "config.json").read_text())["hidden_size"]
    score = hidden * LABELLED["num_labels"] * 4
    assert causal == plain
    assert {key: labelled[key] - plain[key] for key in ("parameters", "gradients", "optimizer")} == {
        "parameters": score,
        "gradients": score,
        "optimizer": 2 * score + 4,
    }


def test_a_head_that_is_adapted_and_copied(tmp_path: Path) -> None:
    method = {**LORA, "task_type": "TOKEN_CLS", "target_modules": "all-linear"}
    model = write_config(tmp_path, LABELLED)
    with pytest.raises(InputError, match="has no rule where score is adapted, which PEFT copies with its adapter"):
        estimate(parse_plan({**ROWS, "model": model, "head": TOKENS, "method": method}))
