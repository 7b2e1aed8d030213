"""A deep model's log of allocations, put together from its outline, is that of a ledger that runs every layer.

Our code is asked twice, so this shows consistency.
"""

from __future__ import annotations

from typing import Any

import pytest

from estimator.answers.comparison import REQUIRED
from estimator.engines.torch_cuda import process as torch_cuda
from estimator.errors import InputError
from estimator.ledger import Events, Ledger
from estimator.methods.registry import METHODS
from estimator.operators import CPU
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.expansion import Expansion, NotPeriodic
from estimator.steps.optimizers import OPTIMIZERS
from estimator.steps.step import run
from tests.helpers.logs import entries

pytestmark = pytest.mark.consistency


BASE: dict[str, Any] = {"model": "qwen2.5-0.5b", "seq": 8, "device": "rtx-4090"}
RUN_WHOLE = ("prefix_tuning", "mezo", "forward-ad")
"""Methods that do something for each layer outside of the layers."""
REFUSED = ("adaption_prompt", "c3a")
"""Methods that are not for this model."""
VIEWS = {"name": "ddp", "world_size": 8, "gradient_as_bucket_view": True}
SAVINGS: list[dict[str, Any]] = [
    {"checkpointing": "layer"},
    {"checkpointing": "every-3"},
    {"checkpointing": "every-5"},
    {"checkpointing": "matmul"},
    {"checkpointing": "attention"},
    {"mlp_chunks": 4},
    {"loss": "chunked"},
    {"loss": "liger"},
    {"gradient_accumulation_steps": 4},
    {"gradient_clipping": True},
    {"use_cache": True},
    {"attention": "eager"},
    {"attention_mask": True},
    {"autocast": "bfloat16", "dtype": "float32"},
    {"saved_activations": "int8"},
    {"dtype": "nf4", "kbit_preparation": True, "checkpointing": "layer"},
    {"dtype": "int8"},
    {"keep_logits": False},
    {"sharding": {"name": "ddp", "world_size": 8}},
    {"sharding": VIEWS},
    {"sharding": VIEWS, "gradient_accumulation_steps": 4},
    {"sharding": {"tp": 2}},
    {"sharding": {"tp": 2}, "checkpointing": "layer"},
    {"sharding": {"tp": 2}, "gradient_accumulation_steps": 4},
]


def whole(keys: dict[str, Any]) -> tuple[Ledger, Ledger]:
    """The ledgers of a plan's step: as it is replayed, and with every layer run."""
    plan = parse_plan(keys)
    resolved = resolve(plan)
    options = resolved.step._replace(previous_output=False)
    ledger = options.ledger(unrolled=True, events=Events())
    run(options, resolved.sizes(), resolved.method, plan.batch, plan.seq, ledger=ledger)
    return torch_cuda.expanded(resolved, options, plan.batch, plan.seq), ledger


def assert_equal(found: Ledger, expected: Ledger) -> None:
    assert found.events is not None
    assert expected.events is not None
    for name in ("sizes", "order", "marks", "products", "saved", "gradients", "streams", "recorded"):
        assert getattr(found.events, name) == getattr(expected.events, name), name
    rows = [
        [
            (p.name, p.shape, p.dtype, p.requires_grad, p.added, p.storage.nbytes, p.storage.event)
            for p in one.parameters
        ]
        for one in (found, expected)
    ]
    assert rows[0] == rows[1]


@pytest.mark.share(12)
@pytest.mark.parametrize("method", [name for name in METHODS if name not in (*RUN_WHOLE, *REFUSED)])
def test_methods(method: str) -> None:
    assert_equal(*whole({**BASE, "method": {"name": method, **REQUIRED.get(method, {})}}))


@pytest.mark.share(12)
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("keys", SAVINGS, ids=lambda keys: " ".join(f"{k}={v}" for k, v in keys.items()))
def test_savings(keys: dict[str, Any], method: str) -> None:
    try:
        parse_plan({**BASE, **keys, "method": method})
        resolve(parse_plan({**BASE, **keys, "method": method}))
    except InputError:
        pytest.skip("refused")
    assert_equal(*whole({**BASE, **keys, "method": method}))


FSDP2 = {"name": "fsdp2", "world_size": 8}
FSDP1 = {"name": "fsdp1", "world_size": 8}
MIXED = {"param_dtype": "bfloat16", "reduce_dtype": "float32"}
SHARDED: list[dict[str, Any]] = [
    {"sharding": FSDP2, "checkpointing": "layer"},
    {"sharding": {**FSDP2, "reshard_after_forward": False, "param_dtype": "bfloat16", "reduce_dtype": "float32"}},
    {"sharding": {**FSDP2, "replicate": 2, "param_dtype": "bfloat16"}, "dtype": "float32"},
    {"sharding": {**FSDP2, "groups": "accelerate", "reshard_after_forward": 2}},
    {"sharding": {**FSDP2, "reduce_dtype": "float32"}, "gradient_accumulation_steps": 2},
    {"sharding": FSDP1, "dtype": "float32"},
    {"sharding": {**FSDP1, **MIXED}, "dtype": "float32", "autocast": "bfloat16", "checkpointing": "layer"},
    {"sharding": {**FSDP1, **MIXED, "replicate": 2, "reshard_after_forward": False}, "dtype": "float32"},
    {"sharding": {**FSDP1, "groups": "transformers"}, "checkpointing": "layer"},
    {"sharding": {**FSDP1, "groups": "transformers"}, "gradient_accumulation_steps": 2},
]


@pytest.mark.share(4)
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("keys", SHARDED, ids=str)
def test_sharded(keys: dict[str, Any], method: str) -> None:
    assert_equal(*whole({**BASE, **keys, "method": method}))


@pytest.mark.share(3)
@pytest.mark.parametrize("optimizer", [name for name, kind in OPTIMIZERS.items() if not kind.in_backward])
def test_optimizers(optimizer: str) -> None:
    assert_equal(*whole({**BASE, "method": "full", "optimizer": optimizer}))


@pytest.mark.parametrize(
    "keys",
    [
        {"task": "infer", "use_cache": True},
        {"task": "infer", "method": "lora"},
        {"method": {"name": "lora", "layers_to_transform": list(range(6, 18))}},
        {"method": {"name": "freeze", "top_layers": 9}, "checkpointing": "layer"},
        {"batch": 3},
        {"method": {"name": "adalora", "total_step": 100}, "gradient_clipping": True},
        {"method": {"name": "oft", "num_cayley_neumann_terms": 1, "modules_to_save": ["lm_head"]}},
    ],
    ids=str,
)
def test_others(keys: dict[str, Any]) -> None:
    assert_equal(*whole({**BASE, **keys}))


@pytest.mark.parametrize("task", ["train", "infer"])
def test_a_method_that_works_layer_by_layer_outside_of_them_is_run_whole(task: str) -> None:
    keys = {**BASE, "task": task, "method": {"name": "prefix_tuning", "num_virtual_tokens": 4}}
    with pytest.raises(NotPeriodic):
        whole(keys)
    plan = parse_plan(keys)
    resolved = resolve(plan)
    options = resolved.step._replace(previous_output=False)
    assert len(torch_cuda.unrolled(resolved, options, 1, 8).parameters) > 24 * 9


def test_neighbours_that_differ_are_no_outline() -> None:
    events, ledger = Events(), Ledger(CPU)
    for segment, nbytes in enumerate((8, 8, 9, 8, 8)):
        ledger.segment = segment
        events.allocated(nbytes, ledger)
    with pytest.raises(NotPeriodic):
        Expansion(events, [(count, 1) for count in (1, 1, 7, 1, 1)])


@pytest.mark.parametrize("method", ["full", {"name": "adalora", "total_step": 100}], ids=str)
@pytest.mark.parametrize("optimizer", [name for name, kind in OPTIMIZERS.items() if kind.in_backward])
def test_an_optimizer_that_steps_in_backward_is_run_whole(optimizer: str, method: Any) -> None:
    plan = parse_plan({**BASE, "method": method, "optimizer": optimizer})
    resolved = resolve(plan)
    options = resolved.step._replace(previous_output=False)
    ledger = options.ledger(unrolled=True, events=Events())
    run(options, resolved.sizes(), resolved.method, plan.batch, plan.seq, ledger=ledger)
    assert_equal(torch_cuda.unrolled(resolved, options, plan.batch, plan.seq), ledger)


@pytest.mark.share(12)
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"method": "full"},
        {"checkpointing": "layer"},
        {"attention_mask": True},
        {"attention": "eager"},
        {"dtype": "nf4", "kbit_preparation": True},
        {"loss": "chunked"},
        {"model": "mixtral-8x7b"},
        {"model": "gemma-3-1b"},
        {"method": {"name": "c3a", "block_size": 448, "target_modules": ["q_proj"]}},
    ],
    ids=str,
)
def test_a_log_with_symbols_is_that_of_every_shape(keys: dict[str, Any]) -> None:
    """Where symbols hide what a number decides (a mask's alignment, few tokens, a sum's blocks), the step is run."""
    job = resolve(parse_plan({**BASE, "method": "lora", **keys}))
    logs = torch_cuda.Logs()
    for batch, seq in ((1, 2), (1, 63), (1, 64), (1, 1000), (1, 896), (3, 2), (3, 64), (2, 4097)):
        found, expected = logs.of(job, batch, seq), torch_cuda.log_step(job, batch, seq)
        for name in ("base", "added", "buffers", "states"):
            assert getattr(found, name) == getattr(expected, name), name
        assert entries(found) == entries(expected)


def test_shapes_with_the_same_formulas_run_a_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[object] = []
    monkeypatch.setattr(torch_cuda, "run", lambda *args, **keys: (runs.append(args), run(*args, **keys)))
    logs, job = torch_cuda.Logs(), resolve(parse_plan({**BASE, "method": "lora"}))
    sizes = {shape: sum(logs.of(job, *shape).events.sizes) for shape in ((2, 100), (3, 1000), (4, 5000), (8, 30))}
    assert len(runs) == 1
    assert len(set(sizes.values())) == len(sizes)


def test_few_logs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_cuda, "MOST_KEPT", 10_000)
    logs, job = torch_cuda.Logs(), resolve(parse_plan({**BASE, "method": "lora"}))
    entries = [len(logs.of(job, 1, seq).events.order) for seq in range(2, 12)]
    assert 1 < len(logs._logs) < 10
    assert sum(entries[-len(logs._logs) :]) <= 10_000 + entries[-1]
