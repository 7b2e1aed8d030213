"""The smallest device that a plan fits. The witness is ``estimate`` on every device of the catalogue."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.inverse import smallest_device
from estimator.engines.devices import catalogue
from estimator.errors import InputError
from estimator.plans.margins import Margin

pytestmark = pytest.mark.consistency

LORA = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.witness
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


def test_a_kernel_of_gpus_is_asked_of_gpus() -> None:
    """Without a runtime a plan is a CPU's, which refuses it."""
    keys = {"model": "smollm2-135m", "method": LORA, "seq": 64, "attention": "flash"}
    answer = smallest_device(keys, devices=["laptop-8gb", "rtx-3090"])
    assert answer.best is not None
    assert (answer.best.device.name, answer.on_device.runtime) == ("rtx-3090", "torch-cuda")
    with pytest.raises(InputError, match="attention: flash does not go with runtime: torch-cpu"):
        smallest_device({**keys, "runtime": "torch-cpu"})


def test_candidates() -> None:
    """Of named devices, a phone among them; a larger one beside it, and one without rules."""
    keys = {"model": "smollm2-135m", "method": LORA, "seq": 64}
    answer = smallest_device(keys, devices=["rtx-4090", "mi300x", "iphone-15-pro", "rtx-4090"])
    assert answer.best is not None
    assert answer.best.device.name == "iphone-15-pro"
    assert [one.device.name for one in answer.others] == ["rtx-4090"]
    assert [*answer.left_out.values()] == [("mi300x",)]
    gpu = smallest_device(keys, "GPU", devices=["rtx-4090", "iphone-15-pro"])
    assert gpu.best is not None
    assert gpu.best.device.name == "rtx-4090"
    for names, line in ((["mi300x"], "no device is left: cards without CUDA"), (["rtx-4091"], "did you mean rtx-4090")):
        with pytest.raises(InputError, match=line):
            smallest_device(keys, devices=names)


@pytest.mark.parametrize(
    ("model", "keys", "margin", "verdict"),
    [
        ("smollm2-135m", {}, "5%", "fits"),
        ("llama-3.2-1b", {}, "99%", "tight"),
        ("llama-3.1-8b", {}, "5%", "does not fit"),
        ("smollm2-135m", {"batch": 4, "seq": 1030, "dtype": "float32"}, "5%", "does not fit"),
    ],
    ids=("fits", "tight", "live-bytes", "process"),
)
def test_the_verdict_is_on_the_candidates(model: str, keys: dict[str, Any], margin: str, verdict: str) -> None:
    """What is live may fit where the process does not."""
    answer = smallest_device({"model": model, "seq": 64, **keys}, devices=["t4"], margin=Margin.parse(margin))
    assert answer.verdict == verdict
    assert (answer.best is not None, answer.found is not None) == (verdict == "fits", verdict != "does not fit")


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


@pytest.mark.parametrize("devices", [(), ("apple-16gb",)])
def test_a_job_of_several_is_asked_of_cards(devices: tuple[str, ...]) -> None:
    """A laptop is no candidate for one of several ranks, unless it is named."""
    keys = {"model": "smollm2-135m", "seq": 64, "sharding": {"name": "fsdp2", "world_size": 2}}
    answer = smallest_device(keys, devices=devices)
    assert answer.best is not None
    assert (answer.best.device.capability is None) == bool(devices)
    assert any("several of which share no model" in why for why in answer.left_out) != bool(devices)
