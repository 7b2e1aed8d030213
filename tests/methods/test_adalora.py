"""AdaLoRA: its importance, what trains by release, and its default modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from tests.cases.small_models import write_config

ADALORA: dict[str, Any] = {"name": "adalora", "init_r": 6, "total_step": 10}


def test_adalora_on_a_gpu_counts_the_importance(tmp_path: Path) -> None:
    """Witness: PEFT's documentation: the loop is to call ``update_and_allocate``. The reference step does not."""
    model = write_config(tmp_path / "model", {})
    plan = {"model": model, "batch": 2, "seq": 40, "method": ADALORA}
    cpu, gpu, without = (
        estimate(parse_plan({**plan, **more}))
        for more in (
            {},
            {"runtime": "torch-cuda"},
            {"runtime": "torch-cuda", "method": {**ADALORA, "update_and_allocate": False}},
        )
    )
    ranknums = 4 * 2 * resolve(parse_plan(plan)).spec.config.num_hidden_layers
    assert gpu.bytes["optimizer"] - without.bytes["optimizer"] == 3 * (gpu.bytes["adapters"] - ranknums)
    assert gpu.bytes["allocated_peak"] - without.bytes["allocated_peak"] >= 3 * (gpu.bytes["adapters"] - ranknums)
    assert any("update_and_allocate: true counts them" in line for line in cpu.warnings)
    assert not any("update_and_allocate" in line for line in (*gpu.warnings, *without.warnings))
    assert all(any("from PEFT 0.21 on" in line for line in one.warnings) for one in (cpu, gpu, without))


def test_adalora_by_release(tmp_path: Path) -> None:
    """Witness: ``requires_grad`` of ``ranknum`` in PEFT 0.10 to 0.21.2: it trains from 0.21 on, on a 16-bit base."""
    model = write_config(tmp_path / "model", {"num_hidden_layers": 2})
    found = {}
    for given in ("0.13.2", "0.20.0", "0.19.2.dev0@d787f51b", "0.21.0", "1.0"):
        plan = parse_plan({"model": model, "seq": 40, "method": {**ADALORA, "peft_version": given}})
        found[given] = estimate(plan)
    trainable = {given: result.trainable_parameters for given, result in found.items()}
    assert trainable["0.21.0"] == trainable["1.0"] == trainable["0.20.0"] + 4
    assert trainable["0.13.2"] == trainable["0.20.0"] == trainable["0.19.2.dev0@d787f51b"]
    assert found["0.20.0"].bytes["saved"] < found["0.21.0"].bytes["saved"]
    for wrong in (0.2, "new", "21"):
        with pytest.raises(InputError, match="peft_version: must be a release of PEFT"):
            parse_plan({"model": model, "method": {**ADALORA, "peft_version": wrong}})


def test_adalora_has_no_defaults_for_mistral(tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {"model_type": "mistral"})
    with pytest.raises(InputError, match="no default target_modules"):
        resolve(parse_plan({"model": model, "method": ADALORA}))


def test_the_orthogonality_loss_is_added_for_causal_models(tmp_path: Path) -> None:
    """By hand: of both factors of two layers' two projections the product with itself, less the identity, and its norm
    are kept, however many tokens there are."""
    model = write_config(tmp_path / "model", {"num_hidden_layers": 2})
    for seq in (40, 41):
        plain, causal = (
            estimate(parse_plan({"model": model, "seq": seq, "method": {**ADALORA, "task_type": task}})).bytes
            for task in (None, "CAUSAL_LM")
        )
        assert causal["saved"] - plain["saved"] == 2 * 2 * 2 * (6 * 6 + 1) * 4
