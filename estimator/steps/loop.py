"""What a loop has at hand: models in one ledger, an optimizer, and what its procedure notes for the totals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

from .. import operators as ops
from ..ledger import Counted, Ledger, SavedBy, SavedRow, Size, Tensor
from ..ledger.sizes import Poly, evaluated
from ..programs import Builder, Inputs, Method, Procedure, Sizes, Step
from ..programs.attention_functions import Cache
from ..programs.causal_lm import RecordedCausalLM
from . import chunks, saved_activations, unsloth
from .batch import Batch, make_batch
from .checkpointing import gradient_checkpointing_func, segment_length
from .clipping import clip
from .fused_loss import fused_loss, fused_loss_after
from .optimizers import optimizer_of, updated
from .optimizers.base import Optimizer
from .sharding import layers_of
from .sharding.scope import Parts, Scope

Outputs = tuple[Any, ...]
"""A model's outputs: the loss (``None`` in inference), the logits and, perhaps, the cache."""


@dataclass
class HostTotals:
    """What rests in the memory of a GPU's host, in bytes. ``StepTotals`` have it beside the device's."""

    parameters: Size
    gradients: Size
    optimizer: Size
    moments: dict[str, list[Size]]
    """The peaks of each moment, above what is pinned and the optimizer's states."""
    pinned_states: Size = 0
    """What of the optimizer's states is pinned."""


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
    rows: list[SavedRow]
    saved_by: list[SavedBy]
    """The operators that hold each of ``rows``."""
    work: Size
    """Floating-point operations of the matrix products, if the ledger counted them."""
    work_of_batches: Sequence[Size]
    """Those of each micro-batch that is run."""
    kv_cache: Size
    """Bytes of the cache that inference returns."""
    communication: Size
    """What sharding keeps between steps."""
    reference: Size
    """Parameters of the second models, none of which trains."""
    communicated: Size
    """What a rank sends in a step, of no more than three micro-batches."""
    communicated_again: Size
    """What it sends in each micro-batch beyond the third."""
    rank: int
    """The rank that it is: of those that differ, the one that needs most."""
    ranks: Sequence[Sequence[range]]
    """All ranks, alike ones together, where they differ (``Scope.alike``)."""
    host_pinned: int
    """Bytes of pinned host memory, which holds what was saved for backward, parameters and gradients."""
    host: HostTotals | None
    math_attention: str
    """Why PyTorch's math attention runs on a GPU, if it does."""

    def at(self, values: Mapping[str, int]) -> StepTotals:
        """The totals where the symbols have these values; without the rows of what is saved."""
        sizes = {one.name: getattr(self, one.name) for one in fields(self)}
        numbers = {name: size.evaluate(values) for name, size in sizes.items() if isinstance(size, Poly)}
        moments: dict[str, list[Size]] = {
            name: [max(evaluated(n, values) for n in all_)] for name, all_ in self.moments.items()
        }
        return replace(self, **numbers, moments=moments, rows=[], saved_by=[])


class Model:
    """A model in a ledger: its program with the method's modules, called with the step's options.

    ``batch`` and ``seq`` are of the sequences that a loop gives it (``Step.rows``). With ``weights_of`` it is another
    model without the modules that its method adds. One that is not ``shared`` is whole in each process.
    """

    def __init__(
        self,
        ledger: Ledger,
        step: Step,
        sizes: Sizes,
        method: Method,
        batch: Size,
        seq: Size,
        weights_of: Model | None = None,
        shared: bool = True,
    ) -> None:
        self.ledger, self.step, self.method = ledger, step, method
        before = len(ledger.parameters)
        ledger.borrowed = None if weights_of is None else {p.name: p for p in weights_of.own}
        layers = layers_of(sizes.program)
        segment, within = segment_length(step.checkpointing) or 1, chunks.checkpoints(step)
        build = Builder(ledger, method, step.dtype, segment, step.base, within, layers)
        self.causal_lm: Any = _model_class(step)(build, sizes)
        checkpoints = gradient_checkpointing_func(step.checkpointing, step.use_reentrant)
        if step.kernels == "unsloth" and weights_of is None:
            unsloth.patch(self.causal_lm, step)
            if step.checkpointing == "offloaded":
                checkpoints = unsloth.OffloadedInputs(len(self.causal_lm.segments) - 1)
        inputs = Inputs(ledger, *step.rows(batch, seq), step, checkpoints, fused_loss(step), fused_loss_after(step))
        self._wrapped: Any = method.wrap_model(build, self.causal_lm)
        ledger.borrowed = None
        self.own: Sequence[Tensor] = ledger.parameters[before:]
        """Its parameters, of equal layers those that are run."""
        self.scope: Scope = Scope()
        if weights_of is not None:
            self.scope = weights_of.scope
        elif step.sharding is not None and shared:
            around = step.sharding.notes if step.is_played else step.sharding.scope
            self.scope = around(ledger, parts_of(self.causal_lm, ledger.parameters[before:], step.family))
        self.scope = layers.join(self.scope, ledger.parameters[before:])
        hooks = self.scope if self.scope.paths else None
        computed = step._replace(dtype=self.scope.dtype or step.dtype)
        self.inputs = inputs._replace(
            makes_own=bool(sizes.given),
            module_hooks=hooks,
            step=computed,
            after_forward=self.scope.after_forward,
        )
        trained = ledger.parameters[before:] if step.procedure.trains else []
        trained += ledger.host.parameters if ledger.host is not None else []
        # The optimizer does not have parameters that get a gradient before the step.
        self.trained = [p for p in trained if p.requires_grad and p.grad is None]
        self.updated = self.scope.updated(updated(self.trained))

    def batch(self) -> Batch:
        """The batch of a forward pass, made anew."""
        return make_batch(self.ledger, self.inputs)

    def __call__(self, given: Batch) -> Outputs:
        """Run the model on a batch: with its labels where the step trains."""
        passed = self.inputs._replace(
            attention_mask=given.get("attention_mask") if self.step.passes_mask else None,
            position_ids=given.get("position_ids"),
            others=given,
        )
        return self.forward(given.get("input_ids"), passed, labels=given.get("labels"))

    def part(
        self,
        ids: Tensor,
        mask: Tensor | None,
        until: Literal["hidden", "logits"],
        checkpoints: bool = False,
        use_cache: bool = False,
        logits_to_keep: Size = 0,
        others: Mapping[str, Tensor] = MappingProxyType({}),
        padded: bool = False,
    ) -> tuple[Tensor, Any]:
        """Run the model on ids [B, S] up to its head, or its loss: what that gets, and the cache.

        A trainer's step has the rest, and the autocast. ``logits_to_keep``: the last tokens, if not all, have logits.
        ``others``: inputs beside the ids and the mask, by the names of the arguments. ``padded``: these rows have
        padding, whatever the plan says.
        """
        own = self.inputs.step
        types = "token_type_ids" in others
        step = own._replace(attention_mask=own.attention_mask or padded, token_types=types)
        inputs = self.inputs._replace(
            step=step._replace(use_cache=True, checkpointing="none") if use_cache else step,
            batch=ids.shape[0],
            seq=ids.shape[1],
            until=until,
            logits_to_keep=logits_to_keep,
            attention_mask=mask if step.passes_mask else None,
            gradient_checkpointing_func=self.inputs.gradient_checkpointing_func if checkpoints else None,
            others=others,
        )
        with saved_activations.held_as(self.ledger, self.step.saved_activations, self.step.activation_group_size):
            self.scope.before_forward()
            out, cache = self._wrapped(ids, None, inputs)
            if until == "logits":  # else what the model gives is made of it by its trainer
                (out,) = self.scope.after_forward((out,))
        return out, cache

    def forward(
        self, ids: Tensor | None, inputs: Inputs, cache: Cache | None = None, labels: Tensor | None = None
    ) -> Outputs:
        """Run the model, under the autocast and the saved-tensor hooks of the step."""
        ledger, step = self.ledger, self.step
        ledger.autocast = step.autocast
        with saved_activations.held_as(ledger, step.saved_activations, step.activation_group_size):
            given = () if cache is None else (None, cache)
            self.scope.before_forward()
            loss, *outputs = self._wrapped(ids, labels, inputs, *given)
            if step.procedure.trains:
                loss = self.method.add_to_loss(loss)
        ledger.autocast = None
        ledger.clear_autocast_cache()
        if step.convert_outputs_to_fp32 and isinstance(outputs[0], Tensor):
            outputs[0] = ops.to(outputs[0], "float32")
        given_out = (loss, *outputs)
        return given_out if step.family == "litgpt" else self.scope.after_forward(given_out)


def parts_of(causal_lm: Any, parameters: Sequence[Tensor], family: str) -> Parts:
    """The parameters of a model and the modules that have a role in it."""
    outside: list[Tensor] = []
    layers: dict[str, list[Tensor]] = {}
    for p in parameters:
        layer = causal_lm.layer_of(p.name)
        (outside if layer is None else layers.setdefault(layer, [])).append(p)
    program = causal_lm.c.program
    modules: dict[str, list[Tensor]] = {path: [] for path in program.weights_of}
    for p in parameters:
        modules.setdefault(p.name.rpartition(".")[0], []).append(p)
    by_name = {p.name: p for p in reversed(parameters)}
    for path, names in program.tied_of.items():
        modules.setdefault(path, []).extend(by_name[program.tied[name]] for name in names)
    replaced = causal_lm.recorded.replaced
    return Parts(outside, layers, causal_lm.segment_of, modules, replaced, causal_lm.roles, family)


class Loop:
    """The models of a ledger by name, and the optimizer of the one that trains, which is called ``model``.

    A procedure runs them, and notes what the ledger does not know.
    """

    def __init__(self, ledger: Ledger, step: Step) -> None:
        self.ledger, self.step = ledger, step
        self.models: dict[str, Model] = {}
        self.optimizer = optimizer_of(step)
        self.trained: Sequence[Tensor] = ()
        """The parameters that ``zero_grad`` acts on."""
        self.states: Size = 0
        """Bytes of the optimizer's states."""
        self.gradients: Size = 0
        """Bytes of the gradients that exist at once, after backward."""
        self.saved: Size = 0
        self.sent: list[Size] = []
        """What a rank had sent where each forward and backward pass began."""
        self.rows: list[SavedRow] = []
        self.saved_by: list[SavedBy] = []
        self.kv_cache: Size = 0

    @property
    def model(self) -> Model:
        """The model that trains, or the only one."""
        return self.models["model"]

    def run(self, procedure: Procedure) -> StepTotals:
        """Run a procedure to its end, and read the totals."""
        for phase in procedure.phases(self):
            self.ledger.mark(phase)
            if phase in ("forward", "update"):
                self.ledger.work_before.append(self.ledger.work)
            if phase == "end":
                return self.totals()
        raise AssertionError("a procedure's last phase is 'end'")

    def settle(self, infer: Callable[[], Any]) -> None:
        """Run the first inference of several where sharding keeps what it gathers, and note what stays after it.

        Figures are those of the next one. A log of events has both.
        """
        scope, ledger = self.model.scope, self.ledger
        if scope.keeps:
            infer()
            self.sent.append(scope.communicated)
            ledger.settle()
            scope.communication, ledger.live, ledger.work = ledger.live, 0, 0
            ledger.peaks.clear()

    def note_gradients(self) -> None:
        """Note that each updated parameter gets a gradient, which lives until the update."""
        for p in self.model.updated:
            self.gradients = self.gradients + p.nbytes * p.copies

    def note_states(self) -> None:
        """Note the states of the optimizer, and what the method keeps of each parameter that backward reaches."""
        model = self.model
        self.states = self.optimizer.state_bytes(model.updated) + model.scope.states
        if self.step.procedure.runs_backward:
            for p in model.updated:
                for nbytes in model.method.state_sizes(p):
                    self.states = self.states + nbytes * p.copies

    def note_saved(self) -> None:
        """Note what the forward passes have saved for backward, and count from zero again."""
        self.saved, self.rows, self.saved_by = self.ledger.saved, self.ledger.rows, self.ledger.saved_by
        self.ledger.next_forward()

    def end(self, batch: Batch) -> Iterator[str]:
        """The last phases of a training step: its mask and its gradients are freed."""
        batch.pop("attention_mask", None)
        yield "zero_grad"
        zero_grad(self.trained)
        yield "end"

    def update(self) -> None:
        """Clip the gradients and run the optimizer, after backward."""
        self.model.scope.before_update()
        for parameters in self.model.scope.updates(self.model.updated):
            where = parameters[0].ledger if parameters else self.ledger
            apply_update(where, self.step, self.optimizer, self.model.method, parameters)
        self.model.scope.after_update()

    def _scopes(self) -> list[Scope]:
        """Each once: a model without its adapters has that of the model with them."""
        return list({id(model.scope): model.scope for model in self.models.values()}.values())

    def _communicated(self) -> Size:
        """What a rank sends in a step. Of passes that stand for several steps it is the last one's."""
        sent = sum((scope.communicated for scope in self._scopes()), 0)
        return sent - self.sent[-1] if self.sent and self.step.micro_batches == 1 else sent

    def totals(self) -> StepTotals:
        """What the step needs."""
        parameters: Size = 0
        adapters: Size = 0
        trainable: Size = 0
        count: Size = 0
        ledger = self.ledger
        ledger.settle()
        scope = self.model.scope if self.models else Scope()  # a loop of the user's own has no model
        gradients = self.gradients if scope.gradients is None else scope.gradients
        optimizer, rests = self.states, None
        if (host := ledger.host) is not None:
            held = sum((p.storage.nbytes * p.copies for p in {id(p.storage): p for p in host.parameters}.values()), 0)
            count = sum(((p.whole or p).numel * p.copies for p in host.parameters), 0)
            rests = HostTotals(held, 0, 0, _lists(host.peaks))
            if any(p.ledger is host for p in self.model.updated):
                rests.gradients = gradients if scope.host_gradients is None else scope.host_gradients
                rests.optimizer, rests.pinned_states, gradients, optimizer = optimizer, scope.pinned_states, 0, 0
        second = {id(p) for name, model in self.models.items() if name != "model" for p in model.own}
        reference: Size = 0
        for p in {id(p.storage): p for p in ledger.parameters}.values():
            if id(p) in second:
                reference = reference + p.storage.nbytes * p.copies
            else:
                parameters = parameters + p.storage.nbytes * p.copies
        for p in ledger.parameters:
            if id(p) in second:
                continue
            count = count + (p.whole or p).numel * p.copies
            if p.added:
                adapters = adapters + p.nbytes * p.copies
        for p in self.trained:
            trainable = trainable + (p.whole or p).numel * p.copies
        return StepTotals(
            parameters=parameters,
            adapters=adapters,
            buffers=ledger.buffer_bytes,
            reference=reference,
            gradients=gradients,
            optimizer=optimizer,
            saved=self.saved,
            trainable_parameters=trainable,
            total_parameters=count,
            moments=_lists(ledger.peaks),
            rows=self.rows,
            saved_by=self.saved_by,
            work=ledger.work,
            work_of_batches=[after - before for before, after in pairwise(ledger.work_before)],
            kv_cache=self.kv_cache,
            communication=sum((scope.communication for scope in self._scopes()), 0),
            communicated=self._communicated(),
            communicated_again=self.sent[2] - self.sent[1] if self.step.micro_batches == 3 else 0,
            rank=scope.rank,
            ranks=scope.alike,
            host_pinned=ledger.pinned.nbytes,
            host=rests,
            math_attention=ledger.notes.get("math attention", ""),
        )


def _lists(peaks: dict[str, Any]) -> dict[str, list[Size]]:
    return {moment: found if isinstance(found, list) else [found] for moment, found in peaks.items()}


def _model_class(step: Step) -> type[RecordedCausalLM]:
    """What runs the model: its program, with litgpt's own loss behind it where its loop does."""
    if step.family != "litgpt":
        return RecordedCausalLM
    from .litgpt import GPT

    return GPT


def apply_update(ledger: Ledger, step: Step, optimizer: Optimizer, method: Method, updated: Sequence[Tensor]) -> None:
    """What follows backward: gradients are clipped, the optimizer steps, and the method does its part."""
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
