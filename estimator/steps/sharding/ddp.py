"""DDP: whole models in all processes, whose gradients are copied into buckets, and reduced there.

Source: ``torch/nn/parallel/distributed.py`` and ``torch/csrc/distributed/c10d/reducer.cpp`` of 2.13. Steps are those
after the buckets have been made anew, so the third and later ones. A reduction takes no memory of PyTorch's: a gradient
is divided by the number of processes as it is copied, and a bucket is reduced in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from ...errors import InputError
from ...ledger import ITEMSIZE, Call, Ledger, Storage, Tensor, record, whole
from ...ledger.graph import Output
from ...programs import Blocks, Sharding
from .scope import Parts, Scope

MIB = 1024 * 1024
FIRST_BUCKET, BUCKET_CAP_MB = MIB, 25
"""Bytes of the first bucket, and MiB of the others (``_DEFAULT_FIRST_BUCKET_BYTES``, ``_DEFAULT_BUCKET_CAP_MB``)."""
UNLIMITED = (1 << 63) - 1
"""``sys.maxsize`` of a process with 64 bits, the limit of the first step's bucket; a browser has 32."""
BROADCAST_BUCKET = 250 * MIB
"""Bytes of buffers that are broadcast at once (``broadcast_bucket_size``)."""


@dataclass(frozen=True, kw_only=True)
class Ddp(Sharding):
    """The options of ``DistributedDataParallel``."""

    gradient_as_bucket_view: bool = False
    find_unused_parameters: bool = False
    static_graph: bool = False
    bucket_cap_mb: int | None = None
    sync_each_batch: bool = False

    def blocks(self, stored: Sequence[tuple[str, int]], trained: Sequence[tuple[str, int]]) -> Blocks:
        """What ``_sync_module_states`` broadcasts, one bucket of each dtype, and then buckets by the order of gradients
        (``Reducer::rebuild_buckets``). A gradient of the same operator may come before another in fact.
        """
        cap = (self.bucket_cap_mb or BUCKET_CAP_MB) * MIB
        limits = [FIRST_BUCKET if self.bucket_cap_mb is None else cap, cap]
        sent = [own for own in _buckets(stored, [BROADCAST_BUCKET]) if len(own) > 1]
        later = [sum(own) for own in _buckets(trained, limits, arrived=True)]
        if self.looks_for_unused:  # buckets are never made anew; their order follows names, and is nearly that of use
            later += [ITEMSIZE["int32"] * len(trained)]  # which were used
            return Blocks(list(map(sum, sent)), later, later)
        return Blocks(list(map(sum, sent)), [sum(own) for own in _buckets(trained, [UNLIMITED])], later)

    @property
    def looks_for_unused(self) -> bool:
        """Whether each step looks for parameters that get no gradient, which a static graph does once."""
        return self.find_unused_parameters and not self.static_graph

    def scope(self, ledger: Ledger, parts: Parts) -> Scope:
        return _Scope(ledger, self, parts)


class _Scope(Scope):
    """What DDP does in its forward, and when a gradient is stored."""

    def __init__(self, ledger: Ledger, sharding: Ddp, parts: Parts) -> None:
        self.ledger, self.sharding = ledger, sharding
        trained = [p for p in chain(parts.outside, *parts.layers.values()) if p.requires_grad]
        unused = [p.name for p in trained if p.unreached]
        if unused and not (sharding.static_graph or sharding.find_unused_parameters):
            raise InputError(
                f"sharding ddp stops in the second step, since {unused[0]} gets no gradient (`Expected to have "
                "finished reduction in the prior iteration`); set find_unused_parameters or static_graph: true"
            )
        self.reduced = sum((p.nbytes * p.copies for p in trained), 0)
        self.communication = self.reduced
        if sharding.find_unused_parameters:  # which were used, on the host and on the device
            maps = 1 if ledger.device.has_own_memory else 2
            self.communication += maps * ITEMSIZE["int32"] * sum((p.copies for p in trained), 0)
        self.buckets = Tensor(Storage(ledger, 0, resident=True), (0,), "uint8")  # ``communication`` counts them
        if sharding.gradient_as_bucket_view:
            ledger.gradient_hooks = self
        self.broadcast = _buckets(_sizes(ledger.buffers), [BROADCAST_BUCKET])
        self.reduces = True
        """Whether the last backward pass reduced, or the next one will (``require_backward_grad_sync``)."""

    def before_forward(self) -> None:
        """``_sync_buffers``: buffers are broadcast as one copy, of which two exist at once (``broadcast_coalesced``).

        A buffer that is alone is sent itself.
        """
        if not self.reduces:
            return
        in_flight: list[Tensor] = []
        for bucket in self.broadcast:
            del in_flight[:-1]
            in_flight.append(self.ledger.empty((sum(bucket) if len(bucket) > 1 else 0,), "uint8"))
            self.communicated += sum(bucket) if self.sharding.world_size > 1 else 0

    def after_forward(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """``_DDPSink`` copies outputs, and gives the copies of those with a gradient."""
        if not self.sharding.looks_for_unused:
            return outputs
        given = [x for x in outputs if isinstance(x, Tensor)]
        copies = [self.ledger.empty(x.shape, x.dtype) for x in given]
        node = record("_DDPSinkBackward", lambda: copies[0].alias(), given, (), _passed).node
        if node is None:
            return outputs
        node.outputs = [Output(x.shape, x.dtype) for x in given]
        for number, copy in enumerate(copies):
            copy.requires_grad, copy.node, copy.number = True, node, number
        copy_of = {id(x): copy for x, copy in zip(given, copies, strict=True) if x.requires_grad}
        return tuple(copy_of.get(id(x), x) for x in outputs)

    def before_backward(self, last: bool) -> None:
        self.reduces = last or self.sharding.sync_each_batch
        if self.reduces:  # each part of a bucket goes around all processes twice
            world = self.sharding.world_size
            self.communicated += 2 * self.reduced * (world - 1) // world

    def before_gradient(self, leaf: Tensor) -> None:
        """Called before a gradient is stored."""

    def after_gradient(self, leaf: Tensor) -> None:
        """``mark_variable_ready_dense``: the gradient is a view of its bucket from now on."""
        if self.reduces:
            leaf.grad = Tensor(self.buckets.storage, leaf.shape, leaf.dtype)


def _passed(call: Call) -> tuple[Tensor | None, ...]:
    return tuple(call.grads)


def _buckets(tensors: Sequence[tuple[str, int]], limits: Sequence[int], arrived: bool = False) -> list[list[int]]:
    """The bytes of the tensors of each bucket."""
    return [[tensors[i][1] for i in own] for own in bucket_assignment(tensors, limits, arrived)]


def _sizes(buffers: Sequence[Tensor]) -> list[tuple[str, int]]:
    """Dtype and bytes of each buffer, in every layer. The weights of ``PackedLinear`` are packed as int32."""
    found: list[tuple[str, int]] = []
    for copies, run in groupby(buffers, lambda b: whole(b.copies)):
        own = [("int32", b.storage.nbytes) if b.dtype == "uint8" else (b.dtype, b.nbytes) for b in run]
        found += [(dtype, whole(nbytes)) for dtype, nbytes in own] * copies
    return found


def bucket_assignment(
    tensors: Sequence[tuple[str, int]], limits: Sequence[int], arrived: bool = False
) -> list[list[int]]:
    """``compute_bucket_assignment_by_size``: the numbers of tensors, given by dtype and bytes, in buckets of one dtype.

    A bucket is full once it has ``limits[0]`` bytes, the next of its dtype ``limits[1]``, and so on; the last limit
    holds for all others. Buckets are in the order of their first tensors, or where tensors ``arrived`` one by one, in
    that in which they were full, and what was not full is last.
    """
    full: list[list[int]] = []
    rest: list[list[int]] = []
    for dtype in dict.fromkeys(dtype for dtype, _ in tensors):
        size = closed = 0
        bucket: list[int] = []
        for number, nbytes in ((i, nbytes) for i, (own, nbytes) in enumerate(tensors) if own == dtype):
            bucket.append(number)
            size += nbytes
            if size >= limits[min(closed, len(limits) - 1)]:
                full.append(bucket)
                bucket, size, closed = [], 0, closed + 1
        rest += [bucket] if bucket else []
    return [*sorted(full, key=max), *rest] if arrived else sorted((*full, *rest), key=min)
