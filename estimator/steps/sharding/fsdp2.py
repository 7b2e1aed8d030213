"""FSDP2 and HSDP: ``fully_shard`` of groups of modules, on a mesh of ``shard`` or of ``(replicate, shard)`` processes.

Source: ``torch/distributed/fsdp/_fully_shard/`` of 2.13 (``_fsdp_param_group.py``, ``_fsdp_collectives.py``,
``_fsdp_state.py``), by whose names states and methods are called here. All is of one rank, the first, which has the
most.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from ... import operators as ops
from ...errors import InputError
from ...ledger import FLOATING, ITEMSIZE, Call, Ledger, Size, Storage, Tensor, ceiling, product, record, whole
from ...programs import Sharding
from ..offloading import pin
from .scope import MOST_RANKS, Parts, Scope, upcast, with_post_backward


@dataclass(frozen=True, kw_only=True)
class Fsdp2(Sharding):
    """The options of ``fully_shard``, the same for all groups but where ``groups`` says otherwise."""

    reshard_after_forward: bool | int | None = None
    """Free parameters after forward, or keep a part among so many processes; ``None``: in all groups but the root."""
    param_dtype: str | None = None
    reduce_dtype: str | None = None
    groups: str = "layers"
    sync_each_batch: bool = False
    cpu_offload: bool = False
    """``CPUOffloadPolicy``, which pins what is on the host."""

    @property
    def offloads(self) -> bool:
        return self.cpu_offload

    def __post_init__(self) -> None:
        if self.tp > 1 and self.groups == "accelerate":
            raise InputError(
                "sharding.groups accelerate does not go with tp: accelerate 1.15 imports ReplicateParallel, "
                "which transformers 5.24 has no more; take layers"
            )
        if self.tp > 1 and self.reshard_after_forward not in (None, True, False):
            raise InputError(
                f"sharding.reshard_after_forward {self.reshard_after_forward} does not go with tp (`Resharding to "
                "smaller mesh is not supported for DTensor parameters yet`, PyTorch's words); take true or false"
            )
        processes = self.reshard_after_forward
        if processes is not None and not isinstance(processes, bool):  # `_get_post_forward_mesh_info`
            if self.shard % processes:
                raise InputError(
                    f"sharding.reshard_after_forward {processes} does not divide the {self.shard} processes that share "
                    f"the parameters (`it should be a factor of {self.shard}`, PyTorch's words); take one that does"
                )
            if processes in (1, self.shard):
                object.__setattr__(self, "reshard_after_forward", processes > 1)
        if not self.by_plan:
            return
        if self.shard * self.replicate == 1:
            raise InputError("sharding.groups transformers shares nothing with one process; leave it out")
        if self.cpu_offload:
            raise InputError("sharding.groups transformers has no rule with cpu_offload; leave one of them out")
        if self.adapted and self.tp > 1:
            raise InputError(
                "sharding.groups transformers with tp does not go with LoRA, which stops in PEFT 0.21 with a "
                "RuntimeError of its sizes; take groups: layers"
            )
        if self.reshard_after_forward is not None:
            raise InputError(
                "sharding.reshard_after_forward does not go with groups: transformers, whose plan says what is kept; "
                "leave it out"
            )
        if (self.param_dtype, self.reduce_dtype) not in ((None, None), ("bfloat16", "float32")):
            raise InputError(
                "sharding.groups transformers takes param_dtype: bfloat16 with reduce_dtype: float32 "
                "(fsdp_mixed_precision), or neither"
            )

    @property
    def by_plan(self) -> bool:
        """Whether transformers shards the model as it loads it (``DistributedConfig``), before a method changes it."""
        return self.groups == "transformers"

    def index(self, rank: int) -> int:
        """The place of a rank among the processes that share its parameters, in a mesh of (replicate, shard, tp)."""
        return rank // self.tp % self.shard

    def alike(self, sizes: Collection[int]) -> list[list[range]]:
        """The ranks by how many rows they have of parameters of these rows."""
        ends = {0, self.shard}
        for rows in sizes:
            own = -(-rows // self.shard)
            ends |= {rows // own, -(-rows // own)}
        begins = sorted(end for end in ends if end <= self.shard)
        if self.tp > 1 or not 2 < len(begins) <= MOST_RANKS + 1:
            return []
        groups = range(0, self.world_size, self.shard)
        return [[range(at + first, at + last) for at in groups] for first, last in pairwise(begins)]

    def scope(self, ledger: Ledger, parts: Parts) -> Scope:
        return _Scope(ledger, self, parts)


class _Unit(NamedTuple):
    """A call of ``fully_shard``: its modules, their parameters, and what it does after forward."""

    paths: Sequence[str]
    parameters: Sequence[Tensor]
    reshard: bool | int | None


def _units(sharding: Fsdp2, parts: Parts) -> list[_Unit]:
    """All calls of ``fully_shard``, that of the whole model last."""
    given, outside = sharding.reshard_after_forward, list(parts.outside)
    _refuse_cast_biases(sharding, parts)
    units = [_Unit([path], own, given) for path, own in parts.layers.items()]
    if sharding.groups == "layers":
        if any(p.dtype not in FLOATING for own in parts.layers.values() for p in own):
            raise InputError("sharding fsdp2 cannot gather packed weights, which are no floats; set groups: accelerate")
        return [*units, _Unit([""], outside, False if given is None else given)]
    if sharding.by_plan:
        return _planned(parts, outside)

    def taken(*paths: str | None) -> tuple[list[str], list[Tensor]]:
        names = [path for path in paths if path is not None]
        own = [p for p in outside if p.name.startswith(tuple(f"{name}." for name in names))]
        outside[:] = [p for p in outside if p not in own]
        return names, own

    # accelerate/utils/fsdp_utils.py: fsdp2_prepare_model. It looks for the norm in `model.model` or the like, which of
    # PEFT's model is not the base but the model around it (`LoraModel.model`).
    embedding, head = parts.roles.get("input embedding"), parts.roles.get("output embedding")
    hidden = sharding.adapted and next(iter(parts.layers)).startswith("model.")
    norm = None if hidden else parts.roles.get("final norm")
    tied = _is_tied(parts)
    if not tied:
        units.append(_Unit(*taken(embedding), given))
    if any(tail := (norm, *([embedding] if tied else []), head)):
        units.append(_Unit(*taken(*tail), False))
    return [*units, _Unit([""], outside, False)]


def _planned(parts: Parts, outside: list[Tensor]) -> list[_Unit]:
    """What transformers 5.24 shards by a model's plan (``distributed/fsdp.py: apply_fully_sharded_data_parallelism``).

    The plan names modules beside the layers (``configuration_utils.py: base_model_fsdp_plan``), and the head. Adapters
    are added later, and stay whole. Raises ``InputError`` where the plan names no layers.
    """
    base, _, name = next(iter(parts.layers)).rpartition(".")[0].rpartition(".")
    if name != "layers":
        raise InputError(
            f"sharding.groups transformers has no rule with {parts.family}, whose layers transformers' fsdp_plan does "
            "not name, and which it gathers at once; take layers or accelerate"
        )
    every = [p for own in (outside, *parts.layers.values()) for p in own]
    if len({p.dtype for p in every if not p.added}) > 1:
        raise InputError(
            "sharding.groups transformers has no rule with parameters of several dtypes, whose modules it gathers "
            "alone; take layers"
        )
    if any(p.added and not p.name.rpartition(".")[0].endswith(("lora_A", "lora_B")) for p in every):
        raise InputError("sharding.groups transformers has no rule with what the method adds; take plain LoRA")
    units = [_Unit([path], own, True) for path, own in parts.layers.items()]
    embedding, norm, head = f"{base}.embed_tokens", f"{base}.norm", parts.planned_head
    found = [path for path in (embedding, norm) if path in parts.roles.values()]
    tied = _is_tied(parts)
    if tied and embedding in found:
        found.remove(embedding)
        found += [embedding] if head else []
    elif head:
        found.append(head)
    kept = [path for path in found if tied or path != embedding]
    together = [kept] if len(kept) == 2 and norm in kept else [[path] for path in kept]
    for paths in [[path] for path in found if path not in kept] + together:
        own = [p for p in outside if p.name.startswith(tuple(f"{path}." for path in paths))]
        outside = [p for p in outside if p not in own]
        units.append(_Unit(paths, own, paths is not kept and paths[0] not in kept))
    units.append(_Unit([""], outside, False))
    return [unit._replace(parameters=[p for p in unit.parameters if not p.added]) for unit in units]


def _is_tied(parts: Parts) -> bool:
    """Whether the head has the embedding's weight."""
    head = parts.roles.get("output embedding")
    return head is not None and not any(p.name == f"{head}.weight" for p in parts.outside)


def _refuse_cast_biases(sharding: Fsdp2, parts: Parts) -> None:
    """Raise ``InputError`` for biases that bitsandbytes casts: the copy stays in place of what is gathered."""
    stored = next((p.dtype for p in parts.outside if not p.added), None)
    for own in parts.modules.values():
        for p in own if any(q.dtype not in FLOATING for q in own) else ():
            if p.dtype in FLOATING and not p.added and {p.dtype} != {stored, sharding.param_dtype or stored}:
                raise InputError(
                    f"sharding: {sharding.name} has no rule with {p.name}, which bitsandbytes casts to {p.dtype}; give "
                    "compute_dtype, rest_dtype and sharding.param_dtype one dtype"
                )


class _Shard(NamedTuple):
    """A parameter of a group: as its module has it, as the rank keeps it, and the rows that all ranks have of it."""

    whole: Tensor
    local: Tensor
    rows: Size

    def padded(self, itemsize: int) -> Size:
        """Bytes of the rows of all ranks."""
        return self.rows * product(self.whole.shape[1:]) * itemsize

    @property
    def gathered(self) -> Size:
        """Bytes of the parameter as it is gathered."""
        return self.padded(ITEMSIZE[self.whole.dtype])


class _Communication:
    """What the groups share (``FSDPCommContext``)."""

    def __init__(self) -> None:
        self.gathered: Tensor | None = None
        """In forward, the output of the last all-gather, which the next group frees once it has copied its own out."""
        self.reduced: Tensor | None = None
        """The input of the last reduce-scatter, which the next group frees before its own."""
        self.post_forward_order: list[_Group] = []


class _Group:
    """Parameters that are gathered and reduced together (``FSDPParamGroup``)."""

    def __init__(self, ledger: Ledger, sharding: Fsdp2, unit: _Unit, scope: _Scope) -> None:
        self.ledger, self.sharding, self.scope, self.world = ledger, sharding, scope, sharding.shard
        self.shared = scope.shared
        self.modules, self.reshard_after_forward = unit.paths, unit.reshard
        self.modules_to_run_forward: set[str] = set()
        self.copies = unit.parameters[0].copies if unit.parameters else 1
        """How many equal groups this one stands for."""
        self.shards = []
        for p in unit.parameters:
            if p.dtype not in FLOATING:  # accelerate leaves packed weights whole (`ignored_params`)
                continue
            rows = ceiling(p.shape[0], self.world)  # of each rank, also of those that have fewer or none
            local = ledger.shard(p, (rows, *p.shape[1:]), ledger.host)
            if sharding.rank:
                own = max(0, min(whole(rows), whole(p.shape[0] - rows * sharding.index(sharding.rank))))
                local.shape = (own, *p.shape[1:])  # of a storage that is padded
            shard = _Shard(p, local, rows * self.world)
            if ledger.host is not None:  # gradients stay pinned from step to step, since freed blocks are used again
                pin(ledger, local.storage.nbytes, self.copies * (1 + p.requires_grad))
            if sharding.param_dtype is not None:
                p.dtype = sharding.param_dtype
            self.shards.append(shard)
        self.unsharded = self.pending = False
        self.gathered: Tensor | None = None
        """The output of an all-gather that has not been copied out."""
        self.post_forward: list[Tensor] = []
        """What is kept of the parameters after forward, if they are shared by fewer processes until backward."""
        self.in_forward = self.in_backward = self.reduced = False
        self.accumulated: list[Tensor | None] = [None] * len(self.shards)
        """The gradients of passes that were not reduced, by parameter, where they have another dtype than it."""
        self.all_reduced: Tensor | None = None
        """The buffer of the all-reduce, where the gradients are none of its views."""
        self._indices: list[int] = []

    def unshard(self) -> None:
        """Begin the all-gather of all parameters at once (``foreach_all_gather``). One rank gathers nothing."""
        if self.pending or self.unsharded:
            return
        self.pending = True
        if self.world == 1:
            return
        processes = int(self.reshard_after_forward or 0) if self.post_forward else self.world
        cast = sum((shard.gathered for shard in self.shards if self._is_cast(shard)), 0) // processes
        nbytes = sum((shard.gathered for shard in self.shards), 0)
        with self.ledger.on_stream("all_gather_copy_in"):
            if not self.sharding.cpu_offload:  # casts go into one tensor
                inputs = [self.ledger.empty((cast,), "uint8")] if cast else []
            else:
                inputs = [] if self.post_forward else list(filter(None, map(self._all_gather_input, self.shards)))
            self.gathered = self.ledger.empty((nbytes,), "uint8")
        self.scope.communicated += nbytes // processes * (processes - 1) * self.copies
        del inputs

    def _all_gather_input(self, shard: _Shard) -> Tensor | None:
        """``FSDPParam.all_gather_inputs``: a copy on the device of what rests on the host, and a cast."""
        rests = self.ledger.host is not None
        shape = (shard.rows // self.world, *shard.local.shape[1:])
        copy = self.ledger.empty(shape, shard.local.dtype) if rests else None
        return self.ledger.empty(shape, shard.whole.dtype) if self._is_cast(shard) else copy

    @staticmethod
    def _is_cast(shard: _Shard) -> bool:
        return shard.whole.dtype != shard.local.dtype

    def wait_for_unshard(self, forward: bool) -> None:
        """Copy each parameter out of the all-gather's output."""
        if not self.pending:
            return
        previous = self.shared.gathered if forward else None  # which a local name holds to the end of the original
        given = None
        for shard in self.shards:
            if self.world == 1:
                given = self._all_gather_input(shard)  # the one before it dies then
            shard.whole.storage.resize(shard.gathered)
        if forward:  # freed by the next group, so that its all-gather overlaps with this copy
            self.shared.gathered = self.gathered
        del previous, given
        self.post_forward.clear()
        self.gathered, self.pending, self.unsharded = None, False, True

    def reshard(self) -> None:
        """Free the parameters. What was saved of them for backward has their data again once they are gathered."""
        if self.unsharded:
            for shard in self.shards:
                shard.whole.storage.resize(0)
        self.unsharded = False

    def pre_forward(self, path: str, inputs: list[Tensor]) -> list[Tensor]:
        """``FSDPState._pre_forward``: a group of several modules is gathered when the first of them is called."""
        if not self.modules_to_run_forward:
            self.modules_to_run_forward.update(self.modules)
        inputs = self._cast(inputs)
        self.unshard()
        self.wait_for_unshard(forward=True)
        if not self.in_forward:
            inputs = with_post_backward("RegisterPostBackwardFunctionBackward", inputs, self.post_backward)
        self.in_forward = True
        return inputs

    def _cast(self, inputs: list[Tensor]) -> list[Tensor]:
        dtype = self.sharding.param_dtype
        return [x if dtype is None or x.dtype not in FLOATING else ops.to(x, dtype) for x in inputs]

    def post_forward_of(self, path: str, outputs: Sequence[Any]) -> None:
        """``FSDPState._post_forward``, once all modules of the group have run."""
        self.modules_to_run_forward.discard(path)
        if self.modules_to_run_forward:
            return
        self.in_forward = False
        if self.reshard_after_forward is None or self.reshard_after_forward is True:
            self.reshard()
        elif self.reshard_after_forward is not False:
            self._reshard_to(self.reshard_after_forward)
        self._indices.append(len(self.shared.post_forward_order))
        self.shared.post_forward_order.append(self)
        for x in outputs:
            if isinstance(x, Tensor) and x.node is not None:
                x.node.hooks = (*x.node.hooks, self.pre_backward)

    def _reshard_to(self, processes: int) -> None:
        """``FSDPParam.to_sharded_post_forward``: each parameter is freed once its part is copied."""
        for shard in self.shards:
            self.post_forward.append(self.ledger.empty((shard.gathered // processes,), "uint8"))
            shard.whole.storage.resize(0)
        self.unsharded = False

    def pre_backward(self) -> None:
        """Gather, and begin to gather the group before this one."""
        if self.in_backward:
            return
        self.in_backward = True
        self.unshard()
        self.wait_for_unshard(forward=False)
        if self._indices and (index := self._indices.pop()):
            self.shared.post_forward_order[index - 1].unshard()

    def post_backward(self) -> None:
        """Free the parameters, then reduce the gradients, which are views of one tensor in the end."""
        self.reduced, self.in_backward = True, False
        for i, shard in enumerate(self.shards):
            if (known := self.accumulated[i]) is not None and shard.whole.grad is not None:
                ops.add_(known, shard.whole.grad)
                shard.whole.grad = None
        if not self.scope.sync:
            self.reshard()
            self._keep()
            return
        having, grads = [], []
        for i, shard in enumerate(self.shards):
            grad = shard.whole.grad if self.accumulated[i] is None else self.accumulated[i]
            if grad is not None:
                having.append(shard)
                if grad.shape != shard.whole.shape:  # of a DTensor with other placements (`_get_grad_inner_tensor`)
                    grad = self.ledger.empty(shard.whole.shape, grad.dtype)
                grads.append(grad)
            self.accumulated[i] = shard.whole.grad = grad = None
        self.reshard()
        if self.shards:
            self.shared.reduced = None
        if having:
            self._reduce(having, grads)

    def _keep(self) -> None:
        """``to_accumulated_grad_if_needed``."""
        reduce_dtype = self.sharding.reduce_dtype
        for i, shard in enumerate(self.shards):
            if reduce_dtype is not None and (grad := shard.whole.grad) is not None and grad.dtype != reduce_dtype:
                shard.whole.grad = None
                self.accumulated[i] = ops.to(grad, reduce_dtype)
                del grad

    def _reduce(self, having: Sequence[_Shard], grads: list[Any]) -> None:
        """``foreach_reduce``."""
        ledger, dtype = self.ledger, self.sharding.reduce_dtype or grads[0].dtype
        numel = sum((shard.padded(1) for shard in having), 0)
        reduced = ledger.empty((numel,), dtype)
        if not ledger.device.has_own_memory:
            _chunk_cat(ledger, having, grads, dtype)
        last = grads.pop() if self.world > 1 else None  # which a loop's variable still names
        grads.clear()
        stored, replicas, local = having[0].local.dtype, self.sharding.replicate, (numel // self.world,)
        with ledger.on_stream("reduce_scatter"):
            output = ledger.empty(local, dtype)
        sent = output.nbytes * (self.world - 1)
        if replicas > 1:
            self.all_reduced = output
            sent = sent + 2 * output.nbytes * (replicas - 1) // replicas
        self.scope.communicated += sent * self.copies
        if stored != dtype:
            with ledger.on_stream("all_reduce" if replicas > 1 else "reduce_scatter"):
                output = ledger.empty(local, stored)
        host, storage = ledger.host, output.storage
        if host is not None:
            storage = Storage(host, 0)  # pinned memory is counted apart
        elif ledger.events is not None:
            ledger.events.gradients[storage.event] = tuple([shard.local.name for shard in having])
        for shard in having:
            if shard.local.grad is None:  # it is added in place otherwise
                shard.local.grad = Tensor(storage, shard.local.shape, stored)
            elif host is not None:
                host.transient(shard.local.nbytes)
        del last
        self.shared.reduced = reduced

    def end(self) -> None:
        """``_root_post_backward_final_callback``: reduce what no input's gradient told to."""
        if not self.reduced:
            self.post_backward()
        self.in_backward = self.reduced = False
        self.all_reduced = None
        if self.pending:
            self.gathered, self.pending = None, False
        self._indices.clear()


def _chunk_cat(ledger: Ledger, having: Sequence[_Shard], grads: Sequence[Tensor], dtype: str) -> None:
    """What ``torch._chunk_cat`` allocates on a CPU: copies of what has to be padded, and one of each that is cast."""
    padded = [shard.padded(ITEMSIZE[grad.dtype]) for shard, grad in zip(having, grads, strict=True)]
    uneven = [shard.rows != shard.whole.shape[0] for shard in having]
    held = [ledger.empty((nbytes,), "uint8") for nbytes in itertools.compress(padded, uneven)]
    for nbytes in padded if grads[0].dtype != dtype else ():
        ledger.transient(nbytes)
    del held


def _own_rows(call: Call) -> tuple[Tensor]:
    """``Redistribute.backward``: a copy of the process's own rows of the gradient."""
    return (call.ledger.empty(call.args[0], call.grad.dtype),)


class _Scope(Scope):
    """The hooks of the modules. The last group is the whole model's."""

    def __init__(self, ledger: Ledger, sharding: Fsdp2, parts: Parts) -> None:
        self.shared, self.sharding, self.keeps = _Communication(), sharding, True
        self.dtype = sharding.param_dtype
        self.sync = True
        groups = []
        for unit in _units(sharding, parts):
            ledger.segment = parts.segments.get(unit.paths[0], -1)
            if sharding.upcasts:
                upcast(p for p in unit.parameters if p.requires_grad)
            groups.append(_Group(ledger, sharding, unit, self))
        ledger.segment = -1
        trained = {p.shape[0] for group in groups for p in (shard.whole for shard in group.shards) if p.requires_grad}
        self.alike = sharding.alike({rows for rows in trained if isinstance(rows, int)})
        self.root = groups.pop()
        self.groups = (self.root, *groups)
        if sharding.by_plan and _is_tied(parts):
            self._untie(ledger, parts.replaced[parts.roles["output embedding"]])
        self._group_of = {path: group for group in groups for path in group.modules}
        self.paths = tuple(self._group_of)
        ledger.after_backward, ledger.full_tensor = self._after_backward, self._full_tensor

    def _full_tensor(self, whole: Tensor) -> Tensor:
        """``DTensor.full_tensor`` of a sharded parameter, in the dtype it is kept in. Its gradient is not reduced.

        Raises ``InputError`` if the parameter rests on the host.
        """
        shard = next(shard for group in self.groups for shard in group.shards if shard.whole is whole)
        local, world, ledger = shard.local, self.sharding.shard, self.root.ledger
        if ledger.host is not None:
            raise InputError(
                f"sharding.cpu_offload has no rule with a loss that gathers {whole.name} itself, which rests on the "
                "host: TRL computes the loss there; leave cpu_offload out"
            )
        if world == 1:
            return local
        self.communicated += local.nbytes * (world - 1)

        def gathered() -> Tensor:
            rows = ledger.empty((shard.rows, *whole.shape[1:]), local.dtype)
            return Tensor(rows.storage, whole.shape, local.dtype)

        return record("_ToTorchTensorBackward", gathered, (local,), (), _own_rows, local.shape)

    def _untie(self, ledger: Ledger, head: Any) -> None:
        """A tied head is tied once weights are loaded, so the root gathers the embedding's shard once more for it."""
        shard = next(shard for group in self.groups for shard in group.shards if shard.whole is head.weight)
        head.weight = Tensor(Storage(ledger, 0, resident=True), shard.whole.shape, shard.whole.dtype)
        head.weight.requires_grad, head.weight.name = shard.whole.requires_grad, shard.whole.name
        head.weight.storage.unload()
        self.root.shards.append(shard._replace(whole=head.weight))
        self.root.accumulated.append(None)
        self.unties = True

    def before_forward(self) -> None:
        self.root.pre_forward("", [])

    def after_forward(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        for group in self.groups[:0:-1]:  # `_force_complete_incomplete_states`
            if group.modules_to_run_forward:
                group.modules_to_run_forward.clear()
                group.post_forward_of("", outputs)
        self.root.post_forward_of("", outputs)
        self.shared.gathered = None
        return outputs

    def before_module(self, path: str, inputs: list[Tensor]) -> list[Tensor]:
        return self._group_of[path].pre_forward(path, inputs)

    def after_module(self, path: str, outputs: list[Tensor]) -> None:
        self._group_of[path].post_forward_of(path, outputs)

    def before_backward(self, last: bool) -> None:
        self.sync = last or self.sharding.sync_each_batch

    def _after_backward(self) -> None:
        for group in self.groups:
            group.end()
        self.shared.post_forward_order.clear()
        self.shared.reduced = None
