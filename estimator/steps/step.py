"""One training step, from ids to ``zero_grad``, or a run of inference (``docs/how-it-works.md``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .. import operators as ops
from ..ledger import Counted, Ledger, SavedBy, SavedRow, Size, Tensor
from ..programs import Builder, Inputs, Method, Sizes, Step
from ..programs.attention import Cache
from ..programs.families import model_of
from ..programs.libraries import without_collector
from ..programs.recorded import RecordedSizes
from . import chunks, saved_activations
from .batch import Batch, make_batch
from .checkpointing import gradient_checkpointing_func, segment_length
from .clipping import clip
from .fused_loss import fused_loss, fused_loss_after
from .optimizers import made as made_optimizer
from .optimizers.base import Optimizer


@dataclass
class StepTotals:
    """What one step needs, in bytes: integers, or polynomials if sizes were symbols."""

    parameters: Size
    adapters: Size
    buffers: Size
    gradients: Size
    optimizer: Size
    saved: Size
    trainable_parameters: Size
    total_parameters: Size
    moments: dict[str, list[Size]]
    """The peaks of each moment, above what was resident: one number, or several polynomials (``Ledger.peaks``)."""
    rows: list[SavedRow] = field(default_factory=list)
    saved_by: list[SavedBy] = field(default_factory=list)
    """The operators that hold each of ``rows``."""
    work: Size = 0
    """Floating-point operations of the matrix products, if the ledger counted them."""
    kv_cache: Size = 0
    """Bytes of the cache that inference returns."""
    host_pinned: int = 0
    """Bytes of pinned host memory that hold what was saved for backward."""
    math_attention: str = ""
    """Why PyTorch's math attention runs on a GPU, if it does."""


Outputs = tuple[Any, ...]
"""A model's outputs: the loss (``None`` in inference), the logits and, perhaps, the cache."""


@without_collector()
def run(
    step: Step,
    sizes: Sizes | RecordedSizes,
    method: Method,
    batch: Size,
    seq: Size,
    symbolic: bool = False,
    keep_rows: bool = False,
    ledger: Ledger | None = None,
) -> StepTotals:
    """Run one step with a ledger, and read its totals."""
    ledger = ledger or step.ledger(symbolic=symbolic, keep_rows=keep_rows)
    ledger.sequences = batch if step.packing else 0
    batch, seq = step.rows(batch, seq)
    segment = segment_length(step.checkpointing) or 1
    build = Builder(ledger, method, step.dtype, segment, step.base, chunks.checkpoints(step))
    model: Any = model_of(build, sizes)
    checkpoints = gradient_checkpointing_func(step.checkpointing, step.use_reentrant)
    inputs = Inputs(ledger, batch, seq, step, checkpoints, fused_loss(step), fused_loss_after(step))
    if isinstance(sizes, RecordedSizes) and sizes.given:
        inputs = replace(inputs, makes_own=True)
    causal_lm = model
    model = method.wrap_model(build, model)
    infers = step.procedure == "inference"
    # The optimizer does not have parameters that get a gradient before the step.
    trained = [p for p in ledger.parameters if p.requires_grad and p.grad is None and not infers]
    updated = [p for p in trained if not p.unreached]
    optimizer = made_optimizer(step.optimizer, step.optimizer_rank, step.wide_states)
    gradients: Size = 0
    if optimizer.in_backward:
        ledger.gradient_hooks = optimizer
    elif step.procedure != "zeroth-order":
        for p in updated:
            gradients = gradients + p.nbytes * p.copies

    def forward(
        ids: Tensor | None, inputs: Inputs = inputs, cache: Cache | None = None, labels: Tensor | None = None
    ) -> Outputs:
        ledger.autocast = step.autocast
        with saved_activations.held_as(ledger, step.saved_activations, step.activation_group_size):
            given = () if cache is None else (None, cache)
            loss, *outputs = model(ids, labels, inputs, *given)
            if not infers:
                loss = method.add_to_loss(loss)
        ledger.autocast = None
        ledger.clear_autocast_cache()
        if step.convert_outputs_to_fp32 and isinstance(outputs[0], Tensor):
            outputs[0] = ops.to(outputs[0], "float32")
        return loss, *outputs

    def train(given: Batch) -> Outputs:
        mask = given.mask if step.attention_mask else None
        passed = replace(inputs, attention_mask=mask, position_ids=given.position_ids)
        return forward(given.ids, passed, labels=given.labels)

    def infer(given: Batch) -> Outputs:
        return forward(given.ids, replace(inputs, attention_mask=given.mask if step.attention_mask else None))

    def update() -> None:
        apply_update(ledger, step, optimizer, method, updated)

    ledger.mark("forward")
    saved: Size = 0
    kv_cache: Size = 0
    rows: list[SavedRow] = []
    saved_by: list[SavedBy] = []
    made = Batch()
    if step.generation is not None:
        from . import generate

        kv_cache = generate.call_of(ledger, step.generation, inputs, causal_lm, forward).run()
    elif infers:
        from . import prefill

        made, out = prefill.step(ledger, lambda: make_batch(ledger, inputs), infer, step.previous_output)
        kv_cache = prefill.cache_bytes(out)
    elif step.procedure == "backpropagation":
        # The second run stands for all later micro-batches or steps: what the one before left behind is live in it.
        for again in range(2 if step.gradients_alive or step.previous_output else 1):
            if again and not step.gradients_alive:
                zero_grad(trained)
            made = make_batch(ledger, inputs)
            out = train(made)
            if not step.keep_logits:
                out = out[:1]
            saved, rows, saved_by = ledger.saved, ledger.rows, ledger.saved_by
            ledger.next_forward()
            ledger.mark("backward")
            ledger.backward(out[0])
            if step.drop_output_before_step or step.family == "litgpt":
                del out  # litgpt's loop has only the loss as a Python number; the model holds its logits
        update()
    else:
        from . import forward_gradient, zeroth_order

        made = make_batch(ledger, inputs)
        if step.procedure == "forward-mode":
            forward_gradient.step(ledger, lambda: train(made)[0], trained, update)
        else:
            zeroth_order.step(ledger, lambda: train(made)[0], trained)
        saved = ledger.saved
    made = made._replace(mask=None)
    if ledger.events is not None:
        if not infers:
            ledger.mark("zero_grad")
            zero_grad(trained)
        ledger.mark("end")

    states = optimizer.state_bytes(updated)
    if step.procedure == "backpropagation":
        for p in updated:
            for nbytes in method.state_sizes(p):
                states = states + nbytes * p.copies
    return read_totals(ledger, trained, states, gradients, saved, rows, saved_by, kv_cache)


def apply_update(ledger: Ledger, step: Step, optimizer: Optimizer, method: Method, updated: Sequence[Tensor]) -> None:
    """What follows backward: gradients are clipped, the optimizer steps, and the method does its part."""
    ledger.mark("update")
    ledger.phase, ledger.scope = "step", "optimizer"
    if step.gradient_clipping:
        clip(ledger, updated)
    ledger.running = step.optimizer
    optimizer.step(ledger, updated)
    ledger.running = ""
    method.after_update(ledger, updated)


def zero_grad(parameters: Sequence[Tensor]) -> None:
    """``optimizer.zero_grad(set_to_none=True)``, of a counted parameter with the gradients of all its copies."""
    for p in parameters:
        if p.grad is not None:
            counted = Counted(p.ledger)
            counted.add(p.grad, p.copies)
            p.grad = None
            counted.clear()


def read_totals(
    ledger: Ledger,
    trained: Sequence[Tensor],
    optimizer: Size,
    gradients: Size,
    saved: Size,
    rows: Sequence[SavedRow] = (),
    saved_by: Sequence[SavedBy] = (),
    kv_cache: Size = 0,
) -> StepTotals:
    """The totals of a step from its ledger. The bytes of optimizer states, gradients and saved tensors are given."""
    parameters: Size = 0
    adapters: Size = 0
    trainable: Size = 0
    count: Size = 0
    for p in ledger.parameters:
        count = count + p.numel * p.copies
        parameters = parameters + p.storage.nbytes * p.copies
        if p.added:
            adapters = adapters + p.nbytes * p.copies
    for p in trained:
        trainable = trainable + p.numel * p.copies
    return StepTotals(
        parameters=parameters,
        adapters=adapters,
        buffers=ledger.buffer_bytes,
        gradients=gradients,
        optimizer=optimizer,
        saved=saved,
        trainable_parameters=trainable,
        total_parameters=count,
        moments={k: v if isinstance(v, list) else [v] for k, v in ledger.peaks.items()},
        rows=list(rows),
        saved_by=list(saved_by),
        work=ledger.work,
        kv_cache=kv_cache,
        host_pinned=ledger.pinned.nbytes,
        math_attention=ledger.notes.get("math attention", ""),
    )
