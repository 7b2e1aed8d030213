"""The ledger: what is live at every moment of a step, kept by reference counting.

A ``Storage`` adds its bytes to the running total when it is made and takes them away when the last
tensor that shares it dies. ``Node`` objects form the backward graph: they hold what their operator
saved and the edges to their inputs, exactly as long as autograd does. A forward program written
like the original module therefore frees its temporaries where PyTorch frees them; no event is
declared by hand.

Sizes are integers, or polynomials when some symbol is left open (``estimator.symbols``). The
module knows nothing of models, operators, PyTorch or files.

Sources of the rules kept here: ``torch/csrc/autograd/engine.cpp`` (order of execution,
``validate_outputs``), ``input_buffer.cpp`` (in-place accumulation), ``saved_variable.cpp``,
``functions/accumulate_grad.h``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from sys import getrefcount
from typing import Any, NamedTuple, Protocol
from weakref import ReferenceType, ref

from .cuda import reduction_workspace
from .errors import InputError, TooLong
from .symbols import Size, product, term_by_term

ITEMSIZE = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "float8_e4m3fn": 1,
    "bool": 1,
    "complex64": 8,
}
"""Bytes per element, by PyTorch's dtype names."""

MOST_WORK = 160_000
"""Tensors that a program may make: some three seconds' work. A model of a hundred layers, each of a kind of its own,
makes 17,000; LoRA with dropout on all linear layers of one of 126, layer by layer, 61,000."""
SYMBOLIC_COST, REPLAYED_COST = 10, 2
"""What a tensor counts where sizes are polynomials, and where a GPU's allocator replays what a ledger records."""

FLOATING = ("float64", "float32", "bfloat16", "float16")

Shape = tuple[Size, ...]


class Storage:
    """Bytes that live until the last tensor sharing them dies."""

    __slots__ = ("__weakref__", "event", "ledger", "nbytes", "resident", "saved")

    def __init__(self, ledger: Ledger, nbytes: Size, resident: bool = False, attribute: bool = False) -> None:
        self.ledger, self.nbytes, self.resident = ledger, nbytes, resident
        self.saved = resident and not attribute  # parameters and buffers are never counted as saved
        if not resident:
            ledger.allocate(nbytes)
        self.event = -1
        if ledger.events is not None and nbytes:  # no allocator is asked for nothing
            self.event = ledger.events.allocated(nbytes, ledger)

    def __del__(self) -> None:
        if not self.resident:
            self.ledger.free(self.nbytes)
        if self.event >= 0:
            self.ledger.events.freed(self.event, self.ledger)  # type: ignore[union-attr]


class Tensor:
    """A shape, a dtype and a share in a storage; part of the graph when it requires a gradient.

    ``strides`` is ``None`` for a contiguous tensor. ``node`` is the operator that made it, or
    ``None`` for a leaf. ``unreached``: a trained parameter without a gradient, since the loss does not depend on it.
    """

    __slots__ = (
        "accumulator",
        "added",
        "copies",
        "dtype",
        "grad",
        "is_view",
        "ledger",
        "name",
        "node",
        "requires_grad",
        "shape",
        "storage",
        "strides",
        "tangent",
        "unreached",
    )

    def __init__(
        self,
        storage: Storage,
        shape: Shape,
        dtype: str,
        strides: Shape | None = None,
        is_view: bool = False,
    ) -> None:
        self.ledger, self.storage = storage.ledger, storage
        self.shape, self.dtype, self.strides = shape, dtype, strides
        self.is_view = is_view
        self.requires_grad = False
        self.node: Node | None = None
        self.accumulator: ReferenceType[Accumulator] | None = None
        self.grad: Tensor | None = None
        self.tangent: Tensor | None = None
        self.name = ""
        self.copies: Size = 1
        self.added = False
        self.unreached = False

    @property
    def numel(self) -> Size:
        """Number of elements."""
        return product(self.shape)

    @property
    def nbytes(self) -> Size:
        """Bytes of the elements (not of the storage, which a view shares)."""
        return self.numel * ITEMSIZE[self.dtype]

    def recast(self, dtype: str) -> None:
        """``x.data = x.data.to(dtype)`` of a resident tensor."""
        self.dtype = dtype
        self.storage = Storage(self.ledger, self.nbytes, resident=True)

    def alias(self) -> Tensor:
        """The same data outside the graph."""
        return Tensor(self.storage, self.shape, self.dtype, self.strides)


class Accumulator:
    """The end of the graph at a leaf: puts the gradient into ``leaf.grad``. Owned by the graph."""

    __slots__ = ("__weakref__", "leaf")

    def __init__(self, leaf: Tensor) -> None:
        self.leaf = leaf


class Counted:
    """Tensors made in a counted part of the program and let go of outside it.

    The running total was told of every copy when the part was counted; so it is when they go,
    unless something else holds the storage.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._held: list[tuple[Tensor, Size]] = []
        self._depth = len(ledger.counts)

    def add(self, tensor: Tensor, copies: Size | None = None) -> Tensor:
        """Hold a tensor that stands for ``copies``, by default those of the parts entered since; returns it."""
        self._held.append((tensor, product(tensor.ledger.counts[self._depth :]) if copies is None else copies))
        return tensor

    @property
    def nbytes(self) -> Size:
        """Bytes of what is held, every copy counted."""
        return sum((tensor.storage.nbytes * copies for tensor, copies in self._held), 0)

    def clear(self) -> None:
        """Let go of everything."""
        while self._held:
            tensor, copies = self._held.pop()
            if getrefcount(tensor.storage) <= 2:  # the tensor's own reference and the argument
                tensor.ledger.free(tensor.storage.nbytes * (copies - 1))

    def __del__(self) -> None:
        self.clear()


Backward = Callable[["Call"], "tuple[Tensor | None, ...]"]


class Call:
    """What a backward rule sees: the incoming gradient, the saved tensors, which inputs want one."""

    __slots__ = ("args", "grad", "ledger", "needs", "saved")

    def __init__(self, node: Node, grad: Tensor) -> None:
        self.ledger, self.grad, self.needs, self.args = node.ledger, grad, node.needs, node.args
        self.saved: list[Any] = [unpack(held) for held, unpack in node.saved]


class Node:
    """One operator in the backward graph."""

    __slots__ = (
        "args",
        "attached",
        "backward",
        "dtype",
        "edges",
        "gathers",
        "ledger",
        "name",
        "needs",
        "saved",
        "scope",
        "segment",
        "sequence",
        "shape",
    )

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        inputs: Sequence[Tensor | None],
        args: tuple[Any, ...],
        backward: Backward,
    ) -> None:
        self.ledger, self.name, self.backward, self.args = ledger, name, backward, args
        self.scope, self.segment = ledger.scope, ledger.segment
        self.gathers = False
        """Whether it has several results: their gradients are handed to it side by side, not added up."""
        self.shape: Shape = ()
        self.dtype = ""
        ledger.sequence += 1
        self.sequence = ledger.sequence
        self.needs = [t is not None and t.requires_grad for t in inputs]
        self.edges: list[Node | Accumulator | None] = [ledger.edge(t) for t in inputs]
        self.saved: list[tuple[Any, Callable[[Any], Any]]] = []
        self.attached: Counted | None = None

    def attach(self, tensor: Tensor) -> None:
        """Hold a tensor as an attribute of a Python function's ``ctx`` does: hooks do not see it, and
        it stays after the node has run, for as long as the loss holds the graph.
        """
        self.attached = self.attached or Counted(self.ledger)
        self.attached.add(tensor.alias(), self.ledger.copies)

    def keep(self, tensor: Tensor) -> None:
        """Hold a tensor until the node has run, without showing it to saved-tensor hooks."""
        if self.ledger.thrown_away is not None:
            self.ledger.thrown_away.add(tensor)
        self.saved.append((tensor, _identity))


def _identity(value: Any) -> Any:
    return value


_NOTHING: tuple[Any, Callable[[Any], Any]] = (None, _identity)


class _Result:
    """Stands in a list of saved tensors for the operator's own result."""


RESULT = _Result()
Saved = Sequence["Tensor | _Result | None"]


def record(
    name: str,
    make: Callable[[], Tensor],
    inputs: Sequence[Tensor | None],
    saved: Saved,
    backward: Backward,
    *args: Any,
) -> Tensor:
    """Run an operator and put it into the backward graph if any input requires a gradient.

    ``make`` allocates the result. ``saved`` lists what the operator saves: inputs, which autograd
    saves before the operator runs, ``RESULT`` for its result, ``None`` where it saves nothing.
    ``backward`` must be a plain function that reaches tensors only through its ``Call``, so that
    nothing else keeps them alive; ``args`` are plain values handed to it.
    """
    for tensor in inputs:
        if tensor is not None and tensor.requires_grad:
            ledger = tensor.ledger
            break
    else:
        return make()
    if ledger.forward_mode is not None:
        return ledger.forward_mode(name, make, inputs)
    if not ledger.grad_enabled:
        return make()
    node = Node(name, ledger, inputs, args, backward)
    node.saved = [_NOTHING if t is RESULT else ledger.pack(t, name) for t in saved]  # type: ignore[arg-type]
    out = make()
    node.shape, node.dtype = out.shape, out.dtype
    out.requires_grad = True
    out.node = node
    for i, t in enumerate(saved):
        if t is RESULT:
            node.saved[i] = ledger.pack(out, name)
    return out


def record_views(
    name: str, make: Callable[[], Tensor], count: int, x: Tensor, backward: Backward, *args: Any
) -> list[Tensor]:
    """Run an operator whose ``count`` results are views (``split``, ``unbind``): one node for all of them. ``make``
    gives the next one.

    Its backward rule allocates the gradient of ``x`` while all of theirs are alive; ``Call.grad`` holds them.
    """
    first = record(name, make, (x,), (), backward, *args)
    views = [first, *(make() for _ in range(count - 1))]
    if first.node is not None:
        first.node.gathers = True
        for view in views:
            view.requires_grad, view.node = True, first.node
    return views


class SavedRow(NamedTuple):
    """One storage saved for backward, as a reader of the ledger sees it."""

    scope: str
    module: str
    operator: str
    shape: Shape
    dtype: str
    nbytes: Size
    copies: Size


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
        result already there: where the library gets its workspace (``estimator/runtimes/cublas.py``)."""

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


@dataclass
class Ledger:
    """The running total of one step. ``live`` counts bytes above what was resident before it.

    ``symbolic`` keeps every undominated total as a candidate instead of comparing numbers.
    ``keep_rows`` also keeps one row per saved storage.
    """

    symbolic: bool = False
    keep_rows: bool = False
    device: str = "cpu"
    """Whose kernels run: ``cpu`` or ``cuda``."""
    capability: tuple[int, int] = (8, 0)
    """Compute capability of a CUDA device: which attention kernels there are."""
    sdpa_kernel: str | None = None
    """The attention kernel that the program restricts PyTorch to, on a CUDA device."""
    pinned: Pinned = field(default_factory=Pinned)
    math_attention: str = ""
    """Why PyTorch fell back on its math attention on a CUDA device, where it did."""
    multiprocessors: int = 108
    """Streaming multiprocessors of a CUDA device, by default an A100's: how far reductions are spread."""
    unrolled: bool = False
    """Whether every one of equal layers and chunks is run, instead of one that is counted."""
    outlined: bool = False
    """Whether an unrolled program leaves out layers that do as their neighbours do (``architectures/base.py``)."""
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
    """Runs operators with tangents (``estimator.forward_mode``) instead of putting them into a graph."""
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
    _repeats: list[tuple[int, int, Size]] = field(default_factory=list)

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

    def transient(self, nbytes: Size) -> None:
        """Workspace that an operator takes and gives back before it returns."""
        Storage(self, nbytes)

    def reduction(self, x: Tensor, reduced: Sequence[bool]) -> None:
        """Workspace that a GPU takes to sum ``x`` over some of its dimensions (or to take a mean or a norm).

        Left out where a size is a symbol.
        """
        if self.device == "cpu":
            return
        strides = x.strides
        if strides is None:
            strides = tuple(product(x.shape[i + 1 :]) for i in range(len(x.shape)))
        if all(isinstance(size, int) for size in (*x.shape, *strides)):
            shape: Any = x.shape
            sizes = reduction_workspace(shape, strides, reduced, self.capability, self.multiprocessors)  # type: ignore[arg-type]
            held = [Storage(self, nbytes) for nbytes in sizes or ()]
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
        return 0 if host and self.device != "cpu" else product(shape) * ITEMSIZE[dtype]

    def next_forward(self) -> None:
        """Start to count what is saved anew."""
        self.saved, self.rows = 0, []
        for storage in self.attributes:
            storage.saved = False

    def untracked(self, make: Callable[[], Tensor]) -> Tensor:
        """Run what an ``autograd.Function`` does in its forward: no operator in it is recorded."""
        enabled, self.grad_enabled = self.grad_enabled, False
        out = make()
        self.grad_enabled = enabled
        return out

    # ---- graph ---------------------------------------------------------------------------

    def edge(self, tensor: Tensor | None) -> Node | Accumulator | None:
        """Where a tensor's gradient goes: its operator, its accumulator, or nowhere."""
        if tensor is None or not tensor.requires_grad:
            return None
        if tensor.node is not None:
            return tensor.node
        accumulator = None if tensor.accumulator is None else tensor.accumulator()
        if accumulator is None:
            accumulator = Accumulator(tensor)
            tensor.accumulator = ref(accumulator)
        return accumulator

    def pack(self, tensor: Tensor | None, operator: str) -> tuple[Any, Callable[[Any], Any]]:
        """Save a tensor for backward, through the innermost hook if there is one."""
        if tensor is None:
            return _NOTHING
        self.operator = operator
        if self.hooks:
            hooks = self.hooks[-1]
            return hooks.pack(tensor), hooks.unpack
        return self.hold(tensor), _identity

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
            self._repeats.append((start + 1, self.sequence, extra))

    def _shift(self, moment: str, seen: Any, growth: Size) -> None:
        """The last copy reaches the counted one's totals plus what the copies between left."""
        if self.symbolic:
            for live in seen or ():
                self._note(moment, live)  # the next layer out reaches more than the last copy
        else:
            last = self.peaks.get(moment, 0) + max(growth, 0)  # type: ignore[type-var]
            self.peaks[moment] = max(last, seen or 0)

    def backward(self, root: Tensor) -> None:
        """Run the graph from a scalar loss, newest operator first, as autograd's engine does."""
        self.phase = "backward"
        enabled, self.grad_enabled = self.grad_enabled, False
        if root.node is None:
            raise InputError(
                "the loss depends on nothing that trains, so PyTorch's backward refuses to run; train something that "
                "it depends on (OFT with num_cayley_neumann_terms 1 rotates nothing), or set task infer"
            )
        waiting = _count_dependencies(root.node)
        ones = self.empty(root.shape, root.dtype)  # the caller holds it to the end
        buffers: dict[int, Any] = {id(root.node): ones}
        ready: list[tuple[int, int, Node]] = [(-root.node.sequence, 0, root.node)]
        spans = sorted(self._repeats)  # an outer one before those in it
        inside: list[tuple[int, Size, Size, Size]] = []
        while ready:
            _, _, node = heapq.heappop(ready)
            self._leave(inside, node.sequence)
            for first, last, extra in spans:
                if first <= node.sequence <= last and (not inside or first > inside[-1][0]):
                    inside.append((first, self.live, self.work, extra))
            self.scope, self.segment = node.scope, node.segment
            outputs = self._run(node, buffers.pop(id(node)))
            for i in range(len(outputs)):
                target = node.edges[i]
                if target is None or outputs[i] is None:
                    continue
                key = id(target)
                if isinstance(target, Node) and target.gathers:
                    copies = product([extra + 1 for first, *_, extra in inside if target.sequence < first])
                    buffers.setdefault(key, Counted(self)).add(outputs[i], copies)
                elif key in buffers:
                    _accumulate(buffers, key, outputs[i])  # type: ignore[arg-type]
                else:
                    buffers[key] = outputs[i]
                outputs[i] = None
                waiting[key] -= 1
                if waiting[key]:
                    continue
                if isinstance(target, Accumulator):
                    _store_gradient(target.leaf, buffers.pop(key))
                else:
                    heapq.heappush(ready, (-target.sequence, key, target))
        self._leave(inside, 0)
        self.grad_enabled, self.segment = enabled, -1
        self._repeats.clear()
        del ones

    def _leave(self, inside: list[tuple[int, Size, Size, Size]], sequence: int) -> None:
        """Count the other copies of the parts that lie wholly behind."""
        while inside and sequence < inside[-1][0]:
            _, live, work, extra = inside.pop()
            self.live = self.live + (self.live - live) * extra
            self.work = self.work + (self.work - work) * extra

    def _run(self, node: Node, grad: Any) -> list[Tensor | None]:
        call = Call(node, grad)
        outputs = list(node.backward(call))
        call.saved = []
        for i, target in enumerate(node.edges):
            value = outputs[i]
            if target is None or value is None:
                outputs[i] = None
                continue
            shape, dtype = (
                (target.leaf.shape, target.leaf.dtype)
                if isinstance(target, Accumulator)
                else (target.shape, target.dtype)
            )
            if value.shape != shape and not (isinstance(target, Node) and target.gathers):
                outputs[i] = value = _summed(value, shape)
            if value.dtype != dtype:
                outputs[i] = self.empty(value.shape, dtype, value.strides)
            value = None
        call.grad = None  # type: ignore[assignment]
        grad = None
        node.saved = []
        return outputs


def summed_dimensions(shape: Shape, to: Shape) -> list[bool]:
    """Which dimensions go where a tensor is summed to a shape that broadcasts to its own."""
    padded = (1,) * (len(shape) - len(to)) + to
    return [before != after for before, after in zip(shape, padded, strict=True)]


def _summed(value: Tensor, shape: Shape) -> Tensor:
    """``at::sum_to``. A CPU sums 16-bit numbers over dimensions that are not neighbours in float32, of a copy."""
    ledger = value.ledger
    out = ledger.empty(shape, value.dtype)
    reduced = summed_dimensions(value.shape, shape)
    ledger.reduction(value, reduced)
    within = [gone for gone, before in zip(reduced, value.shape, strict=True) if before != 1]
    groups = sum(now and not before for before, now in zip([False, *within], within, strict=False))
    if ledger.device == "cpu" and groups > 1 and ITEMSIZE[value.dtype] == 2:
        ledger.transient(out.numel * 4 + value.numel * 4)
    out.is_view = len(value.shape) > len(shape)  # of the sum that keeps its dimensions
    return out


def _count_dependencies(root: Node) -> dict[int, int]:
    waiting: dict[int, int] = {}
    stack, seen = [root], {id(root)}
    while stack:
        for target in stack.pop().edges:
            if target is None:
                continue
            waiting[id(target)] = waiting.get(id(target), 0) + 1
            if isinstance(target, Node) and id(target) not in seen:
                seen.add(id(target))
                stack.append(target)
    return waiting


def _accumulate(buffers: dict[int, Tensor], key: int, new: Tensor) -> None:
    """Add a second gradient: in place if the buffer holds the last reference to dense data."""
    old = buffers[key]
    # References: the buffer, the local name, the argument of getrefcount; one storage reference
    # is the tensor's own, one the argument's.
    alone = getrefcount(old) <= 3 and getrefcount(old.storage) <= 2 and not old.is_view
    if not alone:
        buffers[key] = old.ledger.empty(old.shape, old.dtype, old.strides if _dense(old) else None)


def _dense(x: Tensor) -> bool:
    """Whether strides other than the contiguous ones leave no gaps (they do in the real part of a complex tensor)."""
    if x.strides is None:
        return True
    last: Size = sum(((size - 1) * stride for size, stride in zip(x.shape, x.strides, strict=True)), 0)
    return last + 1 == x.numel


def _store_gradient(leaf: Tensor, grad: Tensor) -> None:
    if leaf.grad is not None:
        return  # added in place
    hooks = leaf.ledger.gradient_hooks
    if hooks is not None:
        hooks.before_gradient(leaf)
    dense = grad.strides is None or grad.strides == leaf.strides
    # References: the local name and the argument.
    if dense and getrefcount(grad) <= 2:
        leaf.grad = grad.alias()
    else:
        leaf.grad = grad.ledger.empty(leaf.shape, leaf.dtype)
    if leaf.ledger.events is not None:
        leaf.ledger.events.gradients[leaf.grad.storage.event] = leaf.name
    if hooks is not None:
        hooks.after_gradient(leaf)
