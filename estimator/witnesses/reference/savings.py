"""Memory savings on the real model: checkpoints around parts other than a layer, MLP and loss in chunks, fused losses.

The fused losses are Triton kernels, which do not run on a CPU. Here they have the same steps in plain PyTorch, with the
same tensors, and without temporaries where the kernels have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...plans.plan import Plan
from ...plans.resolve import Resolved
from ...programs.releases import is_before
from ...steps.checkpointing import segment_length
from ...steps.fused_loss import TILE, liger_chunk
from ...steps.loss import CHUNK_TOKENS
from .offloading import saved_on_host

Function = Callable[..., Any]


def apply(model: Any, resolved: Resolved) -> None:
    """Add a plan's memory savings to a causal language model, wrapped by PEFT or not."""
    plan, modules = resolved.plan, resolved.spec.config.modules
    # The paths of a recorded method's modules start at PEFT's own model.
    recorded = modules.layers[0][0].path.startswith("base_model.")
    causal = model.get_base_model() if hasattr(model, "get_base_model") and not recorded else model
    layers = [causal.get_submodule(layer[0].path) for layer in modules.layers]
    if plan.checkpointing in ("layer", "offloaded"):
        model.gradient_checkpointing_enable({"use_reentrant": plan.reentrant})
        if is_before("5") or causal is not model:  # later releases do it themselves for models that take ids
            model.enable_input_require_grads()
        for layer in layers if plan.checkpointing == "offloaded" else ():
            layer._gradient_checkpointing_func = partial(_offloaded, layer._gradient_checkpointing_func)
    elif length := segment_length(plan.checkpointing):
        for start in range(0, len(layers), length):
            _checkpoint_segment(layers[start : start + length], selective=plan.checkpointing == "matmul")
    for found in modules.of("attention") if plan.checkpointing == "attention" else ():
        attention = causal.get_submodule(found.path)
        attention.forward = partial(_checkpointed_attention, attention.forward)
    for found in modules.of("mlp") if plan.mlp_chunks > 1 else ():
        mlp = causal.get_submodule(found.path)
        mlp.forward = partial(_chunked_mlp, mlp.forward, plan.mlp_chunks)
    if plan.neftune_noise_alpha is not None:
        from transformers.integrations.neftune import activate_neftune

        activate_neftune(model, plan.neftune_noise_alpha)
    if plan.loss != "standard":
        causal.forward = partial(_forward, causal, plan)


def _offloaded(function: Function, *args: Any) -> Any:
    """The checkpoint of a layer, which keeps its input in the host's memory."""
    with saved_on_host(args[1].device.type):
        return function(*args)


def _checkpoint_segment(layers: list[Any], selective: bool) -> None:
    """Put one checkpoint around several layers: the last layer runs all; the others only note their arguments."""
    calls: list[tuple[Function, dict[str, Any]]] = []

    def note(forward: Function, hidden_states: Any, **kwargs: Any) -> Any:
        calls.append((forward, kwargs))
        return hidden_states

    def run(forward: Function, hidden_states: Any, **kwargs: Any) -> Any:
        segment = partial(_run_segment, [*calls, (forward, kwargs)])
        calls.clear()
        if selective:
            contexts = partial(create_selective_checkpoint_contexts, _keep_products)
            return checkpoint(segment, hidden_states, use_reentrant=False, context_fn=contexts)
        return checkpoint(segment, hidden_states, use_reentrant=False)

    for layer in layers[:-1]:
        layer.forward = partial(note, layer.forward)
    layers[-1].forward = partial(run, layers[-1].forward)


def _run_segment(calls: list[tuple[Function, dict[str, Any]]], hidden_states: Any) -> Any:
    for forward, kwargs in calls:
        hidden_states = forward(hidden_states, **kwargs)
    return hidden_states


_PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
}
_watching: list[Function] = []


def _keep_products(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if operator not in _PRODUCTS:
        return CheckpointPolicy.PREFER_RECOMPUTE
    for see in _watching:
        for tensor in context.op_output if isinstance(context.op_output, tuple) else (context.op_output,):
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                see(tensor)
    return CheckpointPolicy.MUST_SAVE


@contextmanager
def watch_products(see: Function) -> Iterator[None]:
    """Call ``see`` with every tensor that selective checkpointing keeps, since saved-tensor hooks miss these."""
    _watching.append(see)
    try:
        yield
    finally:
        _watching.pop()


def _checkpointed_attention(forward: Function, hidden_states: Any, **kwargs: Any) -> Any:
    return checkpoint(partial(forward, **kwargs), hidden_states, use_reentrant=False)


def _chunked_mlp(forward: Function, count: int, x: Any) -> Any:
    """The MLP over chunks of the tokens of all sequences, as DeepSpeed's TiledMLP."""
    tokens = x.shape[:-1].numel()
    parts = x.view(1, tokens, -1).split(-(-tokens // count), dim=1)
    return torch.cat([checkpoint(forward, part, use_reentrant=False) for part in parts], dim=1).view(x.shape)


def _forward(causal: Any, plan: Plan, input_ids: Any = None, labels: Any = None, **kwargs: Any) -> Any:
    """The forward of the causal model with the plan's loss and without logits."""
    hidden_states = causal.base_model(input_ids=input_ids, **kwargs).last_hidden_state
    head = causal.get_output_embeddings()
    return CausalLMOutputWithPast(loss=_LOSSES[plan.loss](head, hidden_states, labels, plan))


def _shifted(labels: Any) -> Any:
    return functional.pad(labels, (0, 1), value=-100)[..., 1:].contiguous().view(-1)


def _chunked(head: Any, hidden_states: Any, labels: Any, plan: Plan) -> Any:
    labels = _shifted(labels)
    count = int((labels != -100).sum())
    size = plan.loss_chunk or CHUNK_TOKENS
    total: Any = None
    parts = hidden_states.view(-1, hidden_states.shape[-1]).split(size)
    for part, part_labels in zip(parts, labels.split(size), strict=True):
        loss = checkpoint(partial(_chunk_loss, head), part, part_labels, use_reentrant=False)
        total = loss if total is None else total + loss
    return total / count


def _chunk_loss(head: Any, hidden_states: Any, labels: Any) -> Any:
    logits = head(hidden_states).float()
    return functional.cross_entropy(logits, labels, reduction="sum")


def _weight(head: Any) -> Any:
    """The weight of the output embedding, or of PEFT's trainable copy."""
    copies = getattr(head, "modules_to_save", None)
    return (copies["default"] if copies is not None else head).weight


def _liger(head: Any, hidden_states: Any, labels: Any, plan: Plan) -> Any:
    labels = _shifted(labels)
    return LigerSteps.apply(hidden_states.view(-1, hidden_states.shape[-1]), _weight(head), labels)


class LigerSteps(torch.autograd.Function):  # type: ignore[misc]
    """``LigerFusedLinearCrossEntropyFunction`` on a GPU of compute capability 8.0 or higher."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, target: Any) -> Any:
        """The mean loss of x [T, H] under weight [V, H], and the gradients."""
        grad_input = torch.zeros_like(x)
        trained = weight.requires_grad and x.requires_grad
        grad_weight = torch.zeros_like(weight) if trained else None
        losses = torch.zeros(x.shape[0], dtype=torch.float32, device=x.device)
        mask = target != -100
        count = mask.sum().item()
        size = liger_chunk(x.shape[0], x.shape[1], weight.shape[0])
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        buffer = x.new_empty((size, weight.shape[0])) if x.dtype == weight.dtype == dtype else None
        for start in range(0, x.shape[0], size):
            rows = slice(start, start + size)
            logits = x[rows] @ weight.t() if buffer is None else buffer[: x[rows].shape[0]]
            if buffer is not None:
                torch.mm(x[rows], weight.t(), out=logits)
            _cross_entropy_in_place(logits, target[rows], losses[rows], count)
            if buffer is None:
                grad_input[rows] = logits @ weight
            else:
                torch.mm(logits, weight, out=grad_input[rows])
            if grad_weight is not None:
                _add_product(grad_weight, logits.t(), x[rows])
            del logits
        del buffer
        loss = torch.sum(losses)
        ctx.save_for_backward(grad_input.detach(), None if grad_weight is None else grad_weight.detach())
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Any) -> Any:
        """The gradients that forward computed, scaled unless the loss's own gradient is 1."""
        grad_input, grad_weight = ctx.saved_tensors
        if not torch.equal(grad_output, torch.tensor(1.0, device=grad_output.device)):
            grad_input.mul_(grad_output)
            if grad_weight is not None:
                grad_weight.mul_(grad_output)
        return grad_input, grad_weight, None


def _add_product(total: Any, a: Any, b: Any) -> None:
    """``addmm`` into a total of the matrices' dtype or of float32, as on a GPU.

    The copies that only a CPU needs are in memory that PyTorch's allocator does not count. A total of another dtype
    gets a product and its float32 copy.
    """
    if total.dtype not in (a.dtype, torch.float32):
        product = torch.mm(a, b).float()
        total.copy_(_outside(total).add_(product))
        return
    b = b.to(a.dtype)
    if total.dtype != a.dtype:
        a, b = _outside(a.t()).t(), _outside(b)
    torch.addmm(total, a, b, out=total)


def _outside(x: Any) -> Any:
    """A float32 copy in memory that PyTorch's allocator does not count."""
    return torch.from_numpy(np.empty(tuple(x.shape), np.float32)).copy_(x)


def _cross_entropy_in_place(logits: Any, target: Any, losses: Any, count: int) -> None:
    """``liger_cross_entropy_kernel``: replaces logits by their gradient, row by row and without temporaries."""
    torch.softmax(logits, -1, out=logits)
    for row, label, loss in zip(logits, target.tolist(), losses, strict=True):
        if label == -100:
            row.zero_()
            continue
        loss.copy_(row[label]).log_().div_(-count)
        row[label] -= 1
    logits.div_(count)


def _cce(head: Any, hidden_states: Any, labels: Any, plan: Plan) -> Any:
    batch, seq = labels.shape
    found = (labels[..., 1:] != -100).nonzero().to(torch.int32)
    found[:, 0] *= seq
    valids = found.sum(1)
    del found
    hidden_states = hidden_states.view(batch * seq, -1)
    return CutCrossEntropySteps.apply(hidden_states, _weight(head), labels.flatten(), valids)


class _Workspace:
    """The buffers of one tile."""

    def __init__(self, x: Any, weight: Any, valids: Any, gradient: bool) -> None:
        rows, columns = min(TILE[0], len(valids)), min(TILE[1], len(weight))
        self.x, self.weight, self.valids = x, weight, valids
        self.hidden = x.new_empty((rows, x.shape[1]))
        self.gradient: Any = torch.empty_like(self.hidden) if gradient else None
        self.logits = x.new_empty(rows * columns)
        self.exact = x.new_empty(rows * columns, dtype=torch.float32)
        self.by_row = x.new_empty(rows, dtype=torch.float32)
        self.by_column = x.new_empty(columns, dtype=torch.float32)

    def rows(self) -> Iterator[tuple[slice, Any]]:
        """Blocks of positions, each with its hidden states."""
        for start in range(0, len(self.valids), TILE[0]):
            part = slice(start, min(start + TILE[0], len(self.valids)))
            hidden = self.hidden[: part.stop - start]
            yield part, torch.index_select(self.x, 0, self.valids[part], out=hidden)

    def tiles(self, hidden: Any) -> Iterator[tuple[slice, Any, Any]]:
        """Blocks of the vocabulary, each with its logits and their float32 copy."""
        for start in range(0, len(self.weight), TILE[1]):
            part = slice(start, min(start + TILE[1], len(self.weight)))
            shape = (len(hidden), part.stop - start)
            logits, exact = (b[: shape[0] * shape[1]].view(shape) for b in (self.logits, self.exact))
            torch.mm(hidden, self.weight[part].t(), out=logits)
            yield part, logits, exact.copy_(logits)


class CutCrossEntropySteps(torch.autograd.Function):  # type: ignore[misc]
    """``cut_cross_entropy.cce.LinearCrossEntropyFunction``, shift 1, mean reduction, gradient filtering."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, target: Any, valids: Any) -> Any:
        """The mean loss of x [T, H] under weight [V, H]; ``valids`` are the positions whose next token has a label."""
        ctx.dtypes = x.dtype, weight.dtype
        trained = x.requires_grad or weight.requires_grad
        if torch.is_autocast_enabled("cpu"):
            x, weight = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (x, weight))
        count, vocab = len(valids), len(weight)
        logsumexp = x.new_full((count,), -float("inf"), dtype=torch.float32)
        locks = x.new_zeros((-(-count // 128),), dtype=torch.int32)
        mean_logits = x.new_zeros((vocab,), dtype=torch.float32) if trained else None
        losses = x.new_zeros((count,), dtype=torch.float32)
        wanted = [target[i + 1].item() for i in valids.tolist()]
        space = _Workspace(x, weight, valids, gradient=False)
        for rows, hidden in space.rows():
            for columns, _, exact in space.tiles(hidden):
                by_row, by_column = space.by_row[: len(exact)], space.by_column[: exact.shape[1]]
                for row, loss, label in zip(exact, losses[rows], wanted[rows], strict=True):
                    if columns.start <= label < columns.stop:
                        loss.sub_(row[label - columns.start])
                if mean_logits is not None:
                    mean_logits[columns].add_(torch.sum(exact, 0, out=by_column), alpha=1 / count)
                torch.amax(exact, 1, out=by_row)
                for row, largest in zip(exact, by_row, strict=True):
                    row.sub_(largest).exp_()
                _add_log(logsumexp[rows], by_row, exact)
        del space, locks
        losses.add_(logsumexp)
        ctx.wanted = wanted
        ctx.save_for_backward(x, weight, logsumexp, target, valids, mean_logits)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, grad_output: Any) -> Any:
        """The gradients of x and weight, tile by tile."""
        x, weight, logsumexp, _, valids, mean_logits = ctx.saved_tensors
        count, vocab = len(valids), len(weight)
        ordering = None if mean_logits is None else torch.argsort(mean_logits).to(torch.int32)
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        locks = [
            x.new_zeros((-(-n // 128), -(-x.shape[1] // 64)), dtype=torch.int32)
            for n, grad in ((count, grad_x), (vocab, grad_weight))
            if grad is not None
        ]
        space = _Workspace(x, weight, valids, gradient=True)
        _cce_gradients(space, logsumexp, ctx.wanted, grad_output.item() / count, grad_x, grad_weight)
        del space
        grad_weight = None if grad_weight is None else grad_weight.to(ctx.dtypes[1])
        grad_x = None if grad_x is None else grad_x.to(ctx.dtypes[0])
        del locks, ordering
        return grad_x, grad_weight, None, None


def _cce_gradients(
    space: _Workspace, logsumexp: Any, wanted: list[int], scale: float, grad_x: Any, grad_weight: Any
) -> None:
    """Add the gradients of x and weight, where they are not ``None``, tile by tile."""
    for rows, hidden in space.rows():
        gradient = space.gradient[: len(hidden)].zero_()
        for columns, logits, exact in space.tiles(hidden):
            exact.sub_(logsumexp[rows, None]).exp_()
            for row, label in zip(exact, wanted[rows], strict=True):
                if columns.start <= label < columns.stop:
                    row[label - columns.start] -= 1
            logits.copy_(exact.mul_(scale))
            if grad_x is not None:
                torch.addmm(gradient, logits, space.weight[columns], out=gradient)
            if grad_weight is not None:
                torch.addmm(grad_weight[columns], logits.t(), hidden, out=grad_weight[columns])
        if grad_x is not None:
            grad_x.index_copy_(0, space.valids[rows], gradient)


def _add_log(logsumexp: Any, largest: Any, exact: Any) -> None:
    """``logsumexp = logaddexp(logsumexp, largest + log(exact.sum(1)))``."""
    for total, top, row in zip(logsumexp, largest, exact, strict=True):
        torch.logaddexp(total, top.add_(row.sum().log_()), out=total)


def _next_tokens(labels: Any) -> Any:
    """The labels of torchtune's recipes: those but the first, and a column without a label."""
    return torch.hstack((labels[..., 1:], torch.full((len(labels), 1), -100)))


def _ce_chunked_output(head: Any, hidden_states: Any, labels: Any, plan: Plan) -> Any:
    """Torchtune's ``chunked_output`` and ``CEWithChunkedOutputLoss.forward``."""
    logits = [head(part) for part in hidden_states.chunk(plan.num_output_chunks, dim=1)]
    labels = _next_tokens(labels)
    count = (labels != -100).sum()
    targets = [part.reshape(-1) for part in labels.chunk(plan.num_output_chunks, dim=1)]
    rows = [part.reshape(-1, part.size(-1)) for part in logits]
    total: Any = 0.0
    for part, target in zip(rows, targets, strict=True):
        total += functional.cross_entropy(part.float(), target, reduction="sum")
    return total / count


def _linear_cross_entropy(head: Any, hidden_states: Any, labels: Any, plan: Plan) -> Any:
    """Torchtune's ``LinearCrossEntropyLoss.forward``."""
    labels = _next_tokens(labels).reshape(-1)
    hidden, labels = _with_a_label(hidden_states.reshape(-1, hidden_states.shape[-1]), labels)
    total = torch.tensor(0.0)
    parts = (x.tensor_split(plan.num_output_chunks) for x in (hidden, labels))
    for part, target in zip(*parts, strict=True):
        total += _logits_and_loss(head, part, target)
    return total / len(labels)


def _with_a_label(hidden_states: Any, labels: Any) -> tuple[Any, Any]:
    there = torch.where(labels != -100)[0]
    return hidden_states.index_select(0, there), labels.index_select(0, there)


def _logits_and_loss(head: Any, hidden_states: Any, labels: Any) -> Any:
    logits = head(hidden_states)
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


_LOSSES: dict[str, Function] = {
    "chunked": _chunked,
    "liger": _liger,
    "cce": _cce,
    "ce-chunked-output": _ce_chunked_output,
    "linear-cross-entropy": _linear_cross_entropy,
}
