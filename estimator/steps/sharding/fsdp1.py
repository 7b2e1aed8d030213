"""FSDP1: ``FullyShardedDataParallel`` around each layer, then around the model, with ``use_orig_params``.

Source: ``torch/distributed/fsdp/`` of 2.13 (``_flat_param.py``, ``_runtime_utils.py``), by whose names states and
methods are called here. The parameters of a unit are views of its flat parameter. So where one of them trains, autograd
makes the gradient of all.

All ranks have shards of one size, but not as much of what trains. All is of the rank that has most of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ... import operators as ops
from ...errors import InputError
from ...ledger import FLOATING, ITEMSIZE, Counted, Ledger, Storage, Tensor, whole
from ...programs import Sharding
from ..offloading import pin
from .scope import MOST_RANKS, Parts, Scope, upcast

_ALIGNMENT = 16
"""Bytes to which each parameter is aligned in the flat one, as it is gathered (``_get_aligned_numel``)."""


@dataclass(frozen=True, kw_only=True)
class Fsdp1(Sharding):
    """The options of ``FullyShardedDataParallel``, the same for all units. Prefetch is that of ``BACKWARD_PRE``."""

    holds_gradients = True
    """The flat parameters have them (``_reset_flat_param_grad_info_if_needed``)."""

    reshard_after_forward: bool = True
    """``FULL_SHARD`` or ``HYBRID_SHARD``; else ``SHARD_GRAD_OP`` or ``_HYBRID_SHARD_ZERO2``."""
    param_dtype: str | None = None
    reduce_dtype: str | None = None
    groups: str = "layers"
    """Accelerate's are the layers, too (``TRANSFORMER_BASED_WRAP``). In transformers' trainer adapters have units of
    their own."""
    sync_each_batch: bool = False
    cpu_offload: bool = False
    """``CPUOffload(offload_params=True)``, which pins the shard of each flat parameter and a gradient of its size, also
    of a frozen one."""

    @property
    def offloads(self) -> bool:
        return self.cpu_offload

    def __post_init__(self) -> None:
        if not isinstance(self.reshard_after_forward, bool):
            raise InputError(
                f"sharding.reshard_after_forward {self.reshard_after_forward} belongs to fsdp2; for fsdp1 say true "
                "(FULL_SHARD) or false (SHARD_GRAD_OP)"
            )

    def scope(self, ledger: Ledger, parts: Parts) -> Scope:
        return _Scope(ledger, self, parts)


class _Unit:
    """A flat parameter (``FlatParamHandle``). Where one process has all of it, nothing is gathered (``NO_SHARD``)."""

    def __init__(self, ledger: Ledger, sharding: Fsdp1, parameters: Sequence[Tensor], scope: _Scope) -> None:
        self.ledger, self.parameters, self.scope, self.world = ledger, parameters, scope, sharding.shard
        self.replicas = sharding.replicate
        self.copies = parameters[0].copies
        """How many equal units this one stands for."""
        self.orig_dtype = _dtype_of(parameters)
        dtype = sharding.param_dtype or self.orig_dtype
        self.reduce_dtype = sharding.reduce_dtype or dtype
        self.is_sharded, self.casts = self.world > 1, dtype != self.orig_dtype
        self.reshard_after_forward = self.is_sharded and sharding.reshard_after_forward
        self.numels: list[int] = []
        """Elements of each parameter and of each padding, in the order of the flat parameter."""
        self.numbers = []
        for p in parameters:
            self._pad(_ALIGNMENT // ITEMSIZE[dtype])
            self.numbers.append(len(self.numels))
            self.numels.append(_stored(p))
        self._pad(self.world)
        numel = sum(self.numels)
        self.shard_numel = numel // self.world
        self.flat = Tensor(Storage(ledger, 0, resident=True), (numel,), dtype)
        self.flat.storage.unload()
        self.flat.requires_grad = any(p.requires_grad for p in parameters)
        self.shards: list[Tensor] = []
        self.grad: Tensor | None = None
        """The flat gradient of the shard (``_saved_grad_shard``), of which those of ``shards`` are views."""
        self.host = ledger.host
        self.cpu_grad = Storage(ledger.host or ledger, 0, resident=True)
        """Of the gradient on the host, which is pinned and counted apart."""
        self.zeros: Tensor | None = None
        """What takes the gradients in that a unit is found with before backward (``_writeback_orig_params``): views of
        the gradient on the host, if it was freed after forward."""
        self.writes_back = self.is_sharded and sharding.reshard_after_forward and self.flat.requires_grad
        if self.host is not None and not (self.is_sharded or self.casts):
            raise InputError(
                "sharding: fsdp1 with cpu_offload has no rule in one process, where autograd keeps each copy of a "
                "weight on the card; set param_dtype, or take sharding fsdp2"
            )
        self.inputs_left = self.post_forward_index = 0
        self.leaves: list[Tensor] = []
        """Inputs that are leaves of the graph, while a hook has their nodes."""
        self.needs_pre_backward_unshard = self.prefetched = self.ran_pre_backward_hook = self.backward_pre = False

    def _pad(self, multiple: int) -> None:
        if padding := -sum(self.numels) % multiple:
            self.numels.append(padding)

    def spans(self) -> list[tuple[Tensor, int, int]]:
        """Each parameter, and where it begins and ends in the flat one."""
        ends = [0, *accumulate(self.numels)]
        return [(p, ends[i], ends[i + 1]) for p, i in zip(self.parameters, self.numbers, strict=True)]

    def shard(self, rank: int) -> None:
        """Put in each parameter's place what the rank has of it. The parameter becomes a view of the flat one.

        What it has of all is one tensor (``FlatParameter._local_shard``).
        """
        start = rank * self.shard_numel
        nbytes = self.shard_numel * ITEMSIZE[self.orig_dtype]
        storage = Storage(self.host or self.ledger, nbytes, resident=True)
        if self.host is not None:
            pin(self.ledger, nbytes, 2 * self.copies)
            self.scope.host_gradients = nbytes * self.copies + (self.scope.host_gradients or 0)
        for p, first, last in self.spans():
            here = max(0, min(last, start + self.shard_numel) - max(first, start))
            shape = (here,) if self.is_sharded or last - first != p.numel else p.shape
            local = self.ledger.shard(p, shape, self.host)
            local.unreached = not here  # all that it has of a flat parameter has a gradient
            local.storage = storage
            p.storage = self.flat.storage
            self.shards.append(local)

    def unshard(self) -> None:
        """Gather the flat parameter, in the dtype that the model computes with.

        A shard that rests on the host is copied, also if all has been gathered already (``pre_unshard``).
        """
        gathers, ledger = not self.flat.storage.nbytes, self.ledger
        if not (gathers or self.host):
            if self.is_sharded and ledger.events is not None:
                with ledger.on_stream("unshard"):  # it waits for an event all the same
                    ledger.events.allocated(0, ledger)
            return
        if not (self.is_sharded or self.casts):
            return
        shard = None
        with ledger.on_stream("pre_unshard"):
            if not self.is_sharded:
                self.flat.storage.resize(self.flat.nbytes)
            elif self.casts or self.host:
                shard = ledger.empty((self.shard_numel,), self.flat.dtype)
            if self.casts and self.host:  # the shard as it is stored
                ledger.transient(self.shard_numel * ITEMSIZE[self.orig_dtype])
        if gathers and self.is_sharded:
            with ledger.on_stream("unshard"):
                self.flat.storage.resize(self.flat.nbytes)
            self.scope.communicated += self.shard_numel * ITEMSIZE[self.flat.dtype] * (self.world - 1) * self.copies
        if shard is not None:
            self._record_stream(shard)
        del shard

    def _record_stream(self, used: Tensor) -> None:
        """Another stream than its own uses a tensor while it is freed (``_no_dispatch_record_stream``)."""
        if self.is_sharded and self.ledger.events is not None:
            self.ledger.events.recorded.add(used.storage.event)

    def reshard(self, frees: bool) -> None:
        """Free what was gathered. What was saved of it for backward has its data again once it is gathered."""
        if frees or (self.casts and not self.is_sharded):
            self._record_stream(self.flat)
            self.flat.storage.resize(0)
        self.prefetched = False

    def pre_forward(self, inputs: Sequence[Tensor]) -> None:
        """``_pre_forward``: gather, and make the parameters views that autograd knows."""
        if self.backward_pre:  # a checkpoint runs again
            return
        self.unshard()
        views = ops.split_with_sizes(self.flat, self.numels)
        for p, number in zip(self.parameters, self.numbers, strict=True):
            view = views[number]
            p.dtype = view.dtype
            if view.numel == p.numel:  # else it is packed, and its layer uses its data alone
                view = ops.view(view, p.shape)
                p.requires_grad, p.node, p.number = view.requires_grad, view.node, view.number
        if not self.flat.requires_grad and self.ledger.grad_enabled:
            self._register_post_backward_reshard_only_hook([x for x in inputs if x.requires_grad])

    def _register_post_backward_reshard_only_hook(self, inputs: Sequence[Tensor]) -> None:
        """The hook's handle has the nodes of its inputs' gradients until the backward pass ends.

        That of a leaf, such as a reentrant checkpoint's input, has the leaf and with it its gradient.
        """
        self.inputs_left = len(inputs)
        for x in inputs:
            if x.node is not None:
                x.node.hooks = (*x.node.hooks, self.reshard_only_hook)
            else:
                self.leaves.append(x)
                self.scope.unit_of_input[id(x)] = self

    def post_forward(self, outputs: Sequence[Any], frees: bool) -> None:
        """``_post_forward``."""
        if self.backward_pre:
            return
        order = self.scope.post_forward_order
        self.post_forward_index = self.post_forward_index or len(order)  # a checkpoint that runs again keeps it
        order.append(self)
        self.reshard(frees)
        if self.reshard_after_forward or not (self.is_sharded and self.ledger.grad_enabled):
            self._use(self.orig_dtype)
        if not self.ledger.grad_enabled:
            return
        self.ran_pre_backward_hook = self.needs_pre_backward_unshard = False
        for x in outputs:
            if isinstance(x, Tensor) and x.node is not None:
                x.node.hooks = (*x.node.hooks, self._pre_backward_hook)
                self.needs_pre_backward_unshard = True

    def _pre_backward_hook(self) -> None:
        """Gather, and gather the unit before this one (``BackwardPrefetch.BACKWARD_PRE``)."""
        if self.ran_pre_backward_hook:
            return
        if self.needs_pre_backward_unshard and not self.prefetched:
            self._unshard_again()
        self.needs_pre_backward_unshard, self.ran_pre_backward_hook, self.backward_pre = False, True, True
        self._use(self.flat.dtype)  # a checkpoint runs again with what is gathered
        if self.post_forward_index:
            before = self.scope.post_forward_order[self.post_forward_index - 1]
            if before.needs_pre_backward_unshard and not before.prefetched:
                before._unshard_again()
                before._use(before.flat.dtype)  # before its own hook: PEFT's cast in a checkpoint asks for it
                before.prefetched = True
        self.zeros = None

    def _use(self, dtype: str) -> None:
        """What the parameters are views of (``_use_unsharded_views``, ``_use_sharded_views``)."""
        for p in self.parameters:
            p.dtype = dtype

    def _unshard_again(self) -> None:
        if self.host is not None and self.writes_back:
            self.zeros = self.host.empty((self.shard_numel,), self.orig_dtype)
        self.unshard()

    def reshard_only_hook(self) -> None:
        """``_post_backward_reshard_only_hook``, of a unit that does not train: all inputs' gradients are there."""
        self.inputs_left -= 1
        if not self.inputs_left:
            self.backward_pre = False
            self._use(self.orig_dtype)
            self.reshard(self._frees_in_backward)

    @property
    def _frees_in_backward(self) -> bool:
        return self.is_sharded and (self.scope.sync or self.reshard_after_forward)

    def post_backward_hook(self) -> None:
        """``_post_backward_hook``: free the flat parameter and reduce its gradient to that of the shard."""
        self.backward_pre = False
        self._use(self.orig_dtype)
        self.reshard(self._frees_in_backward)
        if not self.scope.sync:
            return
        ledger, grad = self.ledger, self.flat.grad
        assert grad is not None
        self._record_stream(grad)
        self.flat.grad = None
        with ledger.on_stream("post_backward"):
            reduced = grad if grad.dtype == self.reduce_dtype else ledger.empty(grad.shape, self.reduce_dtype)
            output = ledger.empty((self.shard_numel,), self.reduce_dtype) if self.is_sharded else reduced
        sent = output.nbytes * (self.world - 1) + 2 * output.nbytes * (self.replicas - 1) // self.replicas
        self.scope.communicated += sent * self.copies
        if self.reduce_dtype != self.orig_dtype:
            with ledger.on_stream("all_reduce" if self.replicas > 1 and self.is_sharded else "post_backward"):
                output = ledger.empty(output.shape, self.orig_dtype)
        if not self.is_sharded:
            self.grad = self.flat.grad = output
        elif self.grad is None:  # it is added in place otherwise
            self.grad = output
        having = [local for local in self.shards if local.requires_grad and not local.unreached]
        if ledger.events is not None:
            ledger.events.gradients[self.grad.storage.event] = tuple([local.name for local in having])
        storage = self.grad.storage if self.host is None else self.cpu_grad
        for local in having:
            local.grad = Tensor(storage, local.shape, local.dtype)

    def finish(self) -> None:
        """``_post_backward_final_callback``: free what no gradient told to."""
        self._use(self.orig_dtype)
        if self.flat.storage.nbytes:
            self.reshard(self._frees_in_backward)
        if self.host is not None and self.scope.sync:  # `prepare_gradient_for_optim`: the host's takes its place
            self._free_grad()
        self._leave(self.leaves)
        self.post_forward_index = 0
        self.needs_pre_backward_unshard = self.prefetched = self.ran_pre_backward_hook = self.backward_pre = False

    def _leave(self, leaves: list[Tensor]) -> None:
        """Free inputs and their gradients, in every equal unit."""
        for x in leaves:
            for held in (x.grad, x):
                if held is not None:
                    counted = Counted(self.ledger)
                    counted.add(held, self.copies)
                    x.grad = None
                    del held
                    counted.clear()
        leaves.clear()

    def leave_grad(self) -> None:
        """Leave the gradient to the parameters, whose optimizer has stepped. What none of them has stays."""
        if any(local.grad is not None for local in self.shards):
            self.grad = self.flat.grad = None

    def reset_grad(self) -> None:
        """``_reset_flat_param_grad_info_if_needed``: free what ``zero_grad`` has left no views of."""
        if all(local.grad is None for local in self.shards):
            self._free_grad()

    def _free_grad(self) -> None:
        if self.grad is not None:
            counted = Counted(self.ledger)
            counted.add(self.grad, self.copies)
            self.grad = self.flat.grad = None
            counted.clear()


def _stored(p: Tensor) -> int:
    """Elements of a parameter as it is stored: of a packed weight fewer than it has."""
    return whole(p.storage.nbytes) // ITEMSIZE[p.dtype]


def _dtype_of(parameters: Sequence[Tensor]) -> str:
    """The dtype of a unit's parameters. Raises ``InputError`` for several (``_validate_tensors_to_flatten``)."""
    dtype = parameters[0].dtype
    if dtype not in FLOATING:
        raise InputError(
            f"FSDP1 cannot flatten integer dtype tensors ({parameters[0].name}); set quant_storage to the dtype of the "
            "other weights, or take sharding fsdp2"
        )
    for p in parameters:
        if p.dtype != dtype:
            raise InputError(
                f"FSDP1 must flatten tensors with uniform dtype but got {dtype} and {p.dtype} ({p.name}); give both "
                "one dtype (adapter_dtype), or adapters units of their own (sharding.groups: transformers)"
            )
    return dtype


def _largest_rank(units: Sequence[_Unit]) -> int:
    """The first of the ranks that have the most bytes of what trains."""
    changes: Counter[int] = Counter()
    """By rank, by how many bytes it has more than the rank before it."""
    for unit in units:
        n, nbytes = unit.shard_numel, ITEMSIZE[unit.orig_dtype] * whole(unit.parameters[0].copies)
        for p, start, end in unit.spans():
            if p.requires_grad:
                first, last = start // n, (end - 1) // n
                here = min(end, (first + 1) * n) - start
                left = end - last * n if last > first else 0
                for rank, more in ((first, here), (first + 1, -here), (last, left), (last + 1, -left)):
                    changes[rank] += more * nbytes
                if last > first + 1:
                    changes[first + 1] += n * nbytes
                    changes[last] -= n * nbytes
    ranks = sorted(changes)
    held = list(accumulate(changes[rank] for rank in ranks))
    return ranks[held.index(max(held))] if held else 0


def _alike(units: Sequence[_Unit], sharding: Fsdp1) -> list[list[range]]:
    """The ranks by what they have of each parameter that trains."""
    found: dict[tuple[int, ...], list[range]] = {}
    few = range(sharding.shard if sharding.shard <= 4 * MOST_RANKS else 0)
    for rank in few:
        own = []
        for unit in units:
            first, last = rank * unit.shard_numel, (rank + 1) * unit.shard_numel
            own += [max(0, min(end, last) - max(start, first)) for p, start, end in unit.spans() if p.requires_grad]
        groups = range(rank, sharding.world_size, sharding.shard)
        found.setdefault(tuple(own), []).extend(range(at, at + 1) for at in groups)
    return list(found.values()) if 1 < len(found) <= MOST_RANKS else []


def _adapters(parameters: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """The modules among adapters that train and have a weight, with their parameters (PEFT's
    ``fsdp_auto_wrap_policy``).
    """
    paths = {p.name.removesuffix(".weight"): p for p in parameters if p.added and p.name.endswith(".weight")}
    return {
        path: [p for p in parameters if p.name.rpartition(".")[0] == path and p.added]
        for path, weight in paths.items()
        if weight.requires_grad
    }


def _refuse_methods(parameters: Sequence[Tensor]) -> None:
    """Raise ``InputError`` for adapters that do not run where parameters are views, or have no rule there."""
    batched = tuple(p.name.rpartition(".")[0] + "." for p in parameters if len(p.shape) == 3 and not p.added)
    for p in parameters:
        if p.added and p.name.startswith(batched):
            raise InputError(
                f"FSDP1 does not go with {p.name}, an adapter of a parameter: PyTorch does not let it change a view in "
                "place; take sharding fsdp2, or other target_modules"
            )
        if "lora_magnitude_vector" in p.name:
            raise InputError("FSDP1 has no rule with use_dora; leave it out, or take sharding fsdp2")


def _refuse_dtypes(x: Tensor, weight: Tensor) -> None:
    """Raise ``InputError`` for a product that ``F.linear`` refuses: PEFT casts to the dtype of the shard."""
    if x.ledger.autocast is None and x.dtype in FLOATING and x.dtype != weight.dtype:
        raise InputError(
            f"FSDP1's adapters would multiply {x.dtype} and {weight.dtype}, which PyTorch refuses (expected m1 and m2 "
            f"to have the same dtype); set autocast: {weight.dtype}, as accelerate, or leave sharding.param_dtype out"
        )


class _Scope(Scope):
    """The units: the model's, and by its path that of each module that has one."""

    def __init__(self, ledger: Ledger, sharding: Fsdp1, parts: Parts) -> None:
        self.dtype, self.sync_each_batch = sharding.param_dtype, sharding.sync_each_batch
        self.ledger, self.sync, self.keeps = ledger, True, True
        self.post_forward_order: list[_Unit] = []
        self.unit_of_input: dict[int, _Unit] = {}
        parameters = {"": parts.outside, **parts.layers}
        for own in parameters.values():
            _refuse_methods(own)
        self.paths = tuple(parts.layers)
        layer_of = {path: path for path in parameters}
        if sharding.groups == "transformers" and sharding.adapted:
            for path, own in list(parameters.items()):
                found = _adapters(own)
                apart = {id(p) for adapter in found.values() for p in adapter}
                parameters |= {path: [p for p in own if id(p) not in apart], **found}
                layer_of |= dict.fromkeys(found, path)
                ledger.module_hooks |= dict.fromkeys(found, self)
        if sharding.upcasts:
            for path, own in parameters.items():
                ledger.segment = parts.segments.get(layer_of[path], -1)
                upcast(own if any(p.requires_grad for p in own) else ())
        self.units = {path: _Unit(ledger, sharding, own, self) for path, own in parameters.items() if own}
        units = list(self.units.values())
        self.rank = _largest_rank(units) if sharding.rank is None else sharding.rank % sharding.shard
        self.alike = _alike(units, sharding)
        for path, unit in self.units.items():
            ledger.segment = parts.segments.get(layer_of[path], -1)
            unit.shard(self.rank)
        ledger.segment = -1
        self._unit_of = {id(unit.flat): unit for unit in self.units.values()}
        ledger.gradient_hooks, ledger.after_backward = self, self._after_backward

    def before_forward(self) -> None:
        for unit in self.units.values():
            unit.reset_grad()
        self.before_module("", [])

    def after_forward(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if (root := self.units.get("")) is not None:
            root.post_forward(outputs, False)  # as backward begins with it
        return outputs

    def before_module(self, path: str, inputs: list[Tensor]) -> list[Tensor]:
        if (unit := self.units.get(path)) is not None:
            unit.pre_forward(inputs)
            if path in self.ledger.module_hooks:
                _refuse_dtypes(inputs[0], unit.flat)
        return inputs

    def after_module(self, path: str, outputs: list[Tensor]) -> None:
        if (unit := self.units.get(path)) is not None:
            unit.post_forward(outputs, unit.reshard_after_forward)

    def before_backward(self, last: bool) -> None:
        self.sync = last or self.sync_each_batch

    def after_update(self) -> None:
        for unit in self.units.values():
            unit.leave_grad()

    def before_gradient(self, leaf: Tensor) -> None:
        """Before a gradient is stored (``register_multi_grad_hook``)."""
        if (unit := self.unit_of_input.pop(id(leaf), None)) is not None:
            unit.reshard_only_hook()

    def after_gradient(self, leaf: Tensor) -> None:
        """After a gradient is stored or added."""
        if (unit := self._unit_of.get(id(leaf))) is not None:
            unit.post_backward_hook()

    def _after_backward(self) -> None:
        for unit in self.units.values():
            unit.finish()
        self.post_forward_order.clear()
