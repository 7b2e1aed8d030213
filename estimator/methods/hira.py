"""HiRA as PEFT runs it (``peft/tuners/hira/layer.py``; openreview.net/forum?id=TwJrTz9cRS)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Number, Rank
from ..ledger import Tensor
from ..programs import Builder, Embedding, Linear, Module
from ..programs.module_table import Kind
from .layered import Adapters, LayerOptions
from .options import Pattern


class HiraLinear(Module):
    """y = W x + (W * B A) x, where * is elementwise, with hira_A [r, n_in] and hira_B [n_out, r]."""

    def __init__(self, build: Builder, base: Linear, hira: Adapters[HiraMethod]) -> None:
        if base.transposed:  # PEFT makes a new parameter of the transposed weight in each pass
            raise InputError("HiRA on a Conv1D, as GPT-2's linear layers are, has no rule; take lora")
        self.path, self.ledger, self.base_layer, self.p = base.path, base.ledger, base, hira.options.hira_dropout
        n_out, n_in = base.weight.shape
        self.hira_A = build.adapter(f"{self.path}.hira_A", (hira.size, n_in), hira.adapter_dtype)
        self.hira_B = build.adapter(f"{self.path}.hira_B", (n_out, hira.size), hira.adapter_dtype)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x)
        result_dtype = result.dtype
        prod_AB = ops.matmul(ops.transpose(self.hira_A, 0, 1), ops.transpose(self.hira_B, 0, 1))
        x = ops.to(x, self.hira_A.dtype)
        dropout_sub = ops.dropout(x, self.p)
        hira_result = ops.linear(dropout_sub, ops.mul(self.base_layer.weight, ops.transpose(prod_AB, 0, 1)))
        result = ops.add(result, hira_result)
        result = ops.to(result, result_dtype)
        return result


class HiraEmbedding(Module):
    """An embedding with hira_embedding_A [r, vocabulary] and hira_embedding_B [hidden, r]."""

    def __init__(self, build: Builder, base: Embedding, hira: Adapters[HiraMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        count, size = base.weight.shape
        self.weight = base.weight
        self.hira_A = build.adapter(f"{self.path}.hira_embedding_A", (hira.size, count), hira.adapter_dtype)
        self.hira_B = build.adapter(f"{self.path}.hira_embedding_B", (size, hira.size), hira.adapter_dtype)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.base_layer(ids)
        result_dtype = result.dtype
        mod_matrix = ops.matmul(self.hira_B, self.hira_A)
        eff_weight = ops.mul(self.weight, ops.transpose(mod_matrix, 0, 1))
        hira_out = ops.embedding(ids, eff_weight)
        result = ops.add(result, hira_out)
        return ops.to(result, result_dtype)


class HiraMethod(LayerOptions):
    """HiRA (peft.HiraConfig)."""

    title: ClassVar[str] = "HiRA"
    linear = HiraLinear
    embedding = HiraEmbedding
    opens_rank = True
    pattern_key = ""
    pattern_alone: ClassVar[bool] = True
    adapted: ClassVar[tuple[Kind, ...]] = ("linear", "embedding")
    harmless: ClassVar[frozenset[str]] = frozenset({"init_weights"})
    name: Literal["hira"] = "hira"
    r: Rank = Field(32, description="rank")
    hira_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the adapted weight")
    rank_pattern: dict[Pattern, Rank] | None = Field(
        None, description="ranks by module, which PEFT 0.21 takes but does not apply (no effect on memory)"
    )
