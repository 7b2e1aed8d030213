"""Storages and the tensors that share them.

A ``Storage`` adds its bytes to the running total when it is made, and takes them off when its last tensor dies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

from .refcounts import shares_its_storage
from .sizes import Size, product

if TYPE_CHECKING:
    from .graph import Accumulator, Node
    from .ledger import Ledger

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
        if self.event >= 0:
            self.ledger.events.freed(self.event, self.ledger)  # type: ignore[union-attr]
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
        self.node: Node | None = None
        self.number = 0
        self.accumulator: ReferenceType[Accumulator] | None = None
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

    def written(self, node: Node | None) -> None:
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

    def clear(self) -> None:
        """Free everything."""
        while self._held:
            tensor, copies = self._held.pop()
            if not shares_its_storage(tensor):
                tensor.ledger.free(tensor.storage.nbytes * (copies - 1))

    def __del__(self) -> None:
        self.clear()
