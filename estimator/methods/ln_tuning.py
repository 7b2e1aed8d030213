"""LN tuning as PEFT runs it (``peft/tuners/ln_tuning``; arXiv 2312.11420)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import InputError
from ..ledger.sizes import Size
from ..programs.config import Config
from ..programs.method import Method
from ..programs.modules import Module
from .base import AdapterMethod
from .options import TargetOptions, all_paths

if TYPE_CHECKING:
    from ..programs.modules import Builder

_NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]


class LnTuningMethod(TargetOptions):
    """LN tuning (peft.LNTuningConfig)."""

    title: ClassVar[str] = "LN tuning"
    default_targets: ClassVar[Mapping[str, list[str]]] = {
        "llama": _NORMS,
        "mistral": _NORMS,
        "qwen2": ["post_attention_layernorm"],
        "qwen3": ["post_attention_layernorm"],
    }
    name: Literal["ln_tuning"] = "ln_tuning"

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        targets = self._targets(config, all_paths(config))
        for path in _containers(config):
            if path in targets:
                raise InputError(
                    f"target_modules match '{path}', which holds other modules; LN tuning has rules for norms, "
                    "linear layers and the embedding"
                )
        return LnTuning(targets, self.modules_to_save or (), dtype)


class LnTuning(AdapterMethod):
    """Trains copies of the norms, of the base's dtype; the norms themselves stay, unused."""

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        return copy() if self.saves(base.path) or base.path in self.targets else base


def _containers(config: Config) -> list[str]:
    """Paths of the modules that have parameters only inside other modules, or none."""
    layers = [f"model.layers.{i}" for i in range(config.num_hidden_layers)]
    inner = ("self_attn", "mlp", "mlp.act_fn")
    return ["model", "model.layers", "model.rotary_emb", *layers, *(f"{p}.{m}" for p in layers for m in inner)]
