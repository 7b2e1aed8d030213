"""A training step by backpropagation: forward, backward, update, ``zero_grad``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..ledger import backward
from ..programs import Procedure
from .loop import Loop, zero_grad


@dataclass(frozen=True)
class Train(Procedure):
    """Where the step before left something behind, forward and backward run twice: the second run finds it."""

    runs_backward: ClassVar[bool] = True
    layer_by_layer: ClassVar[bool] = True

    def phases(self, loop: Loop) -> Iterator[str]:
        ledger, step, model = loop.ledger, loop.step, loop.model
        if loop.optimizer.in_backward:
            ledger.gradient_hooks = loop.optimizer
        else:
            loop.note_gradients()
        # The second run stands for all later micro-batches or steps: what the one before left behind is live in it.
        passes = 2 if step.gradients_alive or step.previous_output else 1
        for again in range(passes):
            if again and not step.gradients_alive:
                zero_grad(loop.trained)
            yield "forward"
            batch = model.batch()
            out = model(batch)
            if not step.keep_logits:
                out = out[:1]
            loop.note_saved()
            yield "backward"
            model.scope.before_backward(last=again + 1 == passes or not step.gradients_alive)
            backward(ledger, out[0])
            if step.drop_output_before_step:
                del out
        yield "update"
        loop.update()
        yield from loop.end(batch)
