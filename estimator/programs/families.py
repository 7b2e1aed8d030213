"""A model made of modules in a ledger: from its program, or litgpt's, which is written by hand."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .module_table import ModuleTable, written_out
from .modules import Builder
from .recorded import RecordedSizes
from .sizes import Sizes


def model_of(build: Builder, sizes: Sizes | RecordedSizes) -> Any:
    """A model with these sizes: of a program where the sizes are a recorded model's, else litgpt's GPT."""
    if isinstance(sizes, RecordedSizes):
        from .interpreter import RecordedCausalLM

        return RecordedCausalLM(build, sizes)
    from .litgpt import GPT, LitSizes

    assert isinstance(sizes, LitSizes)
    return GPT(build, sizes)


@lru_cache(maxsize=8)
def module_table(c: Sizes, layers: int) -> ModuleTable:
    """The modules of litgpt's GPT with so many layers. ``c`` are numbers; its runs are not used."""
    from .litgpt import GPT, LitSizes

    assert isinstance(c, LitSizes)
    return ModuleTable(written_out(GPT.modules(c), layers))
