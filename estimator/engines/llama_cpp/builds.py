"""The builds of the engine that the rules were read from, and where they differ.

llama.cpp changes daily and its buffers with it: Gemma 3 270M takes 514.50 MiB of compute buffer in one of these
and 536.27 MiB in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Build:
    """One build: what its rules do that another's do not."""

    name: str
    source: str
    embeddings_pinned: bool = True
    """An input for embeddings in place of tokens is reserved always, from January 2026 on (pull request 18550)."""
    mixed_inputs: bool = False
    """A batch may mix tokens and embeddings; the inputs for it are reserved too, and Gemma scales row by row."""
    states_at_once: bool = False
    """All sequences' states are gathered at once and then parted (``build_rs``)."""
    early_rows: bool = False
    """gpt-oss drops rows without logits in its last layer like the others, not after it."""
    float_mask: bool = False
    """The mask is float32 and padded to 64 tokens; flash attention gets a float16 copy of it."""


BUILDS: Mapping[str, Build] = {
    build.name: build
    for build in (
        Build("2025", "public logs of builds of 2025", embeddings_pinned=False, float_mask=True),
        Build("0c1e57098", "llama-cpp-python 0.3.36"),
        Build("b11739", "llama-cpp-py-sync 0.11739", mixed_inputs=True, states_at_once=True, early_rows=True),
    )
}
