"""A training step that the user wrote, run from its recording."""

from __future__ import annotations

from collections.abc import Collection

from ..ledger import Ledger, Size
from ..programs.interpreter import Frame, Recorded
from ..programs.program import Backward, Program
from .step import StepTotals, read_totals


def run(ledger: Ledger, program: Program, states: Collection[str]) -> StepTotals:
    """The totals of a recorded step. ``states`` are the names of what the step before has left.

    Saved bytes are those of all forward passes of the step.
    """
    recorded = Recorded(ledger)
    for p in program.parameters:
        recorded.weights[p.name] = ledger.parameter(p.name, p.shape, p.dtype, p.requires_grad)
    optimizer: Size = 0
    for tensor in program.attributes:
        on_host = not tensor.shape  # a step count, which an optimizer keeps on the host
        if tensor.name in states:
            made = ledger.attribute(tensor.shape, tensor.dtype, host=on_host)
            made.storage.saved = True
            optimizer = optimizer + made.storage.nbytes
        else:
            made = ledger.buffer(tensor.shape, tensor.dtype, host=on_host)
        recorded.weights[tensor.name] = made
    ledger.mark("forward")
    ledger.scope, ledger.phase = "step", "forward"
    recorded.start()
    events, frame = program.before, Frame()
    last = max(i for i, event in enumerate(events) if isinstance(event, Backward))
    recorded.run(events, 0, last + 1, frame)
    ledger.mark("update")
    ledger.scope = "optimizer"
    recorded.run(events, last + 1, len(events), frame)
    trained = [p for p in ledger.parameters if p.requires_grad]
    ledger.mark("end")
    gradients = sum((p.nbytes for p in trained if p.name in recorded.trained), 0)
    return read_totals(ledger, trained, optimizer, gradients, ledger.saved)
