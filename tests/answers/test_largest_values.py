"""The inverse questions: the longest sequence, the largest batch, the highest rank.

The witness is ``estimate`` itself, asked at every value of a small range, or at the answer and the value after it.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.answers.estimate import estimate
from estimator.answers.inverse import (
    LIMITS,
    QUESTIONS,
    RANKED,
    Solution,
    _PlainSearch,
    _Search,
    curve,
    on_device,
    solve,
)
from estimator.engines.devices import find
from estimator.engines.torch_cpu.engine import UNCERTAINTY, TorchCpu
from estimator.errors import InputError
from estimator.methods.registry import METHODS
from estimator.plans.margins import NO_MARGIN, Margin
from estimator.plans.plan import Plan, parse_plan
from tests.cases.small_models import write_config

pytestmark = pytest.mark.consistency

KEYS: dict[str, Any] = {"batch": 2, "seq": 20, "dtype": "float32"}
LORA = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}
MIB = 2**20


OF_TEXT = ["max-seq", "max-batch", "max-rank"]
"""The questions that go with a causal language model."""


def process(keys: dict[str, Any], question: str, value: int) -> int:
    """Bytes at a value, by a plan written from scratch."""
    if question == "max-rank":
        name = METHODS[keys["method"]["name"]].rank_key
        return estimate({**keys, "method": {**keys["method"], name: value}}).bytes["process"]
    return estimate({**keys, QUESTIONS[question]: value}).bytes["process"]


def solved(question: str, keys: dict[str, Any], multiple_of: int = 1) -> Solution:
    """The largest value whose process is within the budget, to the byte."""
    return solve(question, keys, multiple_of, margin=Margin(nbytes=0))


def check(solution: Solution, keys: dict[str, Any]) -> None:
    """The answer fits, the next value does not, and both say what ``estimate`` says."""
    if solution.answer is not None:
        assert solution.result is not None
        assert solution.result.bytes["process"] == process(keys, solution.question, solution.answer)
        assert solution.margin_bytes == solution.budget_bytes - solution.result.bytes["process"] >= 0
        assert solution.answer % solution.multiple_of == 0
        assert estimate(solution.plan).to_dict() == solution.result.to_dict()
    if solution.next_value is not None:
        assert solution.next_result is not None
        assert solution.next_result.bytes["process"] == process(keys, solution.question, solution.next_value)
        assert solution.missing == solution.next_result.bytes["process"] - solution.budget_bytes > 0
        assert solution.binding == solution.next_result.peak_at
        assert solution.next_value == (solution.answer or 0) + solution.multiple_of
        following = {"value": solution.next_value, "process": solution.next_result.bytes["process"]}
        assert solution.to_dict()["next"] == {**following, "peak_at": solution.binding}
    else:
        assert solution.to_dict()["next"] is None
        assert solution.answer == solution.limit
        assert solution.binding is None


plans = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "seq": st.integers(1, 30),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
        "attention": st.sampled_from(["sdpa", "eager"]),
        "checkpointing": st.sampled_from(["none", "layer"]),
        "keep_logits": st.booleans(),
        "attention_mask": st.booleans(),
    }
)


@pytest.mark.share(12)
@pytest.mark.parametrize("part", range(3))
@settings(max_examples=3, deadline=None)
@given(
    keys=plans,
    family=st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]),
    question=st.sampled_from(OF_TEXT),
    method=st.sampled_from(
        [LORA, {"name": "hira"}, {"name": "lora", "target_modules": "all-linear", "use_dora": True}]
    ),
    at=st.integers(1, 20),
    shift=st.integers(-300, 300),
    multiple_of=st.sampled_from([1, 1, 3, 8]),
)
def test_the_answer_is_the_largest(
    keys: dict[str, Any],
    family: str,
    question: str,
    method: dict[str, Any],
    at: int,
    shift: int,
    multiple_of: int,
    part: int,
    models: dict[str, str],
) -> None:
    """Asks every value of a small range. The budget is a value's bytes, a little more or a little less."""
    keys = {**keys, "model": models[family], "method": method}
    budget = process(keys, question, at) + shift
    solution = solved(question, {**keys, "budget": f"{budget}B"}, multiple_of)
    check(solution, {**keys, "budget": f"{budget}B"})
    fitting = [v for v in range(multiple_of, 33, multiple_of) if process(keys, question, v) <= budget]
    # A lower regime can need more than a higher one: the answer is the largest whatever lies below it.
    assert (solution.answer or 0) == max(fitting, default=0)
    assert solution.estimates < 20


@pytest.mark.share(4)
@pytest.mark.parametrize("part", range(2))
@settings(max_examples=3, deadline=None)
@given(
    question=st.sampled_from(["max-seq", "max-batch"]),
    change=st.sampled_from(
        [
            {"mlp_chunks": 7},
            {"loss": "chunked", "loss_chunk": 5},
            {"loss": "liger"},
            {"loss": "cce"},
            {"saved_activations": "int4"},
            {"dtype": "nf4", "method": LORA},
        ]
    ),
    budget=st.integers(388 * MIB, 420 * MIB),
)
def test_work_in_chunks(question: str, change: dict[str, Any], budget: int, part: int, models: dict[str, str]) -> None:
    """Asks the answer and the next value where the number of chunks steps with the tokens, or sizes are rounded."""
    keys = {**KEYS, "model": models["llama"], **change, "budget": f"{budget}B"}
    solution = solved(question, keys)
    if solution.answer is None:  # below the chunks, a plan is refused: the smallest is not 1
        assert process(keys, question, solution.next_value or 0) > budget
    else:
        check(solution, keys)


@pytest.mark.share(24)
@pytest.mark.parametrize("question", OF_TEXT)
@pytest.mark.parametrize("size", [0, 30, 300])
def test_a_process_that_does_not_grow_evenly(
    question: str, size: int, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asks a made-up allocator that rounds to 2 MiB and reserves up to ``size`` MiB more, as if by chance."""

    def reserved(_: TorchCpu, plan: Plan, peak: int) -> int:
        chance = zlib.crc32(str(peak).encode()) % (size * MIB + 1)
        return -(-(peak + chance) // (2 * MIB)) * 2 * MIB

    monkeypatch.setattr(TorchCpu, "process", reserved)
    for model in (models["llama"], "smollm-135m", "llama-3.2-1b"):
        for budget in ("1GiB", "3GiB", "80GiB"):
            keys = {**KEYS, "model": model, "method": {**LORA, "target_modules": "all-linear"}, "budget": budget}
            solution = solved(question, keys)
            check(solution, keys)
            assert solution.estimates < 20


@pytest.mark.share(36)
@pytest.mark.parametrize("part", range(3))
@settings(max_examples=3, deadline=None)
@given(
    keys=plans,
    question=st.sampled_from(["max-seq", "max-batch"]),
    at=st.integers(1, 20),
    margin=st.sampled_from([None, "3%", "1MiB", "20MiB"]),
)
def test_the_answer_leaves_the_margin(
    keys: dict[str, Any], question: str, at: int, margin: str | None, part: int, models: dict[str, str]
) -> None:
    """Asks every value of a small range: the largest whose bytes and the margin's fit, and the largest without."""
    keys = {**keys, "model": models["llama"], "method": LORA}
    budget = process(keys, question, at)
    kept = Margin.parse(margin)
    solution = solve(question, {**keys, "budget": f"{budget}B"}, margin=kept)

    def fits(value: int, with_margin: bool) -> bool:
        nbytes = process(keys, question, value)
        return nbytes + (kept.of(nbytes, UNCERTAINTY) if with_margin else 0) <= budget

    for with_margin, answer in ((True, solution.answer), (False, solution.answer_without_margin)):
        assert (answer or 0) == max((v for v in range(1, 33) if fits(v, with_margin)), default=0)
    assert solution.verdict == ("does not fit" if solution.value is None else "fits" if solution.answer else "tight")
    if solution.result is not None and margin is None:
        assert solution.result.verdict == solution.verdict
    if solution.missing is not None and solution.next_result is not None:
        margin_there = kept.of(solution.next_result.bytes["process"], UNCERTAINTY) if solution.answer else 0
        assert solution.missing == solution.next_result.bytes["process"] + margin_there - budget > 0


@pytest.mark.parametrize(("model", "device", "most"), [("llama-3.2-1b", "t4", 16), ("qwen2.5-0.5b", "rtx-4090", 18)])
def test_a_search_on_a_gpu_takes_few_estimates(model: str, device: str, most: int) -> None:
    """Near the end of a budget the allocator gives cached memory back, so that bytes say little there."""
    solution = solve("max-seq", {"model": model, "method": "lora", "dtype": "nf4", "device": device})
    assert None not in (solution.answer, solution.answer_without_margin)
    assert solution.estimates <= most


@pytest.mark.parametrize(
    ("text", "nbytes"), [("0", 0), ("5%", 500), ("12.5 %", 1250), ("3KiB", 3072), (None, 700), ("100B", 100)]
)
def test_margins(text: str | None, nbytes: int) -> None:
    assert Margin.parse(text).of(10_000, 0.07) == nbytes


@pytest.mark.parametrize("text", ["", "5", "-1%", "100%", "500%", "much", "5%%", "nan%"])
def test_margins_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="5%"):
        Margin.parse(text)


@pytest.mark.witness
@pytest.mark.share(30)
@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize(
    ("question", "change"),
    [
        ("max-seq", {"dtype": "nf4"}),
        ("max-seq", {"checkpointing": "layer", "loss": "liger"}),
        ("max-batch", {"seq": 64}),
    ],
    ids=str,
)
def test_no_smaller_value_exceeds_the_budget_of_a_gpus_answer(
    question: str, change: dict[str, Any], part: int, tmp_path: Path
) -> None:
    """Asks the replay at 200 smaller values, in fifths: it may need more for less, but never more than the budget."""
    config = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "head_dim": 64, "vocab_size": 8000}
    model = write_config(tmp_path / "model", {"model_type": "llama", "num_attention_heads": 8, **config})
    keys: dict[str, Any] = {"model": model, "method": LORA, "runtime": "torch-cuda", "budget": "1GiB", **change}
    solution = solve(question, keys)
    assert solution.answer is not None
    assert solution.result is not None
    assert solution.result.verdict == "fits"
    for value in sorted({1 + (solution.answer - 1) * i // 200 for i in range(part, 200, 5)}):
        assert process(keys, question, value) <= solution.budget_bytes, value


@pytest.mark.share(8)
@pytest.mark.parametrize("model", ["llama-3.2-1b", "mistral-7b-v0.1"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_real_models_and_long_sequences(attention: str, model: str) -> None:
    """Asks ``estimate`` on both sides of answers of thousands of tokens, where attention is quadratic too."""
    keys = {"model": model, "method": LORA, "attention": attention, "device": "rtx-4090", "dtype": "nf4"}
    solution = solved("max-seq", keys)
    check(solution, keys)
    assert solution.estimates < 20
    assert (solution.answer or 0) > 500


def test_the_binding_moment_is_the_next_values(models: dict[str, str]) -> None:
    """Asks two estimates: with a high rank the optimizer's step binds, with a long sequence the loss."""
    keys = {**KEYS, "model": models["llama"], "method": {"name": "lora", "target_modules": "all-linear"}}
    at = estimate({**keys, "seq": 4, "method": {**keys["method"], "r": 60}})
    assert solved("max-rank", {**keys, "seq": 4, "budget": f"{at.bytes['process']}B"}).binding == "optimizer step"
    assert solved("max-seq", {**keys, "budget": "450MiB"}).binding == "loss backward"


def test_nothing_fits(models: dict[str, str]) -> None:
    """Asks ``estimate`` at the smallest value, which says what is missing."""
    keys = {**KEYS, "model": models["llama"], "budget": "10MiB"}
    solution = solved("max-seq", keys, 8)
    assert (solution.answer, solution.next_value) == (None, 8)
    assert solution.missing == process(keys, "max-seq", 8) - 10 * MIB
    assert solution.to_dict()["bytes"] is None
    chunked = solved("max-seq", {**keys, "mlp_chunks": 7})
    assert chunked.next_value == 4  # two sequences of three tokens are fewer than the chunks


@pytest.mark.parametrize(
    ("model", "keys", "largest"),
    [
        ("gpt2", {}, 1024),
        ("gpt2", {"multiple_of": 1000}, 1000),
        ("opt-125m", {}, 2048),  # two rows of its table are no positions
        ("gpt2", {"task": "infer", "generate": {"max_new_tokens": 25}}, 1000),  # the last token is not read
    ],
)
def test_no_sequence_is_longer_than_the_positions_that_were_learned(
    model: str, keys: dict[str, Any], largest: int
) -> None:
    unit = keys.get("multiple_of", 1)
    plan = {"model": model, "budget": "100GiB"} | {key: x for key, x in keys.items() if key != "multiple_of"}
    found = solve("max-seq", plan, unit)
    assert (found.answer, found.next_value, found.warnings) == (largest, None, ())


def test_a_row_has_room_for_its_images() -> None:
    """Asks ``estimate``. The tower's table of 577 positions is none of the text's."""
    keys = {"model": "llava-1.5-7b", "images": 2, "method": "lora"}
    budget = estimate(**keys, seq=1500).bytes["process"]
    found = solve("max-seq", {**keys, "budget": f"{budget}B"}, margin=NO_MARGIN)
    assert (found.answer, found.next_value) == (1500, 1501)
    nothing = solve("max-seq", {**keys, "budget": "1GiB"})
    assert (nothing.answer, nothing.next_value) == (None, 1152)


def test_tokens_that_are_made_take_positions() -> None:
    plan = {"model": "gpt2", "budget": "100GiB", "task": "infer", "generate": {"max_new_tokens": 1025}}
    with pytest.raises(InputError, match="max_new_tokens: the model has learned positions of no more tokens"):
        solve("max-seq", plan)
    with pytest.raises(InputError, match="no seq from 1 to 1024 is a multiple of 1025"):
        solve("max-seq", {"model": "gpt2", "budget": "100GiB"}, 1025)
    for multiple in (0, -1, 10**5000):  # a number of more than 4,300 digits cannot be printed
        with pytest.raises(InputError, match=r"^no value is a multiple of .*; give a whole number of at least 1$"):
            solve("max-seq", {"model": "gpt2", "budget": "100GiB"}, multiple)


def test_no_limit(models: dict[str, str]) -> None:
    """Asks the contract: past the largest value that a plan takes there is nothing to look for."""
    keys = {**KEYS, "model": models["llama"], "method": LORA, "budget": "900000TiB"}
    for question, limit in (("max-seq", LIMITS["seq"]), ("max-batch", LIMITS["batch"]), ("max-rank", 96)):
        solution = solved(question, keys)
        assert (solution.answer, solution.next_value, solution.limit) == (limit, None, limit)
    for key in ("seq", "batch"):
        limit = LIMITS[key]
        parse_plan({**keys, key: limit})
        with pytest.raises(InputError, match=key):
            parse_plan({**keys, key: limit + 1})


@pytest.mark.share(12)
@pytest.mark.parametrize("name", RANKED)
def test_every_method_with_a_rank(name: str, models: dict[str, str]) -> None:
    """Asks ``estimate``: a budget of rank 5's bytes is answered by 5, whatever the method calls its rank."""
    block = {"name": name, **({"total_step": 10} if name == "adalora" else {}), "target_modules": ["q_proj", "v_proj"]}
    key = METHODS[name].rank_key
    keys = {**KEYS, "model": models["llama"], "method": block}
    budget = process(keys, "max-rank", 5)
    solution = solved("max-rank", {**keys, "method": {**block, key: 9}, "budget": f"{budget}B"})
    expected = 5
    if name == "lokr":  # from some rank on, factors are whole: smaller than of some lower ranks
        expected = max(rank for rank in range(1, 97) if process(keys, "max-rank", rank) <= budget)
    assert (solution.key, solution.answer) == (key, expected)
    check(solution, {**keys, "budget": f"{budget}B"})


def test_ranked_are_the_methods_whose_rank_grows() -> None:
    """Asks the methods' own options: each with a rank from 1 on, but RandLora, which shrinks as its rank grows."""
    of_rank = METHODS["lora"].model_fields["r"].metadata[1:]
    fields = {name: kind.model_fields.get(kind.rank_key) for name, kind in METHODS.items()}
    assert {name for name, field in fields.items() if field and field.metadata[1:] == of_rank} == {*RANKED, "randlora"}


def test_a_rank_of_a_method_within_a_method(models: dict[str, str]) -> None:
    """Asks ``estimate``: zeroth-order steps have the rank of their adapter."""
    method = {"name": "mezo", "adapter": {**LORA, "r": 3}}
    keys = {**KEYS, "model": models["llama"], "method": method}
    solution = solved("max-rank", {**keys, "budget": f"{estimate(keys).bytes['process']}B"})
    assert solution.answer == 3
    assert solution.plan.method.model_dump(exclude_unset=True)["adapter"]["r"] == 3


def test_a_rank_that_the_method_refuses(models: dict[str, str]) -> None:
    """Asks the method's own rule: SHiRA has no more entries to train than the weight."""
    keys = {**KEYS, "model": models["llama"], "method": {"name": "shira"}, "budget": "10GiB"}
    solution = solved("max-rank", keys)
    assert solution.next_result is None
    assert solution.binding is not None
    assert "(PEFT's rule)" in solution.binding
    assert solution.answer == 24  # v_proj is 32 x 96: 24 x (32 + 96) is all of it
    process(keys, "max-rank", 24)
    with pytest.raises(InputError):
        process(keys, "max-rank", 25)


def test_the_models_positions_are_a_note(models: dict[str, str]) -> None:
    """Asks the contract: a warning, no refusal, past the config's 2048 positions; virtual tokens take some."""
    keys = {**KEYS, "model": models["llama"], "batch": 1}
    assert solved("max-seq", {**keys, "budget": f"{process(keys, 'max-seq', 2048)}B"}).warnings == ()
    assert "2,048" in solved("max-seq", {**keys, "budget": f"{process(keys, 'max-seq', 2049)}B"}).warnings[0]
    prompted = {**keys, "method": {"name": "prompt_tuning", "num_virtual_tokens": 8}}
    assert solved("max-seq", {**prompted, "budget": f"{process(prompted, 'max-seq', 2048)}B"}).warnings


def test_unknown_question() -> None:
    """Asks the contract: one line that names the questions."""
    with pytest.raises(InputError, match="did you mean max-seq"):
        solved("max-sequ", {"model": "smollm-135m", "budget": "1GiB"})


def test_the_curve_goes_through_the_answer(models: dict[str, str]) -> None:
    """Asks ``estimate`` along the curve: below the budget up to the answer, above it from then on."""
    solution = solved("max-seq", {**KEYS, "model": models["llama"], "budget": "420MiB"}, 4)
    points = curve(solution)
    assert dict(points)[solution.answer or 0].bytes == solution.result.bytes if solution.result else False
    assert all(value % 4 == 0 for value, _ in points)
    for value, result in points:
        assert (result.bytes["process"] <= solution.budget_bytes) == (value <= (solution.answer or 0))
    assert 25 < len(points) < 40


@pytest.mark.share(3)
def test_no_step_far_beyond_the_answer_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no formula says the live bytes, a step is run for each value that is tried. At 10^6 rows it may take
    minutes and gigabytes, as where a tower of images takes its images one by one.
    """
    tried, run = list[int](), _Search._run

    def noted(search: _Search, value: int) -> float:
        tried.append(value)
        return run(search, value)

    monkeypatch.setattr(_Search, "_run", noted)
    keys = {**KEYS, "model": write_config(tmp_path, {}), "mlp_chunks": 2, "batch": 1}
    keys["budget"] = f"{process(keys, 'max-batch', 300)}B"
    solution = solved("max-batch", keys)
    check(solution, keys)
    assert solution.answer
    assert 300 <= solution.answer < max(tried) < 10**4


@pytest.mark.parametrize(("value", "unit"), [(1, 1), (2, 1), (100_000, 1), (100_000, 128), (999_999, 1)])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_an_engine_without_steps_is_asked_few_times(value: int, unit: int, power: float) -> None:
    """Bytes grow with the value, evenly or faster; the search doubles, and then goes between where it ended. By hand:
    the largest multiple whose bytes are within the budget."""
    asked = set()

    class Search(_PlainSearch):
        def needed(self, value: int, margin: Margin) -> float:
            asked.add(value)
            return 1000 + value**power

    search = Search(parse_plan({"model": "llama-3.2-1b", "runtime": "llama.cpp"}), "seq", unit, 0, lambda: None)
    search.budget = int(1000 + value**power)
    found = value // unit * unit
    assert search.largest(NO_MARGIN) == (found, found + unit)
    assert len(asked) <= 2 * value.bit_length() + 4
    search.budget = 10**40
    limit = 10**8 // unit * unit
    assert search.largest(NO_MARGIN) == (limit, None)


def test_the_value_of_a_solution_is_its_answer() -> None:
    """And without one what fits without a margin."""
    for answer, without, value in ((7, 9, 7), (None, 9, 9), (None, None, None)):
        one = SimpleNamespace(answer=answer, answer_without_margin=without)
        assert Solution.value.fget(one) == value  # type: ignore[attr-defined]


def test_a_plan_on_another_device() -> None:
    """On CUDA where the device has it, unless the plan names a runtime."""
    plan = parse_plan({"model": "smollm2-135m", "budget": "4GiB"})
    for device, runtime in (("rtx-3090", "torch-cuda"), ("apple-16gb", "torch-cpu")):
        found = on_device(plan, find(device))
        assert (found.device, found.runtime, found.budget) == (device, runtime, None)
    named = parse_plan({"model": "smollm2-135m", "runtime": "torch-cpu"})
    assert on_device(named, find("rtx-3090")).runtime == "torch-cpu"
