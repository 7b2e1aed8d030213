"""PyTorch on a CUDA GPU: from the ledger's allocations to what ``torch.cuda`` and the driver show.

A training process is replayed from its start: the model is put on the device tensor by tensor, then
come its steps, each with a batch and a length of its own. Every allocation of the ledger's event log
goes through a model of PyTorch's caching allocator (``caching_allocator.py``), so allocated and
reserved bytes follow from the whole history. What the driver shows is reserved bytes and the CUDA
context, which lies outside the allocator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..devices import context_bytes
from ..ledger import ITEMSIZE, Events, Ledger
from ..training.optimizers import OPTIMIZERS
from ..training.step import run
from .caching_allocator import Block, CachingAllocator, OutOfMemory
from .cublas import workspace_bytes

if TYPE_CHECKING:
    from ..estimate import Resolved, Result
    from ..plan import Plan

KINDS = ("parameters", "optimizer states", "gradients", "saved activations", "temporaries")
"""What an allocation is, as a timeline shows it. Buffers and cuBLAS's workspace count as parameters."""
_PARAMETER, _STATE, _GRADIENT, _SAVED, _TEMPORARY = range(len(KINDS))


@dataclass(frozen=True)
class Log:
    """The allocations of building the model and of one step; sizes are bytes."""

    events: Events
    states: tuple[int, ...]
    """Each optimizer state, in order."""
    casts: Mapping[int, int]
    """Parameters, by their numbers, that are loaded in another dtype and cast when all are there; what they have first."""
    unpacked: Mapping[int, int]
    """Parameters that are quantised on the device; what they have before."""


def log_step(resolved: Resolved, batch: int, seq: int) -> Log:
    """Run one step of [batch, seq] tokens with every layer written out, and keep its allocations."""
    resolved = resolved.at(batch, seq)
    options, events = replace(resolved.options, previous_output=False), Events()
    ledger = Ledger(device=options.device, capability=options.capability, unrolled=True, events=events)
    run(options, resolved.sizes(), resolved.method, batch, seq, ledger=ledger)
    optimizer = OPTIMIZERS[options.optimizer](options.optimizer_rank)
    base, loaded = options.base, options.dtype if options.base is None else resolved.plan.rest_dtype
    casts: dict[int, int] = {}
    unpacked: dict[int, int] = {}
    for p in ledger.parameters:
        whole = _bytes(p.numel) * ITEMSIZE[loaded]
        if p.storage.nbytes != p.nbytes:
            unpacked[p.storage.event] = whole
        elif p.dtype != loaded and not (p.added and base is not None):  # PEFT puts adapters beside packed weights as they are
            casts[p.storage.event] = whole
    states = [_bytes(n) for p in ledger.parameters if p.requires_grad for n in optimizer.state_sizes(p)]
    return Log(events, tuple(states), casts, unpacked)


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


class Process:
    """A process that loads a model and trains it; ``allocator`` has the totals.

    ``capacity`` is what the allocator's segments may take, in bytes; a step that needs more raises
    ``OutOfMemory``. A ``timeline`` that is given is filled.
    """

    def __init__(self, resolved: Resolved, capacity: int | None = None, timeline: Timeline | None = None) -> None:
        self.resolved, self.timeline = resolved, timeline
        self.allocator = CachingAllocator(resolved.plan.expandable_segments, capacity)
        self.peaks: dict[str, int] = {}
        """The largest allocated bytes of each part of the last step."""
        self.part = ""
        self._logs: dict[tuple[int, int], Log] = {}
        self._previous: list[tuple[Block, int]] = []
        self._live = [0] * len(KINDS)
        self._started = False

    def step(self, batch: int, seq: int) -> None:
        """Forward, backward, update, ``zero_grad``. Raises ``OutOfMemory``."""
        if (batch, seq) not in self._logs:
            self._logs[batch, seq] = log_step(self.resolved, batch, seq)
        log = self._logs[batch, seq]
        events, blocks = log.events, dict[int, tuple[Block, int]]()
        start, done = events.marks["forward"], 0
        stops = [(at, part, False) for part, at in events.marks.items()]
        first_step, self._started = not self._started, True
        if first_step:
            self._load(log)
            stops += [(at, phase, True) for phase, at in events.products.items() if phase in ("forward", "backward")]
        done = start
        for at, name, is_product in sorted(stops):
            self._play(events, events.order[done:at], blocks)
            done = at
            if is_product:  # each thread's cuBLAS handle takes its workspace with its first product, and keeps it
                self._allocate((workspace_bytes(self.resolved.options.capability),), _PARAMETER)
                continue
            if name == "backward":
                self._release(self._previous)
            self._enter(name)
            if name == "update" and first_step:
                self._allocate(log.states, _STATE)
        if self.resolved.plan.previous_output:
            self._previous = list(blocks.values())
        else:
            self._play(events, events.order[done:], blocks)

    def _load(self, log: Log) -> None:
        """Parameters and buffers, one after the other; then casts, of adapters and by k-bit preparation."""
        self._enter("load")
        sizes = {n: log.events.allocations[n].nbytes for n in log.events.order[: log.events.marks["forward"]] if n >= 0}
        first = {n: log.casts.get(n, nbytes) for n, nbytes in sizes.items()}
        if self.resolved.plan.base is not None:  # transformers' caching_allocator_warmup, of weights that are loaded there
            self._free(self._malloc(sum(first.values()), _PARAMETER), _PARAMETER)
        blocks: dict[int, Block] = {}
        for number, nbytes in first.items():
            whole = self._malloc(log.unpacked[number], _PARAMETER) if number in log.unpacked else None
            blocks[number] = self._malloc(nbytes, _PARAMETER)
            if whole is not None:
                self._free(whole, _PARAMETER)
        for number in log.casts:
            cast = self._malloc(sizes[number], _PARAMETER)
            self._free(blocks[number], _PARAMETER)
            blocks[number] = cast
        if self.resolved.plan.kbit_preparation:
            self.allocator.empty_cache()

    def _enter(self, part: str) -> None:
        self.part = part
        self.peaks[part] = self.allocator.allocated
        if self.timeline is not None:
            self.timeline.parts.append((len(self.timeline.live), part))

    def _play(self, events: Events, order: Sequence[int], blocks: dict[int, tuple[Block, int]]) -> None:
        for number in order:
            if number >= 0:
                nbytes = events.allocations[number].nbytes
                if nbytes:  # of nothing there is no allocation
                    kind = _kind(events, number)
                    blocks[number] = self._malloc(nbytes, kind), kind
            elif ~number in blocks:
                self._free(*blocks.pop(~number))

    def _allocate(self, sizes: Iterable[int], kind: int) -> None:
        for nbytes in sizes:
            if nbytes:
                self._malloc(nbytes, kind)

    def _release(self, held: list[tuple[Block, int]]) -> None:
        while held:
            self._free(*held.pop())

    def _malloc(self, nbytes: int, kind: int) -> Block:
        block = self.allocator.malloc(nbytes)
        self._live[kind] += block.size
        self.peaks[self.part] = max(self.peaks[self.part], self.allocator.allocated)
        self._note()
        return block

    def _free(self, block: Block, kind: int) -> None:
        self._live[kind] -= block.size
        self.allocator.free(block)
        self._note()

    def _note(self) -> None:
        if self.timeline is not None:
            self.timeline.live.append(tuple(self._live))
            self.timeline.reserved.append(self.allocator.reserved)


def _kind(events: Events, number: int) -> int:
    return _GRADIENT if number in events.gradients else _SAVED if number in events.saved else _TEMPORARY


@dataclass(frozen=True)
class Usage:
    """What a process's replay came to, in bytes."""

    allocated_peak: int
    reserved_peak: int
    out_of_memory: str | None = None
    """The step and its part that ran out, if one did."""


def replay(resolved: Resolved, batches: Sequence[tuple[int, int]], capacity: int | None = None) -> Usage:
    """Replay a process over ``batches`` of (batch, seq)."""
    process = Process(resolved, capacity)
    failed = None
    number = 0
    try:
        for number, (batch, seq) in enumerate(batches, 1):
            process.step(batch, seq)
    except OutOfMemory:
        failed = f"{number}, {process.part}"
    return Usage(process.allocator.peak_allocated, process.allocator.peak_reserved, failed)


def batches_of(plan: Plan) -> list[tuple[int, int]]:
    """(batch, seq) of the steps that are replayed: two, since the first one has no optimizer states yet."""
    return [(plan.batch, plan.seq)] * 2


def allocator_capacity(plan: Plan) -> int | None:
    """Bytes that the allocator's segments may take: the budget without the CUDA context."""
    budget = plan.budget_bytes()
    return None if budget is None else max(budget - context_bytes(plan.device)[0], 0)


def with_usage(result: Result, resolved: Resolved) -> Result:
    """The answer with ``allocated_peak``, ``reserved_peak`` and ``process``, in bytes, of a process that runs the
    plan's step twice; with a budget, whether it runs in it.

    PyTorch gives cached blocks back before it runs out, so a process may fit a budget that it would exceed
    elsewhere; ``process`` is then what it takes within the budget.
    """
    plan, budget, capacity = resolved.plan, result.budget_bytes, allocator_capacity(resolved.plan)
    context, _ = context_bytes(plan.device)
    batches = batches_of(plan)
    used = replay(resolved, batches)
    warnings = list(result.warnings)
    if capacity is not None and used.reserved_peak > capacity:
        within = replay(resolved, batches, capacity)
        if within.out_of_memory is None:
            used = within
            warnings.append("it fits because PyTorch's allocator gives cached memory back when there is none left")
        else:
            warnings.append(f"it runs out of memory in step {within.out_of_memory}")
    sizes = {
        **result.bytes,
        "allocated_peak": used.allocated_peak,
        "reserved_peak": used.reserved_peak,
        "process": used.reserved_peak + context,
    }
    fits = None if budget is None else sizes["process"] <= budget
    return replace(result, bytes=sizes, fits=fits, warnings=tuple(warnings))
