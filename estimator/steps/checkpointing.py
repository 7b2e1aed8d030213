"""Gradient checkpointing (``torch/utils/checkpoint.py``), non-reentrant: transformers' default since release 5.

A checkpoint holds the inputs of its function and the CPU's random state, not the tensors that operators save in it. In
backward, its first node that needs a saved tensor runs the function again, up to the last tensor that was saved. Each
recomputed tensor is freed when its node has used it. An outer checkpoint drops and recomputes what inner ones hold.

Selective checkpointing (``create_selective_checkpoint_contexts``) also holds the results of matrix products and
attention kernels, whether or not a node needs them. The second run takes them instead of computing them.

The reentrant form, the default before release 5, is a node of its own. Its backward runs the whole function again, with
the graph that the first run did not make, and then this graph's backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast
from weakref import ReferenceType, ref

from ..ledger import Call, Counted, Hooks, Ledger, Tensor, backward, record
from ..ledger.graph import Output
from ..ledger.ledger import identity
from ..operators.table import Kept, saves
from .offloading import saved_on_host

RNG_STATE_BYTES = 5056
"""Bytes of ``torch.get_rng_state()``: the state of the CPU's Mersenne Twister."""


def segment_length(checkpointing: str) -> int:
    """How many consecutive layers one checkpoint spans, for a plan's ``checkpointing``; 0 without checkpoints."""
    if checkpointing.startswith("every-"):
        return int(checkpointing.removeprefix("every-"))
    return 1 if checkpointing in ("layer", "matmul", "offloaded") else 0


class _StopRecomputation(Exception):
    pass


class _Holder:
    """What a node holds instead of a saved tensor. It dies with a node that never runs."""

    __slots__ = ("__weakref__",)


class _Frame:
    def __init__(
        self, function: Callable[..., Any], inputs: tuple[Tensor, ...], args: tuple[Any, ...], selective: bool
    ) -> None:
        ledger = inputs[0].ledger
        self.ledger, self.function, self.args = ledger, function, args
        self.holders: list[ReferenceType[_Holder]] = []
        self.recomputed: dict[_Holder, Tensor] | None = None
        self.products: list[Tensor] | None = [] if selective else None
        self.rng_state = ledger.empty((RNG_STATE_BYTES,), "uint8")
        if ledger.thrown_away is not None:
            ledger.thrown_away.add(self.rng_state)
        ledger.module = "checkpoint"
        self.inputs = [
            (ledger.pack(x, "_NoopSaveInputs", i, inputs), x.requires_grad, x.node, x.number)
            for i, x in enumerate(inputs)
        ]
        self.autocast = ledger.autocast

    def run(self, inputs: tuple[Tensor, ...]) -> Any:
        ledger = self.ledger
        ledger.hooks.append(Hooks(self.pack, self.unpack))
        outer, ledger.products = ledger.products, self.keep if self.products is not None else ledger.products
        out = self.function(*inputs, *self.args)
        ledger.products = outer
        ledger.hooks.pop()
        return out

    def keep(self, make: Callable[[], Tensor]) -> Tensor:
        product = make()
        assert self.products is not None
        self.products.append(self.ledger.save_product(product))
        return product

    def hand_out(self, make: Callable[[], Tensor]) -> Tensor:
        assert self.products is not None
        return self.products.pop(0)

    def pack(self, tensor: Tensor) -> _Holder:
        holder = _Holder()
        self.holders.append(ref(holder))
        return holder

    def unpack(self, holder: _Holder) -> Tensor:
        if self.recomputed is None:
            self.recomputed = {}
            self._recompute(self.ledger)
        return self.recomputed.pop(holder)

    def _inputs(self) -> list[Tensor]:
        inputs = []
        for (held, unpack), requires_grad, node, number in self.inputs:
            tensor: Tensor = unpack(held).alias()
            tensor.requires_grad, tensor.node, tensor.number = requires_grad, node, number
            inputs.append(tensor)
        return inputs

    def _recompute(self, ledger: Ledger) -> None:
        recomputed = self.recomputed
        assert recomputed is not None

        holders = iter(self.holders)
        count = len(self.holders)

        def keep(tensor: Tensor) -> Tensor:
            nonlocal count
            count -= 1
            again = tensor.alias()
            if (holder := next(holders)()) is not None:
                recomputed[holder] = again
            if not count:
                raise _StopRecomputation
            return again

        inputs = self._inputs()
        outer = (
            ledger.phase,
            ledger.scope,
            ledger.within,
            ledger.running,
            ledger.grad_enabled,
            ledger.autocast,
            ledger.autocast_cache,
            ledger.autocast_casts,
            ledger.products,
            ledger.thrown_away,
        )
        ledger.phase, ledger.running, ledger.grad_enabled = "recomputation", "", True
        ledger.autocast, ledger.autocast_cache, ledger.autocast_casts = self.autocast, {}, Counted(ledger)
        ledger.products = None if self.products is None else self.hand_out
        ledger.thrown_away = Counted(ledger)
        ledger.hooks.append(Hooks(keep, lambda held: held))
        rng_state = ledger.empty((RNG_STATE_BYTES,), "uint8")  # fork_rng's copy
        with suppress(_StopRecomputation):
            self.function(*inputs, *self.args)
        ledger.hooks.pop()
        del rng_state
        ledger.thrown_away.clear()
        ledger.phase, ledger.scope, ledger.within, ledger.running, ledger.grad_enabled, ledger.autocast = outer[:6]
        ledger.autocast_cache, ledger.autocast_casts, ledger.products, ledger.thrown_away = outer[6:]


_INPUTS = Kept("what goes into the checkpoint", because="backward runs it again from here")


@saves("_NoopSaveInputs", _INPUTS, inputs=())
@saves(
    "product", Kept("the result of a product or of attention", because="selective checkpointing keeps it"), inputs=()
)
def checkpoint(
    function: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    args: tuple[Any, ...] = (),
    selective: bool = False,
) -> Any:
    """Run ``function(*inputs, *args)`` and save only ``inputs`` for its backward; ``args`` stay live as well.

    ``selective`` also holds the results of matrix products and attention kernels.
    """
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    return _Frame(function, inputs, args, selective).run(inputs)


@saves("CheckpointFunctionBackward", _INPUTS, inputs=())
def reentrant(function: Callable[..., Any], inputs: Tensor | tuple[Tensor, ...], args: tuple[Any, ...] = ()) -> Any:
    """As ``checkpoint``, by ``CheckpointFunction``."""
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    ledger = inputs[0].ledger
    rng_state = ledger.empty((RNG_STATE_BYTES,), "uint8")
    again = partial(_run_again, function, args, ledger.autocast)
    others: tuple[Tensor, ...] | None = None

    def make() -> Tensor:
        nonlocal others
        with ledger.no_grad():
            out = function(*inputs, *args)
        first, *rest = (out,) if (alone := isinstance(out, Tensor)) else out
        others = None if alone else tuple(rest)
        return cast("Tensor", first)

    ledger.module = "checkpoint"
    wants = tuple(x.requires_grad for x in inputs)
    kinds: list[Output] = []
    out = record("CheckpointFunctionBackward", make, inputs, inputs, _reentrant_backward, again, wants, kinds)
    if out.node is not None:
        out.node.attach(rng_state)
        for number, other in enumerate(others or (), 1):
            other.requires_grad, other.node, other.number = True, out.node, number
            out.node.outputs.append(Output(other.shape, other.dtype))
        kinds += out.node.outputs
    return out if others is None else (out, *others)


def _run_again(
    function: Callable[..., Any], args: tuple[Any, ...], autocast: str | None, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Run a checkpoint's function with a graph, in the modes of the forward pass."""
    ledger = inputs[0].ledger
    phase, scope, enabled, outer = ledger.phase, ledger.scope, ledger.grad_enabled, ledger.autocast
    running, ledger.running = ledger.running, ""
    caches = ledger.autocast_cache, ledger.autocast_casts, ledger.thrown_away
    ledger.phase, ledger.grad_enabled, ledger.autocast = "recomputation", True, autocast
    ledger.autocast_cache, ledger.autocast_casts, ledger.thrown_away = {}, Counted(ledger), None
    ledger.hooks.append(Hooks(Tensor.alias, identity))  # what backward saves is no part of `saved`
    rng_state = ledger.empty((RNG_STATE_BYTES,), "uint8")  # fork_rng's copy
    out = function(*inputs, *args)
    del rng_state
    ledger.hooks.pop()
    ledger.phase, ledger.scope, ledger.grad_enabled, ledger.autocast = phase, scope, enabled, outer
    ledger.running = running
    ledger.autocast_cache, ledger.autocast_casts, ledger.thrown_away = caches
    return (out,) if isinstance(out, Tensor) else out


def _reentrant_backward(call: Call) -> tuple[Tensor | None, ...]:
    again, wants, kinds = call.args
    given = zip(kinds, call.grads, strict=True)
    # a torch.autograd.Function gets zeros for the gradient of a result that nothing uses (set_materialize_grads)
    grads = [call.ledger.empty(kind.shape, kind.dtype) if grad is None else grad for kind, grad in given]
    inputs = []
    for tensor, wanted in zip(call.saved, wants, strict=True):
        detached = tensor.alias()
        detached.requires_grad, detached.node = wanted, None
        inputs.append(detached)
    backward(call.ledger, *again(inputs), grads=grads)
    return tuple(x.grad for x in inputs)


def gradient_checkpointing_func(checkpointing: str, use_reentrant: bool) -> Callable[..., Any] | None:
    """What runs a segment of layers, for a plan's ``checkpointing``; ``None`` if layers have no checkpoint.

    ``use_reentrant`` is of the checkpoints that transformers makes, of one layer each.
    """
    if not segment_length(checkpointing):
        return None
    if checkpointing == "offloaded":
        return partial(_offloaded, reentrant if use_reentrant else checkpoint)
    if checkpointing == "layer" and use_reentrant:
        return reentrant
    return partial(checkpoint, selective=checkpointing == "matmul")


def _offloaded(
    run: Callable[..., Any], function: Callable[..., Any], inputs: Tensor | tuple[Tensor, ...], args: tuple[Any, ...]
) -> Any:
    with saved_on_host((inputs if isinstance(inputs, Tensor) else inputs[0]).ledger):
        return run(function, inputs, args)
