"""Layer freezing: the last layers train, and nothing before them is saved for backward."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool

from ..errors import InputError
from ..io.fields import Whole
from ..ledger import Size
from ..programs import Config, Method
from .options import MethodOptions


class FreezeMethod(MethodOptions):
    """Layer freezing: the last layers train (PEFT has no class for it)."""

    title: ClassVar[str] = "layer freezing"
    peft: ClassVar[bool] = False
    name: Literal["freeze"] = "freeze"
    top_layers: Annotated[Whole, Field(ge=0)] | None = Field(None, description="how many of the last layers train")
    train_norm: StrictBool = Field(True, description="the final norm trains")
    train_head: StrictBool = Field(True, description="lm_head trains, and with it a tied input embedding")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        layers = config.num_hidden_layers
        if self.top_layers is None:
            raise InputError("freeze needs top_layers: how many of the last layers train")
        if self.top_layers > layers:
            raise InputError(f"top_layers {self.top_layers}: the model has {layers} layers")
        if not (self.top_layers or self.train_norm or self.train_head):
            raise InputError("freeze leaves nothing to train; raise top_layers, or set train_norm or train_head")
        return Freeze(config, layers - self.top_layers, self.train_norm, self.train_head)


class Freeze(Method):
    """The layers from ``first`` on train. The input embedding is frozen, unless it is tied to an output embedding that
    trains. Gradients then flow through all layers.
    """

    by_layer = True

    def __init__(self, config: Config, first: int, norm: bool, head: bool) -> None:
        self.modules, self.first, self.norm = config.modules, first, norm
        self.roles = {"input embedding": head and config.tie_word_embeddings, "output embedding": head}

    def trains(self, path: str) -> bool:
        return self.signature(path.rpartition(".")[0])

    def signature(self, path: str) -> bool:
        module = self.modules[path]
        if module.layer is not None:
            return module.layer >= self.first
        return self.norm if module.role is None else self.roles[module.role]
