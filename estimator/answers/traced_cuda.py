"""A step of the real Hugging Face module as a CUDA GPU would run it, traced on the meta device into a ledger.

Every tensor that PyTorch makes on the way becomes a storage of the ledger and goes when PyTorch lets go of it,
so the log of a step without rules is of the kind that rules write (``estimator/engines/torch_cuda/`` replays
both). Clipping and update are the rules'. The meta device decides some things as no GPU does; here they are put
right:

- ``F.scaled_dot_product_attention``, ``F.dropout`` and ``F.softmax`` ask for the device
  (``transformers/attention.cpp``, ``Dropout.cpp``, ``SoftMax.cpp``): the operator that CUDA takes is called.
- While a dispatch mode is active, autograd adds up gradients out of place (``input_buffer.cpp:
  can_accumulate_inplace`` asks ``isTensorSubclassLike``): what it would add in place is added in place.
- What a kernel takes inside: matrix products, attention backward, embedding backward, reductions and softmax
  backward follow the rules of ``estimator/operators/``. Of other kernels (Fourier
  transforms, decompositions, sorts, scattered sums) it is not seen.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from .. import operators as ops
from ..errors import InputError
from ..ledger import ITEMSIZE, Backward, Call, Events, Ledger, Node, Storage, Tensor
from ..operators import attention_cuda
from ..plans.resolve import Resolved
from ..steps.clipping import clip
from ..steps.optimizers import OPTIMIZERS
from ..steps.step import StepTotals, read_totals
from ..witnesses.reference.libraries import torch
from ..witnesses.trace import added, build, trace, without_data

aten = torch.ops.aten
_MATH = "math"
"""The ledger's operator while the math version of attention runs, which adds its bias in place unless a dispatch
mode is active (``transformers/attention.cpp``)."""
Rule = Callable[..., Sequence[Tensor | None]]


class Tracer:
    """The model of a plan on the meta device, whose steps are traced, each size of batch once.

    Raises ``InputError`` where it cannot be built.
    """

    def __init__(self, resolved: Resolved) -> None:
        plan = resolved.plan
        if plan.attention == "flash":
            raise InputError("attention flash runs the flash-attn package, which a trace cannot; use attention: sdpa")
        self.resolved, self.model = resolved, build(resolved)
        self._attributes: list[Any] = []
        """Tensors that the model holds as plain attributes, or makes in its first step and keeps."""
        self._steps: dict[tuple[int, int], Ledger] = {}
        finder = _Finder((*self.model.parameters(), *self.model.buffers()))
        with _as_on_cuda(resolved.step.ledger()), finder:
            self._losses(1, 2)
        self.model.zero_grad(set_to_none=True)
        self._attributes = finder.kept()

    def step(self, batch: int, seq: int) -> Ledger:
        """The ledger of one step of [batch, seq] tokens, with its log.

        Raises ``InputError`` where the model reads its data.
        """
        if (batch, seq) not in self._steps:
            self._steps[batch, seq] = self._trace(batch, seq)
        return self._steps[batch, seq]

    def totals(self, batch: int, seq: int) -> StepTotals:
        """The bytes of such a step."""
        ledger = self.step(batch, seq)
        trained = [p for p in ledger.parameters if p.requires_grad]
        optimizer = OPTIMIZERS[self.resolved.step.optimizer](self.resolved.step.optimizer_rank)
        gradients = sum(p.numel * ITEMSIZE[p.dtype] for p in trained)
        return read_totals(ledger, trained, optimizer.state_bytes(trained), gradients, self.saved(batch, seq))

    def saved(self, batch: int, seq: int) -> int:
        """Bytes that a forward pass saves for backward."""
        within = _as_on_cuda(self.resolved.step.ledger())
        return sum(row.nbytes for row in trace(self.model, self.resolved.plan, batch, seq, within))

    def _trace(self, batch: int, seq: int) -> Ledger:
        step, events = replace(self.resolved.step, previous_output=False), Events()
        ledger = step.ledger(unrolled=True, events=events)
        recorder = _Recorder(ledger)
        parameters = self._hold(recorder)
        ledger.phase, ledger.scope = "forward", "model"
        events.mark("forward")
        with _as_on_cuda(ledger), recorder:
            out = self._losses(batch, seq, ledger)
        for real, p in parameters:
            if real.grad is None:
                p.requires_grad = False  # no optimizer has a state for it
            else:
                events.gradients[recorder.tensor(real.grad).storage.event] = p.name
        trained = [p for _, p in parameters if p.requires_grad]
        optimizer = OPTIMIZERS[step.optimizer](step.optimizer_rank)
        events.mark("update")
        ledger.phase, ledger.scope = "step", "optimizer"
        if step.gradient_clipping:
            clip(ledger, trained)
        optimizer.step(ledger, trained)
        events.mark("zero_grad")
        self.model.zero_grad(set_to_none=True)
        events.mark("end")
        del out
        return ledger

    def _hold(self, recorder: _Recorder) -> list[tuple[Any, Tensor]]:
        """Put the model's tensors into the ledger; returns parameters, each with the ledger's."""
        ledger = recorder.ledger
        pairs = []
        for name, p in self.model.named_parameters():
            tensor = ledger.parameter(name, tuple(p.shape), _dtype(p), p.requires_grad, added=added(name))
            recorder.hold(p, tensor.storage)
            pairs.append((p, tensor))
        for buffer in (*self.model.buffers(), *self._attributes):
            storage = buffer.untyped_storage()
            if storage._cdata not in recorder.held:
                recorder.hold(buffer, ledger.buffer((storage.nbytes(),), "uint8").storage)
        return pairs

    def _losses(self, batch: int, seq: int, ledger: Ledger | None = None) -> Any:
        """Forward and backward, of two micro-batches where gradients are alive from the start. Returns what lives."""
        plan = self.resolved.plan
        for _ in range(2 if self.resolved.step.gradients_alive else 1):
            if ledger is not None:
                ledger.phase = "forward"
            ids = torch.empty((batch, seq), dtype=torch.int64, device="meta")
            mask = torch.empty_like(ids) if plan.attention_mask else None
            arguments = {} if mask is None else {"attention_mask": mask}
            out = self.model(input_ids=ids, labels=ids, use_cache=plan.use_cache, **arguments)
            if not plan.keep_logits:
                out = {"loss": out.loss}
            if ledger is not None and ledger.events is not None:
                ledger.events.mark("backward")
                ledger.phase = "backward"
            out["loss"].backward()
            if plan.drop_output_before_step:
                out = None
        return ids, mask, out


# ---- the recorder ------------------------------------------------------------------------


class _Recorder(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
    """Gives every storage that operators make on the meta device one in the ledger, as long as it lives."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.held: dict[int, Storage] = {}
        """By the address of the real one."""

    def hold(self, tensor: Any, storage: Storage) -> None:
        """Let a storage of the ledger stand for a tensor's."""
        real = tensor.untyped_storage()
        self.held[real._cdata] = storage
        weakref.finalize(real, self.held.pop, real._cdata, None).atexit = False

    def tensor(self, real: Any) -> Tensor:
        """A tensor whose storage is known, as the ledger's."""
        strides = None if real.is_contiguous() else tuple(real.stride())
        return Tensor(self.held[real.untyped_storage()._cdata], tuple(real.shape), _dtype(real), strides)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is aten.add.Tensor and (self.ledger.operator == _MATH or _adds_in_place(args)):
            return args[0].add_(args[1]).detach()  # a tensor of its own, as autograd wants it
        rule = _RULES.get(function)
        made = list(rule(self, *args, **kwargs)) if rule is not None else None
        out = function(*args, **kwargs)
        for i, tensor in enumerate(x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)):
            storage = tensor.untyped_storage()
            if not tensor.is_meta or storage._cdata in self.held:
                continue
            if made is None:
                self.hold(tensor, Storage(self.ledger, storage.nbytes()))
            elif i < len(made) and (ours := made[i]) is not None:
                self.hold(tensor, ours.storage)
        return out


def _adds_in_place(args: Sequence[Any]) -> bool:
    """Whether this is autograd's engine, adding a gradient to one that it alone holds (``can_accumulate_inplace``).

    A tensor that nothing else holds has four references here (the engine's, its Python object's, two of the
    call's), its storage two.
    """
    old, new = args
    if torch.is_grad_enabled() or not isinstance(new, torch.Tensor) or old.shape != new.shape or old.dtype != new.dtype:
        return False
    frame = sys._getframe(2)
    while frame.f_code.co_name in ("_fn", "inner") and frame.f_back is not None:  # the dispatcher's own
        frame = frame.f_back
    if frame.f_code.co_name != "_engine_run_backward" or not _dense(old):
        return False
    alone: bool = old._use_count() <= 4 and torch._C._storage_Use_Count(old.untyped_storage()._cdata) <= 2
    return alone


def _dense(x: Any) -> bool:
    """``is_non_overlapping_and_dense``."""
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(x.shape, x.stride(), strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


class _Finder(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
    """Finds storages that a step uses and leaves behind and that are not among the ``known`` ones."""

    def __init__(self, known: Sequence[Any]) -> None:
        super().__init__()
        self._known = {t.untyped_storage()._cdata for t in known}
        self._made: set[int] = set()
        self._found: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        for x in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(x, torch.Tensor) and x.is_meta:
                storage = x.untyped_storage()
                if storage._cdata not in self._known and storage._cdata not in self._made:
                    self._known.add(storage._cdata)
                    self._found.append(x.detach())
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.is_meta:
                storage = x.untyped_storage()
                if storage._cdata not in self._known and storage._cdata not in self._made:
                    self._made.add(storage._cdata)
                    weakref.finalize(storage, self._made.discard, storage._cdata).atexit = False
        return out

    def kept(self) -> list[Any]:
        """The tensors that were there before the step."""
        return self._found


def _dtype(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")


# ---- what kernels take inside ------------------------------------------------------------


def _backward(
    recorder: _Recorder,
    rule: Backward,
    grad: Any,
    saved: Sequence[Any],
    needs: Sequence[bool],
    *args: Any,
) -> Sequence[Tensor | None]:
    """The results of a backward rule."""
    call = Call(Node("", recorder.ledger, (), args, rule), recorder.tensor(grad))
    call.saved = [None if x is None else recorder.tensor(x) for x in saved]
    call.needs = list(needs)
    return rule(call)


def _product(shape: Callable[..., Sequence[int]], first: int = 0) -> Rule:
    """A matrix product of the operands from the ``first`` one on."""

    def rule(recorder: _Recorder, *args: Any, **kwargs: Any) -> Sequence[Tensor]:
        a, b = (recorder.tensor(x) for x in args[first : first + 2])
        out = recorder.ledger.empty(tuple(shape(*args[first : first + 2])), a.dtype)
        ops.launch_cublas(a, b)
        return (out,)

    return rule


def _mm_shape(a: Any, b: Any) -> tuple[int, ...]:
    return (*a.shape[:-1], b.shape[-1])


def _flash_backward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    grad, query, key, value, out, logsumexp = args[:6]
    rule = attention_cuda.GRADIENTS["flash"]
    return _backward(recorder, rule, grad, (query, key, value, None, out, logsumexp), (True,) * 3)


def _efficient_forward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    query, trains = recorder.tensor(args[0]), bool(args[4])
    return *attention_cuda.efficient_outputs(query, trains), None, None


def _cudnn_forward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    return attention_cuda.cudnn_outputs(recorder.tensor(args[0]), bool(args[4]))


def _efficient_backward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    grad, query, key, value, bias, out, logsumexp = args[:7]
    saved = (query, key, value, bias, out, logsumexp)
    return _backward(recorder, attention_cuda.GRADIENTS["efficient"], grad, saved, args[10][:3])


def _cudnn_backward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    grad, query, key, value, out, logsumexp = args[:6]
    rule = attention_cuda.GRADIENTS["cudnn"]
    return _backward(recorder, rule, grad, (query, key, value, None, out, logsumexp), (True,) * 3)


def _embedding_backward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    grad, ids, vocabulary = args[:3]
    return _backward(recorder, ops.embedding_dense_backward, grad, (ids,), (True,), (vocabulary, grad.shape[-1]))


def _softmax_backward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    return _backward(recorder, ops.softmax_backward, args[0], (), (True,), str(args[3]).removeprefix("torch."))


def _dropout(recorder: _Recorder, x: Any, *_: Any) -> Sequence[Tensor | None]:
    """The mask is made first (``Dropout.cu``)."""
    mask = recorder.ledger.empty(tuple(x.shape), "bool")
    return recorder.ledger.empty(tuple(x.shape), _dtype(x)), mask


def _reduction(recorder: _Recorder, x: Any, dims: Any = None, *args: Any, **kwargs: Any) -> Sequence[Tensor | None]:
    """A sum or a mean over some dimensions, or over all."""
    whole = dims is None or not len(dims)
    gone = [whole or i in {d % x.ndim for d in dims} for i in range(x.ndim)]
    dtype = kwargs.get("dtype")
    out = recorder.ledger.empty(
        tuple(size for size, goes in zip(x.shape, gone, strict=True) if not goes),
        _dtype(x) if dtype is None else str(dtype).removeprefix("torch."),
    )
    recorder.ledger.transient(*recorder.ledger.device.workspace_of_sum(recorder.tensor(x), gone))
    return (out,)


def _safe_softmax(recorder: _Recorder, x: Any, *_: Any, **__: Any) -> Sequence[Tensor | None]:
    return (attention_cuda.safe_softmax(recorder.tensor(x)),)


_RULES: dict[Any, Rule] = {
    aten.mm.default: _product(_mm_shape),
    aten.bmm.default: _product(_mm_shape),
    aten.addmm.default: _product(_mm_shape, 1),
    aten.baddbmm.default: _product(_mm_shape, 1),
    aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
    aten._scaled_dot_product_efficient_attention.default: _efficient_forward,
    aten._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,
    aten._scaled_dot_product_cudnn_attention.default: _cudnn_forward,
    aten._scaled_dot_product_cudnn_attention_backward.default: _cudnn_backward,
    aten.embedding_dense_backward.default: _embedding_backward,
    aten.native_dropout.default: _dropout,
    aten._safe_softmax.default: _safe_softmax,
    aten._softmax_backward_data.default: _softmax_backward,
    aten.sum.dim_IntList: _reduction,
    aten.mean.dim: _reduction,
}


# ---- what PyTorch decides by device ------------------------------------------------------


@contextmanager
def _as_on_cuda(ledger: Ledger) -> Iterator[None]:
    """Call the operators that PyTorch takes on a CUDA device."""
    functional = torch.nn.functional
    softmax = functional.softmax

    def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or p == 0.0:
            return x
        return torch.native_dropout(x, p, training)[0]

    def float_softmax(x: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
        if (x.dtype, dtype) == (torch.float16, torch.float32):
            return aten._softmax(x, dim, True)
        return softmax(x, dim, _stacklevel, dtype)

    with (
        without_data(_attention(ledger)),
        mock.patch.object(functional, "dropout", dropout),
        mock.patch.object(functional, "softmax", float_softmax),
    ):
        yield


def _attention(ledger: Ledger) -> Callable[..., Any]:
    """``F.scaled_dot_product_attention`` by the kernel that ``select_kernel`` names, without dropout."""

    def shape_of(x: Any) -> Tensor:
        return Tensor(Storage(ledger, 0, resident=True), tuple(x.shape), _dtype(x))

    def run(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        trains = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        mask = None if attn_mask is None else shape_of(attn_mask)
        kernel = attention_cuda.select_kernel(shape_of(query), shape_of(key), mask, trains)
        if attn_mask is not None and attn_mask.dtype == torch.bool:  # convert_boolean_attn_mask
            zero, least = (torch.full((), x, dtype=query.dtype, device="meta") for x in (0.0, float("-inf")))
            attn_mask = torch.where(attn_mask, zero, least)
            del zero, least
        if kernel == "flash":
            dim = query.shape[-1]
            padded = [torch.nn.functional.pad(x, (0, -dim % 8)) if dim % 8 else x for x in (query, key, value)]
            return aten._scaled_dot_product_flash_attention(*padded, 0.0, is_causal, scale=scale)[0][..., :dim]
        if kernel == "cudnn":
            return aten._scaled_dot_product_cudnn_attention(
                query, key, value, attn_mask, trains, 0.0, is_causal, scale=scale
            )[0]
        if kernel == "efficient":
            if attn_mask is not None:  # preprocess_mask
                keys = attn_mask.shape[-1]
                if keys % 8:
                    attn_mask = torch.nn.functional.pad(attn_mask, (0, -keys % 8))[..., :keys]
                attn_mask = attn_mask.expand(*query.shape[:3], keys)
            return aten._scaled_dot_product_efficient_attention(
                query, key, value, attn_mask, trains, 0.0, is_causal, scale=scale
            )[0]
        ledger.operator = _MATH
        out = aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]
        ledger.operator = ""
        return out

    return run
