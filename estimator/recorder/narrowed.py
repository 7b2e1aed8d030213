"""A model with one process's part of the weights that a plan of transformers splits between its modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..programs.split import Split


@contextmanager
def narrowed(model: Any, split: Split) -> Iterator[None]:
    """Within it a model on the meta device runs with parts of its weights.

    A module of the plan whose inputs and outputs are whole keeps its own. So tensors between modules have the sizes
    that they have in a process.
    """
    own = {name: p for name, p in model.named_parameters(remove_duplicate=False) if not split.is_whole(name)}
    try:
        for name, p in own.items():
            part = torch.empty(split.part(name, tuple(p.shape)), dtype=p.dtype, device="meta")
            _put(model, name, torch.nn.Parameter(part, requires_grad=p.requires_grad))
        yield
    finally:
        for name, p in own.items():
            _put(model, name, p)


def _put(model: Any, name: str, p: Any) -> None:
    path, _, own = name.rpartition(".")
    model.get_submodule(path)._parameters[own] = p
