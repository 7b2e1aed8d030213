"""DeepSpeed's ZeRO: the ledger against steps that DeepSpeed itself ran."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from estimator.ledger import Events
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps import played
from estimator.steps.expansion import NotPeriodic
from estimator.steps.sharding import auto_values
from estimator.steps.step import run
from tests.cases.small_models import write_config
from tests.cases.zero_steps import CASES, FEW, QUANTITIES, RECORD, bucket
from tests.helpers.figures import assert_figures
from tests.helpers.measured_steps import TOLERANCE

WHOLE = {"stage3_param_persistence_threshold": 100}
MEASURED = json.loads(RECORD.read_text(encoding="utf-8"))["steps"]


@pytest.mark.share(4)
@pytest.mark.parametrize(("name", "config", "plan"), CASES, ids=[name for name, *_ in CASES])
def test_step(name: str, config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: a recorded measurement (``tests/cases/zero_steps.py``), of the largest of the ranks that were asked."""
    resolved = resolve(parse_plan({"model": write_config(tmp_path / "model", config), **plan}))
    totals = run(resolved.step, resolved.sizes(), resolved.method, resolved.plan.batch, resolved.plan.seq)
    predicted: dict[str, Any] = {quantity: getattr(totals, quantity) for quantity in QUANTITIES}
    predicted["peak_above_resident"] = max(max(peaks) for peaks in totals.moments.values())
    witness = {key: value for key, value in MEASURED[name].items() if key != "rank"}
    assert_figures(predicted, witness, {"peak_above_resident": TOLERANCE})


@pytest.mark.share(4)
@pytest.mark.parametrize(("name", "config", "plan"), CASES, ids=[name for name, *_ in CASES])
def test_log_of_a_step(name: str, config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """The allocations that a GPU's allocator replays are those of the recorded step, from where it starts.

    Stage 3's whole parameters stay during the update there, and the log has every micro-batch.
    """
    resolved = resolve(parse_plan({"model": write_config(tmp_path / "model", config), **plan}))
    ledger = resolved.step.ledger(unrolled=True, events=Events())
    totals = run(
        resolved.step, resolved.sizes(), resolved.method, resolved.plan.batch, resolved.plan.seq, ledger=ledger
    )
    events = ledger.events
    assert events is not None
    alive: dict[int, int] = {}
    peak = 0
    for entry in events.order[events.marks["forward"] :]:
        if entry >= 0:
            alive[entry] = events.sizes[entry]
            peak = max(peak, sum(alive.values()))
        else:
            alive.pop(~entry, None)
    assert not alive
    limit = getattr(resolved.step.sharding, "stage3_param_persistence_threshold", 0)
    whole = [p.whole for p in ledger.parameters if p.whole is not None and p.whole.numel <= limit]
    moment = max(totals.moments, key=lambda name: max(totals.moments[name]))
    freed = moment == "optimizer step" and plan["sharding"]["world_size"] > 1
    kept = sum(p.nbytes for p in whole) if freed else 0
    assert peak == pytest.approx(MEASURED[name]["peak_above_resident"] + kept, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("options", "streams"),
    [
        ({"name": "zero2"}, set()),
        ({"name": "zero2", "overlap_comm": True}, {"reduction"}),
        ({"name": "zero3", **WHOLE}, {"all_gather", "reduce_and_partition"}),
        ({"name": "zero3", **WHOLE, "overlap_comm": False}, set()),
    ],
)
def test_streams(options: dict[str, Any], streams: set[str], tmp_path: Path) -> None:
    """Witness: ``stage_1_and_2.py: reduction_stream``; ``stage3.py: reduce_and_partition_stream``,
    ``parameter_offload.py: __allgather_stream``."""
    model = write_config(tmp_path / "model", FEW)
    block = {"world_size": 3, "reduce_bucket_size": 5_000, **options}
    resolved = resolve(parse_plan({"model": model, "seq": 8, "device": "rtx-4090", "sharding": block}))
    ledger = resolved.step.ledger(unrolled=True, events=Events())
    run(resolved.step, resolved.sizes(), resolved.method, 1, 8, ledger=ledger)
    assert ledger.events is not None
    assert {*ledger.events.streams.values()} == streams


def test_a_gpu_is_of_the_rank_with_the_most_gradients(tmp_path: Path) -> None:
    """Witness: the parameters that reach into each rank's partition (``get_partition_info``), counted here."""
    block = {"name": "zero2", "world_size": 7, **bucket(3_000)}
    model = write_config(tmp_path / "model", FEW)
    resolved = resolve(
        parse_plan({"model": model, "device": "rtx-4090", "seq": 2, "dtype": "float32", "sharding": block})
    )
    ledger = resolved.step.ledger()
    totals = run(resolved.step, resolved.sizes(), resolved.method, 1, 2, ledger=ledger)
    numels = [int(p.numel) for p in ledger.parameters if p.requires_grad]
    ends = list(accumulate(numels))
    size = -(-ends[-1] // 14) * 2
    most = 0
    for rank in range(7):
        first, end = rank * size, (rank + 1) * size
        own = sum(n for n, last in zip(numels, ends, strict=True) if last > first and last - n < end)
        most = max(most, own + max(0, end - max(first, ends[-1])))
    assert totals.gradients == 4 * most


def test_clipping_takes_nothing_more(tmp_path: Path) -> None:
    """Witness: ``unscale_and_clip_grads``: the norm is there, and gradients are scaled in place."""
    model = write_config(tmp_path / "model", FEW)
    for name in ("zero2", "zero3"):
        found = []
        for clips in (False, True):
            plan = {"model": model, "device": "rtx-4090", "seq": 2, "gradient_clipping": clips}
            resolved = resolve(parse_plan({**plan, "sharding": {"name": name, "world_size": 3, **bucket(3_000)}}))
            events = Events()
            ledger = resolved.step.ledger(unrolled=True, events=events)
            run(resolved.step, resolved.sizes(), resolved.method, 1, 2, ledger=ledger)
            found.append(_sizes(events))
        assert found[0] == found[1]


def _sizes(events: Events) -> list[int]:
    """Bytes of what the step allocates (positive) and frees."""
    return [events.sizes[n] if n >= 0 else -events.sizes[~n] for n in events.order[events.marks["forward"] :]]


@pytest.mark.share(9)
@pytest.mark.consistency
@pytest.mark.parametrize("options", [{"name": "zero1"}, {"name": "zero2"}, {"name": "zero3", **WHOLE}], ids=str)
@pytest.mark.parametrize(
    "keys",
    [{}, {"method": "lora", "checkpointing": "layer"}, {"device": "rtx-4090", "gradient_accumulation_steps": 4}],
    ids=str,
)
def test_equal_layers_are_run_once(
    options: dict[str, Any], keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outline that stands for nine layers, with buckets that end within them, gives what nine layers do."""
    model = write_config(tmp_path / "model", {**FEW, "num_hidden_layers": 9})
    block = {"world_size": 3, **options, **bucket(3_000)}
    resolved = resolve(parse_plan({"model": model, "seq": 8, "sharding": block, **keys}))

    def ran() -> Any:
        logged = resolved.step.ledger(events=Events())
        totals = [
            run(resolved.step, resolved.sizes(), resolved.method, 1, 8, ledger=ledger)
            for ledger in (resolved.step.ledger(), logged)
        ]
        assert logged.events is not None
        return totals, _sizes(logged.events), logged.events.marks

    found = ran()

    def not_alike(*args: Any) -> None:
        raise NotPeriodic

    monkeypatch.setattr(played, "Expansion", not_alike)
    assert ran() == found


@pytest.mark.share(3)
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"method": "lora"},
        {"method": "lora", "checkpointing": "layer", "device": "rtx-4090"},
        {"method": "lora", "dtype": "nf4", "device": "rtx-4090"},
        {"model": "gemma-3-1b", "gradient_accumulation_steps": 4},
    ],
    ids=str,
)
def test_no_layer_is_run_for_itself(name: str, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep models take no longer: their logs can be expanded."""
    plan = {"model": "llama-3.2-1b", "seq": 64, **keys, "sharding": {"name": name, "world_size": 3}}
    resolved = resolve(parse_plan(plan))
    logs: list[bool] = []
    log = played._log

    def noted(*args: Any, outlined: bool) -> Any:
        logs.append(outlined)
        return log(*args, outlined=outlined)

    monkeypatch.setattr(played, "_log", noted)
    run(resolved.step, resolved.sizes(), resolved.method, 1, 64)
    assert logs == [True]


@pytest.mark.consistency
def test_saved_bytes_and_products_are_those_of_one_process(tmp_path: Path) -> None:
    """Of a float32 model without adapters, whichever micro-batch saves them; all layers are counted."""
    model, found = write_config(tmp_path / "model", {**FEW, "num_hidden_layers": 9}), set()
    for steps in (1, 3):
        for sharding in ({}, {"sharding": {"name": "zero1", "world_size": 3}}):
            keys = {"model": model, "seq": 8, "dtype": "float32", "gradient_accumulation_steps": steps}
            resolved = resolve(parse_plan({**keys, **sharding}))
            ledger = resolved.step.ledger(counts_work=True)
            totals = run(resolved.step, resolved.sizes(), resolved.method, 1, 8, ledger=ledger)
            assert totals.saved == run(resolved.step, resolved.sizes(), resolved.method, 1, 8).saved
            found.add((totals.saved, totals.work // resolved.step.micro_batches))
    assert len(found) == 1


@pytest.mark.consistency
def test_auto_is_what_transformers_takes(tmp_path: Path) -> None:
    """Witness: ``integrations/deepspeed.py``: the square of the hidden size."""
    model = write_config(tmp_path / "model", {"hidden_size": 48, "num_attention_heads": 4})
    block = {"name": "zero2", "world_size": 2}
    steps = [
        resolve(parse_plan({"model": model, "sharding": {**block, "reduce_bucket_size": size}})).step
        for size in ("auto", 48 * 48)
    ]
    assert steps[0] == steps[1]


@pytest.mark.consistency
def test_a_million_ranks_take_no_longer() -> None:
    """Ranks with the same parameters are one."""
    plan = parse_plan({"model": "smollm2-135m", "seq": 64, "sharding": {"name": "zero2", "world_size": 10**6}})
    resolved = resolve(plan)
    totals = run(resolved.step, resolved.sizes(), resolved.method, 1, 64)
    assert 0 <= totals.rank < 10**6


@pytest.mark.extra("trace")
@pytest.mark.parametrize("hidden_size", [7, 96])
def test_what_auto_stands_for(hidden_size: int) -> None:
    """Witness: transformers, which fills a DeepSpeed config in."""
    from accelerate.utils.deepspeed import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    fills_in = {name: x for name, x in vars(HfTrainerDeepSpeedConfig).items() if not name.startswith("__")}
    auto = dict.fromkeys(auto_values(hidden_size), "auto")
    config: Any = type("Config", (HfDeepSpeedConfig,), fills_in)({"zero_optimization": {"stage": 3, **auto}})
    config.mismatches = []
    config.trainer_config_finalize(
        Mock(get_warmup_steps=lambda steps: 0), SimpleNamespace(config=SimpleNamespace(hidden_size=hidden_size)), 1
    )
    assert config.config["zero_optimization"] == {"stage": 3, **auto_values(hidden_size)}
