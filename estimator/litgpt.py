"""litgpt's models by litgpt's names, and what its training loop has (``implementation: litgpt``)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .adapters.litgpt_lora import PARTS, LitLora
from .architectures.litgpt import LitSizes
from .errors import InputError, nearest
from .specs import Config, ModelSpec

SOURCE = "litgpt 0.5.13, litgpt/config.py (github.com/Lightning-AI/litgpt, commit 26857050)"


@dataclass(frozen=True)
class LitConfig(Config):
    """A litgpt config's numbers."""

    switches: Mapping[str, Any] = field(kw_only=True)
    """What ``LitSizes`` has beside the sizes."""

    def sizes(self, signature: Callable[[str], Hashable], symbolic: bool = False) -> LitSizes:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        return LitSizes(
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            kv_heads,
            heads // kv_heads,
            self.head_dim,
            self._runs(signature),
            **self.switches,
        )


_SWITCHES = {
    **{name: False for name in ("bias", "lm_head_bias", "parallel_residual", "shared_attention_norm")},
    **{name: False for name in ("scale_embeddings", "post_attention_norm", "post_mlp_norm", "add_unit_offset")},
    **{name: False for name in ("attention_logit_softcapping", "final_logit_softcapping")},
}


def config(row: Mapping[str, Any]) -> LitConfig:
    """The config of a row of ``architectures/litgpt.yaml``."""
    row = {**_SWITCHES, "sliding_window_size": None, "sliding_window_every": 1, **row}
    layers, window = row["n_layer"], row["sliding_window_size"]
    names = (*_SWITCHES, "block_size", "rope_n_elem", "norm_class_name", "mlp_class_name")
    return LitConfig(
        family="litgpt",
        vocab_size=row["padded_vocab_size"],
        hidden_size=row["n_embd"],
        intermediate_size=row["intermediate_size"],
        num_hidden_layers=layers,
        num_attention_heads=row["n_head"],
        num_key_value_heads=row["n_query_groups"],
        head_dim=row["head_size"],
        qkv_bias=row["bias"],
        output_bias=row["bias"],
        mlp_bias=row["bias"],
        tie_word_embeddings=False,
        attention_dropout=0.0,
        sliding_window=window,
        windowed_layers=tuple(window is not None and i % row["sliding_window_every"] == 0 for i in range(layers)),
        switches={name: row[name] for name in names},
    )
