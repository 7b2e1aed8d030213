"""Devices by name: how much memory they have, how much of it one application can use, who says so."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import InputError, nearest

MIB = 2**20


@dataclass(frozen=True)
class Device:
    """A device of the catalogue (``devices.yaml``). Sizes are bytes."""

    name: str
    label: str
    kind: str
    total_bytes: int
    usable_bytes: int | None
    """What one application can use; ``None`` where no limit is published."""
    source: str
    confidence: str


@cache
def _devices() -> dict[str, Device]:
    import yaml

    text = Path(__file__).with_name("devices.yaml").read_text(encoding="utf-8")
    groups = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {
        name: Device(
            name,
            row["label"],
            group["kind"],
            row["total_mib"] * MIB,
            None if row["usable_mib"] is None else row["usable_mib"] * MIB,
            row.get("source", group["source"]),
            row.get("confidence", group["confidence"]),
        )
        for group in groups
        for name, row in group["devices"].items()
    }


def catalogue() -> list[Device]:
    """All devices, those without a published limit included."""
    return list(_devices().values())


def find(name: str) -> Device:
    """The device of a name (``rtx-4090`` or ``RTX 4090``); its ``usable_bytes`` are known.

    Raises ``InputError`` for an unknown name and for a device without a published limit.
    """
    devices = _devices()
    key = "-".join(name.lower().replace("_", " ").split())
    if key not in devices:
        raise InputError(
            f"unknown device '{name}'{nearest(key, devices)}; `estimator devices` lists them, "
            "or give --budget 24GiB in its place"
        )
    device = devices[key]
    if device.usable_bytes is None:
        raise InputError(
            f"device '{key}': the vendor publishes no limit for one application ({device.source}); "
            "give --budget in place of the device"
        )
    return device
