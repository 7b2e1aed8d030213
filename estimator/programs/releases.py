"""The releases of transformers whose programs are shipped. Their modules call different functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..errors import InputError, shown

NEWEST: Final = "5.24"
"""The release whose programs answer where a plan names none."""


RELEASES = ("4.45", "4.48", "4.57", NEWEST)
"""The oldest first."""


def release_of(value: object) -> str:
    """A known release, from a version with or without its patch. Raises ``InputError``."""
    known = ", ".join(RELEASES)
    if not isinstance(value, str):
        raise InputError(f'transformers: write the release as a text, as in "4.48" with quotes; known are {known}')
    release = ".".join(value.split(".")[:2])
    if release not in RELEASES or not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?", value):
        raise InputError(f"transformers: release {shown(value)} is not modelled; known are {known}")
    return release


def installed_release(package: str = "transformers") -> str:
    """The release of an installed package, without its patch; empty where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # which takes longer than most answers need it for

    try:
        return ".".join(version(package).split(".")[:2])
    except PackageNotFoundError:
        return ""


def is_before(release: str) -> bool:
    """Whether the installed transformers is older than a release."""
    return is_older(installed_release() or NEWEST, release)


def is_older(release: str, other: str) -> bool:
    """Whether a release is older than another."""
    one, two = (tuple(int(part) for part in text.split(".")) for text in (release, other))
    return one < two


def dtype_keyword() -> str:
    """What ``from_config`` of the installed transformers calls the dtype of the weights."""
    return "torch_dtype" if is_before("4.56") else "dtype"


def with_its_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the keys that the installed transformers reads: before release 5 it has no ``rope_parameters``."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping) or not is_before("5"):
        return dict(config)
    found = {key: value for key, value in config.items() if key != "rope_parameters"}
    if isinstance(sliding := rope.get("sliding_attention"), Mapping):
        found["rope_local_base_freq"] = sliding.get("rope_theta", 10000.0)
        rope = rope.get("full_attention") or {}
    for key, names in _ROPE_KEYS.items():
        if rope.get(key) is not None:
            found |= dict.fromkeys(names, rope[key])
    scaling = {key: value for key, value in rope.items() if key not in _ROPE_KEYS}
    if scaling.get("rope_type", "default") != "default":
        found["rope_scaling"] = scaling
    return found


_ROPE_KEYS = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}
"""Keys of ``rope_parameters`` that were keys of the config, each by its names."""
