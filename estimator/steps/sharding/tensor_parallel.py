"""Tensor parallelism by a plan of transformers: what the modules of the plan exchange.

Sources: ``transformers/distributed/tensor_parallel.py`` of 5.24, by whose names styles are called here, and PyTorch's
``distributed/tensor/_redistribute.py``. Which weights are split is in ``programs/split.py``.

A reduction of a DTensor is a copy. Linear layers are local where autograd is off, and reduce in place there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ... import operators as ops
from ...errors import InputError
from ...ledger import ITEMSIZE, Call, Ledger, Shape, Size, Tensor, product, record
from ...operators import Grads
from ...programs import Sharding
from ...programs.modules import Builder, Embedding, Layers, LayerT, Linear, Module
from ...programs.program import Program
from ...programs.replaced_modules import RecordedEmbedding
from ...programs.split import Split
from .scope import Scope

EXPERTS, NORM, VOCABULARY = "moe_tp_experts", "replicated_with_grad_allreduce", "embedding_rowwise"
"""Styles: the first two reduce in place, and the last one's gradient is whole."""


@dataclass(frozen=True, kw_only=True)
class TensorParallel(Sharding):
    """Processes that share products alone: each has the whole batch."""

    def scope(self, ledger: Ledger, parts: Any) -> Scope:
        return Scope()


class _Exchanges:
    """Counts what is sent, around what else acts around the step. A ring's all-reduce sends what a reduce-scatter and
    an all-gather do.
    """

    def __init__(self, around: Scope, processes: int, experts: Collection[str]) -> None:
        self.around, self.processes, self.experts = around, processes, experts
        self.paths = {*experts, *around.paths}
        self.sent: Size = 0
        self.gradients: Size | None = None
        self.trained: Size = 0
        """Bytes of all gradients."""
        self.reduced_in_place: Size = 0
        """Bytes of the gradients that are."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.around, name)

    @property
    def communicated(self) -> Size:
        """See ``Scope``."""
        return self.sent + self.around.communicated

    def reduced(self, x: Tensor, copies: Size) -> None:
        """Note that a tensor was added up."""
        self.sent += 2 * x.nbytes * (self.processes - 1) // self.processes * copies

    def gathered(self, nbytes: Size, copies: Size) -> None:
        """Note that parts of so many bytes together were gathered."""
        self.sent += nbytes // self.processes * (self.processes - 1) * copies

    def before_module(self, path: str, inputs: list[Tensor]) -> list[Tensor]:
        """See ``Scope``."""
        for x in inputs if path in self.experts else ():
            if x.requires_grad:
                self.reduced(x, x.ledger.copies)  # in backward: its gradient
        return self.around.before_module(path, inputs) if path in self.around.paths else inputs

    def after_module(self, path: str, outputs: list[Tensor]) -> None:
        """See ``Scope``."""
        for x in outputs if path in self.experts else ():
            self.reduced(x, x.ledger.copies)
        if path in self.around.paths:
            self.around.after_module(path, outputs)

    def before_backward(self, last: bool) -> None:
        """See ``Scope``."""
        self.around.before_backward(last)
        self.gradients = self.trained
        self.sent += 2 * self.reduced_in_place * (self.processes - 1) // self.processes


class SplitLayers(Layers):
    """The layers of a model of which this process has a part."""

    scope: _Exchanges

    def __init__(self, program: Program) -> None:
        assert isinstance(program.split, Split)
        self.split, self.whole = program.split, program.split.whole
        self.tied = frozenset(program.tied.values())
        self.experts = [row.path for row in program.modules if self.split.style(row.path) == EXPERTS]

    def of(self, path: str, kind: type[LayerT]) -> type[LayerT]:
        """Raises ``InputError`` for a layer that runs other functions than PyTorch's, and for LoRA where PEFT stops."""
        style = self.split.style(path)
        base, _, part = path.rpartition(".")
        if part in ("lora_A", "lora_B") and (around := self.split.style(base)):
            if around != "colwise":
                raise InputError(
                    f"LoRA on {base} stops in PEFT 0.21 with a RuntimeError of its sizes, since the layer is {around} "
                    "in transformers' plan; name layers that are colwise in target_modules, such as q_proj and v_proj"
                )
            style = around if part == "lora_B" else ""
        if not style:
            return kind
        found: type[LayerT] | None = _LAYERS.get((style, kind))  # type: ignore[assignment]
        if found is None:
            raise InputError(f"sharding.tp has no rule for {path}, which is {style} and no plain {kind.__name__}")
        return found

    def join(self, scope: Any, parameters: Sequence[Tensor]) -> Any:
        """Raises ``InputError`` for adapters that have no rule."""
        self.scope = _Exchanges(scope, self.split.parts, self.experts)
        self.tied = frozenset() if scope.unties else self.tied
        for p in parameters:
            path = p.name.rpartition(".")[0]
            base, _, part = path.rpartition(".")
            own = p.whole or p  # as a module has it
            style, shape = self.split.style(path), self.whole.get(p.name, own.shape)
            if p.requires_grad and not p.unreached:
                whole = style == VOCABULARY and p.name not in self.tied and p is own
                self.scope.trained += (product(shape) * ITEMSIZE[p.dtype] if whole else p.nbytes) * p.copies
                self.scope.reduced_in_place += own.nbytes * p.copies if style == NORM else 0
            if p.added and part not in ("lora_A", "lora_B"):
                raise InputError(f"sharding.tp has no rule for {p.name}, which the method adds; leave one of them out")
            if part == "lora_B" and self.split.style(base) == "colwise":
                shape = (self.whole[f"{base}.weight"][0], *shape[1:])
            if shape != own.shape:
                p.whole = own.alias()
                p.whole.shape = shape
        return self.scope


class _Part(Module):
    """A module of the plan."""

    def __init__(self, build: Builder, *given: Any) -> None:
        super().__init__(build, *given)  # type: ignore[call-arg]
        assert isinstance(build.layers, SplitLayers)
        self.layers = build.layers

    def reduced(self, x: Tensor) -> Tensor:
        """``all_reduce`` of a DTensor. Each process's gradient is that of the sum."""
        self.layers.scope.reduced(x, self.ledger.copies)
        return record("RedistributeBackward", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (), _unchanged)

    def from_local(self, x: Tensor) -> Tensor:
        """A whole input of a layer whose outputs are parts: the processes' gradients of it are added up."""
        if x.requires_grad and self.ledger.grad_enabled:
            self.layers.scope.reduced(x, self.ledger.copies)
        return record("_FromTorchTensorBackward", x.alias, (x,), (), _copied)

    def gathered(self, x: Tensor, n_out: Size) -> Tensor:
        """The processes' parts [..., n_out / parts] side by side."""
        parts = self.layers.split.parts
        self.layers.scope.gathered(x.nbytes * parts, self.ledger.copies)
        return record("RedistributeBackward", lambda: _gathered(x, n_out, parts), (x,), (), _sliced, x.shape)

    def sliced(self, x: Tensor, n_in: Size) -> Tensor:
        """The process's part [..., n_in] of a whole input, which it copies."""
        shape, parts = (*x.shape[:-1], n_in), self.layers.split.parts
        if x.requires_grad and self.ledger.grad_enabled:
            self.layers.scope.gathered(x.nbytes, self.ledger.copies)

        def make() -> Tensor:
            return x.ledger.empty(shape, x.dtype)

        return record("RedistributeBackward", make, (x,), (), _gathered_gradient, x.shape[-1], parts)


def _unchanged(call: Call) -> Grads:
    return (call.grad,)


def _copied(call: Call) -> Grads:
    return (call.ledger.empty(call.grad.shape, call.grad.dtype),)


def _sliced(call: Call) -> Grads:
    return (call.ledger.empty(call.args[0], call.grad.dtype),)


def _gathered_gradient(call: Call) -> Grads:
    return (_gathered(call.grad, *call.args),)


def _gathered(x: Tensor, size: Size, parts: int) -> Tensor:
    """Parts are gathered one behind the other, copied side by side, and copied again if the last one is shorter.

    Of a single row they lie side by side as they are (``torch/_utils.py: _maybe_view_chunk_cat``).
    """
    padded: Shape = (*x.shape[:-1], x.shape[-1] * parts)
    behind = x.ledger.empty(padded, x.dtype)
    if product(x.shape[:-1]) == 1:
        return Tensor(behind.storage, (*x.shape[:-1], size), x.dtype)
    out = x.ledger.empty(padded, x.dtype)
    del behind
    return out if padded[-1] == size else x.ledger.empty((*x.shape[:-1], size), x.dtype)


class Colwise(_Part, Linear):
    """``colwise``: of the output's last dimension the process has a part."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.from_local(x))


class GatheredColwise(Colwise):
    """``colwise_gather_output``."""

    def forward(self, x: Tensor) -> Tensor:
        return self.gathered(super().forward(x), self.layers.whole[self.weight.name][0])


class Rowwise(_Part, Linear):
    """``rowwise``: of the input's last dimension the process has a part. Products are added up, then all have them."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.ledger.grad_enabled:
            out = ops.linear(x, self.weight)
            self.layers.scope.reduced(out, self.ledger.copies)
            return out if self.bias is None else ops.add(out, self.bias)
        share = None if self.bias is None else self.ledger.empty(self.bias.shape, self.bias.dtype)
        out = ops.linear(x, self.weight, self.bias)
        del share  # the process's share of the bias
        return self.reduced(out)


class SlicedRowwise(Rowwise):
    """``rowwise_split_input``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.sliced(x, self.weight.shape[1]))


class MlaKvAProj(_Part, Linear):
    """``mla_kv_a_proj``, of DeepSeek V2: the rotary part of the output goes to this process's heads alone."""

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        rank = self.layers.whole[f"{self.path.rpartition('.')[0]}.kv_a_layernorm.weight"][0]
        passed, rope = ops.split_with_sizes(output, (rank, output.shape[-1] - rank), -1)
        if rope.requires_grad:
            self.layers.scope.reduced(rope, self.ledger.copies)
        rope = record("_AllReduceBackwardBackward", rope.alias, (rope,), (), _contiguous)
        return ops.cat((passed, rope), output.shape)


def _contiguous(call: Call) -> Grads:
    return (ops.contiguous(call.grad),)


class _VocabPart(_Part):
    weight: Tensor

    def masked(self, ids: Tensor) -> Tensor:
        """The ids as rows of the process's part (``_MaskPartial``), after the mask of those that others have."""
        below, above = self.ledger.empty(ids.shape, "bool"), self.ledger.empty(ids.shape, "bool")
        mask = self.ledger.empty(ids.shape, "bool")
        del below, above
        copied = self.ledger.empty(ids.shape, ids.dtype)
        own = self.ledger.empty(ids.shape, ids.dtype)
        del copied, mask
        return own

    def whole(self) -> Tensor:
        """The weight as a DTensor: of all rows, with the bytes of the process's own. Its gradient has all rows."""
        weight, layers = self.weight, self.layers

        def make() -> Tensor:
            out = weight.alias()
            out.shape = layers.whole[weight.name]
            return out

        return record("ToDTensor", make, (weight,), (), _whole_gradient, weight, weight.name in layers.tied)


def _whole_gradient(call: Call) -> tuple[Tensor | None]:
    """Each process has the gradient of all rows, and keeps it. Of a tied weight it slices it, to add it to another."""
    weight, tied = call.args
    if tied:
        call.ledger.transient(weight.nbytes, weight.nbytes)  # the slice, and the sum
        return (Tensor(call.grad.storage, weight.shape, weight.dtype),)
    if weight.grad is None:
        weight.grad = call.grad.alias()
        if (events := call.ledger.events) is not None:
            events.gradients[weight.grad.storage.event] = weight.name
    return (None,)


class VocabParallel(_VocabPart, Embedding):
    """``embedding_rowwise``: the process looks up the ids of its own rows. What the processes find is added up."""

    def forward(self, ids: Tensor) -> Tensor:
        own = self.masked(ids)
        out = ops.embedding(ids, self.whole())
        del own
        return self.reduced(out)


class ScaledVocabParallel(_VocabPart, RecordedEmbedding):
    """``embedding_rowwise`` of an embedding that multiplies what it finds, which is added up before."""

    def forward(self, ids: Tensor) -> Tensor:
        self.masked(ids)
        reduced = self.ledger.empty((*ids.shape, self.weight.shape[1]), self.weight.dtype)
        self.layers.scope.reduced(reduced, self.ledger.copies)
        out: Tensor = self.recorded.run_region(self.path, {f"{self.path}.weight": self.whole()}, ids)
        del reduced
        return out


_LAYERS: Mapping[tuple[str, type[Module]], type[Module]] = {
    ("colwise", Linear): Colwise,
    ("colwise_gather_output", Linear): GatheredColwise,
    ("rowwise", Linear): Rowwise,
    ("mla_kv_a_proj", Linear): MlaKvAProj,
    ("rowwise_split_input", Linear): SlicedRowwise,
    (VOCABULARY, Embedding): VocabParallel,
    (VOCABULARY, RecordedEmbedding): ScaledVocabParallel,
}
