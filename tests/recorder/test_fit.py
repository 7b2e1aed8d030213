"""A fit finds the expressions that recordings at several sizes have in common, or says what it does not find."""

import random
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.ledger import Size
from estimator.ledger.sizes import symbol
from estimator.programs.depth import Kinds, deepened
from estimator.programs.module_table import NamedModule
from estimator.programs.program import SPAN, Body, Call, Drop, Enter, Exit, Made, Program, Ref, Stack, Stored, Weight
from estimator.programs.substitution import sizes_symbol, substitute
from estimator.recorder.families import fitting
from estimator.recorder.fit import fit, fit_inputs, same_but_rate, same_calls
from estimator.recorder.kinds import SeveralKinds, examples, extended, smallest

B, S, H, K, G, D, V = map(symbol, "BSHKGDV")
ROTARY = sizes_symbol("rotary")
EXPRESSIONS = [
    B, S * S, 2 * S, 4 * H, 6 * B * S, 8 * B * H, 3 * S * K * G * D // 2, B * S * K * G, 3 * B * S * H,
    D // 2, K * G * D // 4, V + 1, V - 1, H + 2, K * D + K * G * D,
    K * G * D + 2 * K * D, D - ROTARY, B * S - B, H + K * D + V,
    B * H * K * D + B * K * G * D, 2 * B * S + 2 * H,
]  # fmt: skip


def program(sizes: list[Size], layers: tuple[int, ...] = (), op: str = "mul") -> Program:
    made = Made(0, tuple(sizes), "float32")
    own = SPAN
    bodies = tuple(
        Body(
            (
                Enter("{}", (Ref(2 * SPAN),), ()),
                Call("linear", (Ref(2 * SPAN), Weight("{}.weight")), (), (Made(own, (sizes[0], i), "float32"),)),
                Exit("{}", (Ref(own),)),
            ),
            2,
        )
        for i in range(max(layers, default=-1) + 1)
    )
    paths = [f"h.{i}" for i in range(len(layers))]
    return Program(
        modules=(NamedModule("h", "container"), *[NamedModule(p, "linear", (3, 4)) for p in paths]),
        parameters=tuple(Stored(f"{p}.weight", (sizes[0], 4), "float32") for p in paths),
        buffers=(),
        attributes=(),
        inputs={},
        outputs={"logits": Ref(len(layers) * SPAN if layers else 0)},
        before=(Call(op, (tuple(sizes), 2, -1, 1.0), (("dim", 1),), (made,)),),
        bodies=bodies,
        layers=layers,
        after=(Drop(len(layers) * SPAN),) if layers else (),
        stacks=(Stack("h.{}", len(layers)),) if layers else (),
    )


def draws(n: int, seed: int = 0) -> list[dict[str, int]]:
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        k, g, d = rng.randint(2, 9), rng.randint(2, 7), 4 * rng.randint(3, 30)
        found.append(
            {"B": rng.randint(2, 12), "S": rng.randint(9, 70), "H": 4 * rng.randint(20, 600),
             "V": rng.randint(100, 9000), "K": k, "G": g, "D": d, "rotary": 2 * rng.randint(1, d // 2 - 1)}
        )  # fmt: skip
    return found


@pytest.mark.parametrize("seed", range(5))
def test_expressions_are_found_again(seed: int) -> None:
    wanted = program(EXPRESSIONS)
    assert fit([(values, substitute(wanted, values)) for values in draws(6, seed)]) == wanted


def test_a_number_that_no_expression_equals_is_refused_with_its_call() -> None:
    points = draws(6)
    recordings = [(p, program([p["H"] % 37 + 1000 * i])) for i, p in enumerate(points)]
    with pytest.raises(InputError, match=r"no expression of the sizes is .* in the call mul"):
        fit(recordings)


def test_a_size_that_is_no_whole_number_or_negative_is_refused() -> None:
    with pytest.raises(InputError, match="H/2 is no whole number here"):
        substitute(program([H // 2]), {"H": 5})
    with pytest.raises(InputError, match="D - rotary is -2 here"):
        substitute(program([D - ROTARY]), {"D": 4, "rotary": 6})


def test_recordings_of_other_structure_are_refused() -> None:
    points = draws(3)
    recordings = [(p, program([p["B"]], op="mul" if i else "add")) for i, p in enumerate(points)]
    with pytest.raises(InputError, match=r"not of one structure: the call add.* in one, the call mul"):
        fit(recordings)
    with pytest.raises(InputError, match="not of one structure: they have 3 and 4 modules"):
        fit([(p, program([p["B"]], layers=(0,) * (2 + i % 2))) for i, p in enumerate(points)])
    with pytest.raises(InputError, match="three recordings or more"):
        fit(recordings[:2])


POINTS = [(2, 7), (2, 11), (3, 7), (3, 11), (5, 23)]


def test_batch_and_sequence_are_found_from_four_points_and_one_that_checks_them() -> None:
    wanted = program([B, S, B * S, 3 * B * S + 2 * S - 1, B * S // 2 + B // 2, 7])
    recordings = [({"B": b, "S": s}, substitute(wanted, {"B": 2 * b, "S": s})) for b, s in POINTS]
    found = fit_inputs(recordings)
    assert substitute(found, {"B": 9, "S": 4}) == substitute(wanted, {"B": 18, "S": 4})
    with pytest.raises(InputError, match="no expression of the sizes is 49, 121, 49, 121 and 529"):
        fit_inputs([({"B": b, "S": s}, program([s * s])) for b, s in POINTS])
    with pytest.raises(InputError, match="do not tell a fit apart"):
        fit_inputs([({**sizes, "S": 7}, p) for sizes, p in recordings])


def test_three_sizes_are_found_from_eight_points() -> None:
    rows = sizes_symbol("T")
    wanted = program([B * S * rows, S * rows + 3, B * rows])
    points = [{"B": b, "S": s, "T": t} for b in (2, 3) for s in (7, 11) for t in (5, 13)]
    found = fit_inputs([(p, substitute(wanted, p)) for p in [*points, {"B": 3, "S": 23, "T": 17}]])
    assert substitute(found, {"B": 9, "S": 4, "T": 6}) == substitute(wanted, {"B": 9, "S": 4, "T": 6})


def test_a_program_is_written_for_another_depth() -> None:
    kinds = ["a", "b", "b", "a", "b", "b", "a"]
    signs = [(kind,) for kind in kinds]
    shallow = program([B], layers=(0, 1, 1, 0, 1, 1, 0))
    small, rule = smallest(shallow, examples(shallow, signs))
    assert small.layers == (0, 1)
    assert rule == Kinds("layer", {(("a",),): 0, (("b",),): 1})
    assert deepened(small, rule.of(signs)) == shallow
    assert deepened(small, rule.of(signs * 2)) == program([B], layers=(0, 1, 1, 0, 1, 1, 0) * 2)


@pytest.mark.parametrize(
    ("layers", "signs", "looks_at"),
    [((0, 1, 1, 1), "aaaa", "first"), ((0, 1, 2, 0), "abba", "before"), ((0, 0, 0, 1), "aaaa", "last")],
)
def test_what_decides_a_kind(layers: tuple[int, ...], signs: str, looks_at: str) -> None:
    assert examples(program([B], layers=layers), [(x,) for x in signs]).looks_at == looks_at


def test_kinds_without_a_rule_are_refused() -> None:
    with pytest.raises(InputError, match="do not follow from the config"):
        examples(program([B], layers=(0, 1, 0, 1, 1, 0)), [()] * 6)
    with pytest.raises(InputError, match=r"layer 1 \('b'\) is of a kind that was not recorded"):
        Kinds("layer", {(("a",),): 0}).of([("a",), ("b",)])
    deep = program([B], layers=(0, 0, 0))
    with pytest.raises(InputError, match="uses a tensor of layer 0"):
        deepened(replace(deep, after=(Drop(SPAN),)), (0, 1))


def layered(layers: tuple[int, ...]) -> Program:
    """A program of which each layer has a buffer, and is plain and replayed where its kind is 1."""
    found = program([B], layers)
    ones = frozenset(path for path, kind in zip(found.paths, layers, strict=True) if kind == 1)
    buffers = tuple(Stored(f"{path}.mask", (S, kind), "bool") for path, kind in zip(found.paths, layers, strict=True))
    outside = (Stored("norm.weight", (H,), "float32"), Stored("norm.mask", (S,), "bool"))
    return replace(
        found, parameters=(*found.parameters, outside[0]), buffers=(*buffers, outside[1]), plain=ones, checkpoints=ones
    )


def test_kinds_of_layers_in_another_order_are_added_as_the_last_ones() -> None:
    """By hand: of layers ``b c a`` the last kind is new to ``a b``, which then is what a recording of ``a b c`` is."""
    two, three = layered((0, 2)), layered((0, 2, 1))
    two = replace(two, bodies=(three.bodies[0], three.bodies[2]), layers=(0, 1))
    three = replace(three, bodies=(*two.bodies, three.bodies[1]), layers=(0, 1, 2))
    known = Kinds("layer", {(("a",),): 0, (("b",),): 1})
    whole = Kinds("layer", {**known.table, (("c",),): 2})
    assert extended(two, known, layered((2, 1, 0)), [("b",), ("c",), ("a",)]) == (three, whole)
    assert extended(three, whole, layered((2, 1, 0)), [("b",), ("c",), ("a",)]) == (three, whole)
    more = Kinds("layer", {**whole.table, (("d",),): 0})
    assert extended(three, whole, layered((2, 0)), [("b",), ("d",)]) == (three, more)
    with pytest.raises(SeveralKinds, match=r"layers with \(\('b',\),\) are of several kinds"):
        extended(two, known, layered((1, 0)), [("b",), ("a",)])
    for other in (program([S], (0, 1)), replace(layered((0, 1)), after=())):
        with pytest.raises(InputError, match="outside the layers follows from their order"):
            extended(two, known, other, [("a",), ("b",)])


def test_programs_that_differ_in_sizes_or_in_a_rate_alone() -> None:
    one, other = program([B], (0,)), program([3], (0,))
    assert same_calls(program([2], (0,)), other)
    assert not same_calls(other, program([3], (0,), op="add"))
    assert not same_calls(other, program([3], (0, 0)))
    assert not same_calls(other, program([3, 4], (0,)))

    def dropped(rate: float, size: int = 3) -> Program:
        return replace(one, before=(Call("dropout", (Ref(0), rate, size), (), ()),))

    assert same_but_rate(dropped(0.0), dropped(1.0), (0.0, 1.0))
    assert not same_but_rate(dropped(0.0), dropped(1.0), (1.0, 0.0))
    assert not same_but_rate(dropped(0.0), dropped(1.0, 4), (0.0, 1.0))


def test_a_family_of_any_groups_leaves_out_that_heads_are_equal() -> None:
    """And no other structure."""

    @dataclass
    class Family:
        structure: dict[str, Any]

    found = SimpleNamespace(heads="num_attention_heads", kv_heads="num_key_value_heads")
    rows = {"num_attention_heads = num_key_value_heads": True, "tie_word_embeddings": False}
    assert fitting._of_any_groups(Family(rows), found).structure == {"tie_word_embeddings": False}  # type: ignore[arg-type]
