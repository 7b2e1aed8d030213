"""Methods of PEFT whose programs are recorded: against the method's own rules, and against a measured step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.methods.lora import Lora
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.recorder.peft_adapters import RecordedMethod, _raised_by_peft, wrapped_config
from estimator.steps.step import run
from estimator.witnesses.measure import run_step
from tests.cases.causal_classes import CLASSES
from tests.cases.method_examples import EXAMPLES
from tests.cases.small_models import write_config
from tests.helpers.figures import TOTALS, assert_figures, figures_of_step

SIZES = {"num_hidden_layers": 5, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
"""One layer more than are run."""
TARGETS = {"target_modules": ["q_proj", "down_proj"]}


def recorded(resolved: Resolved) -> dict[str, Any]:
    """The step of a plan, run from a recording of PEFT's module."""
    plan = resolved.plan
    config = wrapped_config(resolved.spec.raw, "the model", plan.method.inner)
    sizes = config.sizes(lambda layer: None, resolved.step, plan.batch, plan.seq)
    return figures_of_step(resolved.step, sizes, RecordedMethod(config), plan.batch, plan.seq)


def resolved_plan(
    tmp_path: Path, method: dict[str, Any], dtype: str, keys: Mapping[str, Any] = {}, **config: Any
) -> Resolved:
    model = write_config(tmp_path / "model", {**SIZES, **config})
    return resolve(parse_plan({"model": model, "batch": 2, "seq": 8, "dtype": dtype, "method": method, **keys}))


@pytest.mark.share(3)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("lora", "bfloat16"), ("adalora", "float32"), ("trainable_tokens", "bfloat16"), ("oft", "float32"),
     ("fourierft", "bfloat16"), ("prefix_tuning", "bfloat16")],
)  # fmt: skip
def test_methods_with_rules(name: str, dtype: str, tmp_path: Path) -> None:
    """Witness: the method's rules, which measurement has proved. Every total, moment and allocation is equal."""
    resolved = resolved_plan(tmp_path, EXAMPLES[name][-1], dtype)
    of_rules = figures_of_step(resolved.step, resolved.sizes(), resolved.method, 2, 8)
    of_program = recorded(resolved)
    assert of_program == of_rules


@pytest.mark.share(2)
@pytest.mark.parametrize("family", ["lfm2", "qwen3_5_text", "granitemoehybrid", "gpt_oss", "lfm2_moe", "gemma4_text"])
def test_parameters_of_three_dimensions_that_are_not_adapted(family: str, tmp_path: Path) -> None:
    """Witness: PEFT's module. The first two have convolutions alone, and PEFT adapts no experts of the others."""
    config = {"model_type": family, **CLASSES[family]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    method = {"name": "lora", "r": 4, "target_modules": "all-linear"}
    resolved = resolve(parse_plan({"model": str(tmp_path), "batch": 2, "seq": 9, "method": method}))
    assert isinstance(resolved.method, Lora)
    of_rules = figures_of_step(resolved.step, resolved.sizes(), resolved.method, 2, 9)
    of_program = recorded(resolved)
    assert of_program == of_rules


def test_a_router_that_gives_two_tensors_takes_no_adapter(tmp_path: Path) -> None:
    """Witness: PEFT, whose layer asks the tuple for its dtype."""
    config = {"model_type": "llama4_text", **CLASSES["llama4_text"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    block = {"name": "lora", "r": 4, "target_modules": "all-linear"}
    resolved = resolve(parse_plan({"model": str(tmp_path), "batch": 2, "seq": 9, "method": block}))
    with pytest.raises(InputError, match="router gives several tensors, which PEFT's adapters do not take"):
        run(resolved.step, resolved.sizes(), resolved.method, 2, 9)
    with pytest.raises(InputError, match="'tuple' object has no attribute 'dtype'"):
        recorded(resolved)
    plan = {"model": str(tmp_path), "batch": 2, "seq": 9, "method": {**block, "exclude_modules": ["router"]}}
    resolved = resolve(parse_plan(plan))
    of_rules = figures_of_step(resolved.step, resolved.sizes(), resolved.method, 2, 9)
    of_program = recorded(resolved)
    assert of_program == of_rules


def test_singular_vectors_are_laid_out_as_on_the_device(tmp_path: Path) -> None:
    """Witness: a published run on a GPU. There Vh has rows, and PSOFT's A is a view of all; LAPACK's has columns."""
    block = {"name": "psoft", "r": 4, "target_modules": ["q_proj"]}
    plans = ({}, {"runtime": "torch-cuda", "device": "l40s"})
    steps = [resolved_plan(tmp_path, block, "bfloat16", keys) for keys in plans]
    held = [run(one.step, one.sizes(), one.method, 2, 8).buffers for one in steps]
    assert held[1] - held[0] == SIZES["num_hidden_layers"] * 4 * (64 * 64 - 4 * 64)


BLOCKS: list[dict[str, Any]] = [
    {"name": "gralora", "r": 8, "target_modules": ["q_proj", "o_proj"]},
    {"name": "unilora", **TARGETS},
    {"name": "vblora", "r": 2, "num_vectors": 8, "vector_length": 16, **TARGETS},
    {"name": "psoft", "r": 4, **TARGETS},
    {"name": "supertuning", **TARGETS},
    {"name": "cartridge", "num_virtual_tokens": 3},
]


@pytest.mark.share(9)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["name"])
def test_methods_without_rules(block: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement. What is held and what is saved are equal to the byte, and so is the peak."""
    config = {"intermediate_size": 96, "num_hidden_layers": 3}
    resolved = resolved_plan(tmp_path, block, "bfloat16", **config)
    totals, measured = recorded(resolved), run_step(resolved)
    figures = {name: totals[name] for name in TOTALS if name not in ("adapters", "moments")}
    figures["peak"] = max(value for peaks in totals["moments"].values() for value in peaks)
    witness = {name: measured[name] for name in figures if name != "peak"}
    assert_figures(figures, {**witness, "peak": measured["peak_without_matmul_scratch"]})


def test_who_raises_an_error() -> None:
    """PEFT on purpose, or PyTorch for want of data."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    raised = []
    for ask in (
        lambda: peft.LoraConfig(layers_to_transform=[1], target_modules="q"),
        lambda: torch.empty(2, device="meta").item(),
    ):
        with pytest.raises((ValueError, RuntimeError)) as error:
            ask()
        raised.append(_raised_by_peft(error.value))
    assert [*raised, _raised_by_peft(ValueError("never raised"))] == [True, False, False]
