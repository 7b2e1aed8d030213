"""Virtual tokens, norms and frozen layers against the trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.formulas import regimes
from estimator.answers.validation import validate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from tests.cases.small_models import write_config

PROMPT = {"name": "prompt_tuning", "num_virtual_tokens": 7}
P_TUNING = {"name": "p_tuning", "num_virtual_tokens": 9}
PREFIX = {"name": "prefix_tuning", "num_virtual_tokens": 7}
ADAPTION = {"name": "adaption_prompt", "adapter_len": 5, "adapter_layers": 2}
LN = {"name": "ln_tuning"}
FREEZE = {"name": "freeze", "top_layers": 2}
NARROW = {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 20}


@pytest.mark.share(6)
@pytest.mark.parametrize("method", [PROMPT, P_TUNING, {**PREFIX, "prefix_projection": True}, {**ADAPTION}, LN, FREEZE])
def test_trace(method: dict[str, Any], tmp_path: Path) -> None:
    """Witness: trace. Saved bytes in every regime, a window among them, and the counts."""
    model = write_config(tmp_path, {**NARROW, "num_hidden_layers": 5})
    plan = parse_plan({"model": model, "dtype": "bfloat16", "method": method})
    assert validate(plan).equal
    assert {regime.window for regime in regimes(plan)} == {24 - method.get("num_virtual_tokens", 0)}


def test_every_layer_may_train_and_no_more() -> None:
    block = {"name": "freeze", "train_head": False}
    estimate("smollm2-135m", seq=8, method={**block, "top_layers": 30})
    with pytest.raises(InputError, match="top_layers 31: the model has 30 layers"):
        estimate("smollm2-135m", seq=8, method={**block, "top_layers": 31})
