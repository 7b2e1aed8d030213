"""Optimizers: what each keeps and what its step takes. Witness everywhere: the real optimizer on the real allocator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from estimator.compiled import compile_plan
from estimator.errors import InputError
from estimator.estimate import estimate, resolve
from estimator.ledger import Ledger
from estimator.measure import allocator_events, peak_of, without_matmul_scratch
from estimator.plan import Plan, parse_plan
from estimator.reference import storage_bytes
from estimator.reference.optimizers import make_optimizer
from estimator.training.optimizers import OPTIMIZERS

from .cases import write_config
from .measured import TOLERANCE, assert_step

RANK = 6
SHAPES: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "growing": [("norm", (10,)), ("a.0.w", (40, 10)), ("a.1.w", (80, 64)), ("head", (130, 40))],
    "shrinking": [("head", (130, 40)), ("a.0.w", (64, 80)), ("a.0.w", (40, 10)), ("a.0.norm", (10,))],
    "mixed": [("a.0.w", (40, 10)), ("a.1.w", (80, 52)), ("a.2.w", (52, 80)), ("norm", (4100,)), ("a.3.w", (60, 60))],
    "columns": [("a.0.w", (3700, 1)), ("a.1.w", (1, 3700)), ("a.1.b", (9, 1))],
    "batched": [("a.0.w", (4, 30, 20)), ("a.1.w", (30, 20))],
    "one": [("a.0.w", (40, 10))],
}
STEPPED = [name for name, made in OPTIMIZERS.items() if not made.in_backward]


@pytest.mark.parametrize("dtypes", [("float32",), ("bfloat16",), ("float16",), ("bfloat16", "float32")], ids="-".join)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("name", STEPPED)
def test_optimizer_step(name: str, shapes: list[tuple[str, tuple[int, ...]]], dtypes: tuple[str, ...]) -> None:
    """States after one step; live bytes over the second one. Parameters take the dtypes in turn."""
    rows = [(key, shape, dtypes[i % len(dtypes)]) for i, (key, shape) in enumerate(shapes)]
    ledger = Ledger()
    parameters = [ledger.parameter(f"{key}.weight", shape, dtype, requires_grad=True) for key, shape, dtype in rows]
    rule = OPTIMIZERS[name](RANK)
    rule.step(ledger, parameters)

    torch.manual_seed(0)
    named = [(f"{key}.weight", torch.nn.Parameter(torch.randn(s).to(getattr(torch, d)))) for key, s, d in rows]
    optimizer = make_optimizer(name, named, RANK)
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    states = [s for state in optimizer.state.values() for s in state.values() if isinstance(s, torch.Tensor)]
    assert rule.state_bytes(parameters) == storage_bytes(states)
    events = without_matmul_scratch(allocator_events(optimizer.step))
    peak, left = peak_of(events)[0], sum(nbytes for nbytes, _ in events)
    assert abs(max(ledger.peaks.values(), default=0) - peak) <= TOLERANCE
    assert ledger.live == left == 0
