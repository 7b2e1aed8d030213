"""The method block of a plan: PEFT's own option names, read from a plan or an adapter_config.json."""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from .adapters.base import Method, Targets
from .adapters.ia3 import Ia3
from .adapters.lora import Lora
from .errors import InputError, nearest, shown
from .specs import LAYER_MODULES, Config, existing, read_json
from .symbols import Size


def _whole(value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ValueError("must be a whole number")


def _pattern(text: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except (re.error, OverflowError) as error:
        raise ValueError(f"must be a name or a regular expression ({error})") from None
    except RecursionError:
        raise ValueError("must be a name or a regular expression (this one is nested too deeply)") from None
    return text


def _list_name(text: str) -> str:
    if set(text) & set("(|)"):
        raise ValueError("must be the name of the list the layers are in, such as layers")
    return _pattern(text)


Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer of any kind, NumPy's included; no float, text or bool."""
Pattern = Annotated[str, AfterValidator(_pattern)]
ListName = Annotated[str, AfterValidator(_list_name)]
Name = Annotated[str, Field(min_length=1)]
Names = Union[Pattern, list[str]]
AdapterDtype = Literal["float32", "bfloat16", "float16"]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Rank = Annotated[Whole, Field(ge=1, le=10**6)]


class FullMethod(BaseModel):
    """Full fine-tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Literal["full"] = "full"

    def build(self, config: Config, dtype: str) -> Method:
        """The method, checked against a model."""
        return Method()


class AdapterOptions(BaseModel):
    """What LoRA and IA3 have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    default_targets: ClassVar[Mapping[str, list[str]]] = {}
    target_modules: Names | None = Field(None, description="modules to adapt: names, a regular expression, all-linear")
    exclude_modules: Names | None = Field(None, description="modules to leave out")
    modules_to_save: list[Name] | None = Field(None, description="modules trained as full copies")
    adapter_dtype: AdapterDtype = Field(
        "float32", description="dtype of the adapters: float32 (PEFT's cast) or the base's"
    )

    def _targets(self, config: Config, **layers: Any) -> Targets:
        names = self.target_modules if self.target_modules is not None else self.default_targets[config.family]
        targets = Targets(names, self.exclude_modules, **layers)
        paths = module_paths(config)
        wanted = [names] if isinstance(names, str) else names
        if not wanted:
            raise InputError("target_modules is empty; name a module such as q_proj, or leave it out")
        for name in wanted:
            if not _any_in(paths, Targets(name if isinstance(names, str) else [name])):
                raise InputError(
                    f"target_modules '{name}' matches nothing in this model; its modules are "
                    f"{', '.join(p.rpartition('.')[2] for p in LAYER_MODULES)}, embed_tokens, lm_head"
                )
        if not _any_in(paths, targets):
            raise InputError(
                "exclude_modules or layers_to_transform leave nothing of target_modules; change one of them"
            )
        for name in self.modules_to_save or ():
            if not any(path.endswith(name) for path in all_paths(config)):
                raise InputError(f"modules_to_save '{name}' matches nothing in this model")
            if any(path.endswith(name) and path in targets for path in paths):
                raise InputError(f"'{name}' is in target_modules and in modules_to_save; keep one of them")
        return targets

    def _dtype(self, dtype: str) -> str:
        if self.adapter_dtype not in ("float32", dtype):
            raise InputError(
                f"adapter_dtype {self.adapter_dtype} is neither float32 nor the base's dtype {dtype}; "
                "PEFT casts adapters to one of these"
            )
        return self.adapter_dtype


class LoraMethod(AdapterOptions):
    """LoRA and rsLoRA (peft.LoraConfig)."""

    default_targets: ClassVar[Mapping[str, list[str]]] = {
        family: ["q_proj", "v_proj"] for family in ("llama", "mistral", "qwen2", "qwen3")
    }
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

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        """The method, checked against a model. ``rank`` replaces ``r`` (a symbol, for formulas)."""
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


class Ia3Method(AdapterOptions):
    """IA3 (peft.IA3Config)."""

    default_targets: ClassVar[Mapping[str, list[str]]] = {
        "llama": ["k_proj", "v_proj", "down_proj"],
        "mistral": ["k_proj", "v_proj", "down_proj"],
        "qwen2": ["q_proj", "v_proj", "down_proj"],
        "qwen3": ["q_proj", "v_proj", "down_proj"],
    }
    name: Literal["ia3"] = "ia3"
    feedforward_modules: Names | None = Field(None, description="targets whose input is scaled, not the output")

    def build(self, config: Config, dtype: str) -> Method:
        """The method, checked against a model."""
        feedforward = self.feedforward_modules
        if feedforward is None:
            feedforward = ["down_proj"] if self.target_modules is None else []
        if isinstance(feedforward, list) and isinstance(self.target_modules, list):
            for name in feedforward:
                if name not in self.target_modules:
                    raise InputError(f"feedforward_modules '{name}' is not in target_modules; add it there too")
        targets = self._targets(config)
        if "model.embed_tokens" in targets:
            raise InputError("IA3 adapts linear layers only; take embed_tokens out of target_modules")
        return Ia3(targets, feedforward, self.modules_to_save or (), self._dtype(dtype))


AnyMethod = Union[FullMethod, LoraMethod, Ia3Method]
METHODS: dict[str, type[FullMethod] | type[LoraMethod] | type[Ia3Method]] = {
    "full": FullMethod,
    "lora": LoraMethod,
    "ia3": Ia3Method,
}
"""Method names: ours, or PEFT's peft_type in lower case."""


def _any_in(paths: list[str], targets: Targets) -> bool:
    return any(path in targets for path in paths)


def module_paths(config: Config) -> list[str]:
    """Paths of the modules a method may adapt."""
    layers = range(config.num_hidden_layers)
    return ["model.embed_tokens", *(f"model.layers.{i}.{m}" for i in layers for m in LAYER_MODULES), "lm_head"]


def all_paths(config: Config) -> list[str]:
    """Paths of all modules with parameters of their own."""
    norms = ["model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"]
    if config.family == "qwen3":
        norms += ["model.layers.0.self_attn.q_norm", "model.layers.0.self_attn.k_norm"]
    return module_paths(config) + norms


HARMLESS = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "fan_in_fan_out",
        "inference_mode",
        "init_ia3_weights",
        "init_lora_weights",
        "megatron_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "task_type",
    }
)
"""Keys of an adapter_config.json that do not change memory."""


def read_adapter_config(path: Path) -> dict[str, Any]:
    """A PEFT adapter_config.json as a method block. Raises ``InputError``."""
    found = existing(path)
    if found is not None and found.is_dir():
        found = existing(found / "adapter_config.json")
    if found is None:
        hint = nearest(str(path).lower(), METHODS)
        raise InputError(
            f"method '{path}' is neither a known method ({', '.join(METHODS)}) nor an adapter_config.json{hint}"
        )
    raw = read_json(found)
    kind = raw.get("peft_type")
    if not isinstance(kind, str):
        raise InputError(f"'{path}' has no peft_type; give the adapter_config.json that PEFT wrote")
    name = kind.lower()
    if name == "full" or name not in METHODS:
        known = ", ".join(m.upper() for m in METHODS if m != "full")
        raise InputError(f"'{path}': peft_type {shown(kind)} has no rules in this version; known are {known}")
    fields = METHODS[name].model_fields.keys() - {"name"}
    block: dict[str, Any] = {"name": name}
    for key, value in raw.items():
        if key in fields:
            if value is not None:
                block[key] = value
        elif key not in HARMLESS and (value is True or value not in (None, False, [], {}, "", "default", 1)):
            raise InputError(f"'{path}' sets {key}: {shown(value)}, for which this version has no rule")
    return block
