"""Storages, tensors that share them, and the running total of a step: peaks, counted parts, saved-tensor hooks.

A ``Storage`` adds its bytes to the running total when it is made, and takes them off when its last tensor dies.

Source: ``torch/csrc/autograd/saved_variable.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from weakref import ReferenceType, WeakKeyDictionary, ref

from ..errors import TooLong
from .events import Events
from .refcounts import shares_its_storage
from .sizes import Size, product, term_by_term

ITEMSIZE = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "float8_e4m3fn": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes per element, by PyTorch's dtype names."""

FLOATING = ("float64", "float32", "bfloat16", "float16")

Shape = tuple[Size, ...]


class Storage:
    """Bytes that live until the last tensor sharing them dies.

    A ``resident`` storage was there before the step and is not in the running total. It is never counted as saved
    either, unless it is an ``attribute`` (``Ledger.attribute``).
    """

    __slots__ = ("__weakref__", "event", "ledger", "nbytes", "resident", "saved")

    def __init__(self, ledger: Ledger, nbytes: Size, resident: bool = False, attribute: bool = False) -> None:
        self.ledger, self.nbytes, self.resident = ledger, nbytes, resident
        self.saved = resident and not attribute  # what is saved already is not counted as saved again
        if not resident:
            ledger.allocate(nbytes)
        self.event = -1
        if ledger.events is not None and nbytes:  # an allocator is not called for zero bytes
            self.event = ledger.events.allocated(nbytes, ledger)

    def unload(self) -> None:
        """Free a resident storage, which may be given bytes again by ``resize``."""
        self.resident, self.nbytes = False, 0
        self._freed()

    def _freed(self) -> None:
        if self.event >= 0 and self.ledger.events is not None:
            self.ledger.events.freed(self.event, self.ledger)
            self.event = -1

    def resize(self, nbytes: Size) -> None:
        """``UntypedStorage.resize_`` of what is no resident storage: its bytes are freed, and others allocated.

        All tensors that share it have the new bytes.
        """
        ledger = self.ledger
        if self.nbytes:
            ledger.free(self.nbytes)
            self._freed()
        self.nbytes = nbytes
        if nbytes:
            ledger.allocate(nbytes)
            if ledger.events is not None:
                self.event = ledger.events.allocated(nbytes, ledger)

    def __del__(self) -> None:
        if not self.resident:
            self.ledger.free(self.nbytes)
        self._freed()


class Tensor:
    """A shape, a dtype and a share in a storage; part of the graph when it requires a gradient.

    ``strides``, in elements, is ``None`` for a contiguous tensor. ``node`` is the operator that made it, ``None`` for a
    leaf, and ``number`` which of its results this is. ``copies`` is how many identical parameters this one stands for.
    ``added``: see ``Ledger.parameter``. ``whole``: of a shard, its parameter (``Ledger.shard``). ``unreached``: a
    trained parameter that gets no gradient, since the loss does not depend on it. ``base``: of which tensor this one is
    a view, or what views of it share.
    """

    __slots__ = (
        "__weakref__",
        "accumulator",
        "added",
        "base",
        "copies",
        "dtype",
        "grad",
        "is_view",
        "ledger",
        "name",
        "node",
        "number",
        "requires_grad",
        "shape",
        "storage",
        "strides",
        "tangent",
        "unreached",
        "whole",
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
        self.base: Base | None = None
        self.requires_grad = False
        self.node: Any = None
        self.number = 0
        self.accumulator: ReferenceType[Any] | None = None
        self.grad: Tensor | None = None
        self.tangent: Tensor | None = None
        self.name = ""
        self.copies: Size = 1
        self.added = False
        self.unreached = False
        self.whole: Tensor | None = None

    @property
    def numel(self) -> Size:
        """Number of elements."""
        return product(self.shape)

    @property
    def nbytes(self) -> Size:
        """Bytes of the elements (not of the storage, which a view shares)."""
        return self.numel * ITEMSIZE[self.dtype]

    @property
    def is_dense(self) -> bool:
        """Whether the elements leave no gaps in memory. The real part of a complex tensor, for one, does."""
        if self.strides is None:
            return True
        last: Size = sum(((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)), 0)
        return last + 1 == self.numel

    def recast(self, dtype: str) -> None:
        """``x.data = x.data.to(dtype)``, for a resident tensor."""
        self.dtype = dtype
        self.storage = Storage(self.ledger, self.nbytes, resident=True)

    def view(self, shape: Shape, dtype: str, strides: Shape | None) -> Tensor:
        """A view. What is written to it in place, this tensor gets too (``operators/in_place.py``)."""
        out = Tensor(self.storage, shape, dtype, strides, is_view=True)
        if self.base is None:
            self.base = Base(self)
        out.base = self.base
        return out

    @property
    def has_base(self) -> bool:
        """Whether the tensor is a view of another one, in autograd's sense."""
        return self.base is not None and self.base.tensor() is not self

    def alias(self) -> Tensor:
        """A tensor of the same storage, shape and strides that is outside the graph (``x.detach()``)."""
        return Tensor(self.storage, self.shape, self.dtype, self.strides)


class Base:
    """The tensor that views are of, as the views know it: its layout, and the operator that wrote it last.

    A view keeps it, as a view of autograd keeps its base. It has no share in the storage.
    """

    __slots__ = ("dtype", "node", "number", "requires_grad", "shape", "strides", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = ref(tensor)
        self.shape, self.dtype, self.strides = tensor.shape, tensor.dtype, tensor.strides
        self.node, self.number, self.requires_grad = tensor.node, tensor.number, tensor.requires_grad

    def written(self, node: Any) -> None:
        """An operator wrote to the base or to a view of it: from now on, the base is that operator's result."""
        self.node, self.number, self.requires_grad = node, 0, node is not None
        tensor = self.tensor()
        if tensor is not None:
            tensor.node, tensor.number, tensor.requires_grad = self.node, self.number, self.requires_grad


class Counted:
    """Tensors that are made in a counted part of the program and freed outside of it.

    When the part was counted, the running total grew by all its copies. So when a tensor dies here, its other copies
    are taken off too, unless something else holds the storage.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._held: list[tuple[Tensor, Size]] = []
        self._depth = len(ledger.enclosing)

    def add(self, tensor: Tensor, copies: Size | None = None) -> Tensor:
        """Hold a tensor and return it. ``copies``: by default those of the parts entered since this object was made."""
        self._held.append((tensor, product(tensor.ledger.enclosing[self._depth :]) if copies is None else copies))
        return tensor

    def __iter__(self) -> Iterator[tuple[Tensor, Size]]:
        return iter(self._held)

    def copy(self, place: int, shape: Shape | None = None) -> Tensor:
        """Put a copy of what a tensor shows, or of a part of this shape, in its place. Returns the tensor."""
        tensor, copies = self._held[place]
        self._held[place] = tensor.ledger.empty(shape or tensor.shape, tensor.dtype), copies
        return tensor

    def clear(self) -> None:
        """Free everything."""
        while self._held:
            tensor, copies = self._held.pop()
            if not shares_its_storage(tensor):
                tensor.ledger.free(tensor.storage.nbytes * (copies - 1))

    def __del__(self) -> None:
        self.clear()


MOST_WORK = 160_000
"""The most tensors that a step may make: about three seconds of work. A hundred layers that all differ make 17,000.
LoRA with dropout on every linear layer of 126 layers, each layer run, makes 61,000."""
SYMBOLIC_COST, REPLAYED_COST = 10, 2
"""What one tensor counts towards ``MOST_WORK``: if sizes are polynomials, and if events are logged."""


class Input(NamedTuple):
    """What the graph says of an operator's input.

    ``parameter`` is the name of the only leaf that its gradient reaches, by way of these operators; the name is empty
    where there are several, or more than ``FARTHEST`` operators between.
    """

    requires_grad: bool
    parameter: str = ""
    through: tuple[str, ...] = ()


FARTHEST = 8
"""The most operators between an operator's input and the leaf that it is made of."""


def input_of(tensor: Tensor) -> Input:
    """What the graph says of a tensor now. Keeps no tensor alive."""
    if not tensor.requires_grad:
        return Input(False)
    if tensor.node is None:
        return Input(True, tensor.name)
    node, through = tensor.node, [tensor.node.name]
    while len(through) <= FARTHEST:
        edges = [edge for edge in node.edges if edge is not None]
        if len(edges) != 1:
            break
        target = edges[0].target
        if (leaf := getattr(target, "leaf", None)) is not None:
            return Input(True, leaf.name, tuple(through))
        node = target
        through.append(node.name)
    return Input(True)


def identity(value: Any) -> Any:
    """The unpack function of a tensor that no hook changed."""
    return value


NOTHING: tuple[Any, Callable[[Any], Any]] = (None, identity)
"""What a node holds in place of a saved tensor where its operator saves none."""


class SavedRow(NamedTuple):
    """One storage saved for backward: the operator that saved it first, and how many ``copies`` the row stands for."""

    scope: str
    module: str
    operator: str
    shape: Shape
    dtype: str
    nbytes: Size
    copies: Size


class SavedBy(NamedTuple):
    """One operator that holds a saved storage: the storage's place in ``Ledger.rows``, and what it is to the operator.

    ``position`` is the place among the tensors that the operator saves, ``inputs`` are the operator's. ``instead``:
    saved-tensor hooks hold this storage in place of the tensor. ``segment`` and ``group``: see ``Ledger``.
    """

    row: int
    within: str
    segment: int
    group: int
    operator: str
    position: int
    inputs: tuple[Input | None, ...]
    instead: bool


class _Saving(NamedTuple):
    """The tensor that an operator saves now: its storage's ``id``, and what ``SavedBy`` says of it."""

    storage: int
    position: int
    inputs: tuple[Input | None, ...]


class Device(Protocol):
    """What the ledger asks of a device."""

    @property
    def has_own_memory(self) -> bool:
        """Whether it has memory apart from the host's."""

    def workspace_of_sum(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """Bytes of each temporary tensor of a sum over the ``reduced`` dimensions, its result left out."""


class Pinned:
    """Pinned memory of the host. A freed block is reused only for a request of the same size."""

    def __init__(self) -> None:
        self._live: dict[int, int] = {}
        self._most: dict[int, int] = {}

    def take(self, block: int, count: int) -> None:
        """Take ``count`` blocks of ``block`` bytes each; a negative count gives them back."""
        self._live[block] = self._live.get(block, 0) + count
        self._most[block] = max(self._live[block], self._most.get(block, 0))

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks: for each size, the most that were in use at once."""
        return sum(block * count for block, count in self._most.items())


APART = " | "
"""Stands between a moment and an operator in it."""


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
        """Called after the gradient is stored (``Tensor.register_post_accumulate_grad_hook``)."""


@dataclass(eq=False, repr=False)
class Ledger:
    """The running total of one step: ``live`` is the bytes of all storages that exist now.

    Resident storages (parameters, buffers) were there before the step and are not in ``live``. A moment is a scope (a
    part of the model) and a phase of the step, such as "inner block backward"; ``peaks`` has the largest total of each.
    Which of two polynomials is larger may depend on the symbols. So a ``symbolic`` ledger lists the totals of a moment,
    without those that do not exceed another one in any term (``term_by_term``).

    A counted part is run once and stands for several identical ones, its ``copies``: an inner layer stands for all
    inner layers. What it adds to the totals is multiplied by its copies (``counted``).
    """

    device: Any
    """Whose kernels run. Operator rules ask it for whatever differs between devices; the ledger needs a ``Device``."""
    symbolic: bool = False
    """Sizes may be polynomials."""
    keep_rows: bool = False
    """Whether ``rows`` lists each saved storage, and ``saved_by`` the operators that hold it."""
    pinned: Pinned = field(default_factory=Pinned)
    host: Ledger | None = None
    """That of the host's memory, where parts of a model on a device with memory of its own rest there."""
    notes: dict[str, str] = field(default_factory=dict)
    """Remarks of rules for the reader of the result, by subject."""
    cached: tuple[str, str] = ("", "")
    """The dtypes of the keys and of the values that a cache was given last."""
    unrolled: bool = False
    """Every one of equal layers and chunks is run: no part is counted."""
    apart: bool = False
    """``peaks`` has the largest total of each operator in a moment: which of two is larger depends on numbers that
    become symbols later.
    """
    outlined: bool = False
    """An unrolled program leaves out inner layers, which the reader of ``events`` adds (``programs/layer_runs.py``)."""
    segment: int = -1
    """Number of the layer that runs now, or of the layers that one checkpoint spans; -1 outside the layers."""
    group: int = 0
    """Which of the segment's groups of layers runs now."""
    turn: int = 0
    """Which pass of an outlined loop runs now (``Events``): three numbers for each loop, which are those of the pass
    before the one that stands for many, of this one, and of the last. Outside of them it is 0."""
    events: Events | None = None
    """The log of allocations, if one is kept. It needs ``unrolled``."""
    counts_work: bool = False
    """Whether ``work`` is counted."""
    work: Size = 0
    """Floating-point operations of the matrix products so far, recomputed ones included."""
    work_before: list[Size] = field(default_factory=list)
    """The work done where each forward pass began, and the update behind them."""
    live: Size = 0
    saved: Size = 0
    """Bytes saved for backward in this forward pass, each storage once."""
    parameters: list[Tensor] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)
    constants: list[Tensor] = field(default_factory=list)
    buffer_bytes: Size = 0
    """Bytes of the buffers, copies included."""
    attributes: list[Storage] = field(default_factory=list)
    borrowed: dict[str, Tensor] | None = None
    """While a second model is made of another one's weights: these, by name. Its buffers are the other's, too."""
    masters: list[Tensor] = field(default_factory=list)
    """Copies of sharded parameters that the optimizer updates in their place."""
    rows: list[SavedRow] = field(default_factory=list)
    saved_by: list[SavedBy] = field(default_factory=list)
    grad_enabled: bool = True
    training: bool = True
    """The model is in train mode: dropout acts."""
    sequences: Size = 0
    """Sequences of a packed row, for kernels that take their lengths; 0 without one."""
    inference_mode: bool = False
    """``torch.inference_mode``, in which autocast caches no casts."""
    forward_mode: Callable[[str, Callable[[], Tensor], Sequence[Tensor | None]], Tensor] | None = None
    """If set, runs each operator with its tangents (``operators/forward_mode.py``). No backward graph is made."""
    autocast: str | None = None
    """The dtype of autocast, while it is on."""
    autocast_cache: dict[int, Tensor] = field(default_factory=dict)
    """Autocast's casts of trained parameters, by the parameter's ``id``; ``autocast_casts`` holds the same tensors."""
    autocast_casts: Counted = field(init=False)
    thrown_away: Counted | None = None
    """While a checkpoint recomputes: what the new graph holds. That graph is dropped, and its backward never runs."""
    hooks: list[Hooks] = field(default_factory=list)
    gradient_hooks: GradientHooks | None = None
    after_backward: Callable[[], None] | None = None
    """Called at the end of a backward pass (``Variable._execution_engine.queue_callback``)."""
    full_tensor: Callable[[Tensor], Tensor] | None = None
    """Gathers a parameter that is sharded now (``DTensor.full_tensor``), where parameters are DTensors."""
    module_hooks: dict[str, Any] = field(default_factory=dict)
    """By the paths of modules that a method adds, what is called around them (``programs/step.py: ModuleHooks``)."""
    tensor_hooks: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """By the names of trained parameters, what replaces their gradients (``Tensor.register_hook``)."""
    phase: str = "forward"
    scope: str = "inputs"
    module: str = ""
    """The path of the module that was entered last, or what else names a part of the model."""
    within: str = ""
    """The path of the module that runs; empty outside of modules."""
    frozen: frozenset[str] = frozenset()
    """Paths of frozen modules, which do not ask for a gradient of what they are given either."""
    operator: str = ""
    """The operator that saved a tensor last."""
    running: str = ""
    """The operator that runs, where its name is known."""
    stream: str = ""
    """The CUDA stream that tensors are made on; empty for the one that computes."""
    sequence: int = 0
    """How many nodes the backward graph has had: the newest node's number."""
    copies: Size = 1
    """How many identical tensors a tensor made now stands for: the product of ``enclosing``."""
    enclosing: list[Size] = field(default_factory=list)
    """Copies of each counted part that the program is in now, outermost first."""
    linear: Callable[..., Tensor] | None = None
    """What takes the place of ``F.linear`` where gradients are kept: called with its arguments and the original."""
    products: Callable[[Callable[[], Tensor]], Tensor] | None = None
    """Selective checkpointing's replacement for making the result of a matrix product."""
    peaks: dict[str, Any] = field(default_factory=dict)
    """The largest total of each moment, in bytes; a list of totals if the ledger is ``symbolic``."""
    work_left: int = MOST_WORK
    """How many more tensors the step may make."""
    _saving: _Saving | None = None
    _row_of: WeakKeyDictionary[Storage, int] = field(default_factory=WeakKeyDictionary)
    """The places in ``rows`` of the storages that are saved."""
    _rising: str = ""
    """The moment of the last allocation, while a symbolic total only rises (``settle``)."""
    counted_spans: list[tuple[int, int, Size]] = field(default_factory=list)
    """Counted parts in the backward graph: the first and the last node's number, and the copies that are not run."""

    def __post_init__(self) -> None:
        self.autocast_casts = Counted(self)

    def allocate(self, nbytes: Size) -> None:
        """Add bytes to the running total, and note it if it is a new peak.

        Of a log with symbols nobody asks for totals.
        """
        if self.symbolic and self.events is not None:
            return
        moment = self._moment
        if self._rising and self._rising != moment:
            self.settle()
        self.live = live = self.live + nbytes
        if self.symbolic:
            self._rising = moment
        elif live > self.peaks.get(moment, -1):
            self.peaks[moment] = live

    @property
    def _moment(self) -> str:
        moment = f"{self.scope} {self.phase}"
        return f"{moment}{APART}{self.within} {self.running}" if self.apart else moment

    def free(self, nbytes: Size) -> None:
        """Take bytes off the running total."""
        if self.symbolic and self.events is not None:
            return
        if self._rising:
            self.settle()
        self.live = self.live - nbytes

    def settle(self) -> None:
        """Note a symbolic total that has only risen, before anything but an allocation of its moment changes it."""
        if self._rising:
            self._note(self._rising, self.live)
            self._rising = ""

    def mark(self, part: str) -> None:
        """Note in the log, if one is kept, that a part of the step starts here."""
        if self.events is not None:
            self.events.mark(part)

    def clear_autocast_cache(self) -> None:
        """Leave the autocast context: casts that no operator saved are freed."""
        self.autocast_cache.clear()
        self.autocast_casts.clear()

    def _note(self, moment: str, live: Size) -> None:
        """Note a symbolic total unless it exceeds a noted one in no term; drop noted ones that do not exceed it."""
        known: list[Size] = self.peaks.setdefault(moment, [])
        for other in known:
            if term_by_term(other, live):
                return
        known[:] = [other for other in known if not term_by_term(live, other)]
        known.append(live)

    def multiply(self, *sizes: Size) -> None:
        """Note the work of a matrix product: two operations for each combination of indices within ``sizes``."""
        if self.counts_work:
            self.work = self.work + 2 * product(sizes)

    def transient(self, *sizes: Size) -> None:
        """Temporaries of an operator, freed before it returns: the bytes of each. All exist at once."""
        held = [Storage(self, nbytes) for nbytes in sizes]
        del held

    def empty(self, shape: Shape, dtype: str, strides: Shape | None = None) -> Tensor:
        """A new tensor with its own storage of exactly its elements; contiguous unless ``strides`` are given.

        Raises ``TooLong`` when the step has made too many tensors.
        """
        self.work_left -= REPLAYED_COST if self.events is not None else SYMBOLIC_COST if self.symbolic else 1
        if self.work_left < 0:
            raise TooLong(
                f"this plan makes more than {MOST_WORK:,} tensors, which are the most that are gone through; ask about "
                "fewer layers, a smaller rank, fewer steps of the method, or fewer chunks"
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
        """A parameter: resident, and a leaf of the graph. ``added``: the fine-tuning method adds it to the model.

        ``nbytes`` is the storage's size, given where several elements are packed into one.
        """
        if self.borrowed is not None:
            return self.borrowed[name]
        size = product(shape) * ITEMSIZE[dtype] if nbytes is None else nbytes
        tensor = Tensor(Storage(self, size, resident=True), shape, dtype)
        tensor.requires_grad, tensor.name, tensor.copies = requires_grad, name, self.copies
        tensor.added = added
        self.parameters.append(tensor)
        return tensor

    def shard(self, whole: Tensor, shape: Shape, host: Ledger | None = None) -> Tensor:
        """Put a shard in a parameter's place, as what is resident and updated. Given a ``host``, it rests there.

        The parameter itself stays in its modules. It has no bytes until its storage is given some (``resize``), and it
        is never counted as saved.
        """
        home = host or self
        local = Tensor(Storage(home, product(shape) * ITEMSIZE[whole.dtype], resident=True), shape, whole.dtype)
        for name in ("requires_grad", "name", "copies", "added", "unreached"):
            setattr(local, name, getattr(whole, name))
        local.whole = whole
        whole.storage.unload()
        place = next(i for i, p in enumerate(self.parameters) if p is whole)
        if home is self:
            self.parameters[place] = local
        else:
            del self.parameters[place]
            home.parameters.append(local)
        return local

    def buffer(self, shape: Shape, dtype: str, host: bool = False, storage: Size | None = None) -> Tensor:
        """A buffer: resident, never trained, never counted as saved.

        ``host``: it stays in the host's memory, so on a GPU it counts zero bytes. ``storage``: the elements of its
        storage, where it is a view of more.
        """
        held = shape if storage is None else (storage,)
        tensor = Tensor(Storage(self, self._resident_bytes(held, dtype, host), resident=True), shape, dtype)
        tensor.copies = self.copies
        if self.borrowed is None:
            self.buffer_bytes = self.buffer_bytes + tensor.storage.nbytes * self.copies
            self.buffers.append(tensor)
        return tensor

    def constant(self, shape: Shape, dtype: str) -> Tensor:
        """A constant of a quantised weight that no module registers: it counts as a buffer, and is not broadcast."""
        tensor = self.buffer(shape, dtype)
        if self.borrowed is None:
            self.constants.append(self.buffers.pop())
        return tensor

    def attribute(self, shape: Shape, dtype: str, host: bool = False) -> Tensor:
        """A plain tensor attribute of a module: resident, but counted as saved if saved. ``host``: see ``buffer``."""
        storage = Storage(self, self._resident_bytes(shape, dtype, host), resident=True, attribute=True)
        self.attributes.append(storage)
        return Tensor(storage, shape, dtype)

    def _resident_bytes(self, shape: Shape, dtype: str, host: bool) -> Size:
        device: Device = self.device
        return 0 if host and device.has_own_memory else product(shape) * ITEMSIZE[dtype]

    def next_forward(self) -> None:
        """Count saved bytes from zero again, for the next forward pass."""
        self.saved, self.rows, self.saved_by = 0, [], []
        self._row_of.clear()
        for storage in self.attributes:
            storage.saved = False

    def pack(
        self, tensor: Tensor | None, operator: str, position: int, inputs: Sequence[Tensor | None]
    ) -> tuple[Any, Callable[[Any], Any]]:
        """Save a tensor for backward, through the innermost saved-tensor hooks if there are any.

        ``position`` and ``inputs``: see ``SavedBy``. Returns what the node holds, and the function that gives the
        tensor back in backward.
        """
        if tensor is None:
            return NOTHING
        self.operator = operator
        if self.keep_rows:
            described = tuple(None if x is None else input_of(x) for x in inputs)
            self._saving = _Saving(id(tensor.storage), position, described)
        if self.hooks:
            hooks = self.hooks[-1]
            return hooks.pack(tensor), hooks.unpack
        return self.save(tensor), identity

    def save(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage as saved, unless it is already; returns the tensor for the node to hold."""
        storage = tensor.storage
        if not storage.saved:
            storage.saved = True
            if self.events is not None and storage.event >= 0:
                self.events.saved.add(storage.event)
            self.saved = self.saved + storage.nbytes * self.copies
            if self.keep_rows:
                self._row_of[storage] = len(self.rows)
                self.rows.append(
                    SavedRow(
                        self.scope, self.module, self.operator, tensor.shape, tensor.dtype, storage.nbytes, self.copies
                    )
                )
        if self.keep_rows and (row := self._row_of.get(storage)) is not None:
            storage_id, position, inputs = self._saving or _Saving(id(storage), 0, ())
            self.saved_by.append(
                SavedBy(
                    row,
                    self.within,
                    self.segment,
                    self.group,
                    self.operator,
                    position,
                    inputs,
                    instead=storage_id != id(storage),
                )
            )
        return tensor.alias()

    def save_product(self, tensor: Tensor) -> Tensor:
        """Save the result of a matrix product or an attention kernel, whether or not a node needs it."""
        self.operator, self._saving = "product", None
        return self.save(tensor)

    def product(self, make: Callable[[], Tensor]) -> Tensor:
        """The result of a matrix product or an attention kernel. ``make`` allocates it."""
        return make() if self.products is None else self.products(make)

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """``torch.no_grad()``: operators make no node."""
        outer, self.grad_enabled = self.grad_enabled, False
        yield
        self.grad_enabled = outer

    @contextmanager
    def on_stream(self, name: str) -> Iterator[None]:
        """``torch.cuda.stream``: tensors made in this context come from that stream's memory, and go back to it."""
        outer, self.stream = self.stream, name
        yield
        self.stream = outer

    @contextmanager
    def standing_for(self, copies: Size) -> Iterator[None]:
        """Each tensor made in this context stands for ``copies`` identical ones; the running total is left alone."""
        outer, self.copies = self.copies, self.copies * copies
        self.enclosing.append(copies)
        yield
        self.enclosing.pop()
        self.copies = outer

    @contextmanager
    def counted(self, copies: Size) -> Iterator[None]:
        """Run a part of the forward pass once and count it ``copies`` times. Parts nest.

        Each copy must add the same bytes, as a layer between two equal layers does. The engine counts the backward pass
        of the part in the same way.
        """
        extra = copies - 1
        if not extra:
            yield
            return
        self.settle()
        start_live, start_work, start = self.live, self.work, self.sequence
        moment = f"{self.scope} {self.phase}"
        seen = {one: self.peaks.pop(one) for one in [*self.peaks] if one.partition(APART)[0] == moment}
        with self.standing_for(copies):
            yield
        self.settle()
        growth = (self.live - start_live) * extra
        self.live = self.live + growth
        self.work = self.work + (self.work - start_work) * extra
        for one in {**seen, **self.peaks}:
            if one.partition(APART)[0] == moment:
                self._shift(one, seen.get(one), growth)
        if self.sequence > start:
            self.counted_spans.append((start + 1, self.sequence, extra))

    def _shift(self, moment: str, seen: Any, growth: Size) -> None:
        """Correct the peak of a counted part. The last copy peaks ``growth`` above the copy that ran."""
        if self.symbolic:
            last_copy = [live + growth for live in self.peaks.get(moment, ())]  # a sum may be less than without it
            for live in (*last_copy, *(seen or ())):
                self._note(moment, live)
        else:
            last = self.peaks.get(moment, 0) + max(growth, 0)  # type: ignore[type-var]
            self.peaks[moment] = max(last, seen or 0)
