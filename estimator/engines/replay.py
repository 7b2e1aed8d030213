"""A process that is replayed allocation by allocation: what is asked of it, and what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..ledger import Events, Ledger, Origin, Size
from ..programs import Method, Step
from ..steps.optimizers import optimizer_of, updated

KINDS = ("parameters", "optimizer states", "gradients", "saved activations", "temporaries")
"""The kinds of allocations in a timeline. Buffers and cuBLAS's workspace count as parameters."""
PARAMETER, STATE, _GRADIENT, _SAVED, TEMPORARY = range(len(KINDS))
STATES = Origin("step", "optimizer", "state")


def state_sizes(step: Step, method: Method, ledger: Ledger) -> tuple[Size, ...]:
    """The bytes of each state of the optimizer and of the method, in the order in which they are made."""
    if not step.procedure.trains or (ledger.host is not None and ledger.host.masters):
        return ()  # or they rest on the host
    optimizer, trained = optimizer_of(step), ledger.masters or updated(ledger.parameters)
    states = [n for p in trained for n in optimizer.state_sizes(p)] + list(optimizer.shared_sizes(trained))
    if step.procedure.runs_backward:
        states += [n for p in trained for n in method.state_sizes(p)]
    return tuple(states)


def kind_of(events: Events, number: int) -> int:
    """The kind of an allocation in a step, as an index into ``KINDS``."""
    return _GRADIENT if number in events.gradients else _SAVED if number in events.saved else TEMPORARY


@dataclass
class Timeline:
    """The allocated bytes of each of ``KINDS``, and the reserved bytes, after every allocation and release."""

    live: list[tuple[int, ...]] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)
    parts: list[tuple[int, str]] = field(default_factory=list)
    """The start of each part of a step, as an index into ``live``, and its name."""


@dataclass(frozen=True)
class Phase:
    """Allocated and reserved bytes in one part of a process."""

    name: str
    """``after load`` and ``after step`` have the bytes at that moment. The other phases have the largest within, as if
    ``torch.cuda.reset_peak_memory_stats`` ran at the start of each."""
    allocated: int
    reserved: int


class Batch(NamedTuple):
    """One step of a process that is replayed."""

    rows: int
    seq: int
    empty_cache: bool
    """Whether cached memory is given back to the device at its end."""


class Beside(NamedTuple):
    """Another engine in a process."""

    bytes: Mapping[str, int]
    """Its figures."""
    held: int
    """Bytes that the process has of it, beside what PyTorch reserves, where the process is largest."""
    limit: tuple[str, int, int, int, str]
    """The fields of the limit that it has by itself."""
    said: str
    """In which phase the process is largest."""


class Usage(NamedTuple):
    """The result of a replay, in bytes."""

    allocated_peak: int
    reserved_peak: int
    phases: tuple[Phase, ...]
    """The phases of loading and of the last step."""
    out_of_memory: str | None = None
    """Where the process ran out of memory, if it did."""
    gave_back: bool = False
    """Whether cached memory went back to the device because there was no room. Without it the process is that of a
    larger device."""
    warnings: tuple[str, ...] = ()
    beside: Beside | None = None
    lacking: int | None = None
    """Where cached memory went back, the bytes that a request lacked all the same; 0 where none did."""
