"""What PEFT fills in from a model's config, and refuses where the config has no such key. Witness: PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers
from peft.utils.other import _prepare_prompt_learning_config
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.methods.prompts import PromptOptions
from estimator.methods.registry import METHODS
from estimator.plans.plan import parse_plan
from tests.cases.causal_classes import CLASSES

PROMPTS = {"num_virtual_tokens": 3}


def refused_by_peft(config: Any, **options: Any) -> str:
    """PEFT's words; empty where it takes the config."""
    try:
        _prepare_prompt_learning_config(peft.PromptTuningConfig(**PROMPTS, **options), config)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("options", [{}, {"token_dim": 8}], ids=["nothing given", "token_dim given"])
def test_every_causal_class(options: dict[str, Any]) -> None:
    """Witness: PEFT, which reads the config that transformers makes."""
    method = METHODS["prompt_tuning"](name="prompt_tuning", **PROMPTS, **options)
    assert isinstance(method, PromptOptions)
    different = []
    for family in sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *CLASSES} - {"gemma4_assistant"}):
        raw = {"model_type": family, **CLASSES.get(family, {})}
        said = ""
        try:
            method.check_config(raw)
        except InputError as error:
            said = str(error).removeprefix("PEFT refuses method prompt_tuning: ")
        if said != refused_by_peft(transformers.AutoConfig.for_model(**raw), **options):
            different.append((family, said))
    assert not different


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_a_state_space_model_has_no_heads(name: str, tmp_path: Path) -> None:
    """Witness: PEFT, whose words these are; where the user gives the heads it takes the model."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba", **CLASSES["mamba"]}), encoding="utf-8")
    plan: dict[str, Any] = {"model": str(tmp_path), "batch": 2, "seq": 9, "method": {"name": name, **PROMPTS}}
    with pytest.raises(InputError, match=f"PEFT refuses method {name}: Please specify `num_attention_heads` in"):
        estimate(parse_plan(plan))
    if name != "prefix_tuning":
        given = {**plan["method"], "num_attention_heads": 1}
        assert estimate(parse_plan({**plan, "method": given})).bytes["peak"]
