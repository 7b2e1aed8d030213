"""How tokens choose experts in a measured step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from estimator.recorder.calls.data import Routing, chosen


@contextmanager
def routed(routing: Routing = "balanced") -> Iterator[None]:
    """Within it ``topk`` gives the indices that estimates with this ``routing`` take for granted.

    Where a class runs its experts one by one, its bytes depend on how many tokens each has. Values stay as they are.
    """
    indices: dict[Any, torch.Tensor] = {}  # made in the first step, and held: the measured one allocates nothing for it

    def with_indices(topk: Any) -> Any:
        def call(x: torch.Tensor, k: int, dim: int = -1, *args: Any, **kwargs: Any) -> Any:
            found = topk(x, k, dim, *args, **kwargs)
            key = (tuple(x.shape), k, dim)
            if key not in indices:
                indices[key] = chosen(x, found[1], dim, routing)
            found[1].data.copy_(indices[key])  # autograd does not see it
            return found

        return call

    def drawn(*size: Any, **keys: Any) -> torch.Tensor:
        return draw(*size, **keys) if [*size] != [[]] else torch.ones(())  # no layer is left out

    draw = torch.rand
    with (
        mock.patch.object(torch, "rand", drawn),
        mock.patch.object(torch, "topk", with_indices(torch.topk)),
        mock.patch.object(torch.Tensor, "topk", with_indices(torch.Tensor.topk)),
    ):
        yield
