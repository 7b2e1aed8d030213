"""The running total of one step, and what runs beside it: hooks, autocast's cache, parts that are counted.

Source: ``torch/csrc/autograd/saved_variable.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..errors import TooLong
from . import graph
from .events import Events
from .sizes import Size, product, term_by_term
from .tensors import ITEMSIZE, Counted, Shape, Storage, Tensor

MOST_WORK = 160_000
"""Tensors that a program may make: some three seconds' work. A model of a hundred layers, each of a kind of its own,
makes 17,000; LoRA with dropout on all linear layers of one of 126, layer by layer, 61,000."""
SYMBOLIC_COST, REPLAYED_COST = 10, 2
"""What a tensor counts where sizes are polynomials, and where a GPU's allocator replays what a ledger records."""


class SavedRow(NamedTuple):
    """One storage saved for backward, as a reader of the ledger sees it."""

    scope: str
    module: str
    operator: str
    shape: Shape
    dtype: str
    nbytes: Size
    copies: Size


class Device(Protocol):
    """What the ledger asks of a device."""

    @property
    def has_own_memory(self) -> bool:
        """Whether it has memory apart from the host's."""

    def workspace_of_sum(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """Bytes of each tensor that a sum over the ``reduced`` dimensions takes beside its result."""


class Pinned:
    """Pinned memory of the host by the size of its blocks, in bytes: freed ones wait for others of their size."""

    def __init__(self) -> None:
        self._live: dict[int, int] = {}
        self._most: dict[int, int] = {}

    def take(self, block: int, count: int) -> None:
        """Take so many more blocks of a size, or give them back."""
        self._live[block] = self._live.get(block, 0) + count
        self._most[block] = max(self._live[block], self._most.get(block, 0))

    @property
    def nbytes(self) -> int:
        """Bytes that were ever needed at once of each size."""
        return sum(block * count for block, count in self._most.items())


@dataclass
class Hooks:
    """A pair of saved-tensor hooks (``torch.autograd.graph.saved_tensors_hooks``)."""

    pack: Callable[[Tensor], Any]
    unpack: Callable[[Any], Any]


class GradientHooks(Protocol):
    """Hooks on every trained parameter, called when its gradient is complete."""

    def before_gradient(self, leaf: Tensor) -> None:
        """Called before the gradient is stored (``Tensor.register_hook``)."""

    def after_gradient(self, leaf: Tensor) -> None:
        """Called when it was stored (``Tensor.register_post_accumulate_grad_hook``)."""


@dataclass
class Ledger:
    """The running total of one step. ``live`` counts bytes above what was resident before it.

    ``symbolic`` keeps every undominated total as a candidate instead of comparing numbers.
    ``keep_rows`` also keeps one row per saved storage.
    """

    device: Any
    """Whose kernels run: rules ask it what differs between devices, the ledger itself only what a ``Device`` has."""
    symbolic: bool = False
    keep_rows: bool = False
    pinned: Pinned = field(default_factory=Pinned)
    notes: dict[str, str] = field(default_factory=dict)
    """What a rule found that a reader should know, by subject."""
    unrolled: bool = False
    """Whether every one of equal layers and chunks is run, instead of one that is counted."""
    outlined: bool = False
    """Whether an unrolled program leaves out layers that do as their neighbours do."""
    segment: int = -1
    """Which of the model's consecutive parts the program is in, by number (a layer, or the layers that one checkpoint
    spans); -1 outside of them."""
    events: Events | None = None
    """The log of allocations, where one is kept; it asks for ``unrolled``."""
    counts_work: bool = False
    """Whether ``work`` is kept."""
    work: Size = 0
    """Floating-point operations of the matrix products so far, recomputed ones included."""
    live: Size = 0
    saved: Size = 0
    parameters: list[Tensor] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)
    buffer_bytes: Size = 0
    attributes: list[Storage] = field(default_factory=list)
    rows: list[SavedRow] = field(default_factory=list)
    grad_enabled: bool = True
    training: bool = True
    """The model is in train mode: dropout acts."""
    inference_mode: bool = False
    """``torch.inference_mode``, in which autocast caches no casts."""
    forward_mode: Callable[[str, Callable[[], Tensor], Sequence[Tensor | None]], Tensor] | None = None
    """Runs operators with tangents (``operators/forward_mode.py``) instead of putting them into a graph."""
    autocast: str | None = None
    autocast_cache: dict[int, Tensor] = field(default_factory=dict)
    """Casts of trainable leaves by the leaf's id, held by ``autocast_casts``."""
    autocast_casts: Counted = field(init=False)
    thrown_away: Counted | None = None
    """What the graph of a second forward run holds: it goes with that graph, which never runs."""
    hooks: list[Hooks] = field(default_factory=list)
    gradient_hooks: GradientHooks | None = None
    phase: str = "forward"
    scope: str = "inputs"
    module: str = ""
    operator: str = ""
    sequence: int = 0
    copies: Size = 1
    """How many identical tensors one made now stands for."""
    counts: list[Size] = field(default_factory=list)
    """How often each of the parts is counted that the program is in, outermost first."""
    products: Callable[[Callable[[], Tensor]], Tensor] | None = None
    """What selective checkpointing puts in place of making a matrix product's result."""
    peaks: dict[str, Any] = field(default_factory=dict)
    work_left: int = MOST_WORK
    """What may still be written into the ledger, in tensors of known size."""
    _rising: str = ""
    spans: list[tuple[int, int, Size]] = field(default_factory=list)
    """Parts of the graph that stand for several: the first and the last node's number, how many are left out."""

    def __post_init__(self) -> None:
        self.autocast_casts = Counted(self)

    # ---- tensors -------------------------------------------------------------------------

    def allocate(self, nbytes: Size) -> None:
        """Add bytes to the running total and note the total reached."""
        self.live = live = self.live + nbytes
        moment = f"{self.scope} {self.phase}"
        if self.symbolic:
            self._rising = moment
        elif live > self.peaks.get(moment, -1):
            self.peaks[moment] = live

    def free(self, nbytes: Size) -> None:
        """Take bytes off the running total."""
        if self._rising:
            self._note(self._rising, self.live)
            self._rising = ""
        self.live = self.live - nbytes

    def mark(self, part: str) -> None:
        """A part of the step starts here, as the log is to know where one is kept."""
        if self.events is not None:
            self.events.mark(part)

    def clear_autocast_cache(self) -> None:
        """Leave the autocast context: casts that no operator saved go."""
        self.autocast_cache.clear()
        self.autocast_casts.clear()

    def _note(self, moment: str, live: Size) -> None:
        """Keep a symbolic total that was reached, unless another one is never below it."""
        known: list[Size] = self.peaks.setdefault(moment, [])
        for other in known:
            if term_by_term(other, live):
                return
        known[:] = [other for other in known if not term_by_term(live, other)]
        known.append(live)

    def multiply(self, *sizes: Size) -> None:
        """Note a matrix product over ``sizes``: a multiplication and an addition for each combination."""
        if self.counts_work:
            self.work = self.work + 2 * product(sizes)

    def transient(self, *sizes: Size) -> None:
        """Workspace that an operator takes and gives back before it returns, in bytes of each of its tensors."""
        held = [Storage(self, nbytes) for nbytes in sizes]
        del held

    def empty(self, shape: Shape, dtype: str, strides: Shape | None = None) -> Tensor:
        """A new tensor with a storage of its own; dense, contiguous unless ``strides`` says else.

        Raises ``TooLong`` where a program has made too many of them.
        """
        self.work_left -= SYMBOLIC_COST if self.symbolic else 1 if self.events is None else REPLAYED_COST
        if self.work_left < 0:
            raise TooLong(
                f"this plan makes more than {MOST_WORK:,} tensors, and each is gone through (of like layers in a row a "
                "few); ask about fewer layers, a smaller rank, fewer steps of the method, or fewer chunks"
            )
        return Tensor(Storage(self, product(shape) * ITEMSIZE[dtype]), shape, dtype, strides)

    def parameter(
        self,
        name: str,
        shape: Shape,
        dtype: str,
        requires_grad: bool,
        added: bool = False,
        nbytes: Size | None = None,
    ) -> Tensor:
        """A parameter: resident before the step, a leaf of the graph; ``added`` by an adapter.

        ``nbytes`` is the storage's size where elements are packed.
        """
        size = product(shape) * ITEMSIZE[dtype] if nbytes is None else nbytes
        tensor = Tensor(Storage(self, size, resident=True), shape, dtype)
        tensor.requires_grad, tensor.name, tensor.copies = requires_grad, name, self.copies
        tensor.added = added
        self.parameters.append(tensor)
        return tensor

    def buffer(self, shape: Shape, dtype: str, host: bool = False) -> Tensor:
        """A buffer, or constants of quantised weights: resident, never trained, not counted as saved.

        One on the ``host`` stays there when a GPU has the model: it takes nothing of the GPU's memory.
        """
        tensor = Tensor(Storage(self, self._resident_bytes(shape, dtype, host), resident=True), shape, dtype)
        self.buffer_bytes = self.buffer_bytes + tensor.storage.nbytes * self.copies
        self.buffers.append(tensor)
        return tensor

    def attribute(self, shape: Shape, dtype: str, host: bool = False) -> Tensor:
        """A tensor that lives beside parameters and buffers, as a module's plain attribute: there before
        the step, and counted only where it is saved. ``host``: see ``buffer``.
        """
        storage = Storage(self, self._resident_bytes(shape, dtype, host), resident=True, attribute=True)
        self.attributes.append(storage)
        return Tensor(storage, shape, dtype)

    def _resident_bytes(self, shape: Shape, dtype: str, host: bool) -> Size:
        device: Device = self.device
        return 0 if host and device.has_own_memory else product(shape) * ITEMSIZE[dtype]

    def next_forward(self) -> None:
        """Start to count what is saved anew."""
        self.saved, self.rows = 0, []
        for storage in self.attributes:
            storage.saved = False

    def pack(self, tensor: Tensor | None, operator: str) -> tuple[Any, Callable[[Any], Any]]:
        """Save a tensor for backward, through the innermost hook if there is one."""
        if tensor is None:
            return graph.NOTHING
        self.operator = operator
        if self.hooks:
            hooks = self.hooks[-1]
            return hooks.pack(tensor), hooks.unpack
        return self.hold(tensor), graph.identity

    def hold(self, tensor: Tensor) -> Tensor:
        """Keep a tensor's storage for backward and count it as saved; returns what keeps it."""
        storage = tensor.storage
        if not storage.saved:
            storage.saved = True
            if self.events is not None and storage.event >= 0:
                self.events.saved.add(storage.event)
            self.saved = self.saved + storage.nbytes * self.copies
            if self.keep_rows:
                self.rows.append(
                    SavedRow(
                        self.scope, self.module, self.operator, tensor.shape, tensor.dtype, storage.nbytes, self.copies
                    )
                )
        return tensor.alias()

    def product(self, make: Callable[[], Tensor]) -> Tensor:
        """The result of a matrix product or of an attention kernel, which ``make`` allocates."""
        return make() if self.products is None else self.products(make)

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """Run operators without putting them into the graph."""
        outer, self.grad_enabled = self.grad_enabled, False
        yield
        self.grad_enabled = outer

    @contextmanager
    def counted(self, copies: Size) -> Iterator[None]:
        """A part of the model or of the program that stands for ``copies`` identical ones."""
        outer, self.copies = self.copies, self.copies * copies
        self.counts.append(copies)
        yield
        self.counts.pop()
        self.copies = outer

    @contextmanager
    def repeated(self, copies: Size) -> Iterator[None]:
        """Run a part of the forward program once and count it ``copies`` times.

        Valid where each copy adds the same amount: a layer between two layers of its kind.
        The backward of the part is counted the same way when the engine gets there. Parts nest.
        """
        extra = copies - 1
        if not extra:
            yield
            return
        start_live, start_work, start = self.live, self.work, self.sequence
        moment = f"{self.scope} {self.phase}"
        seen = self.peaks.pop(moment, None)
        with self.counted(copies):
            yield
        growth = (self.live - start_live) * extra
        self.live = self.live + growth
        self.work = self.work + (self.work - start_work) * extra
        self._shift(moment, seen, growth)
        if self.sequence > start:
            self.spans.append((start + 1, self.sequence, extra))

    def _shift(self, moment: str, seen: Any, growth: Size) -> None:
        """The last copy reaches the counted one's totals plus what the copies between left."""
        if self.symbolic:
            for live in seen or ():
                self._note(moment, live)  # the next layer out reaches more than the last copy
        else:
            last = self.peaks.get(moment, 0) + max(growth, 0)  # type: ignore[type-var]
            self.peaks[moment] = max(last, seen or 0)

    def backward(self, root: Tensor) -> None:
        """Run the graph from a scalar loss. Raises ``InputError`` where it depends on nothing that trains."""
        graph.backward(self, root)
