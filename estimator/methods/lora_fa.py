"""LoRA-FA: LoRA with lora_A frozen (``peft/optimizers/lorafa.py``; arXiv 2308.03303)."""

from __future__ import annotations

from typing import ClassVar, Literal

from .lora import LoraOptions


class LoraFaMethod(LoraOptions):
    """LoRA-FA (peft.optimizers.create_lorafa_optimizer on a LoRA model), with the plan's own optimizer.

    PEFT freezes parameters named lora_A, so an embedding's lora_embedding_A still trains. PEFT's ``LoraFAOptimizer``
    is not counted. It keeps AdamW's two states of each lora_B and counts steps in Python. Its update needs a few
    more matrices [r, r] and one more gradient [n_out, r].
    """

    title: ClassVar[str] = "LoRA-FA"
    peft: ClassVar[bool] = False
    peft_type: ClassVar[str] = "LORA"
    name: Literal["lora-fa"] = "lora-fa"

    def _frozen(self) -> str:
        return "lora_A"
