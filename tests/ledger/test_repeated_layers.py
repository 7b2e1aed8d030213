"""Counting a repeated layer. The witness is the same step with every layer written out: integers only,
nothing counted more than once."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from estimator import operators  # noqa: F401 (registers the kernel's symbols)
from estimator.ledger import Ledger
from estimator.ledger.sizes import Poly, Size, product, symbol
from estimator.methods.base import Targets
from estimator.methods.ia3 import Ia3, Ia3Method
from estimator.methods.lora import Lora, LoraMethod
from estimator.operators import CPU
from estimator.plans.models import ModelSpec
from estimator.programs.modules import Method
from estimator.programs.step import Step
from estimator.steps.step import StepTotals, run
from estimator.steps.train import Train

METHODS: dict[str, Method] = {
    "full": Method(),
    "lora": Lora(LoraMethod(r=4), Targets(["q_proj", "v_proj", "down_proj"]), "float32"),
    "lora dropout": Lora(LoraMethod(r=4, lora_dropout=0.1), Targets(["q_proj", "up_proj"]), "float32"),
    "ia3": Ia3(Ia3Method(), Targets(["k_proj", "v_proj", "down_proj"]), "float32", ["down_proj"]),
}
POINTS = {"gradients": (1, 2), "activations": (2, 300)}
"""Batch and sequence, by what is large at them."""
BASE = Step(family="llama", dtype="float32", procedure=Train())
OPTIONS: dict[str, Step] = {
    "plain": BASE,
    "16 bit": BASE._replace(dtype="bfloat16"),
    "autocast": BASE._replace(autocast="bfloat16"),
    "eager": BASE._replace(attention="eager"),
    "cache and mask": BASE._replace(use_cache=True, attention_mask=True),
    "cache, loss only": BASE._replace(use_cache=True, keep_logits=False),
    "loss only": BASE._replace(keep_logits=False, optimizer="sgd"),
    "gradients alive": BASE._replace(micro_batches=2),
    "qwen3": BASE._replace(family="qwen3"),
    "checkpointing": BASE._replace(checkpointing="layer"),
    "checkpointing, gradients alive": BASE._replace(checkpointing="layer", micro_batches=2, dtype="bfloat16"),
    "checkpointing under autocast": BASE._replace(checkpointing="layer", autocast="bfloat16"),
}
each_method = pytest.mark.parametrize("method", METHODS)
each_point = pytest.mark.parametrize("point", POINTS)
each_option = pytest.mark.parametrize("name", OPTIONS)

TOTALS = (
    "parameters",
    "adapters",
    "buffers",
    "gradients",
    "optimizer",
    "saved",
    "trainable_parameters",
    "total_parameters",
)


def config(family: str, layers: int, **more: Any) -> Any:
    """A small model."""
    sizes = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 104, "num_attention_heads": 6}
    own = {"num_key_value_heads": 2, "head_dim": 48 // 6 if family == "qwen2" else 10, "num_hidden_layers": layers}
    return ModelSpec("test", {"model_type": family, **sizes, **own, **more}, "test").config


def step(
    count: int, name: str, method: str, point: str, ledger: Ledger | None = None, signature: Any = lambda layer: None
) -> StepTotals:
    batch, seq = POINTS[point]
    options = OPTIONS[name]
    sizes = config(options.family, count).sizes(signature, options, batch, seq)
    return run(options, sizes, METHODS[method], batch, seq, keep_rows=True, ledger=ledger)


def counted(count: int, *chosen: str) -> StepTotals:
    return step(count, *chosen)


def written_out(count: int, name: str, method: str, point: str) -> StepTotals:
    return step(count, name, method, point, signature=lambda layer: layer)


UNSEEN = "inner block forward"
"""The one moment that counting does not see whole: the last inner layer's forward pass. The pass through
the last layer, which follows, is never below it."""


def peak(totals: StepTotals) -> int:
    return max(max(values) for values in totals.moments.values())


def figures(totals: StepTotals) -> dict[str, Any]:
    """Everything but the rows and the unseen moment; of each moment the largest total."""
    moments = {f"at {name}": max(values) for name, values in totals.moments.items() if name != UNSEEN}
    return {name: getattr(totals, name) for name in TOTALS} | moments | {"peak": peak(totals)}


COUNTED = [(name, count) for name in ("plain", "checkpointing") for count in range(1, 10)] + [
    (name, count) for name in OPTIONS if name not in ("plain", "checkpointing") for count in (5, 8)
]


@pytest.mark.share(18)
@pytest.mark.parametrize(("name", "count"), COUNTED)
@each_point
@each_method
def test_counting_is_writing_out(name: str, method: str, point: str, count: int) -> None:
    """All totals, the peak, and the largest total of every other moment."""
    assert figures(counted(count, name, method, point)) == figures(written_out(count, name, method, point))


def test_the_last_of_the_copies() -> None:
    """The moment of an inner block is the largest over all copies, not the one that was run."""
    a, b = (count(7, "plain", "full", "activations") for count in (counted, written_out))
    assert a.moments[UNSEEN] == b.moments[UNSEEN]


CACHES = {
    "accumulation": BASE._replace(use_cache=True, micro_batches=2),
    "loss only, mask": BASE._replace(use_cache=True, keep_logits=False, attention_mask=True),
    "loss only, eager": BASE._replace(use_cache=True, keep_logits=False, attention="eager"),
}


@pytest.mark.parametrize("options", CACHES.values(), ids=list(CACHES))
def test_a_cache_given_back(options: Step) -> None:
    batch, seq = POINTS["activations"]
    a, b = (
        run(options, config("llama", 7).sizes(signature, options, batch, seq), METHODS["lora"], batch, seq)
        for signature in (lambda layer: None, lambda layer: layer)
    )
    assert figures(a) == figures(b)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
@each_point
def test_runs_of_different_layers(family: str, point: str) -> None:
    """Windowed layers behind full ones (behind others in Mistral, which has no full ones), both counted."""
    windows = {"use_sliding_window": True, "max_window_layers": 6} if family != "mistral" else {}
    options = BASE._replace(family=family, window_reached=True)
    batch, seq = POINTS[point]
    model = config(family, 13, sliding_window=2, **windows)
    a, b = (
        run(options, model.sizes(signature, options, batch, seq), METHODS["lora"], batch, seq)
        for signature in (lambda layer: layer >= 6, lambda layer: layer)
    )
    assert figures(a) == figures(b)


@pytest.mark.share(6)
@each_point
@each_method
@each_option
def test_rows_add_up_to_saved(name: str, method: str, point: str) -> None:
    totals = counted(7, name, method, point)
    assert sum(row.nbytes * row.copies for row in totals.rows) == totals.saved
    assert {row.copies for row in totals.rows} == {1, 4}
    assert all(row.nbytes > 0 and product(row.shape) > 0 for row in totals.rows)


@pytest.mark.share(8)
@each_point
@each_method
@each_option
def test_rows_are_those_written_out(name: str, method: str, point: str) -> None:
    """Storage by storage, a counted one standing for as many."""
    found: list[list[tuple[Any, ...]]] = []
    for totals in (counted(6, name, method, point), written_out(6, name, method, point)):
        rows = [(r.scope, r.operator, r.shape, r.dtype, r.nbytes) for r in totals.rows for _ in range(int(r.copies))]
        found.append(sorted(rows, key=repr))
    assert found[0] == found[1]


@pytest.mark.share(32)
@pytest.mark.parametrize("count", [1, 4, 7])
@each_point
@each_method
@each_option
def test_nothing_leaks(name: str, method: str, point: str, count: int) -> None:
    """After the step, which ends with ``zero_grad``, nothing lives."""
    ledger = Ledger(CPU)
    step(count, name, method, point, ledger)
    gc.collect()  # a recorded model refers to itself
    assert ledger.live == 0


# ---- open sizes ----------------------------------------------------------------------------


@cache
def formulas(name: str, method: str) -> StepTotals:
    batch, seq = symbol("B"), symbol("S")
    sizes = config("llama", 41).sizes(lambda layer: None, OPTIONS[name], batch, seq, symbolic=True)
    return run(OPTIONS[name], sizes, METHODS[method], batch, seq, symbolic=True)


def at(size: Size, values: dict[str, int]) -> int:
    return size.evaluate(values) if isinstance(size, Poly) else size


@pytest.mark.share(4)
@pytest.mark.parametrize(
    "name", ["plain", "16 bit", "autocast", "eager", "loss only", "gradients alive", "checkpointing"]
)
@each_method
def test_symbols_give_the_integers(name: str, method: str) -> None:
    """At several points, all of them with sizes and layers enough for the general formula.

    A moment from which the total only rises is seen in the next one."""
    totals = formulas(name, method)
    for batch, seq, layers in ((2, 2, 4), (2, 300, 5), (3, 77, 9), (7, 1025, 6)):
        sizes = config("llama", layers).sizes(lambda layer: None, OPTIONS[name], batch, seq)
        expected = run(OPTIONS[name], sizes, METHODS[method], batch, seq)
        values = {"B": batch, "S": seq, "L": layers, "V": 97, "H": 48, "I": 104, "K": 2, "G": 3, "D": 10}
        moments = {moment: [at(v, values) for v in found] for moment, found in totals.moments.items()}
        found = {total: at(getattr(totals, total), values) for total in TOTALS}
        seen = figures(replace(totals, moments=moments, **found))
        everything = figures(expected)
        assert seen == {figure: everything[figure] for figure in seen}
        assert set(everything) - set(seen) <= {"at inputs forward", "at lm_head forward"}


# ---- the ledger itself ---------------------------------------------------------------------


def test_a_storage_lives_as_long_as_its_last_tensor() -> None:
    """The witness is Python: an object goes when its last reference does."""
    ledger = Ledger(CPU)
    tensor = ledger.empty((3, 5), "float32")
    view = tensor.alias()
    assert (ledger.live, ledger.peaks) == (60, {"inputs forward": 60})
    del tensor
    assert ledger.live == 60
    other = ledger.empty((2,), "int64")
    del view
    assert ledger.live == 16
    ledger.transient(100)
    assert (ledger.live, ledger.peaks) == (16, {"inputs forward": 116})
    del other
    assert ledger.live == 0


def test_what_is_resident_is_not_counted_live() -> None:
    """Parameters and buffers are there before the step; neither counts as saved."""
    ledger = Ledger(CPU)
    with ledger.standing_for(3):
        weight = ledger.parameter("weight", (4, 5), "float32", requires_grad=True)
    buffer = ledger.buffer((7,), "float32")
    ledger.pack(weight, "", 0, ())
    ledger.pack(buffer, "", 0, ())
    assert (ledger.live, ledger.saved, ledger.buffer_bytes, weight.copies) == (0, 0, 28, 3)
