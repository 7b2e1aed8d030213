"""DoRA as PEFT runs it (``peft/tuners/lora/dora.py``; arXiv 2402.09353)."""

from __future__ import annotations

from .. import operators as ops
from ..ledger import Size, Tensor
from ..programs import Builder, Embedding, Linear, Module


class DoraLayer(Module):
    """Trained magnitudes of the rows [n_out] of a linear layer's weight, or of the columns [H] of an embedding's."""

    def __init__(self, build: Builder, base: Linear | Embedding, size: Size, dtype: str) -> None:
        self.path, self.ledger = f"{base.path}.lora_magnitude_vector", build.ledger
        self.weight = build.adapter(f"{self.path}.weight", (size,), dtype)

    @staticmethod
    def weight_norm(weight: Tensor, lora_weight: Tensor) -> Tensor:
        """Norms [n_out] of the rows of W + scale * B A."""
        weight = ops.add(weight, ops.mul(lora_weight, ops.SCALAR))
        return ops.to(ops.linalg_vector_norm(weight, 1), weight.dtype)


class DoraLinearLayer(DoraLayer):
    """What DoRA adds to a linear layer's output."""

    def lora_weight(self, lora_A: Linear, lora_B: Linear) -> Tensor:
        """B A [n_out, n_in]. PEFT gets it by a forward pass over the identity matrix, which works with FSDP, too."""
        n_in = lora_A.weight.shape[1]
        x_eye = self.ledger.empty((n_in, n_in), lora_A.weight.dtype)
        return ops.transpose(lora_B(lora_A(x_eye)), 0, 1)

    def forward(
        self, x: Tensor, lora_A: Linear, lora_B: Linear, base_layer: Linear, base_result: Tensor | None
    ) -> Tensor:
        # The norm is detached from the graph. lora_weight lives to the end, with the identity that its graph saves.
        lora_weight = ops.to(self.lora_weight(lora_A, lora_B), x.dtype)
        weight = ops.to(base_layer.weight, x.dtype)
        weight_norm = self.weight_norm(weight, lora_weight.alias())
        mag_norm_scale = ops.view(ops.div(self.weight, weight_norm), (1, weight_norm.numel))
        lora_result: Tensor = lora_B(lora_A(x))
        if base_result is None:
            base_result = ops.linear(x, weight)
        elif base_layer.bias is not None:
            base_result = ops.sub(base_result, base_layer.bias)
        return ops.add(
            ops.mul(ops.add(mag_norm_scale, ops.SCALAR), base_result),
            ops.mul(ops.mul(mag_norm_scale, lora_result), ops.SCALAR),
        )


class DoraEmbeddingLayer(DoraLayer):
    """DoRA's factor [hidden] of an embedding's output, and what it adds to their product."""

    def forward(self, ids: Tensor, lora_A: Tensor, lora_B: Tensor, base_layer: Embedding) -> tuple[Tensor, Tensor]:
        lora_weight = ops.transpose(ops.mm(lora_A, lora_B), 0, 1)
        weight = ops.transpose(base_layer.weight, 0, 1).alias()
        weight.requires_grad = True  # peft.utils.transpose makes a parameter of the view, so the norm has a graph
        weight_norm = self.weight_norm(weight, lora_weight.alias()).alias()
        mag_norm_scale = ops.div(self.weight, weight_norm)
        lora_result = ops.matmul(ops.embedding(ids, lora_A), lora_B)
        result_dora = ops.mul(ops.mul(mag_norm_scale, lora_result), ops.SCALAR)
        return mag_norm_scale, result_dora
