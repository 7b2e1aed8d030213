"""Records the programs of a structure: those for all settings, and what they do not serve, by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..programs import family_recorder
from ..programs.family import Family
from ..programs.family_recorder import Setting
from ..programs.program_files import read, written
from ..programs.shipped import is_served
from .agreement import settings_served


def record(raw: Mapping[str, Any], settings: Sequence[Setting] | None = None) -> dict[Setting, Family | InputError]:
    """The programs of a config's structure, or why there is none. Needs PyTorch.

    ``settings``, by default those that programs are shipped for, have programs of their own where those for all
    settings do not serve them.
    """
    found: dict[Setting, Family | InputError] = {}
    if family_recorder.has_interfaces():
        found = family_recorder.record_for_all_settings(raw, settings_served)
    families = [one for one in found.values() if isinstance(one, Family)]
    dtype = families[0].program.dtype if families else ""
    alone = [
        setting
        for setting in (family_recorder.settings_of(raw) if settings is None else settings)
        if not families or not is_served(family_recorder.asked(setting, families[0]), setting.dtype or dtype, families)
    ]
    found = (found if families else {}) | family_recorder.record_families(raw, alone)
    return {setting: one if isinstance(one, InputError) else _readable(one) for setting, one in found.items()}


def _readable(family: Family) -> Family | InputError:
    """The family, or why it cannot be read from a file."""
    try:
        read(written(family), "the program")
    except InputError as error:
        return error
    return family
