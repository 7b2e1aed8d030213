"""The builds of llama.cpp that the rules here are for, and where they differ.

llama.cpp changes daily, and its buffers with it: the compute buffer of Gemma 3 270M has 514.50 MiB in one of these
builds and 536.27 MiB in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Build:
    """One build. Each switch is something that not every build does."""

    name: str
    source: str
    embeddings_pinned: bool = True
    """The graph always has an input for embeddings in place of tokens (January 2026, pull request 18550)."""
    mixed_inputs: bool = False
    """The graph has inputs for a batch that mixes tokens and embeddings, and Gemma scales embeddings row by row."""
    states_at_once: bool = False
    """The states of all sequences are gathered in one operator (``build_rs``)."""
    early_rows: bool = False
    """gpt-oss drops the rows without logits within its last layer, as other models do, not after it."""
    pipelines: tuple[str, ...] = ("cuda", "vulkan", "metal", "rpc")
    """Backends with asynchronous copies and events. Where all devices have them, several batches are under way."""
    output_first: bool = True
    """Of the layers on devices the output is the first (pull request 14655). Else it is the last."""
    float_mask: bool = False
    """The mask is float32 and padded to 64 tokens; flash attention gets a float16 copy."""


BUILDS: Mapping[str, Build] = {
    build.name: build
    for build in (
        Build(
            "2025",
            "public logs of builds of 2025",
            embeddings_pinned=False,
            pipelines=("cuda",),
            output_first=False,
            float_mask=True,
        ),
        Build("0c1e57098", "llama-cpp-python 0.3.36"),
        Build("b11739", "llama-cpp-py-sync 0.11739", mixed_inputs=True, states_at_once=True, early_rows=True),
    )
}
