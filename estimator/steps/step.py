"""A step of a plan: its model in a ledger, and its procedure run on it (``docs/how-it-works.md``)."""

from __future__ import annotations

from functools import partial

from ..ledger import Ledger, Size
from ..programs import Method, Sizes, Step
from ..programs.libraries import without_collector
from .loop import Loop, Model
from .loop import StepTotals as StepTotals
from .played import run_played


@without_collector()
def run(
    step: Step,
    sizes: Sizes,
    method: Method,
    batch: Size,
    seq: Size,
    symbolic: bool = False,
    keep_rows: bool = False,
    ledger: Ledger | None = None,
) -> StepTotals:
    """Run one step with a ledger, and read its totals."""
    ledger = ledger or step.ledger(symbolic=symbolic, keep_rows=keep_rows)
    ledger.sequences = batch if step.packing else 0
    if step.is_played:
        return run_played(step, sizes, method, batch, seq, ledger)
    loop = Loop(ledger, step)
    model = loop.models["model"] = Model(ledger, step, sizes, method, batch, seq)
    step.procedure.add_models(loop, partial(Model, ledger, step, sizes, batch=batch, seq=seq))
    loop.trained = model.trained
    loop.note_states()
    return loop.run(step.procedure)
