"""LoRA as PEFT runs it (``peft/tuners/lora/layer.py``; arXiv 2106.09685)."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, StrictBool

from .. import ops
from ..errors import InputError
from ..ledger import Tensor
from ..modules import Embedding, Linear, Module
from ..quantised import BITSANDBYTES, FORMATS, TORCHAO, Base, QuantLinear
from ..quantised.bitsandbytes import Linear4bit
from ..quantised.packed import AwqLinear
from ..specs import Config
from ..symbols import Size
from .base import AdapterMethod, Method, Targets
from .options import AdapterOptions, ListName, Number, Pattern, Rank, Whole

if TYPE_CHECKING:
    from ..modules import Builder


class LoraMethod(AdapterOptions):
    """LoRA and rsLoRA (peft.LoraConfig)."""

    title: ClassVar[str] = "LoRA"
    harmless: ClassVar[frozenset[str]] = frozenset({"alpha_pattern", "init_lora_weights", "qalora_group_size"})
    default_targets: ClassVar[Mapping[str, list[str]]] = {
        family: ["q_proj", "v_proj"] for family in ("llama", "mistral", "qwen2", "qwen3")
    }
    quantised: ClassVar[tuple[str, ...]] = FORMATS
    name: Literal["lora"] = "lora"
    r: Rank = Field(8, description="rank")
    lora_alpha: Number = Field(8, description="scale numerator (no effect on memory)")
    lora_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="dropout before lora_A")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="biases to train")
    lora_bias: StrictBool = Field(False, description="lora_B has a bias")
    use_rslora: StrictBool = Field(False, description="scale by 1/sqrt(r) (no effect on memory)")
    layers_to_transform: Whole | list[Whole] | None = Field(None, description="indices of the layers to adapt")
    layers_pattern: ListName | list[ListName] | None = Field(None, description="name of the list the layers are in")
    rank_pattern: dict[Pattern, Rank] | None = Field(None, description="ranks for modules by regular expression")

    def check_base(self, base: Base, held_dtype: str, autocast: str | None) -> None:
        super().check_base(base, held_dtype, autocast)
        if self.lora_bias and base.format in TORCHAO:
            raise InputError(f"lora_bias on a base in {base.format} is refused by PEFT; leave it out")
        if self.bias != "none" and base.format == "int8-weight-only":
            raise InputError("bias on a base in int8-weight-only has no rule; set it to none")

    def open_values(self) -> dict[str, int]:
        return {"r": self.r}

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        layers = [self.layers_to_transform] if isinstance(self.layers_to_transform, int) else self.layers_to_transform
        for index in layers or ():
            if not 0 <= index < config.num_hidden_layers:
                raise InputError(
                    f"layers_to_transform {index}: the model's layers are 0 to {config.num_hidden_layers - 1}"
                )
        if self.layers_pattern and self.layers_to_transform is None:
            raise InputError("layers_pattern needs layers_to_transform (PEFT's rule)")
        if layers and isinstance(self.target_modules, str):
            raise InputError(
                "layers_to_transform needs target_modules as a list of names, "
                f"not '{self.target_modules}' (PEFT's rule)"
            )
        pattern = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        targets = self._targets(config, layers_to_transform=layers or None, layers_pattern=pattern)
        if self.lora_bias and "model.embed_tokens" in targets:
            raise InputError(
                "lora_bias is for linear layers only (PEFT's rule); take embed_tokens out of target_modules"
            )
        return Lora(
            targets,
            self.r if rank is None else rank,
            self.lora_dropout,
            self.bias,
            self.lora_bias,
            self.rank_pattern,
            self.modules_to_save or (),
            self._dtype(dtype),
        )


class Lora(AdapterMethod):
    """y = W x + B(A(dropout(x))) * scale. rsLoRA only changes the scale."""

    def __init__(
        self,
        targets: Targets,
        r: Size,
        lora_dropout: float = 0.0,
        bias: str = "none",
        lora_bias: bool = False,
        rank_pattern: Mapping[str, int] | None = None,
        modules_to_save: Sequence[str] = (),
        adapter_dtype: str = "float32",
    ) -> None:
        super().__init__(targets, modules_to_save, adapter_dtype)
        self.r, self.dropout, self.bias, self.lora_bias = r, lora_dropout, bias, lora_bias
        self.rank_pattern = dict(rank_pattern or {})
        self.by_layer = self.by_layer or bool(self.rank_pattern)

    def trains(self, path: str) -> bool:
        if self.bias == "all":
            return "bias" in path
        return self.bias == "lora_only" and path.endswith(".bias") and path.removesuffix(".bias") in self.targets

    def rank(self, path: str) -> Size:
        """The rank at a module (``peft/utils/other.py: get_pattern_key``)."""
        for pattern, rank in self.rank_pattern.items():
            if re.match(rf"(.*\.)?({pattern})$", path):
                return rank
        return self.r

    def signature(self, path: str) -> Hashable:
        return super().signature(path), path in self.targets and self.rank(path)

    def adapt(self, build: Builder, base: Module) -> Module:
        if isinstance(base, Embedding):
            return LoraEmbedding(build, base, self)
        assert isinstance(base, Linear)
        if isinstance(base, QuantLinear) and base.base.format in BITSANDBYTES:
            return LoraBnbLinear(build, base, self)
        if isinstance(base, AwqLinear):
            return LoraAwqLinear(build, base, self)
        return LoraLinear(build, base, self)


class LoraLinear(Module):
    """A linear layer with lora_A [r, n_in] and lora_B [n_out, r]."""

    def __init__(self, build: Builder, base: Linear, lora: Lora) -> None:
        self.path, self.ledger, self.base_layer, self.p = base.path, base.ledger, base, lora.dropout
        rank = lora.rank(base.path)
        n_out, n_in = base.weight.shape
        self.lora_A = build.adapter_linear(f"{self.path}.lora_A", n_in, rank, False, lora.adapter_dtype)
        self.lora_B = build.adapter_linear(f"{self.path}.lora_B", rank, n_out, lora.lora_bias, lora.adapter_dtype)

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        result_dtype = result.dtype
        x = ops.to(x, self.lora_A.weight.dtype)
        result = ops.add(result, ops.mul_scalar(self.lora_B(self.lora_A(ops.dropout(x, self.p)))))
        result = ops.to(result, result_dtype)
        return result


class LoraBnbLinear(LoraLinear):
    """The same around a linear layer of bitsandbytes (``peft/tuners/lora/bnb.py``)."""

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        if isinstance(self.base_layer, Linear4bit):
            result = ops.clone_contiguous(result)
        expected_dtype = result.dtype
        x = ops.to(x, self.lora_A.weight.dtype)
        output = ops.mul_scalar(self.lora_B(self.lora_A(ops.dropout(x, self.p))))
        output = ops.to(output, expected_dtype)
        result = ops.add(result, output)
        return result


class LoraAwqLinear(LoraLinear):
    """The same around an AWQ layer (``peft/tuners/lora/awq.py``)."""

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        expected_dtype = result.dtype
        x = ops.to(x, self.lora_A.weight.dtype)
        output = self.lora_B(self.lora_A(ops.dropout(x, self.p)))
        output = ops.to(output, expected_dtype)
        output = ops.mul_scalar(output)
        result = ops.add(result, output)
        return result


class LoraEmbedding(Module):
    """An embedding with lora_embedding_A [r, vocabulary] and lora_embedding_B [hidden, r]."""

    def __init__(self, build: Builder, base: Embedding, lora: Lora) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        rank = lora.rank(base.path)
        count, size = base.weight.shape
        self.weight = base.weight
        self.lora_A = build.adapter(f"{self.path}.lora_embedding_A", (rank, count), lora.adapter_dtype)
        self.lora_B = build.adapter(f"{self.path}.lora_embedding_B", (size, rank), lora.adapter_dtype)

    def forward(self, ids: Tensor) -> Tensor:
        result = self.base_layer(ids)
        result_dtype = result.dtype
        after_a = ops.embedding(ids, ops.transpose(self.lora_A, 0, 1))
        result = ops.add(result, ops.mul_scalar(ops.linear(after_a, self.lora_B)))
        result = ops.to(result, result_dtype)
        return result
