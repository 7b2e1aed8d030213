"""What is saved for backward in the host's memory. The witness is a CPU step whose hooks move what they are given into
memory that PyTorch's allocator does not count, so what it does count is what a device would hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.ledger import Pinned
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.steps.checkpointing import RNG_STATE_BYTES
from estimator.steps.offloading import block_bytes
from estimator.steps.step import run
from estimator.witnesses.measure import run_step
from estimator.witnesses.reference import offloading, savings
from estimator.witnesses.trace import build
from tests.cases.offloading import LORA, MEASURED, OFFLOADED, ON_HOST, SMALL
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures
from tests.helpers.measured_steps import TOLERANCE


def moved(config: dict[str, Any], keys: dict[str, Any], offloaded: dict[str, str], folder: Path) -> Resolved:
    """A plan of a CPU as if its saved tensors went elsewhere, which plans of a CPU refuse."""
    plan = {"batch": 2, "seq": 60, "dtype": "float32", "optimizer": "sgd", **keys}
    resolved = resolve(parse_plan({"model": write_config(folder / "model", config), **plan}))
    changed = resolved.plan.model_copy(update=offloaded)
    return resolved._replace(plan=changed, step=resolved.step._replace(**offloaded))


def measured(resolved: Resolved, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(offloading, "pinned", Pinned())
    return run_step(resolved)


@pytest.mark.share(6)
@pytest.mark.parametrize(
    ("config", "keys", "offloaded"), [case[1:] for case in MEASURED], ids=[case[0] for case in MEASURED]
)
def test_step(
    config: dict[str, Any],
    keys: dict[str, Any],
    offloaded: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Witness: measurement. The device's bytes and the host's blocks, both equal to the byte."""
    resolved = moved(config, keys, offloaded, tmp_path)
    totals = run(resolved.step, resolved.sizes(), resolved.method, resolved.plan.batch, resolved.plan.seq)
    found = measured(resolved, monkeypatch)
    peak = max(value for values in totals.moments.values() for value in values)  # type: ignore[type-var]
    assert_figures(
        {"saved": totals.saved, "host_pinned": totals.host_pinned, "peak_without_matmul_scratch": peak},
        {key: found[key] for key in ("saved", "host_pinned", "peak_without_matmul_scratch")},
        {"peak_without_matmul_scratch": TOLERANCE},
    )
    assert totals.host_pinned > 0


class _Reentrant(torch.autograd.Function):
    """``Unsloth_Offloaded_Gradient_Checkpointer`` (``unsloth_zoo/gradient_checkpointing.py``)."""

    @staticmethod
    def forward(ctx: Any, function: Any, hidden_states: Any) -> Any:
        ctx.function, ctx.held = function, offloading.saved_on_host().pack_hook(hidden_states)
        with torch.no_grad():
            return function(hidden_states)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        hidden_states = offloading.saved_on_host().unpack_hook(ctx.held).detach().requires_grad_()
        with torch.enable_grad():
            output = ctx.function(hidden_states)
        torch.autograd.backward(output, grad)
        return None, hidden_states.grad


def test_unsloth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: measurement of Unsloth's own function. It recomputes a layer to its end and so holds the layer's output
    as well, but no state of random numbers; the host has the same.
    """
    resolved = moved(SMALL, {"method": LORA}, OFFLOADED, tmp_path)
    ours = measured(resolved, monkeypatch)
    monkeypatch.setattr(savings, "_offloaded", lambda function, *args: _Reentrant.apply(*args))
    theirs = measured(resolved, monkeypatch)
    assert theirs["host_pinned"] == ours["host_pinned"] == 6 * block_bytes(2 * 60 * 96 * 4)
    more = theirs["peak_above_resident"] - ours["peak_above_resident"]
    assert abs(more - (2 * 60 * 96 * 4 - RNG_STATE_BYTES)) <= TOLERANCE


def test_blocks() -> None:
    """``CachingHostAllocator``: powers of two; freed blocks serve those of their own size only."""
    assert [block_bytes(n) for n in (0, 1, 3, 512, 513, 3 << 20)] == [0, 1, 4, 512, 1024, 4 << 20]
    pinned = Pinned()
    for block, count in ((64, 2), (64, -1), (64, 1), (32, 3), (64, -2), (32, -3)):
        pinned.take(block, count)
    assert pinned.nbytes == 2 * 64 + 3 * 32


@pytest.mark.share(3)
@pytest.mark.consistency
@pytest.mark.parametrize("offloaded", [OFFLOADED, ON_HOST, {**ON_HOST, "checkpointing": "layer"}], ids=str)
def test_on_a_gpu(offloaded: dict[str, str]) -> None:
    """The host's bytes are a figure of their own: no part of the process, nor there without offloading."""
    keys = {"model": "llama-3.2-1b", "method": "lora", "device": "rtx-4090", "seq": 700}
    plain = estimate(keys)
    found = estimate({**keys, **offloaded})
    assert "host_pinned" not in plain.bytes
    assert found.bytes["saved"] < plain.bytes["saved"]
    assert found.bytes["peak"] < plain.bytes["peak"]
    if offloaded == OFFLOADED:  # 16 layers' hidden states
        assert found.bytes["host_pinned"] == 16 * block_bytes(700 * 2048 * 2)
    assert (
        found.bytes["process"] - found.bytes["reserved_peak"] == plain.bytes["process"] - plain.bytes["reserved_peak"]
    )
    compiled = compile_plan(parse_plan({**keys, **offloaded, "batch": 2}))
    assert compiled.evaluate(3, 900)["peak"] == estimate({**keys, **offloaded, "batch": 3, "seq": 900}).bytes["peak"]


def test_no_trace() -> None:
    """A trace knows what is saved, not where."""
    plan = parse_plan({"model": "smollm2-135m", "method": "lora", "runtime": "torch-cuda", **OFFLOADED})
    with pytest.raises(InputError, match="not how it is held"):
        build(resolve(plan))
