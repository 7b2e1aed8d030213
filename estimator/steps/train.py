"""A training step by backpropagation: forward, backward, update, ``zero_grad``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

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
        # What a micro-batch or the step before left behind is live in a later run.
        passes = max(step.micro_batches, 1 + step.previous_output)
        out: Any = None
        batch: Any = None
        for again in range(passes):
            loop.sent.append(model.scope.communicated)
            if again and step.micro_batches == 1:
                zero_grad(loop.trained)
            yield "forward"
            batch = model.batch()
            out = model(batch)
            if not step.keep_logits:
                out = out[:1]
            loop.note_saved()
            yield "backward"
            model.scope.before_backward(last=again + 1 == passes or step.micro_batches == 1)
            backward(ledger, out[0])
            if step.drop_output_before_step:
                del out
        yield "update"
        loop.update()
        yield from loop.end(batch)
