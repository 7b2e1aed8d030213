"""BEFT: its steps, its formulas and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest

from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.methods.registry import METHODS, read_adapter_config
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve

from .cases import write_config
from .measured import assert_step

SMALL = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 16, "num_attention_heads": 6}
QWEN2 = {**SMALL, "model_type": "qwen2", "num_key_value_heads": 2}
QWEN3 = {**SMALL, "model_type": "qwen3", "num_hidden_layers": 4}


def plan_of(batch: int, seq: int, dtype: str, options: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"batch": batch, "seq": seq, "dtype": dtype, "method": {"name": "beft", **options}, **keys}


ALL = {"target_modules": "all-linear"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": (SMALL, plan_of(2, 33, "float32", {})),
    "all": (QWEN2, plan_of(3, 17, "bfloat16", ALL, attention="eager")),
    "16-bit": (QWEN3, plan_of(2, 31, "float16", {"adapter_dtype": "float16", "modules_to_save": ["norm"]})),
    "recomputed": (QWEN3, plan_of(1, 40, "bfloat16", {"target_modules": ".*1.mlp.*_proj"}, checkpointing="layer")),
    "autocast": (SMALL, plan_of(2, 33, "float32", {**ALL}, autocast="bfloat16")),
}


@pytest.mark.parametrize(("config", "plan"), CASES.values(), ids=CASES)
def test_step(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_step(config, plan, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_formulas(dtype: str, tmp_path: Path) -> None:
    """Witness: the formula itself, with B and S open, against a step with numbers."""
    model = write_config(tmp_path / "model", {**SMALL, "num_hidden_layers": 6})

    def plan(batch: int, seq: int) -> Plan:
        return parse_plan({"model": model, **plan_of(batch, seq, dtype, ALL)})

    for batch, seq in ((2, 40), (3, 200), (1, 90)):
        formulas, expected = compile_plan(plan(batch, seq)).evaluate(batch, seq), estimate(plan(batch, seq)).bytes
        assert all(formulas[key] == expected[key] for key in ("peak", "saved", "buffers"))


def test_adapter_config(tmp_path: Path) -> None:
    """Witness: PEFT, which writes its defaults, and they are ours."""
    peft.PEFT_TYPE_TO_CONFIG_MAPPING["BEFT"]().save_pretrained(tmp_path)
    options = METHODS["beft"]
    assert options.model_validate(read_adapter_config(tmp_path)) == options(name="beft")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "embedding": ({"target_modules": ["embed_tokens"]}, "linear layers only; take embed_tokens"),
    "exclude": ({"exclude_modules": ["q_proj"]}, "must be left out"),
    "rank": ({"r": 4}, "unknown key 'method.r' of method beft"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Witness: what PEFT's layer and configuration class refuse."""
    with pytest.raises(InputError) as error:
        resolve(parse_plan({"model": write_config(tmp_path / "model", SMALL), **plan_of(1, 8, "float32", options)}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
