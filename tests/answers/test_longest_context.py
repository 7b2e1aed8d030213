"""The longest context that a device holds: answers asked of the engine, margins, phones and the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.answers.estimate import estimate
from estimator.answers.max_context import NO_MARGIN, curve, longest, rows, runs_at
from estimator.engines.devices import find
from estimator.engines.llama_cpp.engine import ENGINE, RAM_BINDS, usage_of
from estimator.errors import InputError
from estimator.plans.margins import Margin
from estimator.plans.models import builtin_names, load
from estimator.plans.plan import parse_plan
from estimator.show.cli import main
from estimator.witnesses import llama_cpp as engine

ASKED: list[tuple[str, str, str, int, str]] = [
    ("qwen3-0.6b", "q4_k_m", "f16", 1, "2GiB"),
    ("gemma-3-1b", "q4_0", "q8_0", 1, "885MiB"),
    ("llama-3.2-3b", "q5_k_m", "q8_0", 2, "4GiB"),
    ("deepseek-v2-lite", "iq4_nl", "f16", 1, "11GiB"),
    ("lfm2-1.2b", "q8_0", "f16", 1, "1500MiB"),
    ("granite-4.0-h-tiny", "q4_k_m", "f16", 4, "6GiB"),
]


@pytest.mark.share(2)
@pytest.mark.extra("engine")
@pytest.mark.parametrize(("model", "recipe", "kind", "sequences", "budget"), ASKED, ids=[case[0] for case in ASKED])
def test_the_engine_fits_and_not_one_step_further(
    model: str, recipe: str, kind: str, sequences: int, budget: str, tmp_path: Path
) -> None:
    """Witness: the engine. What it holds at the answer is within the budget; with one padding step more it is not."""
    block = {"use_mmap": False, "repack": False, "n_outputs_max": sequences, "n_seq_max": sequences, "build": "b11739"}
    keys = {"model": model, "runtime": "llama.cpp", "dtype": recipe, "budget": budget}
    plan = parse_plan({**keys, "llama_cpp": {**block, "type_k": kind, "type_v": kind}})
    row = longest(plan, margin=NO_MARGIN)
    assert row.answer is not None
    assert row.following is not None
    spec = ENGINE.model(plan, load)
    path = tmp_path / "model.gguf"
    engine.write_sparse(spec.header, path)
    limit = plan.budget_bytes()
    assert limit is not None
    for context, fits in ((row.answer, True), (row.answer + ENGINE.context_step, False)):
        options = plan.llama_cpp.model_copy(update={"n_ctx": context * sequences})
        one = plan.model_copy(update={"llama_cpp": options})
        report = engine.ask(path, options.parameters(plan.batch, None, row.trained), use_mmap=False, repack=False)
        use = usage_of(one, spec)
        output = use.context.output_bytes
        held = report.total("model") + report.total("context") + report.total("compute") + output + use.overhead
        assert (held <= limit) is fits
        assert held == estimate(one).bytes["process"]


MODELS = ["smollm2-135m", "gemma-3-270m", "qwen3-0.6b", "lfm2-350m"]
MARGINS = [Margin(), NO_MARGIN, Margin.parse("10%"), Margin.parse("40MiB")]


@pytest.mark.consistency
@settings(max_examples=5, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    recipe=st.sampled_from(["q4_0", "q8_0", "q4_k_m"]),
    kind=st.sampled_from(["f16", "q8_0", "f32"]),
    budget=st.integers(150, 3000),
    more=st.integers(0, 3000),
    device=st.sampled_from([None, "iphone-13", "iphone-15", "ipad-16gb", "pixel-8", "raspberry-pi-5-8gb", "apple-8gb"]),
    margin=st.sampled_from(MARGINS),
)
def test_answers_are_edges(
    model: str, recipe: str, kind: str, budget: int, more: int, device: str | None, margin: Margin
) -> None:
    """Witness: formula. The answer leaves the margin of every limit, the next step does not, and a larger budget never
    has a shorter answer, on any device."""
    keys: dict[str, Any] = {"model": model, "runtime": "llama.cpp", "dtype": recipe}
    keys |= {"llama_cpp": {"type_k": kind, "type_v": kind}} | ({} if device is None else {"device": device})
    most = 6000 if device is None else find(device).total_bytes // 2**20
    row, larger = (
        longest(parse_plan({**keys, "budget": f"{min(size, most)}MiB"}), margin=margin)
        for size in (budget, budget + more)
    )
    assert (larger.answer or 0) >= (row.answer or 0)
    assert (larger.without_margin or 0) >= (row.without_margin or 0) >= (row.answer or 0)
    assert row.result.fits == (row.without_margin is not None)
    assert row.verdict == (row.result.verdict_with(margin) if row.answer is None else "fits")
    assert (row.answer is not None) == all(margin.left(limit, ENGINE.uncertainty) >= 0 for limit in row.limits)
    if row.following is not None:
        assert row.following.verdict_with(margin) != "fits"


def test_a_budget_keeps_a_phones_accounting() -> None:
    """Asks plans: a budget takes the place of what the phone allows one app, and nothing else changes."""
    keys: dict[str, Any] = {"model": "llama-3.2-1b", "runtime": "llama.cpp", "dtype": "q4_k_m", "device": "iphone-15"}
    own, same, more = (longest(parse_plan({**keys, **size})) for size in ({}, {"budget": "3GiB"}, {"budget": "4GiB"}))
    assert own.answer == same.answer
    assert own.limits == same.limits
    assert (own.answer or 0) < (more.answer or 0)
    entitled = longest(parse_plan({**keys, "ios_increased_memory_limit": True}))
    assert (entitled.answer, entitled.limits) == (more.answer, more.limits)
    assert [limit.against for limit in own.limits] == ["dirty", "used"]
    phone = longest(parse_plan({**keys, "device": "pixel-8", "budget": "2GiB"}))
    assert [(limit.against, limit.budget) for limit in phone.limits] == [("used", 2 * 2**30)]


@pytest.mark.parametrize(
    ("budget", "ram", "left"), [("3500MiB", 4096, None), ("4GiB", 4096, None), ("5GiB", 5120, "1.00 GiB")]
)
def test_a_budget_leaves_ios_its_part(budget: str, ram: int, left: str | None) -> None:
    """Asks plans: a budget replaces the limit of one app; only one above what iOS is assumed to leave replaces that,
    which is said in place of the assumption."""
    row = longest(
        parse_plan({"model": "llama-3.2-1b", "runtime": "llama.cpp", "device": "iphone-15", "budget": budget})
    )
    assert row.limits[1].budget == ram * 2**20
    assert {one.key: one.value for one in row.result.assumptions} == ({} if left else {"system": 2 * 2**30})
    for one in row.result.assumptions:
        assert one.why.endswith(". A budget above 4.00 GiB beside the device replaces it")
    notes = [
        note for note in row.warnings if note.startswith("the budget is more than the 4.00 GiB that iOS is assumed")
    ]
    assert [note.endswith(f"iOS keeps {left}") for note in notes] == ([True] if left else [])


def test_the_note_on_ram_follows_from_what_binds(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks rows: it is there where the RAM ends the context or is too small, not where the model's own context does,
    and a table of several models names whose it is."""
    models = ["smollm2-135m", "llama-3.2-1b", "llama-3.2-3b", "smollm3-3b", "llama-3.1-8b"]
    found = rows({"device": "iphone-15"}, models, ["q4_k_m"], [("f16", "f16")])
    for row in found:
        ends = row.binds != "the model's own context" and row.binding.against == "used"
        assert (RAM_BINDS in row.warnings) == (RAM_BINDS in row.to_dict()["warnings"]) == ends, row.plan.model
    assert {RAM_BINDS in row.warnings for row in found} == {True, False}
    free = [row for row in found if row.binds == "the model's own context" and row.result.against == "used"]
    small = rows({"device": "ipad-16gb"}, ["gemma-3-1b"], ["bf16"], [("f16", "f16")])
    for row in (*free, *small):
        assert RAM_BINDS not in row.warnings
    assert main(["max-context", "smollm2-135m,smollm3-3b", "--device", "iphone-15"]) == 0
    assert f"Note: smollm3-3b: {RAM_BINDS}" in " ".join(capsys.readouterr().out.split())


def test_a_phone_counts_dirty_memory_and_leaves_room_for_its_system() -> None:
    """iOS kills for dirty memory, and mapped weights must find room in the RAM that it leaves: whichever binds first
    is named, and models of 8 billion weights do not run on a phone with 6 GB."""
    models = ["llama-3.2-1b", "smollm3-3b", "llama-3.1-8b"]
    (small, large, larger) = rows({"device": "iphone-15"}, models, ["q4_k_m"], [("f16", "f16")])
    assert (small.result.against, large.result.against) == ("dirty", "used")
    for row in (small, large):
        assert [limit.budget for limit in row.limits] == [3 * 2**30, 4 * 2**30]
        assert [limit.needed for limit in row.limits] == [row.result.bytes["dirty"], row.result.bytes["used"]]
        assert {one.key: one.value for one in row.result.assumptions} == {"system": 2 * 2**30}
    assert (larger.answer, larger.without_margin, larger.verdict) == (None, None, "does not fit")
    assert larger.result.bytes["dirty"] < 2**30


def test_pages_that_decoding_does_not_read_again() -> None:
    """Asks headers: originals of repacked tensors and gathered embeddings are idle, a tied output is not."""
    for name, recipe, backend in (("llama-3.2-3b", "q4_0", "cpu-arm"), ("gemma-3n-e2b", "q4_0", "cpu")):
        keys = {"model": name, "runtime": "llama.cpp", "dtype": recipe, "llama_cpp": {"backend": backend}}
        plain = {**keys, "llama_cpp": {"backend": backend, "repack": False}}
        twice, once = (
            usage_of(plan, ENGINE.model(plan, load))
            for plan in (parse_plan({**one, "seq": 512}) for one in (keys, plain))
        )
        assert twice.used < twice.clean + twice.dirty
        # Whether a tensor runs from the file or from a copy, it is in use once; small tensors between stay mapped.
        assert abs(twice.used - once.used) < 0.002 * once.used
        embeddings = [t.nbytes for n, t in once.header.tensors.items() if n == "per_layer_token_embd.weight"]
        assert once.weights.idle == sum(embeddings)


def test_margins() -> None:
    """Asks answers: what is kept free shortens them, and one that only fits without is tight, which is no failure."""
    keys: dict[str, Any] = {"model": "smollm2-135m", "runtime": "llama.cpp", "dtype": "q8_0", "budget": "300MiB"}
    stated, none, share, size = (longest(parse_plan(keys), margin=margin) for margin in MARGINS)
    assert none.answer == none.without_margin == stated.without_margin == share.without_margin
    assert (none.answer or 0) > (stated.answer or 0) > (share.answer or 0)
    for row in (stated, share, size):
        assert (row.result.margin_bytes or 0) >= row.result.kept(row.margin) > 0
        assert row.following is not None
        assert (row.following.margin_bytes or 0) < row.following.kept(row.margin)
    assert size.result.kept(size.margin) == 40 * 2**20
    smallest = longest(parse_plan({**keys, "budget": "180MiB"}), margin=Margin.parse("40%"))
    assert (smallest.answer, smallest.verdict, smallest.result.fits) == (None, "tight", True)
    assert smallest.without_margin is not None


@pytest.mark.share(9)
def test_catalogue_at_a_context() -> None:
    """Every model that was made for so long a context is there once; those that fit are within the budget."""
    fits = runs_at({"budget": "3GiB"}, 8192, ["q4_k_m"], [("f16", "f16")])
    names = [fit.plan.model for fit in fits]
    assert len(names) == len(set(names))
    assert set(names) <= set(builtin_names())
    assert 10 < sum(bool(fit.result.fits) for fit in fits) < len(fits)
    for fit in fits:
        assert fit.result.fits == (fit.result.bytes["process"] <= 3 * 2**30)


@pytest.mark.share(3)
def test_catalogue_without_the_models_that_refuse_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latent attention has one type for keys and values; the other models answer. What all refuse is refused."""
    some = ["qwen3-0.6b", "deepseek-v2-lite", "deepseek-v3", "llama-3.2-1b"]
    monkeypatch.setattr("estimator.answers.max_context.names_for", lambda runtime: some)
    mixed = {fit.plan.model for fit in runs_at({"budget": "3GiB"}, 8192, ["q4_k_m"], [("q8_0", "f16")])}
    alike = {fit.plan.model for fit in runs_at({"budget": "3GiB"}, 8192, ["q4_k_m"], [("q8_0", "q8_0")])}
    assert alike - mixed == {"deepseek-v2-lite", "deepseek-v3"}
    assert alike == set(some)
    with pytest.raises(InputError, match="flash attention"):
        runs_at({"budget": "3GiB", "llama_cpp": {"flash_attn": False}}, 8192, ["q4_k_m"], [("f16", "q8_0")])


def test_training_on_a_phone(capsys: pytest.CaptureFixture[str]) -> None:
    """The longest training sequence of each method: parameter-efficient is not memory-efficient."""
    asked = ["max-context", "smollm2-135m", "--budget", "3GiB", "--methods", "full,lora,ia3", "--margin", "0"]
    assert main([*asked, "--json"]) == 0
    training = {row["method"]: row for row in json.loads(capsys.readouterr().out)["training"]}
    for name, row in training.items():
        keys: dict[str, Any] = {"model": "smollm2-135m", "method": name, "budget": "3GiB"}
        assert estimate(keys, seq=row["answer"]).fits
        assert not estimate(keys, seq=row["answer"] + 1).fits
    assert training["full"]["answer"] < training["lora"]["answer"] < 2 * training["full"]["answer"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert "Longest training sequence in 3.00 GiB" in text
    assert "Margin: answers keep free nothing" in text
    assert main(asked[:-2]) == 0
    assert "Margin: answers keep free 3.3 % of the process" in capsys.readouterr().out


def test_curves_rise() -> None:
    """A figure's points: memory never falls as the context grows, and ends past the answer."""
    row = longest(parse_plan({"model": "qwen3-0.6b", "runtime": "llama.cpp", "budget": "2GiB"}))
    points = curve(row).points
    sizes = [limit.needed for _, (limit,) in points]
    assert sizes == sorted(sizes)
    assert row.answer is not None
    assert points[-1][0] >= row.answer
