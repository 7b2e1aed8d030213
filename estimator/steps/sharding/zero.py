"""ZeRO stages 1 and 2: DeepSpeed's partitions of optimizer states, and of gradients.

Source: ``deepspeed/runtime/zero/stage_1_and_2.py`` of 0.19 (``DeepSpeedZeroOptimizer``), by whose names states and
methods are called here. Every rank has all parameters, as views of one flat tensor (``bit16_groups_flat``). It updates
a partition of them, of which it has a copy in float32 (``single_partition_of_fp32_groups``), which counts as a state of
the optimizer. Between steps there is nothing else.

A CPU has no streams, so ``overlap_comm`` is a second bucket and nothing else there. DeepSpeed's CPU accelerator does
not pin memory, and ``empty_cache`` does nothing.

Ranks differ in the gradients that they keep: whole ones of all parameters that reach into their partition. What is
held here at any time is that of the rank which holds the most then, so the peak is that of the largest rank.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import ClassVar

from ...errors import InputError
from ...ledger import ITEMSIZE, Ledger, Storage, Tensor, ceiling, whole
from ...ledger.sizes import only_bounded
from ...programs import Sharding
from ..offloading import pin
from .noted import Noted
from .scope import Parts, Scope

NORM_BYTES = ITEMSIZE["float64"]
"""Bytes of an element while a norm is taken (``zero/utils.py: get_norm_dtype``), and of the norm."""
PARTITION = "partition"


@dataclass(frozen=True, kw_only=True)
class Zero(Sharding):
    """The options of DeepSpeed's block ``zero_optimization`` for stages 1 and 2, with its defaults."""

    is_played: ClassVar[bool] = True

    reduce_bucket_size: int = 500_000_000
    allgather_bucket_size: int = 500_000_000
    """Without effect, since PyTorch gathers a whole group at once (``all_gather_into_tensor_dp_groups``)."""
    overlap_comm: bool = False
    contiguous_gradients: bool = True
    offload_optimizer: str = "none"
    """``cpu``: float32 copies, their gradients and the optimizer's states rest on the host, pinned but for the last."""

    @property
    def offloads(self) -> bool:
        return self.offload_optimizer != "none"

    @property
    def has_cpu_adam(self) -> bool:
        return self.offloads

    def __post_init__(self) -> None:
        if self.allgather_bucket_size % 2:
            raise InputError(
                f"sharding.allgather_bucket_size {self.allgather_bucket_size} is odd; DeepSpeed takes even ones"
            )

    def notes(self, ledger: Ledger, parts: Parts) -> Scope:
        return Noted(ledger, parts)

    def scope(self, ledger: Ledger, parts: Parts) -> Scope:
        return (_Offloaded if self.offloads else _StageOneAndTwo)(ledger, self, parts)


@dataclass
class _Rank:
    """A rank, which stands for those after it with the same parameters: what it alone holds of gradients, in bytes."""

    number: int
    params: range
    """The parameters that reach into its partition, by their places (``params_in_partition``)."""
    grads_in_partition: int
    padding: int
    """Bytes of its partition that no parameter fills."""
    pieces: tuple[int, ...]
    """Elements of each parameter in its partition."""
    held: Counter[str] = field(default_factory=Counter)
    """All that it holds now, by what it is for: the tensor with the gradients of its partition (``partition``), those
    that are tensors of their own (``kept``) and zeros, those of other partitions, which stage 1 keeps to the end
    (``others``), and the tensors that the update makes."""
    gradients: int = 0

    @property
    def is_one_tensor(self) -> bool:
        """Whether its partition of gradients is one tensor, which ``flatten`` gives back as it is."""
        return len(self.params) + bool(self.padding) == 1


class _Flat:
    """The trained parameters one after the other, in partitions of equal size."""

    def __init__(self, numels: Sequence[int], world: int) -> None:
        self.numels, self.world = numels, world
        self.starts = [0, *accumulate(numels)]
        alignment = 2 * world  # `nccl_start_alignment_factor`
        self.numel = whole(ceiling(self.starts[-1], alignment)) * alignment
        self.partition = self.numel // world

    def owners(self, param: int) -> tuple[int, int]:
        """The first and the last rank whose partition a parameter reaches into."""
        return self.starts[param] // self.partition, (self.starts[param + 1] - 1) // self.partition

    def ranks(self, itemsize: int) -> Iterator[_Rank]:
        """The first of all ranks with the same parameters."""
        rank = 0
        while rank < self.world:
            first, end = rank * self.partition, min((rank + 1) * self.partition, self.starts[-1])
            if first >= end:  # all its elements are padding
                yield _Rank(rank, range(0), 0, self.partition * itemsize, ())
                return
            low, high = bisect_right(self.starts, first) - 1, bisect_right(self.starts, end - 1) - 1
            cut = [max(first, self.starts[i]) for i in range(low, high + 1)] + [end]
            pieces = tuple(b - a for a, b in pairwise(cut))
            padding = self.partition - (end - first)
            kept = sum(self.numels[low : high + 1])
            yield _Rank(rank, range(low, high + 1), kept * itemsize, padding * itemsize, pieces)
            rank = max(rank + 1, self.owners(low)[1] if low == high else 0)

    def largest_copy(self, params: Sequence[int], limit: int) -> int:
        """The most elements that ``allreduce_and_scatter`` flattens at once of a bucket. One slice is not copied.

        A slice is what one rank gets. A bucket of more than ``limit`` elements is one parameter, which goes in parts.
        """
        owners = [self.owners(i) for i in params]
        if min(first for first, _ in owners) == max(last for _, last in owners):
            return 0
        elements = sum(self.numels[i] for i in params)
        if elements <= limit:
            return elements
        begin, end = self.starts[params[0]], self.starts[params[0] + 1]
        most = 0
        while begin < end:
            stop = min(((begin + limit) // self.partition + 1) * self.partition, end)
            if (begin // self.partition + 1) * self.partition < stop:
                most = max(most, stop - begin)
            begin = stop
        return most


class _StageOneAndTwo(Scope):
    """``DeepSpeedZeroOptimizer``, which acts on the gradients of the trained parameters as they come."""

    def __init__(self, ledger: Ledger, options: Zero, parts: Parts) -> None:
        self.ledger, self.options = ledger, options
        self.partition_gradients = options.name == "zero2"
        self.model_dtype = next(p.dtype for p in ledger.parameters if not p.added)
        self.params = [p for p in ledger.parameters if p.requires_grad]
        self.place = {id(p): i for i, p in enumerate(self.params)}
        self.contiguous_gradients = options.contiguous_gradients or options.offloads
        self.last = True
        """The gradients of this backward pass are those that the optimizer gets."""
        self.itemsize = ITEMSIZE[self.model_dtype]
        self.flat = _Flat([whole(p.numel) for p in self.params], options.world_size)
        flat = Storage(ledger, self.flat.numel * self.itemsize, resident=True)
        for p in self.params:
            p.storage = flat
        size = self.flat.partition
        home = ledger.host or ledger
        self.fp32_partition = Tensor(Storage(home, size * ITEMSIZE["float32"], resident=True), (size,), "float32")
        self.states = self.fp32_partition.nbytes
        home.masters.append(self.fp32_partition)
        self.ranks = list(self.flat.ranks(self.itemsize))
        self.stream = "reduction" if options.overlap_comm else ""
        if ledger.device.has_own_memory:  # whose allocator's blocks are one rank's: that with the most gradients
            self.ranks = [max(self.ranks, key=lambda rank: rank.grads_in_partition + rank.padding)]
        self.alone = len(self.ranks) == 1
        self.held: defaultdict[str, Storage] = defaultdict(partial(Storage, ledger, 0))
        """What the rank with the most holds of gradients that have been reduced."""
        self.later = ""
        """Where gradients of an earlier backward pass are kept: what those of this one are called beside them."""
        self.largest = self.most = self.ranks[0]
        self.peak = 0
        self.buffers: list[Tensor] = []
        self.bucket: list[int] = []
        self.elements = 0
        self.reduced: set[int] = set()
        self.previous_reduced_grads: list[Tensor] = []

    def updated(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        return [self.fp32_partition]

    def before_backward(self, last: bool) -> None:
        self.last = last

    def after_gradient(self, leaf: Tensor) -> None:
        """``grad_handling_hook``."""
        if self.contiguous_gradients and not self.buffers:  # `setup_buckets`
            size = (self.options.reduce_bucket_size,)
            self.buffers = [self.ledger.empty(size, self.model_dtype) for _ in range(1 + self.options.overlap_comm)]
        if self.partition_gradients or (self.options.overlap_comm and self.last):
            self.reduce_independent_p_g_buckets_and_remove_grads(self.place[id(leaf)])

    def reduce_independent_p_g_buckets_and_remove_grads(self, param: int) -> None:
        """Put a gradient into the bucket, which is reduced first if there is no room. A larger one stays as it is."""
        numel, limit = self.flat.numels[param], self.options.reduce_bucket_size
        if self.elements + numel > limit:
            self.reduce_ipg_grads()
        if self.contiguous_gradients and numel <= limit:
            self.params[param].grad = None
        self.bucket.append(param)
        self.elements += numel

    def reduce_ipg_grads(self) -> None:
        """Reduce what is in the bucket. Ranks copy what is theirs, and stage 2 frees the rest."""
        bucket, contiguous = self.bucket, self.contiguous_gradients
        self.bucket, self.elements = [], 0
        if not bucket:
            return
        self.reduced.update(bucket)
        self.previous_reduced_grads.clear()
        elements = sum(self.flat.numels[i] for i in bucket)
        if contiguous:
            copied = self.flat.largest_copy(bucket, self.options.reduce_bucket_size)
        else:
            copied = elements if len(bucket) > 1 else 0
        with self.ledger.on_stream(self.stream):
            self.ledger.transient(copied * self.itemsize)
        world = self.options.world_size
        self.communicated += 2 * (world - 1) * elements * self.itemsize // world
        if contiguous:
            self.copy_grads_in_partition(bucket)
        own = [i for i in bucket if self.params[i].grad is not None]
        if self.partition_gradients and self.options.overlap_comm and not contiguous:  # freed in the next reduction
            self.previous_reduced_grads = [self.params[i].grad.alias() for i in own]  # type: ignore[union-attr]
        for i in own:
            self.params[i].grad = None
            for rank in self.ranks:
                if not contiguous and i in rank.params:
                    rank.held["kept" + self.later] += self.flat.numels[i] * self.itemsize
                elif not self.partition_gradients and i not in rank.params:
                    rank.held[f"others {i}" if self.alone else "others"] += self.flat.numels[i] * self.itemsize
        self._hold()

    def copy_grads_in_partition(self, bucket: Sequence[int]) -> None:
        """Copy the gradients of a bucket that are in a rank's partition to one tensor."""
        for rank in self.ranks:
            if any(i in rank.params for i in bucket):
                rank.held[PARTITION + self.later] = rank.grads_in_partition
        self._hold()

    def after_backward(self) -> None:
        """``independent_gradient_partition_epilogue``, of stage 1 after the last micro-batch alone."""
        if not (self.partition_gradients or self.last):
            return
        if not (self.partition_gradients or self.options.overlap_comm):
            for i, p in enumerate(self.params):
                if p.grad is not None:
                    self.reduce_independent_p_g_buckets_and_remove_grads(i)
        self.reduce_ipg_grads()
        self.previous_reduced_grads.clear()
        self.get_flat_partition()
        self.buffers.clear()
        for rank in self.ranks:
            for name in rank.held:
                if name.startswith("others") or (self.later and name.endswith(self.later)):  # added to those before
                    rank.held[name] = 0
        self.later = "" if self.last else " again"
        self.reduced.clear()
        self._hold()

    def get_flat_partition(self) -> None:
        """Add what has not been reduced, and padding, to the gradients of the partition."""
        for rank in self.ranks:
            rank.held["kept" + self.later] += sum(
                self.flat.numels[i] * self.itemsize for i in rank.params if i not in self.reduced
            )
            rank.held["padding"] = rank.padding if self.last else 0
        self._hold()

    def before_update(self) -> None:
        """Take the norm, and make one float32 gradient of the partition."""
        size = self.flat.partition
        for rank in self.ranks:
            rank.gradients = rank.held.total()
            rank.held["norm"] = max((NORM_BYTES * (i + 1 + piece) for i, piece in enumerate(rank.pieces)), default=0)
        self._hold()
        wider = self.model_dtype != "float32"
        for rank in self.ranks:
            rank.held["norm"] = 0
            rank.held["flat"] = 0 if rank.is_one_tensor else size * self.itemsize
            rank.held["float32"] = wider * size * ITEMSIZE["float32"]
        self._hold()
        for rank in self.ranks:
            only = "float32" if wider else "" if rank.is_one_tensor else "flat"
            rank.held = Counter({name: nbytes * (name == only or not only) for name, nbytes in rank.held.items()})
        self._hold()

    def after_update(self) -> None:
        self._hold()
        for rank in self.ranks:
            rank.held = Counter(dict.fromkeys(rank.held, 0))
        self._hold()
        # Which rank is the largest depends on the activations. A formula has the most gradients of any rank.
        one = max(self.ranks, key=lambda rank: rank.gradients) if self.ledger.symbolic else self.largest
        self.gradients, self.rank = one.gradients, one.number
        self.communicated += self.flat.partition * self.itemsize * (self.options.world_size - 1)

    def _hold(self) -> None:
        """Hold what the rank with the most has now. If there was a new peak, it was that of the one before."""
        if self.ledger.symbolic:
            if not self.alone:
                only_bounded()
        elif (peak := max(self.ledger.peaks.values(), default=0)) > self.peak:
            self.peak, self.largest = peak, self.most
        self.most = max(self.ranks, key=lambda rank: rank.held.total())
        held: Mapping[str, int] = self.most.held if self.alone else {"": self.most.held.total()}
        for grows in (False, True):
            for name, nbytes in held.items():
                before = whole(self.held[name].nbytes)
                if nbytes != before and (nbytes > before) is grows:
                    with self.ledger.on_stream(self.stream if name.startswith(PARTITION) else ""):
                        self.held[name].resize(nbytes)


class _Offloaded(_StageOneAndTwo):
    """With ``offload_optimizer``. A gradient is copied to the host once it is reduced, and nothing of it is kept."""

    def __init__(self, ledger: Ledger, options: Zero, parts: Parts) -> None:
        super().__init__(ledger, options, parts)
        size, largest = self.flat.partition, max(self.flat.numels)
        self.on_card = Storage(ledger, largest * self.itemsize, resident=True)  # `temp_grad_buffer_for_gpu_offload`
        gradients = size * ITEMSIZE["float32"]
        # The gradients, the updated parameters in 16 bits, and `temp_grad_buffer_for_cpu_offload`.
        self.on_host = [gradients, size * self.itemsize, largest * self.itemsize]
        self.communication = self.on_card.nbytes
        if ledger.host is None:
            self.gradients = gradients
            self.communication = self.communication + sum(self.on_host)
        else:
            self.host_gradients, self.pinned_states = gradients, self.states
            for nbytes in (size * ITEMSIZE["float32"], *self.on_host):
                pin(ledger, nbytes, 1)
        self.accumulated: dict[int, int] = {}
        """Bytes of the gradients on the host that a later micro-batch adds to (``accumulated_grads_in_cpu``)."""

    def copy_grads_in_partition(self, bucket: Sequence[int]) -> None:
        """Take the norm of each gradient and copy it, as float32, after the last micro-batch; else as it is.

        What stays on the host from then on are whole gradients of the parameters that reach into the partition.
        """
        if not self.last:
            for i in bucket:
                self.accumulated[i] = self.flat.numels[i] * self.itemsize
            return
        for i in bucket:
            for rank in self.ranks:
                if i in rank.params:
                    rank.held["copy"] = NORM_BYTES * rank.pieces[i - rank.params.start]
                    rank.held["norms"] += NORM_BYTES
            self._hold()
            for rank in self.ranks:
                rank.held["copy"] = 0
        self._hold()

    def get_flat_partition(self) -> None:
        """Nothing is kept."""

    def before_update(self) -> None:
        """The gradient is on the host, and is clipped in place."""
        for rank in self.ranks:
            rank.gradients = sum(self.accumulated.get(i, 0) for i in rank.params)
            rank.held["norms"] = 0
        self._hold()

    def after_update(self) -> None:
        gradients = self.gradients
        super().after_update()
        kept, self.gradients = whole(self.gradients or 0), gradients
        if self.ledger.host is None:
            self.communication = self.communication + kept
        else:
            for i in self.ranks[0].params:
                pin(self.ledger, self.accumulated.get(i, 0), 1)
