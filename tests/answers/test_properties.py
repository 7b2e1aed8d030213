"""Properties that hold for every plan, tried on random small ones.

The witness is the formula itself, asked twice: the same ledger at two plans whose order or equality
is known beforehand, or the ledger with integers beside the ledger with symbols. That a number is right
is the other witnesses' business (``tests/witnesses``).

Regimes. Totals are one set of polynomials in batch and sequence only where batch is 1 or at least 2,
the sequence is 1 or at least 2, and it stays on one side of the sliding window: a dimension of size
one turns copies into views (nothing is expanded or made contiguous), and a windowed layer gets a mask
of its own once the window is reached. So growth is asked within a regime; from one regime to the next
a larger plan may need less.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from estimator import estimate
from estimator.answers import bulk as batch
from estimator.answers.formulas import _mean_covers, compile_plan, regime_of, regimes
from estimator.ledger.sizes import symbol
from estimator.plans.models import load
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from tests.cases.small_models import write_config

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2},
    "llama-deep": {
        "model_type": "llama",
        "hidden_size": 40,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 7,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "mistral": {
        "model_type": "mistral",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "sliding_window": 24,
        "num_hidden_layers": 6,
    },
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "num_hidden_layers": 5,
    },
    "qwen2-window": {
        "model_type": "qwen2",
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 56,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "num_hidden_layers": 1,
    },
}
SIZES = {"vocab_size": 211, "intermediate_size": 100, "num_hidden_layers": 3}


def write(folder: Path, name: str, **changes: Any) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**SIZES, **CONFIGS[name.split("@")[0]], **changes}))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in CONFIGS:
        write(folder, name)
    return folder


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
optional_dtype = st.sampled_from([None, "bfloat16", "float16"])


@st.composite
def loras(draw: st.DrawFn) -> dict[str, Any]:
    block: dict[str, Any] = {"name": "lora", "r": draw(st.integers(1, 70))}
    targets = st.lists(st.sampled_from([*LINEAR, "lm_head"]), min_size=1, max_size=4, unique=True)
    block["target_modules"] = draw(targets | st.sampled_from(["all-linear", ".*_proj", "embed_tokens|.*[qv]_proj"]))
    if draw(st.booleans()):
        block["lora_dropout"] = 0.1
    if draw(st.booleans()):
        block["bias"] = draw(st.sampled_from(["all", "lora_only"]))
    if isinstance(block["target_modules"], list) and "lm_head" not in block["target_modules"] and draw(st.booleans()):
        block["layers_to_transform"] = [0]
    if draw(st.booleans()):
        block["modules_to_save"] = ["norm"]
    if draw(st.booleans()):
        block["rank_pattern"] = {"down_proj": 3}
    return block


ia3s = st.just({"name": "ia3"}) | st.fixed_dictionaries(
    {"name": st.just("ia3"), "target_modules": st.lists(st.sampled_from(LINEAR), min_size=1, max_size=4, unique=True)}
)
methods = st.just({"name": "full"}) | loras() | ia3s


@st.composite
def plans(
    draw: st.DrawFn, method: st.SearchStrategy[dict[str, Any]] = methods, smallest: int = 1, **fixed: Any
) -> dict[str, Any]:
    """The keys of a plan; ``model`` is a name of ``CONFIGS``."""
    keys = {
        "model": draw(st.sampled_from(list(CONFIGS))),
        "batch": draw(st.integers(smallest, 9)),
        "seq": draw(st.integers(smallest, 40) | st.integers(smallest, 700)),
        "dtype": draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        "autocast": draw(optional_dtype),
        "attention": draw(st.sampled_from(["sdpa", "eager"])),
        "checkpointing": draw(st.sampled_from(["none", "layer"])),
        "optimizer": draw(st.sampled_from(["adamw", "sgd", "sgd-momentum"])),
        "gradient_accumulation_steps": draw(st.integers(1, 3)),
        "keep_logits": draw(st.booleans()),
        "attention_mask": draw(st.booleans()),
        "use_cache": draw(st.booleans()),
        "method": draw(method),
        "budget": draw(st.sampled_from([None, "10MB", "1GiB"])),
    }
    return {**keys, **fixed}


def plan_of(keys: dict[str, Any], folder: Path) -> Plan:
    return parse_plan({**keys, "model": str(folder / f"{keys['model']}.json")})


def some(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None)


@pytest.mark.share(3)
@pytest.mark.consistency
@some(15)
@given(keys=plans(smallest=2), key=st.sampled_from(["batch", "seq"]), more=st.integers(1, 300))
def test_more_tokens_never_need_less(keys: dict[str, Any], key: str, more: int, folder: Path) -> None:
    """Asks the formula itself, at two batches or sequences of one regime."""
    small = plan_of(keys, folder)
    large = small.model_copy(update={key: getattr(small, key) + more})
    assume(regime_of(resolve(small)) == regime_of(resolve(large)))
    less, need = estimate(small).bytes, estimate(large).bytes
    for name in ("saved", "peak_above_resident", "peak", "process"):
        assert less[name] <= need[name], name
    for name in ("parameters", "adapters", "buffers", "gradients", "optimizer", "resident"):
        assert less[name] == need[name], name


@pytest.mark.share(3)
@pytest.mark.consistency
@some(13)
@given(keys=plans(method=loras()), more=st.integers(1, 300))
def test_a_higher_rank_never_needs_less(keys: dict[str, Any], more: int, folder: Path) -> None:
    """Asks the formula itself, at two ranks. No rank is a regime of its own; a module whose rank the
    pattern fixes does not grow."""
    small = plan_of(keys, folder)
    large = plan_of({**keys, "method": {**keys["method"], "r": keys["method"]["r"] + more}}, folder)
    less, need = estimate(small).bytes, estimate(large).bytes
    assert all(less[name] <= need[name] for name in less)
    if keys["method"]["target_modules"] != ["down_proj"] or "rank_pattern" not in keys["method"]:
        assert less["adapters"] < need["adapters"]


@some(20)
@given(keys=plans())
def test_parts_and_sums(keys: dict[str, Any], folder: Path) -> None:
    """Asks the contract: what the result's parts add up to, and which part is within which."""
    plan = plan_of(keys, folder)
    result = estimate(plan)
    sizes = result.bytes
    assert sizes["resident"] == sizes["parameters"] + sizes["buffers"] + sizes["optimizer"]
    assert sizes["peak"] == sizes["resident"] + sizes["peak_above_resident"]
    assert sizes["peak_above_resident"] == max(result.moments.values()) == result.moments[result.peak_at]
    assert sizes["saved"] <= sizes["peak_above_resident"]
    assert sizes["gradients"] <= sizes["peak_above_resident"]
    assert sizes["adapters"] <= sizes["parameters"]
    assert sizes["peak"] <= sizes["process"]
    assert 0 < result.trainable_parameters <= result.total_parameters
    assert all(type(size) is int and size >= 0 for size in sizes.values())
    assert result.budget_bytes == {None: None, "10MB": 10**7, "1GiB": 2**30}[plan.budget]
    assert result.fits == (None if plan.budget is None else sizes["process"] <= (result.budget_bytes or 0))


@some(25)
@given(keys=plans())
def test_plans_round_trip(keys: dict[str, Any], folder: Path) -> None:
    """Asks the contract: a plan written as JSON is the same plan when it is read."""
    plan = plan_of(keys, folder)
    assert parse_plan(json.loads(plan.model_dump_json())) == plan
    assert parse_plan(plan.model_dump()) == plan


@pytest.fixture(scope="module")
def cache() -> Iterator[batch.FormulaCache]:
    """One cache for all examples, so that a structure's formulas answer plans they were not made from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "COMPILE_AFTER", 0)
        yield batch.FormulaCache()


@pytest.mark.share(3)
@pytest.mark.consistency
@some(13)
@given(keys=plans())
def test_batch_answers_equal_single_ones(keys: dict[str, Any], folder: Path, cache: batch.FormulaCache) -> None:
    """Asks the formula itself: the ledger with symbols beside the ledger with integers."""
    plan = plan_of(keys, folder)
    assert cache.estimate(plan).to_dict() == estimate(plan).to_dict()


@pytest.mark.share(3)
@pytest.mark.consistency
@some(7)
@given(
    names=st.lists(st.sampled_from(["llama", "llama@wide", "llama@deep", "llama@deeper"]), min_size=2, max_size=5),
    keys=plans(smallest=2, batch=3, optimizer="adamw", autocast=None, gradient_accumulation_steps=1),
    ranks=st.lists(st.integers(1, 40), min_size=5, max_size=5),
)
def test_formulas_are_shared_among_models(
    names: list[str], keys: dict[str, Any], ranks: list[int], folder: Path, cache: batch.FormulaCache
) -> None:
    """Asks the formula itself: models and ranks that share a structure get their own numbers from it."""
    changes = {"llama@wide": {"hidden_size": 72, "vocab_size": 999}, "llama@deep": {"num_hidden_layers": 6}}
    changes["llama@deeper"] = {"num_hidden_layers": 9, "intermediate_size": 60, "num_key_value_heads": 4}
    for name, rank in zip(names, ranks, strict=False):
        write(folder, name, **changes.get(name, {}))
        method = {**keys["method"], "r": rank} if keys["method"]["name"] == "lora" else keys["method"]
        plan = plan_of({**keys, "model": name, "method": method}, folder)
        assert cache.estimate(plan).to_dict() == estimate(plan).to_dict()


@pytest.mark.share(3)
@pytest.mark.consistency
@some(10)
@given(keys=plans(), points=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 900)), min_size=1, max_size=4))
def test_compiled_formulas_equal_estimates(keys: dict[str, Any], points: list[tuple[int, int]], folder: Path) -> None:
    """Asks the formula itself: one compiled regime at points of it, one by one and as NumPy arrays."""
    plan = plan_of(keys, folder)
    compiled = compile_plan(plan)
    at = {(plan.batch, plan.seq): plan}
    for b, s in points:
        other = plan.model_copy(update={"batch": b, "seq": s})
        if regime_of(resolve(other)) == compiled.regime:
            at[b, s] = other
    expected = [estimate(other) for other in at.values()]
    arrays = compiled.evaluate(*(np.array(values, dtype=np.int64) for values in zip(*at, strict=True)))
    for i, ((b, s), result) in enumerate(zip(at, expected, strict=True)):
        values = compiled.evaluate(b, s)
        for name in ("parameters", "adapters", "buffers", "gradients", "optimizer", "saved", "resident", "peak"):
            assert values[name] == result.bytes[name], name
            assert np.broadcast_to(arrays[name], len(at))[i] == result.bytes[name], name


@pytest.mark.consistency
@some(5)
@given(keys=plans(smallest=2))
def test_regimes_cover_every_point_once(keys: dict[str, Any], folder: Path) -> None:
    """Asks the formula itself: a batch and a sequence lie in one regime, and its condition says so."""
    plan = plan_of(keys, folder)
    for b in (1, 2, 5):
        for s in (1, 2, 15, 16, 17, 23, 24, 25):
            holding = [r for r in regimes(plan) if eval(r.condition(), {"B": b, "S": s})]
            assert holding == [regime_of(resolve(plan.model_copy(update={"batch": b, "seq": s})))]


@pytest.mark.share(3)
@pytest.mark.consistency
@some(15)
@given(keys=plans(method=loras() | ia3s))
def test_adapters_leave_the_base_as_it_is(keys: dict[str, Any], folder: Path) -> None:
    """Asks the formula itself: without what was added, the parameters are those of full fine-tuning."""
    adapted, full = estimate(plan_of(keys, folder)), estimate(plan_of({**keys, "method": "full"}, folder))
    assert adapted.bytes["parameters"] - adapted.bytes["adapters"] == full.bytes["parameters"]
    assert adapted.bytes["buffers"] == full.bytes["buffers"]
    assert adapted.bytes["adapters"] > 0
    assert adapted.trainable_parameters < full.trainable_parameters + adapted.bytes["adapters"]


@pytest.mark.consistency
@some(10)
@given(
    keys=plans(smallest=2, attention_mask=False),
    model=st.sampled_from(["llama-deep", "mistral", "qwen2"]),
    first=st.integers(1, 4),
    targets=st.lists(st.sampled_from(LINEAR), min_size=1, max_size=3, unique=True),
)
def test_layers_below_the_first_adapter_save_nothing(
    keys: dict[str, Any], model: str, first: int, targets: list[str], folder: Path
) -> None:
    """Asks the formula itself: leave out the frozen layers below the first adapter, and as much is saved.

    Without checkpointing: there every layer keeps the random state it would replay from.
    """
    depth = CONFIGS[model]["num_hidden_layers"]
    write(folder, f"{model}@short", num_hidden_layers=depth - first)
    block = {"name": "lora", "r": 4, "target_modules": targets}
    keys = {**keys, "checkpointing": "none"}
    deep = {**keys, "model": model, "method": {**block, "layers_to_transform": [first]}}
    short = {**keys, "model": f"{model}@short", "method": {**block, "layers_to_transform": [0]}}
    with_frozen, without = estimate(plan_of(deep, folder)), estimate(plan_of(short, folder))
    assert with_frozen.bytes["saved"] == without.bytes["saved"]
    assert with_frozen.trainable_parameters == without.trainable_parameters


@pytest.mark.consistency
@some(13)
@given(keys=plans(method=st.just({"name": "full"}), smallest=2), seq=st.integers(64, 900))
def test_checkpointing_never_saves_more(keys: dict[str, Any], seq: int, folder: Path) -> None:
    """Asks the formula itself. From 64 tokens on: each layer keeps 5,056 bytes of random state, which in a
    model of a few dozen channels and tokens can be more than the layer's activations."""
    keys = {**keys, "seq": seq}
    kept = estimate(plan_of({**keys, "checkpointing": "none"}, folder))
    dropped = estimate(plan_of({**keys, "checkpointing": "layer"}, folder))
    assert dropped.bytes["saved"] <= kept.bytes["saved"]
    assert dropped.bytes["resident"] == kept.bytes["resident"]


@pytest.mark.share(3)
@pytest.mark.consistency
@some(10)
@given(keys=plans(method=st.just({"name": "full"})), depth=st.integers(1, 12))
def test_bytes_are_affine_in_depth(keys: dict[str, Any], depth: int, folder: Path) -> None:
    """Asks the formula itself: equal layers cost the same, so three depths lie on a line (from one layer on
    for what is kept; layers that a window makes different are left out)."""
    model = keys["model"]
    assume(model != "qwen2-window")
    found = []
    for layers in (depth, depth + 1, depth + 2):
        write(folder, f"{model}@deep", num_hidden_layers=layers)
        found.append(estimate(plan_of({**keys, "model": f"{model}@deep"}, folder)).bytes)
    for name in ("parameters", "gradients", "optimizer", "saved", "resident"):
        assert found[2][name] - found[1][name] == found[1][name] - found[0][name], name


@pytest.mark.consistency
def test_a_window_side_is_a_regime(folder: Path) -> None:
    """Asks the formula itself why growth is asked within a regime: the window's mask appears at its length."""
    plan = plan_of({"model": "mistral", "batch": 2, "seq": 23}, folder)
    assert load(plan.model).config.sliding_window == 24
    general = regime_of(resolve(plan))
    assert regime_of(resolve(plan.model_copy(update={"seq": 24}))) == replace(general, window_reached=True)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (1, {(True, True), (False, True)}),
        (2, {(True, False), (False, True)}),
        (3, {(True, False), (False, False), (False, True)}),
        (None, {(True, None), (False, None)}),
    ],
)
def test_regimes_have_a_sequence(window: int | None, expected: set[tuple[bool, bool | None]], tmp_path: Path) -> None:
    """By hand: one token or more, and whether the window is reached; none that no number of tokens is in."""
    model = write_config(tmp_path, {"model_type": "mistral", "sliding_window": window, "num_hidden_layers": 2})
    found = regimes(parse_plan({"model": model, "seq": 9}))
    assert {(one.seq_one, one.window_reached) for one in found} == expected
    assert len(found) == 2 * len(expected)  # of one row, and of more
    assert found[0].batch_one is False


def test_what_a_mean_of_two_sizes_covers() -> None:
    """By hand: some weighted mean of two has no coefficient below that of a third, which is then never the largest."""
    batch, seq = symbol("B"), symbol("S")
    two = (2 * batch, 2 * seq)
    assert _mean_covers(*two, batch + seq)  # half of each
    assert _mean_covers(*two, 2 * batch)
    assert _mean_covers(*two, 2 * seq)
    assert not _mean_covers(*two, batch + 2 * seq)
    assert not _mean_covers(*two, 3 * batch)
    assert not _mean_covers(*two, batch + seq + 1)
    assert _mean_covers(4 * batch + 8, 4 * seq, batch + 3 * seq + 2)  # a quarter of the first
    assert not _mean_covers(4 * batch + 8, 4 * seq, batch + 3 * seq + 3)
    assert _mean_covers(7, 9, 8)
