"""ZeRO stage 3: DeepSpeed's partitions of parameters, gradients and optimizer states.

Sources, of 0.19, by whose names states and methods are called here: ``deepspeed/runtime/zero/stage3.py``
(``DeepSpeedZeroOptimizer_Stage3``), ``parameter_offload.py`` (hooks of every module), ``partition_parameters.py``
(gathers), ``partitioned_param_coordinator.py`` (what is gathered ahead and kept), ``linear.py`` (``F.linear``).

A rank has a part of each parameter, and small (persistent) ones whole beside it. It has float32 copies of the parts
that train, which count as states of the optimizer. Kept for communication are a bucket of gradients and the parts of
all gradients. Parts are padded, so ranks are equal.

The coordinator knows from the steps before in which order modules run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar

from ... import operators as ops
from ...errors import InputError
from ...ledger import ITEMSIZE, Call, Ledger, Storage, Tensor, product, record, whole
from ...ledger.graph import Beside
from ...methods.lora import LoraLinear
from ...operators.products import launch_product
from ...operators.table import Kept, saves
from ...programs import Sharding
from ...programs.modules import Embedding, Linear, Module
from ..offloading import pin
from .noted import Noted
from .scope import Parts, Scope, with_post_backward
from .zero import NORM_BYTES

MAX_LIVE_PARAMETERS = MAX_REUSE_DISTANCE = SUB_GROUP_SIZE = 1_000_000_000
"""DeepSpeed's defaults, in elements."""
NOT_AVAILABLE, INFLIGHT, AVAILABLE = range(3)


@dataclass(frozen=True, kw_only=True)
class Zero3(Sharding):
    """The options of DeepSpeed's block ``zero_optimization`` for stage 3, with its defaults."""

    is_played: ClassVar[bool] = True

    reduce_bucket_size: int = 500_000_000
    overlap_comm: bool = True
    """Without effect where there are no streams."""
    contiguous_gradients: bool = True
    stage3_prefetch_bucket_size: int = 50_000_000
    stage3_param_persistence_threshold: int = 100_000
    offload_optimizer: str = "none"
    """``cpu``: float32 copies, their gradients, those in 16 bits and the optimizer's states rest on the host."""
    offload_param: str = "none"
    """``cpu``: the rank's parts of parameters rest on the host."""

    @property
    def offloads(self) -> bool:
        return "cpu" in (self.offload_optimizer, self.offload_param)

    @property
    def has_cpu_adam(self) -> bool:
        return self.offload_optimizer == "cpu"

    def notes(self, ledger: Ledger, parts: Parts) -> Scope:
        return _Hooks(ledger, parts, self.adapted)

    def scope(self, ledger: Ledger, parts: Parts) -> Scope:
        return _StageThree(ledger, self, parts)


@dataclass(eq=False)
class _Param:
    """A parameter with what DeepSpeed notes on it (``ds_status`` and the like). Its storage is that of the whole."""

    whole: Tensor
    numel: int
    world: int
    persist: bool
    packed: bool
    rests: bool
    """The rank's part is in another memory, and is copied to be gathered."""
    stays: bool = False
    """It is never freed."""
    status: int = NOT_AVAILABLE
    active_sub_modules: set[str] = field(default_factory=set)

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.whole.dtype]

    @property
    def partition_numel(self) -> int:
        return -(-self.numel // self.world)

    @property
    def aligned_bytes(self) -> int:
        """Bytes of the parts of all ranks."""
        return self.partition_numel * self.world * self.itemsize

    def resize(self, nbytes: int) -> None:
        """Give the whole parameter a storage of so many bytes. One rank's part is the whole."""
        if not (self.world > 1 or self.rests) or self.stays:
            return
        if self.packed and not self.persist:
            self.whole.storage = Storage(self.whole.ledger, nbytes)
            self.whole.storage.saved = True  # no activation
        else:
            self.whole.storage.resize(nbytes)


class _Handle:
    """An all-gather: of one parameter into its own storage, of several into one, out of which each is copied."""

    def __init__(self, ledger: Ledger, params: Sequence[_Param], stream: str) -> None:
        self.ledger, self.params, self.stream, self.complete = ledger, params, stream, False
        self.flat: list[Tensor] = []
        for p in params:
            p.status = INFLIGHT
        with ledger.on_stream(stream):
            if len(params) == 1 or params[0].world == 1:
                for p in params:
                    p.resize(p.aligned_bytes)
                if params[0].rests and params[0].world > 1:  # its own part, which the collective reads
                    self.flat.append(ledger.empty((params[0].partition_numel,), params[0].whole.dtype))
            else:
                for dtype in sorted({p.whole.dtype for p in params}):
                    alike = [p for p in params if p.whole.dtype == dtype]
                    nbytes = sum(p.aligned_bytes for p in alike)
                    self.flat.append(ledger.empty((nbytes // ITEMSIZE[dtype],), dtype))
                    ledger.transient(*(p.partition_numel * p.itemsize for p in alike if p.rests))

    def wait(self) -> None:
        """Copy out what has been gathered, which is freed with the handle."""
        if self.complete:
            return
        with self.ledger.on_stream(self.stream):
            for p in self.params:
                if len(self.params) > 1 and p.world > 1:
                    p.resize(p.numel * p.itemsize)
                p.status = AVAILABLE
        self.complete = True


class _Coordinator:
    """``PartitionedParameterCoordinator``, which knows the order of modules (``submodule_order``)."""

    def __init__(self, ledger: Ledger, options: Zero3, own: dict[str, list[_Param]]) -> None:
        self.ledger, self.own = ledger, own
        self.prefetch_bucket_size = options.stage3_prefetch_bucket_size
        self.stream = "all_gather" if options.overlap_comm else ""
        self.submodule_order: Sequence[str] = ()
        self.active_backward_submodules: dict[str, None] = {}
        self.recompute_parameters: dict[str, dict[_Param, None]] = {}
        self.inflight: dict[_Param, _Handle] = {}
        self.traversed: list[int] = []
        """Elements of the parameters of all modules before each."""
        self.uses: dict[_Param, list[int]] = {}
        """The places in the order of the modules that have each parameter."""

    def know(self, order: Sequence[str]) -> None:
        """Take the order of modules, as if steps before had noted it."""
        self.submodule_order = order
        self.traversed = [0, *accumulate(sum(p.numel for p in self.own.get(path, ())) for path in order)]
        for step, path in enumerate(order):
            for p in self.own.get(path, ()):
                self.uses.setdefault(p, []).append(step)

    def reset_step(self) -> None:
        """Before a forward pass."""
        for p, handle in self.inflight.items():
            handle.wait()
            self._release_param(p)
        self.inflight.clear()
        self.active_backward_submodules.clear()
        self.param_queue = deque(
            (p, step) for step, path in enumerate(self.submodule_order) for p in self.own.get(path, ())
        )
        self.fetched_for: dict[_Param, int] = {}
        self.step_id = self.n_available_params = 0

    def fetch_sub_module(self, path: str, forward: bool) -> None:
        """Gather a module's parameters, then some of those that follow."""
        params = self.own.get(path, [])
        recomputes = self.ledger.phase == "recomputation"
        if not forward:
            self.active_backward_submodules[path] = None
        self._all_gather([p for p in params if p.status == NOT_AVAILABLE])
        for p in params:
            p.active_sub_modules.add(path)
            if recomputes and self.active_backward_submodules and not p.whole.requires_grad:
                self.recompute_parameters.setdefault(next(reversed(self.active_backward_submodules)), {})[p] = None
            if p in self.inflight:
                self.inflight.pop(p).wait()
        not_fetched = {p for p in params if self.fetched_for.get(p, -1) < self.step_id}
        discarded: set[_Param] = set()
        while self.param_queue and len(discarded) < len(not_fetched):
            p, step = self.param_queue.popleft()
            self.fetched_for[p] = step
            discarded.add(p)
        self._prefetch()
        self.step_id += 1

    def _prefetch(self) -> None:
        most = min(MAX_LIVE_PARAMETERS - self.n_available_params, self.prefetch_bucket_size)
        found: dict[_Param, None] = {}
        numel = 0
        while self.param_queue and numel < most:
            p, step = self.param_queue.popleft()
            self.fetched_for[p] = max(self.fetched_for.get(p, -1), step)
            if p.status == NOT_AVAILABLE and p not in found:
                found[p] = None
                numel += p.numel
        self._all_gather([*found])

    def _all_gather(self, params: list[_Param]) -> None:
        if not params:
            return
        self.n_available_params += sum(p.numel for p in params)
        handle = _Handle(self.ledger, params, self.stream)
        for p in params:
            self.inflight[p] = handle

    def release_sub_module(self, path: str, forward: bool) -> None:
        """Free a module's parameters, but those that are used again soon."""
        own = self.own.get(path, [])
        released = {p for p in own if not p.persist and not self._is_kept(p)}
        params = dict.fromkeys(own)
        if not forward:
            again = self.recompute_parameters.pop(path, {})
            released |= {p for p in again if not p.persist}
            params |= again
            self.active_backward_submodules.pop(path, None)
        for p in params:
            p.active_sub_modules.discard(path)
            if p in released:
                self._release_param(p)

    def _is_kept(self, p: _Param) -> bool:
        """``__params_to_release``: whether it has been skipped as gathered already, or is reused soon."""
        if self.fetched_for.get(p, -1) > self.step_id:
            return True
        following = next((step for step in self.uses.get(p, ()) if step >= self.step_id), None)
        return following is not None and self.traversed[following] - self.traversed[self.step_id] < MAX_REUSE_DISTANCE

    def _release_param(self, p: _Param) -> None:
        if p.status == AVAILABLE and not p.active_sub_modules:
            p.resize(0)
            p.status = NOT_AVAILABLE
            self.n_available_params -= p.numel

    def release_backward_leftovers(self) -> None:
        """Free the parameters of modules whose inputs get no gradient."""
        while self.active_backward_submodules:
            path, _ = self.active_backward_submodules.popitem()
            for p in (*self.own.get(path, ()), *self.recompute_parameters.pop(path, ())):
                p.active_sub_modules.discard(path)
                if not p.persist:
                    self._release_param(p)

    def release_and_reset_all(self, params: Sequence[_Param]) -> None:
        """Free all parameters."""
        for p in params:
            if p in self.inflight:
                self.inflight.pop(p).wait()
            p.active_sub_modules.clear()
            self._release_param(p)


class _StageThree(Scope):
    """``DeepSpeedZeroOptimizer_Stage3`` with its coordinator."""

    def __init__(self, ledger: Ledger, options: Zero3, parts: Parts) -> None:
        self.ledger, self.options = ledger, options
        every = [*dict.fromkeys(p for own in parts.modules.values() for p in own)]
        self.model_dtype = next(p.dtype for p in every if not p.added)
        world = options.world_size
        known: dict[int, _Param] = {}
        trained: list[Tensor] = []
        self.resident: list[Storage] = []
        host = ledger.host if options.offload_param == "cpu" else None
        whole_ones = 0
        for p in every:
            numel = whole(p.storage.nbytes) // ITEMSIZE[p.dtype]  # as it is packed
            persist, packed = numel <= options.stage3_param_persistence_threshold, p.storage.nbytes != p.nbytes
            one = _Param(p, numel, world, persist, packed, rests=host is not None)
            known[id(p)] = one
            local = ledger.shard(p, (one.partition_numel,), host)
            if host is not None and not p.requires_grad:
                pin(ledger, local.nbytes, 1)
            if p.requires_grad:
                trained.append(local)
            if one.persist:
                one.status = AVAILABLE
            if one.persist and host is not None:
                one.stays = True
                self.resident.append(Storage(ledger, one.aligned_bytes, resident=True))
                whole_ones += one.aligned_bytes
            elif one.persist and world > 1 and ledger.events is None:
                p.storage.nbytes = one.aligned_bytes
                local.storage.nbytes += one.aligned_bytes
            elif one.persist and world > 1:  # the update frees them for a moment, of which the log has nothing
                one.stays = True
                self.resident.append(Storage(ledger, one.aligned_bytes, resident=True))
        flat = Storage(host or ledger, sum(local.storage.nbytes for local in trained), resident=True)  # `defragment`
        if host is not None:  # a part is pinned where it is made, and its block is cached when it is in the flat tensor
            for local in trained:
                pin(ledger, local.nbytes, 1)
            pin(ledger, flat.nbytes, 1)
            for local in trained:
                pin(ledger, local.nbytes, -1)
        for local in trained:
            local.storage = flat
        self.params = [*known.values()]
        self.trained = [p for p in self.params if p.whole.requires_grad]
        self.place = {id(p.whole): p for p in self.trained}
        own = {path: [known[id(p)] for p in tensors] for path, tensors in parts.modules.items() if tensors}
        for path in parts.modules:
            if first := own.get(f"{path}.lora_A"):
                own[f"{path}.base_layer"] = own.get(path, [])
                # The layer asks lora_A's weight for its dtype. If it is not there then, it is gathered with the layer,
                # too (`ZeROOrderedDict`).
                own[path] = [p for p in first if not p.persist]
        self.coordinator = _Coordinator(ledger, options, own)
        self.itemsize = ITEMSIZE[self.model_dtype]
        numel = sum(p.partition_numel for p in self.trained)
        gradients = numel * self.itemsize
        kept = [options.contiguous_gradients * options.reduce_bucket_size * self.itemsize]
        self.updates_on_host = options.offload_optimizer == "cpu"
        home = (ledger.host if self.updates_on_host else None) or ledger
        of_gradients = [gradients, numel * ITEMSIZE["float32"]] if self.updates_on_host else [gradients]
        if home is ledger:
            self.gradients = of_gradients[-1]
            kept = [*of_gradients, *kept]
        else:
            self.host_gradients = of_gradients[-1]
            pin(ledger, gradients, 1)
        self.resident += [Storage(ledger, nbytes, resident=True) for nbytes in kept]
        self.communication = sum(kept) + whole_ones
        self.norms: list[Tensor] = []
        """Those of gradients that are on the host."""
        self.last = True
        self.fp32_groups: list[Tensor] = []
        self.fp16_groups = [*self._sub_groups()]
        for group in self.fp16_groups:
            size = sum(p.partition_numel for p in group)
            storage = Storage(home, size * ITEMSIZE["float32"], resident=True)
            self.fp32_groups.append(Tensor(storage, (size,), "float32"))
            if home is not ledger:
                pin(ledger, storage.nbytes, 1)  # the gradient, and not the copy
        home.masters += self.fp32_groups
        self.states = sum(whole(group.nbytes) for group in self.fp32_groups)
        self.bucket: list[_Param] = []
        self.elements = 0

    def _sub_groups(self) -> Iterator[list[_Param]]:
        """``_create_fp16_sub_groups``."""
        group: list[_Param] = []
        for p in self.trained:
            group.append(p)
            if sum(q.partition_numel for q in group) >= SUB_GROUP_SIZE:
                yield group
                group = []
        if group:
            yield group

    def updated(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        return self.fp32_groups

    def know(self, order: Sequence[str]) -> None:
        self.coordinator.know(order)

    def before_forward(self) -> None:
        self.coordinator.reset_step()

    def fetch_forward(self, path: str) -> None:
        self.coordinator.fetch_sub_module(path, forward=True)

    def fetch_backward(self, path: str) -> None:
        self.coordinator.fetch_sub_module(path, forward=False)

    def release_forward(self, path: str) -> None:
        self.coordinator.release_sub_module(path, forward=True)

    def release_backward(self, path: str) -> None:
        self.coordinator.release_sub_module(path, forward=False)

    def after_gradient(self, leaf: Tensor) -> None:
        """``reduce_independent_p_g_buckets_and_remove_grads``."""
        p = self.place[id(leaf)]
        if self.bucket and self.elements + p.numel > self.options.reduce_bucket_size:
            self.reduce_and_partition_ipg_grads()
        if self.options.contiguous_gradients and self.elements + p.numel <= self.options.reduce_bucket_size:
            leaf.grad = None
        self.bucket.append(p)
        self.elements += p.numel

    def reduce_and_partition_ipg_grads(self) -> None:
        """Reduce what is in the bucket, and copy the rank's parts (``reduce_scatter_coalesced``)."""
        bucket, world = self.bucket, self.options.world_size
        self.bucket, self.elements = [], 0
        if not bucket:
            return
        padded = sum(p.partition_numel for p in bucket) * world
        copied: Tensor | None = None
        if len(bucket) > 1 or bucket[0].numel % world:
            paddings = [p.partition_numel * world - p.numel for p in bucket]
            with self.ledger.on_stream("reduce_and_partition" if self.options.overlap_comm else ""):
                held = [self.ledger.empty((padding,), self.model_dtype) for padding in paddings if padding]
                copied = self.ledger.empty((padded,), self.model_dtype)
            del held
        for p in bucket:
            if self.updates_on_host:
                with self.ledger.on_stream("reduce_and_partition" if self.options.overlap_comm else ""):
                    self._offload_grad_partition(p)
            p.whole.grad = None
        del copied
        self.communicated += padded // world * (world - 1) * self.itemsize

    def before_backward(self, last: bool) -> None:
        self.last = last

    def _offload_grad_partition(self, p: _Param) -> None:
        """``partition_grads``: the part of a gradient goes to the host, and comes back for its norm and its cast."""
        ledger, shape = self.ledger, (p.partition_numel,)
        back = ledger.empty(shape, self.model_dtype) if ledger.host is not None else None
        if self.last:
            ledger.transient(NORM_BYTES * (1 + p.partition_numel))
            self.norms.append(ledger.empty((1,), "float64"))
            if self.model_dtype != "float32":
                ledger.transient(p.partition_numel * ITEMSIZE["float32"])
        del back

    def after_backward(self) -> None:
        self.reduce_and_partition_ipg_grads()
        self.coordinator.release_backward_leftovers()

    def updates(self, parameters: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        ledger = self.ledger
        self.coordinator.release_and_reset_all(self.params)
        for number, p in enumerate(self.trained if not self.updates_on_host else ()):
            ledger.transient(NORM_BYTES * (number + 1 + p.partition_numel))
        for group, fp32 in zip(self.fp16_groups, self.fp32_groups, strict=True):
            if self.updates_on_host:
                yield [fp32]
                if ledger.host is not None and self.options.offload_param == "none" and self.model_dtype != "float32":
                    ledger.host.transient(whole(fp32.numel) * self.itemsize)  # a cast before the copy to the card
                continue
            flat = None if len(group) == 1 else ledger.empty(fp32.shape, self.model_dtype)
            grad = flat if self.model_dtype == "float32" else ledger.empty(fp32.shape, "float32")
            del flat
            yield [fp32]
            del grad
        self.norms.clear()
        gathered = [p for p in self.params if p.persist]
        for p in gathered:
            p.resize(p.aligned_bytes)
            p.status = AVAILABLE


class _Hooks(Noted):
    """The hooks of every module."""

    def __init__(self, ledger: Ledger, parts: Parts, adapted: bool) -> None:
        super().__init__(ledger, parts)
        self.paths, self.embedding = [*parts.modules], parts.roles.get("input embedding", "")
        self.roots = [f" {number}" for number in range(1 + adapted)]
        self.packed = {
            path if f"{path}.lora_A" not in parts.modules else f"{path}.base_layer": packed
            for path, own in parts.modules.items()
            if (packed := [p for p in own if p.storage.nbytes != p.nbytes])
        }
        ledger.linear = _linear
        for path, module in parts.replaced.items():
            self._hook_inner(path, module)

    def _hook_inner(self, path: str, module: Module) -> None:
        """Hook the modules within PEFT's LoRA layer, which a program does not have."""
        if isinstance(module, (Linear, Embedding)):
            return
        if not isinstance(module, LoraLinear) or module.dora is not None:
            raise InputError(
                f"sharding: zero3 has no rule with what the method makes of {path}; take LoRA of linear layers or zero2"
            )
        module.base_layer = _Hooked(self, f"{path}.base_layer", module.base_layer)  # type: ignore[assignment]
        module.lora_A = _Hooked(self, f"{path}.lora_A", module.lora_A, f"{path}.lora_dropout")  # type: ignore[assignment]
        module.lora_B = _Hooked(self, f"{path}.lora_B", module.lora_B)  # type: ignore[assignment]

    def before_forward(self) -> None:
        super().before_forward()
        for root in self.roots:
            self.note("fetch_forward", root)

    def after_forward(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        for root in self.roots[::-1]:
            self.note("release_forward", root)
            self._before_backward(root, outputs[:1])  # the loss, which is made of logits that are not those returned
        return outputs

    def before_module(self, path: str, inputs: list[Tensor]) -> list[Tensor]:
        self.note("fetch_forward", path)
        return with_post_backward(
            "PostBackwardFunctionModuleBackward", inputs, partial(self.note, "release_backward", path)
        )

    def after_module(self, path: str, outputs: list[Tensor]) -> None:
        self._keep_packed(path, outputs)
        self.note("release_forward", path)
        self._before_backward(path, outputs)

    def _keep_packed(self, path: str, outputs: Sequence[Any]) -> None:
        """``MatMul4Bit``: ``ctx.tensors`` has a view of the packed weight, which DeepSpeed's release does not free."""
        node = outputs[0].node if outputs else None
        for p in self.packed.get(path, ()):
            if node is not None:
                while node.name != "MatMul4Bit":
                    node = node.edges[0].target
                view = Tensor(Storage(self.ledger, 0, resident=True), (0,), p.dtype)
                view.storage.event = self.note("hold", p.name)
                node.attach(view)

    def _before_backward(self, path: str, outputs: Sequence[Any]) -> None:
        """``PreBackwardFunctionForModule``: modules around come before those within."""
        for x in outputs:
            if isinstance(x, Tensor) and x.node is not None:
                x.node.hooks = (partial(self.note, "fetch_backward", path), *x.node.hooks)

    def after_gradient(self, leaf: Tensor) -> None:
        if id(leaf) in self.trained:
            super().after_gradient(leaf)
        else:  # the embeddings, of which checkpoints ask for a gradient (`enable_input_require_grads`)
            self.note("fetch_backward", self.embedding)


class _Hooked(Module):
    """A module that a method made, with what is called around it, and around a dropout before it."""

    def __init__(self, scope: _Hooks, path: str, inner: Module, dropout: str = "") -> None:
        self.scope, self.path, self.inner, self.dropout, self.ledger = scope, path, inner, dropout, inner.ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def forward(self, x: Tensor) -> Tensor:
        if self.dropout:
            (x,) = self.scope.before_module(self.dropout, [x])
            self.scope.after_module(self.dropout, [x])
        (x,) = self.scope.before_module(self.path, [x])
        out: Tensor = self.inner(x)
        self.scope.after_module(self.path, [out])
        return out


_WHOLE = "kept whether or not the other factor trains"


@saves(
    "LinearFunctionForZeroStage3Backward",
    Kept("the input", (1,), _WHOLE),
    Kept("the weight", (0,), _WHOLE),
    Kept("the bias", (), _WHOLE),
    inputs=("input", "weight", "bias"),
)
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, run: Callable[..., Tensor]) -> Tensor:
    """``LinearFunctionForZeroStage3``, which takes the place of ``F.linear``: saves all its inputs, and makes all
    gradients before one of them is stored.
    """

    def make() -> Tensor:
        with x.ledger.no_grad():
            out = run(x, weight, bias)
        out.is_view, out.base = False, None
        return out

    given = (x, weight, bias)
    saved = [None if t is None else Beside(t) for t in given]  # a checkpoint that needs no more stops after the product
    return record("LinearFunctionForZeroStage3Backward", make, given, saved, _linear_backward)


def _linear_backward(call: Call) -> tuple[Tensor | None, ...]:
    ledger, grad = call.ledger, call.grad
    x, weight, _ = call.saved
    rows = product(grad.shape[:-1])
    of_input = of_weight = of_bias = None
    if call.needs[0]:
        ledger.multiply(rows, *weight.shape)
        of_input = ledger.empty(x.shape, grad.dtype)
        launch_product(grad, weight)
    if call.needs[1]:
        ledger.multiply(rows, *weight.shape)
        of_weight = ledger.empty(weight.shape, grad.dtype)
        launch_product(grad, x)
    if call.needs[2]:
        of_bias = ops.sum(grad, tuple(range(len(grad.shape) - 1)))
    return of_input, of_weight, of_bias
