"""Every method of PEFT on small models of several families, against measured steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from tests.cases.causal_classes import CLASSES
from tests.cases.peft_methods import OF_MODULES, OTHERS, block
from tests.cases.small_models import write_config
from tests.helpers.measured_steps import assert_step

pytestmark = pytest.mark.extra("trace")
METHODS = ["bd-lora", *OF_MODULES, *OTHERS]
SHARE = [("osf", "llama"), ("bd-lora", "llama"), ("lily", "falcon"), ("tinylora", "mamba"), ("vblora", "gemma2"),
         ("osf", "bloom"), ("miss", "falcon"), ("gralora", "falcon"), ("waveft", "llama"),
         ("frod", "llama"), ("cpt", "llama"), ("cpt", "falcon"), ("adamss", "llama"), ("deft", "llama")]  # fmt: skip


def check(method: str, family: str, tmp_path: Path) -> None:
    """Compare a step with the measured one."""
    if method == "adamss":
        pytest.importorskip("sklearn")
    config = {**CLASSES[family], "model_type": family}
    assert_step(config, {"batch": 2, "seq": 9, "dtype": "float32", "method": block(method, family)}, tmp_path)


@pytest.mark.share(8)
@pytest.mark.parametrize(("method", "family"), SHARE)
def test_a_share(method: str, family: str, tmp_path: Path) -> None:
    """Witness: measurement, of methods that are recorded."""
    check(method, family, tmp_path)


@pytest.mark.witness
@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, family: str, tmp_path: Path) -> None:
    """Witness: measurement."""
    if (method, family) == ("ln_tuning", "phi3"):
        pytest.skip("PEFT has no default target_modules for it")
    check(method, family, tmp_path)


@pytest.mark.parametrize(
    ("family", "method", "said"),
    [
        ("gpt2", block("boft", "gpt2"), "PEFT refuses method boft: Target module c_attn, a Conv1D, is not supported"),
        ("gpt2", block("miss", "gpt2"), "PEFT refuses method miss: Target module c_attn, a Conv1D, is not supported"),
        ("gpt2", block("lily", "gpt2"), "PEFT refuses method lily: Lily does not support target modules"),
        (
            "minicpm3",
            {"name": "gralora", "r": 4, "target_modules": ["kv_b_proj", "kv_a_proj_with_mqa"]},
            "PEFT's method gralora does not run in this model: too many values to unpack",
        ),
        ("mamba", {"name": "lora", "target_modules": ["out_proj"]}, "is incompatible with Mamba-based models"),
        ("gpt2", block("hira", "gpt2"), "HiRA on a Conv1D"),
        ("llama", {"name": "poly", "r": 4, "n_tasks": 2}, "method poly needs task_ids beside the tokens"),
    ],
)
def test_what_is_refused(family: str, method: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Witness: PEFT's own refusals, but for HiRA's, which has no rule, and what a step lacks."""
    model = write_config(tmp_path / "model", {**CLASSES[family], "model_type": family})
    with pytest.raises(InputError) as error:
        estimate(parse_plan({"model": model, "batch": 2, "seq": 9, "dtype": "float32", "method": method}))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_osf_says_from_which_release_on(tmp_path: Path) -> None:
    """The answer of a method whose bytes changed names the installed release and the change."""
    model = write_config(tmp_path / "model", {**CLASSES["llama"], "model_type": "llama"})
    found = estimate(parse_plan({"model": model, "batch": 2, "seq": 9, "method": block("osf", "llama")}))
    assert any("PEFT 0." in text and "from 0.21 on" in text for text in found.warnings)
