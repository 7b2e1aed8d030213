"""Optimizers: what each keeps and what its step takes. Witness: the real optimizer on the real allocator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.ledger import Ledger
from estimator.operators import CPU, Cuda
from estimator.plans.plan import Plan, parse_plan
from estimator.steps.optimizers import OPTIMIZERS
from estimator.witnesses.measure import allocator_events, peak_of, without_matmul_scratch
from estimator.witnesses.reference.model import storage_bytes
from estimator.witnesses.reference.optimizers import make_optimizer
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures
from tests.helpers.formulas import assert_formulas
from tests.helpers.measured_steps import TOLERANCE, assert_step

LORA = {"name": "lora", "r": 64, "target_modules": "all-linear"}
RANK = 6
SHAPES: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "growing": [("norm", (10,)), ("a.0.w", (40, 10)), ("a.1.w", (80, 64)), ("head", (130, 40))],
    "shrinking": [("head", (130, 40)), ("a.0.w", (64, 80)), ("a.0.w", (40, 10)), ("a.0.norm", (10,))],
    "mixed": [("a.0.w", (40, 10)), ("a.1.w", (80, 52)), ("a.2.w", (52, 80)), ("norm", (4100,)), ("a.3.w", (60, 60))],
    "columns": [("a.0.w", (3700, 1)), ("a.1.w", (1, 3700)), ("a.1.b", (9, 1))],
    "batched": [("a.0.w", (4, 30, 20)), ("a.1.w", (30, 20))],
}
STEPPED = [name for name, made in OPTIMIZERS.items() if not made.in_backward]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtypes", [("float32",), ("bfloat16",), ("float16", "float32")], ids="-".join)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("name", STEPPED)
def test_optimizer_step(name: str, shapes: list[tuple[str, tuple[int, ...]]], dtypes: tuple[str, ...]) -> None:
    """States after one step; live bytes over the second one. Parameters take the dtypes in turn."""
    rows = [(key, shape, dtypes[i % len(dtypes)]) for i, (key, shape) in enumerate(shapes)]
    ledger = Ledger(CPU)
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
    events = without_matmul_scratch(allocator_events(optimizer.step))
    peak, left = peak_of(events)[0], sum(nbytes for nbytes, _ in events)
    found = {"states": rule.state_bytes(parameters), "peak": max(ledger.peaks.values(), default=0), "left": ledger.live}
    assert_figures(found, {"states": storage_bytes(states), "peak": peak, "left": left}, {"peak": TOLERANCE})
    assert left == 0


def test_names() -> None:
    """A plan's optimizers are those that have rules, and the reference has one of each."""
    assert get_args(Plan.model_fields["optimizer"].annotation) == tuple(OPTIMIZERS)
    for name in OPTIMIZERS:
        assert make_optimizer(name, [("a.0.w", torch.nn.Parameter(torch.ones(3, 2)))], RANK) is not None


@pytest.mark.share(6)
@pytest.mark.consistency
@pytest.mark.parametrize("method", ["full", LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_formulas(name: str, method: Any, tmp_path: Path) -> None:
    """Formulas in B and S, and where no rule compares sizes in all of them, give what integers give."""
    model = write_config(tmp_path, {"num_hidden_layers": 9})
    keys = {"model": model, "optimizer": name, "method": method, "dtype": "bfloat16"}
    plan = parse_plan({**keys, "batch": 2, "seq": 2})
    for symbolic in {False, plan.open_sizes}:
        assert_formulas(keys, [(2, 2), (3, 40), (7, 900)], symbolic=symbolic)


@pytest.mark.parametrize("name", ["adamw-8bit", "galore-adamw", "muon"])
def test_closed_formulas(name: str) -> None:
    with pytest.raises(InputError, match=f"open sizes does not go with optimizer: {name}"):
        compile_plan(parse_plan({"model": "qwen3-0.6b", "optimizer": name}), symbolic=True)


def test_paging_is_explained() -> None:
    paged, plain = (estimate(model="qwen3-0.6b", optimizer=name) for name in ("paged-adamw-8bit", "adamw-8bit"))
    assert paged.bytes == plain.bytes
    assert any("pages nothing on a CPU" in warning for warning in paged.warnings)
    assert not plain.warnings


@pytest.mark.share(3)
@pytest.mark.parametrize("optimizer", ["adamw-8bit", "paged-adamw-8bit"])
@pytest.mark.parametrize("tied", [False, True])
def test_states_of_embeddings_in_32_bits(optimizer: str, tied: bool, tmp_path: Path) -> None:
    """Asks the measurement: as transformers' Trainer registers embeddings with bitsandbytes."""
    config = {"vocab_size": 211, "tie_word_embeddings": tied}
    plan = {"optimizer": optimizer, "batch": 1, "seq": 2, "dtype": "bfloat16"}
    wide = assert_step(config, {**plan, "embedding_optim_bits": 32}, tmp_path)
    assert wide.bytes["optimizer"] > assert_step(config, plan, tmp_path).bytes["optimizer"]


@pytest.mark.parametrize(("one_by_one", "peak"), [(False, 5 * 4000), (True, 3 * 4000)])
def test_adamw_on_a_gpu_takes_all_parameters_at_once(one_by_one: bool, peak: int) -> None:
    """By hand: the roots of all parameters; or, where some are DTensors and others are not, one root and its
    denominator beside the denominator before (``_default_to_fused_or_foreach``)."""
    ledger = Ledger(Cuda((8, 0)))
    parameters = [ledger.parameter(str(i), (1000,), "float32", requires_grad=True) for i in range(5)]
    optimizer = OPTIMIZERS["adamw"]()
    optimizer.one_by_one = one_by_one
    before = ledger.live
    ledger.peaks.clear()
    optimizer.step(ledger, parameters)
    assert max(ledger.peaks.values()) - before == peak
    assert ledger.live == before


@pytest.mark.parametrize(
    ("name", "count", "on_cpu", "on_gpu"),
    [
        ("adamw-8bit", 4095, [16380, 16380], [16380, 16380]),
        ("adamw-8bit", 4097, [4097, 4097, 68, 68], [4097, 4097, 68, 68]),
        ("paged-adamw-8bit", 99_999, [99_999, 99_999, 1564, 1564], [99_999, 99_999, 1564, 1564]),
        ("paged-adamw-8bit", 100_000, [100_000, 100_000, 1564, 1564], [1564, 1564]),
        ("paged-adamw", 99_999, [399_996, 399_996], [399_996, 399_996]),
        ("paged-adamw", 100_000, [400_000, 400_000], []),
    ],
)
def test_states_of_bitsandbytes(name: str, count: int, on_cpu: list[int], on_gpu: list[int]) -> None:
    """By hand: a float32 maximum for each 256 elements; large states that are paged are none of the allocator's."""
    for device, expected in ((CPU, on_cpu), (Cuda((8, 0)), on_gpu)):
        p = Ledger(device).parameter("w", (count,), "bfloat16", True)
        assert list(OPTIMIZERS[name]().state_sizes(p)) == expected
