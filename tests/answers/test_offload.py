"""The most layers on devices, the best split, and the largest recipe."""

from __future__ import annotations

from typing import Any

import pytest

import estimator
from estimator.answers.offload import Layers, Quant, most_layers, quants
from estimator.errors import InputError
from estimator.plans.flat import nested
from estimator.plans.margins import NO_MARGIN, Margin

TWO = {"devices": ["rtx-3060=2GiB", "rtx-3090=3GiB"], "n_ctx": 4096, "dtype": "q4_k_m"}
"""Devices of which neither has room for all of an 8B model, nor both together."""


def most(margin: str | None = None, **keys: Any) -> Layers:
    return most_layers(nested({"model": "llama-3.1-8b"}, keys), margin=Margin.parse(margin))


def largest(margin: str | None = None, **keys: Any) -> list[Quant]:
    return quants(nested({"model": "llama-3.1-8b"}, keys), margin=Margin.parse(margin))


def fits(layers: int, split: tuple[int, ...], margin: str | None, **keys: Any) -> bool:
    result = estimator.estimate("llama-3.1-8b", n_gpu_layers=layers, tensor_split=[*map(float, split)], **keys)
    kept = 0.0 if margin == "0" else result.uncertainty
    limits = {"CUDA0": 2 << 30, "CUDA1": 3 << 30}
    return all(result.bytes[name] * (1 + kept) <= limit for name, limit in limits.items())


@pytest.mark.share(2)
@pytest.mark.parametrize("margin", ["0", None])
def test_the_most_layers_over_two_devices(margin: str | None) -> None:
    """Every other split of the answer and of one layer more, by an estimate each."""
    found = most(margin, **TWO)
    assert found.answer is not None
    assert 0 < found.answer < found.of == 33
    assert sum(found.split) == found.answer
    assert fits(found.answer, found.split, margin, **TWO)
    more = found.answer + 1
    assert not any(fits(more, (first, more - first), margin, **TWO) for first in range(more + 1))


def test_one_device_and_all_layers() -> None:
    """By hand: an 8B model in 4 bits is on a card of 24 GB as a whole, and not on one of 4 GiB."""
    keys: dict[str, Any] = {"n_ctx": 4096, "dtype": "q4_k_m"}
    whole = most(device="rtx-3090", **keys)
    assert (whole.answer, whole.split, whole.verdict) == (33, (33,), "all")
    part = most(device="rtx-3090", budget="4GiB", **keys)
    assert part.answer is not None
    assert (part.verdict, part.split) == ("some", (part.answer,))
    device = {"device": "rtx-3090", "budget": "4GiB", **keys}
    next_one = estimator.estimate("llama-3.1-8b", n_gpu_layers=part.answer + 1, **device)
    assert next_one.bytes["device"] * (1 + next_one.uncertainty) > 4 << 30


def test_the_host_has_a_budget_too() -> None:
    """What is not on a device is on the host, which may have no room for it."""
    found = most(budget="1GiB", **TWO)
    assert (found.answer, found.verdict) == (None, "does not fit")
    assert "cpu" in {limit.against for limit in found.limits}


@pytest.mark.parametrize(
    "keys", [{"devices": ["rtx-3060", "rtx-3090"]}, {"device": "rtx-3060", "runtime": "llama.cpp"}, {"budget": "12GiB"}]
)
def test_the_largest_recipe(keys: dict[str, Any]) -> None:
    """All larger recipes were asked and do not fit."""
    found = largest("0", n_ctx=8192, **keys)
    assert [one.verdict for one in found] == [*["does not fit"] * (len(found) - 1), "fits"]
    weights = [one.result.bytes["parameters"] for one in found]
    assert weights == sorted(weights, reverse=True)
    again = estimator.estimate("llama-3.1-8b", n_ctx=8192, dtype=found[-1].plan.dtype, **keys)
    assert again.fits
    assert all(NO_MARGIN.left(limit, 0.0) >= 0 for limit in found[-1].limits)


@pytest.mark.parametrize(
    ("question", "keys", "message"),
    [
        (most, {"budget": "8GiB"}, "needs GPUs that layers are put on"),
        (most, {"device": "raspberry-pi-5-8gb"}, "needs GPUs that layers are put on"),
        (most, {"devices": ["rpc"]}, "needs something to fit"),
        (most, {"device": "rtx-3090", "runtime": "torch-cuda"}, "max-gpu-layers is about llama.cpp"),
        (largest, {}, "needs something to fit"),
        (largest, {"budget": "8GiB", "runtime": "torch-cpu"}, "largest-quant is about llama.cpp"),
    ],
)
def test_wrong_questions_are_refused(question: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        question(**keys)
