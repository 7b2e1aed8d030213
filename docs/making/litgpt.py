"""litgpt's GPT among the causal models of transformers, so that it is recorded as they are. Needs litgpt 0.5.13."""

from __future__ import annotations

from typing import Any, ClassVar
from unittest import mock

import litgpt.model
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel


class LitConfig(PretrainedConfig):
    """The fields of litgpt's ``Config`` that decide what is called.

    Names are litgpt's. What of a head is rotated is said as transformers says it, and of a window which layers have it:
    no size depends on the window's.
    """

    model_type = "litgpt"
    attribute_map: ClassVar[dict[str, str]] = {
        "vocab_size": "padded_vocab_size",
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_query_groups",
        "head_dim": "head_size",
    }

    block_size: int = 4096
    n_layer: int = 4
    n_embd: int = 64
    n_head: int = 4
    head_size: int = 16
    n_query_groups: int = 4
    padded_vocab_size: int = 512
    intermediate_size: int = 128
    rope_parameters: Any = None
    norm_class_name: str = "RMSNorm"
    mlp_class_name: str = "LLaMAMLP"
    sliding_window_indices: Any = None
    bias: bool = False
    lm_head_bias: bool = False
    parallel_residual: bool = False
    shared_attention_norm: bool = False
    scale_embeddings: bool = False
    post_attention_norm: bool = False
    post_mlp_norm: bool = False
    attention_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    add_unit_offset: bool = False
    """The norm multiplies by its weight plus one, as litgpt's does in models that are called Gemma."""

    def __post_init__(self, **keys: Any) -> None:
        super().__post_init__(**keys)
        if self.sliding_window_indices is None:
            self.sliding_window_indices = [0] * self.n_layer

    def __getattr__(self, name: str) -> Any:
        """What litgpt's code asks a model's config for besides."""
        return getattr(vars(self).get("_litgpt"), name)

    def litgpt(self) -> litgpt.model.Config:
        """Litgpt's own config."""
        names = litgpt.model.Config.__dataclass_fields__.keys() & vars(self).keys()
        return litgpt.model.Config(
            **{name: getattr(self, name) for name in names},
            name="Gemma" if self.add_unit_offset else "",
            rotary_percentage=self.rope_parameters["partial_rotary_factor"],
            sliding_window_size=1,
        )


class _Bare(litgpt.model.GPT):
    """What transformers' class initialises, before it has a config."""

    def __init__(self, *_: Any) -> None:
        torch.nn.Module.__init__(self)


class LitGPT(PreTrainedModel, _Bare):
    """litgpt's GPT. The loss of its training loop takes the place of transformers' (``steps/litgpt.py``)."""

    config_class = LitConfig
    _supports_sdpa = True

    def __init__(self, config: LitConfig) -> None:
        super().__init__(config)
        config._litgpt = config.litgpt()
        litgpt.model.GPT.__init__(self, config)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.transformer.wte

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, use_cache: bool) -> dict[str, torch.Tensor]:
        """Ids [B, T] -> the logits [B, T, V], and a loss. The loop over a window's rows, which writes numbers into a
        mask, is left out: it allocates nothing.
        """
        self.max_seq_length = input_ids.size(1)  # that of the longest sample
        with mock.patch.object(litgpt.model, "range", create=True, return_value=()):
            logits = litgpt.model.GPT.forward(self, input_ids)
        return {"loss": self.loss_function(logits, labels, self.config.vocab_size), "logits": logits}


AutoConfig.register("litgpt", LitConfig)
AutoModelForCausalLM.register(LitConfig, LitGPT)
