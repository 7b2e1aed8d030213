"""A training step that the user wrote, run from its recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..programs import Procedure
from ..programs.event_loop import EventLoop, Frame
from ..programs.program import Backward, Program
from .loop import Loop


@dataclass(frozen=True)
class OwnStep(Procedure):
    """A recorded step, of no model by itself. Saved bytes are those of all its forward passes."""

    program: Program
    states: frozenset[str]
    """Names of what the step before has left."""

    def phases(self, loop: Loop) -> Iterator[str]:
        ledger, program = loop.ledger, self.program
        recorded = EventLoop(ledger)
        for p in program.parameters:
            recorded.weights[p.name] = ledger.parameter(p.name, p.shape, p.dtype, p.requires_grad)
        for tensor in program.attributes:
            on_host = not tensor.shape  # a step count, which an optimizer keeps on the host
            if tensor.name in self.states:
                made = ledger.attribute(tensor.shape, tensor.dtype, host=on_host)
                made.storage.saved = True
                loop.states = loop.states + made.storage.nbytes
            else:
                made = ledger.buffer(tensor.shape, tensor.dtype, host=on_host)
            recorded.weights[tensor.name] = made
        yield "forward"
        ledger.scope, ledger.phase = "step", "forward"
        recorded.start()
        events, frame = program.before, Frame()
        last = max(i for i, event in enumerate(events) if isinstance(event, Backward))
        recorded.run(events, 0, last + 1, frame)
        yield "update"
        ledger.scope = "optimizer"
        recorded.run(events, last + 1, len(events), frame)
        loop.trained = [p for p in ledger.parameters if p.requires_grad]
        loop.gradients = sum((p.nbytes for p in loop.trained if p.name in recorded.trained), 0)
        loop.saved = ledger.saved
        yield "end"
