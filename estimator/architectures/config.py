from __future__ import annotations
from dataclasses import dataclass, field
from ..ledger import Ledger
from ..symbols import Size

@dataclass
class Sizes:
    vocab: Size
    hidden: Size
    intermediate: Size
    kv_heads: Size
    groups: Size
    head_dim: Size
    layers: Size
    attention_bias: bool = False
    qkv_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    qk_norm: bool = False
    window: int | None = None
    layer_types: tuple[str, ...] = ()
    attention_dropout: float = 0.0
    @property
    def heads(self) -> Size:
        return self.kv_heads * self.groups

@dataclass
class ForwardContext:
    ledger: Ledger
    batch: Size
    seq: Size
    attention: str
    def window_active(self, w: int) -> bool:
        return isinstance(self.seq, int) and self.seq >= w
