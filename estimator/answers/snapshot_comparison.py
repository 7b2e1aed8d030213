"""A recorded memory snapshot beside the predicted process: its step's allocations aligned, and the first difference.

Both are read alike, as PyTorch's snapshots: of each allocation the bytes that were asked for, and when they were freed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engines.replay import Batch
from ..engines.snapshot import UNNAMED, Snapshot
from ..errors import InputError
from ..io.plain_pickle import read_pickle
from ..plans.plan import Plan
from ..plans.resolve import resolve
from ..text import human
from .result import SCHEMA

WANTED = "a file that torch.cuda.memory._dump_snapshot wrote"
MOST_ENTRIES = 5_000_000
"""The most entries of a trace, and the most blocks."""
WINDOW = 8
"""So many allocations in a row that have equal sizes are taken for the same ones."""
FURTHEST = 600
"""The most allocations of either side that are looked through for the end of a difference, ..."""
MOST_EDITS = 300
"""... and the most that either side has and the other has not."""
RARE = 4
"""A stretch of ``WINDOW`` sizes that the prediction has at most so often tells where a step is."""
JUST_BEHIND = 100
"""So many allocations at most are counted as different where the recording begins within a step."""
_CANDIDATES = 8
"""The most places that are tried, with others ``_NEARBY`` around each."""
_NEARBY = 16
_KEYS = (
    "device_traces", "action", "addr", "size", "frames", "filename", "line", "name",
    "segments", "device", "total_size", "blocks", "state", "requested_size",
)  # fmt: skip
"""The keys of a snapshot that are read."""
_DEEPEST = 1000
"""The most frames that are looked through."""
_MOST_FRAMES = 16
"""The most frames of an allocation that are told, ..."""
_LONGEST_NAME = 200
"""... and the most characters of a file's or a function's name, from its end."""


@dataclass(frozen=True)
class Allocation:
    """An allocation in a trace."""

    entry: int
    """Its index in the trace."""
    nbytes: int
    freed: int | None
    """The index of the entry that frees it, if there is one."""
    frames: Any
    """Its stack as the snapshot has it, which may be malformed."""

    @property
    def stack(self) -> list[dict[str, Any]]:
        """The frames in Python, the innermost first; all frames where none is in Python."""
        kept = [
            {
                "filename": frame["filename"][-_LONGEST_NAME:],
                "line": frame["line"],
                "name": frame["name"][-_LONGEST_NAME:],
            }
            for frame in (self.frames[:_DEEPEST] if isinstance(self.frames, list) else ())
            if isinstance(frame, dict)
            and isinstance(frame.get("filename"), str)
            and isinstance(frame.get("line"), int)
            and isinstance(frame.get("name"), str)
        ]
        python = [frame for frame in kept if frame["filename"].endswith(".py") or frame["filename"].startswith("<")]
        return (python or kept)[:_MOST_FRAMES]


class Trace:
    """A device's trace from a snapshot: its allocations, and the totals in bytes before each entry."""

    def __init__(self, allocations: list[Allocation], live: list[int], reserved: list[int], device: int) -> None:
        self.allocations, self.live, self.reserved, self.device = allocations, live, reserved, device
        self.sizes = [one.nbytes for one in allocations]
        self.entries = [one.entry for one in allocations]

    def at_least(self, nbytes: int) -> Trace:
        """The trace with allocations of so many bytes only, and with all totals."""
        kept = [one for one in self.allocations if one.nbytes >= nbytes]
        return Trace(kept, self.live, self.reserved, self.device)

    def entry_of(self, number: int) -> int:
        """The index in the trace of an allocation; behind the last, the trace's end."""
        return self.entries[number] if number < len(self.entries) else len(self.live) - 1

    def totals(self, first: int, stop: int) -> dict[str, int]:
        """From the allocation ``first`` to before ``stop``: the bytes alive before, the peak, the most reserved."""
        start, end = self.entry_of(first), self.entry_of(stop) + 1
        return {
            "allocations": stop - first,
            "live_at_start": self.live[start],
            "peak": max(self.live[start:end]),
            "reserved_peak": max(self.reserved[start:end]),
        }


def read_trace(snapshot: Any) -> Trace:
    """The trace of the device with the most entries. Raises ``InputError`` where there is none, or it is malformed."""
    if isinstance(snapshot, list):
        raise InputError("it has segments without a history; call torch.cuda.memory._record_memory_history first")
    traces = _list(_dict(snapshot).get("device_traces"), "device_traces")
    if not any(_list(trace, "a device's trace") for trace in traces):
        raise InputError("it has no history; call torch.cuda.memory._record_memory_history before the step")
    device = max(range(len(traces)), key=lambda number: len(traces[number]))
    trace = traces[device]
    if len(trace) > MOST_ENTRIES:
        raise InputError(f"its trace has more than {MOST_ENTRIES:,} entries; record fewer (max_entries)")
    frees = "free_requested" if any(_dict(one).get("action") == "free_requested" for one in trace) else "free_completed"
    found: list[tuple[int, int, Any]] = []
    freed: dict[int, int] = {}
    at: dict[int, int] = {}
    live, reserved = [0], [0]
    for number, entry in enumerate(trace):
        action, held, taken = entry.get("action"), 0, 0
        if action == "alloc":
            at[_whole(entry, "addr")] = len(found)
            held = _whole(entry, "size")
            found.append((number, held, entry.get("frames")))
        elif action == frees:
            held = -_whole(entry, "size")
            if (which := at.pop(_whole(entry, "addr"), None)) is not None:
                freed[which] = number
        elif action in ("segment_alloc", "segment_map"):
            taken = _whole(entry, "size")
        elif action in ("segment_free", "segment_unmap"):
            taken = -_whole(entry, "size")
        live.append(live[-1] + held)
        reserved.append(reserved[-1] + taken)
    if not found:
        raise InputError("its history has no allocation; call torch.cuda.memory._record_memory_history before the step")
    at_end, reserved_at_end = _at_end(snapshot.get("segments"), device)
    live = [total + at_end - live[-1] for total in live]
    reserved = [total + reserved_at_end - reserved[-1] for total in reserved]
    allocations = [
        Allocation(number, nbytes, freed.get(which), frames) for which, (number, nbytes, frames) in enumerate(found)
    ]
    return Trace(allocations, live, reserved, device)


def _at_end(segments: Any, device: int) -> tuple[int, int]:
    """What a device's blocks were asked for, and the bytes of its segments, when the snapshot was taken."""
    requested = reserved = blocks = 0
    for segment in _list(segments, "segments"):
        if _dict(segment).get("device", 0) != device:
            continue
        reserved += _whole(segment, "total_size")
        own = _list(segment.get("blocks"), "a segment's blocks")
        blocks += len(own)
        if blocks > MOST_ENTRIES:
            raise InputError(f"it has more than {MOST_ENTRIES:,} blocks")
        for block in own:
            if _dict(block).get("state") == "active_allocated":
                requested += _whole(block, "requested_size" if "requested_size" in block else "size")
    return requested, reserved


def _dict(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    raise InputError("it is no memory snapshot")


def _list(value: Any, what: str) -> list[Any]:
    if isinstance(value, list):
        return value
    raise InputError(f"it is no memory snapshot: {what} is no list")


def _whole(entry: dict[Any, Any], key: str) -> int:
    value = entry.get(key)
    if type(value) is int and 0 <= value < 1 << 64:
        return value
    raise InputError(f"it is no memory snapshot: an entry has no {key}")


Pair = tuple[int | None, int | None]
"""A recorded and a predicted allocation; ``None`` for one that the other side has not."""


@dataclass(frozen=True)
class Alignment:
    """Which allocations of a recorded trace are those of a predicted step. Numbers count allocations."""

    start: int
    """The first recorded one."""
    skipped: int
    """How many predicted ones come before it."""
    pairs: list[tuple[int, int]]
    """Recorded and predicted ones of equal size."""
    differences: list[Pair]
    """Recorded and predicted ones of other sizes, or of one side only."""
    stop: int
    """The recorded one after the last."""
    predicted_stop: int
    """The predicted one after the last that is compared."""

    @property
    def score(self) -> int:
        """Equal sizes less differences. A recording rarely begins just behind the step's begin: that counts, too."""
        return len(self.pairs) - len(self.differences) - min(self.skipped, JUST_BEHIND)


def aligned(recorded: Sequence[int], predicted: Sequence[int], start: int = 0, skipped: int = 0) -> Alignment:
    """Go through the sizes of both side by side, from ``start`` and ``skipped`` on, until either has no more.

    Where they differ, the fewest allocations are taken for different with which ``WINDOW`` sizes are equal again.
    """
    i, j = start, skipped
    pairs: list[tuple[int, int]] = []
    differences: list[Pair] = []
    while i < len(recorded) and j < len(predicted):
        if recorded[i] == predicted[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
            continue
        edit = _shortest_edit(recorded, predicted, i, j)
        if edit is None:
            rest = min(len(predicted) - j, len(recorded) - i)
            edit = [(i + n, j + n) for n in range(rest)]
        for theirs, ours in edit:
            i, j = i + (theirs is not None), j + (ours is not None)
            if theirs is not None and ours is not None and recorded[theirs] == predicted[ours]:
                pairs.append((theirs, ours))
            else:
                differences.append((theirs, ours))
    return Alignment(start, skipped, pairs, differences, i, j)


def _shortest_edit(recorded: Sequence[int], predicted: Sequence[int], i: int, j: int) -> list[Pair] | None:
    """The shortest edit of one side to the other, from ``i`` and ``j`` to the next ``WINDOW`` equal sizes or an end.

    ``None`` if it is too long. Source: Ukkonen 1985, "Algorithms for approximate string matching".
    """
    most_i, most_j = min(len(recorded) - i, FURTHEST), min(len(predicted) - j, FURTHEST)
    history: list[dict[int, int]] = []
    """For each number of edits, by how many more recorded than predicted ones are passed: how many recorded ones."""
    for edits in range(MOST_EDITS + 1):
        reached: dict[int, int] = {}
        for more in range(-edits, edits + 1):
            x = _step(history[-1], more)[0] if history else 0
            y = x - more
            if x > most_i or y > most_j:
                continue
            begin = x
            while x < most_i and y < most_j and recorded[i + x] == predicted[j + y]:
                x, y = x + 1, y + 1
            reached[more] = x
            if x - begin >= WINDOW or i + x == len(recorded) or j + y == len(predicted):
                return _path(history, x, y, i, j)
        history.append(reached)
    return None


def _step(reached: dict[int, int], more: int) -> tuple[int, int]:
    """How far one edit leads with ``more``, and from which ``more``. Another size is preferred to one side's own."""
    outside = -1 - FURTHEST
    other = reached.get(more, outside) + 1
    recorded_only, predicted_only = reached.get(more - 1, outside) + 1, reached.get(more + 1, outside)
    if other >= max(recorded_only, predicted_only):
        return other, more
    return (recorded_only, more - 1) if recorded_only >= predicted_only else (predicted_only, more + 1)


def _path(history: Sequence[dict[int, int]], x: int, y: int, i: int, j: int) -> list[Pair]:
    """The pairs of an edit that ends after ``x`` recorded and ``y`` predicted allocations, from ``i`` and ``j`` on."""
    found: list[Pair] = []
    for reached in reversed(history):
        more = x - y
        begin, before = _step(reached, more)
        found += [(i + n, j + n - more) for n in range(x - 1, begin - 1, -1)]
        x, y = reached[before], reached[before] - before
        found.append((None if before > more else i + x, None if before < more else j + y))
    found += [(i + n, j + n) for n in range(x - 1, -1, -1)]
    return found[::-1]


def _offsets(recorded: Sequence[int], predicted: Sequence[int]) -> Counter[int]:
    """Where the predicted step may begin among the recorded allocations, with the stretches that say so."""
    places: dict[tuple[int, ...], list[int]] = {}
    for j in range(len(predicted) - WINDOW + 1):
        places.setdefault(tuple(predicted[j : j + WINDOW]), []).append(j)
    least = min(map(len, places.values()), default=0)
    rare = {stretch: where for stretch, where in places.items() if len(where) <= max(RARE, least)}
    found: Counter[int] = Counter()
    for i in range(len(recorded) - WINDOW + 1):
        for j in rare.get(tuple(recorded[i : i + WINDOW]), ()):
            found[i - j] += 1
    return found


def best_alignment(recorded: Sequence[int], predicted: Sequence[int]) -> tuple[Alignment, int | None]:
    """The alignment with the best score, of equal ones the last, and where the recording begins another step.

    The second is ``None`` where none follows.
    """
    offsets = _offsets(recorded, predicted)
    likely = [offset for offset, _ in sorted(offsets.items(), key=lambda one: (-one[1], -one[0]))[:_CANDIDATES]]
    likely.append(0)  # many recordings begin with the step
    head = predicted[: 20 * WINDOW]

    def score_at_start(offset: int) -> int:
        """The score of the step's first allocations. What differs there moves the place that all others tell."""
        start = max(offset, 0)
        return aligned(recorded[start : start + 2 * len(head)], head, 0, max(-offset, 0)).score

    starts = [max(range(one - _NEARBY, one + _NEARBY + 1), key=score_at_start) for one in likely]
    found = [
        aligned(recorded, predicted, max(offset, 0), max(-offset, 0))
        for offset in {0, *likely, *starts}
        if -len(predicted) < offset < len(recorded)
    ]
    best = max(found, key=lambda one: (one.score, one.start))
    enough = max(offsets.values(), default=0) / 2
    later = [o for o, votes in offsets.items() if votes >= enough and o > best.start + len(predicted) // 2]
    following = min(later, default=None)
    return best, following if following is None or following >= best.stop else None


@dataclass(frozen=True)
class Difference:
    """Where the recording and the prediction first differ."""

    kind: str
    """``size``, ``recorded only``, ``predicted only``, ``freed earlier`` or ``freed later``."""
    position: int
    """The allocation in the predicted step, counted from 0, at which they differ."""
    recorded: dict[str, Any] | None
    predicted: dict[str, Any] | None


@dataclass(frozen=True)
class SnapshotComparison:
    """A recorded step beside the predicted one. Sizes are bytes."""

    recorded: dict[str, int]
    predicted: dict[str, int]
    equal_sizes: int
    """Allocations that both have, in order and with equal sizes."""
    equal_lifetimes: int
    """Those of them that are freed before the same next allocation."""
    first: Difference | None
    assumed: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The record of ``--json``."""
        return {
            "schema": SCHEMA,
            "question": "compare-snapshot",
            "recorded": self.recorded,
            "predicted": self.predicted,
            "equal_sizes": self.equal_sizes,
            "equal_lifetimes": self.equal_lifetimes,
            "first_difference": None if self.first is None else vars(self.first),
            "assumed": self.assumed,
        }


def compare_snapshot(path: Path, plan: Plan, at_least: int) -> SnapshotComparison:
    """Compare a recorded snapshot with a plan's process, by allocations of ``at_least`` so many bytes.

    Raises ``InputError``.
    """
    try:
        recorded = read_trace(read_pickle(path, WANTED, _KEYS)).at_least(at_least)
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"'{path}': {error}; give {WANTED}") from None
    predicted, steps = _predicted(plan, at_least)
    if not recorded.sizes or any(start == stop for start, stop in steps):
        raise InputError(f"--at-least: a step has no allocation of {human(at_least)}; take a smaller size")
    found = [best_alignment(recorded.sizes, predicted.sizes[start:stop]) for start, stop in steps]
    which = len(found) - 1  # a later step, unless it is what the recording has of the first one
    first, last = found[0][0], found[which][0]
    if (last.start + last.stop) // 2 < first.stop and last.score < first.score:
        which = 0
    return _compared(recorded, predicted, *found[which], which + 1, steps[which])


def _predicted(plan: Plan, at_least: int) -> tuple[Trace, list[tuple[int, int]]]:
    """The trace of a process, and the first allocation and the one after the last of each of its steps.

    On a GPU the process has two equal steps: the first one makes the optimizer's states, and each thread's workspace.
    """
    resolved, snapshot = resolve(plan), Snapshot()
    plan.engine.replay(resolved, [Batch(plan.batch, plan.seq, False)] * 2, snapshot=snapshot)
    trace = read_trace(snapshot.to_dict(plan.expandable_segments)).at_least(at_least)
    ends = [entry for entry, one in enumerate(snapshot.trace) if one["action"] == "snapshot"]
    loaded = sum(one.frames[-1]["name"] == "load" for one in trace.allocations)
    stops = [bisect_left(trace.entries, end) for end in ends]
    return trace, list(zip([loaded, *stops[:-1]], stops, strict=True))


def _compared(
    recorded: Trace, predicted: Trace, alignment: Alignment, following: int | None, step: int, span: tuple[int, int]
) -> SnapshotComparison:
    first, stop = span[0] + alignment.skipped, span[0] + alignment.predicted_stop
    recorded_stop = alignment.stop if following is None else following
    extra = [(n, None) for n in range(alignment.stop, recorded_stop)]
    pairs = [(i, span[0] + j) for i, j in alignment.pairs]
    others = [(i, None if j is None else span[0] + j) for i, j in alignment.differences] + extra
    lives = list(_lifetimes(recorded, predicted, pairs, recorded_stop, stop))
    unequal = [one for one in lives if one[2] != one[3]]

    def difference(kind: str, place: int, i: int | None, j: int | None) -> Difference:
        ours = None if j is None else _named(predicted, j)
        return Difference(kind, place - span[0], None if i is None else _recorded(recorded, i), ours)

    found = []
    for i, j in others[:1]:
        if j is not None:
            found.append(difference("predicted only" if i is None else "size", j, i, j))
        else:
            at = bisect_left(pairs, i, key=lambda pair: pair[0])
            place = pairs[at][1] if at < len(pairs) else pairs[-1][1] + 1 if pairs else span[0]
            found.append(difference("recorded only", place, i, j))
    if unequal:
        i, j, theirs, ours = min(unequal, key=lambda one: min(one[2:]))
        found.append(difference("freed later" if theirs > ours else "freed earlier", min(theirs, ours), i, j))
    return SnapshotComparison(
        recorded.totals(alignment.start, recorded_stop),
        predicted.totals(first, stop),
        len(pairs),
        len(lives) - len(unequal),
        min(found, key=lambda one: one.position, default=None),
        list(_assumed(recorded, alignment, recorded_stop, step, span)),
    )


def _lifetimes(
    recorded: Trace, predicted: Trace, pairs: Sequence[tuple[int, int]], recorded_stop: int, stop: int
) -> Iterator[tuple[int, int, int, int]]:
    """Of each pair of allocations, before which predicted allocation either is freed; ``stop`` for after the step.

    Allocations that only one side has do not count: the next pair stands for them.
    """

    def death(trace: Trace, number: int, side: int, last: int) -> int:
        freed = trace.allocations[number].freed
        if freed is None:
            return stop
        following = bisect_left(trace.entries, freed)
        if following >= last:
            return stop
        at = bisect_left(pairs, following, key=lambda pair: pair[side])
        return pairs[at][1] if at < len(pairs) else stop

    for i, j in pairs:
        yield i, j, death(recorded, i, 0, recorded_stop), death(predicted, j, 1, stop)


def _recorded(trace: Trace, number: int) -> dict[str, Any]:
    one = trace.allocations[number]
    return {"entry": one.entry, "bytes": one.nbytes, "freed_at": one.freed, "frames": one.stack}


def _named(trace: Trace, number: int) -> dict[str, Any]:
    """A predicted allocation: its bytes, the module, the operator and the phase (``engines/snapshot.py: Frames``)."""
    one = trace.allocations[number]
    *inner, outermost = one.frames
    module, operator = inner[0]["filename"], inner[0]["name"]
    return {
        "bytes": one.nbytes,
        "module": module,
        "operator": "" if operator == UNNAMED else operator,
        "phase": outermost["name"],
    }


def _assumed(recorded: Trace, alignment: Alignment, stop: int, step: int, span: tuple[int, int]) -> Iterator[str]:
    """What the comparison takes for granted, in sentences."""
    count = span[1] - span[0]
    yield (
        f"the recorded step begins at allocation {alignment.start:,} of {len(recorded.sizes):,} (entry "
        f"{recorded.entry_of(alignment.start):,} of device {recorded.device}), where most sizes "
        f"equal those of predicted step {step}"
    )
    if alignment.skipped:
        yield f"the recording begins within the step (predicted allocations left out: {alignment.skipped:,})"
    if alignment.predicted_stop < count:
        left = count - alignment.predicted_stop
        yield f"the recording ends within the step (predicted allocations left out: {left:,})"
    elif len(recorded.sizes) > stop:
        yield f"what is recorded after the step is left out (allocations: {len(recorded.sizes) - stop:,})"
