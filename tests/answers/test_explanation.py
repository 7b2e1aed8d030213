"""What a step saves, row by row. The witnesses of single rows are the trace's and the measured steps' own tests."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.config_names import named
from estimator.answers.estimate import estimate
from estimator.answers.explanation import Explanation, explain, layers_name
from estimator.answers.explanation_view import FIRST, SECOND, side_by_side
from estimator.answers.reasons import reason
from estimator.errors import InputError
from estimator.ledger import Input, SavedBy
from estimator.ledger.sizes import symbol
from estimator.operators.table import SAVED
from estimator.plans.plan import parse_plan
from tests.cases.random_plans import random_plans
from tests.cases.small_models import METHODS, systematic, write_config
from tests.helpers.refusals import assert_one_line

LORA = {"name": "lora", "r": 16}
ALL = {"name": "lora", "r": 4, "target_modules": "all-linear"}
PLANS: dict[str, dict[str, Any]] = {
    "gemma-3": {"model": "gemma-3-1b", "method": LORA, "batch": 2, "seq": 600},
    "gemma-3-below-its-window": {"model": "gemma-3-1b", "seq": 100, "checkpointing": "layer"},
    "gpt2": {"model": "gpt2", "seq": 64},
    "gpt2-lora": {"model": "gpt2", "seq": 64, "method": {"name": "lora", "r": 4, "target_modules": ["c_attn"]}},
    "experts": {"model": "qwen3-30b-a3b", "batch": 2, "seq": 64},
    "olmo-2": {"model": "olmo-2-7b", "method": ALL, "seq": 64},
    "on-a-gpu": {"model": "llama-3.2-1b", "method": LORA, "device": "rtx-4090", "seq": 512},
    "flash": {"model": "llama-3.2-1b", "method": LORA, "device": "rtx-4090", "attention": "flash", "seq": 500},
    "nf4": {"model": "llama-3.2-1b", "method": LORA, "dtype": "nf4", "seq": 64},
    "torchao": {"model": "llama-3.2-1b", "method": LORA, "dtype": "int8-weight-only", "seq": 64},
    "gptq": {"model": "llama-3.2-1b", "method": LORA, "dtype": "gptq", "seq": 64},
    "every-3": {"model": "llama-3.2-1b", "method": LORA, "checkpointing": "every-3", "seq": 64},
    "matmul": {"model": "llama-3.2-1b", "checkpointing": "matmul", "seq": 64},
    "attention": {"model": "llama-3.2-1b", "checkpointing": "attention", "batch": 2, "seq": 64},
    "reentrant": {"model": "llama-3.2-1b", "checkpointing": "layer", "use_reentrant": True, "seq": 64},
    "chunks": {"model": "llama-3.2-1b", "mlp_chunks": 9, "loss": "chunked", "loss_chunk": 16, "batch": 3, "seq": 64},
    "liger": {"model": "llama-3.2-1b", "loss": "liger", "batch": 3, "seq": 64},
    "cce": {"model": "llama-3.2-1b", "loss": "cce", "batch": 3, "seq": 64},
    "codes": {"model": "llama-3.2-1b", "saved_activations": "int4", "batch": 3, "seq": 64},
    "host": {"model": "llama-3.2-1b", "saved_activations": "on-host", "device": "rtx-4090", "seq": 64},
    "autocast": {"model": "llama-3.2-1b", "dtype": "float32", "autocast": "bfloat16", "method": LORA, "seq": 64},
    "prompts": {"model": "llama-3.2-1b", "method": {"name": "p_tuning", "num_virtual_tokens": 8}, "seq": 64},
    "accumulation": {"model": "llama-3.2-1b", "gradient_accumulation_steps": 4, "method": LORA, "seq": 64},
    "encoder": {"model": "all-minilm-l6-v2", "method": LORA, "seq": 64},
    "two-stacks": {"model": "t5-small", "seq": 64, "target_seq": 20, "batch": 2},
    "audio": {"model": "whisper-tiny", "target_seq": 20, "batch": 2},
    "an-older-release": {"model": "llama-3.2-1b", "transformers": "4.48", "batch": 2, "seq": 64},
    "litgpt": {
        "model": "tiny-llama-1.1b",
        "implementation": "litgpt",
        "method": {"name": "lora", "r": 8, "target_modules": ["query", "value"]},
        "seq": 300,
    },
}


def explained(keys: dict[str, Any]) -> Explanation:
    return explain(parse_plan(keys))


def check(explanation: Explanation) -> None:
    """Rows add up to the result's saved bytes, each layer is there once, and each operator has its sentence."""
    plan = explanation.plan
    saved = estimate(plan).bytes["saved"]
    assert sum(part.count * sum(row.nbytes for row in part.rows) for part in explanation.parts) == saved
    assert explanation.saved == saved
    per_token = sum((part.count * part.per_token for part in explanation.parts), Fraction(0))
    assert per_token == Fraction(saved, explanation.tokens)
    layers = Counter(index for part in explanation.parts for unit in part.layers for index in unit)
    assert set(layers.values()) <= {1}
    for row in (row for part in explanation.parts for row in part.rows):
        assert row.operator in SAVED, row
        assert row.why
        assert row.module


@pytest.mark.share(16)
@pytest.mark.consistency
@pytest.mark.parametrize("keys", PLANS.values(), ids=PLANS)
def test_rows_add_up(keys: dict[str, Any]) -> None:
    """Asks the estimate's own saved bytes."""
    check(explained(keys))


def test_what_backward_recomputes_is_in_no_row() -> None:
    """Of a step of two micro-batches, the rows are those of one forward pass."""
    keys = {"model": "llama-3.2-1b", "method": LORA, "checkpointing": "layer", "use_reentrant": True, "seq": 64}
    one, two = (explained({**keys, "gradient_accumulation_steps": steps}) for steps in (1, 2))
    assert (one.parts, one.saved) == (two.parts, two.saved)


@pytest.mark.share(16)
@pytest.mark.consistency
@pytest.mark.parametrize("part", range(4))
def test_rows_of_small_models_add_up(part: int, tmp_path: Path) -> None:
    """Families, methods, dtypes, attention and checkpointing; then plans at random."""
    for number, (_, config, keys) in enumerate(itertools.islice(systematic(), 7 * part, None, 28)):
        check(explained({"model": write_config(tmp_path / str(number), config), **keys}))
    asked = 0
    for number, (config, keys) in enumerate(itertools.islice(random_plans(11), part, 60, 4)):
        try:
            plan = parse_plan({"model": write_config(tmp_path / f"r{number}", config), **keys})
            estimate(plan)
            explanation = explain(plan)
        except InputError as error:
            assert_one_line(str(error))
            continue
        check(explanation)
        asked += 1
    assert asked > 4


def test_the_layer_of_the_page() -> None:
    """The table that was made by hand in docs/how-it-works.md: its rows' bytes, its two sums."""
    page = (Path(__file__).parents[2] / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    sums = re.search(r"\| \*\*sum\*\* .*\*\*([\d,]+)\*\* \| \*\*([\d,]+)\*\*", page)
    assert sums is not None
    full, lora = (explained({"model": "llama-3.2-1b", "method": method}) for method in ({"name": "full"}, LORA))
    inner = [next(part for part in one.parts if len(part.layers) == 15) for one in (full, lora)]
    assert [f"{int(part.per_token):,}" for part in inner] == list(sums.groups())
    pair = next(pair for pair in side_by_side(full, lora).sections if len(pair.layers) == 15)
    dropped = Counter({4096: 4, 16384: 1})  # both norms' results, the inputs of q_proj and gate_proj, of down_proj
    assert Counter(int(row.per_token) for row in pair.rows(FIRST)) == dropped
    assert [row.module.rpartition(".")[2] for row in pair.rows(SECOND)] == ["lora_A", "lora_B"] * 2
    assert (pair.only(0), pair.only(1)) == (32768, 16512)
    assert pair.per_token[0] - pair.only(0) + pair.only(1) == pair.per_token[1]
    names = ["embedding", "layer 0", "layers 1 to 15", "final norm", "lm_head", "loss"]
    for two in (side_by_side(full, lora), side_by_side(lora, full)):
        assert [one.name for one in two.sections] == names
    o_proj = next(row for row in inner[0].rows if "self_attn.o_proj (MmBackward0)" in row.also)
    assert o_proj.operator == "ScaledDotProductFlashAttentionForCpuBackward0"
    of_v = next(row for row in inner[1].rows if row.module == "self_attn.v_proj.lora_A")
    assert of_v.why == ("the input of self_attn.v_proj.lora_A: the gradient of self_attn.v_proj.lora_A.weight needs it")


FORMULAS = [
    ("llama", METHODS["lora"], "hidden_size"),
    ("qwen3", METHODS["ia3"], "num_attention_heads"),
    ("mistral", METHODS["lora-all-dropout"], "intermediate_size"),
]


@pytest.mark.consistency
@pytest.mark.parametrize(("family", "method", "name"), FORMULAS, ids=[family for family, *_ in FORMULAS])
def test_formulas_of_kinds_of_layers(family: str, method: Any, name: str, tmp_path: Path) -> None:
    """A kind's formula gives the bytes of that kind in another plan: other sizes, another batch and length."""
    config = {"model_type": family, "num_hidden_layers": 6, "sliding_window": None}
    keys = {"model": write_config(tmp_path / "one", config), "method": method, "batch": 2, "seq": 40}
    other = {
        "hidden_size": 128,
        "intermediate_size": 300,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "vocab_size": 977,
    }
    elsewhere = explained({**keys, "model": write_config(tmp_path / "two", {**config, **other}), "batch": 3, "seq": 61})
    here = explained(keys)
    assert len(here.parts) == len(elsewhere.parts)
    assert any(name in named(part.formula) for part in here.parts if part.formula is not None)
    values = dict(elsewhere.values)
    holds = all(eval(part.condition, {}, values) for part in here.parts)
    assert holds == (family != "mistral")  # which has a single key/value head here, and two elsewhere
    if not holds:
        assert "num_key_value_heads == 1" in here.parts[0].condition
        return
    for one, two in zip(here.parts, elsewhere.parts, strict=True):
        assert one.formula is not None
        assert eval(named(one.formula), {}, values) == two.nbytes
        for row, there in zip(one.rows, two.rows, strict=True):
            assert row.symbols is not None
            assert tuple(eval(named(size), {}, values) for size in row.symbols) == there.shape


@pytest.mark.consistency
def test_formulas_in_batch_and_length_alone() -> None:
    """Sizes are numbers in formulas of a family whose programs are of one setting each."""
    here, elsewhere = (explained({"model": "llama-4-scout", "batch": b, "seq": s}) for b, s in ((2, 700), (5, 901)))
    for one, two in zip(here.parts, elsewhere.parts, strict=True):
        assert one.formula is not None
        assert eval(named(one.formula), {}, dict(elsewhere.values)) == two.nbytes
    assert {name for name, _ in here.values} == {"batch", "seq"}


def test_formulas_in_the_target_s_length() -> None:
    """Formulas of one shape give the rows' bytes of another one, which are the ledger's."""
    shapes = ((2, 70, 30), (3, 90, 41))
    here, elsewhere = (
        explained({"model": "t5-small", "method": LORA, "batch": b, "seq": s, "target_seq": t}) for b, s, t in shapes
    )
    for one, two in zip(here.parts, elsewhere.parts, strict=True):
        assert one.formula is not None
        assert eval(named(one.formula), {}, dict(elsewhere.values)) == two.nbytes
    assert {"batch", "seq", "target_seq"} <= {name for name, _ in here.values}


def test_bytes_are_divided_by_the_tokens_that_there_are() -> None:
    """By hand: of the text, else of what the decoder learns; without either by rows."""
    found = {
        "llama-3.2-1b": {"seq": 48, "batch": 3},
        "t5-small": {"seq": 48, "target_seq": 7, "batch": 3},
        "whisper-tiny": {"target_seq": 7, "batch": 3},
        "vit-base": {"batch": 3},
    }
    counted = {name: explain(parse_plan({"model": name, **keys})) for name, keys in found.items()}
    assert [(one.tokens, one.per) for one in counted.values()] == [
        (144, "token"),
        (144, "token"),
        (21, "token"),
        (3, "row"),
    ]
    row = counted["whisper-tiny"].parts[0].rows[0]
    assert row.per_token * 21 == row.nbytes


def test_a_batch_of_one_has_the_formulas_of_others_where_they_hold() -> None:
    """The labels of a single sequence are a view of more; all else is as for two."""
    parts = {part.name: part.condition for part in explained({"model": "llama-3.2-1b", "seq": 64}).parts}
    assert parts.pop("loss") == "batch == 1 and seq >= 2"
    assert all(condition.startswith("batch >= 2 and seq >= 2") for condition in parts.values())


def test_no_model_is_recorded_for_its_formulas() -> None:
    """Where only a recording would give them there are none, and the rows are there all the same."""
    explanation = explained({"model": "granite-4.0-h-micro", "batch": 2, "seq": 96})
    assert all(part.formula is None for part in explanation.parts)
    assert not explanation.values
    check(explanation)


REFUSED = {
    "infer": {"task": "infer"},
    "llama.cpp": {"runtime": "llama.cpp"},
    "mezo": {"method": {"name": "mezo", "adapter": {"name": "lora", "r": 4}}},
    "forward-ad": {"method": "forward-ad"},
}


@pytest.mark.parametrize("keys", REFUSED.values(), ids=REFUSED)
def test_what_saves_nothing_is_refused(keys: dict[str, Any]) -> None:
    """One line says what to change."""
    with pytest.raises(
        InputError, match=r"an explanation does not go with .*, which saves nothing for backward; "
    ) as e:
        explained({"model": "llama-3.2-1b", **keys})
    assert_one_line(str(e.value))


def test_reasons_follow_from_what_needs_a_gradient() -> None:
    """The same tensor of the same operator, by which inputs train."""

    def why(position: int, *inputs: Input | None, operator: str = "MmBackward0") -> str:
        return reason(SavedBy(0, "layer.up", 0, 0, operator, position, inputs, instead=False), "layer.")

    frozen, computed, weight = Input(False), Input(True), Input(True, "layer.up.weight", ("ToCopyBackward0",))
    far = Input(True, "layer.up.weight", ("ExpBackward0",))
    assert why(1, None, computed, weight) == "the input of up: the gradient of up.weight needs it"
    assert why(0, None, computed, frozen) == "its second factor: the gradient of its first factor needs it"
    assert why(1, None, computed, far) == "its first factor: the gradient of its second factor needs it"
    assert why(1, computed, frozen, operator="DivBackward0").endswith("its dividend needs it")
    assert why(0, computed, frozen, operator="DivBackward0").endswith("kept although no gradient needs it")
    assert why(0, computed, operator="TheirFunctionBackward") == "saved by this autograd.Function itself"


def test_layers_in_words() -> None:
    """Neighbours are joined."""
    assert layers_name([(3,)]) == "layer 3"
    assert layers_name([(0,), (2,), (3,), (4,), (7,), (8,)]) == "layers 0, 2 to 4, 7, 8"
    assert layers_name([(0, 1), (2, 3)]) == "layers 0 to 3 in checkpoints of 2"


def test_sizes_as_formulas() -> None:
    """Brackets are around what several terms have as a factor, and around nothing else."""
    batch, seq, hidden = symbol("B"), symbol("S"), symbol("H")
    assert named(4 * batch * seq * hidden) == "4*batch*seq*hidden_size"
    assert named(batch * seq * (4 * hidden + 2)) == "batch*seq*(4*hidden_size + 2)"
    assert named(4 * batch * seq * hidden + 7) == "4*batch*seq*hidden_size + 7"


def test_what_sharding_takes_and_adds() -> None:
    """Asks the estimate of a rank and of one process. What does not differ is left out, and so is all of it without."""
    keys = {"model": "llama-3.2-1b", "seq": 64, "dtype": "float32"}
    sharding = {"name": "fsdp2", "world_size": 4}
    alone, rank = estimate(keys), estimate(keys, sharding=sharding)
    found = {one.name: (one.alone, one.rank) for one in explain(parse_plan({**keys, "sharding": sharding})).sharding}
    for name, key in (("parameters", "parameters"), ("optimizer states", "optimizer"), ("peak", "peak")):
        assert found.pop(name) == (alone.bytes[key], rank.bytes[key])
    assert found.pop("gradients")[1] == rank.bytes["gradients"]
    assert found.pop("sent to other ranks in a step") == (0, rank.communicated)
    moments = {name.removeprefix("peak above resident: "): figures for name, figures in found.items()}
    expected = {name: (alone.moments.get(name, 0), nbytes) for name, nbytes in rank.moments.items()}
    assert moments == {name: figures for name, figures in expected.items() if figures[0] != figures[1]}
    assert moments["inputs forward"][1] > moments["inputs forward"][0]  # the root's parameters are gathered
    assert explain(parse_plan(keys)).sharding == ()


def test_what_sharding_takes_and_adds_in_inference() -> None:
    """Nothing is saved for backward, and what is gathered last stays."""
    keys = {"model": "llama-3.2-1b", "task": "infer", "sharding": {"name": "fsdp2", "world_size": 4}}
    explained = explain(parse_plan(keys))
    assert explained.parts == ()
    assert explained.saved == 0
    found = {one.name: one.rank for one in explained.sharding}
    bytes_ = estimate(parse_plan(keys)).bytes
    assert (found["peak"], found["communication"]) == (bytes_["peak"], bytes_["communication"])
    assert bytes_["communication"] > 0
