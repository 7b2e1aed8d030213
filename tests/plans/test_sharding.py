"""The block ``sharding``, whose name is the value of its own key."""

from __future__ import annotations

import json

import pytest

from estimator.answers.estimate import estimate
from estimator.show.cli import main
from estimator.text import human


@pytest.mark.consistency
def test_a_name_and_its_keys_stand_beside_the_plans(capsys: pytest.CaptureFixture[str]) -> None:
    """In any order, as keywords and as options. Counts of parameters are the whole model's."""
    model = {"model": "smollm-135m", "seq": 64}
    nested = estimate({**model, "sharding": {"name": "fsdp2", "world_size": 8}})
    assert estimate("smollm-135m", seq=64, world_size=8, sharding="fsdp2") == nested
    assert main(["estimate", "smollm-135m", "--seq", "64", "--world-size", "8", "--sharding", "fsdp2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == nested.bytes
    assert main(["estimate", "smollm-135m", "--seq", "64", "--world-size", "8", "--sharding", "fsdp2"]) == 0
    assert f"A rank sends {human(nested.communicated)} in a step." in " ".join(capsys.readouterr().out.split())
    alone = estimate(model)
    assert alone.communicated == 0
    assert nested.trainable_parameters == alone.trainable_parameters
    assert nested.bytes["parameters"] == alone.bytes["parameters"] // 8


@pytest.mark.consistency
def test_a_key_beside_a_block_is_kept() -> None:
    """Whichever of the two comes first."""
    block = {"max_new_tokens": 9}
    first = estimate("smollm-135m", seq=64, num_beams=2, generate=block)
    assert first == estimate("smollm-135m", seq=64, generate=block, num_beams=2)
    assert first != estimate("smollm-135m", seq=64, generate=block)
