"""How many of which card a step fits on. The witness of a layout's figures is ``estimate`` of its plan."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.answers.cluster import Cluster, smallest_cluster
from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.plans.margins import Margin

pytestmark = pytest.mark.consistency

FULL = {"model": "llama-3.2-1b", "dtype": "float32", "seq": 256}
CARDS = ["raspberry-pi-5-8gb", "t4", "raspberry-pi-5-16gb"]
"""Two whose steps run on a CPU, and a GPU between them, whose process is replayed."""


@pytest.fixture(scope="module")
def answer() -> Cluster:
    return smallest_cluster(FULL, [*CARDS, "mi300x", "iphone-15"])


@pytest.mark.share(6)
def test_every_layout_is_that_of_estimate(answer: Cluster) -> None:
    """And its block of sharding is a plan's."""
    assert {one["device"] for one in answer.to_dict()["layouts"]} == set(CARDS)
    for row in answer.to_dict()["layouts"]:
        result = estimate(FULL, device=row["device"], sharding=row["sharding"])
        told = (row["process"], row["communicated"], row["margin"], row["verdict"], row["peak_at"])
        of = result.bytes["process"], result.communicated, result.margin_bytes, result.verdict, result.peak_at
        assert told == of
        assert result.fits


@pytest.mark.share(9)
def test_all_that_fits_is_there_in_order(answer: Cluster) -> None:
    """By cards, then by what a rank sends, then by a card's memory; what does not fit is not there."""
    worlds = {one.cards for one in answer.tried}
    assert worlds == {1, 2, 4, 8}
    fsdp2 = [
        (world, {"name": "fsdp2", "world_size": world, **kept})
        for world in (2, 4, 8)
        for kept in ({}, {"reshard_after_forward": False})
    ]
    expected = [
        (world, result.communicated, result.budget_bytes, device, block)
        for device in CARDS
        for world, block in ((1, None), *fsdp2)
        for result in [estimate(FULL, device=device, sharding=block)]
        if result.fits
    ]
    expected.sort(key=lambda row: row[:3])
    found = [(one.cards, one.device.name, one.sharding) for one in answer.layouts]
    shown = [row for row in found if row[2] is None or (row[2].get("name") == "fsdp2" and "tp" not in row[2])]
    assert shown == [(world, device, block) for world, _, _, device, block in expected]
    assert 1 not in {one.cards for one in answer.layouts}  # the smallest is a cluster indeed


@pytest.mark.share(3)
def test_what_is_not_tried_is_named(answer: Cluster) -> None:
    """Cards without rules by their name, and ways that every one of the devices' steps is refused."""
    assert ("mi300x",) in answer.left_out.values()
    assert answer.left_out["phones and tablets, on which PyTorch does not train"] == ("iphone-15",)
    assert any(not one.exact for one in answer.tried)  # a GPU's layout that is not replayed, which does not fit
    assert not [one for one in answer.tried if not one.exact and one.result.fits]
    tried = {one.way for one in answer.tried}
    assert "fsdp2" in tried
    for reason, names in answer.left_out.items():
        assert ";" not in reason
        assert names


def test_a_way_is_left_out_for_one_reason() -> None:
    """Transformers' words name the number of processes; the first of them is said."""
    left_out = smallest_cluster({"model": "gpt2", "seq": 64}, ["raspberry-pi-5-8gb"], 8).left_out
    (said,) = (reason for reason, names in left_out.items() if "tp" in names)
    assert "gpt2 has no `tp_plan`" in said
    assert not [name for names in left_out.values() for name in names if " x " in name]


def test_options_of_sharding_go_to_the_ways_that_have_them() -> None:
    keys = {**FULL, "sharding": {"param_dtype": "bfloat16", "static_graph": True}}
    found = smallest_cluster(keys, CARDS[:1], 2)
    (block,) = (one.sharding for one in found.tried if one.way == "fsdp2")
    assert block == {"name": "fsdp2", "param_dtype": "bfloat16", "world_size": 2}


def test_what_fits_without_the_margin_alone_is_tight() -> None:
    plan = {"model": "smollm2-135m", "seq": 64}
    found = smallest_cluster(plan, ["raspberry-pi-5-8gb"], 2, margin=Margin.parse("99%"))
    assert found.verdict == "fits"
    found = smallest_cluster(FULL, ["raspberry-pi-5-8gb"], 8, margin=Margin.parse("99%"))
    assert found.verdict == "tight"
    assert found.best == found.layouts[0]
    assert {row["verdict"] for row in found.to_dict()["layouts"]} == {"tight"}


@pytest.mark.share(9)
def test_where_nothing_fits_the_nearest_is_named() -> None:
    found = smallest_cluster({"model": "llama-3.1-405b", "seq": 64}, ["raspberry-pi-5-8gb", "t4"], 2)
    assert found.verdict == "does not fit"
    told = found.to_dict()
    assert told["layouts"] == []
    assert told["nearest"]["margin"] == max(one.spare for one in found.tried) < 0
    assert found.records() == [{**told["nearest"], "sharding": found.nearest.way}]


@pytest.mark.parametrize(
    ("keys", "devices", "cards", "says"),
    [
        ({}, [], 8, "name them: devices="),
        ({}, ["rtx-4091"], 8, "did you mean rtx-4090"),
        ({}, ["mi300x"], 8, "no device is left: cards without CUDA"),
        ({}, ["iphone-15", "ipad-16gb"], 8, "no device is left: phones and tablets, on which PyTorch does not"),
        ({}, ["t4"], 0, "max_cards is 0; give a whole number from 1 to 4,096"),
        ({}, ["t4"], True, "max_cards is True"),
        ({"sharding": "fsdp2"}, ["t4"], 8, "looks for sharding; leave sharding out"),
        ({"sharding": {"world_size": 4}}, ["t4"], 8, "looks for world_size; leave world_size out"),
        ({"sharding": {"param_dtype": "float8"}}, ["raspberry-pi-5-8gb"], 2, "sharding.param_dtype"),
        ({"sharding": {"bucket": 1}}, ["raspberry-pi-5-8gb"], 2, "unknown key 'sharding.bucket'"),
        ({"method": "lora", "r": 0}, ["t4"], 8, "r"),
        ({"model": "no-such-model"}, ["t4"], 8, "unknown model"),
        ({"attention": "flash"}, ["raspberry-pi-5-8gb"], 8, "attention: flash does not go with runtime: torch-cpu"),
    ],
)
def test_wrong_input(keys: dict[str, Any], devices: list[str], cards: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        smallest_cluster({"model": "smollm2-135m", **keys}, devices, cards)


def test_what_rests_on_the_host_is_tried_where_nothing_else_fits() -> None:
    """On GPUs alone, one card too. The block is a plan's, and its words name the host."""
    found = smallest_cluster({**FULL, "seq": 16}, ["t4", "raspberry-pi-5-8gb"], 1)
    assert {one.device.name for one in found.layouts} == {"t4"}
    assert {one.way for one in found.layouts} == {f"{name} on the host" for name in ("fsdp2", "zero2", "zero3")}
    row = next(one for one in found.to_dict()["layouts"] if one["sharding"]["name"] == "fsdp2")
    assert row["sharding"] == {"name": "fsdp2", "cpu_offload": True, "world_size": 1}
    assert row["process"] == estimate({**FULL, "seq": 16}, device="t4", sharding=row["sharding"]).bytes["process"]
    fits = smallest_cluster({**FULL, "seq": 16}, ["t4"], 2)
    assert fits.layouts
    assert not [one for one in fits.tried if "host" in one.way]


def test_cards_share_a_step_only_where_their_kernels_are_alike() -> None:
    """Of heads of 96, kernels for backward and attention differ by card: each is as when it is asked about alone."""
    keys = {"model": "phi-3-mini-4k", "method": "lora", "batch": 2, "seq": 700, "attention_mask": True}
    cards = ["a100-40gb", "rtx-4090", "l40s", "h100-80gb"]
    together = {(one.device.name, one.way, one.cards): one.result for one in smallest_cluster(keys, cards, 1).tried}
    for card in cards:
        for one in smallest_cluster(keys, [card], 1).tried:
            assert together[card, one.way, one.cards] == one.result


def test_a_forward_pass_is_no_step_of_zero() -> None:
    """And a refusal of a plan leaves a way out as one of a step does."""
    keys = {"model": "smollm2-135m", "task": "infer", "seq": 64, "batch": 1}
    found = smallest_cluster(keys, ["t4"], 2)
    assert {one.way for one in found.tried} == {"one process", "ddp", "fsdp2", "fsdp2 without resharding"}
    assert found.left_out["does not go with task: infer"] == ("zero2",)
    assert found.left_out["no rule with task: infer"] == ("zero3",)
    (layout,) = [one for one in found.layouts if one.way == "fsdp2"]
    assert layout.result.bytes == estimate(keys, device="t4", sharding=layout.sharding).bytes


def test_apple_devices_share_nothing() -> None:
    found = smallest_cluster({"model": "smollm2-135m", "seq": 64, "batch": 1}, ["apple-16gb"], 2)
    assert [one.cards for one in found.tried] == [1]
    assert any("device: apple-16gb" in reason for reason in found.left_out)
