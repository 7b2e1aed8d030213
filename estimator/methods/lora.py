"""LoRA as PEFT runs it (``peft/tuners/lora/layer.py``; arXiv 2106.09685)."""

import math
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from .. import operators as ops
from ..bases.bitsandbytes import Linear4bit
from ..bases.formats import BITSANDBYTES
from ..bases.linear import QuantLinear
from ..bases.packed import AwqLinear
from ..errors import InputError
from ..io.fields import Name, Rank
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Embedding, Linear, Method, Module
from ..programs.module_table import endings
from . import patterns
from .base import Targets, is_saved
from .dora import DoraEmbeddingLayer, DoraLinearLayer
from .layered import Adapters, Layer, name_of
from .lora_config import LoraConfig
from .options import check_modules_to_save
from .target_parameters import TargetParameters

if TYPE_CHECKING:
    from ..programs.replaced_modules import RecordedModule
    from .trainable_tokens import TokenRows


class BlockDiagonal(BaseModel):
    """``peft.tuners.lora.BdLoraConfig``."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    target_modules_bd_a: list[Name] | None = None
    target_modules_bd_b: list[Name] | None = None
    nblocks: Rank = 1
    match_strict: StrictBool = True


class LoraOptions(LoraConfig):
    """Options of LoRA and of the methods that share PEFT's ``LoraConfig``."""

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        self._check_text()
        parameters = TargetParameters(self, config)
        targets = parameters.options._targets(config)
        parameters.check_modules(targets)
        self._check(targets, config.modules.path_of("input embedding"))
        tokens = self._tokens(config, targets, parameters)
        return Lora(self, targets, dtype, rank, tokens, parameters)

    def layer(self, base: Module) -> Layer:
        if isinstance(base, Embedding):
            return LoraEmbedding
        if isinstance(base, QuantLinear) and base.base.format in BITSANDBYTES:
            return LoraBnbLinear
        return LoraAwqLinear if isinstance(base, AwqLinear) else LoraLinear

    def _targets(self, config: Config, **layers: Any) -> Targets:
        names = self.default_targets(config.family) if self.target_modules is None else self.target_modules
        if names or not self.target_parameters:
            return super()._targets(config, **layers)
        check_modules_to_save(config, self.modules_to_save)
        return Targets([])  # parameters alone

    def _frozen(self) -> str:
        return "lora_B" if self.init_lora_weights == "mica" else ""

    def _tokens(self, config: Config, targets: Targets, parameters: TargetParameters) -> "TokenRows | None":
        """The trained rows of the embeddings. Raises ``InputError``."""
        given = self.trainable_token_indices
        if given is None:
            return None
        from .trainable_tokens import TokenRows

        both = config.modules.path_of("input embedding"), config.modules.path_of("output embedding")
        named = given if isinstance(given, dict) else {both[0]: given}
        paths = {end: path for path in both for end in endings(path)}
        tokens = TokenRows({paths.get(name, name): rows for name, rows in named.items()}, config)
        for path in both:
            for option, taken in (
                ("target_modules", path in targets),
                ("modules_to_save", is_saved(path, self.saved)),
                ("target_parameters", path in parameters.of_module),
            ):
                if taken and path in tokens:
                    raise InputError(f"{path} cannot have trainable_token_indices and be in {option} (PEFT's rule)")
        return tokens

    def _check(self, targets: Targets, embedding: str) -> None:
        """PEFT's rules on options that exclude each other. Raises ``InputError``."""
        if self.lora_bias and self.use_dora:
            raise InputError("lora_bias is not for DoRA (PEFT's rule); leave out lora_bias or use_dora")
        if self.lora_bias and not isinstance(self.init_lora_weights, bool):
            raise InputError("lora_bias needs init_lora_weights true or false (PEFT's rule)")
        if self.lora_bias and embedding in targets:
            raise InputError(
                f"lora_bias is for linear layers only (PEFT's rule); take {embedding} out of target_modules"
            )
        if self.use_dora and self.init_lora_weights == "mica":
            raise InputError("init_lora_weights mica is not for DoRA (PEFT's rule); leave out one of the two")
        ranks = (self.r, *(self.rank_pattern or {}).values())
        if self.init_lora_weights == "orthogonal" and any(rank % 2 for rank in ranks):
            raise InputError("init_lora_weights orthogonal needs an even rank (PEFT's rule)")


class LoraMethod(LoraOptions):
    """LoRA, rsLoRA, DoRA, PiSSA, OLoRA, EVA, MiCA (peft.LoraConfig).

    PiSSA, OLoRA, CorDA and LoftQ change the frozen weight once, before training. A training step takes as much
    memory as LoRA's.
    """

    title: ClassVar[str] = "LoRA"
    name: Literal["lora"] = "lora"
    use_bdlora: BlockDiagonal | None = Field(None, description="BD-LoRA: a block-diagonal lora_A or lora_B")

    @property
    def has_rules(self) -> bool:
        return self.use_bdlora is None


class Lora(Adapters[LoraOptions]):
    """y = W x + B(A(dropout(x))) * scale. rsLoRA only changes the scale."""

    def __init__(
        self,
        options: LoraOptions,
        targets: Targets,
        dtype: str,
        rank: Size | None = None,
        tokens: "TokenRows | None" = None,
        parameters: TargetParameters | None = None,
    ) -> None:
        super().__init__(options, targets, dtype, rank)
        self.frozen, self.tokens, self.parameters = options._frozen(), tokens, parameters
        self.alpha_by_pattern: patterns.Lookup[float] = patterns.Lookup(options.alpha_pattern, patterns.SUFFIX)
        self.by_layer = self.by_layer or (parameters is not None and parameters.by_layer)

    def signature(self, path: str) -> Hashable:
        parameters = tuple(str((name_of(name), *self.rank_of_parameter(name))) for name in self.parameters_of(path))
        return super().signature(path), parameters

    def parameters_of(self, path: str) -> tuple[str, ...]:
        return () if self.parameters is None else self.parameters.of_module.get(path, ())

    def wrap_parameters(self, build: Builder, base: "RecordedModule") -> Module:
        from .param_wrapper import ParamWrapper  # of target_parameters alone

        module: RecordedModule | ParamWrapper = base
        names = self.parameters_of(base.path)
        for number, name in enumerate(names, 1):
            dtype = self.dtype_at(base.own[name])
            transposed = self.parameters is not None and self.parameters.transposed
            prefix = f"{base.path}.{'base_layer.' * (len(names) - number)}"
            module = ParamWrapper(
                build, module, name, prefix, *self.rank_of_parameter(name), dtype, transposed, self.frozen
            )
        return module

    def trains(self, path: str) -> bool:
        if super().trains(path):
            return True
        return self.bias == "lora_only" and path.endswith(".bias") and bool(self.parameters_of(path[: -len(".bias")]))

    def dtype_at(self, weight: Tensor) -> str:
        """The dtype of a weight's adapter: float32, or that of the weight itself."""
        return "float32" if self.adapter_dtype == "float32" else weight.dtype

    def rank_of_parameter(self, name: str) -> tuple[Size, bool]:
        """The rank of a parameter's adapter, of each expert, and whether what it adds is scaled."""
        assert self.parameters is not None
        several = self.parameters.multiple(name)
        rank = self.size_by_pattern.at(name, self.size_by_path.get(name, self.size * several))
        if not isinstance(rank, int):
            return rank, True
        alpha = self.alpha_by_pattern.at(name, self.options.lora_alpha * several)
        return rank, alpha != (math.sqrt(rank) if self.options.use_rslora else rank)

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        if self.tokens is not None and base.path in self.tokens:
            return self.tokens.wrap(build, base, self.adapter_dtype)
        return super().wrap(build, base, copy)


class LoraLinear(Module):
    """A linear layer with lora_A [r, n_in] and lora_B [n_out, r]."""

    def __init__(self, build: Builder, base: Linear, lora: Lora) -> None:
        self.path, self.ledger, self.base_layer, self.p = base.path, base.ledger, base, lora.options.lora_dropout
        rank = lora.size_at(base.path)
        n_out, n_in = base.weight.shape
        dtype = lora.adapter_dtype if isinstance(base, QuantLinear) else lora.dtype_at(base.weight)
        self.lora_A = build.adapter_linear(
            f"{self.path}.lora_A", n_in, rank, False, dtype, trained=lora.frozen != "lora_A"
        )
        self.lora_B = build.adapter_linear(
            f"{self.path}.lora_B", rank, n_out, lora.options.lora_bias, dtype, trained=lora.frozen != "lora_B"
        )
        self.dora = DoraLinearLayer(build, base, n_out, lora.adapter_dtype) if lora.options.use_dora else None

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        result_dtype = result.dtype
        x = ops.to(x, self.lora_A.weight.dtype)
        if self.dora is None:
            result = ops.add(result, ops.mul(self.lora_B(self.lora_A(ops.dropout(x, self.p))), ops.SCALAR))
        else:
            result = self.add_dora(self.dora, x, result)
        result = ops.to(result, result_dtype)
        return result

    def add_dora(self, dora: DoraLinearLayer, x: Tensor, result: Tensor) -> Tensor:
        """``DoraLinearVariant.forward``. With dropout, W x is computed again for the x after dropout."""
        base_result = None if self.p else result
        x = ops.dropout(x, self.p)
        result = ops.add(result, dora(x, self.lora_A, self.lora_B, self.base_layer, base_result))
        return result


class LoraBnbLinear(LoraLinear):
    """LoRA around a linear layer of bitsandbytes (``peft/tuners/lora/bnb.py``)."""

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        if isinstance(self.base_layer, Linear4bit):
            result = ops.clone(result)
        expected_dtype = result.dtype
        x = ops.to(x, self.lora_A.weight.dtype)
        output = ops.mul(self.lora_B(self.lora_A(ops.dropout(x, self.p))), ops.SCALAR)
        output = ops.to(output, expected_dtype)
        result = ops.add(result, output)
        return result


class LoraAwqLinear(LoraLinear):
    """LoRA around an AWQ layer (``peft/tuners/lora/awq.py``)."""

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        expected_dtype = result.dtype
        x = ops.to(x, self.lora_A.weight.dtype)
        output = self.lora_B(self.lora_A(ops.dropout(x, self.p)))
        output = ops.to(output, expected_dtype)
        output = ops.mul(output, ops.SCALAR)
        result = ops.add(result, output)
        return result


class LoraEmbedding(Module):
    """An embedding with lora_embedding_A [r, vocabulary] and lora_embedding_B [hidden, r]."""

    def __init__(self, build: Builder, base: Embedding, lora: Lora) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        rank = lora.size_at(base.path)
        count, size = base.weight.shape
        self.weight = base.weight
        dtype = lora.adapter_dtype
        self.lora_A = build.adapter(f"{self.path}.lora_embedding_A", (rank, count), dtype)
        self.lora_B = build.adapter(
            f"{self.path}.lora_embedding_B", (size, rank), dtype, trained=lora.frozen != "lora_B"
        )
        self.dora = DoraEmbeddingLayer(build, base, size, lora.adapter_dtype) if lora.options.use_dora else None

    def forward(self, ids: Tensor) -> Tensor:
        result = self.base_layer(ids)
        result_dtype = result.dtype
        if self.dora is None:
            after_a = ops.embedding(ids, ops.transpose(self.lora_A, 0, 1))
            result = ops.add(result, ops.mul(ops.linear(after_a, self.lora_B), ops.SCALAR))
        else:
            result = self.scale_dora(self.dora, ids, result)
        result = ops.to(result, result_dtype)
        return result

    def scale_dora(self, dora: DoraEmbeddingLayer, ids: Tensor, result: Tensor) -> Tensor:
        """``DoraEmbeddingVariant.forward``."""
        embedding_A = ops.transpose(self.lora_A, 0, 1)
        embedding_B = ops.transpose(self.lora_B, 0, 1)
        mag_norm_scale, dora_result = dora(ids, embedding_A, embedding_B, self.base_layer)
        result = ops.add(ops.mul(mag_norm_scale, result), dora_result)
        return result
