"""Methods of PEFT whose programs are recorded: against the method's own rules, and against a measured step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.methods.patterns import spelt_out
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.programs.interpreter import RecordedCausalLM
from estimator.programs.live_peft import LivePeft, RecordedMethod
from estimator.programs.recorded import RecordedSizes
from estimator.programs.sizes import Run, runs_of
from estimator.steps import step as steps
from estimator.steps.step import StepTotals, run
from estimator.witnesses.measure import run_step
from tests.cases.method_examples import EXAMPLES
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures

SIZES = {"num_hidden_layers": 5, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
"""One layer more than are run."""
TARGETS = {"target_modules": ["q_proj", "down_proj"]}
TOTALS = ("parameters", "adapters", "buffers", "gradients", "optimizer", "saved", "trainable_parameters", "moments")


def recorded(resolved: Resolved, monkeypatch: pytest.MonkeyPatch) -> StepTotals:
    """The step of a plan, run from a recording of PEFT's module."""
    plan: Plan = resolved.plan
    method: Any = plan.method.inner
    source = LivePeft(
        resolved.spec.raw,
        "the model",
        method.peft_type or method.name.upper(),
        lambda paths: spelt_out(method.peft_options(), paths),
        getattr(method, "adapter_dtype", None) in ("float32", None),
    )
    program = source.at(resolved.step, plan.batch, plan.seq)
    runs = tuple(Run(start, count) for start, count in runs_of(program.kinds))
    sizes: Any = RecordedSizes(source, program, runs, 64)
    with monkeypatch.context() as patch:
        patch.setattr(steps, "program", lambda _: RecordedCausalLM)
        return run(resolved.step, sizes, RecordedMethod(program), plan.batch, plan.seq)


def resolved_plan(tmp_path: Path, method: dict[str, Any], dtype: str, **config: Any) -> Resolved:
    model = write_config(tmp_path / "model", {**SIZES, **config})
    return resolve(parse_plan({"model": model, "batch": 2, "seq": 8, "dtype": dtype, "method": method}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    ["lora", "adalora", "trainable_tokens", "loha", "oft", "boft", "fourierft", "randlora", "prefix_tuning"],
)
def test_methods_with_rules(name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: the method's rules, which measurement has proved. Every total and every moment is equal."""
    resolved = resolved_plan(tmp_path, EXAMPLES[name][-1], dtype)
    of_rules = run(resolved.step, resolved.sizes(), resolved.method, 2, 8)
    of_program = recorded(resolved, monkeypatch)
    assert {key: getattr(of_program, key) for key in TOTALS} == {key: getattr(of_rules, key) for key in TOTALS}


BLOCKS: list[dict[str, Any]] = [
    {"name": "gralora", "r": 8, "target_modules": ["q_proj", "o_proj"]},
    {"name": "unilora", **TARGETS},
    {"name": "vblora", "r": 2, "num_vectors": 8, "vector_length": 16, **TARGETS},
    {"name": "psoft", "r": 4, **TARGETS},
    {"name": "supertuning", **TARGETS},
    {"name": "cartridge", "num_virtual_tokens": 3},
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["name"])
def test_methods_without_rules(block: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: measurement. What is held and what is saved are equal to the byte, and so is the peak."""
    config = {"intermediate_size": 96, "num_hidden_layers": 3}
    resolved = resolved_plan(tmp_path, block, "bfloat16", **config)
    totals, measured = recorded(resolved, monkeypatch), run_step(resolved)
    figures = {name: getattr(totals, name) for name in (*TOTALS[:1], *TOTALS[2:-1])}
    figures["peak"] = max(value for peaks in totals.moments.values() for value in peaks)
    witness = {name: measured[name] for name in figures if name != "peak"}
    assert_figures(figures, {**witness, "peak": measured["peak_without_matmul_scratch"]})
