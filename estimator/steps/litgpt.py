"""litgpt's GPT in its training loop (``litgpt/finetune/lora.py`` and ``full.py: fit``), and the loop's loss.

The loss is computed in chunks of 128 tokens (``litgpt/utils.py: chunked_cross_entropy``). So are the logits, if the
output layer is not trained. Release 0.5.13 (github.com/Lightning-AI/litgpt, commit 26857050).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from .. import operators as ops
from ..errors import InputError
from ..ledger import Tensor, whole
from ..programs import Builder, Inputs, Module, Sizes
from ..programs.attention_functions import Cache
from ..programs.causal_lm import RecordedCausalLM
from ..programs.step import FusedLoss
from .fused_loss import SOFT_CAP

CHUNK = 128
"""Tokens per chunk."""


class GPT(RecordedCausalLM):
    """A micro-batch: ids [B, T] -> the loss divided by the number of micro-batches, and the loss.

    The tensors of the loop's names live until the next micro-batch assigns the names anew. Raises ``InputError`` for a
    T that litgpt refuses.
    """

    def __init__(self, build: Builder, sizes: Sizes) -> None:
        assert sizes.config is not None
        super().__init__(build, sizes._replace(program=replace(sizes.program, buffers=())))
        self.longest, self.rope = sizes.config.longest, list(sizes.program.buffers)
        self.chunked = not build.method.trains("lm_head.weight")
        self.targets: Tensor | None = None
        self.logits: list[Tensor] = []

    def forward(
        self,
        input_ids: Tensor | None,
        labels: Tensor | None,
        inputs: Inputs,
        inputs_embeds: Tensor | None = None,
        past: Cache | None = None,
    ) -> tuple[Tensor, Tensor]:
        assert input_ids is not None
        tokens = whole(input_ids.shape[1])
        if not 2 <= tokens <= (self.longest or tokens):
            raise InputError(f"seq {tokens}: this model of litgpt takes from 2 to {self.longest} tokens")
        self.targets = self.ledger.empty(input_ids.shape, "int64")
        while self.rope:  # the loop makes them for its longest sample
            cos_or_sin = self.rope.pop()
            self.recorded.weights[cos_or_sin.name] = self.ledger.buffer(cos_or_sin.shape, cos_or_sin.dtype)
        chunks = inputs.after_forward(tuple(self._chunks(input_ids, inputs)))
        self.logits = [ops.to(chunk, "float32") for chunk in chunks]  # by Lightning Fabric
        del chunks
        self.ledger.scope = self.ledger.module = "loss"
        self.logits[-1] = ops.narrow(self.logits[-1], 1, self.logits[-1].shape[1] - 1)
        loss = self._cross_entropy(ops.narrow(self.targets, 1, self.targets.shape[1] - 1))
        return ops.div(loss, ops.SCALAR), loss

    def _chunks(self, input_ids: Tensor, inputs: Inputs) -> list[Tensor]:
        """The logits [B, T, V], or one chunk [B, <= 128, V] after the other."""
        logits: list[Tensor] = []

        def lm_head(head: Module, x: Tensor, _: Tensor, capped: bool = False) -> Tensor:
            self.ledger.scope = "lm_head"
            for x_i in ops.split(x, CHUNK, 1) if self.chunked else [x]:
                logits.append(_capped(head(x_i)) if capped else head(x_i))
            return logits[-1]

        after: dict[tuple[str, ...], FusedLoss] = {SOFT_CAP: partial(lm_head, capped=True)}
        super().forward(input_ids, input_ids, inputs._replace(fused_loss=lm_head, fused_loss_after=after))
        return logits

    def _cross_entropy(self, targets: Tensor) -> Tensor:
        """The mean loss of chunks of logits and of targets [B, T - 1]."""
        logit_chunks = [ops.reshape(x, (x.shape[0] * x.shape[1], x.shape[2])) for x in self.logits]
        if self.chunked:
            target_chunks = [_flat(x) for x in ops.split(targets, self.logits[0].shape[1], 1)]
        else:
            logit_chunks, target_chunks = ops.split(logit_chunks[0], CHUNK, 0), ops.split(_flat(targets), CHUNK, 0)
        # zip leaves out a last chunk of one token, since it has no target
        losses = [ops.cross_entropy(a, b, "none") for a, b in zip(logit_chunks, target_chunks, strict=False)]
        non_masked_elems = _count(targets)
        loss = ops.cat(tuple(losses), (sum((chunk.shape[0] for chunk in losses), 0),))
        return ops.div(ops.sum(loss, 0), non_masked_elems)


def _capped(x: Tensor) -> Tensor:
    return ops.mul(ops.tanh(ops.div(x, ops.SCALAR)), ops.SCALAR)


def _flat(x: Tensor) -> Tensor:
    return ops.reshape(x, (x.numel,))


def _count(targets: Tensor) -> Tensor:
    """``(targets != ignore_index).sum()``, which sums an int64 copy."""
    not_ignored = targets.ledger.empty(targets.shape, "bool")
    total = targets.ledger.empty((), "int64")
    targets.ledger.empty(targets.shape, "int64")
    del not_ignored
    return total
