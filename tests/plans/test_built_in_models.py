"""The built-in models against transformers: each spec's number of parameters is that of the module it describes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from estimator.plans.models import builtin_names, load
from estimator.plans.recorded_programs import model_types


def one_of_each_class() -> list[str]:
    """The smallest model of every ``model_type``."""
    specs = sorted((load(name) for name in builtin_names()), key=lambda spec: -(spec.parameters or 0))
    return sorted({spec.raw["model_type"]: spec.name for spec in specs}.values())


def counted(raw: dict[str, Any]) -> int:
    """Parameters of the module on the meta device, tied weights counted once."""
    keys = {key: value for key, value in raw.items() if key != "torch_dtype"}
    rope = keys.get("rope_parameters", {})
    if rope.get("rope_type") == "longrope" and "long_factor" not in rope:  # frequencies are buffers
        keys["rope_parameters"] = {**rope, "rope_type": "default"}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**keys))
    return sum(p.numel() for p in model.parameters())


SHARE = one_of_each_class()


@pytest.mark.share(2)
@pytest.mark.parametrize("name", SHARE)
def test_parameters_of_one_model_of_each_class(name: str) -> None:
    """Witness: transformers' module on the meta device."""
    spec = load(name)
    assert counted(dict(spec.raw)) == spec.parameters


@pytest.mark.witness
@pytest.mark.parametrize("name", sorted(set(builtin_names()) - set(SHARE)))
def test_parameters_of_the_other_models(name: str) -> None:
    """Witness: transformers' module on the meta device."""
    spec = load(name)
    assert counted(dict(spec.raw)) == spec.parameters


def test_families_with_programs_are_model_types() -> None:
    """Witness: transformers' table of causal classes. A family's text model may have a type of its own."""
    found = model_types()
    known = {*transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    assert {"granitemoehybrid", "nemotron_h", "lfm2"} <= {*found} <= known
    assert found == sorted(set(found))
