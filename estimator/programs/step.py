"""The question, frozen: what a program is run with, and the inputs of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..ledger import Ledger, Size, Tensor
from ..operators import CPU, Device

if TYPE_CHECKING:
    from .modules import Base, Module


@dataclass(frozen=True)
class Step:
    """Everything about a step except its sizes: two steps with equal options share their formulas."""

    family: str
    dtype: str
    """Of all weights that are not quantised."""
    base: Base | None = None
    """How the linear layers are held, where they are quantised."""
    autocast: str | None = None
    attention: Literal["eager", "sdpa", "flash"] = "sdpa"
    checkpointing: str = "none"
    mlp_chunks: int = 1
    loss: str = "standard"
    loss_chunk: int | None = None
    optimizer: str = "adamw"
    optimizer_rank: int = 128
    keep_logits: bool = True
    drop_output_before_step: bool = False
    """The loop lets the output go after backward."""
    attention_mask: bool = False
    use_cache: bool = False
    window_reached: bool = False
    gradients_alive: bool = False
    device: Device = CPU
    """Whose kernels run."""
    procedure: str = "backpropagation"
    """How the step finds its update, or ``inference``, where there is none."""
    saved_activations: str = "as-is"
    activation_group_size: int = 64
    gradient_clipping: bool = False
    previous_output: bool = False
    generation: Any = None
    """A call of ``generate`` in place of one forward pass (``steps/generate.py: Generation``)."""

    @property
    def returns_cache(self) -> bool:
        """Whether the model returns its cache: transformers turns ``use_cache`` off beside gradient checkpointing."""
        return self.use_cache and self.checkpointing == "none"

    def ledger(self, **keys: Any) -> Ledger:
        """An empty ledger of the device that the step runs on."""
        return Ledger(self.device, **keys)


@dataclass(frozen=True)
class Generated:
    """What ``generate`` hands a forward pass; of its logits it keeps the last token's."""

    position_ids: Tensor
    keys: Mapping[bool, int]
    """How many keys the tokens see, in layers without and with a sliding window."""
    static: bool
    """The cache has its size from the start: single tokens get a mask too, and masks are contiguous."""
    masks: dict[bool, Tensor | None] | None = None
    """Of a static cache: made before the pass."""


@dataclass(frozen=True)
class Inputs:
    """The shape of one forward pass, and what it is run with."""

    ledger: Ledger
    batch: Size
    seq: Size
    step: Step
    gradient_checkpointing_func: Callable[..., Tensor] | None = None
    """Runs ``function(hidden_states, *arguments)`` of a segment of layers behind a checkpoint."""
    fused_loss: Callable[[Module, Tensor, Tensor], Tensor] | None = None
    """The loss of the head, the hidden states and the labels, where it is computed without the logits."""
    past: int = 0
    """Keys and values that every layer has before the sequence's own."""
    generated: Generated | None = None

    def keys(self, windowed: bool) -> Size:
        """How many keys the sequence's tokens see in a layer."""
        return self.past + self.seq if self.generated is None else self.generated.keys[windowed]
