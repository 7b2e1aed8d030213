"""What training files say of images: their size, and what is frozen. How many there are is in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isqrt

from ..errors import InputError
from ..plans.models import load
from .settings import Ignored, Settings

_LEFT_OPEN = (
    "the file leaves the number and the sizes of a row's images to the data: one{} in each row here; give images and "
    "image_size for others"
)


def sees(settings: Settings, *names: str) -> bool:
    """Whether one of these keys is there, and the model looks at images. Without a tower they have no effect."""
    there = [name for name in settings.present() if name in names]
    if not there:
        return False
    with suppress(InputError):  # said where the plan is read
        spec = load(settings.reading.plan["model"]) if "model" in settings.reading.plan else None
        if spec is not None and "vision_config" not in (spec.whole or spec.raw):
            for name in there:
                settings.value(name)
                settings.reading.ignored.append(Ignored(name, "the model looks at no images"))
            return False
    return True


def of_one_side(settings: Settings, side: int | None, why: str, *names: str) -> None:
    """A square image in each row, of this side where the tool makes them no larger."""
    if side is not None:
        settings.say("image_size", [side, side], *names)
    settings.reading.assume("images", 1, _LEFT_OPEN.format(why))
    if settings.reading.plan.pop("run", None):
        settings.reading.note("run", None, "loading, evaluation and saving have no rules with images yet")


def side_of(pixels: int | None, settings: Settings, name: str) -> int | None:
    """The side of the largest square of so many pixels."""
    if pixels is not None and not 0 < pixels < 10**9:
        settings.problem("image_size", name, "is no number of pixels")
        return None
    return None if pixels is None else isqrt(pixels)


def frozen(settings: Settings, parts: Mapping[str, tuple[str, bool]]) -> Sequence[str]:
    """Set the parts of the model that the file freezes: by the plan's name of each the file's key and its default."""
    found = [part for part, (name, default) in parts.items() if settings.flag(name, default=default)]
    if found:
        settings.say("freeze", found, *(name for part, (name, _) in parts.items() if part in found))
    return found
