"""Layer freezing: only the top of the model trains, and nothing below it is saved."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool

from ..errors import InputError
from ..fields import Whole
from ..ledger.sizes import Size
from ..programs.config import Config
from ..programs.method import Method
from .options import MethodOptions


class FreezeMethod(MethodOptions):
    """Layer freezing: the top layers train (no class of PEFT's)."""

    title: ClassVar[str] = "layer freezing"
    peft: ClassVar[bool] = False
    name: Literal["freeze"] = "freeze"
    top_layers: Annotated[Whole, Field(ge=0)] | None = Field(None, description="how many of the last layers train")
    train_norm: StrictBool = Field(True, description="the final norm trains")
    train_head: StrictBool = Field(True, description="lm_head trains, and with it an embedding it is tied to")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        layers = config.num_hidden_layers
        if self.top_layers is None:
            raise InputError("freeze needs top_layers: how many of the last layers train")
        if self.top_layers > layers:
            raise InputError(f"top_layers {self.top_layers}: the model has {layers} layers")
        if not (self.top_layers or self.train_norm or self.train_head):
            raise InputError("freeze leaves nothing to train; raise top_layers, or set train_norm or train_head")
        return Freeze(layers - self.top_layers, self.train_norm, self.train_head, config.tie_word_embeddings)


class Freeze(Method):
    """Layers from ``first`` on train. The embedding is frozen, unless it is the head's weight too and
    the head trains: then gradients flow through all layers.
    """

    by_layer = True

    def __init__(self, first: int, norm: bool, head: bool, tied: bool) -> None:
        self.first = first
        self.others = {"model.norm": norm, "lm_head": head, "model.embed_tokens": head and tied}

    def trains(self, path: str) -> bool:
        if path.startswith("model.layers."):
            return int(path.split(".")[2]) >= self.first
        return self.others[path.rpartition(".")[0]]

    def signature(self, path: str) -> Hashable:
        return self.trains(path)
