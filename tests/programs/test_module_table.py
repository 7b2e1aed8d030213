"""The table of a model's modules, and PEFT's default targets, against the libraries themselves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from peft.utils import constants, transformers_weight_conversion
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from estimator.errors import InputError
from estimator.ledger import Ledger
from estimator.methods.default_targets import (
    ADAPTED_EXPERTS,
    EXPERT_LAYERS,
    FEEDFORWARD_MODULES,
    PEFT,
    TARGET_MODULES,
    TRANSPOSED_EXPERTS,
)
from estimator.methods.registry import METHODS
from estimator.operators import CPU
from estimator.plans.models import ModelSpec, load
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.programs import Config
from estimator.programs.causal_lm import RecordedCausalLM
from estimator.programs.module_table import TELL_TEXTS_APART
from estimator.programs.modules import Builder, Method
from estimator.programs.step import Step
from estimator.recorder.model_classes import build_model
from tests.cases.causal_classes import CLASSES
from tests.cases.small_models import write_config

CONFIGS: dict[str, dict[str, Any]] = {
    **{family: {"model_type": family} for family in ("llama", "mistral", "qwen2", "qwen3")},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen3 with biases": {"model_type": "qwen3", "attention_bias": True},
    "tied": {"model_type": "qwen2", "tie_word_embeddings": True},
}


def sizes(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "vocab_size": 101,
        **changes,
    }


def parse_config(raw: dict[str, Any]) -> Any:
    return ModelSpec("test", raw, "test").config


def real(raw: dict[str, Any], device: str = "meta") -> Any:
    """Transformers' own module, by default without data."""
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**raw))


def kind_of(name: str, module: Any) -> str:
    """What transformers calls a module, in the table's words."""
    kinds = {torch.nn.Linear: "linear", torch.nn.Embedding: "embedding"}
    endings = {"RMSNorm": "norm", "Attention": "attention", "MLP": "mlp"}
    found = (kind for ending, kind in endings.items() if type(module).__name__.endswith(ending))
    return kinds.get(type(module)) or next(found, "container")


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=list(CONFIGS))
def test_modules_are_those_of_transformers(changes: dict[str, Any]) -> None:
    """Witness: transformers. Every module in its order, its kind, its weight, its bias and its role."""
    raw = sizes(**changes)
    model = real(raw)
    roles = {
        id(model.get_input_embeddings()): "input embedding",
        id(model.get_output_embeddings()): "output embedding",
    }
    expected = []
    for name, module in list(model.named_modules())[1:]:
        weight = getattr(module, "weight", None)
        layer = name.split("layers.")[1].split(".")[0] if "layers." in name else None
        shape = () if weight is None else tuple(weight.shape)
        bias = getattr(module, "bias", None) is not None
        expected.append(
            (name, kind_of(name, module), shape, bias, roles.get(id(module)), None if layer is None else int(layer))
        )
    table = parse_config(raw).modules
    assert [tuple(module) for module in table.modules] == expected
    assert [layer[0].path for layer in table.layers] == [f"model.layers.{i}" for i in range(3)]
    assert table["model.norm"].kind == "norm"


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=list(CONFIGS))
def test_all_linear_is_that_of_peft(changes: dict[str, Any]) -> None:
    """Witness: PEFT."""
    raw = sizes(**changes)
    chosen = _maybe_include_all_linear_layers(peft.LoraConfig(target_modules="all-linear"), real(raw)).target_modules
    assert set(parse_config(raw).modules.all_linear) == chosen


def parameters(config: Config) -> dict[str, tuple[Any, ...]]:
    """What the program makes: the shape of each parameter by its path."""
    ledger = Ledger(CPU, unrolled=True)
    step = Step(config.family, "float32")
    RecordedCausalLM(Builder(ledger, Method(), "float32"), config.sizes(lambda layer: layer, step, 1, 1))
    return {p.name: p.shape for p in ledger.parameters}


def of_table(config: Config) -> dict[str, tuple[Any, ...]]:
    """The same by the table; a tied head's weight is the embedding's."""
    found: dict[str, tuple[Any, ...]] = {}
    for module in config.modules.modules:
        if module.shape and not (config.tie_word_embeddings and module.role == "output embedding"):
            found[f"{module.path}.weight"] = module.shape
        if module.bias:
            found[f"{module.path}.bias"] = module.shape[:1]
    return found


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=list(CONFIGS))
def test_a_program_makes_what_its_table_says(changes: dict[str, Any]) -> None:
    """Asks the program."""
    config = parse_config(sizes(**changes))
    assert parameters(config) == of_table(config)


# ---- default targets -----------------------------------------------------------------------


def test_release_of_the_default_targets() -> None:
    """A new PEFT is compared below; its release belongs beside the data."""
    assert peft.__version__.rpartition(".")[0] == PEFT.rpartition(".")[0]


@pytest.mark.parametrize("name", list(TARGET_MODULES))
def test_default_targets_are_those_of_peft(name: str) -> None:
    """Witness: PEFT."""
    if name == "adaption_prompt":
        expected: Any = {family: [config.target_modules] for family, config in TRANSFORMERS_MODEL_CONFIG.items()}
    else:
        word = name.upper().replace("_", "")
        expected = getattr(constants, f"TRANSFORMERS_MODELS_TO_{word}_TARGET_MODULES_MAPPING")
    assert TARGET_MODULES[name] == expected


def test_adapted_experts_are_those_of_peft() -> None:
    """Witness: PEFT, which maps model types to those of the names that experts' layers had before."""
    conversion = transformers_weight_conversion
    known = conversion._MODEL_TO_CONVERSION_PATTERN.items()
    assert {kind: like for kind, like in known if like in conversion._MOE_TARGET_MODULE_MAPPING} == ADAPTED_EXPERTS
    assert conversion._MOE_TARGET_MODULE_MAPPING == EXPERT_LAYERS
    for like, fused in conversion._MOE_FUSED_TARGETS.items():
        for parameter, layers in fused.items():
            assert [layer for layer, name in EXPERT_LAYERS[like].items() if name == parameter] == layers


@pytest.mark.share(40)
@pytest.mark.parametrize("model_type", sorted(CLASSES))
def test_transposed_experts_are_those_of_transformers(model_type: str) -> None:
    """Witness: transformers' modules, of which PEFT asks it."""
    config = transformers.AutoConfig.for_model(model_type, **CLASSES[model_type]).get_text_config()
    with torch.device("meta"):
        modules = build_model("causal-lm", config, torch.bfloat16).modules()
    found = {
        getattr(module, "is_transposed", False)
        for module in modules
        if any(p.dim() == 3 for p in module.parameters(recurse=False))
    }
    assert (True in found) == (model_type in TRANSPOSED_EXPERTS)


def test_feedforward_modules_are_those_of_peft() -> None:
    """Witness: PEFT."""
    assert FEEDFORWARD_MODULES == constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING


def test_every_method_with_targets_has_defaults() -> None:
    """But LARS, which is not PEFT's, and trainable tokens, whose default is the input embedding."""
    asked = {name for name, kind in METHODS.items() if "target_modules" in kind.model_fields and kind.peft}
    assert asked - {"trainable_tokens"} == TARGET_MODULES.keys()


# ---- kinds of targets ----------------------------------------------------------------------

EXTRA: dict[str, dict[str, Any]] = {
    "adalora": {"total_step": 10},
    "c3a": {"block_size": 4},
    "miss": {"r": 4},
    "road": {"group_size": 4},
    "shira": {"r": 2},
}


@pytest.mark.parametrize("name", [name for name in TARGET_MODULES if name not in ("adaption_prompt", "ln_tuning")])
@pytest.mark.parametrize("targets", [r".*self_attn.*", r".*(q_proj|input_layernorm)"])
def test_what_peft_does_not_adapt_is_refused(name: str, targets: str, tmp_path: Path) -> None:
    """Witness: PEFT. An expression that takes in attention as a whole, or a norm, is refused by both."""
    options = {**EXTRA.get(name, {}), "target_modules": targets}
    plan = {"model": write_config(tmp_path, {}), "method": {"name": name, **options}}
    with pytest.raises(InputError, match=r"only; take model\.layers\.0\.\w+ out of target_modules"):
        resolve(parse_plan(plan))
    if name == "ia3":
        options["feedforward_modules"] = []
    with pytest.raises((ValueError, TypeError), match=r"not supported|nsupported"):
        peft.get_peft_model(
            real(sizes(model_type="llama"), "cpu"), peft.PEFT_TYPE_TO_CONFIG_MAPPING[name.upper()](**options)
        )


@pytest.mark.parametrize(
    ("model", "whole", "quantised"),
    [("smollm2-135m", False, False), ("llama-3.1-8b", False, False), ("llama-3.1-8b", True, True)],
)
def test_an_output_embedding_is_quantised_by_formats_that_say_so(model: str, whole: bool, quantised: bool) -> None:
    """``get_keys_to_not_convert``: the layers' products are, a tied matrix never is."""
    source: Any = load(model).config.source
    program = source.families[0].at(source.raw, {})
    rows = {row.path: row for row in program.numbered_modules()}
    base: Any = SimpleNamespace(quantises_head=whole, kept=())
    found = [
        RecordedCausalLM._quantised(base, program, rows[path]) for path in ("lm_head", "model.layers.0.mlp.up_proj")
    ]
    assert found == [quantised, True]


def test_whose_tokenizer_tells_texts_apart() -> None:
    """Witness: transformers' registry of tokenizers, for all encoders of text that may have types of tokens."""
    families = {*TELL_TEXTS_APART, "albert", "big_bird", "camembert", "mpnet", "roberta", "roformer", "xlm-roberta"}
    classes = {one: getattr(transformers, str(TOKENIZER_MAPPING_NAMES[one])) for one in families}
    assert {one for one, own in classes.items() if "token_type_ids" in own.model_input_names} == {*TELL_TEXTS_APART}
