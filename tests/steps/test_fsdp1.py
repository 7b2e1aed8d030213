"""Which rank of a step under FSDP1 is answered for, and on which CUDA streams it allocates."""

from __future__ import annotations

import random
import time
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.ledger import ITEMSIZE, Events
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.sharding.fsdp1 import _largest_rank
from estimator.steps.step import run
from tests.cases.sharding import LAYERS, MIXED, TINY
from tests.cases.sharding_fsdp1 import PEFT
from tests.cases.small_models import write_config

WORLD = 5


@pytest.mark.share(6)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("options", [{}, PEFT], ids=["layers", "adapters-apart"])
def test_largest_rank(options: dict[str, str], tmp_path: Path) -> None:
    """Witness: measurements of all ranks, of which the first with the most bytes is answered for."""
    from estimator.witnesses.measure import run_step

    lora = {"name": "lora", "target_modules": ["up_proj", "down_proj"]}
    sharding = {"name": "fsdp1", "world_size": WORLD, **options}
    plan = parse_plan({**TINY, "model": write_config(tmp_path / "model", LAYERS), "method": lora, "sharding": sharding})
    resolved = resolve(plan)
    measured = [run_step(resolved, rank=rank) for rank in range(WORLD)]
    states = [one["optimizer"] for one in measured]
    assert len(set(states)) > 1
    totals = run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq)
    assert totals.rank == states.index(max(states))
    assert estimate(plan).bytes["optimizer"] == max(states)


@pytest.mark.parametrize("seed", range(12))
def test_largest_rank_is_found_by_what_changes(seed: int) -> None:
    """By hand: what each rank has of each parameter that trains, counted rank by rank."""
    chance = random.Random(seed)
    world, units = chance.randint(2, 9), []
    held = [0] * world
    for _ in range(chance.randint(1, 3)):
        numels = [chance.randint(1, 40) for _ in range(chance.randint(1, 5))]
        starts = list(accumulate(numels, initial=0))
        n, copies = -(-starts[-1] // world), chance.randint(1, 2)
        dtype = chance.choice(["float32", "bfloat16"])
        found = [SimpleNamespace(requires_grad=chance.random() < 0.6, copies=copies) for _ in numels]
        spans = list(zip(found, starts, starts[1:], strict=False))
        units.append(
            SimpleNamespace(shard_numel=n, orig_dtype=dtype, parameters=found, spans=lambda spans=spans: spans)
        )
        for p, start, end in spans:
            for rank in range(world) if p.requires_grad else ():
                held[rank] += max(min(end, (rank + 1) * n) - max(start, rank * n), 0) * ITEMSIZE[dtype] * copies
    assert _largest_rank(units) == held.index(max(held))


def test_a_million_ranks_take_no_longer() -> None:
    """CPU time, against a world of two."""

    def seconds(world: int) -> float:
        sharding = {"name": "fsdp1", "world_size": world}
        plan = {"model": "llama-3.2-1b", "method": "lora", "dtype": "float32", "sharding": sharding}
        resolved = resolve(parse_plan(plan))
        start = time.process_time()
        run(resolved.step, resolved.sizes(), resolved.method, 1, 512)
        return time.process_time() - start

    seconds(2)
    assert seconds(10**6) < 2 * seconds(2) + 0.1


@pytest.mark.share(3)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(("method", "use_reentrant"), [("lora", True), ("lora", False), ("full", True)])
def test_units_in_a_checkpoint(
    method: str, use_reentrant: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Witness: a step with a checkpoint around each layer's unit, as transformers 4.48 calls a layer.

    Where the checkpoint is reentrant, the hook of a unit that does not train keeps the checkpoint's input, and its
    gradient, to the end of the backward pass. So the peak is in the first layer's.
    """
    import torch
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.utils.checkpoint import checkpoint

    from estimator.witnesses.measure import run_step
    from estimator.witnesses.reference import fsdp1

    def call(unit: Any, *args: Any, **keywords: Any) -> Any:
        run_unit = partial(FullyShardedDataParallel.__call__, unit, **keywords)
        return checkpoint(run_unit, *args, use_reentrant=use_reentrant)

    def wrapped(*args: Any) -> Any:
        model = unpatched(*args)
        for unit in FullyShardedDataParallel.fsdp_modules(model):
            if getattr(unit.module, "gradient_checkpointing", False):
                unit.module.gradient_checkpointing = False
                unit.__class__ = type("Checkpointed", (FullyShardedDataParallel,), {"__call__": call})
        return model

    unpatched = fsdp1.wrapped
    monkeypatch.setattr(fsdp1, "wrapped", wrapped)
    keys = {**TINY, "seq": 20, "checkpointing": "layer", "use_reentrant": use_reentrant, "method": method}
    sharding = {"name": "fsdp1", "world_size": 2, **PEFT}
    resolved = resolve(parse_plan({**keys, "model": write_config(tmp_path / "model", LAYERS), "sharding": sharding}))
    resolved = resolved._replace(step=resolved.step._replace(hooks_in_checkpoint=True))
    totals = run(resolved.step, resolved.sizes(), resolved.method, 1, 20)
    torch.manual_seed(0)
    assert max(map(max, totals.moments.values())) == run_step(resolved)["peak_without_matmul_scratch"]
    assert ("first block" in max(totals.moments, key=lambda name: max(totals.moments[name]))) == use_reentrant


GATHERED = ["+pre_unshard", "+unshard", "-pre_unshard"]
"""``_unshard``: the cast shard, the flat parameter, and ``_free_low_precision_sharded_param``."""
REDUCED = ["+post_backward", "+post_backward", "-post_backward"]
"""``_post_backward_hook``: the cast gradient, and ``_reduce_grad``."""


@pytest.mark.parametrize(
    ("world", "options", "expected", "used"),
    [
        (
            4,
            MIXED,
            [
                *GATHERED,  # of the root, which ``_post_forward_reshard`` does not free
                *(*GATHERED, "-unshard") * 2,  # of both layers
                "=unshard",  # the root has been gathered; before its backward the second layer, before that's the first
                *(*GATHERED, *GATHERED),
                *("-unshard", *REDUCED) * 3,
                *["-post_backward"] * 3,  # gradients
            ],
            [5, 5, 0],
        ),
        (
            4,
            {"reduce_dtype": "bfloat16", "replicate": 2},
            [
                "+unshard",
                *("+unshard", "-unshard") * 2,
                *("=unshard", "+unshard", "+unshard"),
                # what is all-reduced is cast in the stream of the all-reduce
                *("-unshard", "+post_backward", "+post_backward", "+all_reduce", *["-post_backward"] * 2) * 3,
                *["-all_reduce"] * 3,
            ],
            [5, 0, 0],
        ),
        (
            1,
            {"param_dtype": "bfloat16"},
            [
                "+pre_unshard",  # the cast shard is all of the parameter (``NO_SHARD``)
                *("+pre_unshard", "-pre_unshard") * 2,
                "-pre_unshard",
                *["+pre_unshard"] * 3,
                *("-pre_unshard", "+post_backward") * 3,
                *["-post_backward"] * 3,
            ],
            [0, 0, 0],
        ),
    ],
    ids=["sharded", "replicated", "whole"],
)
def test_streams(world: int, options: dict[str, object], expected: list[str], used: list[int], tmp_path: Path) -> None:
    """Witness: the streams of ``torch/distributed/fsdp/_runtime_utils.py``, read beside it, and what it records."""
    config = write_config(tmp_path / "model", {**LAYERS, "num_hidden_layers": 2})
    sharding = {"name": "fsdp1", "world_size": world, **options}
    resolved = resolve(parse_plan({**TINY, "model": config, "device": "a100-80gb", "sharding": sharding}))
    events = Events()
    ledger = resolved.step.ledger(unrolled=True, events=events)
    run(resolved.step, resolved.sizes(), resolved.method, 1, 2, ledger=ledger)
    entries = events.order[events.marks["forward"] :]
    signs = [("+" if events.sizes[e] else "=") if e >= 0 else "-" for e in entries]  # =: nothing is to be gathered
    names = [sign + events.streams.get(max(e, ~e), "") for sign, e in zip(signs, entries, strict=True)]
    assert [name for name in names if len(name) > 1] == expected
    recorded = [events.streams.get(n, "") for n in sorted(events.recorded) if n not in events.gradients]
    assert [recorded.count(stream) for stream in ("unshard", "pre_unshard", "")] == used
    gradients = [n for n in events.recorded if n in events.gradients]
    assert len(gradients) == (3 if used[0] else 0)  # of each flat parameter
