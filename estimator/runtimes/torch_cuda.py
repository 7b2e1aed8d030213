"""PyTorch on a CUDA GPU: from the ledger's allocations to what ``torch.cuda`` and the driver show.

A training process is replayed from its start: the model is put on the device tensor by tensor, then
come its steps, each with a batch and a length of its own. Every allocation of the ledger's event log
goes through a model of PyTorch's caching allocator (``caching_allocator.py``), so allocated and
reserved bytes follow from the whole history. What the driver shows is reserved bytes and the CUDA
context, which lies outside the allocator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..adapters.traced import TracedMethod
from ..architectures.base import outline
from ..ledger import ITEMSIZE, Events, Ledger
from ..training.checkpointing import segment_length
from ..training.optimizers import OPTIMIZERS
from ..training.step import StepOptions, apply_update, run, zero_grad
from .caching_allocator import TIES, Block, CachingAllocator, OutOfMemory
from .expansion import Expansion, NotPeriodic

if TYPE_CHECKING:
    from ..estimate import Resolved, Result
    from ..plan import Plan
    from ..trace_cuda import Tracer

KINDS = ("parameters", "optimizer states", "gradients", "saved activations", "temporaries")
"""What an allocation is, as a timeline shows it. Buffers and cuBLAS's workspace count as parameters."""
_PARAMETER, _STATE, _GRADIENT, _SAVED, _TEMPORARY = range(len(KINDS))


@dataclass(frozen=True)
class Loaded:
    """A parameter on its way to the device; sizes are bytes."""

    name: str
    nbytes: int
    """In the end."""
    loaded: int
    """As it is loaded, before it is cast."""
    unpacked: int
    """Of the whole weight where it is quantised on the device, else 0."""
    constants: tuple[int, ...]
    """Of the quantisation."""


@dataclass(frozen=True)
class Log:
    """What is loaded, and the allocations of one step; sizes are bytes."""

    events: Events
    base: tuple[Loaded, ...]
    added: tuple[Loaded, ...]
    """By an adapter."""
    buffers: tuple[int, ...]
    states: tuple[int, ...]
    """Each optimizer state, in order."""


def log_step(resolved: Resolved, batch: int, seq: int, tracer: Tracer | None = None) -> Log:
    """Run one step of [batch, seq] tokens with every layer written out, and keep its allocations.

    A method without rules has a ``tracer``, which runs the real module.
    """
    resolved = resolved.at(batch, seq)
    options = replace(resolved.options, previous_output=False)
    ledger = unrolled(resolved, options, batch, seq) if tracer is None else tracer.step(batch, seq)
    events = ledger.events
    assert events is not None
    optimizer = OPTIMIZERS[options.optimizer](options.optimizer_rank)
    base_dtype = options.dtype if options.base is None else resolved.plan.rest_dtype
    parameters = {p.storage.event: p for p in ledger.parameters}
    found: dict[bool, list[Loaded]] = {False: [], True: []}
    constants: list[int] = []
    for number in events.order[: events.marks["forward"]]:
        if number not in parameters:
            if number >= 0:
                constants.append(events.sizes[number])
            continue
        p = parameters[number]
        whole, nbytes = _bytes(p.numel) * ITEMSIZE[base_dtype], _bytes(p.storage.nbytes)
        packed = nbytes != p.nbytes
        loaded = nbytes if packed or (p.added and options.base is not None) else whole
        own = tuple(constants) if packed else ()
        found[p.added].append(Loaded(p.name, nbytes, loaded, whole if packed else 0, own))
        if packed:
            constants.clear()
    trained = [p for p in ledger.parameters if p.requires_grad and not p.unreached]
    states = [n for p in trained for n in optimizer.state_sizes(p)] + list(optimizer.shared_sizes(trained))
    if options.procedure == "backpropagation":
        states += [n for p in trained for n in resolved.method.state_sizes(p)]
    states = [] if options.procedure in ("zeroth-order", "inference") else states
    return Log(events, tuple(found[False]), tuple(found[True]), tuple(constants), tuple(map(_bytes, states)))


def unrolled(resolved: Resolved, options: StepOptions, batch: int, seq: int) -> Ledger:
    """A ledger with a step's log and its parameters, every layer written out."""
    in_backward = OPTIMIZERS[options.optimizer].in_backward
    if options.procedure in ("backpropagation", "inference") and not in_backward:
        with suppress(NotPeriodic):
            return expanded(resolved, options, batch, seq)
    ledger = options.ledger(unrolled=True, events=Events())
    run(options, resolved.sizes(), resolved.method, batch, seq, ledger=ledger)
    return ledger


def expanded(resolved: Resolved, options: StepOptions, batch: int, seq: int) -> Ledger:
    """The ledger of ``unrolled`` from an outline of the layers. Raises ``NotPeriodic``.

    The optimizer takes its parameters as it likes, so its step runs over all of them: not for one that ran in backward.
    """
    sizes, length = resolved.sizes(), segment_length(options.checkpointing) or 1
    outlined = options.ledger(unrolled=True, outlined=True, events=Events())
    run(options, sizes, resolved.method, batch, seq, ledger=outlined)
    events = outlined.events
    assert events is not None
    expansion = Expansion(events, [count for count, _ in outline(sizes.runs, length)], length)
    end = events.marks["end"]
    optimizer = OPTIMIZERS[options.optimizer](options.optimizer_rank)
    expansion.play(0, events.marks.get("update", end))
    ledger = options.ledger(unrolled=True, events=expansion.events)
    ledger.parameters = expansion.parameters(outlined.parameters, ledger)
    if "update" in events.marks:
        if any(p.grad is not None for p in outlined.parameters):
            raise NotPeriodic  # there from the start, and none of the optimizer's
        trained = [p for p in ledger.parameters if p.requires_grad and not p.unreached]
        apply_update(ledger, options, optimizer, resolved.method, trained)
        expansion.release(events.marks["update"], events.marks["zero_grad"])
        ledger.mark("zero_grad")
        zero_grad(trained)
        ledger.mark("end")
    expansion.play(end, len(events.order))
    return ledger


class Logs:
    """The logs of a plan's steps, each size of batch once. The steps of a method without rules are traced."""

    def __init__(self, resolved: Resolved, tracer: Tracer | None = None) -> None:
        if tracer is None and isinstance(resolved.plan.method, TracedMethod):
            from ..trace_cuda import Tracer

            tracer = Tracer(resolved)
        self._resolved, self._tracer = resolved, tracer
        self._logs: dict[tuple[int, int], Log] = {}

    def of(self, batch: int, seq: int) -> Log:
        """The log of a step of [batch, seq] tokens."""
        if (batch, seq) not in self._logs:
            self._logs[batch, seq] = log_step(self._resolved, batch, seq, self._tracer)
        return self._logs[batch, seq]


def _natural(name: str) -> list[tuple[int, str]]:
    """A name to sort by, its numbers as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _bytes(size: object) -> int:
    assert isinstance(size, int)
    return size


@dataclass
class Timeline:
    """Allocated bytes of each of ``KINDS``, and reserved bytes, after every allocation and release."""

    live: list[tuple[int, ...]] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)
    parts: list[tuple[int, str]] = field(default_factory=list)
    """Where a part of a step starts, and its name."""


@dataclass(frozen=True)
class Phase:
    """What a part of a process reaches, in bytes."""

    name: str
    """``after load`` and ``after step``: what is there then. Others: the largest within (as if
    ``torch.cuda.reset_peak_memory_stats`` ran at the start of each)."""
    allocated: int
    reserved: int


_PHASES = {"forward": "forward", "backward": "backward", "update": "optimizer step"}
"""Phases by the mark where they start."""


class Process:
    """A process that loads a model and trains or runs it.

    ``allocated_peak`` and ``reserved_peak`` are the largest bytes so far, ``phases`` what the last step's phases reach.

    ``capacity`` is what the allocator's segments may take, in bytes; a step that needs more raises
    ``OutOfMemory``. A ``timeline`` that is given is filled; ``logs`` that are given serve other processes too.
    """

    def __init__(
        self,
        resolved: Resolved,
        capacity: int | None = None,
        timeline: Timeline | None = None,
        logs: Logs | None = None,
    ) -> None:
        self.resolved, self.timeline, self.logs = resolved, timeline, logs or Logs(resolved)
        plan = resolved.plan
        self.allocator = CachingAllocator(plan.expandable_segments, capacity, ties=TIES[plan.torch])
        self.allocated_peak = self.reserved_peak = 0
        self.phases: dict[str, Phase] = {}
        self.part = ""
        self._previous: list[tuple[Block, int]] = []
        self._live = [0] * len(KINDS)
        self._started = False

    def step(self, batch: int, seq: int, empty_cache: bool = False) -> None:
        """Forward, backward, update, then ``zero_grad``, before which ``empty_cache`` gives cached memory back.

        In inference forward only. Raises ``OutOfMemory``.
        """
        log = self.logs.of(batch, seq)
        events, blocks = log.events, dict[int, Block]()
        start = events.marks["forward"]
        stops = [(at, part, False) for part, at in events.marks.items()]
        first_step, self._started = not self._started, True
        self.phases = {name: phase for name, phase in self.phases.items() if name == "after load"}
        if first_step:
            self._load(log)
            stops += [(at, thread, True) for thread, at in events.products.items()]
        done = start
        for at, name, is_product in sorted(stops):
            self._play(events, events.order[done:at], blocks)
            done = at
            if is_product:  # each thread's cuBLAS handle takes its workspace with its first product, and keeps it
                self._allocate((self.resolved.options.device.cublas_workspace,), _PARAMETER)
                continue
            if name in ("backward", "end"):  # the next output is there
                self._release(self._previous)
            self._enter(name)
            if name == "update" and first_step:
                self._allocate(log.states, _STATE)
            if name == "zero_grad" and empty_cache:
                self.allocator.empty_cache()  # gradients go when the next step starts
        if self.resolved.plan.holds_previous_output:
            self._previous = [(block, _kind(events, number)) for number, block in blocks.items()]
        else:
            self._play(events, events.order[done:], blocks)
        self.leave()
        self.part = ""

    def _load(self, log: Log) -> None:
        """Put parameters and buffers on the device; then adapters, and what k-bit preparation casts.

        A quantised base is loaded there (``transformers/core_model_loading.py``): once all of it is allocated
        and given back (``caching_allocator_warmup``), then come the weights by name, each whole before it is
        packed. Other models are moved there, in the order in which they were made. 16-bit bases get their
        adapters in 16 bits first (``BaseTuner.inject_adapter``, ``cast_adapter_dtype``).
        """
        self._enter("load")
        base, added = list(log.base), log.added
        if self.resolved.plan.base is not None:
            base.sort(key=lambda one: _natural(one.name))
            whole = sum(one.loaded for one in base)
            self._free(self._malloc(whole, _PARAMETER), _PARAMETER)
        cast: list[tuple[Loaded, Block]] = []
        for one in (*base, *added):
            unpacked = self._malloc(one.unpacked, _PARAMETER) if one.unpacked else None
            self._allocate(one.constants, _PARAMETER)
            block = self._malloc(one.loaded, _PARAMETER)
            if unpacked is not None:
                self._free(unpacked, _PARAMETER)
            if one.loaded != one.nbytes:
                cast.append((one, block))
        self._allocate(log.buffers, _PARAMETER)
        for one, block in cast:
            self._malloc(one.nbytes, _PARAMETER)
            self._free(block, _PARAMETER)

    def _enter(self, part: str) -> None:
        self.leave()
        self.part = part
        if self.timeline is not None:
            self.timeline.parts.append((len(self.timeline.live), part))

    def leave(self) -> None:
        """Note what the part that ends has reached; peaks count anew."""
        allocator = self.allocator
        self.allocated_peak = max(self.allocated_peak, allocator.peak_allocated)
        self.reserved_peak = max(self.reserved_peak, allocator.peak_reserved)
        if name := _PHASES.get(self.part):
            self.phases[name] = Phase(name, allocator.peak_allocated, allocator.peak_reserved)
        elif self.part in ("load", "end"):
            name = "after load" if self.part == "load" else "after step"
            self.phases[name] = Phase(name, allocator.allocated, allocator.reserved)
        allocator.reset_peaks()

    def _play(self, events: Events, order: Sequence[int], blocks: dict[int, Block]) -> None:
        sizes, malloc, free, watched = events.sizes, self.allocator.malloc, self.allocator.free, self.timeline
        for entry in order:
            if entry >= 0:
                if nbytes := sizes[entry]:  # of nothing there is no allocation
                    blocks[entry] = block = malloc(nbytes)
                    if watched is not None:
                        self._note(block.size, _kind(events, entry))
            elif (gone := blocks.pop(~entry, None)) is not None:
                size = gone.size
                free(gone)
                if watched is not None:
                    self._note(-size, _kind(events, ~entry))

    def _allocate(self, sizes: Iterable[int], kind: int) -> None:
        for nbytes in sizes:
            if nbytes:
                self._malloc(nbytes, kind)

    def _release(self, held: list[tuple[Block, int]]) -> None:
        while held:
            self._free(*held.pop())

    def _malloc(self, nbytes: int, kind: int) -> Block:
        block = self.allocator.malloc(nbytes)
        self._note(block.size, kind)
        return block

    def _free(self, block: Block, kind: int) -> None:
        size = block.size
        self.allocator.free(block)
        self._note(-size, kind)

    def _note(self, added: int, kind: int) -> None:
        if self.timeline is not None:
            self._live[kind] += added
            self.timeline.live.append(tuple(self._live))
            self.timeline.reserved.append(self.allocator.reserved)


def _kind(events: Events, number: int) -> int:
    return _GRADIENT if number in events.gradients else _SAVED if number in events.saved else _TEMPORARY


@dataclass(frozen=True)
class Batch:
    """One step of a process that is replayed."""

    rows: int
    seq: int
    empty_cache: bool
    """Cached memory is given back after it."""


REPRESENTATIVE = 8
"""Steps of a run with ``lengths`` that are replayed."""
STEADY = 3
"""Steps after which equal ones reserve no more: the first makes the optimizer's states, and the second may need
segments where they lie. So it is in all sixteen steps that ``benchmarks/c10_allocator`` replays."""


def batches_of(plan: Plan) -> list[Batch]:
    """The steps that are replayed, the plan's longest batch last (or first, where lengths are grouped).

    With one length given, a shorter batch comes before the longest, and PyTorch's cached memory is given
    back between them, as PyTorch itself does before it runs out: what the process needs then is what it
    needs at least. With ``lengths``, some of the run's batches come before, and nothing is given back
    unless the loop does so (``empty_cache``): what the process needs then is what it shows.

    A forward pass of inference is replayed twice, as a process that answers many prompts runs it: the second
    one finds cuBLAS's workspace and cached blocks, and perhaps the output before. The first sets the allocated
    peak of the published runs as well (``tests/test_infer.py``).
    """
    if plan.task == "infer":
        return [Batch(plan.batch, plan.seq, False)] * 2
    if plan.lengths is None:
        return [Batch(plan.batch, plan.shorter_seq, True), Batch(plan.batch, plan.seq, False)]
    lengths = plan.lengths.read()
    count = STEADY if len(lengths.counts) == 1 else REPRESENTATIVE
    return [Batch(plan.batch, seq, plan.empty_cache) for seq in lengths.representative_batches(plan.batch, count)]


@dataclass(frozen=True)
class Usage:
    """What a process's replay came to, in bytes."""

    allocated_peak: int
    reserved_peak: int
    phases: tuple[Phase, ...]
    """Of loading and of the last step."""
    out_of_memory: str | None = None
    """The step and its part that ran out, if one did."""


def replay(
    resolved: Resolved,
    batches: Sequence[Batch],
    capacity: int | None = None,
    timeline: Timeline | None = None,
    logs: Logs | None = None,
) -> Usage:
    """Replay a process over batches, until one runs out."""
    process = Process(resolved, capacity, timeline, logs)
    failed = None
    for number, batch in enumerate(batches, 1):
        try:
            process.step(batch.rows, batch.seq, batch.empty_cache)
        except OutOfMemory as error:
            failed = f"step {number} of {len(batches)}, {process.part}: {error.requested:,} B more are asked for"
            break
    process.leave()
    return Usage(process.allocated_peak, process.reserved_peak, tuple(process.phases.values()), failed)


def context_of(plan: Plan) -> int:
    """Bytes of the CUDA context of a plan's device; of the default GPU where no device is named."""
    from ..devices import DEFAULT_GPU, context_bytes, find

    return context_bytes(find(plan.device or DEFAULT_GPU))[0]


def allocator_capacity(plan: Plan) -> int | None:
    """Bytes that the allocator's segments may take: the budget without the CUDA context."""
    budget = plan.budget_bytes()
    return None if budget is None else max(budget - context_of(plan), 0)


def with_usage(result: Result, resolved: Resolved, tracer: Tracer | None = None, says_where: bool = True) -> Result:
    """The answer with ``allocated_peak``, ``reserved_peak`` and ``process`` in bytes; with a budget, whether it runs.

    PyTorch gives cached blocks back before it runs out, so a process may fit a budget that it would exceed
    elsewhere; ``process`` is then what it takes within the budget. Where more is alive than there is room for, it runs
    out for sure: the replay within the budget only ``says_where``.
    """
    plan, budget, capacity = resolved.plan, result.budget_bytes, allocator_capacity(resolved.plan)
    batches, logs = batches_of(plan), Logs(resolved, tracer)
    used = replay(resolved, batches, logs=logs)
    warnings = list(result.warnings)
    hopeless = capacity is not None and result.bytes["peak"] > capacity
    if capacity is not None and used.reserved_peak > capacity and (says_where or not hopeless):
        within = replay(resolved, batches, capacity, logs=logs)
        if within.out_of_memory is None:
            used = within
            warnings.append("it fits because PyTorch's allocator gives cached memory back when there is none left")
        else:
            warnings.append(f"out of memory in {within.out_of_memory}")
    sizes = {
        **result.bytes,
        "allocated_peak": used.allocated_peak,
        "reserved_peak": used.reserved_peak,
        "process": used.reserved_peak + context_of(plan),
    }
    fits = None if budget is None else sizes["process"] <= budget
    return replace(
        result, bytes=sizes, fits=fits, warnings=tuple(warnings), uncertainty=UNCERTAINTY, phases=used.phases
    )


UNCERTAINTY = 0.065
"""Share that 95 of 100 published processes are within, by the process (T4) or the reserved bytes (L40S) they had:
142 runs, ``docs/accuracy.md``. Half of them are within 0.8 %."""
