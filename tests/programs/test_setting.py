"""What decides which functions a forward pass calls, and which of that a program serves."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.operators import Cuda
from estimator.plans import recorded_programs
from estimator.programs.program_files import load_together
from estimator.programs.setting import ALONE, VALUES, Setting, merged
from estimator.programs.step import CachedTokens, Procedure, Step

INFER = Procedure(trains=False)


@pytest.mark.parametrize(
    ("step", "setting"),
    [
        ({}, {}),
        ({"checkpointing": "layer", "use_cache": True}, {}),  # transformers turns the cache off
        ({"checkpointing": "layer", "use_cache": True, "caches_in_checkpoints": True}, {"use_cache": True}),
        ({"use_cache": True, "packing": True}, {"use_cache": True, "packing": True}),
        ({"device": Cuda(), "attention": "flash"}, {"device": "cuda", "attention": "flash"}),
        ({"dtype": "float32", "autocast": "float16"}, {"dtype": "float32", "autocast": "float16"}),
        ({"attention_mask": True, "procedure": INFER}, {"attention_mask": True, "trains": False}),
        (
            {"routing": "worst", "experts_implementation": "eager"},
            {"routing": "worst", "experts_implementation": "eager"},
        ),
        (
            {"procedure": INFER, "cached": CachedTokens("static", 0, 9)},
            {"trains": False, "use_cache": True, "cache": "static"},
        ),
        (
            {"procedure": INFER, "cached": CachedTokens("dynamic", 4, 9, prefilled=True, reordered=True)},
            {"trains": False, "use_cache": True, "cache": "dynamic", "past": "prefill", "reordered": True},
        ),
        (
            {"procedure": INFER, "cached": CachedTokens("dynamic", 4, 9)},
            {"trains": False, "use_cache": True, "cache": "dynamic", "past": "decode"},
        ),
    ],
)
def test_of_a_step(step: dict[str, Any], setting: dict[str, Any]) -> None:
    found = Setting.of(Step(**{"family": "toy", "dtype": "bfloat16", **step}))
    assert found == Setting(**setting)
    assert all(value in VALUES[name] for name, value in found._asdict().items())


def test_what_a_row_does_not_name_is_as_it_mostly_is() -> None:
    row = {**ALONE, "attention": ("eager", "sdpa"), "autocast": (None, "bfloat16")}
    assert Setting(attention="eager", autocast="bfloat16").is_of([row])
    for other in ({"attention": "flash"}, {"device": "cuda"}, {"trains": False}, {"routing": "worst"}):
        assert not Setting(**other).is_of([row])
        assert Setting(**other).is_of([row, {**ALONE, **{name: (value,) for name, value in other.items()}}])


NAMES = ("attention", "autocast", "use_cache")
SUBSETS = {name: [x for n in (1, 2, 3) for x in itertools.combinations(VALUES[name], n)] for name in NAMES}
ROWS = st.fixed_dictionaries({name: st.sampled_from(SUBSETS[name]) for name in NAMES}).map(lambda row: {**ALONE, **row})


@pytest.mark.consistency
@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS, max_size=5))
def test_merged_rows_have_the_same_settings(rows: list[dict[str, tuple[Any, ...]]]) -> None:
    found = merged(rows)
    assert len(found) <= len(rows)
    assert merged(found) == found
    for values in itertools.product(*(VALUES[name] for name in NAMES)):
        setting = Setting(**dict(zip(NAMES, values, strict=True)))
        assert setting.is_of(found) == setting.is_of(rows)


def test_files_list_settings_in_their_shortest_form() -> None:
    """So that what is recorded anew is the same text."""
    for path in recorded_programs.program_files():
        assert all(program.settings == merged(program.settings) for program in load_together(path)), path.name


def test_in_words() -> None:
    assert str(Setting()) == "training with attention: sdpa, device: cpu, dtype: bfloat16"
    padded = Setting(trains=False, attention_mask=True, autocast="float16", use_cache=True)
    assert str(padded) == (
        "inference on padded rows with attention: sdpa, device: cpu, dtype: bfloat16, autocast: float16, "
        "use_cache: True"
    )
