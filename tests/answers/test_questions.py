"""The public functions of Python. The witness of their numbers is the command line's JSON."""

from __future__ import annotations

import doctest
import inspect
import json
import math
import pydoc
import re
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import estimator
from estimator.answers.result import _phase_note
from estimator.errors import InputError
from estimator.methods.registry import METHODS
from estimator.plans.flat import BLOCKS
from estimator.plans.keywords import PlanKeys
from estimator.plans.models import builtin_names
from estimator.plans.plan import Plan, parse_plan
from estimator.show.cli import main
from tests.cases.small_models import TINY

FUNCTIONS = [name for name in estimator.__all__ if inspect.isfunction(getattr(estimator, name))]


def as_command(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    main([*words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_surface_fits_on_a_page() -> None:
    assert len(estimator.__all__) <= 20
    for name in FUNCTIONS:
        assert inspect.getdoc(getattr(estimator, name))


def test_keywords_are_every_key() -> None:
    known = {
        *Plan.model_fields,
        *(key for options in (*BLOCKS.values(), *METHODS.values()) for key in options.model_fields),
    }
    assert set(PlanKeys.__annotations__) == known - {"name"}


def test_the_files_of_keywords_are_current() -> None:
    pytest.importorskip("ruff")
    sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
    import make_keywords

    assert make_keywords.PATH.read_text() == make_keywords.text()


@pytest.mark.parametrize("form", ["name", "mapping", "plan", "keys beside a mapping"])
def test_a_plan_in_any_form(form: str) -> None:
    keys: dict[str, Any] = {"model": "smollm2-135m", "method": {"name": "lora", "r": 4}, "seq": 100, "budget": "8GiB"}
    answers = {
        "name": lambda: estimator.max_batch("smollm2-135m", method="lora", r=4, seq=100, budget="8GiB"),
        "mapping": lambda: estimator.max_batch(keys),
        "plan": lambda: estimator.max_batch(parse_plan(keys)),
        "keys beside a mapping": lambda: estimator.max_batch(
            {"model": "smollm2-135m"}, method="lora", r=4, seq=100, budget="8GiB"
        ),
    }
    assert answers[form]().answer == answers["mapping"]().answer


@pytest.mark.share(5)
def test_answers_are_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    lora = {"method": "lora", "r": 4}
    words = ["smollm2-135m", "--method", "lora", "--r", "4"]
    told = as_command(capsys, "max-seq", *words, "--budget", "4GiB", "--multiple-of", "64")
    assert estimator.max_seq("smollm2-135m", multiple_of=64, budget="4GiB", **lora).to_dict() == told
    told = as_command(capsys, "max-rank", "smollm2-135m", "--method", "lora", "--budget", "4GiB", "--seq", "512")
    assert estimator.max_rank("smollm2-135m", method="lora", budget="4GiB", seq=512).to_dict() == told
    told = as_command(capsys, "smallest-device", *words, "--kind", "Apple")
    assert estimator.smallest_device("smollm2-135m", kind="Apple", **lora).to_dict() == told
    told = as_command(capsys, "smallest-cluster", *words, "--devices", "raspberry-pi-5-8gb", "--max-cards", "2")
    found = estimator.smallest_cluster("smollm2-135m", devices="raspberry-pi-5-8gb", max_cards=2, **lora)
    assert found.to_dict() == told
    told = as_command(capsys, "advise", *words, "--seq", "8192", "--budget", "4GiB")
    advice = estimator.advise("smollm2-135m", seq=8192, budget="4GiB", **lora)
    assert json.loads(json.dumps({"advice": [one.to_dict() for one in advice]})) == told
    told = as_command(capsys, "max-context", "qwen3-0.6b", "--dtypes", "q4_k_m", "--device", "pixel-8", "--margin", "0")
    row = estimator.max_context("qwen3-0.6b", dtype="q4_k_m", device="pixel-8", margin="0")
    assert row.answer == told["rows"][0]["answer"]
    told = as_command(capsys, "compare", "smollm2-135m", "--methods", "full,lora", "--seqs", "128,256", "--at", "256")
    rows = estimator.compare("smollm2-135m", methods=["full", "lora"], seqs=[128, 256]).records()
    assert rows[-1]["process"] == told["rows"][1]["results"]["256"]["bytes"]["process"] if "rows" in told else True


def test_a_formula_is_an_expression_with_symbols_that_say_what_they_are() -> None:
    found = estimator.formula("smollm2-135m", method="lora", component="saved", symbolic=True)
    symbols = {str(symbol): symbol for symbol in found.symbols}
    values = {symbols[name]: value for name, value in {**found.values, "B": 3, "S": 70}.items() if name in symbols}
    assert (
        found.expression.subs(values)
        == estimator.estimate("smollm2-135m", method="lora", batch=3, seq=70).bytes["saved"]
    )
    assert "layers" in found.symbols[symbols["L"]]
    assert found.to_dict()["component"] == "saved"
    assert r"\begin{align*}" in found.to_latex()
    with pytest.raises(InputError, match="no component 'peek'"):
        estimator.formula("smollm2-135m", component="peek")


ANSWERS: dict[str, Any] = {
    "estimate": lambda: estimator.estimate("smollm2-135m", budget="4GiB"),
    "llama.cpp": lambda: estimator.estimate("qwen3-0.6b", dtype="q8_0", n_ctx=4096),
    "compare": lambda: estimator.compare("smollm2-135m", seqs=[64, 128]),
    "sweep": lambda: estimator.sweep("smollm2-135m", seq=range(64, 300, 64), batch=[1, 2]),
    "advise": lambda: estimator.advise("smollm2-135m", method="lora", seq=8192, budget="4GiB")[0],
    "max_seq": lambda: estimator.max_seq("smollm2-135m", method="lora", budget="4GiB"),
    "max_context": lambda: estimator.max_context("qwen3-0.6b", dtype="q4_k_m", device="pixel-8"),
    "smallest_device": lambda: estimator.smallest_device("smollm2-135m", kind="Apple"),
    "smallest_cluster": lambda: estimator.smallest_cluster("smollm2-135m", devices=["t4"], max_cards=2),
}


@pytest.mark.share(4)
@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_a_table_and_a_figure(name: str, tmp_path: Path) -> None:
    answer = ANSWERS[name]()
    rows = answer.records()
    assert rows
    assert all(list(row) == list(rows[0]) for row in rows)
    json.dumps(answer.to_dict())
    page = answer._repr_html_()
    assert page.startswith("<")
    assert page.count("<table") == page.count("</table>") == 1
    if name != "smallest_device":
        figure = answer.plot()
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 5000
    for library in ("pandas", "polars"):
        pytest.importorskip(library)
        frame = answer.to_frame(library)
        assert len(frame) == len(rows)
        assert list(frame.columns) == list(rows[0])
    with pytest.raises(InputError, match="take pandas or polars"):
        answer.to_frame("excel")


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(InputError, match="polars is not installed"):
        estimator.estimate("smollm2-135m").to_frame("polars")


@pytest.mark.share(6)
def test_examples_in_docstrings() -> None:
    from estimator import questions

    found = doctest.testmod(questions)
    assert found.attempted >= 7
    assert found.failed == 0


def test_a_key_that_is_given_twice() -> None:
    with pytest.raises(InputError, match="seq is given twice"):
        estimator.max_batch({"model": "smollm2-135m", "seq": 4}, seq=5)


WRONG: list[Any] = [
    None, 1.5, [], {}, b"x", np.int64(3), np.float32(2.5), "", " ", True, object(), (1, 2), {"a": 1}, math.nan, -1,
    10**30, [None], {1: 2}, set(), len, "\ud800", np.array([1, 2]), range(0), slice(3), ..., int, "x" * 5000, [[1]],
]  # fmt: skip
"""Values of every kind; some of them are right for some key."""
KEYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "estimate": ({}, ("seq", "method", "budget", "lengths", "runtime", "r", "nope")),
    "compare": ({"seqs": [64], "methods": ["full"]}, ("methods", "seqs", "devices", "device")),
    "sweep": ({"seq": [64, 65], "only": ["peak"]}, ("seq", "only", "method")),
    "advise": ({"seq": 64, "method": "full"}, ("margin", "budget", "method")),
    "max_seq": ({}, ("margin", "multiple_of", "budget")),
    "max_context": ({}, ("margin", "budget")),
    "smallest_device": ({"seq": 64, "devices": ["t4"]}, ("margin", "kind", "devices")),
    "smallest_cluster": ({"seq": 64, "devices": ["t4"], "max_cards": 1}, ("margin", "devices", "max_cards")),
    "formula": ({}, ("component", "symbolic")),
    "check": ({}, ("format", "seq")),
    "models": ({}, ("text",)),
    "devices": ({}, ("text",)),
}


@pytest.mark.share(12)
@pytest.mark.parametrize("name", KEYS)
def test_values_of_every_kind_are_answered_or_refused_in_one_line(name: str) -> None:
    """As the plan, and as each of the arguments that the function itself reads."""
    ask, (given, keys) = getattr(estimator, name), KEYS[name]
    plans = {"check": "trl sft --model_name_or_path Qwen/Qwen3-0.6B --use_peft", "models": None, "devices": None}
    plan = plans.get(name, "qwen3-0.6b")
    questions = [((one,), given) for one in WRONG]
    questions += [((plan,) if plan else (), {**given, key: one}) for key in keys for one in WRONG]
    for arguments, keywords in questions:
        with suppress(InputError):
            ask(*arguments, **keywords)


def test_a_path_names_a_model_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    assert estimator.estimate(path).bytes == estimator.estimate(model=path).bytes == estimator.estimate(str(path)).bytes
    assert estimator.max_seq(path, budget="1GiB").answer == estimator.max_seq(str(path), budget="1GiB").answer
    file = tmp_path / "train.sh"
    file.write_text("trl sft --model_name_or_path Qwen/Qwen3-0.6B --use_peft --max_length 2048")
    assert estimator.check(file).plan == estimator.check(str(file)).plan


def test_one_value_is_a_list_of_one() -> None:
    one = estimator.compare("smollm2-135m", methods="full", seqs=64, devices="t4")
    assert one.to_dict() == estimator.compare("smollm2-135m", methods=["full"], seqs=[64], devices=["t4"]).to_dict()


def test_keys_beside_a_plan_take_the_place_of_its_own() -> None:
    plan = estimator.Plan(model="smollm2-135m", seq=64, batch=2)
    assert estimator.estimate(plan, seq=128).bytes == estimator.estimate("smollm2-135m", seq=128, batch=2).bytes


@pytest.mark.share(3)
@pytest.mark.parametrize("name", [*ANSWERS, "formula", "check"])
def test_an_answer_shows_itself_in_one_line(name: str) -> None:
    others = {
        "formula": lambda: estimator.formula("smollm2-135m"),
        "check": lambda: estimator.check("trl sft --model_name_or_path Qwen/Qwen3-0.6B --use_peft"),
    }
    answer = {**ANSWERS, **others}[name]()
    assert re.fullmatch(r"[A-Z]\w+\((tool|model)='[^\n]{10,180}\)", repr(answer))


def test_a_plan_shows_the_keys_that_are_given() -> None:
    assert repr(estimator.Plan(model="x", seq=64)) == "Plan(model='x', seq=64)"


def test_help_lists_the_keys() -> None:
    for name in ("estimate", "max_seq", "compare"):
        text = pydoc.render_doc(getattr(estimator, name), renderer=pydoc.plaintext)
        assert all(
            re.search(rf"^        {key}( \(default|:)", text, re.MULTILINE) for key in estimator.Plan.model_fields
        )
        assert "max_new_tokens" in text


def test_catalogues_are_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    told = as_command(capsys, "models", "qwen3")
    assert [asdict(one) for one in estimator.models("qwen3")] == told
    assert len(estimator.models()) == len(builtin_names())
    told = as_command(capsys, "devices", "rtx")
    assert [one.name for one in estimator.devices("RTX")] == [row["name"] for row in told]
    assert len(repr(estimator.devices()[0])) < 100


def test_wrong_input_is_an_input_error() -> None:
    for ask in (
        lambda: estimator.compare("smollm2-135m", methods=["lorra"]),
        lambda: estimator.sweep("smollm2-135m", seq=5),
        lambda: estimator.max_context("smollm2-135m", method="lora", device="pixel-8"),
        lambda: estimator.max_context("smollm2-135m", runtime="torch-cpu", budget="8GiB"),
        lambda: estimator.advise("smollm2-135m", margin="lots", budget="4GiB"),
        lambda: estimator.smallest_device("smollm2-135m", sequence=5),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "seq", "keys", "words"),
    [
        ("gpt2", 1024, {}, None),
        ("gpt2", 1025, {}, "has learned 1,024 positions, and a step with 1,025 stops in PyTorch"),
        ("opt-125m", 2049, {"task": "infer"}, "has learned 2,048 positions"),
        ("opt-125m", 2047, {"generate": {"max_new_tokens": 2}}, None),
        ("opt-125m", 2047, {"generate": {"max_new_tokens": 3}}, "and a step with 2,049 stops"),
        ("smollm2-135m", 9000, {"task": "infer"}, "was made for 8,192 positions; 9,000 are more"),
        ("smollm2-135m", 9000, {}, None),
    ],
)
def test_more_positions_than_there_are(model: str, seq: int, keys: dict[str, Any], words: str | None) -> None:
    """Learned positions end; rotary ones do not, and a training run may extend them."""
    said = [one for one in estimator.estimate(model=model, seq=seq, **keys).warnings if "positions" in one]
    assert len(said) == (words is not None)
    assert all(str(words) in one for one in said)


def test_a_trainer_that_generates_says_which_phase_holds_the_peak() -> None:
    """And what takes less there; of other trainers and of inference nothing is said."""
    grpo = parse_plan({"model": "smollm2-135m", "trainer": "trl-grpo", "seq": 64, "prompt_seq": 16, "batch": 8})
    for peak_at, phase in (("decode", "generation"), ("model scoring", "scoring"), ("loss backward", "the update")):
        (note,) = _phase_note(grpo, peak_at)
        assert f", {phase} holds the peak" in note
    for keys in ({}, {"trainer": "trl-sft"}, {"trainer": "trl-dpo", "batch": 2}, {"task": "infer"}):
        assert _phase_note(parse_plan({"model": "smollm2-135m", "seq": 64, **keys}), "decode") == []
