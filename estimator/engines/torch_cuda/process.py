"""The memory of a process on a CUDA GPU, as ``torch.cuda`` and the driver show it, from the ledger's event log.

A process is replayed from its start: the model is loaded tensor by tensor, then come the steps, each with its own batch
and length. Every allocation of the event log goes through a replica of PyTorch's caching allocator
(``caching_allocator.py``), so allocated and reserved bytes follow from the whole history. The driver shows the reserved
bytes and the CUDA context, which lies outside the allocator.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache, partial
from sys import maxsize
from typing import Any, NamedTuple

from ...errors import TooLong
from ...ledger import FLOATING, ITEMSIZE, Events, Ledger, Origin, Size, whole
from ...ledger.sizes import evaluated
from ...operators.device import Device
from ...programs import Blocks, Procedure, Step
from ...programs.layer_runs import segments
from ...steps.checkpointing import segment_length
from ...steps.expansion import Expansion, NotPeriodic
from ...steps.generate import KEPT
from ...steps.loop import Loop, apply_update, zero_grad
from ...steps.optimizers import OPTIMIZERS, optimizer_of, updated
from ...steps.step import run
from ..engine import Job
from ..replay import KINDS, PARAMETER, STATE, STATES, TEMPORARY, Batch, Phase, Timeline, Usage, kind_of, state_sizes
from ..shapes import Shapes, has_symbols
from ..snapshot import Snapshot, loaded
from .caching_allocator import TIES, Block, CachingAllocator, OutOfMemory
from .passes import Passes
from .tokens import Piece, Token, Tokens, noted, tokens_of

MOST_PLAYED = 12_000_000
"""The most entries of the logs of all tokens of a call, which take some fifteen seconds to replay."""
MOST_KEPT = 600_000
"""The most entries of the logs that are kept, some 70 MB: a search over lengths takes little memory."""


class Loaded(NamedTuple):
    """How a parameter is loaded. Sizes are bytes, or polynomials until ``Log.at``."""

    name: str
    nbytes: int
    """The parameter's size in the end."""
    loaded: int
    """Its size as it is loaded, before it is cast."""
    unpacked: int
    """The size of the weight before it is quantised on the device, else 0."""
    constants: tuple[int, ...]
    """The sizes of the constants of quantisation."""


@dataclass(frozen=True)
class Log:
    """The tensors that are loaded, and the event log of one step. Sizes are bytes, or polynomials until ``at``."""

    passes: Passes
    events: Events
    base: tuple[Loaded, ...]
    added: tuple[Loaded, ...]
    """The parameters of an adapter."""
    buffers: tuple[int, ...]
    states: tuple[int, ...]
    """The optimizer states, in the order in which they are made."""
    sharding: Blocks = field(default_factory=Blocks)
    cached: tuple[str, str] = ("", "")
    """The dtypes of the keys and of the values that a cache was given, if its rules are ours."""

    @property
    def kept(self) -> dict[str, int]:
        """What a pass of ``generate`` leaves to the next one, by name."""
        return noted(self.events, KEPT)

    def at(self, values: Mapping[str, int]) -> Log:
        """The log where the symbols have these values, with every pass of its loops."""
        size = cache(lambda n: evaluated(n, values))
        added = [Loaded(p.name, size(p.nbytes), size(p.loaded), size(p.unpacked), p.constants) for p in self.added]
        buffers, states = tuple(map(size, self.buffers)), tuple(map(size, self.states))
        return replace(self, events=self.passes.at(values), added=tuple(added), buffers=buffers, states=states)


def log_step(job: Job, batch: Size, seq: Size, with_origins: bool = False) -> Log:
    """The log of one step of [batch, seq] tokens with every layer; ``with_origins``: see ``Events``.

    Of symbols the log is one to be evaluated (``Log.at``), and ``job`` is at numbers that have the same formulas.
    """
    if isinstance(batch, int) and isinstance(seq, int):
        job = job.at(batch, seq)
    step = job.step._replace(previous_output=False)
    if step.procedure.tokens:
        step = step._replace(procedure=step.procedure.at_token(0))
        job = job.with_step(step)
    try:
        ledger = unrolled(job, step, batch, seq, partial(Events, with_origins, outlines_loops=True))
        passes = Passes(_events(ledger))
    except NotPeriodic:
        ledger = unrolled(job, step, batch, seq, partial(Events, with_origins))
        passes = Passes(_events(ledger))
    events = passes.events
    parameters = {p.storage.event: p for p in ledger.parameters}
    found: dict[bool, list[Loaded]] = {False: [], True: []}
    constants: list[int] = []
    before = events.order[: events.marks["forward"]]
    gone = {~number for number in before if number < 0}  # whole parameters, of which a process keeps a part
    for number in before:
        if number not in parameters:
            if number >= 0 and number not in gone:
                constants.append(events.sizes[number])
            continue
        p = parameters[number]
        nbytes = p.storage.nbytes
        shared = bool((ledger.host or ledger).masters) and p.requires_grad  # with others, all of which are views
        packed = p.whole is None and not shared and (nbytes != p.nbytes or p.dtype not in FLOATING)
        part = p.whole is not None and p.dtype not in FLOATING  # of what was packed before it was shared
        as_it_is = packed or shared or part or p.added != (step.base is None)
        unpacked = p.numel * ITEMSIZE[step.dtype if step.base is None and not packed else job.plan.rest_dtype]
        loaded = nbytes if as_it_is else unpacked
        own = tuple(constants) if packed else ()
        found[p.added].append(Loaded(p.name, nbytes, loaded, unpacked if packed else 0, own))  # type: ignore[arg-type]
        if packed:
            constants.clear()
    states = state_sizes(job.step, job.method, ledger)
    blocks = _blocks(step, ledger)
    ledger.events = None  # whatever dies with the ledger, whenever that is, is no event of the step
    log = Log(passes, events, tuple(found[False]), tuple(found[True]), tuple(constants), states, blocks, ledger.cached)  # type: ignore[arg-type]
    return log if has_symbols(job, batch, seq) else log.at({})


def _blocks(step: Step, ledger: Ledger) -> Blocks:
    if step.sharding is None:
        return Blocks()
    stored = {p.name: (p.dtype, whole(p.storage.nbytes)) for p in ledger.parameters}
    trained = {p.name for p in ledger.parameters if p.requires_grad}
    arrived = [name for names in _events(ledger).gradients.values() for name in names if name in trained]
    order = dict.fromkeys([*arrived, *sorted(trained)])  # those without a gradient are last
    return step.sharding.blocks(list(stored.values()), [stored[name] for name in order])


def _events(ledger: Ledger) -> Events:
    assert ledger.events is not None
    return ledger.events


def unrolled(job: Job, step: Step, batch: Size, seq: Size, new: Callable[[], Events] = Events) -> Ledger:
    """A ledger with a step's event log and parameters, of every layer. ``new`` makes the log."""
    in_backward = OPTIMIZERS[step.optimizer].in_backward
    if not step.is_played and step.procedure.layer_by_layer and not in_backward:
        with suppress(NotPeriodic):
            return expanded(job, step, batch, seq, new)
    return _run(job, step, batch, seq, new)


def _run(
    job: Job, step: Step, batch: Size, seq: Size, new: Callable[[], Events] = Events, outlined: bool = False
) -> Ledger:
    """The ledger of a step that has run with an event log."""
    symbolic = step.procedure.symbolic or has_symbols(job, batch, seq)
    ledger = step.ledger(unrolled=True, outlined=outlined, symbolic=symbolic, events=new())
    run(step, job.sizes(batch=batch, seq=seq), job.method, batch, seq, ledger=ledger)
    return ledger


def expanded(job: Job, step: Step, batch: Size, seq: Size, new: Callable[[], Events] = Events) -> Ledger:
    """The ledger of ``unrolled``, expanded from an outline of the layers. Raises ``NotPeriodic``.

    The optimizer's step is not expanded, since its log need not go layer by layer: it runs over all parameters. So the
    optimizer must not run in backward.
    """
    outlined = _run(job, step, batch, seq, new, outlined=True)
    events = _events(outlined)
    runs, length = job.sizes(batch=batch, seq=seq).runs, segment_length(step.checkpointing) or 1
    outline = [(one.stands_for, len(one.layers)) for one in segments(runs, length, outlined)]
    expansion = Expansion(events, outline)
    end = events.marks["end"]
    expansion.play(0, events.marks.get("update", end))
    ledger = step.ledger(unrolled=True, symbolic=outlined.symbolic, events=expansion.events)
    ledger.parameters = expansion.parameters(outlined.parameters, ledger)
    ledger.cached = outlined.cached
    if "update" in events.marks:
        if any(p.grad is not None for p in outlined.parameters):
            raise NotPeriodic  # a gradient that exists from the start, and is not the optimizer's
        trained = updated(ledger.parameters)
        ledger.mark("update")
        apply_update(ledger, step, optimizer_of(step), job.method, trained)
        expansion.release(events.marks["update"], events.marks["zero_grad"])
        ledger.mark("zero_grad")
        zero_grad(trained)
        ledger.mark("end")
    expansion.play(end, len(events.order))
    return ledger


class Logs:
    """The logs of steps that differ in batch, sequence and rank alone; ``with_origins``: see ``Events``."""

    def __init__(self, with_origins: bool = False) -> None:
        self.with_origins = with_origins
        self._logs: dict[tuple[str, int, int], Log] = {}
        self._shapes = Shapes(self._made)
        self._tokens: dict[tuple[str, int, int], Tokens] = {}
        self.begun: dict[tuple[str, Device, Batch], Process] = {}
        """The last process that made its first step, after it, by the rank, the kernels and the batch."""

    def of(self, job: Job, batch: int, seq: int) -> Log:
        """The log of a step of [batch, seq] tokens."""
        shape = repr(job.plan.method.open_values()), batch, seq
        if shape not in self._logs:
            while sum(len(log.events.order) for log in self._logs.values()) > MOST_KEPT:
                del self._logs[next(iter(self._logs))]
            self._logs[shape] = self._shapes.of(job, batch, seq)
        return self._logs[shape]

    def tokens(self, job: Job, batch: int, seq: int) -> Tokens:
        """The passes behind the first one of a call of ``generate``."""
        shape = repr(job.plan.method.open_values()), batch, seq
        if shape not in self._tokens:
            job, cached = job.at(batch, seq), self.of(job, batch, seq).cached

            def run(number: Size) -> Events:
                step = job.step._replace(procedure=job.step.procedure.at_token(number, cached))
                return _events(unrolled(job.with_step(step), step, batch, seq, partial(Events, self.with_origins)))

            self._tokens = {shape: Tokens(run)}
        return self._tokens[shape]

    def _made(self, job: Job, batch: Size, seq: Size) -> Log:
        return log_step(job, batch, seq, self.with_origins)

    def passes(self, job: Job, batches: Sequence[Batch]) -> int:
        """The most passes of a loop that one stands for in the logs of batches; 1 where all are replayed."""
        return max(self.of(job, batch.rows, batch.seq).events.most_copies for batch in batches)


class OwnLogs(Logs):
    """The log of a user's own procedure, whatever the batch."""

    def __init__(self, procedure: Procedure) -> None:
        super().__init__()
        self._procedure = procedure

    def of(self, job: Job, batch: int, seq: int) -> Log:
        if not self._logs:
            self._logs["", 0, 0] = self._made(job, 0, 0)
        return self._logs["", 0, 0]

    def _made(self, job: Job, batch: Size, seq: Size) -> Log:
        step = job.step
        ledger = step.ledger(unrolled=True, events=Events())
        Loop(ledger, step).run(self._procedure)
        assert ledger.events is not None
        loaded = [Loaded(p.name, whole(p.nbytes), whole(p.nbytes), 0, ()) for p in ledger.parameters]
        buffers = [whole(b.storage.nbytes) for b in ledger.buffers]
        states = [whole(s.nbytes) for s in ledger.attributes]
        return Log(Passes(ledger.events), ledger.events, tuple(loaded), (), tuple(buffers), tuple(states))


def _natural(name: str) -> list[Any]:
    """A key that sorts names by their text, and the numbers in them, every second part, by their value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


_PHASES = {"forward": "forward", "backward": "backward", "update": "optimizer step", "decode": "decode"}
"""The phases of a step, by the mark in the event log where they start."""


class RateLimiter:
    """FSDP1's ``_FreeEventQueue``: gathering waits until the next but last of the units freed before has been computed.

    The GPU is behind the CPU, as in models that are not tiny. So the CPU finds done what it has waited for, and nothing
    later: an event of the stream that computes, and of the others what was begun before the event ahead of it. After
    backward it waits for all, as a loop that reads its loss does (transformers' Trainer: ``logging_nan_inf_filter``).
    """

    IN_FLIGHT = 2
    """``_max_num_inflight_all_gathers``."""

    def __init__(self) -> None:
        self.recorded = self.waited = 0
        """How many events have been recorded, each after a unit was freed, and waited for."""

    def unshard(self, allocator: CachingAllocator) -> None:
        """Wait for an event, if so many are in flight (``_unshard``)."""
        if self.recorded - self.waited >= self.IN_FLIGHT:
            self.waited += 1
            allocator.reached(self.waited)

    def until(self, stream: str) -> int:
        """The event after which a freed block of a stream, which another one has used, can be taken again.

        A unit that is freed waits for what is computed. A cast shard waits for its gather, done before the next
        event. A gradient waits for its reduction, which begins after its unit's event.
        """
        if stream == "pre_unshard":
            return self.waited + 1
        if stream == "unshard":
            self.recorded += 1
            return self.recorded
        return self.recorded + 1


class Process:
    """A process that loads a model and trains or runs it.

    ``allocated_peak`` and ``reserved_peak`` are the largest bytes so far; ``phases`` are of the last step.

    ``capacity`` is the most bytes of the allocator's segments; a step that needs more raises ``OutOfMemory``. A
    ``timeline`` and a ``snapshot`` are filled in. ``logs`` can be shared between processes, and must have origins for a
    ``snapshot``.
    """

    def __init__(
        self,
        job: Job,
        capacity: int | None = None,
        timeline: Timeline | None = None,
        logs: Logs | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        self.job, self.timeline, self.snapshot = job, timeline, snapshot
        self.logs = logs or Logs(with_origins=snapshot is not None)
        plan = job.plan
        self.allocator = CachingAllocator(plan.expandable_segments, capacity, ties=TIES[plan.torch])
        if snapshot is not None:
            self.allocator.watch = snapshot.segment
        self.allocated_peak = self.reserved_peak = 0
        self.phases: dict[str, Phase] = {}
        self.part = ""
        self._previous: list[tuple[Block, int]] = []
        self._live = [0] * len(KINDS)
        self.steps = self.token = 0
        self._communication: list[tuple[Block, int]] = []
        self._gradients: list[tuple[Block, int]] = []
        self._limiter = RateLimiter()
        """Those of the step before, where they are held until the next forward pass."""

    def step(self, batch: int, seq: int, empty_cache: bool = False) -> None:
        """Forward, backward, update, ``zero_grad``; in inference forward only. Raises ``OutOfMemory``.

        With ``empty_cache``, ``torch.cuda.empty_cache`` runs before ``zero_grad``.
        """
        log = self.logs.of(self.job, batch, seq)
        events, blocks = log.events, dict[int, Block]()
        start = events.marks["forward"]
        stops = [(at, part, False) for part, at in events.marks.items()]
        self.steps += 1
        first_step = self.steps == 1
        if self.snapshot is not None:
            self.snapshot.step += 1
        self.phases = {name: phase for name, phase in self.phases.items() if name == "after load"}
        if first_step:
            stops += [(at, thread, True) for thread, at in events.products.items()]
            self._load(log)
            passing: list[tuple[Block, int]] = []
            for nbytes in log.sharding.passing:
                while len(passing) > 1:
                    self._free(*passing.pop(0))
                passing += self._kept([nbytes])
            self._release(passing)
            self._communication = self._kept(log.sharding.first)
        elif self.steps == 2:
            self._release(self._communication)
            self._communication = self._kept(log.sharding.later)
        done = start
        for at, name, is_product in sorted(stops):
            self._play(events, events.order[done:at], blocks)
            done = at
            if is_product:  # each thread's cuBLAS handle allocates its workspace at its first product, and keeps it
                self._allocate((self.job.step.device.cublas_workspace,), PARAMETER, _WORKSPACE)
                continue
            if name in ("backward", "end"):  # the new output takes the previous one's place
                self._release(self._previous)
            self._enter(name)
            if name == "decode":
                self._make_tokens(batch, seq, log, blocks)
            if name == "forward":
                self._release(self._gradients)
            if name == "update":
                self.allocator.reached(maxsize)  # the loop reads its loss: all that was begun is done
            if name == "update" and first_step:
                self._allocate(log.states, STATE, STATES)
            if name == "zero_grad" and empty_cache:
                self.allocator.empty_cache()  # before the gradients are freed
            if name == "zero_grad" and self.job.step.holds_gradients:
                held = [number for number, names in events.gradients.items() if any(names) and number in blocks]
                self._gradients = [(blocks.pop(number), kind_of(events, number)) for number in held]
        if self.job.plan.holds_previous_output:
            self._previous = [(block, kind_of(events, number)) for number, block in blocks.items()]
        else:
            self._play(events, events.order[done:], blocks)
            self._release([(block, TEMPORARY) for block in blocks.values()])  # the batch
        self.leave()
        self.part = ""

    def _make_tokens(self, batch: int, seq: int, log: Log, blocks: dict[int, Block]) -> None:
        """Make the tokens behind the first one, from what its pass left in ``blocks``.

        Where keys and values are in the large pool, tokens ask the same of the small one, until one more takes another
        size. Its blocks soon come round. Whole rounds of such tokens are played in the large pool alone.
        """
        passes = self.logs.tokens(self.job, batch, seq)
        kept: Mapping[str, int] = {name: number for name, number in log.kept.items() if number in blocks}
        count = self.job.step.procedure.tokens
        coming = tokens_of(passes, kept, log.events.sizes, count)
        ahead, states, alike = deque[Token](), dict[Hashable, int](), tuple[Hashable, ...]()
        plain = self.timeline is None and self.snapshot is None and self.allocator.capacity is None
        while (token := ahead.popleft() if ahead else next(coming, None)) is not None:
            self.token, entries = token.number, len(token.order)
            if entries * count > MOST_PLAYED:
                raise TooLong(
                    f"this call makes more than {MOST_PLAYED:,} allocations and frees, which are the most that are "
                    f"gone through; ask for at most {MOST_PLAYED // entries:,} tokens (max_new_tokens)"
                )
            self._carry(token, kept, blocks)
            self._play(token.events, token.order, blocks)
            kept = token.kept
            if not plain or self.allocator.expandable_segments or token.events.streams:
                continue
            if token.small != alike:
                states, alike = {}, token.small
            before = states.setdefault(self.allocator.small_state(blocks), token.number)
            if before == token.number:
                continue
            while all(one.small == alike for one in ahead) and (one := next(coming, None)) is not None:
                ahead.append(one)
            same = sum(one.small == alike for one in ahead)
            if rounds := same // (token.number - before):
                names, carried = ahead[0].names.items(), ahead[0].one.carried
                small = {carried[new]: block for name, new in names if (block := blocks[kept[name]]).pool.small}
                pieces = ahead[0].pieces({number: block.size for number, block in small.items()})
                for _ in range(rounds * (token.number - before)):
                    self._make_in_large_pool(ahead.popleft(), kept, blocks, pieces)
        self._release([(blocks.pop(number), TEMPORARY) for number in [*blocks]])

    def _carry(self, token: Token, kept: Mapping[str, int], blocks: dict[int, Block]) -> None:
        """Give a token's pass what the one before has kept; the rest is freed."""
        held = {token.one.carried[new]: blocks.pop(kept[name]) for name, new in token.names.items()}
        self._release([(blocks.pop(number), TEMPORARY) for number in [*blocks]])
        blocks.update(held)

    def _make_in_large_pool(
        self, token: Token, kept: Mapping[str, int], blocks: dict[int, Block], pieces: Iterable[Piece]
    ) -> None:
        """Make a token whose blocks in the small pool are those of a round before."""
        small = {number: block for number, block in blocks.items() if block.pool.small}
        large = {number: block for number, block in blocks.items() if not block.pool.small}
        names = {name: new for name, new in token.names.items() if kept[name] in large}
        self._carry(token._replace(names=names), kept, large)
        for most, more, entries in pieces:
            self.allocator.pass_by(most, more)
            self.allocator.play(entries, token.events.sizes, large)
        blocks.clear()
        blocks.update(small | large)

    def _load(self, log: Log) -> None:
        """Put parameters and buffers on the device, then adapters, then the casts of k-bit preparation.

        A quantised base is loaded on the device (``transformers/core_model_loading.py``). All its bytes are allocated
        and freed once (``caching_allocator_warmup``). Then the weights come by name, each unpacked before it is packed,
        and of LLM.int8 as a copy in float16, too (``bitsandbytes/nn/modules.py: Int8Params._quantize``).
        Other models are moved to the device in the order in which they were made. Adapters of a 16-bit base are made
        in 16 bits and then cast (``BaseTuner.inject_adapter``, ``cast_adapter_dtype``).
        """
        self._enter("load")
        base, added = list(log.base), log.added
        if self.job.plan.base is not None:
            base.sort(key=lambda one: _natural(one.name))
            whole = sum(one.loaded for one in base)
            self._free(self._malloc(whole, PARAMETER, _WARMUP), PARAMETER)
        cast: list[tuple[Loaded, Block]] = []
        for one in (*base, *added):
            origin = loaded(one.name)
            copied = 2 * one.nbytes if self.job.plan.dtype == "int8" else 0  # float16: `Int8Params._quantize`
            unpacked = [self._malloc(n, PARAMETER, origin) for n in (one.unpacked, copied) if one.unpacked and n]
            self._allocate(one.constants, PARAMETER, origin)
            block = self._malloc(one.loaded, PARAMETER, origin)
            for temporary in reversed(unpacked):
                self._free(temporary, PARAMETER)
            if one.loaded != one.nbytes:
                cast.append((one, block))
        self._allocate(log.buffers, PARAMETER, loaded("buffers"))
        for one, block in cast:
            self._malloc(one.nbytes, PARAMETER, loaded(one.name))
            self._free(block, PARAMETER)

    def _enter(self, part: str) -> None:
        self.leave()
        self.part = part
        if self.snapshot is not None:
            self.snapshot.part = part
        if self.timeline is not None:
            self.timeline.parts.append((len(self.timeline.live), part))

    @property
    def can_be_copied(self) -> bool:
        """Whether another process that has made the same steps may go on from it, with whatever room."""
        return not self.allocator.gave_back and not any(
            block.granules for block, _ in (*self._previous, *self._gradients)
        )

    def go_on_from(self, other: Process) -> None:
        """Begin as another process is after its last step; the other stays as it is."""
        self.allocator, blocks = other.allocator.copied(self.allocator.capacity)
        self._previous, self._communication, self._gradients = (
            [(blocks[block], kind) for block, kind in held]
            for held in (other._previous, other._communication, other._gradients)
        )
        self._limiter = copy(other._limiter)
        self.allocated_peak, self.reserved_peak = other.allocated_peak, other.reserved_peak
        self.phases, self.steps = dict(other.phases), other.steps

    def leave(self) -> None:
        """End the current part: note its bytes, and reset the peaks."""
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
        copies, streams, snapshot = events.copies, events.streams, self.snapshot
        special, recorded, limiter = {*copies, *streams}, events.recorded, self._limiter
        if not streams and watched is None and snapshot is None:  # as below, and quick
            self.allocator.play(order, sizes, blocks, copies)
            return
        for entry in order:
            if entry >= 0:
                if entry in special and streams.get(entry) == "unshard":
                    limiter.unshard(self.allocator)
                if nbytes := sizes[entry]:  # PyTorch allocates nothing for an empty tensor
                    if entry in special:
                        block = malloc(nbytes, copies.get(entry, 1), streams.get(entry, ""))
                    else:
                        block = malloc(nbytes)
                    blocks[entry] = block
                    if watched is not None:
                        self._note(block.size, kind_of(events, entry))
                    if snapshot is not None:
                        snapshot.allocated(block.address, nbytes, kind_of(events, entry), events.origins[entry])
            elif (gone := blocks.pop(~entry, None)) is not None:
                size = gone.size
                if snapshot is not None:
                    snapshot.freed(gone.address)
                free(gone, limiter.until(streams.get(~entry, "")) if ~entry in recorded else None)
                if watched is not None:
                    self._note(-size, kind_of(events, ~entry))

    def _allocate(self, sizes: Iterable[int], kind: int, origin: Origin) -> None:
        for nbytes in sizes:
            if nbytes:
                self._malloc(nbytes, kind, origin)

    def _kept(self, sizes: Iterable[int]) -> list[tuple[Block, int]]:
        return [(self._malloc(nbytes, PARAMETER, _COMMUNICATION), PARAMETER) for nbytes in sizes]

    def _release(self, held: list[tuple[Block, int]]) -> None:
        while held:
            self._free(*held.pop())

    def _malloc(self, nbytes: int, kind: int, origin: Origin) -> Block:
        block = self.allocator.malloc(nbytes)
        self._note(block.size, kind)
        if self.snapshot is not None:
            self.snapshot.allocated(block.address, nbytes, kind, origin)
        return block

    def _free(self, block: Block, kind: int) -> None:
        size = block.size
        if self.snapshot is not None:
            self.snapshot.freed(block.address)
        self.allocator.free(block)
        self._note(-size, kind)

    def _note(self, added: int, kind: int) -> None:
        if self.timeline is not None:
            self._live[kind] += added
            self.timeline.live.append(tuple(self._live))
            self.timeline.reserved.append(self.allocator.reserved)


_WORKSPACE = Origin("", "cublas", "workspace")
_COMMUNICATION = Origin("load", "sharding", "communication")
_WARMUP = Origin("load", "model", "caching_allocator_warmup")


def replay(
    job: Job,
    batches: Sequence[Batch],
    capacity: int | None = None,
    timeline: Timeline | None = None,
    logs: Logs | None = None,
    snapshot: Snapshot | None = None,
) -> Usage:
    """Replay a process over batches, until one runs out of memory.

    With ``logs`` its first step is that of the process before, where it had the same batch and as much room.
    """
    if capacity is not None and job.step.procedure.tokens and timeline is None and snapshot is None:
        used = replay(job, batches, logs=(logs := logs or Logs()))  # which is quicker
        if used.reserved_peak <= capacity:
            return used
    process = Process(job, capacity, timeline, logs, snapshot)
    failed, lacking, first = None, 0, (repr(job.plan.method.open_values()), job.step.device, batches[0])
    shares = logs is not None and timeline is None and snapshot is None and not job.plan.expandable_segments
    known = process.logs.begun.get(first) if shares else None
    if known is not None and (capacity is None or known.reserved_peak <= capacity):
        process.go_on_from(known)
    for number, batch in enumerate(batches, 1):
        if number <= process.steps:
            continue
        try:
            process.step(batch.rows, batch.seq, batch.empty_cache)
        except OutOfMemory as error:
            place = f", token {process.token + 1:,}" if process.part == "decode" else ""
            failed = f"step {number} of {len(batches)}, {process.part}{place}: {error.requested:,} B more are asked for"
            lacking = error.requested + error.reserved - error.capacity
            if snapshot is not None:
                snapshot.out_of_memory(error.requested, error.capacity - error.reserved)
            break
        if snapshot is not None:
            snapshot.taken(process.allocator.allocated)
        if number == 1 and shares and process.can_be_copied:
            process.logs.begun = {first: Process(job, logs=logs)}
            process.logs.begun[first].go_on_from(process)
    process.leave()
    if snapshot is not None:
        snapshot.segments = process.allocator.segments()
    return Usage(
        process.allocated_peak,
        process.reserved_peak,
        tuple(process.phases.values()),
        failed,
        process.allocator.gave_back,
        lacking=lacking if process.allocator.gave_back else None,
    )
