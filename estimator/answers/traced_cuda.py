"""A step of a method without rules on a CUDA GPU: the real module is traced on the meta device into a ledger.

Every tensor that PyTorch makes becomes a storage of the ledger, which is freed when PyTorch frees the tensor. So the
event log is like one that rules write, and ``estimator/engines/torch_cuda/`` replays both. Gradient clipping and the
update follow the rules. The meta device does some things differently from a GPU, which are corrected here:

- ``F.scaled_dot_product_attention``, ``F.dropout`` and ``F.softmax`` choose an operator by device
  (``transformers/attention.cpp``, ``Dropout.cpp``, ``SoftMax.cpp``): CUDA's operator is called.
- While a dispatch mode is active, autograd adds gradients out of place (``input_buffer.cpp: can_accumulate_inplace``
  asks ``isTensorSubclassLike``): where it would add in place without the mode, it does so here.
- The meta device has no workspaces within kernels: those of matrix products, attention backward, embedding backward,
  reductions and softmax backward follow the rules of ``estimator/operators/``. Those of other kernels (Fourier
  transforms, decompositions, sorts, scattered sums) are missing.
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
from ..ledger import ITEMSIZE, Backward, Call, Events, Ledger, Node, Storage, Tensor
from ..operators import attention_cuda, attention_math
from ..plans.resolve import Resolved
from ..steps.clipping import clip
from ..steps.optimizers import OPTIMIZERS
from ..steps.step import StepTotals, read_totals
from ..witnesses.reference.libraries import torch
from ..witnesses.trace import added, build, new_storages, trace, without_data

aten = torch.ops.aten
_MATH = "math"
"""The ledger's operator while attention's math kernel runs. It adds its bias in place, unless a dispatch mode is active
(``transformers/attention.cpp``)."""
Rule = Callable[..., Sequence[Tensor | None]]


class Tracer:
    """Traces steps of a plan's model on the meta device, once for each shape of a batch.

    Raises ``InputError`` where the model cannot be built.
    """

    def __init__(self, resolved: Resolved) -> None:
        self.resolved, self.model = resolved, build(resolved)
        self._attributes: list[Any] = []
        """Tensors that are plain attributes of modules, or are made in the first step and kept."""
        self._steps: dict[tuple[int, int], Ledger] = {}
        finder = _Finder((*self.model.parameters(), *self.model.buffers()))
        with _as_on_cuda(resolved.step.ledger()), finder:
            self._losses(1, 2)
        self.model.zero_grad(set_to_none=True)
        self._attributes = finder.found

    def step(self, batch: int, seq: int) -> Ledger:
        """The ledger of one step of [batch, seq] tokens, with its event log.

        Raises ``InputError`` where the model reads its data.
        """
        if (batch, seq) not in self._steps:
            self._steps[batch, seq] = self._trace(batch, seq)
        return self._steps[batch, seq]

    def totals(self, batch: int, seq: int) -> StepTotals:
        """The totals of one step of [batch, seq] tokens."""
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
        """Put the model's tensors into the ledger. Returns its parameters, each with the ledger's tensor."""
        ledger = recorder.ledger
        pairs, of_peft = [], added(self.model)
        for name, p in self.model.named_parameters():
            tensor = ledger.parameter(name, tuple(p.shape), _dtype(p), p.requires_grad, added=name in of_peft)
            recorder.hold(p, tensor.storage)
            pairs.append((p, tensor))
        for buffer in (*self.model.buffers(), *self._attributes):
            storage = buffer.untyped_storage()
            if storage._cdata not in recorder.held:
                recorder.hold(buffer, ledger.buffer((storage.nbytes(),), "uint8").storage)
        return pairs

    def _losses(self, batch: int, seq: int, ledger: Ledger | None = None) -> Any:
        """Forward and backward; twice with gradient accumulation. Returns the tensors that the training loop keeps."""
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


class _Recorder(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
    """Makes a storage in the ledger for every storage that operators make, and frees it with that one."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.held: dict[int, Storage] = {}
        """The ledger's storages, by the address of the real one."""

    def hold(self, tensor: Any, storage: Storage) -> None:
        """Keep a storage of the ledger as long as the real tensor's lives."""
        real = tensor.untyped_storage()
        self.held[real._cdata] = storage
        weakref.finalize(real, self.held.pop, real._cdata, None).atexit = False

    def tensor(self, real: Any) -> Tensor:
        """The ledger's tensor for a real one."""
        strides = None if real.is_contiguous() else tuple(real.stride())
        return Tensor(self.held[real.untyped_storage()._cdata], tuple(real.shape), _dtype(real), strides)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is aten.add.Tensor and (self.ledger.operator == _MATH or _adds_in_place(args)):
            return args[0].add_(args[1]).detach()  # autograd needs a tensor other than its operand
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
    """Whether autograd's engine adds to a gradient that nothing else holds (``can_accumulate_inplace``).

    Such a tensor has four references here (the engine's, its Python object's, two of the call), its storage two.
    """
    old, new = args
    if torch.is_grad_enabled() or not isinstance(new, torch.Tensor) or old.shape != new.shape or old.dtype != new.dtype:
        return False
    frame = sys._getframe(2)
    while frame.f_code.co_name in ("_fn", "inner") and frame.f_back is not None:  # wrappers of the dispatcher
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
    """Finds the storages that a step uses but does not make, except the ``known`` ones."""

    def __init__(self, known: Sequence[Any]) -> None:
        super().__init__()
        self._known = {t.untyped_storage()._cdata for t in known}
        self._made: set[int] = set()
        self.found: list[Any] = []
        """A tensor on each storage found."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        for x, storage in new_storages((args, kwargs), self._known, self._made):
            if x.is_meta:
                self._known.add(storage._cdata)
                self.found.append(x.detach())
        for x, storage in new_storages(out, self._known, self._made):
            if x.is_meta:
                self._made.add(storage._cdata)
                weakref.finalize(storage, self._made.discard, storage._cdata).atexit = False
        return out


def _dtype(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")


def _backward(
    recorder: _Recorder, rule: Backward, grad: Any, saved: Sequence[Any], needs: Sequence[bool], *args: Any
) -> Sequence[Tensor | None]:
    """The gradients that the rule of a backward makes."""
    call = Call(Node("", recorder.ledger, (), args, rule), recorder.tensor(grad))
    call.saved = [None if x is None else recorder.tensor(x) for x in saved]
    call.needs = list(needs)
    return rule(call)


def _product(shape: Callable[..., Sequence[int]], first: int = 0) -> Rule:
    """The rule of a matrix product, whose two operands start at argument ``first``."""

    def rule(recorder: _Recorder, *args: Any, **kwargs: Any) -> Sequence[Tensor]:
        a, b = (recorder.tensor(x) for x in args[first : first + 2])
        out = recorder.ledger.empty(tuple(shape(*args[first : first + 2])), a.dtype)
        ops.launch_cublas(a, b)
        return (out,)

    return rule


def _mm_shape(a: Any, b: Any) -> tuple[int, ...]:
    return (*a.shape[:-1], b.shape[-1])


def _attention_backward(kernel: str) -> Rule:
    """The rule of the backward of attention without a bias."""

    def rule(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
        grad, query, key, value, out, logsumexp = args[:6]
        saved = (query, key, value, None, out, logsumexp)
        return _backward(recorder, attention_cuda.GRADIENTS[kernel], grad, saved, (True,) * 3)

    return rule


def _efficient_forward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    query, trains = recorder.tensor(args[0]), bool(args[4])
    return *attention_cuda.efficient_outputs(query, trains, args[2].shape[-1]), None, None


def _cudnn_forward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    return attention_cuda.cudnn_outputs(recorder.tensor(args[0]), bool(args[4]))


def _efficient_backward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    grad, query, key, value, bias, out, logsumexp = args[:7]
    saved = (query, key, value, bias, out, logsumexp)
    return _backward(recorder, attention_cuda.GRADIENTS["efficient"], grad, saved, args[10][:3])


def _embedding_backward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    grad, ids, vocabulary = args[:3]
    return _backward(recorder, ops.embedding_dense_backward, grad, (ids,), (True,), (vocabulary, grad.shape[-1]))


def _softmax_backward(recorder: _Recorder, *args: Any, **_: Any) -> Sequence[Tensor | None]:
    return _backward(recorder, ops.softmax_backward, args[0], (), (True,), str(args[3]).removeprefix("torch."))


def _dropout(recorder: _Recorder, x: Any, *_: Any) -> Sequence[Tensor | None]:
    """``native_dropout``, which makes its mask before its result (``Dropout.cu``)."""
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
    return (attention_math.safe_softmax(recorder.tensor(x)),)


_RULES: dict[Any, Rule] = {
    aten.mm.default: _product(_mm_shape),
    aten.bmm.default: _product(_mm_shape),
    aten.addmm.default: _product(_mm_shape, 1),
    aten.baddbmm.default: _product(_mm_shape, 1),
    aten._scaled_dot_product_flash_attention_backward.default: _attention_backward("flash"),
    aten._scaled_dot_product_efficient_attention.default: _efficient_forward,
    aten._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,
    aten._scaled_dot_product_cudnn_attention.default: _cudnn_forward,
    aten._scaled_dot_product_cudnn_attention_backward.default: _attention_backward("cudnn"),
    aten.embedding_dense_backward.default: _embedding_backward,
    aten.native_dropout.default: _dropout,
    aten._safe_softmax.default: _safe_softmax,
    aten._softmax_backward_data.default: _softmax_backward,
    aten.sum.dim_IntList: _reduction,
    aten.mean.dim: _reduction,
}


@contextmanager
def _as_on_cuda(ledger: Ledger) -> Iterator[None]:
    """Within it, functions call the operators that PyTorch chooses on a CUDA device."""
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
    """``F.scaled_dot_product_attention`` by the kernel of ``select_kernel``, without dropout."""

    def shape_of(x: Any) -> Tensor:
        return Tensor(Storage(ledger, 0, resident=True), tuple(x.shape), _dtype(x))

    def attend(
        query: Any, key: Any, value: Any, attn_mask: Any = None, _: float = 0.0, is_causal: bool = False, **options: Any
    ) -> Any:
        scale = options.get("scale")
        trains = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        mask = None if attn_mask is None else shape_of(attn_mask)
        kernel = attention_cuda.select_kernel(shape_of(query), shape_of(key), shape_of(value), mask, trains)
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
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=options.get("enable_gqa", False)
        )[0]
        ledger.operator = ""
        return out

    return attend
