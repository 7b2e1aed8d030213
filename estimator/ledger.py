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
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

from .symbols import Size, product, term_by_term

ITEMSIZE = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "uint8": 1,
    "bool": 1,
}
"""Bytes per element, by PyTorch's dtype names."""

FLOATING = ("float64", "float32", "bfloat16", "float16")

Shape = tuple[Size, ...]


class Storage:
    """Bytes that live until the last tensor sharing them dies."""

    __slots__ = ("ledger", "nbytes", "resident", "saved")

    def __init__(self, ledger: Ledger, nbytes: Size, resident: bool = False) -> None:
        self.ledger, self.nbytes, self.resident = ledger, nbytes, resident
        self.saved = resident  # counted among the saved bytes, or never to be
        if not resident:
            ledger.allocate(nbytes)

    def __del__(self) -> None:
        if not self.resident:
            self.ledger.free(self.nbytes)


class Tensor:
    """A shape, a dtype and a share in a storage; part of the graph when it requires a gradient.

    ``strides`` is ``None`` for a contiguous tensor. ``node`` is the operator that made it, or
    ``None`` for a leaf.
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
        self.name = ""
        self.copies: Size = 1
        self.added = False

    @property
    def numel(self) -> Size:
        """Number of elements."""
        return product(self.shape)

    @property
    def nbytes(self) -> Size:
        """Bytes of the elements (not of the storage, which a view shares)."""
        return self.numel * ITEMSIZE[self.dtype]

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

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Size]] = []

    def add(self, tensor: Tensor, copies: Size | None = None) -> Tensor:
        """Hold a tensor that was made in a part counted ``copies`` times (if not given, the running one's)."""
        self._held.append((tensor, tensor.ledger.copies if copies is None else copies))
        return tensor

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
        "backward",
        "dtype",
        "edges",
        "gathers",
        "ledger",
        "name",
        "needs",
        "saved",
        "scope",
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
        self.scope = ledger.scope
        self.gathers = False
        """Whether it has several results: their gradients are handed to it side by side, not added up."""
        self.shape: Shape = ()
        self.dtype = ""
        ledger.sequence += 1
        self.sequence = ledger.sequence
        self.needs = [t is not None and t.requires_grad for t in inputs]
        self.edges: list[Node | Accumulator | None] = [ledger.edge(t) for t in inputs]
        self.saved: list[tuple[Any, Callable[[Any], Any]]] = []

    def keep(self, tensor: Tensor) -> None:
        """Hold a tensor until the node has run, without showing it to saved-tensor hooks."""
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
    if not ledger.grad_enabled:
        return make()
    node = Node(name, ledger, inputs, args, backward)
    node.saved = [_NOTHING if t is RESULT else ledger.pack(t, name) for t in saved]  # type: ignore[arg-type]
    out = make()
    for i, t in enumerate(saved):
        if t is RESULT:
            node.saved[i] = ledger.pack(out, name)
    node.shape, node.dtype = out.shape, out.dtype
    out.requires_grad = True
    out.node = node
    return out


def record_views(
    name: str, make: Callable[[], Tensor], count: int, x: Tensor, backward: Backward, *args: Any
) -> list[Tensor]:
    """Run an operator whose ``count`` results are views alike (``split``, ``unbind``): one node for all of them.

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


@dataclass
class Hooks:
    """A pair of saved-tensor hooks (``torch.autograd.graph.saved_tensors_hooks``)."""

    pack: Callable[[Tensor], Any]
    unpack: Callable[[Any], Any]


@dataclass
class Ledger:
    """The running total of one step. ``live`` counts bytes above what was resident before it.

    ``symbolic`` keeps every undominated total as a candidate instead of comparing numbers.
    ``keep_rows`` also keeps one row per saved storage.
    """

    symbolic: bool = False
    keep_rows: bool = False
    live: Size = 0
    saved: Size = 0
    parameters: list[Tensor] = field(default_factory=list)
    buffer_bytes: Size = 0
    rows: list[SavedRow] = field(default_factory=list)
    grad_enabled: bool = True
    autocast: str | None = None
    autocast_cache: dict[int, Tensor] = field(default_factory=dict)
    """Casts of trainable leaves by the leaf's id, held by ``autocast_casts``."""
    autocast_casts: Counted = field(default_factory=Counted)
    hooks: list[Hooks] = field(default_factory=list)
    phase: str = "forward"
    scope: str = "inputs"
    module: str = ""
    sequence: int = 0
    copies: Size = 1
    peaks: dict[str, Any] = field(default_factory=dict)
    _rising: str = ""
    _repeats: list[tuple[int, int, Size]] = field(default_factory=list)

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

    def transient(self, nbytes: Size) -> None:
        """Workspace that an operator takes and gives back before it returns."""
        self.allocate(nbytes)
        self.free(nbytes)

    def empty(self, shape: Shape, dtype: str, strides: Shape | None = None) -> Tensor:
        """A new tensor with a storage of its own; dense, contiguous unless ``strides`` says else."""
        return Tensor(Storage(self, product(shape) * ITEMSIZE[dtype]), shape, dtype, strides)

    def parameter(self, name: str, shape: Shape, dtype: str, requires_grad: bool, added: bool = False) -> Tensor:
        """A parameter: resident before the step, a leaf of the graph; ``added`` by an adapter."""
        tensor = Tensor(Storage(self, product(shape) * ITEMSIZE[dtype], resident=True), shape, dtype)
        tensor.requires_grad, tensor.name, tensor.copies = requires_grad, name, self.copies
        tensor.added = added
        self.parameters.append(tensor)
        return tensor

    def buffer(self, shape: Shape, dtype: str) -> Tensor:
        """A buffer: resident, never trained, not counted as saved."""
        tensor = Tensor(Storage(self, product(shape) * ITEMSIZE[dtype], resident=True), shape, dtype)
        self.buffer_bytes = self.buffer_bytes + tensor.storage.nbytes * self.copies
        return tensor

    def constant(self, shape: Shape, dtype: str) -> Tensor:
        """Data that a module holds without registering it: resident, but no buffer, and it may be saved."""
        tensor = Tensor(Storage(self, product(shape) * ITEMSIZE[dtype], resident=True), shape, dtype)
        tensor.storage.saved = False
        return tensor

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
        if self.hooks:
            hooks = self.hooks[-1]
            return hooks.pack(tensor), hooks.unpack
        storage = tensor.storage
        if not storage.saved:
            storage.saved = True
            self.saved = self.saved + storage.nbytes * self.copies
            if self.keep_rows:
                self.rows.append(
                    SavedRow(self.scope, self.module, operator, tensor.shape, tensor.dtype, storage.nbytes, self.copies)
                )
        return tensor.alias(), _identity

    @contextmanager
    def counted(self, copies: Size) -> Iterator[None]:
        """Build parameters that stand for ``copies`` identical ones."""
        outer, self.copies = self.copies, copies
        yield
        self.copies = outer

    @contextmanager
    def repeated(self, copies: Size) -> Iterator[None]:
        """Run a part of the forward program once and count it ``copies`` times.

        Valid where each copy adds the same amount: a layer between two layers of its kind.
        The backward of the part is counted the same way when the engine gets there.
        """
        extra = copies - 1
        if not extra:
            yield
            return
        start_live, start = self.live, self.sequence
        moment = f"{self.scope} {self.phase}"
        seen = self.peaks.pop(moment, None)
        with self.counted(copies):
            yield
        growth = (self.live - start_live) * extra
        self.live = self.live + growth
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
        assert root.node is not None
        waiting = _count_dependencies(root.node)
        ones = self.empty(root.shape, root.dtype)  # the caller holds it to the end
        buffers: dict[int, Any] = {id(root.node): ones}
        ready: list[tuple[int, int, Node]] = [(-root.node.sequence, 0, root.node)]
        spans = {first: (last, extra) for first, last, extra in self._repeats}
        inside: tuple[int, Size, Size] | None = None
        while ready:
            _, _, node = heapq.heappop(ready)
            if inside is not None and node.sequence < inside[0]:
                self.live = self.live + (self.live - inside[1]) * inside[2]
                inside = None
            if inside is None:
                for first, (last, extra) in spans.items():
                    if first <= node.sequence <= last:
                        inside = (first, self.live, extra)
            self.scope = node.scope
            outputs = self._run(node, buffers.pop(id(node)))
            for i in range(len(outputs)):
                target = node.edges[i]
                if target is None or outputs[i] is None:
                    continue
                key = id(target)
                if isinstance(target, Node) and target.gathers:
                    copies = inside[2] + 1 if inside is not None and target.sequence < inside[0] else 1
                    buffers.setdefault(key, Counted()).add(outputs[i], copies)
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
        if inside is not None:
            self.live = self.live + (self.live - inside[1]) * inside[2]
        self.grad_enabled = enabled
        self._repeats.clear()
        del ones

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
            if value.shape != shape:
                outputs[i] = value = self.empty(shape, value.dtype)
            if value.dtype != dtype:
                outputs[i] = self.empty(shape, dtype, value.strides)
            value = None
        call.grad = None  # type: ignore[assignment]
        grad = None
        node.saved = []
        return outputs


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
        buffers[key] = old.ledger.empty(old.shape, old.dtype, old.strides)


def _store_gradient(leaf: Tensor, grad: Tensor) -> None:
    if leaf.grad is not None:
        return  # added in place
    dense = grad.strides is None or grad.strides == leaf.strides
    # References: the local name and the argument.
    if dense and getrefcount(grad) <= 2:
        leaf.grad = grad.alias()
    else:
        leaf.grad = grad.ledger.empty(leaf.shape, leaf.dtype)
