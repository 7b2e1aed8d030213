"""A step whose model several processes share in a way in which equal layers differ: ZeRO's buckets span layers.

The step runs without sharing, of equal layers a few (``expansion.py``), and notes in a log where the way to share acts
(``sharding/noted.py``). Then the log of all layers is played on the ledger: each allocation is made and freed where it
was, and at what is noted the scope of the way to share acts. The optimizer runs on what that scope has it update.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..ledger import Called, Events, Ledger, SavedBy, SavedRow, Size, Storage, Tensor
from ..programs import Method, Sizes, Step
from ..programs.layer_runs import segments
from .checkpointing import segment_length
from .expansion import Expansion, NotPeriodic, renamed
from .loop import Loop, Model, StepTotals, parts_of, zero_grad
from .optimizers import updated
from .sharding.noted import Noted
from .sharding.scope import Parts, Scope


class _Log(NamedTuple):
    """The log of an unshared step with all layers, and what else is known of it."""

    events: Events
    parameters: Sequence[tuple[Tensor, str, int]]
    """What each parameter is like, its name, and the number of its allocation."""
    model: Model
    saved: Size
    buffer_bytes: Size
    rows: list[SavedRow]
    saved_by: list[SavedBy]


class _Shared(NamedTuple):
    """What a loop has at hand of a model that is played."""

    scope: Scope
    updated: Sequence[Tensor]
    method: Method


def run_played(step: Step, sizes: Sizes, method: Method, batch: Size, seq: Size, ledger: Ledger) -> StepTotals:
    """Play a step on a ledger, and read its totals."""
    logs = step, sizes, method, batch, seq, ledger
    if not (ledger.keep_rows or ledger.counts_work):
        with suppress(NotPeriodic):
            return _play(step, method, ledger, _log(*logs, outlined=True))
    return _play(step, method, ledger, _log(*logs, outlined=False))


def _log(step: Step, sizes: Sizes, method: Method, batch: Size, seq: Size, ledger: Ledger, outlined: bool) -> _Log:
    """Run the step without sharing, ``outlined`` with a few of equal layers. Raises ``NotPeriodic``."""
    events = Events(with_origins=True, outlines_loops=ledger.events is not None and ledger.events.outlines_loops)
    own = Ledger(ledger.device, ledger.symbolic, ledger.keep_rows, ledger.pinned, notes=ledger.notes, unrolled=True)
    own.outlined, own.events, own.counts_work, own.sequences = outlined, events, ledger.counts_work, ledger.sequences
    loop = Loop(own, step)
    model = loop.models["model"] = Model(own, step, sizes, method, batch, seq)
    noted = model.scope
    assert isinstance(noted, Noted)
    loop.run(step.procedure)
    ledger.work, ledger.work_before = own.work, own.work_before
    counts: dict[int, int] = {}
    found = [(p, p.name, p.storage.event) for p in own.parameters]
    log = events
    if outlined:
        length = segment_length(step.checkpointing) or 1
        outline = [(one.stands_for, len(one.layers)) for one in segments(sizes.runs, length, own)]
        expansion = Expansion(events, outline)
        end = events.marks["end"]
        expansion.play(0, end)
        with suppress(NotPeriodic):  # Python frees a deep graph in no order; what is left then is freed all the same
            expansion.play(end, len(events.order))
        counts = {segment: count for segment, (count, _) in enumerate(outline)}
        found = [(p, renamed(p.name, layers), number) for p, layers, _, number in expansion.each(own.parameters)]
        log = expansion.events
    of = {n: counts.get(segment, 1) for n, segment in zip(events.order, events.segments, strict=True) if n >= 0}
    saved = sum((events.sizes[n] * of[n] for n in noted.saved), 0)
    buffers = sum((b.storage.nbytes * of.get(b.storage.event, 1) for b in (*own.buffers, *own.constants)), 0)
    return _Log(log, found, model, saved, buffers, loop.rows, loop.saved_by)


def _play(step: Step, method: Method, ledger: Ledger, log: _Log) -> StepTotals:
    """Play a log, in which all that is there before the first forward pass is resident."""
    assert step.sharding is not None
    events = log.events
    held: dict[int, Storage] = {}
    start = events.marks["forward"]
    for entry in events.order[:start]:
        if entry >= 0:
            held[entry] = Storage(ledger, events.sizes[entry], resident=True)
        else:
            del held[~entry]
    for like, name, number in log.parameters:
        storage = held.pop(number, None) or Storage(ledger, like.storage.nbytes, resident=True)
        p = Tensor(storage, like.shape, like.dtype, like.strides)
        p.name, p.requires_grad, p.added, p.unreached = name, like.requires_grad, like.added, like.unreached
        ledger.parameters.append(p)
        del storage, p
    ledger.attributes += held.values()
    ledger.buffer_bytes = log.buffer_bytes
    held.clear()
    by_name = {p.name: p for p in ledger.parameters}
    parts: Parts = parts_of(log.model.causal_lm, ledger.parameters, step.family)
    scope: Any = step.sharding.scope(ledger, parts)
    ledger.gradient_hooks = scope  # which holds what stays on the device between steps
    loop = Loop(ledger, step)
    every = [*ledger.parameters, *(ledger.host.parameters if ledger.host is not None else ())]
    loop.trained = [p for p in every if p.requires_grad]
    loop.models["model"] = _Shared(scope, scope.updated(updated(loop.trained)), method)  # type: ignore[assignment]
    loop.note_gradients()
    loop.note_states()
    loop.saved, loop.rows, loop.saved_by = log.saved, log.rows, log.saved_by
    out, calls, sizes_, origins, turns = ledger.events, events.calls, events.sizes, events.origins, events.turns
    if out is not None:
        out.passes = events.passes
    scope.know(_order(events))

    def call(called: Called, number: int) -> None:
        name, about, given = called
        if name == "after_gradient":
            leaf = by_name[about]
            if leaf.grad is None:
                leaf.grad = Tensor(held[given] if given >= 0 else Storage(ledger, 0), leaf.shape, leaf.dtype)
            scope.after_gradient(leaf)
        elif name == "before_backward":
            scope.before_backward(last=bool(about))
        elif name == "before_forward":
            loop.sent.append(scope.communicated)
            scope.before_forward()
        elif name == "hold":
            held[number] = by_name[about].storage
        elif name == "after_backward":
            scope.after_backward()
        else:
            getattr(scope, name)(about)

    def play(first: int, stop: int) -> None:
        last = None
        for at in range(first, stop):
            entry = events.order[at]
            if entry < 0:
                held.pop(~entry, None)
                continue
            origin = origins[entry]
            if origin is not last:
                last = origin
                ledger.phase, ledger.within, ledger.running, ledger.scope = origin
            ledger.turn = turns[at]
            if entry in calls:
                call(calls[entry], entry)
                continue
            storage = held[entry] = Storage(ledger, sizes_[entry])
            if out is not None:
                if entry in events.saved:
                    out.saved.add(storage.event)
                if entry in events.gradients:
                    out.gradients[storage.event] = events.gradients[entry]
            del storage

    stops = [(at, name, False) for name, at in events.marks.items()]
    stops += [(at, name, True) for name, at in events.products.items()]
    done = start
    for at, name, is_product in sorted(stops, key=lambda one: one[0]):
        play(done, at)
        done = at
        if is_product:
            if out is not None:
                out.products.setdefault(name, len(out.order))
            continue
        ledger.mark(name)
        if name == "update":
            ledger.within = ledger.running = ""
            loop.update()
        elif name == "zero_grad":
            zero_grad(loop.trained)
        elif name == "end":
            totals = loop.totals()
    play(done, len(events.order))
    return totals


def _order(events: Events) -> list[str]:
    """The modules in the order in which a forward and backward pass asks for their parameters."""
    found: list[str] = []
    for entry in events.order:
        if entry in events.calls:
            name, about, _ = events.calls[entry]
            if name.startswith("fetch"):
                found.append(about)
            elif name == "after_backward":
                break
    return found
