"""Evaluation: ``Trainer.evaluation_loop`` of transformers 5.24, to be read beside ``transformers/trainer.py``.

The loop keeps the logits and labels of all batches until ``compute_metrics`` (``EvalLoopContainer``). Each batch is
joined to what is kept by ``torch.cat``, so old and new exist at once. Nothing of a later batch is smaller than of an
earlier one but for the last, which may have fewer rows. So only the batches that can be the largest are run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import operators as ops
from ..ledger import Ledger, Shape, Tensor, whole
from ..programs import Builder, Inputs, Method
from ..programs.causal_lm import RecordedCausalLM
from ..steps.fused_loss import fused_loss, fused_loss_after
from .moment import Moment

if TYPE_CHECKING:
    from ..engines.engine import Job
    from .options import RunOptions

Forward = Callable[[Tensor, "Tensor | None", int], "tuple[Tensor, Tensor]"]
"""The model in eval mode: ids that are labels, too, perhaps a padding mask, and the rows -> the loss and the logits."""
JOINED, TO_HOST = "joining what is kept", "moving what is kept"
"""The parts of the loop around the model, as a ledger names them."""


class Machine:
    """A ledger of the device, without resident tensors, the host's ledger, and the model on the device.

    ``host`` is ``device`` where the model is in the host's memory.
    """

    def __init__(self, job: Job, method: Method | None = None) -> None:
        self.method = job.method if method is None else method
        # Checkpoints and noise on the embeddings are of train mode. The Trainer asks for no cache.
        step = job.step._replace(checkpointing="none", saved_activations="as-is", use_cache=False, neftune=False)
        self.job = job.with_step(step)
        self.device = device = step.ledger()
        self.host = Ledger(ops.CPU) if step.device.has_own_memory else device
        device.grad_enabled = device.training = False
        device.phase = self.host.phase = "evaluation"
        self._models: dict[int, Any] = {}

    def forward(self, ids: Tensor, mask: Tensor | None, rows: int, labelled: bool = True) -> tuple[Tensor, Tensor]:
        """The model without a backward graph: ids that are labels, too -> the loss, if ``labelled``, and the logits."""
        device, job = self.device, self.job
        step, seq = job.step, job.plan.seq
        sizes = job.sizes(batch=rows, seq=seq)
        build = Builder(device, self.method, step.dtype, base=step.base)
        model = self.method.wrap_model(build, RecordedCausalLM(build, sizes))
        device.autocast = step.autocast
        inputs = Inputs(device, rows, seq, step, None, fused_loss(step), fused_loss_after(step), attention_mask=mask)
        loss, logits, *_ = model(ids, ids if labelled else None, inputs)
        loss = self.method.add_to_loss(loss) if labelled else loss
        device.autocast = None
        device.clear_autocast_cache()
        return loss, logits


class Container:
    """``EvalLoopContainer``: tensors on the device, and arrays on the host. ``joins``: each is one, [rows, ...]."""

    def __init__(self, host: Ledger, joins: bool) -> None:
        self.host, self.joins = host, joins
        self.tensors: list[Tensor] = []
        self.arrays: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Join a batch to the tensors (``nested_concat``), or append it."""
        x.ledger.scope = JOINED
        self.tensors = [_cat(self.tensors[0], x)] if self.tensors and self.joins else [*self.tensors, x]

    def to_cpu_and_numpy(self) -> None:
        """Move the tensors to the host, and join them to the arrays, or append them."""
        self.host.scope = TO_HOST
        new = [self._numpify(x) for x in self.tensors]
        self.arrays = [_cat(self.arrays[0], new[0])] if self.arrays and self.joins and new else [*self.arrays, *new]
        self.tensors = []

    def _numpify(self, x: Tensor) -> Tensor:
        """``nested_numpify``: ``x.cpu()`` as an array that shares its memory. NumPy has no bfloat16: it is float32."""
        if x.ledger is not self.host:
            x = self.host.empty(x.shape, x.dtype)
        return self.host.empty(x.shape, "float32") if x.dtype == "bfloat16" else x


def _cat(old: Tensor, new: Tensor) -> Tensor:
    """``torch.cat`` or ``np.concatenate`` of rows."""
    rows, *rest = old.shape
    return old.ledger.empty((rows + new.shape[0], *rest), old.dtype)


@dataclass
class Kept:
    """What the loop keeps of all batches, and of the last one until the next prediction is there."""

    losses: Container
    logits: Container
    labels: Container
    last: list[Tensor] = field(default_factory=list)


class Evaluation:
    """The evaluation loop of a run, of batches of ``seq`` tokens a row."""

    def __init__(self, job: Job, options: RunOptions, samples: int) -> None:
        self.job, self.options, self.samples = job, options, samples
        self.batch = options.per_device_eval_batch_size
        self.batches = -(-samples // self.batch)
        # ``Trainer.evaluate`` asks for the loss alone where there is no ``compute_metrics``.
        self.loss_only = options.prediction_loss_only or not options.compute_metrics
        self.keeps = not (self.loss_only or options.batch_eval_metrics)
        """Logits and labels of all batches are kept."""
        accumulates = None if options.batch_eval_metrics else options.eval_accumulation_steps
        self.window = min(accumulates or self.batches, self.batches)
        """Batches after which what is kept goes to the host."""
        self._shape: tuple[Shape, str] | None = None

    def peaks(self) -> tuple[tuple[int, str], tuple[int, str]]:
        """The largest bytes on the device, above what is resident, and on the host, each with its moment.

        On a CPU both are the same.
        """
        found = [(_peak(machine.device), _peak(machine.host)) for machine in map(self._run, self._largest_batches())]
        return max(device for device, _ in found), max(host for _, host in found)

    def _largest_batches(self) -> list[int]:
        """Batches of which one is the largest: the last ones, and the last of the last whole windows.

        The last batch may have fewer rows, and the one before it has that batch ahead.
        """
        last = self.batches - 1
        end = self.batches // self.window * self.window - 1
        found = {last, last - 1, last - 2, end, end - 1, end - 2, end - self.window}
        return sorted(number for number in found if number >= 0)

    def _rows(self, number: int) -> int:
        """Rows of a batch; 0 where there is none."""
        return max(min(self.batch, self.samples - number * self.batch), 0)

    def _run(self, number: int) -> Machine:
        """Run a batch of the loop on a new machine, which starts with what the batches before have left."""
        machine, rows = Machine(self.job), self._rows(number)
        in_window = number % self.window
        kept = self._kept(machine, number - in_window, in_window)
        inputs = self._inputs(machine.device, rows)
        # accelerate's DataLoaderShard reads a batch ahead, and moves it to the device when its turn has come.
        ahead = self._inputs(machine.host, self._rows(number + 1))
        loss, logits = self._prediction(machine, inputs, rows)
        kept.last.clear()
        self._keep(kept, machine.device, None if self.loss_only else logits, inputs[1])
        if in_window == self.window - 1 or number == self.batches - 1:
            for container in (kept.losses, kept.logits, kept.labels):
                container.to_cpu_and_numpy()
        del ahead, loss
        return machine

    def _inputs(self, ledger: Ledger, rows: int) -> list[Tensor]:
        """A batch: ids, labels and, if there is padding, a mask."""
        ledger.scope = "inputs"
        count = 3 if self.job.step.takes_mask else 2
        return [ledger.empty((rows, self.job.plan.seq), "int64") for _ in range(count if rows else 0)]

    def _prediction(self, machine: Machine, inputs: list[Tensor], rows: int) -> tuple[Tensor, Tensor]:
        """``prediction_step``. Mixed precision casts logits to float32 (accelerate's ``convert_outputs_to_fp32``)."""
        loss, logits = machine.forward(inputs[0], inputs[2] if self.job.step.attention_mask else None, rows)
        machine.device.scope = "logits in float32"
        return loss, ops.to(logits, "float32") if self.job.plan.autocast and logits is not None else logits

    def _keep(self, kept: Kept, device: Ledger, logits: Tensor | None, labels: Tensor) -> None:
        """What follows a prediction: losses, logits and labels of the batch are added to what is kept."""
        device.scope = JOINED
        kept.losses.add(device.empty((self.batch,), "float32"))  # losses.repeat(batch_size)
        if logits is not None and self.options.preprocess_logits_for_metrics == "argmax":
            logits = device.empty(logits.shape[:-1], "int64")
        if logits is not None and self.keeps:
            kept.logits.add(logits)
            kept.labels.add(labels)

    def _kept(self, machine: Machine, on_host: int, on_device: int) -> Kept:
        """What the loop holds where a batch starts: arrays of ``on_host`` batches, tensors of ``on_device`` batches."""
        joins = self.options.eval_do_concat_batches
        losses, logits, labels = (Container(machine.host, joins) for _ in range(3))
        kept = Kept(losses, logits, labels)
        of_row: list[tuple[Container, Shape, str]] = [(losses, (), "float32")]
        if not self.loss_only:
            shape, dtype = self._logits(machine)
            of_row += [(logits, shape, dtype), (labels, (self.job.plan.seq,), "int64")]
        for container, shape, dtype in of_row:
            is_kept = self.keeps or container is losses
            array = "float32" if dtype == "bfloat16" else dtype
            container.arrays = self._batches(machine.host, on_host if is_kept else 0, shape, array)
            container.tensors = self._batches(machine.device, on_device if is_kept else 0, shape, dtype)
            if joins and on_device > 1 and not self.options.batch_eval_metrics:  # else it is the container's own
                kept.last.append(machine.device.empty((self.batch, *shape), dtype))
        return kept

    def _batches(self, ledger: Ledger, count: int, shape: Shape, dtype: str) -> list[Tensor]:
        """Tensors or arrays of ``count`` whole batches: one, or a list."""
        ledger.scope = "what is kept"
        if self.options.eval_do_concat_batches:
            return [ledger.empty((count * self.batch, *shape), dtype)] if count else []
        return [ledger.empty((self.batch, *shape), dtype) for _ in range(count)]

    def _logits(self, machine: Machine) -> tuple[Shape, str]:
        """Shape without rows, and dtype, of the logits that are kept, or of their argmax."""
        if self._shape is None:
            other = Machine(self.job)
            rows = self._rows(0)
            _, logits = self._prediction(other, self._inputs(other.device, rows), rows)
            self._shape = logits.shape[1:], logits.dtype
        shape, dtype = self._shape
        return (shape[:-1], "int64") if self.options.preprocess_logits_for_metrics == "argmax" else (shape, dtype)

    def why(self, moment: str) -> str:
        """What binds at a moment of a ledger."""
        if self.loss_only:
            return f"a forward pass of {self.batch:,} rows; losses alone are kept"
        if not self.keeps:
            return f"a forward pass of {self.batch:,} rows; nothing is kept of a batch but its loss"
        what = "logits" if self.options.preprocess_logits_for_metrics == "none" else "tokens"
        if moment.startswith(TO_HOST):
            return f"{what} of {self.samples:,} rows become arrays"
        rows = min(self.window * self.batch, self.samples)
        if moment.startswith(JOINED):
            return f"{what} of {rows:,} rows are joined: torch.cat holds the old and the new"
        return f"a forward pass of {self.batch:,} rows beside the {what} that are kept, of up to {rows:,} rows"


def _peak(ledger: Ledger) -> tuple[int, str]:
    """The largest bytes of a ledger, and their moment."""
    return max(((whole(nbytes), moment) for moment, nbytes in ledger.peaks.items()), default=(0, ""))


def evaluation(job: Job, options: RunOptions, resident: int) -> list[Moment]:
    """The moments of evaluation between two steps; none without an evaluation set. ``resident`` is in bytes.

    The training loop still holds the batches of the step before (``Trainer._run_epoch: batch_samples``), and on the
    host the batch ahead.
    """
    if options.eval_samples is None:
        return []
    plan = job.plan
    loop = Evaluation(job, options, options.eval_samples)
    (device, at), (host, host_at) = loop.peaks()
    has_gpu = job.step.device.has_own_memory
    batches = plan.gradient_accumulation_steps + (0 if has_gpu else 1)
    trained = batches * plan.batch * plan.seq * 8 * (3 if job.step.takes_mask else 2)
    found = [Moment("evaluation", "device" if has_gpu else "host", resident + trained + device, loop.why(at))]
    if has_gpu and loop.keeps:
        found.append(Moment("evaluation", "host", host, loop.why(host_at)))
    return found
