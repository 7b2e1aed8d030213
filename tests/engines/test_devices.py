"""The device catalogue: sizes, sources, names, limits of phones and CUDA contexts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from estimator.answers.catalogue import devices
from estimator.answers.estimate import estimate
from estimator.engines.devices import MIB, assumptions, capability, catalogue, context_bytes, find, limit_of
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.show.cli import main
from tests.helpers.files import DOCS


def test_every_device_has_sizes_and_says_who_says_so() -> None:
    """Asks the catalogue itself: what is usable is a part of the whole, and no figure is without a source."""
    assert len(catalogue()) >= 75
    for device in catalogue():
        assert all((device.label, device.kind, device.source, device.confidence)), device.name
        assert 0 < device.usable_bytes <= device.total_bytes, device.name
        assert (device.assumed is not None) == ("assumed" in device.confidence), device.name
        assert (device.context_bytes is None) == (device.context_source is None), device.name


def test_names_are_normalised_and_tell_devices_apart() -> None:
    """Asks the catalogue: every name is lower case with hyphens, and finds its own device however it is spelled."""
    names = [device.name for device in catalogue()]
    assert len({re.sub("-", "", name) for name in names}) == len(names)
    for device in catalogue():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", device.name)
        for spelled in (device.name, device.name.upper(), device.name.replace("-", " "), device.name.replace("-", "")):
            assert find(spelled) is device


BEFORE = {
    "t4", "a10", "l4", "l40s", "a100-40gb", "a100-80gb", "h100-80gb", "h200", "b200", "mi300x", "rtx-3060-12gb",
    "rtx-3080-10gb", "rtx-3090", "rtx-4060-laptop", "rtx-4070", "rtx-4080", "rtx-4090", "rtx-5070", "rtx-5080",
    "rtx-5090", "apple-8gb", "apple-16gb", "apple-m3-pro-18gb", "apple-32gb", "apple-36gb", "apple-48gb",
    "apple-64gb", "apple-128gb", "jetson-orin-nano-8gb", "jetson-agx-orin-64gb", "raspberry-pi-5-8gb",
    "raspberry-pi-5-16gb", "raspberry-pi-4-8gb", "iphone-13", "iphone-14", "iphone-15", "iphone-15-pro", "iphone-16",
    "iphone-17-pro", "pixel-8", "pixel-9-pro", "galaxy-s24", "galaxy-s25",
}  # fmt: skip


def test_names_of_before_are_kept() -> None:
    """Asks the catalogue as it was with 40 devices: plans that name one of them go on working."""
    assert {device.name for device in catalogue()} >= BEFORE


CAPABILITIES = {
    "p100-16gb": (6, 0),
    "gtx-1080-ti": (6, 1),
    "v100-32gb": (7, 0),
    "t4": (7, 5),
    "a30": (8, 0),
    "rtx-3090": (8, 6),
    "jetson-agx-orin-64gb": (8, 7),
    "rtx-4090": (8, 9),
    "gh200": (9, 0),
    "b200": (10, 0),
    "b300": (10, 3),
    "jetson-agx-thor": (11, 0),
    "rtx-pro-6000": (12, 0),
    "dgx-spark": (12, 1),
}


def test_compute_capabilities() -> None:
    """Asks NVIDIA's list (developer.nvidia.com/cuda-gpus): one device of each capability; others have none."""
    for name, expected in CAPABILITIES.items():
        assert find(name).capability == expected
    for device in catalogue():
        nvidia = re.search(r"NVIDIA|GeForce", device.label) is not None
        assert (device.capability is not None) == nvidia, device.name


def test_usable_memory_is_what_cuda_reports() -> None:
    """Asks public logs: CUDA's total of the header's example cards, of which an idle card has 10 MiB in use."""
    for name, cuda in {"t4": 14912, "rtx-3060-12gb": 11909, "rtx-4090": 24080, "v100-32gb": 32494}.items():
        assert find(name).usable_bytes == (cuda - 10) * MIB
    # Only logs of the total: the driver keeps what it keeps on the device named (40 GB A100: 39.49 of 40 GiB).
    assert find("a30").usable_bytes == (24576 - (40960 - 40437) - 10) * MIB
    assert "a100-40gb" in find("a30").confidence


def test_a_card_with_other_memory() -> None:
    """Witness: a 2080 Ti of 22 GB, of which PyTorch prints 21.67 GiB (vllm-project/vllm#2140)."""
    card, sold = find("RTX 2080 Ti 22GB"), find("rtx-2080-ti")
    assert card.total_bytes == 22 * 2**30
    assert 0.99 * 21.67 * 2**30 < card.usable_bytes < 21.67 * 2**30
    assert card.total_bytes - card.usable_bytes == sold.total_bytes - sold.usable_bytes
    assert card.capability == sold.capability
    assert find(card.name) == card
    assert find("rtx-2080-ti 11 GB") is sold
    assert "taken to have 22.00 GiB" in assumptions(card)[0].why
    for name in ("a100 48gb", "iphone-15 12GB", "rtx-2080-ti 0GB", "rtx-2080-ti 99999GB", "rtx-2080-ti 22GB 11GB"):
        with pytest.raises(InputError, match="unknown device"):
            find(name)


def test_a_name_cuts_no_number_in_two() -> None:
    """An H20 is no H200, and a K80 no phone."""
    with pytest.raises(InputError, match="may be h20-96gb, h20-141gb;"):
        find("h20")
    assert find("h200").total_bytes > find("h20-96gb").total_bytes
    assert find("k80").capability == (3, 7)
    assert [device.name for device in devices("h20")] == ["h20-96gb", "h20-141gb"]
    assert [device.name for device in devices("rtx-509")] == ["rtx-5090-laptop", "rtx-5090"]  # no name has it whole


def test_names_are_suggested_once(capsys: pytest.CaptureFixture[str]) -> None:
    """By ``devices`` as by ``--device``."""
    with pytest.raises(InputError, match=re.escape("(did you mean h20-96gb, h20-141gb, h200, gh200?)")):
        find("h2")
    assert main(["devices", "rtx-4095"]) == 0
    assert "no device matches 'rtx-4095' (did you mean rtx-4090, rtx-5090, rtx-4080?);" in capsys.readouterr().out


PHONES = json.loads((DOCS / "measured" / "phones.json").read_text())


def required(run: dict[str, Any]) -> int:
    """Bytes that a published run had; what llama.cpp needs for it where it says only that the model ran."""
    if "bytes" in run:
        return int(run["bytes"])
    result = estimate({**run["plan"], "runtime": "llama.cpp", "device": run["device"]})
    return result.bytes[result.against]


@pytest.mark.parametrize("run", PHONES["ran"], ids=lambda run: f"{run['on']}, {run['model']}")
def test_published_runs_on_phones_are_within_the_limits(run: dict[str, Any]) -> None:
    """Witness: published runs. What ran has room in the assumed limits, but for those that say why they need not."""
    assert (required(run) > limit_of(find(run["device"]), run.get("entitled", False))) == ("exceeds" in run)


@pytest.mark.parametrize("run", PHONES["killed"], ids=lambda run: f"{run['on']}, {run['model']}")
def test_published_runs_that_ended_on_phones_are_beyond_them(run: dict[str, Any]) -> None:
    """Witness: published runs that died for want of memory."""
    assert required(run) > limit_of(find(run["device"]))


SPOKEN = {
    "xiaomi-15": "xiaomi-15",
    "Xiaomi 15 16GB": "xiaomi-15-16gb",
    "xiaomi-15-12gb": "xiaomi-15",
    "Samsung Galaxy S25 Ultra": "galaxy-s25-ultra",
    "Galaxy S25 Ultra 16 GB": "galaxy-s25-ultra-16gb",
    "Galaxy S24+": "galaxy-s24-plus",
    "Apple iPhone 16 Pro Max": "iphone-16-pro-max",
    "Nothing Phone (3a) 12 GB": "nothing-phone-3a-12gb",
    "Motorola Moto G (2025)": "moto-g-2025",
    "Poco X6 5G": "poco-x6",
    "Redmi Note 13 Pro+ 5G": "redmi-note-13-pro-plus",
    "poco x6 pro 12gb": "poco-x6-pro-12gb",
    "Galaxy A16": "galaxy-a16",
    "Galaxy A16 5G": "galaxy-a16-5g",
}


def test_phones_are_found_as_people_call_them() -> None:
    """Asks the catalogue: makers' spellings, the least RAM under the plain name, and the others by their RAM."""
    assert {name: find(name).name for name in SPOKEN} == SPOKEN


def test_there_are_phones_of_all_makers_with_the_ram_that_they_are_sold_with() -> None:
    """Asks the catalogue: 150 phones and more, of fifteen makers; a phone that is sold with several has them all."""
    phones = [device for device in catalogue() if device.kind in ("iPhone", "Android phone")]
    assert len({re.sub(r"-[0-9]+gb$", "", device.name) for device in phones}) > 250
    assert len({device.maker for device in phones}) >= 15
    names = ("oneplus-11r", "oneplus-11r-16gb", "oneplus-11r-18gb")
    assert [find(name).total_bytes >> 30 for name in names] == [8, 16, 18]
    assert all(device.source for device in phones)


def test_every_phone_has_a_limit_that_says_what_is_assumed() -> None:
    """Asks the catalogue: a phone's limit was measured, or says that it is assumed, from whom and what overrides it."""
    for device in catalogue():
        if device.kind == "Android phone":
            assert device.usable_bytes == int(0.5 * 0.9084 * device.total_bytes / MIB) * MIB
        (*found,) = assumptions(device)
        assert bool(found) == (device.assumed is not None)
        for one in found:
            assert (one.key, one.value) == ("device", device.usable_bytes)
            assert "assumed" in one.why
            assert device.source in one.why
            assert one.why.endswith(". A budget beside the device replaces it")
        assert assumptions(device, budget=True) == ()
        # Where only dirty memory is counted, the RAM beside it has room for the largest limit known.
        largest = max(device.usable_bytes, device.entitled_bytes or 0)
        assert device.system_bytes == (device.total_bytes - largest if device.counts == "dirty" else 0)
    for name in ("pixel-8", "iphone-15-pro", "laptop-16gb", "raspberry-pi-5-8gb", "jetson-orin-nano-8gb", "apple-8gb"):
        assert find(name).assumed, name
    for name in ("rtx-4090", "iphone-15", "jetson-orin-nx-16gb", "apple-16gb"):
        assert find(name).assumed is None, name


def test_answers_on_an_assumed_limit_say_so() -> None:
    """Asks results: a step on a phone carries the assumption, as an object too; a budget takes its place."""
    keys = {"model": "smollm2-135m", "method": "lora", "seq": 64, "device": "pixel-8"}
    (one,) = estimate(keys).assumptions
    assert estimate(keys).to_dict()["assumptions"] == [{"key": one.key, "value": one.value, "why": one.why}]
    assert one.value == estimate(keys).budget_bytes == find("pixel-8").usable_bytes
    assert "assumed to get half" in one.why
    assert "Assumed" in estimate(keys)._repr_html_()
    other = estimate({**keys, "budget": "5GiB"})
    assert (other.assumptions, other.budget_bytes) == ((), 5 * 2**30)
    assert estimate({**keys, "device": "rtx-4090"}).assumptions == ()


@pytest.mark.share(6)
def test_commands_print_what_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the text and the objects of the commands that take a device."""
    plan = ["smollm2-135m", "--method", "lora", "--seq", "256", "--device", "galaxy-s24"]
    for command in (["estimate", *plan], ["advise", *plan], ["max-batch", *plan]):
        assert main(command) == 0
        text = capsys.readouterr().out
        assert "Assumed limit of one application, 3.63 GiB: one app is assumed to get half" in text, command
        assert "budget beside the device" in " ".join(text.split())
    board = ["--device", "jetson-agx-orin-64gb"]
    unsure = ["serving", "smollm2-135m", *board]  # vLLM's part of unified memory has no rule
    for command, status in ((unsure, 2), (["timeline", "smollm2-135m", "--seq", "64", *board], 0)):
        assert main(command) == status
        assert "the operating system is assumed to take" in capsys.readouterr().out, command
        assert main([*command, "--json"]) == status
        (one,) = json.loads(capsys.readouterr().out)["assumptions"]
        assert one["key"] == "device"
    compared = ["compare", "smollm2-135m", "--seqs", "64,128", "--devices", "galaxy-s24"]
    assert main(compared) == 0
    assert "Assumed limit" in capsys.readouterr().out
    for command in (["advise", *plan, "--json"], [*compared, "--json"]):
        assert main(command) == 0
        answer = json.loads(capsys.readouterr().out)
        (one,) = answer.get("advice", [answer])[0]["assumptions"]
        assert one["key"] == "device"


def test_texts_are_plain_sentences() -> None:
    """Asks the catalogue: an address ends its sentence, no brackets are nested, and no number is one of our notes."""
    for device in catalogue():
        texts = (device.source, device.confidence, device.assumed, device.entitled_assumed, device.system_assumed)
        for text in filter(None, (*texts, device.context_source)):
            assert not re.search(r"\([^)]*\(|\blogs? \d|\d{10,}", text), (device.name, text)
        for one in (*assumptions(device), *(assumptions(device, True) if device.entitled_bytes else ())):
            assert "(" not in one.why, (device.name, one.why)
            assert all(len(sentence) < 210 for sentence in re.split(r"\. (?=[A-Z])", one.why)), (device.name, one.why)
            for address in re.findall(r"https://\S+[^\s.;]|[\w.-]+/[\w.-]+#\d+", one.why):
                assert re.search(rf": {re.escape(address)}[.;] ", one.why), (device.name, one.why)
    assert find("t4").source.endswith("; 2 public logs")
    assert find("jetson-nano").source.endswith("; one public log, 957 MB in use")
    assert find("rtx-5050").source.endswith("; one public log, RTX 5050 Laptop")
    assert find("rtx-a4000").source.endswith("; one public log, DengKaiCQ/VGGT-Long#6")
    assert find("h100-96gb").source.endswith("; no public log of its own")


def test_metals_share_of_sizes_without_a_log_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the catalogue and the text: the share is that of the size named, whose logs were read."""
    device, like = find("apple-8gb"), find("apple-16gb")
    assert "those of 16 GB" in (device.assumed or "")
    assert like.assumed is None
    assert device.usable_bytes / device.total_bytes == pytest.approx(like.usable_bytes / like.total_bytes, abs=1e-4)
    assert main(["estimate", "smollm2-135m", "--dtype", "q8_0", "--n-ctx", "256", "--device", device.name]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Assumed limit of one application, " in text
    assert "Metal is assumed to let one application have" in text


def test_a_mac_of_a_chip_has_a_source_or_is_assumed() -> None:
    """Asks the catalogue: every limit of Metal's was reported of that chip, or the answer says that it is assumed."""
    macs = [one for one in catalogue() if one.kind == "Apple silicon" and re.match(r"apple-m\d", one.name)]
    assert len(macs) >= 40
    for mac in macs:
        assert mac.assumed is not None or mac.confidence == "verified"
        assert 0.66 < mac.usable_bytes / mac.total_bytes < 0.85


@pytest.mark.parametrize(
    ("device", "runtime"),
    [
        *((name, "llama.cpp") for name in ("iphone-15", "pixel-8", "rtx-4090", "apple-16gb")),
        *((name, "torch-cpu") for name in ("raspberry-pi-5-8gb", "pixel-8")),
    ],
)
def test_a_budget_beyond_the_device_is_refused(device: str, runtime: str) -> None:
    """Asks plans: no application has more than there is; the line names the total and what to do."""
    keys = {"model": "smollm2-135m", "runtime": runtime, "device": device}
    total = find(device).total_bytes
    assert parse_plan({**keys, "budget": f"{total}B"}).budget_bytes() == total
    with pytest.raises(
        InputError, match=f"does not go with device: {device}, which has .*iB in all; .* leave the device out"
    ):
        parse_plan({**keys, "budget": f"{total + 1}B"}).budget_bytes()


def test_the_entitlement_raises_an_ios_limit() -> None:
    """Asks plans: the limit of an app with the entitlement; refused where there is none, or a budget beside it."""
    keys = {"model": "llama-3.2-1b", "runtime": "llama.cpp", "ios_increased_memory_limit": True}
    assert parse_plan({**keys, "device": "iphone-15"}).budget_bytes() == 4096 * MIB
    assert parse_plan({**keys, "device": "ipad-16gb"}).budget_bytes() == 12288 * MIB
    (one,) = parse_plan({**keys, "device": "iphone-air"}).assumptions()
    assert one.value == 6962 * MIB
    for device, message in (
        ({"device": "pixel-8"}, "device: pixel-8, which runs no iOS"),
        ({"device": "rtx-4090"}, "runs no iOS"),
        ({"device": "iphone-13"}, "nobody published"),
        ({}, "an iPhone or iPad as device"),
        ({"device": "iphone-15", "budget": "4GiB"}, "leave one of them out"),
    ):
        with pytest.raises(InputError, match=message):
            parse_plan({**keys, **device})


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("rtx4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "rtx-4060-laptop"),
        ("NVIDIA GeForce RTX 3090 Ti", "rtx-3090-ti"),
        ("rtx 3060", "rtx-3060-12gb"),
        ("A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("A100 80 GB", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("NVIDIA A10G", "a10"),
        ("Quadro RTX 6000", "quadro-rtx-6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
        ("AMD Instinct MI250X/MI250", "mi250x"),
        ("NVIDIA GB10", "dgx-spark"),
    ],
)
def test_names_as_people_and_drivers_write_them(spelled: str, name: str) -> None:
    """Asks ``torch.cuda.get_device_name`` as public logs show it, and common short forms."""
    assert find(spelled).name == name


@pytest.mark.parametrize(
    ("spelled", "words"),
    [
        ("A100", ["may be a100-40gb, a100-80gb;"]),
        ("h100", ["h100-80gb", "h100-pcie-80gb", "h100-nvl-94gb"]),
        ("RTX 6000", ["quadro-rtx-6000", "rtx-6000-ada", "rtx-pro-6000"]),
        ("NVIDIA GeForce RTX 3080", ["rtx-3080-10gb, rtx-3080-12gb"]),
        ("rtx-409", ["did you mean rtx-4090"]),
        ("orin", ["did you mean jetson-orin-nano"]),
        ("a100-81gb", ["did you mean a100-40gb, a100-80gb"]),
        ("", ["unknown device ''"]),
        ("80GB", ["unknown device"]),
    ],
)
def test_what_is_no_name_is_answered_with_names(spelled: str, words: list[str]) -> None:
    """Asks the error: one line with the candidates, and what to do without a device."""
    with pytest.raises(InputError) as error:
        find(spelled)
    assert "budget='24GiB'" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_four_names_are_shown_at_most() -> None:
    with pytest.raises(InputError) as error:
        find("rtx 40")
    (names,) = re.findall(r"did you mean ([^?]*)\?", str(error.value))
    assert len(names.split(", ")) == 4


def test_contexts() -> None:
    """Asks the published figures: a device's own, else the nearest device's of its architecture, which is named."""
    size, source = context_bytes(find("t4"))
    assert size == 7215120384 - 7067402240  # fitcheck-llm 0.3.1: process less reserved
    assert "fitcheck" in source
    near, source = context_bytes(find("a100-40gb"))
    assert near == find("a100-80gb").context_bytes
    assert "as on a100-80gb, same capability" in source
    assert "b200, same architecture" in context_bytes(find("b300"))[1]
    assert "nearest architecture" in context_bytes(find("jetson-agx-thor"))[1]
    with pytest.raises(InputError, match="no CUDA device"):
        context_bytes(find("mi300x"))
    for device in catalogue():
        if device.capability is not None:
            assert 100 * MIB < context_bytes(device)[0] < 1024 * MIB


def test_capability_is_two_numbers() -> None:
    """Asks NVIDIA's spelling."""
    assert capability("8.9") == (8, 9)
    assert capability("12.0") > capability("9.0")
    with pytest.raises(InputError):
        capability("sm_90")


MODEL = "smollm2-135m"


def test_find_device():
    assert find("RTX 4090") is find("rtx-4090")
    assert find("rtx-4090").usable_bytes == (24080 - 10) * 2**20
    with pytest.raises(InputError, match="rtx-4090"):
        find("rtx4091")
    assert estimate(model=MODEL, seq=64, device="rtx-4090").fits is True
