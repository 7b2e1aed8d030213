"""Inference: one forward pass over whole prompts, on a CPU and on a GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.comparison import REQUIRED, compare
from estimator.answers.estimate import estimate
from estimator.answers.inverse import smallest_device, solve
from estimator.answers.validation import validate
from estimator.engines.torch_cuda.process import Process
from estimator.errors import InputError
from estimator.ledger import ITEMSIZE
from estimator.methods.registry import METHODS
from estimator.operators.cuda.cublas import WORKSPACE_BYTES
from estimator.plans.margins import Margin
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.show.cli import main
from tests.cases import tensor_parallel
from tests.cases.inference import BIASES, LORA, OTHERS, SHAPES
from tests.cases.published_runs import Run
from tests.cases.recorded_bytes import published
from tests.cases.small_models import FAMILIES
from tests.helpers.measured_steps import assert_pass

MODEL = "llama-3.2-1b"
GRID = [
    (family, dtype, attention)
    for family in FAMILIES
    for dtype in ("float32", "bfloat16", "float16")
    for attention in ("sdpa", "eager")
]


@pytest.mark.share(6)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("number", range(len(GRID)), ids=["-".join(case) for case in GRID])
def test_families(number: int, tmp_path: Path) -> None:
    """Witness: measurement. Mistral's sequences lie on both sides of its window."""
    family, dtype, attention = GRID[number]
    batch, seq = SHAPES[number % len(SHAPES)]
    config = {"model_type": family, "num_hidden_layers": 2 + number % 5, "vocab_size": (611, 19)[number // 2 % 2]}
    plan = {"dtype": dtype, "attention": attention, "batch": batch, "seq": seq}
    switches = {"use_cache": number % 3 != 0, "attention_mask": number % 4 == 1, "method": ("full", LORA)[number % 2]}
    result = assert_pass(config, {**plan, **switches}, tmp_path)
    assert (result.bytes["kv_cache"] > 0) == switches["use_cache"]


METHOD_KEYS: Mapping[str, Mapping[str, Any]] = {
    "adalora": {"init_r": 24},
    "road": {"group_size": 8},
    "c3a": {"block_size": 8},
    "shira": {"r": 4},
    "miss": {"r": 8},
}


@pytest.mark.share(12)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind.procedure == "backpropagation"])
def test_methods(name: str, tmp_path: Path) -> None:
    """Witness: measurement. The adapters stay attached; few tokens, so that their weights make the peak (and fewer
    than the 64 from which on PyTorch's flash kernel packs 16-bit keys and values, where the processor can).
    """
    block = {"name": name, **REQUIRED.get(name, {}), **METHOD_KEYS.get(name, {})}
    small = {**BIASES, "vocab_size": 19, "intermediate_size": 40, "num_hidden_layers": 5}
    for seq, dtype in ((2, "float32"), (31, "bfloat16")):
        result = assert_pass(small, {"method": block, "batch": 1, "seq": seq, "dtype": dtype}, tmp_path)
        assert result.trainable_parameters == 0


@pytest.mark.share(2)
@pytest.mark.extra("quantised")
@pytest.mark.parametrize(("config", "plan"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_other_settings(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_pass(config, plan, tmp_path)


@pytest.mark.extra("trace")
@pytest.mark.parametrize(
    ("config", "plan"), [row[1:] for row in tensor_parallel.PREFILLS], ids=[row[0] for row in tensor_parallel.PREFILLS]
)
def test_split_products(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_pass(config, plan, tmp_path)


INFERENCE = [run for run in published("vramcalc-a6000") if run.plan.get("task") == "infer"]


@pytest.mark.parametrize("run", INFERENCE, ids=lambda run: str(run.name))
def test_published(run: Run) -> None:
    """Witness: published measurements of an RTX A6000. Equal but for the second buffer of rotary frequencies that
    transformers has had since 5.0: a block of 512 B.
    """
    assert run.predicted["allocated_peak"] - run.measured["allocated_peak"] == 512


def test_result_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: training's keys and the KV cache, parts that add up, and a table without training's rows."""
    arguments = ["estimate", MODEL, "--task", "infer", "--use-cache", "--batch", "3", "--seq", "70"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    training = estimate(model=MODEL)
    assert result["task"] == "infer"
    assert result.keys() == training.to_dict().keys()
    sizes = result["bytes"]
    assert sizes.keys() == {*training.bytes, "kv_cache"}
    assert sizes["kv_cache"] == 2 * 16 * 3 * 8 * 70 * 64 * ITEMSIZE["bfloat16"]
    assert sizes["gradients"] == sizes["optimizer"] == sizes["saved"] == result["trainable_parameters"] == 0
    assert sizes["resident"] == sizes["parameters"] + sizes["buffers"]
    assert sizes["peak"] == sizes["resident"] + sizes["peak_above_resident"]
    assert result["peak_at"] == "lm_head forward"
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "KV cache" in out
    assert not any(word in out for word in ("optimizer", "adamw", "gradients", "saved", "train"))


@pytest.mark.consistency
@pytest.mark.parametrize("runtime", ["torch-cpu", "torch-cuda"])
def test_grows(runtime: str) -> None:
    """More tokens, sequences or a cache never need less; a forward pass less than a step of training."""
    keys = {"model": MODEL, "task": "infer", "runtime": runtime}

    def peak(**more: Any) -> int:
        return estimate({**keys, **more}).bytes["peak" if runtime == "torch-cpu" else "allocated_peak"]

    peaks = [peak(seq=seq) for seq in (1, 2, 255, 256, 1024)]
    assert peaks == sorted(peaks)
    assert peak(seq=64, batch=1) < peak(seq=64, batch=2) < peak(seq=64, batch=3)
    assert peak(seq=64) < peak(seq=64, use_cache=True) < peak(seq=64, use_cache=True, previous_output=True)
    assert peak(seq=64) < peak(seq=64, task="train", method=LORA)


def test_replay() -> None:
    """A process that only infers has one cuBLAS workspace, and needs nothing more once it ran twice."""
    keys = {"model": MODEL, "task": "infer", "runtime": "torch-cuda", "use_cache": True, "seq": 500}
    for previous_output in (False, True):
        resolved = resolve(parse_plan({**keys, "previous_output": previous_output}))
        process = Process(resolved)
        after, usage = [], []
        for _ in range(4):
            process.step(1, 500)
            after.append(process.allocator.allocated)
            usage.append((process.allocated_peak, process.reserved_peak))
        assert len(set(after)) == 1
        assert usage[1] == usage[2] == usage[3]
        sizes = estimate(resolved.plan).bytes
        assert (sizes["allocated_peak"], sizes["reserved_peak"]) == usage[1]
        if not previous_output:
            # Blocks are rounded up to 512 B, and may keep up to 1 MiB that is not split off.
            assert 0 <= after[0] - sizes["resident"] - WORKSPACE_BYTES <= 200 * 512 + 2**21


@pytest.mark.consistency
def test_inverse_questions() -> None:
    """Answers fit and the next values do not, each by its own estimate."""
    keys = {"model": MODEL, "task": "infer", "use_cache": True}
    for question, budget in (("max-seq", {"budget": "4GiB"}), ("max-batch", {"device": "rtx-4090"})):
        solution = solve(question, {**keys, **budget}, margin=Margin(nbytes=0))
        assert solution.answer is not None
        assert solution.result is not None
        assert solution.next_result is not None
        assert solution.result.bytes["process"] <= solution.budget_bytes < solution.next_result.bytes["process"]
        assert solution.result.bytes["kv_cache"] > 0
    best = smallest_device({**keys, "runtime": "torch-cuda"}, kind="GPU").best
    assert best is not None
    assert best.result.verdict == "fits"


def test_cache_has_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    """The KV cache is a component of inference only."""
    assert main(["formula", MODEL, "--task", "infer", "--use-cache", "--component", "kv_cache", "--symbolic"]) == 0
    assert re.search(r"4(\*[BSKDL]){5}\b", capsys.readouterr().out)
    assert main(["formula", MODEL, "--component", "kv_cache"]) == 2
    assert "add --task infer" in capsys.readouterr().err
    assert main(["formula", MODEL, "--component", "all"]) == 0
    assert "kv_cache" not in capsys.readouterr().out


@pytest.mark.extra("trace")
def test_questions_of_training() -> None:
    """Commands about training steps say so."""

    keys = {"model": MODEL, "task": "infer", "budget": "1GiB"}
    with pytest.raises(InputError, match="a trace does not go with"):
        validate(parse_plan(keys))
    with pytest.raises(InputError, match="training steps does not go with task: infer"):
        compare({"model": MODEL, "task": "infer"}, [LORA], [64], 64)
