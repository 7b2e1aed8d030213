"""A step's parts in chunks and behind checkpoints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from estimator import operators as ops
from estimator.answers.bulk import estimate_lines
from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan, regime_of
from estimator.answers.validation import validate
from estimator.errors import InputError
from estimator.ledger import Tensor
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.checkpointing import checkpoint
from estimator.steps.chunks import MOST_UNROLLED, chunks
from tests.cases.small_models import METHODS, write_config
from tests.helpers.operator_rules import Given, agree

LORA = METHODS["lora"]


@pytest.mark.parametrize("count", [1, 5, 6, 7, 8, 30])
def test_counted_chunks(count: int) -> None:
    """Witness: autograd. Chunks behind checkpoints, one of them counted for many, in a checkpointed whole."""

    def chunked(x: Tensor, weight: Tensor) -> Tensor:
        total: Any = None
        for part, copies in ops.split_counted(x, 0, chunks(x.shape[0], 3)):
            with x.ledger.counted(copies):
                y = checkpoint(lambda p: ops.silu(ops.linear(p, weight)), part)
                y = ops.sum(ops.sum(y, 0), 0)
                total = y if total is None else ops.add(total, y)
        return total

    def real(x: Any, weight: Any) -> Any:
        total: Any = None
        for part in x.split(3):
            y = torch_checkpoint(lambda p: functional.silu(functional.linear(p, weight)), part, use_reentrant=False)
            y = y.sum(0).sum(0)
            total = y if total is None else total + y
        return total

    given = Given((3 * count - 1, 40)), Given((24, 40))
    agree(chunked, real, *given)
    agree(
        lambda x, w: checkpoint(lambda y: chunked(y, w), ops.silu(x)),
        lambda x, w: torch_checkpoint(lambda y: real(y, w), functional.silu(x), use_reentrant=False),
        *given,
    )


@pytest.mark.share(2)
@pytest.mark.parametrize("checkpointing", ["every-2", "attention", "matmul"])
def test_trace(checkpointing: str, tmp_path: Path) -> None:
    """Witness: trace. What is saved for every batch and sequence."""
    model = write_config(tmp_path / "model", {"num_hidden_layers": 5})
    keys = {"model": model, "checkpointing": checkpointing, "method": LORA, "attention": "eager"}
    plan = parse_plan({**keys, "batch": 2, "seq": 33})
    assert validate(plan, chosen=[regime_of(resolve(plan))]).equal


@pytest.mark.parametrize("keys", [{"loss": "chunked"}, {"loss": "liger"}, {"loss": "cce"}, {"mlp_chunks": 8}], ids=str)
def test_no_formula(keys: dict[str, Any]) -> None:
    """Chunks have no single formula; many plans in one call are answered one by one, and fast."""
    plan = {"model": "llama-3.2-1b", "batch": 1, "seq": 131072, **keys}
    with pytest.raises(InputError, match="a formula does not go with"):
        compile_plan(parse_plan(plan))
    start = time.process_time()
    answers = [json.loads(line) for line in estimate_lines([json.dumps(plan)] * 6)]
    assert time.process_time() - start < 6 * 0.2
    assert {answer["bytes"]["peak"] for answer in answers} == {estimate(plan).bytes["peak"]}


def test_open_sizes_refused() -> None:
    plan = parse_plan({"model": "llama-3.2-1b", "checkpointing": "every-2"})
    with pytest.raises(InputError, match="checkpointing: every-2, whose rules compare sizes"):
        compile_plan(plan, symbolic=True)


def test_an_mlp_of_two_tensors_is_not_cut_into_chunks() -> None:
    """Asks the contract: BLOOM's MLP takes the residual, too. Advice leaves the change out."""
    with pytest.raises(InputError, match="more than one tensor"):
        estimate("bloom-560m", mlp_chunks=2, seq=16)


def test_as_many_chunks_as_are_unrolled() -> None:
    """As many as are the most are run one by one; one more, of one token, is too many."""
    assert chunks(2 * MOST_UNROLLED, 2, unrolled=True) == [(2, 1)] * MOST_UNROLLED
    with pytest.raises(InputError, match="2,001 chunks, and 2,000 are the most"):
        chunks(2 * MOST_UNROLLED + 1, 2, unrolled=True)
