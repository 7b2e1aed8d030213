"""The builds of the engine that the rules were read from, and where they differ.

llama.cpp changes daily and its buffers with it: Gemma 3 270M takes 514.50 MiB of compute buffer in one of these
and 536.27 MiB in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Build:
    """One build: what its rules do that another's do not."""

    name: str
    source: str
    mixed_inputs: bool
    """A batch may mix tokens and embeddings; the inputs for it are reserved always (``build_inp_embd``)."""


BUILDS: Mapping[str, Build] = {
    build.name: build
    for build in (
        Build("0c1e57098", "llama-cpp-python 0.3.36", mixed_inputs=False),
        Build("b11739", "llama-cpp-py-sync 0.11739", mixed_inputs=True),
    )
}
DEFAULT = "0c1e57098"
"""The build of llama-cpp-python's release, which most Python programs run."""
