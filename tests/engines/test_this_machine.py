"""The device that is this machine. The witness is a driver, a system and a Mac of so many bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from estimator import estimate
from estimator.engines import this_machine
from estimator.engines.devices import assumptions, find
from estimator.errors import InputError

GIB = 2**30


class NVMLError(Exception):
    pass


def driver(*cards: tuple[str, int, int, tuple[int, int]], answers: bool = True) -> Any:
    """NVML, with a name, the total, what is free and a compute capability for each card."""

    def started() -> None:
        if not answers:
            raise NVMLError("Driver Not Loaded")

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=started,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda number: cards[number],
        nvmlDeviceGetName=lambda card: card[0],
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(total=card[1], free=card[2]),
        nvmlDeviceGetCudaComputeCapability=lambda card: card[3],
    )


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    find.cache_clear()

    def put(nvml: Any, total: int = 0, available: int = 0, platform: str = "linux", limit: str = "0") -> None:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        memory = SimpleNamespace(total=total, available=available)
        monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(virtual_memory=lambda: memory))
        monkeypatch.setattr(this_machine.sys, "platform", platform)
        done = SimpleNamespace(stdout=f"{limit}\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    yield put
    monkeypatch.undo()
    find.cache_clear()


def test_the_card_with_the_most_free_memory(machine: Any) -> None:
    machine(driver(("NVIDIA A", 24 * GIB, 20 * GIB, (8, 6)), ("NVIDIA B", 12 * GIB, 11 * GIB, (8, 9))))
    device = find("this")
    assert (device.name, device.total_bytes, device.usable_bytes) == ("this", 24 * GIB, 20 * GIB)
    assert device.capability == (8, 6)
    assert device.label == "NVIDIA A (GPU 0 here)"
    assert device.is_card
    (why,) = assumptions(device)
    assert "20.00 GiB of 24.00 GiB are free now; others hold 4.00 GiB" in why.why
    result = estimate("smollm2-135m", device="this")
    assert (result.runtime, result.budget_bytes) == ("torch-cuda", 20 * GIB)


@pytest.mark.parametrize(
    ("limit", "held", "usable"),
    [
        (8 * GIB, 3 * GIB, 6 * GIB),
        (12 * GIB, GIB, 9 * GIB),
        (8 * GIB, 10 * GIB, 0),
        (32 * GIB, 0, 9 * GIB),
        ("max", 0, 9 * GIB),
    ],
)
def test_the_ram_of_a_container(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: Any, held: int, usable: int
) -> None:
    """Of 16 GiB with 9 available; 1 GiB of what the container holds are cached pages."""
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{held}\n")
    (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {GIB}\n")
    monkeypatch.setattr(this_machine, "GROUP", tmp_path)
    machine(driver(answers=False), 16 * GIB, 9 * GIB)
    found = this_machine.look()
    contained = limit != "max" and limit < 16 * GIB
    assert (found.total, found.free) == (limit if contained else 16 * GIB, usable)
    assert ("container" in found.label) is contained


def test_the_ram_where_there_is_no_driver(machine: Any) -> None:
    machine(driver(answers=False), 16 * GIB, 9 * GIB)
    device = find("This")
    assert (device.total_bytes, device.usable_bytes, device.counts) == (16 * GIB, 9 * GIB, "used")
    assert device.capability is None
    assert not device.is_card
    assert estimate("smollm2-135m", device="this").budget_bytes == 9 * GIB


def test_the_ram_beside_a_card(machine: Any) -> None:
    machine(driver(answers=False), 16 * GIB, 9 * GIB)
    plan = {"model": "smollm2-135m", "seq": 64, "runtime": "torch-cuda", "saved_activations": "on-host"}
    found = estimate({**plan, "host_memory": "this"})
    assert (found.budget_bytes, found.against, found.fits) == (9 * GIB, "host", True)


@pytest.mark.parametrize(
    ("total", "available", "limit", "usable"),
    [
        (16 * GIB, 15 * GIB, "0", 10923 << 20),
        (64 * GIB, 60 * GIB, "", find("apple-64gb").usable_bytes),
        (18 * GIB, 17 * GIB, "16384", 16 * GIB),
        (18 * GIB, 5 * GIB, "16384", 5 * GIB),
    ],
)
def test_a_mac(machine: Any, total: int, available: int, limit: str, usable: int) -> None:
    machine(None, total, available, "darwin", limit)
    device = find("this")
    assert (device.usable_bytes, device.is_apple, device.counts) == (usable, True, "all")


@pytest.mark.parametrize(("module", "library"), [("pynvml", "nvidia-ml-py"), ("psutil", "psutil")])
def test_absent_tools_are_said(machine: Any, monkeypatch: pytest.MonkeyPatch, module: str, library: str) -> None:
    machine(driver(answers=False))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"device this: {library} is not installed"):
        find("this")


def test_a_driver_that_fails(machine: Any) -> None:
    nvml = driver(("NVIDIA A", 1, 1, (8, 6)))

    def fails(card: Any) -> None:
        raise NVMLError("GPU is lost")

    nvml.nvmlDeviceGetMemoryInfo = fails
    machine(nvml)
    with pytest.raises(InputError, match="the NVIDIA driver says 'GPU is lost'"):
        find("this")
