"""Precomputing: the reference's log-probabilities before the training (TRL's ``precompute_ref_log_probs``).

Source: ``trl/trainer/dpo_trainer.py: _precompute_ref_logps`` of 1.9 and 1.16. There are no gradients and no optimizer
states yet. The reference is the model without its adapter. Release 1.16 runs the fused head under autocast. Earlier
ones make all logits in the model's own dtype, then the log-softmax of one row at a time (``selective_log_softmax``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ledger import whole
from ..programs.modules import Frozen
from ..steps.trainers import TRAINERS
from .evaluation import Machine
from .moment import Moment

if TYPE_CHECKING:
    from ..engines.engine import Job
    from .options import RunOptions

MOMENT = "precomputing"


def precomputing(job: Job, options: RunOptions | None, fixed: int) -> list[Moment]:
    """The pass over the largest batch; none where the reference is asked in each step. ``fixed`` is the bytes of
    parameters and buffers.

    The evaluation set has ``per_device_eval_batch_size`` rows a batch, if ``precompute_ref_batch_size`` is not given.
    """
    plan = job.plan
    if not plan.precompute_ref_log_probs or plan.task != "train":
        return []
    trainer = TRAINERS[str(plan.trainer)]
    fused = trainer.fused and plan.trl == "1.16"
    sizes = [plan.batch]
    if options is not None and options.precompute_ref_batch_size is not None:
        sizes = [options.precompute_ref_batch_size]
    elif options is not None and options.eval_samples is not None:
        sizes.append(min(options.per_device_eval_batch_size, options.eval_samples))
    rows = max(sizes) * (2 if trainer.pairs else 1)
    step = job.step._replace(
        loss="fused-lm-head" if fused else "standard", autocast=job.step.autocast if fused else None
    )
    machine = Machine(job.with_step(step), Frozen() if plan.method.inner.peft else None)
    device = machine.device
    device.scope = "inputs"
    inputs = [device.empty((rows, plan.seq), "int64") for _ in range(4)]  # ids, masks of padding and completion, labels
    _, logits = machine.forward(inputs[0], None, rows, labelled=fused)
    if logits is not None:
        device.scope = "log-probabilities"
        row = device.empty(logits.shape[1:], logits.dtype)
        del row
    peak = max(map(whole, device.peaks.values()), default=0)
    why = f"the reference on {rows:,} rows before the training, {'with a fused head' if fused else 'with all logits'}"
    return [Moment(MOMENT, "device" if job.step.device.has_own_memory else "host", fixed + peak, why)]
