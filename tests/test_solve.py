"""The inverse questions. The witness is ``estimate`` itself, asked at every value of a small range or at the answer
and the value after it; the command line's is the contract."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator import estimate
from estimator.answers.inverse import LIMITS, QUESTIONS, RANKED, Solution, curve, smallest_device, solve
from estimator.engines import torch_cpu
from estimator.errors import InputError
from estimator.methods.registry import METHODS
from estimator.plans.devices import catalogue, find
from estimator.plans.margins import Margin
from estimator.plans.plan import parse_plan
from estimator.show.cli import main

from .cases import write_config

CONFIG: dict[str, Any] = {"num_hidden_layers": 2, "vocab_size": 211}
KEYS: dict[str, Any] = {"batch": 2, "seq": 20, "dtype": "float32"}
LORA = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}
MIB = 2**20
SOLUTION = {
    "schema",
    "question",
    "key",
    "answer",
    "answer_without_margin",
    "verdict",
    "margin_bytes",
    "kept_free_bytes",
    "uncertainty_bytes",
    "bytes",
    "peak_at",
    "next",
    "binding",
    "budget_bytes",
    "limit",
    "plan",
    "assumptions",
    "warnings",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every family; Mistral's window is 24 tokens."""
    folder = tmp_path_factory.mktemp("solve")
    return {
        family: write_config(folder / family, {"model_type": family, **CONFIG})
        for family in ("llama", "mistral", "qwen2", "qwen3")
    }


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
    else:
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


@settings(max_examples=30, deadline=None)
@given(
    keys=plans,
    family=st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]),
    question=st.sampled_from(list(QUESTIONS)),
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


@settings(max_examples=12, deadline=None)
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
def test_work_in_chunks(question: str, change: dict[str, Any], budget: int, models: dict[str, str]) -> None:
    """Asks the answer and the next value where the number of chunks steps with the tokens, or sizes are rounded."""
    keys = {**KEYS, "model": models["llama"], **change, "budget": f"{budget}B"}
    solution = solved(question, keys)
    if solution.answer is None:  # below the chunks, a plan is refused: the smallest is not 1
        assert process(keys, question, solution.next_value or 0) > budget
    else:
        check(solution, keys)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("size", [0, 30, 300])
def test_a_process_that_does_not_grow_evenly(
    question: str, size: int, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asks a made-up allocator that rounds to 2 MiB and reserves up to ``size`` MiB more, as if by chance."""

    def reserved(sizes: dict[str, int]) -> int:
        chance = zlib.crc32(str(sizes["peak"]).encode()) % (size * MIB + 1)
        return -(-(sizes["peak"] + chance) // (2 * MIB)) * 2 * MIB

    monkeypatch.setattr(torch_cpu, "process_bytes", reserved)
    for model in (models["llama"], "smollm-135m", "llama-3.2-1b"):
        for budget in ("1GiB", "3GiB", "80GiB"):
            keys = {**KEYS, "model": model, "method": {**LORA, "target_modules": "all-linear"}, "budget": budget}
            solution = solved(question, keys)
            check(solution, keys)
            assert solution.estimates < 20


@settings(max_examples=20, deadline=None)
@given(
    keys=plans,
    question=st.sampled_from(["max-seq", "max-batch"]),
    at=st.integers(1, 20),
    margin=st.sampled_from([None, "3%", "1MiB", "20MiB"]),
)
def test_the_answer_leaves_the_margin(
    keys: dict[str, Any], question: str, at: int, margin: str | None, models: dict[str, str]
) -> None:
    """Asks every value of a small range: the largest whose bytes and the margin's fit, and the largest without."""
    keys = {**keys, "model": models["llama"], "method": LORA}
    budget = process(keys, question, at)
    kept = Margin.parse(margin)
    solution = solve(question, {**keys, "budget": f"{budget}B"}, margin=kept)

    def fits(value: int, with_margin: bool) -> bool:
        nbytes = process(keys, question, value)
        return nbytes + (kept.of(nbytes, torch_cpu.UNCERTAINTY) if with_margin else 0) <= budget

    for with_margin, answer in ((True, solution.answer), (False, solution.answer_without_margin)):
        assert (answer or 0) == max((v for v in range(1, 33) if fits(v, with_margin)), default=0)
    assert solution.verdict == ("does not fit" if solution.value is None else "fits" if solution.answer else "tight")
    if solution.result is not None and margin is None:
        assert solution.result.verdict == solution.verdict
    if solution.missing is not None and solution.next_result is not None:
        margin_there = kept.of(solution.next_result.bytes["process"], torch_cpu.UNCERTAINTY) if solution.answer else 0
        assert solution.missing == solution.next_result.bytes["process"] + margin_there - budget > 0


@pytest.mark.parametrize(
    ("text", "nbytes"), [("0", 0), ("5%", 500), ("12.5 %", 1250), ("3KiB", 3072), (None, 700), ("100B", 100)]
)
def test_margins(text: str | None, nbytes: int) -> None:
    assert Margin.parse(text).of(10_000, 0.07) == nbytes


@pytest.mark.parametrize("text", ["", "5", "-1%", "100%", "500%", "much", "5%%", "nan%"])
def test_margins_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="5%"):
        Margin.parse(text)


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
    question: str, change: dict[str, Any], tmp_path: Path
) -> None:
    """Asks the replay at 200 smaller values: it may need more for less, but never more than the budget."""
    config = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "head_dim": 64, "vocab_size": 8000}
    model = write_config(tmp_path / "model", {"model_type": "llama", "num_attention_heads": 8, **config})
    keys: dict[str, Any] = {"model": model, "method": LORA, "runtime": "torch-cuda", "budget": "1GiB", **change}
    solution = solve(question, keys)
    assert solution.answer is not None
    assert solution.result is not None
    assert solution.result.verdict == "fits"
    for value in sorted({1 + (solution.answer - 1) * i // 200 for i in range(200)}):
        assert process(keys, question, value) <= solution.budget_bytes, value


def test_real_models_and_long_sequences() -> None:
    """Asks ``estimate`` on both sides of answers of thousands of tokens, where attention is quadratic too."""
    for attention in ("sdpa", "eager"):
        for model in ("llama-3.2-1b", "mistral-7b-v0.1"):
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


def test_no_limit(models: dict[str, str]) -> None:
    """Asks the contract: past the largest value that a plan takes there is nothing to look for."""
    keys = {**KEYS, "model": models["llama"], "method": LORA, "budget": "900000TiB"}
    for question, limit in (("max-seq", LIMITS["seq"]), ("max-batch", LIMITS["batch"]), ("max-rank", 96)):
        solution = solved(question, keys)
        assert (solution.answer, solution.next_value, solution.limit) == (limit, None, limit)
    for key, limit in LIMITS.items():
        parse_plan({**keys, key: limit})
        with pytest.raises(InputError, match=key):
            parse_plan({**keys, key: limit + 1})


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


def test_the_smallest_device() -> None:
    """Asks ``estimate`` on every device of the catalogue that PyTorch trains on."""
    keys = {"model": "llama-3.2-1b", "method": LORA}
    answer = smallest_device(keys)
    asked = [d for d in catalogue() if not d.is_phone and (d.capability or not d.is_card)]
    verdicts = {d.name: estimate({**keys, "device": d.name}).verdict for d in asked}
    assert answer.best is not None
    assert answer.below is not None
    assert answer.verdict == "fits"
    usable = {d.name: d.usable_bytes for d in asked}
    assert usable[answer.best.device.name] == min(usable[name] for name, one in verdicts.items() if one == "fits")
    predicted = answer.tight or answer.best
    assert usable[predicted.device.name] == min(usable[n] for n, one in verdicts.items() if one != "does not fit")
    assert verdicts[answer.below.device.name] != "fits"
    assert answer.below.missing > 0 == answer.best.missing
    assert answer.binding == "loss backward"
    later = [usable[one.device.name] for one in answer.others]
    assert len(later) == 4
    assert later == sorted(later)
    assert {verdicts[one.device.name] for one in answer.others} == {"fits"}
    apple = smallest_device(keys, "apple")
    assert apple.best is not None
    assert apple.best.device.kind == "Apple silicon"
    assert apple.best.result.bytes.keys() < answer.best.result.bytes.keys()  # a GPU also has what PyTorch reserves


def test_devices_without_rules_are_left_out_by_name() -> None:
    """No card that runs no CUDA is recommended; phones are where they are asked for."""
    keys = {"model": "llama-3.1-8b", "method": LORA}
    left_out = [name for names in smallest_device(keys).left_out.values() for name in names]
    cards = {d.name for d in catalogue() if d.is_card and d.capability is None}
    assert cards <= set(left_out)
    assert {"mi300x", "rx-7900-xtx"} <= cards
    assert set(left_out) - cards == {d.name for d in catalogue() if d.is_phone}
    small = smallest_device({"model": "smollm2-135m", "method": LORA, "seq": 64}, "phone")
    assert small.best is not None
    assert small.best.device.is_phone
    with pytest.raises(InputError, match="runs no CUDA"):
        estimate({**keys, "device": "mi300x"})


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs ``estimator ARGUMENTS``; what it prints, as an object where it is JSON."""

    def run(*arguments: object, status: int = 0) -> Any:
        assert main(list(map(str, arguments))) == status
        out, err = capsys.readouterr()
        if status == 2:
            assert (out, err.count("\n")) == ("", 1)
            return err
        assert err == ""
        return json.loads(out) if "--json" in arguments else out

    return run


@pytest.mark.parametrize(
    ("question", "key", "budget", "options"),
    [
        ("max-seq", "seq", 420, ["--batch", 2]),
        ("max-batch", "batch", 420, ["--seq", 20]),
        ("max-rank", "r", 400, ["--seq", 20, "--target-modules", "all-linear"]),
    ],
)
def test_commands(
    question: str,
    key: str,
    budget: int,
    options: list[Any],
    ask: Callable[..., Any],
    models: dict[str, str],
    tmp_path: Path,
) -> None:
    """Asks the contract: the object, the lines, the figure, and that ``plan`` is ready for ``estimate``."""
    arguments = [question, models["llama"], "--method", "lora", *options, "--budget", f"{budget}MiB"]
    solution = ask(*arguments, "--json")
    assert set(solution) == SOLUTION
    assert (solution["schema"], solution["question"], solution["key"]) == (1, question, key)
    assert solution["next"]["value"] == solution["answer"] + 1
    assert solution["verdict"] == "fits"
    assert solution["bytes"]["process"] + solution["uncertainty_bytes"] <= budget * MIB
    assert solution["answer_without_margin"] > solution["answer"]
    assert solution["binding"] == solution["next"]["peak_at"]
    assert estimate(solution["plan"]).bytes == solution["bytes"]
    shown = ask(*arguments)
    assert f": {solution['answer']:,}\n" in shown
    assert f"what binds is: {solution['binding']}" in shown
    assert f"Without a margin: {solution['answer_without_margin']:,}." in shown
    assert f"Fits in {budget}.00 MiB: " in shown
    tight = ask(*arguments, "--margin", 0, "--json")
    assert tight["answer"] == tight["answer_without_margin"] == solution["answer_without_margin"]
    assert tight["bytes"]["process"] <= budget * MIB
    assert tight["next"] is None or tight["next"]["process"] > budget * MIB  # none past the highest rank
    assert "estimator advise" in shown
    assert ask(*arguments, "--multiple-of", 4, "--json")["answer"] == solution["answer"] // 4 * 4
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({k: v for k, v in solution["plan"].items() if k not in (key, "method")}))
    again = ask(question, "--plan", plan, "--method", "lora", *options[2:], "--json")
    assert again["answer"] == solution["answer"]


def test_the_commands_say_where_there_is_no_answer_or_no_end(ask: Callable[..., Any], models: dict[str, str]) -> None:
    """Asks the contract: exit status 1 where not even the smallest value fits."""
    nothing = ask("max-seq", models["llama"], "--budget", "2MiB", status=1)
    assert "Does not fit in 2.00 MiB: with seq 1, the smallest" in nothing
    assert ask("max-seq", models["llama"], "--budget", "2MiB", "--json", status=1)["answer"] is None
    assert "100,000,000 is the largest seq" in ask("max-seq", models["llama"], "--budget", "900000TiB")
    every = ask("max-rank", models["llama"], "--method", "lora", "--budget", "900TiB")
    assert "past 96" in every
    refused = ask("max-rank", models["llama"], "--method", "shira", "--budget", "900TiB")
    assert "With r 25 the plan is refused" in refused


def test_the_device_command(ask: Callable[..., Any], models: dict[str, str], tmp_path: Path) -> None:
    """Asks the contract: the object, the lines and the exit status."""
    arguments = ["smallest-device", "llama-3.2-1b", "--method", "lora", "--kind", "data centre", "--seq", 256]
    answer = ask(*arguments, "--json")
    assert answer["question"] == "smallest-device"
    assert estimate({**answer["plan"], "device": answer["answer"]}).fits
    assert (
        answer["budget_bytes"] == find(answer["answer"]).usable_bytes == answer["margin"] + answer["bytes"]["process"]
    )
    assert answer["below"] is None  # the smallest of that kind
    shown = ask(*arguments)
    assert answer["answer"] in shown
    assert "the next ones that fit" in shown
    assert "The next smaller" in ask("smallest-device", "llama-3.2-1b")
    large = ["smallest-device", "llama-3.1-70b", "--seq", 8192]
    assert "Does not fit: nothing in the catalogue is large enough" in ask(*large, status=1)
    none = ask(*large, "--json", status=1)
    assert (none["answer"], none["below"]["margin"] < 0) == (None, True)


WRONG: list[tuple[list[Any], str]] = [
    (["max-seq", "MODEL"], "give a budget"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--seq", 8], "leave seq out"),
    (["max-batch", "MODEL", "--budget", "1GiB", "--batch", 8], "leave batch out"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "lora", "--r", 8], "leave r out"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "adalora", "--init-r", 8, "--total-step", 9], "init_r"),
    (["max-rank", "MODEL", "--budget", "1GiB"], "method full has no rank to look for; those that have: lora"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "ia3"], "no rank"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "oft"], "no rank"),
    (["max-rank", "MODEL", "--budget", "1GiB", "--method", "lora", "--init-lora-weights", "orthogonal"], "even"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--multiple-of", 0], "whole number"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--multiple-of", "x"], "--multiple-of"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--multiple-of", 10**9], "multiple of"),
    (["max-seq", "MODEL", "--budget", "8"], "write it like 24GiB"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--method", "gralora"], "method: gralora, which is traced"),
    (["max-seq", "MODEL", "--budget", "1GiB", "--output", "x.gif"], "no figure format"),
    (["max-seq", "no-such-model", "--budget", "1GiB"], "unknown model"),
    (["max-seq"], "no model given"),
    (["smallest-device", "MODEL", "--budget", "1GiB"], "leave budget out"),
    (["smallest-device", "MODEL", "--device", "rtx-4090"], "leave device out"),
    (["smallest-device", "MODEL", "--kind", "toaster"], "kinds are GPU, data centre"),
    (["smallest-device", "no-such-model"], "unknown model"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_wrong_input(arguments: list[Any], says: str, ask: Callable[..., Any], models: dict[str, str]) -> None:
    """Asks the contract: status 2 and one line."""
    assert says in ask(*(models["llama"] if word == "MODEL" else word for word in arguments), status=2)


def test_keys_in_a_plans_file(ask: Callable[..., Any], models: dict[str, str], tmp_path: Path) -> None:
    """Asks the contract: a plan that gives the key is refused; the rank of an adapter's own file is replaced."""
    plan, adapter = tmp_path / "plan.json", tmp_path / "adapter_config.json"
    keys = {"model": models["llama"], "seq": 9, "method": {"name": "lora", "r": 4}, "budget": "405MiB"}
    plan.write_text(json.dumps(keys))
    assert "leave seq out" in ask("max-seq", "--plan", plan, status=2)
    assert "leave r out" in ask("max-rank", "--plan", plan, status=2)
    adapter.write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]}))
    expected = solve("max-rank", {**keys, "method": LORA}).answer
    plan.write_text(json.dumps({**keys, "method": str(adapter)}))
    assert ask("max-rank", "--plan", plan, "--json")["answer"] == expected
    assert ask("max-rank", "--plan", plan, "--method", adapter, "--json")["answer"] == expected
    assert "leave r out" in ask("max-rank", "--plan", plan, "--r", 3, status=2)


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


@pytest.mark.parametrize(("question", "budget"), [("max-seq", "450MiB"), ("max-rank", "425MiB"), ("max-batch", "1MiB")])
def test_figure(question: str, budget: str, models: dict[str, str], tmp_path: Path) -> None:
    """Asks the picture itself: the budget's red line, the process's ink and, where there is one, the answer's mark."""
    from matplotlib.image import imread

    path = tmp_path / "figure.png"
    status = 1 if budget == "1MiB" else 0
    arguments = [question, models["llama"], "--method", "lora", "--target-modules", "all-linear", "--budget", budget]
    assert main([*arguments, "--output", str(path)]) == status
    pixels = (np.asarray(imread(path))[..., :3] * 255).round().astype(np.uint8)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200

    def has(colour: str, at_least: int) -> bool:
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        return int((np.abs(pixels.astype(int) - wanted).max(axis=2) < 8).sum()) > at_least

    assert has("#B22222", 300)
    assert has("#222222", 800)
    assert has("#0072B2", 300)
    assert has("#D55E00", 100) == (status == 0)
