"""The parts of a process at its peak, and numbers in few figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .result import Result


def figures(value: float, decimals: int = 0) -> str:
    """A number for people: ``decimals`` from ten upwards, two significant figures below."""
    if value >= 9.95 or value <= 0:
        return f"{value:.{decimals}f}"
    return f"{value:.{max(1 - math.floor(math.log10(value)), 0)}f}"


OUTSIDE_TENSORS = "allocator, kernels and libraries"


def process_parts(result: Result, gradients_alive: bool = False) -> dict[str, int]:
    """The parts of a process at its peak, in bytes, whose sum is the process.

    In the loss's backward all saved activations are live except the labels, so they are a part that is exact to 8 bytes
    per token. In the blocks' backward, activations are freed as gradients are made, so both are one part. With
    ``gradients_alive``, gradients exist from the start (gradient accumulation).
    """
    sizes = result.bytes
    parts = {"parameters": sizes["parameters"] + sizes["buffers"], "optimizer states": sizes["optimizer"]}
    rest = sizes["peak_above_resident"]
    if gradients_alive or result.peak_at == "optimizer step":
        parts["gradients"] = sizes["gradients"]
        rest -= sizes["gradients"]
    if result.peak_at == "loss backward":
        parts["saved activations"] = sizes["saved"]
        parts["temporaries and logits"] = rest - sizes["saved"]
    elif result.peak_at == "optimizer step":
        parts["temporaries and logits"] = rest
    else:
        parts["activations, gradients and temporaries"] = rest
    parts[OUTSIDE_TENSORS] = sizes["process"] - sizes["peak"]
    return parts
