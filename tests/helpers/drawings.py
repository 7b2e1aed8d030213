"""Figures that commands draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread


def pixels(path: Path) -> Any:
    """A figure's pixels, [height, width, 3], from 0 to 255."""
    return (np.asarray(imread(path))[..., :3] * 255).round().astype(np.uint8)


def has_colour(path: Path, colour: str, at_least: int) -> bool:
    """Whether so many pixels have a colour, or nearly."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels(path).astype(int) - wanted).max(axis=2) < 8).sum()) > at_least
