"""LoRA-FA: LoRA with lora_A frozen (``peft/optimizers/lorafa.py``; arXiv 2308.03303)."""

from __future__ import annotations

from typing import ClassVar, Literal

from .lora import LoraOptions


class LoraFaMethod(LoraOptions):
    """LoRA-FA (peft.optimizers.create_lorafa_optimizer on a LoRA model).

    The plan's own optimizer runs. PEFT freezes what is named lora_A, so an embedding's lora_embedding_A stays
    trained. Its ``LoraFAOptimizer`` keeps AdamW's two states of each lora_B under a Python step count, and takes a few
    [r, r] matrices and one more [n_out, r] gradient.
    """

    title: ClassVar[str] = "LoRA-FA"
    peft: ClassVar[bool] = False
    peft_type: ClassVar[str] = "LORA"
    name: Literal["lora-fa"] = "lora-fa"

    def _frozen(self) -> str:
        return "lora_A"
