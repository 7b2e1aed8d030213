"""Unsloth's own kernels, checkpoints and loss (unsloth and unsloth_zoo 2026.10.9), put around a recorded model.

``unsloth/kernels/fast_lora.py`` (``LoRA_MLP``, ``LoRA_W``) and ``rms_layernorm.py`` (``Fast_RMS_Layernorm``) are
autograd functions: what they save, and what their backward passes write in place, is what differs from PEFT's layers
and transformers' modules. Attention is transformers': Unsloth rotates queries and keys in place, and its ``LoRA_QKV``
adds up the input's gradient in place. Neither is alive where the MLP's backward pass sets the peak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .. import operators as ops
from ..bases.bitsandbytes import BLOCK, Linear4bit, dequantize
from ..ledger import Beside, Call, Hooks, Ledger, Size, Tensor, product, record, whole
from ..ledger.sizes import is_so
from ..methods.lora import LoraLinear
from ..operators.table import Kept, saves
from ..programs import Linear, Module, Step
from ..programs.causal_lm import RecordedCausalLM
from .checkpointing import reentrant
from .chunks import ceil_div
from .loss import head_weight
from .offloading import OnHost

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "granite")
"""Families whose modules ``FastLanguageModel`` replaces by these kernels (``models/llama.py: patch_peft_model``).

Of others ``unsloth_zoo/compiler.py`` compiles transformers' modules. Cohere and Falcon-H1 have kernels of their own.
"""
LEAST_OFFLOADED = 2 << 20
"""Bytes: a checkpoint's input of no more stays on the GPU (``MINIMUM_SIZE``)."""
MOST_OF_LOSS = 4 << 30
"""Bytes: the most that the loss takes for a chunk (``_CE_TARGET_GB_CAP``)."""
LEAST_OF_LOSS = 64 << 20
"""Bytes that a chunk is given here where the weights leave less, and the step does not fit."""

UNCERTAINTY = 0.08
"""The share by which the memory of a GPU is at most above what the longest sequence that Unsloth published for it is
predicted to take: nine lengths of two models (``tests/cases/unsloth_lengths.py``).
"""


def patch(model: RecordedCausalLM, step: Step) -> None:
    """Replace the modules of a model, as ``patch_peft_model`` does: MLPs, other adapted layers, and norms.

    An adapter with dropout, a bias or DoRA stays PEFT's, and so does one on 8-bit weights.
    """
    if step.family not in FAMILIES:
        return
    ledger, replaced = model.ledger, model.recorded.replaced
    fused = {path: one for path, one in replaced.items() if isinstance(one, LoraLinear) and _takes(one)}
    packed = [one.base_layer.weight.shape for one in fused.values() if isinstance(one.base_layer, Linear4bit)]
    if packed:  # WEIGHT_BUFFERS and ABSMAX_BUFFERS, which forward passes dequantise into
        largest = max(whole(product(shape)) for shape in packed)
        ledger.buffer((largest,), multiplied_in(step))
        ledger.buffer((ceil_div(largest, BLOCK),), "float32")
    replaced |= {path: _FusedLora(one) for path, one in fused.items()}
    for path, row in model.c.program.rows.items():
        layers = [fused.get(f"{path}.{name}_proj") for name in ("gate", "up", "down")]
        if row.kind == "mlp" and None not in layers:
            replaced[path] = _FusedMLP(path, layers)
        weight = model.recorded.weights.get(f"{path}.weight")
        if row.kind == "norm" and weight is not None and not weight.requires_grad:
            replaced[path] = _FusedNorm(path, weight, step.family.startswith("gemma"))


def multiplied_in(step: Step) -> str:
    """The dtype in which the step multiplies."""
    return step.autocast or step.dtype


def _takes(lora: LoraLinear) -> bool:
    """Whether an adapted layer is one that the kernels take."""
    base = lora.base_layer
    plain = type(base) in (Linear, Linear4bit) and base.bias is None and lora.lora_B.bias is None
    return plain and lora.dora is None and not lora.p


def _multiplied(x: Tensor, lora: LoraLinear) -> Tensor:
    """``matmul_lora``: the product by the base, to which the adapter's is added in place."""
    ledger, base = x.ledger, lora.base_layer
    n_out, _ = base.weight.shape
    with ledger.no_grad():
        if isinstance(base, Linear4bit):
            ledger.multiply(*x.shape, n_out)
            out = ledger.empty((*x.shape[:-1], n_out), x.dtype)
            ops.launch_product(x)
        else:
            out = ops.linear(x, base.weight)
        a, b = (ops.to(one.weight, x.dtype) for one in (lora.lora_A, lora.lora_B))
        between = ops.linear(x, a)
        ledger.multiply(*between.shape, n_out)
        del a, b, between
    return out


def _weights(lora: LoraLinear) -> tuple[Tensor, Tensor]:
    return lora.lora_A.weight, lora.lora_B.weight


_ADAPTER = Kept("the adapters' weights", because="the function keeps them"), Kept("its input", (1,))


class _FusedLora(Module):
    """An adapted linear layer as ``LoRA_W``."""

    def __init__(self, lora: LoraLinear) -> None:
        self.path, self.ledger, self.lora = lora.path, lora.ledger, lora

    @saves("LoRA_WBackward", *_ADAPTER, inputs=("input", "adapters' weights"))
    def forward(self, x: Tensor) -> Tensor:
        """X [..., n_in] -> [..., n_out]."""
        weights, base = _weights(self.lora), self.lora.base_layer
        make = partial(_multiplied, x.alias(), self.lora)
        return record("LoRA_WBackward", make, (x, *weights), (*weights, x), _lora_backward, base)


def _lora_backward(call: Call) -> ops.Grads:
    *weights, x = call.saved
    (base,) = call.args
    grads = _of_adapters(call.grad, x, [weights])
    weight = _dequantised(x, base)
    grad_x = call.ledger.empty(x.shape, x.dtype)
    call.ledger.multiply(*call.grad.shape, x.shape[-1])
    del weight
    return grad_x, *grads


def _of_adapters(grad: Tensor, x: Tensor, pairs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The gradients of adapters [r, n_in] and [n_out, r], made of products with r columns."""
    ledger, rows = grad.ledger, product(x.shape[:-1])
    casts = [ops.to(weight, x.dtype) for pair in pairs for weight in pair]
    grads = [ledger.empty(weight.shape, x.dtype) for pair in pairs for weight in pair]
    for a, b in pairs:
        for columns in (b.shape[0], a.shape[1]):
            ledger.multiply(rows, columns, a.shape[0])
            ledger.multiply(rows, columns, a.shape[0])
        between = ledger.empty((rows, a.shape[0]), x.dtype)
        del between
    del casts
    return grads


def _dequantised(x: Tensor, base: Linear) -> Tensor | None:
    return dequantize(x, base.weight.shape, base.base) if isinstance(base, Linear4bit) else None


class _FusedMLP(Module):
    """A gated MLP of adapted layers as ``LoRA_MLP``: it saves its input, and the results of gate and up."""

    def __init__(self, path: str, layers: Sequence[Any]) -> None:
        self.path, self.ledger, self.layers = path, layers[0].ledger, layers

    @saves(
        "LoRA_MLPBackward",
        *_ADAPTER,
        Kept("the results of gate and up", because="backward makes the activation again"),
        inputs=("input", "adapters' weights"),
    )
    def forward(self, x: Tensor) -> Tensor:
        """[B, S, hidden] -> [B, S, hidden]."""
        *inner, down = self.layers
        e, g = (_multiplied(x, one) for one in inner)
        weights = [weight for one in self.layers for weight in _weights(one)]
        bases = [one.base_layer for one in self.layers]
        make = partial(_down, e.alias(), down)
        return record(
            "LoRA_MLPBackward", make, (x, *weights), (*weights, x, Beside(e), Beside(g)), _mlp_backward, bases
        )


def _down(e: Tensor, down: LoraLinear) -> Tensor:
    return _multiplied(e.ledger.empty(e.shape, e.dtype), down)


def _mlp_backward(call: Call) -> ops.Grads:
    """The gradient of the activation is one tensor more. It, ``e`` and ``g`` then hold the activation and the gradients
    of gate and up, and the input's gradient is written over the input.
    """
    *weights, x, e, _ = call.saved
    ((gate, up, _),) = call.args
    ledger = call.ledger
    inner = ledger.empty(e.shape, x.dtype)
    for _ in range(3):
        ledger.multiply(*e.shape, x.shape[-1])
    grads = _of_adapters(call.grad, x, [weights[i : i + 2] for i in (0, 2, 4)])
    for base in (up, gate):
        weight = _dequantised(x, base)
        del weight
    del inner
    return x.alias(), *grads


class _FusedNorm(Module):
    """An RMS norm with a frozen weight as ``Fast_RMS_Layernorm``."""

    def __init__(self, path: str, weight: Tensor, gemma: bool) -> None:
        self.path, self.ledger, self.weight, self.gemma = path, weight.ledger, weight, gemma

    @saves(
        "Fast_RMS_LayernormBackward",
        Kept("its input", because="normalised again in backward"),
        Kept("its weight", (-2,)),
        Kept("each row's reciprocal deviation", because="the input is normalised again in backward"),
        inputs=("input", "weight"),
    )
    def forward(self, x: Tensor) -> Tensor:
        """The input's shape and dtype."""
        ledger, deviation = x.ledger, x.ledger.empty(x.shape[:-1], "float32")
        saved = (x, self.weight, Beside(deviation))
        make = partial(ledger.empty, x.shape, x.dtype)
        return record("Fast_RMS_LayernormBackward", make, (x, self.weight), saved, _norm_backward, self.gemma)


def _norm_backward(call: Call) -> ops.Grads:
    """The gradient is written over the incoming one, but for Gemma's."""
    (gemma,) = call.args
    return call.ledger.empty(call.grad.shape, call.grad.dtype) if gemma else call.grad.alias(), None


class OffloadedInputs:
    """``UnslothCheckpointFunction``: inputs of layers in pinned memory, which come back into one buffer on the GPU.

    The last layer's input stays on the GPU, and so do small ones. The buffer is there from the first layer's forward
    pass on. A second one of its size, which is used where 512 MiB are free after the first step and given up where
    memory runs out, is left out.
    """

    def __init__(self, last: int) -> None:
        self.last = last
        """The place of the last layer among those that run."""
        self.buffer: Any = None

    def __call__(
        self, function: Callable[..., Any], inputs: Tensor | tuple[Tensor, ...], args: tuple[Any, ...] = ()
    ) -> Any:
        x = inputs if isinstance(inputs, Tensor) else inputs[0]
        ledger = x.ledger
        if ledger.segment == self.last or not is_so(_is_offloaded, x.nbytes):
            self.buffer = None  # nodes hold it
            return reentrant(function, inputs, args)
        if self.buffer is None:
            self.buffer = ledger.empty(x.shape, x.dtype)
        ledger.hooks.append(Hooks(partial(_pack, x), partial(_unpack, self.buffer)))
        out = reentrant(function, inputs, args)
        ledger.hooks.pop()
        return out


def _is_offloaded(nbytes: int) -> bool:
    return nbytes > LEAST_OFFLOADED


def _pack(first: Tensor, tensor: Tensor) -> OnHost | Tensor:
    return OnHost(tensor) if tensor is first else tensor.ledger.save(tensor)


def _unpack(buffer: Tensor, held: OnHost | Tensor) -> Tensor:
    return buffer.alias() if isinstance(held, OnHost) else held


def loss_chunks(tokens: int, vocab: int, target: int, fixed: int = 0) -> int:
    """How many chunks ``get_chunk_size`` runs: one, or a multiple of four. It counts 16 bytes a logit.

    ``target``: bytes that a chunk may take, with ``fixed`` ones that chunks do not make smaller.
    """
    needed, room = 16 * tokens * vocab, target - fixed if fixed < target else target
    return 1 if needed <= room else min(4 * ceil_div(needed, 4 * room), tokens)


@saves(
    "UnslothFusedLossBackward",
    Kept("the gradient of the hidden states", because="Unsloth computes it in the forward pass"),
    Kept("the gradient of the head's weight", because="Unsloth computes it in the forward pass"),
    inputs=("hidden states", "weight"),
)
def unsloth_loss(head: Module, hidden_states: Tensor, labels: Tensor, target: int) -> Tensor:
    """``unsloth_fused_ce_loss``: a chunk's logits, and in float32 a copy, its log-softmax and the gradient.

    That is eager mode, which is the most. Compiled, a chunk may take as little as its logits and their gradient in half
    precision. In both it is less than ``target``, by which the chunks are made.
    """
    weight = head_weight(head, "unsloth")
    x, ledger = hidden_states, hidden_states.ledger
    dtype = ledger.autocast or weight.dtype
    tokens, vocab = whole(product(x.shape[:-1])), whole(weight.shape[0])
    shifted = ledger.empty((tokens,), "int64")
    grad_input = ledger.empty(x.shape, x.dtype)
    grad_weight = ledger.empty(weight.shape, weight.dtype) if weight.requires_grad else None
    fixed = grad_input.nbytes + 2 * (0 if grad_weight is None else grad_weight.nbytes)
    rows = ceil_div(tokens, loss_chunks(tokens, vocab, target, whole(fixed)))
    for _ in range(2 + weight.requires_grad):
        ledger.multiply(tokens, vocab, x.shape[-1])
    sizes = [min(rows, tokens - start) for start in range(0, tokens, rows)]
    for count in sizes if ledger.unrolled else sizes[:1]:
        _loss_chunk(ledger, count, weight, dtype)
    del shifted
    make = partial(ledger.empty, (), "float32")
    return record("UnslothFusedLossBackward", make, (x, weight), (grad_input, grad_weight), _loss_backward)


def _loss_chunk(ledger: Ledger, rows: Size, weight: Tensor, dtype: str) -> None:
    vocab, hidden = weight.shape
    logits = ledger.empty((rows, vocab), dtype)
    wide = [ledger.empty((rows, vocab), "float32") for _ in range(3)]
    del logits, wide
    grad_weight = ledger.empty(weight.shape, dtype) if weight.requires_grad else None
    grad_input = ledger.empty((rows, hidden), dtype)
    del grad_weight, grad_input


def _loss_backward(call: Call) -> ops.Grads:
    """``grad_inputs * scale_factor``, which is not in place."""
    return tuple(None if one is None else call.ledger.empty(one.shape, one.dtype) for one in call.saved)
