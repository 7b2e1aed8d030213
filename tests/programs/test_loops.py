"""Loops within a layer, such as that of a gated delta rule over chunks of tokens: one pass is counted for many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.answers.inverse import FEW_CHUNKS, solve
from estimator.answers.result import COMPONENTS
from estimator.engines.torch_cuda import passes
from estimator.engines.torch_cuda.process import log_step
from estimator.errors import InputError
from estimator.ledger.sizes import symbol
from estimator.plans.margins import NO_MARGIN
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.programs import repeats
from estimator.programs.program import Call, Drop, Made, Ref, Repeat, dropped, end_pass, free_slots, made
from estimator.steps.step import run
from tests.cases.small_models import write_config
from tests.helpers.measured_steps import assert_pass, assert_step

CONFIG: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [11, 11, 10],
        "mrope_interleaved": True,
    },
}
GIB = 1 << 30
LORA = {"name": "lora", "target_modules": "all-linear", "r": 3}
STEPS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": LORA},
    "checkpointed": {"method": LORA, "checkpointing": "layer"},
    "two layers a checkpoint": {"method": "full", "checkpointing": "every-2"},
    "bfloat16": {"method": LORA, "dtype": "bfloat16"},
    "accumulated": {"method": "full", "gradient_accumulation_steps": 2},
    "eager": {"method": LORA, "attention": "eager", "autocast": "bfloat16"},
}


def resolved(tmp_path: Path, **keys: Any) -> Resolved:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return resolve(parse_plan({"model": str(path), "batch": 2, "dtype": "float32", **keys}))


@pytest.mark.share(6)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("keys", [STEPS["full"], STEPS["checkpointed"]], ids=["full", "checkpointed"])
def test_a_step_of_many_chunks(keys: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement. Eleven chunks, of which nine are alike; the last one is short."""
    assert_step(CONFIG, {"batch": 2, "seq": 690, "dtype": "float32", **keys}, tmp_path)


@pytest.mark.extra("trace")
def test_a_forward_pass_of_many_chunks(tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_pass(CONFIG, {"seq": 690}, tmp_path)


BAMBA: dict[str, Any] = {
    "model_type": "bamba",
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_layer_indices": [1],
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 32,
}


@pytest.mark.extra("trace")
@pytest.mark.parametrize("seq", [21, 32, 53], ids=["a padded chunk", "one chunk", "a chunk and a padded one"])
def test_chunks_of_a_state_space_layer(seq: int, tmp_path: Path) -> None:
    """Witness: measurement. Padded tokens keep the order that a convolution gave them, so one chunk has no copy."""
    assert_step(BAMBA, {"batch": 2, "seq": seq, "dtype": "float32"}, tmp_path)


@pytest.mark.extra("trace")
def test_a_refused_formula_names_the_chunk_s_size(tmp_path: Path) -> None:
    plan = parse_plan({"model": write_config(tmp_path / "model", BAMBA), "seq": 40})
    with pytest.raises(InputError, match="does not go with mamba_chunk_size"):
        compile_plan(plan)


@pytest.mark.share(2)
@pytest.mark.consistency
@pytest.mark.parametrize("name", STEPS)
def test_a_counted_pass_is_all_passes(name: str, tmp_path: Path) -> None:
    """The ledger that counts a pass of the loop has the totals of one that runs all."""
    of = resolved(tmp_path, seq=900, **STEPS[name])
    counted = estimate(of.plan)
    step = of.step._replace(previous_output=False)
    whole = of.step.ledger(unrolled=True)
    run(step, of.sizes(), of.method, 2, 900, ledger=whole)
    assert max(whole.peaks.values()) == counted.bytes["peak_above_resident"]


@pytest.mark.consistency
def test_any_length_takes_as_long(tmp_path: Path) -> None:
    """The ledger makes as many tensors for a million tokens as for ten thousand, and saved bytes grow evenly."""
    found = [
        estimate(resolved(tmp_path, seq=seq, method=LORA).plan).bytes["saved"] for seq in (64_000, 128_000, 1_024_000)
    ]
    assert found[2] - found[1] == 14 * (found[1] - found[0])
    logs = [
        log_step(resolved(tmp_path, seq=seq, method=LORA, runtime="torch-cuda"), 2, seq) for seq in (10_000, 1_000_000)
    ]
    assert max(len(log.events.order) for log in logs) < 4000


@pytest.mark.share(2)
@pytest.mark.consistency
@pytest.mark.parametrize(
    "keys", [{"method": LORA}, {"method": LORA, "checkpointing": "layer"}, {"task": "infer"}], ids=str
)
def test_a_gpu_s_replay_counts_passes(keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated is that of a replay of all passes, and what is reserved is within 2.5 % of it."""
    plan = resolved(tmp_path, seq=64 * 60, runtime="torch-cuda", **keys).plan
    counted = estimate(plan.model_copy(update={"seq": 64 * (passes.MOST_PASSES + 20)}))
    monkeypatch.setattr(passes, "MOST_PASSES", 1000)
    whole = estimate(plan.model_copy(update={"seq": 64 * 80}))
    assert any("stands for" in warning for warning in counted.warnings)
    assert not any("stands for" in warning for warning in whole.warnings)
    assert counted.bytes["allocated_peak"] == whole.bytes["allocated_peak"]
    assert counted.bytes["reserved_peak"] == pytest.approx(whole.bytes["reserved_peak"], rel=0.025)


@pytest.mark.share(6)
@pytest.mark.consistency
@pytest.mark.parametrize("name", STEPS)
def test_a_formula_in_chunks(name: str, tmp_path: Path) -> None:
    """Of sequences of whole chunks, from as many on as have passes that are alike, totals are polynomials."""
    plan = resolved(tmp_path, seq=640, **STEPS[name]).plan
    compiled = compile_plan(plan, chunk=64)
    totals = compiled.function([size for _, size in compiled.moments])
    for chunks in (FEW_CHUNKS, 100, 4321):
        components, moments = totals({**compiled.given, "C": chunks})
        found = dict(zip(COMPONENTS, components, strict=True)) | {"peak_above_resident": max(moments)}
        expected = estimate(plan.model_copy(update={"seq": 64 * chunks})).bytes
        assert {key: found[key] for key in found.keys() & expected.keys()} == {
            key: expected[key] for key in found.keys() & expected.keys()
        }


@pytest.mark.share(2)
@pytest.mark.consistency
@pytest.mark.parametrize("question", ["max-seq", "max-batch"])
def test_the_largest_value_is_found_from_a_formula(
    question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few estimates beside the formula find it, and no run: the answer fits and the next value does not."""
    monkeypatch.delattr("estimator.answers.inverse.live_result")
    plan = resolved(tmp_path, seq=640, method=LORA).plan.model_copy(update={"budget": "30GiB"})
    found = solve(question, plan, margin=NO_MARGIN)
    assert found.answer is not None
    assert found.estimates < 14
    sizes = [estimate(plan.model_copy(update={found.key: found.answer + more})).bytes["process"] for more in (0, 1)]
    assert sizes[0] <= 30 * GIB < sizes[1]


def test_what_a_pass_leaves_is_renamed() -> None:
    """A pass takes slot 10 of the one before it, makes 13 for the next one and 14 for itself."""
    events = (
        Call("add", (Ref(10), Ref(3)), (), (Made(14, (2,), "float32"),)),
        Call("add", (Ref(14), Ref(10)), (), (Made(13, (2,), "float32"),)),
        Drop(10),
        Drop(14),
    )
    loop = Repeat(5, 10, 3, events)
    assert [*made(loop)] == [11, 10]
    assert [*dropped(loop)] == [10, 11]
    assert free_slots([loop]) == [10, 3]
    frame = {3: "outside", 13: "state"}
    end_pass(loop, frame)
    assert frame == {3: "outside", 10: "state"}


def test_loops_that_are_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """All passes of a loop are at most so many events; a loop whose passes are no number stays."""
    loop = Repeat(3, 10, 2, (Drop(10), Drop(11)))
    monkeypatch.setattr(repeats, "MOST_REPEATED", 6)
    assert repeats.all_passes(loop) == ([Drop(slot) for slot in range(10, 16)], 3)
    several = loop._replace(count=symbol("C"))
    assert repeats.all_passes(several) == ([several], 0)
    monkeypatch.setattr(repeats, "MOST_REPEATED", 5)
    with pytest.raises(InputError, match="a loop of 3 passes is too long"):
        repeats.all_passes(loop)
