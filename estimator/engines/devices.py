"""Devices by name: how much memory they have, how much of it one application can use, and the sources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest, options
from ..text import human
from .assumptions import Assumption
from .this_machine import look

MIB = 2**20
THIS = "this"
"""The name of the device that is this machine."""
DEFAULT_GPU = "a100-80gb"
"""The device that a plan on torch-cuda is taken to mean where it names none: for kernels and the CUDA context."""


@dataclass(frozen=True, repr=False)
class Device:
    """A device of the catalogue (``devices.json``). Sizes are bytes."""

    name: str
    label: str
    kind: str
    total_bytes: int
    """What the driver (``nvidia-smi``) or the operating system reports."""
    usable_bytes: int
    """What one application can use. On a GPU that is what the driver and the other processes of an idle card leave,
    for the CUDA context, the kernels and the allocator together."""
    assumed: str | None
    """Why ``usable_bytes`` is assumed to be this; ``None`` where somebody published or measured it."""
    source: str
    confidence: str
    capability: tuple[int, int] | None
    """CUDA compute capability; ``None`` for a device without CUDA."""
    context_bytes: int | None
    """Published size of the CUDA context and loaded kernels of a torch process; see ``context_bytes``."""
    context_source: str | None
    counts: str
    """Which memory the operating system counts before it kills an application: ``dirty`` pages only; pages that are
    ``used`` again, since it first drops clean pages that are not; or ``all`` resident pages."""
    system_bytes: int
    """What the system keeps of the RAM, where ``usable_bytes`` limits dirty memory only and clean pages need room, too.
    Zero elsewhere, since ``usable_bytes`` leaves the system's part out."""
    system_assumed: str | None
    """Why ``system_bytes`` is an assumption."""
    entitled_bytes: int | None
    """iOS: the limit of an app with the increased-memory-limit entitlement, measured by third parties."""
    entitled_assumed: str | None
    """Why ``entitled_bytes`` is an assumption, where it is one."""
    also: tuple[str, ...]
    """Names that drivers print and that ``find`` cannot derive from the device's name."""

    def __repr__(self) -> str:
        return f"Device(name={self.name!r}, kind={self.kind!r}, usable={human(self.usable_bytes)!r})"

    @property
    def maker(self) -> str:
        """The first word of its label."""
        return self.label.split()[0]

    @property
    def is_card(self) -> bool:
        """Whether its memory is a card's own, not the system's."""
        return self.kind.startswith("GPU") or self.kind == "accelerator"

    @property
    def is_apple(self) -> bool:
        """Whether it has Apple's GPU."""
        return self.kind in ("Apple silicon", "iPhone", "iPad")

    @property
    def is_phone(self) -> bool:
        """Whether it is a phone or a tablet, whose system limits each app."""
        return self.kind in ("iPhone", "iPad", "Android phone")

    @property
    def ram(self) -> int | None:
        """Where dirty memory alone is limited: the RAM that mapped weights must find room in, too."""
        return self.total_bytes - self.system_bytes if self.counts == "dirty" else None


@cache
def _rows() -> dict[str, dict[str, Any]]:
    """The catalogue's rows by the devices' names, each with its group."""
    groups = json.loads(Path(__file__).with_name("devices.json").read_text(encoding="utf-8"))["groups"]
    return {
        name: {**row, "group": group}
        for group in groups
        for first, each in group["devices"].items()
        for name, row in _sold(first, each)
    }


def _sold(name: str, row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A phone that is sold with several sizes of RAM, with each, the least under its plain name; others as they are."""
    if "ram_gb" not in row:
        yield name, row
    for gigabytes in row.get("ram_gb", ()):
        one = {**row, "label": f"{row['label']}, {gigabytes} GB", "total_mib": 1024 * gigabytes}
        yield (name if gigabytes == row["ram_gb"][0] else f"{name}-{gigabytes}gb"), one


@cache
def _device(name: str) -> Device:
    """A device from its row in the catalogue. ``like`` names another, whose driver's share of the memory it takes."""
    row = _rows()[name]
    group, total, source = row["group"], row["total_mib"], row.get("source", row["group"]["source"])
    confidence, assumed = row.get("confidence", group["confidence"]), row.get("assumed", group.get("assumed"))
    if "logs" in row:
        source += f"; {_logs(row['logs'])}"
    if "like" in row:
        other = _rows()[row["like"]]
        usable = total - (other["total_mib"] - other["cuda_mib"]) - group["idle_mib"]
        confidence = f"{row.get('confidence', 'total verified')}; reserve as on {row['like']}"
    elif "cuda_mib" in row:
        usable = row["cuda_mib"] - group["idle_mib"]
    elif "usable_share" in group:
        usable = int(group["usable_share"] * group["memtotal_share"] * total)
    else:
        usable = row["usable_mib"]
    if assumed is not None and "assumed" not in confidence:
        confidence += "; limit assumed"
    context, entitled = row.get("context_mib"), row.get("entitled_mib")
    # Where dirty memory alone counts, the system keeps what even the largest known limit does not let an app have.
    dirty = group.get("counts") == "dirty"
    return Device(
        name,
        row["label"],
        group["kind"],
        total * MIB,
        usable * MIB,
        assumed,
        source,
        confidence,
        capability(row["capability"]) if "capability" in row else None,
        None if context is None else int(context * MIB),
        row.get("context_source"),
        group.get("counts", "all"),
        (total - max(usable, entitled or 0)) * MIB if dirty else 0,
        group.get("system_assumed"),
        None if entitled is None else entitled * MIB,
        group.get("entitled_assumed"),
        tuple(row.get("also", ())),
    )


def _logs(text: str) -> str:
    """A row's ``logs`` in words: how many, what a single one is about, and issues on GitHub. Numbers are left out."""
    count = len(re.findall(r"\b\d{7,}\b", text))
    found = ["no public log of its own", "one public log"][count] if count < 2 else f"{count} public logs"
    of = re.findall(r"\((.*)\)", text) if count == 1 else []
    return ", ".join([found, *of, *re.findall(r"[\w.-]+/[\w.-]+#\d+", text)])


def capability(text: str) -> tuple[int, int]:
    """A CUDA compute capability as in ``8.9``. Raises ``InputError``."""
    found = re.fullmatch(r"(\d+)\.(\d)", text.strip())
    if not found:
        raise InputError(f"'{text}' is no compute capability; write it like 8.0")
    return int(found[1]), int(found[2])


def catalogue() -> list[Device]:
    """All devices."""
    return list(map(_device, _rows()))


_MAKERS = frozenset({
    "nvidia", "geforce", "tesla", "amd", "radeon", "instinct", "intel", "google", "samsung", "rtx", "gtx", "rx",
    "jetson", "gpu", "graphics", "generation", "blackwell", "edition", "ac",
})  # fmt: skip
"""Words in drivers' names that do not distinguish devices of the catalogue."""

_VARIANTS = frozenset({"sxm", "pcie", "nvl", "hbm", "ada", "pro", "quadro", "server", "workstation", "5g"})
"""Words that people leave out. A name without them is ambiguous only where the catalogue has several variants."""


def _spoken(text: str) -> str:
    """A name in small letters: ``Galaxy S24+`` as ``galaxy s24 plus``, ``Apple iPhone 16`` as ``iphone 16``."""
    return re.sub(r"^apple[\s-]+(?=i)", "", text.lower().strip()).replace("+", " plus")


def _parts(text: str) -> tuple[str, frozenset[str]]:
    """A name's model (``4090ti``) and its variant words: form, series and memory size (``{"pcie", "80gb"}``)."""
    model, variant = "", set()
    for token in re.findall(r"[a-z0-9/]+", re.sub(r"(\d)\s+(gi?b)\b", r"\1\2", _spoken(text))):
        if size := re.fullmatch(r"(\d+)gi?b", token):
            variant.add(f"{size[1]}gb")
            continue
        token = re.sub(r"^(sxm|hbm)\d+e?$", r"\1", token)
        for word in [token] if token in _VARIANTS else re.findall(r"[a-z]+|\d+|/", token):
            if word in _VARIANTS:
                variant.add(word)
            elif word not in _MAKERS:
                model += word
    return model, frozenset(variant)


@cache
def _models() -> dict[str, list[tuple[Device, frozenset[str]]]]:
    """Devices by model (as in ``_parts``), each with all its variant words."""
    models: dict[str, list[tuple[Device, frozenset[str]]]] = {}
    for device in catalogue():
        words = _parts(device.name)[1] | _parts(device.label)[1]
        for model in {_parts(name)[0] for name in (device.name, device.label, *device.also)}:
            models.setdefault(model, []).append((device, words))
    return models


@lru_cache(maxsize=1024)
def find(name: str) -> Device:
    """The device of a name: ``rtx-4090``, ``RTX 4090``, ``4090`` or what ``torch.cuda.get_device_name`` prints
    (``NVIDIA GeForce RTX 4090``, ``NVIDIA A100-SXM4-80GB``). ``this`` is what is here: see ``this_machine``. A card's
    name with another size is that card with other memory: ``rtx-2080-ti 22GB``.

    Raises ``InputError`` for an unknown name and for one that several devices share (``A100``). Of a phone that is sold
    with several sizes of RAM, a name without one is the phone with the least.
    """
    plain = re.sub(r"[^a-z0-9]", "", _spoken(name))
    if plain == THIS:
        return _here()
    exact = next((one for one in _rows() if one.replace("-", "") == plain), None)
    device = None if exact is None else _device(exact)
    if device is None:
        model, variant = _parts(name)
        found = [(one, words) for one, words in _models().get(model, ()) if variant <= words]
        close = [one for one, _ in found]
        if close and all(one.is_phone for one in close):  # fewest words left out, the least RAM that it is sold with
            close = [min(found, key=lambda pair: (len(pair[1]), pair[0].total_bytes))[0]]
        if not close:
            close = _with_memory(model, variant)
        if len(close) > 1:
            raise InputError(
                f"device '{name}' may be {', '.join(one.name for one in close)}; name one of them, "
                f"or give {options({'budget': '24GiB'})} in its place"
            )
        if not close:
            raise InputError(
                f"unknown device '{name}'{hint(name)}; `estimator devices` lists them, "
                f"or give {options({'budget': '24GiB'})} in its place"
            )
        device = close[0]
    return device


def _with_memory(model: str, variant: frozenset[str]) -> list[Device]:
    """A card with other memory than it is sold with, as in ``rtx-2080-ti 22GB``; none where several cards are meant.

    The driver is assumed to keep as many bytes as on the card that is sold. vllm-project/vllm#2140 has one such card:
    21.67 GiB of 22 as PyTorch prints it, of which 21.56 are usable by this rule.
    """
    sizes = {word for word in variant if re.fullmatch(r"[0-9]{1,4}gb", word)}
    found = [one for one, words in _models().get(model, ()) if variant - sizes <= words]
    if len(sizes) != 1 or len(found) != 1 or not found[0].is_card:
        return []
    (card,), (size,) = found, sizes
    total = int(size.removesuffix("gb")) * 1024 * MIB
    usable = total - (card.total_bytes - card.usable_bytes)
    why = f"a {card.label} is taken to have {human(total)}, and its driver to keep as much as on the card that is sold"
    name, label = f"{card.name}-{size}", f"{card.label}, with {human(total)}"
    changed = replace(card, name=name, label=label, total_bytes=total, usable_bytes=usable, assumed=why)
    return [replace(changed, confidence="memory as asked; limit assumed")] if usable > 0 else []


def _here() -> Device:
    """The device ``this``. Raises ``InputError``."""
    found = look()
    usable = found.free
    if found.kind == "Apple silicon":  # the nearest Mac's share, where its user has set none
        macs = [one for one in catalogue() if one.kind == found.kind]
        like = min(macs, key=lambda one: abs(one.total_bytes - found.total))
        usable = min(usable, found.limit or found.total * like.usable_bytes // like.total_bytes)
    held = human(found.total - found.free)
    why = f"{human(found.free)} of {human(found.total)} are free now; others hold {held}, and may take more"
    known = found.label, found.kind, found.total, usable, why, found.source, "measured here", found.capability
    return Device(THIS, *known, None, None, "used" if found.kind == "laptop" else "all", 0, None, None, None, ())


def whole_numbers(text: str) -> re.Pattern[str]:
    """A pattern of a text that cuts through no number: ``h20`` is no part of ``h200``, nor ``80`` of ``4080``."""
    before, after = (r"(?<![0-9])" if text[:1].isdigit() else ""), (r"(?![0-9])" if text[-1:].isdigit() else "")
    return re.compile(f"{before}{re.escape(text)}{after}", re.IGNORECASE)


def hint(name: str) -> str:
    """A hint with devices that have the text in their name, or in their model, or whose names are spelled alike."""
    spelled, (model, _) = "-".join(_spoken(name).replace("_", " ").split()), _parts(name)
    close = [one for one in _rows() if len(spelled) > 1 and spelled in one]
    if not close and len(model) > 1:
        part = whole_numbers(model)
        close = [one.name for other, found in _models().items() if part.search(other) for one, _ in found]
    return f" (did you mean {', '.join([*dict.fromkeys(close)][:4])}?)" if close else nearest(spelled, _rows())


def limit_of(device: Device, entitled: bool = False) -> int:
    """Bytes that the system lets one application have. ``entitled``: an iOS app that has the increased-memory-limit
    entitlement.
    Only a device whose limit with it is known is asked so (``refusals.py``).
    """
    if not entitled:
        return device.usable_bytes
    assert device.entitled_bytes is not None
    return device.entitled_bytes


def assumptions(device: Device, entitled: bool = False, budget: bool = False) -> tuple[Assumption, ...]:
    """What the result of ``limit_of`` is assumed from; nothing where a ``budget`` is given in its place."""
    why = device.entitled_assumed if entitled else device.assumed
    if why is None or budget:
        return ()
    instead = "in place of the entitlement" if entitled else "beside the device"
    why = f"{why}. {device.source}. A budget {instead} replaces it"
    return (Assumption("device", limit_of(device, entitled), why),)


def context_bytes(device: Device) -> tuple[int, str]:
    """Bytes of the CUDA context and loaded kernels of one PyTorch process on a device, and the source of the figure.

    They are outside PyTorch's allocator. Where no figure is published for the device, the nearest device's is taken:
    nearest in the compute capability's first number (the architecture), then in its second, then in total memory.
    The source says so. Raises ``InputError`` for a device without CUDA.
    """
    own = device.capability
    if own is None:
        raise InputError(f"device '{device.name}' has no CUDA context: it is no CUDA device")

    def distance(other: Device) -> tuple[int, int, int]:
        assert other.capability is not None  # a figure is of a CUDA device
        major, minor = other.capability
        return abs(major - own[0]), abs(minor - own[1]), abs(other.total_bytes - device.total_bytes)

    best = min((_device(name) for name, row in _rows().items() if "context_mib" in row), key=distance)
    assert best.context_bytes is not None
    if best.name == device.name:
        return best.context_bytes, f"{best.context_source}"
    away = distance(best)
    what = "same capability" if away[:2] == (0, 0) else "same architecture" if away[0] == 0 else "nearest architecture"
    return best.context_bytes, f"as on {best.name}, {what}: {best.context_source}"
