"""Keys of LoRA and of quantised bases, as tools name them, as a plan's method block and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from .settings import Settings


def block(
    settings: Settings, method: str, names: Mapping[str, str], also: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The block of a method. ``names`` are the tool's keys by PEFT's; ``also`` are keys that the tool sets.

    ``target_modules`` of all, all-linear or a list with one of them alone mean PEFT's all-linear.
    """
    found: dict[str, Any] = {"name": method, **(also or {})}
    for key, name in names.items():
        value: Any = None
        if key in ("r", "oft_block_size"):
            value = settings.whole(name)
        elif key in ("lora_alpha", "lora_dropout"):
            value = settings.number(name)
        elif key in ("target_modules", "modules_to_save", "exclude_modules", "target_parameters"):
            value = _targets(settings, name)
        elif key in ("use_dora", "use_rslora"):
            value = True if settings.flag(name) else None
        else:
            value = settings.value(name)
        if value is not None:
            found[key] = value
            settings.reading.said_by[key] = settings.prefix + name
    for key, value in (also or {}).items():
        if key not in settings.reading.said_by:
            settings.reading.note(key, value, f"a default of {settings.reading.tool}")
    return found


def _targets(settings: Settings, name: str) -> Any:
    text = settings.raw(name)
    if isinstance(text, str) and any(mark in text for mark in "\\^$*+?()[]|"):
        return settings.text(name)  # a regular expression
    found = settings.names(name)
    return "all-linear" if found in (["all"], ["all-linear"], ["all_linear"]) else found


def bits(settings: Settings) -> int | None:
    """4 or 8 by ``load_in_4bit`` and ``load_in_8bit``; ``None`` for neither. Raises ``InputError`` for both."""
    four, eight = settings.flag("load_in_4bit"), settings.flag("load_in_8bit")
    if four and eight:
        raise InputError(f"{settings.where}: load_in_4bit and load_in_8bit are both true; keep one of them")
    return 4 if four else 8 if eight else None


def bitsandbytes(
    settings: Settings,
    width: int,
    name: str,
    compute: str,
    double: bool,
    kind: str = "nf4",
    storage: str | None = None,
) -> None:
    """A base that bitsandbytes quantises: the plan's dtype and what goes with it.

    ``name`` is the file's key that says so, ``compute`` the dtype of products (``bnb_4bit_compute_dtype``), ``storage``
    that of packed weights, where it is not bitsandbytes' own (``bnb_4bit_quant_storage``).
    """
    settings.say("dtype", kind if width == 4 else "int8", name)
    if width == 4:
        settings.say("double_quant", double, name)
        settings.say("compute_dtype", compute, name)
        if storage is not None:
            settings.say("quant_storage", storage, name)
