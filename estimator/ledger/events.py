"""The log of a step's allocations, for a replay of an allocator."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import NamedTuple, Protocol

from .sizes import Size, evaluated


class Origin(NamedTuple):
    """Where in a step an allocation is made."""

    phase: str
    module: str
    """The path of the module that runs, or the part of the model outside of its modules."""
    operator: str
    """The operator that runs, by autograd's or the function's name; empty where none is known."""
    scope: str = ""
    """The part of the model (``Ledger.scope``)."""


class Called(NamedTuple):
    """What is called between two allocations of a log that is played (``steps/played.py``)."""

    name: str
    """The method."""
    about: str = ""
    """The path of a module, or the name of a parameter."""
    given: int = -1
    """The number of an allocation that is handed over; negative for none."""


class Running(Protocol):
    """What the log asks of the ledger whose step runs: see there."""

    segment: int
    turn: int
    phase: str
    within: str
    scope: str
    running: str
    stream: str


class Events:
    """Every allocation and release, in order, while the model is built and the step runs.

    An allocation's number is its index in ``sizes`` (bytes). ``order`` has the number where the allocation is made, and
    its complement (``~number``) where it is released. ``saved`` are the numbers of allocations that were saved for
    backward. ``gradients`` are those of parameters' gradients, each with the parameters' names. ``with_origins`` also
    notes where each allocation is made, in ``origins``, which is empty otherwise.

    With ``outlines_loops``, one pass of a loop stands for all but the first two and the last, which the reader adds.
    """

    def __init__(self, with_origins: bool = False, outlines_loops: bool = False) -> None:
        self.with_origins, self.outlines_loops = with_origins, outlines_loops
        self.passes: list[Size] = []
        """Of each loop that is outlined, for how many passes one stands."""
        self.turns: list[int] = []
        """For each entry of ``order``, the ledger's ``turn`` at that time."""
        self.copies: dict[int, int] = {}
        """For the allocations that stand for several: for how many."""
        self.most_copies = 1
        """The most passes that one stands for."""
        self.origins: list[Origin] = []
        self.sizes: list[int] = []
        """Polynomials until ``at`` gives the numbers, where the step ran with symbols."""
        self._distinct: tuple[list[Size], list[int]] | None = None
        """Of a log with polynomials: the distinct sizes, and for each allocation the place of its own among them."""
        self.values: list[int] = []
        """Of a log from ``at``: the values of the distinct sizes."""
        self.order: list[int] = []
        self.segments: list[int] = []
        """For each entry of ``order``, the ledger's ``segment`` at that time."""
        self.marks: dict[str, int] = {}
        """For each part of the step, the index in ``order`` where it starts."""
        self.saved: set[int] = set()
        self.gradients: dict[int, tuple[str, ...]] = {}
        self.streams: dict[int, str] = {}
        """The streams of the allocations that are made on another than the one that computes."""
        self.recorded: set[int] = set()
        """Those that another stream uses while they are freed (``record_stream``)."""
        self.calls: dict[int, Called] = {}
        """What is called between the allocations: each is an entry of no bytes."""
        self.products: dict[str, int] = {}
        """For each thread (``main``, ``backward``), the index in ``order`` where cuBLAS gets its workspace on a GPU:
        just after the result of the thread's first matrix product."""

    def allocated(self, nbytes: Size, ledger: Running) -> int:
        """Note an allocation; returns its number."""
        number = len(self.sizes)
        self.sizes.append(nbytes)  # type: ignore[arg-type]
        self.order.append(number)
        self.segments.append(ledger.segment)
        self.turns.append(ledger.turn)
        if ledger.stream:
            self.streams[number] = ledger.stream
        if self.with_origins:
            self.origins.append(Origin(ledger.phase, ledger.within or ledger.scope, ledger.running, ledger.scope))
        return number

    def call(self, called: Called, ledger: Running) -> int:
        """Note a call: an allocation of no bytes."""
        number = self.allocated(0, ledger)
        self.calls[number] = called
        return number

    def turn_of(self, place: int, count: Size) -> int:
        """The ``turn`` of a pass of a loop that is outlined. ``place`` and ``count`` are those of ``Repeat``."""
        if place < 0:
            self.passes.append(1)
        elif place == 0:
            self.passes[-1] = count
        return 3 * len(self.passes) + place + 1

    def at(self, values: Mapping[str, int]) -> Events:
        """The log of a step that ran with symbols, with these values."""
        if self._distinct is None:
            numbers: dict[Size, int] = {}
            known = {id(size): size for size in self.sizes}
            places = {key: numbers.setdefault(size, len(numbers)) for key, size in known.items()}
            self._distinct = list(numbers), [places[id(size)] for size in self.sizes]
        log = copy(self)
        log.values = found = [evaluated(size, values) for size in self._distinct[0]]
        log.sizes = [found[place] for place in self._distinct[1]]
        return log

    def freed(self, number: int, ledger: Running) -> None:
        """Note that an allocation was released."""
        self.order.append(~number)
        self.segments.append(ledger.segment)
        self.turns.append(ledger.turn)

    def mark(self, part: str) -> None:
        """Note that a part of the step starts here, unless an earlier micro-batch started it already."""
        self.marks.setdefault(part, len(self.order))
