"""A forward pass over whole prompts (prefill), as ``estimator/witnesses/measure.py: _Prefill`` runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ..ledger import Ledger
from ..programs import Procedure
from ..programs.attention_functions import Cache
from .loop import Loop


@dataclass(frozen=True)
class Prefill(Procedure):
    """``model.eval()`` under ``torch.inference_mode()``. The batch and the output are held.

    The output is the logits [B, S, V] of all positions and, perhaps, the cache. A loop that gives each output the same
    name (``Step.previous_output``) has that of the forward pass before, too.
    """

    trains: bool = field(default=False, kw_only=True)
    layer_by_layer: ClassVar[bool] = True

    def phases(self, loop: Loop) -> Iterator[str]:
        model = loop.model
        infer(loop.ledger)
        yield "forward"
        loop.settle(lambda: model(model.batch()))
        previous = model(model.batch()) if loop.step.previous_output else None
        batch = model.batch()
        out = model(batch)
        del previous
        loop.kv_cache = sum((part.nbytes for part in out if isinstance(part, Cache)), 0)
        batch.pop("attention_mask", None)
        yield "end"


def infer(ledger: Ledger) -> None:
    """Enter ``model.eval()`` and ``torch.inference_mode()``."""
    ledger.grad_enabled = ledger.training = False
    ledger.inference_mode = True
