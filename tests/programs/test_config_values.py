"""Lists with an entry for each layer, which a config need not have."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.programs.config_values import (
    LARGEST_LIST,
    LIMITS,
    check_number,
    default_list,
    flattened,
    letters_of,
    nested,
    number_of,
    one_for_all,
    runs,
    signatures,
    sized,
    structural,
    structure_entry,
    whole_number,
    with_rope,
)
from estimator.programs.expressions import LARGEST

EVERY = {"period": ["some", "last"], "every": "k"}
NUMBERS = {"numbers": "k", "listed": "listed", "others": "other"}
PART = {"rope_type": "default", "partial_rotary_factor": 0.5}
FROM = {"from": "k", "below": "below", "above": "above"}


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ({"period": ["a", "b"]}, None, ["a", "b", "a", "b", "a"]),
        (EVERY, None, ["some", "last", "some", "last", "some"]),
        (EVERY, 3, ["some", "some", "last", "some", "some"]),
        (EVERY, 9, ["some"] * 5),
        (NUMBERS, None, ["listed"] * 5),
        (NUMBERS, [1, 3], ["other", "listed", "other", "listed", "other"]),
        (NUMBERS, [], ["other"] * 5),
        (FROM, 0, ["above"] * 5),
        (FROM, 2, ["below", "below", "above", "above", "above"]),
    ],
)
def test_a_list_by_its_rule(rule: dict[str, Any], value: Any, expected: list[str]) -> None:
    assert default_list(rule, {"k": value}, 5, "kinds") == expected


@pytest.mark.parametrize(("rule", "value"), [(NUMBERS, "1"), (NUMBERS, [True]), (FROM, False), (FROM, -1), (None, 1)])
def test_values_that_are_none_of_a_rule(rule: Any, value: Any) -> None:
    with pytest.raises(InputError):
        default_list(rule, {"k": value}, 5, "kinds")


def test_a_size_of_each_layer_is_one_where_all_are_equal() -> None:
    for value, one in (
        ([4, 4, 4], 4),
        ((7,), 7),
        ([4, 5, 4], [4, 5, 4]),
        ([], []),
        ([True, True], [True, True]),
        (3, 3),
    ):
        assert one_for_all(value) == one


def test_letters_stand_for_the_kinds_of_layers() -> None:
    """One letter, one kind: Nemotron-H's ``hybrid_override_pattern``."""
    assert letters_of("M*M-", ["mamba", "attention", "mamba", "mlp"]) == {"M": "mamba", "*": "attention", "-": "mlp"}
    assert letters_of("M*MM", ["mamba", "attention", "mamba", "mlp"]) is None
    assert letters_of("M*M", ["mamba", "attention", "mamba", "mlp"]) is None
    assert letters_of(["M"], ["mamba"]) is None


def test_runs_of_entries() -> None:
    """``[[entries, times], ...]``, of no more entries than a config may list."""
    assert runs([[["a", "b"], 2], [("c",), 1]]) == ["a", "b", "a", "b", "c"]
    assert runs(()) == []
    assert runs([[["a"], LARGEST_LIST]]) == ["a"] * LARGEST_LIST
    for wrong in ("ab", 3, [3], [["a", 2]], [[["a"], 2, 1]], [[["a"], True]], [[["a"], 0]], [[[], 2]]):
        assert runs(wrong) is None
    assert runs([[["a"], LARGEST_LIST + 1]]) is None
    assert [number_of(one) for one in (7, [1, 2, 3], (4, 5))] == [7, 3, 2]


def test_keys_of_parts_stand_behind_the_part() -> None:
    config = {"model_type": "llava", "vision_config": {"depth": 3}, "text_config": None, "other": {"depth": 4}}
    flat = flattened(config)
    assert flat == {"model_type": "llava", "vision_config.depth": 3, "text_config": None, "other": {"depth": 4}}
    assert nested(flat) == config
    with pytest.raises(InputError, match="vision_config must be a mapping, not True"):
        nested({"vision_config": True, "vision_config.hidden_size": 8})


@pytest.mark.parametrize(
    ("period", "every", "expected"),
    [
        ("fss", None, "fssfs"),
        ("ssf", 2, "sfsfs"),
        ("ssf", 4, "sssfs"),
        ("fss", 3, "fssfs"),
        ("fss", 2, "fsfsf"),
        ("fss", 1, "fffff"),
        ("sf", 3, "ssfss"),
        ("ssf", 10**9, "sssss"),
    ],
)
def test_a_period_that_a_config_says(period: str, every: int | None, expected: str) -> None:
    """By hand: the layer that comes once is the first of a period, or its last one."""
    assert default_list({"period": [*period], "every": "k"}, {"k": every}, 5, "kinds") == [*expected]


def test_layers_before_a_period() -> None:
    """Computed independently: the first entries stand once."""
    assert default_list({"first": ["d"], "period": ["s"]}, {}, 4, "kinds") == [*"dsss"]
    assert default_list({"first": [*"ff"], "period": [*"sf"]}, {}, 5, "kinds") == [*"ffsfs"]
    assert default_list({"first": [*"fff"], "period": ["s"]}, {}, 2, "kinds") == [*"ff"]


def test_runs_are_a_list() -> None:
    assert default_list({"runs": "k"}, {"k": [[["a", "b"], 2], [["c"], 1]]}, 5, "kinds") == [*"ababc"]
    assert default_list({"runs": "k"}, {"k": "none"}, 5, "kinds") == []


@pytest.mark.parametrize(
    ("config", "sparse"),
    [
        ({"first_k_dense_replace": 2}, "..ss"),
        ({"decoder_sparse_step": 2}, ".s.s"),
        ({"decoder_sparse_step": 0}, "...."),
        ({"decoder_sparse_step": 1, "mlp_only_layers": [0, 3]}, ".ss."),
        ({"interleave_moe_layer_step": 2}, ".s.s"),
        ({"interleave_moe_layer_step": 1}, "ssss"),
        ({"interleave_moe_layer_step": 0}, "...."),
        ({"interleave_moe_layer_step": 1, "moe_layers": [1]}, ".s.."),
    ],
    ids=str,
)
def test_which_layers_have_experts(config: dict[str, Any], sparse: str) -> None:
    """By hand, after the classes of DeepSeek, Qwen and Llama 4."""
    found = signatures(config, {}, 4)
    assert found == [("sparse" if letter == "s" else "dense",) for letter in sparse]
    listed = signatures(config, {"layer_types": [*"abab"]}, 4)
    assert [one[0] for one in listed] == [*"abab"]


def test_layers_that_share_keys_and_values() -> None:
    """By hand, after Gemma 4's rule: the last of each kind before those that share leaves its own."""
    kinds, names = [*"aabab"], ("keeps", "leaves", "leaves", "shares", "shares")
    found = signatures({"num_kv_shared_layers": 2}, {"layer_types": kinds}, 5)
    assert [one[1][0] for one in found] == [*names]
    assert [one[1][1:] for one in found] == [(), (), ("a",), ("a", "b"), ("a", "b")]
    with pytest.raises(InputError, match="no layer before those that share is of kind 'b'"):
        signatures({"num_kv_shared_layers": 3}, {"layer_types": kinds}, 5)


def test_layers_that_take_the_tokens_that_another_chose() -> None:
    indexers = ["full", "shared", "full", "shared", "shared"]
    assert signatures({}, {"indexer_types": indexers}, 5) == [
        ("full", "shared", True),
        ("shared", "full", True),
        ("full", "shared", False),
        ("shared", "shared", False),
        ("shared", "none", False),
    ]
    assert signatures({}, {"indexer_types": ["full", "full"]}, 2) == [("full",), ("full",)]


@pytest.mark.parametrize(
    ("value", "found"),
    [(1, 1), (LARGEST, LARGEST), (Fraction(8, 2), 4), (LARGEST + 1, None), (0, None), (-1, None),
     (Fraction(1, 2), None), (True, None), (2.0, None), ("2", None), (None, None)],
)  # fmt: skip
def test_a_positive_integer(value: Any, found: int | None) -> None:
    """``None`` stands for what is refused."""
    if found is None:
        with pytest.raises(InputError, match=r"^what is .* in this config; it must be a positive integer$"):
            whole_number(value, "what")
    else:
        assert (whole_number(value, "what"), type(whole_number(value, "what"))) == (found, int)


def test_numbers_that_no_model_has() -> None:
    for key, largest in (*LIMITS.items(), ("vision_config.hidden_size", LIMITS["hidden_size"]), ("others", 10**8)):
        for least in (0, 1):
            check_number(key, least, least)
            check_number(key, largest, least)
            for value in (least - 1, largest + 1, True, 2.0, None, "3"):
                with pytest.raises(InputError, match=rf"it must be a whole number between {least} and {largest}$"):
                    check_number(key, value, least)


def test_a_size_follows_from_keys() -> None:
    assert sized("heads / groups", {"heads": 12, "groups": 3}) == 4
    assert sized("2 * heads + 1", {"heads": 12}) == 25
    with pytest.raises(InputError, match=r"^heads 12 is not a multiple of groups 5$"):
        sized("heads / groups", {"heads": 12, "groups": 5})
    with pytest.raises(InputError, match=r"must be a positive integer"):
        sized("heads / groups + 1", {"heads": 12, "groups": 5})
    with pytest.raises(KeyError):
        sized("heads / groups", {"heads": 12})


@pytest.mark.parametrize(
    ("key", "config", "floating", "found"),
    [
        ("a <= 256", {"a": 256}, False, True), ("a <= 256", {"a": 257}, False, False),
        ("a <= 256", {"a": None}, False, False), ("a = b", {"a": 3, "b": 3}, False, True),
        ("a = b", {"a": 3, "b": 4}, False, False), ("a = b * 2", {"a": 4, "b": 2}, False, True),
        ("a = b * 2", {"a": 4}, False, False), ("a = b", {}, False, True), ("x.a = x.b", {"x.a": 1}, False, False),
        ("a is given", {"a": 0}, False, True), ("a is given", {"a": None}, False, False),
        ("a is a power of 2", {"a": 1}, False, True), ("a is a power of 2", {"a": 64}, False, True),
        ("a is a power of 2", {"a": 0}, False, False), ("a is a power of 2", {"a": 6}, False, False),
        ("a is a power of 2", {"a": -4}, False, False), ("a is a power of 2", {"a": 4.0}, False, False),
        ("a", {"a": 0.5}, False, 1.0), ("a", {"a": 0.0}, False, 0.0), ("a", {"a": 3}, True, 1.0),
        ("a", {"a": 0}, True, 0.0), ("a", {"a": 3}, False, 3), ("a", {}, True, None),
    ],
)  # fmt: skip
def test_what_a_config_says_of_its_structure(key: str, config: Any, floating: bool, found: Any) -> None:
    assert structure_entry(key, config, floating) == found


def test_values_as_far_as_they_decide_which_calls_are_made() -> None:
    assert structural("C2P | p2c") == ["c2p", "p2c"]
    assert structural(((1, 0.5), [0.0, "x"])) == [[1, 1.0], [0.0, "x"]]
    assert structural("Word") == "Word"


def test_layers_of_experts_and_dense_ones() -> None:
    """By hand, as the classes say it."""
    d, s = "dense", "sparse"
    assert signatures({"first_k_dense_replace": 2}, {}, 4) == [(d,), (d,), (s,), (s,)]
    assert signatures({"decoder_sparse_step": 2}, {}, 4) == [(d,), (s,), (d,), (s,)]
    assert signatures({"decoder_sparse_step": 1, "mlp_only_layers": [0, 2]}, {}, 4) == [(d,), (s,), (d,), (s,)]
    assert signatures({"decoder_sparse_step": 0}, {}, 2) == [(d,), (d,)]
    assert signatures({"interleave_moe_layer_step": 2}, {}, 4) == [(d,), (s,), (d,), (s,)]
    assert signatures({"interleave_moe_layer_step": 1}, {}, 2) == [(s,), (s,)]
    assert signatures({"interleave_moe_layer_step": 0}, {}, 2) == [(d,), (d,)]
    assert signatures({"interleave_moe_layer_step": 2, "moe_layers": [0]}, {}, 2) == [(s,), (d,)]
    assert signatures({}, {"b": [1, 2], "a": ["x", 0.5]}, 2) == [("x", 1), (1.0, 2)]
    with pytest.raises(InputError, match="mlp_only_layers is 3; it must be a list of layers' numbers"):
        signatures({"mlp_only_layers": 3}, {}, 2)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"a": 1}, {"a": 1}),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, {"rope_type": "linear"}),
        ({"rope_parameters": {"rope_theta": 1.0}}, {"rope_type": "default"}),
        (
            {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}},
            {"rope_type": "default", "mrope_section": [1, 2]},
        ),
        ({"rope_scaling": {"type": "dynamic", "alpha": 3.0}}, {"rope_type": "dynamic with alpha"}),
        ({"rope_scaling": {"type": "dynamic", "ntk_alpha": 3.0}}, {"rope_type": "dynamic with alpha"}),
        (
            {"rope_parameters": {"full": {"rope_type": "yarn"}, "some": {"rope_type": "default"}}},
            {"rope_type": "default/yarn"},
        ),
        ({"rope_parameters": {"full": PART, "some": PART}}, {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ({"rope_parameters": {"full": PART, "some": {"rope_type": "default"}}}, {"rope_type": "default"}),
        ({"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 0.5}),
        ({"rotary_pct": 0.25}, {"partial_rotary_factor": 0.25}),
        ({"rope_pct": 0.0, "rotary_pct": None}, {"partial_rotary_factor": 0.0}),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}, "rotary_pct": 0.25},
            {"rope_type": "default", "partial_rotary_factor": 0.5},
        ),
    ],
)
def test_keys_of_rotary_embeddings_are_gathered(config: dict[str, Any], found: dict[str, Any]) -> None:
    assert with_rope(config) == {**config, **found}
