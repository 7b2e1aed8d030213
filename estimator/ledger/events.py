"""The log of a step's allocations, for a replay of an allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sizes import Size

if TYPE_CHECKING:
    from .ledger import Ledger


class Events:
    """Every allocation and release of building the model and of a step in their order, for a replay of an allocator.

    ``order`` has the number of an allocation (its index in ``sizes``, which are bytes) where it is made, and
    the number's complement (``~number``) where it is let go of. ``saved`` and ``gradients`` say which
    allocations became one; gradients have the parameter's name.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.order: list[int] = []
        self.segments: list[int] = []
        """Of each entry of ``order``: the ledger's ``segment`` at that time."""
        self.marks: dict[str, int] = {}
        """Where in ``order`` a part of the step starts."""
        self.saved: set[int] = set()
        self.gradients: dict[int, str] = {}
        self.products: dict[str, int] = {}
        """By thread (``main``, ``backward``), the place in ``order`` where a GPU's first matrix product runs, its
        result already there: where the library gets its workspace (``operators/cuda/cublas.py``)."""

    def allocated(self, nbytes: Size, ledger: Ledger) -> int:
        """Note an allocation; returns its number."""
        assert isinstance(nbytes, int)
        number = len(self.sizes)
        self.sizes.append(nbytes)
        self.order.append(number)
        self.segments.append(ledger.segment)
        return number

    def freed(self, number: int, ledger: Ledger) -> None:
        """Note that an allocation was let go of."""
        self.order.append(~number)
        self.segments.append(ledger.segment)

    def mark(self, part: str) -> None:
        """Note that a part of the step starts here; of micro-steps the first counts."""
        self.marks.setdefault(part, len(self.order))
