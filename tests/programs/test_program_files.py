"""Programs as files: what is written is read again, and a damaged file is refused in one line."""

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.errors import InputError
from estimator.ledger.sizes import symbol
from estimator.programs import program_files
from estimator.programs.config_values import LIMITS
from estimator.programs.depth import Kinds
from estimator.programs.expressions import evaluate, parsed, polynomial
from estimator.programs.family import Family
from estimator.programs.module_table import NamedModule
from estimator.programs.program import (
    CACHED,
    SPAN,
    Autocast,
    Body,
    Call,
    Drop,
    Enter,
    Exit,
    Function,
    GradMode,
    Made,
    Program,
    Rate,
    Ref,
    Stack,
    Stored,
    Weight,
    renamed,
)
from estimator.programs.program_files import read, read_together, written, written_together
from estimator.programs.program_files.copies import LONG_PARTS
from estimator.programs.program_files.reading import Reader
from estimator.programs.rows import Rows, of_list
from estimator.programs.setting import ALONE
from estimator.programs.substitution import sizes_symbol, substitute
from estimator.programs.switches import Switch

B, S, H, V = map(symbol, "BSHV")
OWN, BEFORE = SPAN, 2 * SPAN


def layer() -> Body:
    wide = (B, S, 4 * H)
    return Body(
        (
            Enter("{}", (Ref(BEFORE),), ()),
            Enter("{}.up", (Ref(BEFORE),), ()),
            Call(
                "linear",
                (Ref(BEFORE), Weight("{}.up.weight"), Weight("{}.up.bias")),
                (),
                (Made(OWN + 1, wide, "bfloat16"),),
            ),
            Exit("{}.up", (Ref(OWN + 1),)),
            Call("silu", (Ref(OWN + 1),), (("inplace", False),), (Made(OWN + 2, wide, "bfloat16"),)),
            Drop(OWN + 1),
            Call("view", (Ref(OWN + 2), B, -1, (1.0, "float32")), (), (Made(OWN, (B, S, 4 * H), "bfloat16"),)),
            Drop(OWN + 2),
            Exit("{}", (Ref(OWN),)),
            Drop(BEFORE),
        ),
        8,
    )


def family() -> Family:
    sizes_symbol("num_experts")
    result = Made(4, (B, S, H), "bfloat16")
    function = Function(
        "Own", (Ref(0),), (Call("mul", (Ref(0), 2), (), (Made(3, (B, S, H), "bfloat16"),)),), result, Ref(3), (Ref(0),),
        (), (5,), 6, (Call("mul", (Ref(6), Ref(5)), (), (Made(7, (B, S, H), "bfloat16"),)),), (Ref(7),),
    )  # fmt: skip
    modules = [
        NamedModule("embed", "embedding", (V, H), False, "input embedding", None),
        NamedModule("layers", "container"),
        NamedModule("layers.0", "container"),
        NamedModule("layers.0.up", "linear", (4 * H, H), True, None, None),
        NamedModule("norm", "norm", (H,), False, None, None),
    ]
    program = Program(
        modules=tuple(modules),
        parameters=(
            Stored("embed.weight", (V, H), "bfloat16", True),
            Stored("layers.0.up.weight", (4 * H, H), "bfloat16"),
            Stored("layers.0.up.bias", (4 * H,), "bfloat16"),
            Stored("head", (V, H), "bfloat16", True),
        ),
        buffers=(Stored("norm.cos", (symbol("num_experts") // 2 + 3,), "float32"),),
        attributes=(),
        inputs={"input_ids": 1},
        outputs={"loss": Ref(9), "logits": Ref(8)},
        before=(
            Enter("embed", (Ref(1),), ()),
            Call("embedding", (Ref(1), Weight("embed.weight")), (), (Made(0, (B, S, H), "bfloat16"),)),
            Exit("embed", (Ref(0),)),
            function,
            Drop(4),
            GradMode(False),
            Autocast(True),
        ),
        bodies=(layer(),),
        layers=(0,),
        after=(
            Call("dropout", (Ref(OWN), Rate("dropout"), True), (), (Made(8, (B, S, 4 * H), "bfloat16"),)),
            Drop(OWN),
            Enter("loss", (Ref(8),), ()),
            Call("sum", (Ref(8),), (), (Made(9, (), "float32"),)),
            Exit("loss", (Ref(9),)),
        ),
        stacks=(Stack("layers.{}", 1),),
        dtype="bfloat16",
        plain=frozenset(["layers.0.up"]),
        tied={"tail.weight": "embed.weight"},
    )
    return Family(
        model_type="toy",
        program=program,
        kinds=Kinds("before", {(("dense",), None): 0, (("dense",), ("dense",)): 0}),
        symbols={"H": "hidden_size", "V": "vocab_size", "K": "heads", "num_experts": "int(experts * 1)"},
        structure={"hidden_act": "silu", "heads = kv_heads": True},
        switches={
            "tie": Switch(False, ("head",), {"head": "embed.weight"}),
            "bias": Switch(True, ("{}.up.bias",), {}),
        },
        rates=("dropout",),
        defaults={"hidden_act": "silu", "dropout": 0.0, "vocab_size": "=4 * hidden_size", "kv_heads": "=heads"},
        nulls={"experts": "heads"},
        lists={"layer_types": {"period": ["dense"]}},
        aliases={"n_embd": "hidden_size"},
        recorded={"transformers": "5.24.0", "torch": "2.13.0", "default_attention": "sdpa"},
        settings=({**ALONE, "device": ("cpu", "cuda")},),
    )


CONFIG = {"model_type": "toy", "n_embd": 8, "heads": 2, "experts": 6, "num_hidden_layers": 3}


def test_a_file_is_read_as_it_was_written() -> None:
    text = written(family())
    assert read(text, "toy.json") == family()
    assert written(read(text, "toy.json")) == text


def test_keywords_are_left_out_where_there_are_none() -> None:
    """A row that has none says them with braces, too, as files of earlier versions do."""
    text = written_together([family()])
    rows = [line for line in text.splitlines() if line.startswith('["linear"')]
    assert rows
    assert "]],{},[" not in rows[0]
    braces = rows[0].replace("],[", "],{},[", 1)
    (read,), (again,) = read_together(text, "f"), read_together(text.replace(rows[0], braces), "f")
    assert again.at(CONFIG, {}) == read.at(CONFIG, {})


def test_a_config_gives_the_sizes_and_the_depth() -> None:
    program = family().at(CONFIG, {"B": 2, "S": 5})
    assert [p.shape for p in program.parameters] == [(32, 8), *[(32, 8)] * 4]
    assert [p.name for p in program.parameters][1:-1] == [f"layers.{i}.up.weight" for i in range(3)]
    assert program.buffers[0].shape == (6,)
    assert program.layers == (0, 0, 0)
    assert program.events_of(2)[2].out[0].shape == (2, 5, 32)
    assert program.after[0].args[0] == Ref(3 * SPAN)
    assert program.plain == {f"layers.{i}.up" for i in range(3)}


def test_a_switch_decides_which_parameters_there_are() -> None:
    more, tied = (family().at({**CONFIG, **keys}, {"B": 2, "S": 5}) for keys in ({"bias": True}, {"tie": True}))
    assert [p.name for p in more.parameters][1:4] == ["layers.0.up.weight", "layers.0.up.bias", "layers.1.up.weight"]
    assert [row.bias for row in more.modules if row.path.endswith("up")] == [True] * 3
    assert [row.bias for row in tied.modules if row.path.endswith("up")] == [False] * 3
    assert [event.args[2] for event in (more.events_of(1)[2], tied.events_of(1)[2])] == [
        Weight("layers.1.up.bias"),
        None,
    ]
    assert "head" not in [p.name for p in tied.parameters]
    assert tied.tied == {"tail.weight": "embed.weight", "head": "embed.weight"}


def of_dtype(dtype: str) -> Family:
    """The program with all its parameters in one dtype, which is the model's."""
    rows = tuple([row._replace(dtype=dtype) for row in family().program.parameters])
    return replace(family(), program=replace(family().program, dtype=dtype, parameters=rows))


def test_weights_of_another_dtype_are_written_once() -> None:
    """A program for one dtype has the rows of that for all, with its dtype."""
    both = [of_dtype("*"), of_dtype("float32")]
    text = written_together(both)
    assert [one.whole for one in read_together(text, "toy.json")] == both
    names = len(family().program.parameters)
    first = len(family().program.modules) + 1  # the layer's number
    assert json.loads(text)["programs"][1]["parameters"] == [[first, first + names + 1, "float32"]]
    row = f'[{first},{first + names + 1},"float32"]'
    for other, message in ((row.replace('"float32"', "7"), "dtype"), (f"[{first},99]", "no places before it")):
        with pytest.raises(InputError, match=message):
            [one.whole for one in read_together(text.replace(row, other), "toy.json")]
    with pytest.raises(InputError, match="is a dtype of what has none"):
        [one.whole for one in read_together(text.replace('"parameters": [\n[6', '"before": [\n[6'), "toy.json")]


def walking(*loop: Call | Drop) -> Family:
    """The program with a list of a part of each row, and a loop over it."""
    toy = family()
    ids = next(iter(toy.program.inputs.values()))
    made = Call("split_with_sizes", (Ref(ids), (1,), 0), (), (Made(of_list(0), (1, S), "int64"),))
    before = (made, Rows(B, loop), Drop(of_list(0)), *toy.program.before)
    return replace(toy, program=replace(toy.program, before=before))  # type: ignore[arg-type]


def negated(slot: int, out: int) -> tuple[Call, Drop]:
    return Call("neg", (Ref(slot),), (), (Made(out, (1, S), "int64"),)), Drop(out)


def test_a_loop_over_a_batch_is_written_and_read() -> None:
    """Its tensors are as many as the batch has rows, and their sizes numbers."""
    one = walking(*negated(of_list(0), of_list(1)))
    again = read(written(one), "toy.json")
    assert again.whole == one
    calls = [event for event in again.at(CONFIG, {"B": 3, "S": 5}).before if isinstance(event, Call)]
    assert [event.op for event in calls[:4]] == ["split_with_sizes", *["neg"] * 3]
    assert calls[0].args[1] == (1, 1, 1)
    assert [made.shape for event in calls[:4] for made in event.out] == [(1, 5)] * 6
    assert len({made.slot for event in calls[:4] for made in event.out}) == 6
    assert again.at(CONFIG, {}).modules == one.at(CONFIG, {"B": 2, "S": 5}).modules


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        ((GradMode(True),), "a loop over images has no list of theirs"),
        (negated(0, 7), "a loop over images has no list of theirs"),
        (negated(of_list(3), of_list(1)), "is used, and it has no tensor there"),
        (negated(of_list(0, kind=1), of_list(1, kind=1)), "is of a list that only a trainer's step has"),
    ],
)
def test_a_damaged_loop_over_a_batch_is_refused_in_one_line(loop: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read(written(walking(*loop)), "toy.json").at(CONFIG, {"B": 3, "S": 5})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("rate", "argument"), [(0.0, 0.0), (0.1, 1.0), (0, 0.0), (0.5, 1.0)])
def test_of_a_rate_it_matters_whether_it_is_zero(rate: float, argument: float) -> None:
    program = family().at({**CONFIG, "dropout": rate}, {"B": 2, "S": 5})
    assert program.after[0].args[1] == argument


def test_a_key_that_is_null_has_another_one_s_value() -> None:
    assert family().at({**CONFIG, "experts": None}, {"B": 2, "S": 5}).buffers[0].shape == (4,)


@pytest.mark.consistency
def test_sizes_may_stay_symbols() -> None:
    symbolic = family().at(CONFIG, {})
    assert symbolic.before[1].out[0].shape == (B, S, 8)
    assert substitute(symbolic, {"B": 2, "S": 5}) == family().at(CONFIG, {"B": 2, "S": 5})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "other"}, "the program is of toy"),
        ({"hidden_act": "relu"}, "hidden_act: 'relu', and the program was recorded for 'silu'"),
        ({"kv_heads": 1}, "heads = kv_heads: False"),
        ({"bias": "no"}, "bias is 'no'; it must be true or false"),
        ({"dropout": 1}, "dropout is 1; it must be at least 0 and below 1"),
        ({"bias": None}, "bias is None; it must be true or false"),
        ({"dropout": None}, "dropout is None; it must be at least 0 and below 1"),
        ({"dropout": True}, "dropout is True; it must be at least 0 and below 1"),
        ({"n_embd": None}, "the config has no hidden_size"),
        ({"n_embd": -3, "vocab_size": 9}, "hidden_size is -3; it must be a whole number"),
        ({"n_embd": "8"}, "hidden_size is '8'; it must be a whole number"),
        ({"experts": 7}, "is no whole number here"),
        ({"layer_types": ["dense"]}, "layer_types must list one type for each of the 3 layers"),
        ({"layer_types": ["dense", "sparse", "dense"]}, "layer 1 ("),
    ],
)
def test_a_config_of_another_structure_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(InputError, match="(?s)" + message.replace("(", r"\(")):
        family().at({**CONFIG, **changed}, {"B": 2, "S": 5})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 4', '"format": 1', "its format is 1"),
        ("?dropout", "?other", "'other' is none of the rates"),
        ('["head"],{"head":"embed.weight"}', '["head"],{"head":"no.weight"}', "to a parameter that is not there"),
        ('["head"],{"head":"embed.weight"}', '["head"],{}', "which is no bias, and ties it to nothing"),
        ('["head"],{', '["head"],{"neck.weight":"embed.weight",', "ties a parameter that it does not take away"),
        ('["{}.up.bias"],{}', '["layers.0.up.bias"],{}', "takes 'layers.0.up.bias' away, which is no parameter"),
        ('["{}.up.bias"],{}', '["embed.weight"],{"embed.weight":"head"}', "to a parameter that is not there"),
        ('"rates": ["dropout"]', '"rates": ["dropout","bias"]', "bias is two of a size, a switch and a rate"),
        ('"format": 4', '"format": 4.0', "its format is 4.0"),
        ('["{}.up.bias"],{}', "[],{}", "bias decides about no parameter"),
        ('[true,["{}.up.bias"]', '[2,["{}.up.bias"]', "must be true or false"),
        ('"experts":"heads"', '"experts":"heads+"', "is no expression"),
        ('["silu"', '["os.system"', "no call that this version has a rule for"),
        ('["%~1"],{"inplace"', '["%.7"],{"inplace"', "bodies[0]: slot .7 is used, and it has no tensor there"),
        ('["-","^0"]', '["-","^0","^0"]', "slot 1.0 is used"),
        ('["-","^0"]', '["-","^1"]', "'^1' is no slot"),
        ('["<","{}.up"', '["<","{}"', "is left"),
        ('["<","loss",["%~1"]]', '["-","8"]', "loss is entered and not left"),
        ('["-","^0"]', '[">","{}.up",["%.0"]]', "{}.up is entered and not left"),
        ('"linear",["=4*H","=H"],1', '"linear",["=4*H","=H"],0', "layers.0.up is said to have no bias"),
        ('"=B"', '"=B**9"', "has a power that is no number from 1 to 8"),
        ('"=B"', '"=B**8*B**8"', "is of a degree above 8"),
        ('"=B"', '"=Q"', "names 'Q', which is no symbol"),
        ('"=B"', '"=__import__"', "names '__import__'"),
        ('"=B"', '"=(1)(2)"', "is no expression"),
        ('"=B"', '"=B/0"', "divides by something that is no integer"),
        ('"=B"', "123456789012345678", "must be an integer from 0 to"),
        ('"=B"', "true", "must be an integer from 0 to"),
        ('"bfloat16","=B"', '"bfloat17","=B"', "is no dtype"),
        ("@embed.weight", "@embed.bias", "embed.bias is no weight of the model"),
        ('"path": "layers.{}"', '"path": "{}{}"', "is no path of layers"),
        ('"path": "layers.{}"', '"path": "{0.__class__}"', "is no path of layers"),
        ('"layers": [0]', '"layers": [1]', "must be an integer from 0 to 0"),
        ('"H":"hidden_size"', '"H":"hidden_size+"', "is no expression"),
        ('"tied": {"tail.weight":"embed.weight"}', '"tied": {"tail.weight":"tail.weight"}', "has no other one"),
        ('"loss":"%9"', '"loss":"%99"', "has no tensor at the end"),
        ('"device":["cpu","cuda"]', '"device":["cpu","tpu"]', "device is 'tpu'; it must be one of 'cpu', 'cuda'"),
        ('"device":["cpu","cuda"]', '"device":["cpu",["cpu"]]', "device is ['cpu']; it must be one of"),
        ('"device":["cpu","cuda"]', '"device":["cpu","cpu","cpu"]', "device has 3 entries; 2 are the most"),
        ('"device":["cpu","cuda"]', '"device":[]', "device has no value"),
        ('"device":["cpu","cuda"]', '"device":"cpu"', "device is 'cpu'; it must be a list"),
        ('"device":["cpu","cuda"]', '"packing":[1]', "packing is 1; it must be one of False, True"),
        ('"device":["cpu","cuda"]', '"head":["cpu"]', "'head' is nothing that a setting has"),
        ('"settings": [{', '"settings": [3,{', "settings is 3; it must be an object"),
        ('"format": 4', '"format": 4,"format": 4', "given twice"),
        ('"format": 4', '"format": 4,"more": 1', "is no part of a program"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(old: str, new: str, message: str) -> None:
    text = written(family())
    assert old in text
    with pytest.raises(InputError) as raised:
        read(text.replace(old, new, 1), "toy.json")
    assert message in str(raised.value)
    assert "'toy.json'" in str(raised.value)
    assert "\n" not in str(raised.value)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["%0", "%.1", "@embed.weight", "=B", "'x", "-", ">"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


def places(tree: object, path: tuple = ()) -> list[tuple]:
    found = [path]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


PLAIN = json.loads(written(family()))
PLACES = places(PLAIN)[1:]


def refused_in_one_line(text: str) -> None:
    """Read a text and use the program. The one error that it may raise is one line."""
    line = ""
    try:
        read(text, "toy.json").at(CONFIG, {"B": 2, "S": 5})
    except InputError as error:
        line = str(error)
    assert "\n" not in line


def change(tree: Any, path: tuple, how: str, junk: object) -> None:
    for key in path[:-1]:
        tree = tree[key]
    if how == "put":
        tree[path[-1]] = junk
    elif how == "delete":
        del tree[path[-1]]
    else:
        tree.insert(path[-1], copy.deepcopy(tree[path[-1]]))


CHANGES = st.tuples(st.sampled_from(PLACES), st.sampled_from(["put", "delete", "repeat"]), JUNK)


@pytest.mark.share(2)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(CHANGES, min_size=1, max_size=3))
def test_a_mutated_file_is_read_or_refused(changes: list) -> None:
    data = copy.deepcopy(PLAIN)
    for path, how, junk in changes:
        with suppress(KeyError, IndexError, TypeError, AttributeError):  # an earlier change took the place away
            change(data, path, how, junk)
    refused_in_one_line(json.dumps(data))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(written(family()))), st.integers(0, 40), st.text(max_size=5))
def test_a_cut_text_is_read_or_refused(at: int, cut: int, put: str) -> None:
    text = written(family())
    refused_in_one_line(text[:at] + put + text[at + cut :])


TREES = st.recursive(
    st.sampled_from([B, S, H, V, *range(1, 9)]),
    lambda inner: st.builds(lambda a, b, how: a + b if how else a * b, inner, inner, st.booleans()),
    max_leaves=4,
)


@given(TREES, st.sampled_from([1, 2, 4]))
def test_an_expression_is_read_as_it_was_written(size, divisor: int) -> None:
    if isinstance(size, int):
        return
    poly = size // divisor
    assert polynomial(repr(poly), "BSHV") == poly


@given(st.text(alphabet="BSab01239+-*/() .%int", max_size=40))
def test_a_text_is_an_expression_or_refused(text: str) -> None:
    with suppress(InputError, KeyError):
        parsed(text)
        evaluate(text, {"B": 3, "S": 5, "a": 0.5, "b": 7})


@pytest.mark.parametrize(
    ("text", "value"),
    [("2*3+4", 10), ("-2+3", 1), ("(1+2)*3", 9), ("12/4/3", 1), ("2**3*2", 16), ("int(7*a)", 3), ("1/3*3", 1)],
)
def test_expressions_mean_what_they_mean_in_arithmetic(text: str, value: int) -> None:
    assert evaluate(text, {"a": 0.5}) == value


def test_an_expression_of_a_symbol_is_a_polynomial() -> None:
    b = symbol("B")
    assert evaluate("H / 2 + 3 * S", {"H": 2 * b, "S": b}) == 4 * b
    for wrong in (True, "4", 1e300):
        with pytest.raises(InputError, match=r"H is .*, which is no size"):
            evaluate("H", {"H": wrong})


def decoding() -> Family:
    """The program of a pass that starts with a cache: it has a tensor more before the layers, and one in each layer."""
    past, toy = sizes_symbol("past"), family()

    def taken(slot: int) -> Call:
        return Call(CACHED, (B * past * H, (past * H, H, 1)), (), (Made(slot, (B, past, H), "bfloat16"),))

    def later(event: Any, moved: Callable[[int], int]) -> Any:
        return renamed(event, moved, str)

    (body,) = toy.program.bodies
    events = [later(event, lambda slot: slot + (OWN < slot < BEFORE)) for event in body.events]
    before = [later(event, lambda slot: slot + (slot > 1)) for event in toy.program.before]
    program = replace(
        toy.program,
        before=(taken(2), *before),
        bodies=(Body((events[0], taken(OWN + 1), *events[1:]), body.exit + 1),),
        after=tuple(later(event, lambda slot: slot + (slot > 1 and slot < OWN)) for event in toy.program.after),
        outputs={"loss": Ref(10), "logits": Ref(9)},
    )
    settings = ({**ALONE, "cache": ("dynamic",), "past": ("prefill", "decode")},)
    return replace(toy, program=program, settings=settings)


def test_a_pass_of_generate_is_written_by_what_differs() -> None:
    text = written_together([family(), decoding()])
    assert [one.whole for one in read_together(text, "toy.json")] == [family(), decoding()]
    assert written_together([one.whole for one in read_together(text, "toy.json")]) == text
    assert text.count('["silu"') == 1
    assert text.count('["cached"') == 2


def test_a_pass_of_generate_has_the_cache_s_sizes() -> None:
    program = decoding().at(CONFIG, {"B": 2, "S": 5, "past": 7, "stored": 7})
    assert program.before[0].args == (2 * 7 * 8, (7 * 8, 8, 1))
    assert program.before[0].out[0].shape == (2, 7, 8)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"settings": [{"cache"',
            '"like": 1,\n"tied": {"a":"b"},\n"settings": [{"cache"',
            "like is 1; it must be an integer from 0 to 0",
        ),
        ('"~2"', '"~99999999"', "is no slot"),
        ('"~2"', '"~9"', "is no slot"),
        ('"~2"', '"~0"', "is no slot"),
        ("[20,24]", "[20,99]", "after: [20, 99] are no places before it"),
        ("[20,24]", "[24,20]", "after: [24, 20] are no places before it"),
        ("[20,24]", "[-1,4]", "after: [-1, 4] are no places before it"),
        ("[20,24]", '[20,24,"float32"]', "is a dtype of what has none"),
        ("[20,24]", "[[20,24]]", "an event begins with its name"),
        ('["=B*H*past",["=H*past","=H",1]]', '["=B*H*past"]', "has the elements of its storage and its strides"),
        ('["=B*H*past",["=H*past","=H",1]]', '["=B*H*past",[1]]', "has a stride for each of its sizes"),
        ('["=B*H*past",["=H*past","=H",1]]', '["=B*H*past",7]', "must be a list"),
        ('["=B*H*past"', '["=B*H*later"', "names 'later', which is no symbol"),
        ('"cache":["dynamic"],', "", "'cached' is no call"),
        ('"past":["prefill","decode"]', '"past":[null]', "names 'past', which is no symbol"),
    ],
)
def test_a_damaged_pass_of_generate_is_refused_in_one_line(old: str, new: str, message: str) -> None:
    text = written_together([family(), decoding()])
    assert old in text
    with pytest.raises(InputError) as raised:
        [one.whole for one in read_together(text.replace(old, new, 1), "toy.json")]
    assert message in str(raised.value)
    assert "'toy.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_cache_s_tensor_is_taken_once() -> None:
    program = decoding().program
    twice = replace(program, before=(program.before[0], Drop(2), *program.before))
    with pytest.raises(InputError, match="slot 2 is taken from the cache twice"):
        read(written(replace(decoding(), program=twice)), "toy.json")


TOGETHER = json.loads(written_together([family(), decoding()]))
PLACES_OF_DECODING = [place for place in places(TOGETHER) if place[:2] == ("programs", 1) and len(place) > 2]
JUNK_NEAR = JUNK | st.sampled_from(["~1", "%~1", "%^0", "~-9", [0, 3], 0, ["cached", [1, []], {}, ["~", "int64"]]])
CHANGES_NEAR = st.tuples(st.sampled_from(PLACES_OF_DECODING), st.sampled_from(["put", "delete", "repeat"]), JUNK_NEAR)


@settings(max_examples=75, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(CHANGES_NEAR, min_size=1, max_size=3))
def test_a_mutated_pass_of_generate_is_read_or_refused(changes: list) -> None:
    data, line = copy.deepcopy(TOGETHER), ""
    for path, how, junk in changes:
        with suppress(KeyError, IndexError, TypeError, AttributeError):
            change(data, path, how, junk)
    try:
        for one in read_together(json.dumps(data), "toy.json"):
            one.whole.at(CONFIG, {"B": 2, "S": 5, "past": 7, "stored": 7})
    except InputError as error:
        line = str(error)
    assert "\n" not in line


def test_so_many_rows_are_read_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a program count that has them as an earlier one."""
    text = written_together([family()] * 3)
    rows = sum(len(PLAIN[key]) for key in LONG_PARTS) + len(PLAIN["bodies"][0][1])
    monkeypatch.setattr(program_files, "MOST_OF_FILE", 3 * rows)
    assert [one.whole for one in read_together(text, "toy.json")] == [family()] * 3
    monkeypatch.setattr(program_files, "MOST_OF_FILE", 3 * rows - 1)
    with pytest.raises(InputError, match=f"its programs have more than {3 * rows - 1} rows"):
        [one.whole for one in read_together(text, "other.json")]


def test_a_row_of_a_layer_follows_its_number() -> None:
    text = written(family())
    for new, message in (
        ('"parameters": [\n["{}.x"', "is of a layer, whose number is not given"),
        ('"parameters": [\n1,\n["embed.weight"', "a layer is 1; it must be an integer from 0 to 0"),
    ):
        with pytest.raises(InputError, match=message):
            read(text.replace('"parameters": [\n["embed.weight"', new), "toy.json")


def test_the_most_layers() -> None:
    most = LIMITS["num_hidden_layers"]
    toy = family()
    assert toy.depth({toy.layers: most}) == most
    with pytest.raises(InputError, match=f"{most + 1:,}; {most:,} are the most"):
        toy.depth({toy.layers: most + 1})


RULES_OF_LISTS: list[tuple[dict[str, Any], str]] = [
    ({"period": [None]}, "period"), ({"text": "pattern", "letters": {"M": None}}, "letters"),
    ({"from": "first_k_dense_replace", "below": None, "above": "dense"}, "below"),
    ({"numbers": "full_attn_idxs", "listed": None, "others": "full"}, "listed"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "part"), RULES_OF_LISTS, ids=[part for _, part in RULES_OF_LISTS])
def test_an_entry_for_a_layer_is_a_value_or_a_list_of_values(rule: dict[str, Any], part: str) -> None:
    def with_entry(entry: Any) -> dict[str, Any]:
        given = {"period": [entry], "letters": {"M": entry}}.get(part, entry)
        return {**rule, part: given}

    for entry in (4, "full", [4, "full"]):
        assert Reader("a file", ()).rule(with_entry(entry), "lists") == with_entry(entry)
    with pytest.raises(InputError, match="which no config has"):
        Reader("a file", ()).rule(with_entry([[4]]), "lists")
