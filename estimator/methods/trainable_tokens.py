"""Trainable tokens as PEFT runs them (``peft/tuners/trainable_tokens/layer.py``): a few rows of an embedding."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..errors import InputError
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Embedding, Linear, Method, Module
from .base import Targets
from .options import AdapterDtype, MethodOptions, Names, Tokens, checked_dtype


class TrainableTokensMethod(MethodOptions):
    """Trainable tokens (peft.TrainableTokensConfig)."""

    title: ClassVar[str] = "trainable tokens"
    name: Literal["trainable_tokens"] = "trainable_tokens"
    token_indices: Tokens = Field(description="ids of the tokens to train")
    target_modules: Names | None = Field(None, description="embed_tokens (PEFT's default), lm_head or both")
    init_weights: StrictBool = Field(True, description="start from the base's rows (no effect on memory)")
    adapter_dtype: AdapterDtype = Field(
        "float32", description="dtype of the adapters: float32 (PEFT's cast) or the base's"
    )

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        modules = config.modules
        names = self.target_modules or [modules.path_of("input embedding")]
        targets = Targets(names, all_linear=modules.all_linear)
        chosen = [module.path for module in modules.of("linear", "embedding") if module.path in targets]
        if not chosen:
            raise InputError(
                f"target_modules {names} matches nothing in this model; try {modules.path_of('input embedding')}"
            )
        return TrainableTokens(TokenRows(dict.fromkeys(chosen, self.token_indices), config), self, dtype)


class TokenRows:
    """Which rows of the input and output embeddings are trained, checked against a model."""

    def __init__(self, rows: Mapping[str, Sequence[int]], config: Config) -> None:
        embedding, self.head = config.modules.path_of("input embedding"), config.modules.path_of("output embedding")
        for path, indices in rows.items():
            if path not in (embedding, self.head):
                raise InputError(f"tokens are rows of {embedding} or {self.head}; '{path}' has none")
            if max(indices) >= config.vocab_size:
                raise InputError(f"token {max(indices)}: the model's tokens are 0 to {config.vocab_size - 1}")
        self.counts = {path: len(indices) for path, indices in rows.items()}
        same = embedding in rows and rows.get(self.head, rows[embedding]) == rows[embedding]
        self.tied = config.tie_word_embeddings and same

    def __contains__(self, path: str) -> bool:
        return path in self.counts or (path == self.head and self.tied)

    def wrap(self, build: Builder, base: Module, dtype: str) -> Module:
        """The module that stands in for an embedding with trained rows. A tied output embedding shares the input's."""
        assert isinstance(base, (Embedding, Linear))
        if base.path == self.head and self.tied:
            return TokensLayer(build, base, build.shared["trainable_tokens_delta"])
        delta = build.adapter(
            f"{base.path}.trainable_tokens_delta", (self.counts[base.path], base.weight.shape[1]), dtype
        )
        build.ledger.buffer(delta.shape, dtype)  # trainable_tokens_original
        build.shared["trainable_tokens_delta"] = delta
        return TokensLayer(build, base, delta)


class TrainableTokens(Method):
    """A frozen base model in which some rows of the embeddings train."""

    def __init__(self, rows: TokenRows, options: TrainableTokensMethod, dtype: str) -> None:
        self.rows, self.adapter_dtype = rows, checked_dtype(options.adapter_dtype, dtype)

    def trains(self, path: str) -> bool:
        return False

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        return self.rows.wrap(build, base, self.adapter_dtype) if base.path in self.rows else base


class TokensLayer(Module):
    """An embedding or a linear layer whose forward copies its weight, and puts trained rows [n, H] into the copy."""

    def __init__(self, build: Builder, base: Embedding | Linear, delta: Tensor) -> None:
        self.path, self.ledger, self.base_layer, self.delta = base.path, build.ledger, base, delta
        self.weight = base.weight

    def forward(self, x: Tensor) -> Tensor:
        index = self.ledger.empty((self.delta.shape[0],), "int64")
        deltas = ops.to(self.delta, self.weight.dtype)
        weight = ops.index_copy(self.weight, index, deltas)
        del index, deltas  # get_merged_weights returns
        return ops.embedding(x, weight) if isinstance(self.base_layer, Embedding) else ops.linear(x, weight)
