"""Quantises the linear layers of the real model from their random weights, with the formats' own libraries."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
import transformers

from ...bases.formats import BITSANDBYTES, FOUR_BIT, TORCHAO
from ...plans.plan import Plan
from ...plans.resolve import Resolved
from .libraries import require
from .packed import AwqLinear, GptqLinear
from .sharding import local

PACKED: dict[str, tuple[type[torch.nn.Module], str]] = {
    "gptq": (GptqLinear, "peft.tuners.lora.gptq.GPTQLoraLinear"),
    "awq": (AwqLinear, "peft.tuners.lora.awq.AwqLoraLinear"),
}


def quantise(model: Any, plan: Plan) -> None:
    """Quantise a model as ``from_pretrained`` does with the plan's quantisation config. Raises ``InputError``."""
    require("bitsandbytes" if plan.dtype in BITSANDBYTES else "torchao" if plan.dtype in TORCHAO else "torch")
    from transformers.quantizers.base import HfQuantizer, _assign_is_quantized

    skipped = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    _assign_is_quantized(model)
    if plan.dtype in BITSANDBYTES:
        _bitsandbytes(model, plan, skipped)
    elif plan.dtype in TORCHAO:
        _torchao(model, plan, skipped)
    else:
        _packed(model, plan, skipped)
    if plan.kbit_preparation:
        import peft

        peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=plan.checkpointing != "none")


def _bitsandbytes(model: Any, plan: Plan, skipped: list[str]) -> None:
    from bitsandbytes.nn import Int8Params, Params4bit
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    four_bit = plan.dtype in FOUR_BIT
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=four_bit,
        load_in_8bit=not four_bit,
        bnb_4bit_quant_type=plan.dtype if four_bit else "nf4",
        bnb_4bit_compute_dtype=getattr(torch, plan.compute_dtype),
        bnb_4bit_use_double_quant=plan.double_quant,
        bnb_4bit_quant_storage=getattr(torch, plan.quant_storage),
    )
    dense = {name: m for name, m in model.named_modules() if type(m) is torch.nn.Linear}
    replace_with_bnb_linear(model, skipped, config)
    for name, module in model.named_modules():
        if name not in dense or module is dense[name]:
            continue
        made = {key: value for key, value in module.weight.__dict__.items() if key not in ("CB", "SCB")}
        kind = Params4bit if four_bit else Int8Params
        module.weight = kind(dense[name].weight.data, requires_grad=False, **made).to("cpu")
        module.bias = dense[name].bias
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = four_bit, not four_bit


def _packed(model: Any, plan: Plan, skipped: list[str]) -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module

    kind = PACKED[plan.dtype][0]
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and should_convert_module(name, skipped):
            model.set_submodule(name, kind(module, getattr(torch, plan.rest_dtype), plan.weight_group_size))
    model.quantization_method = plan.dtype


def prepare_adapter(config: Any, resolved: Resolved) -> None:
    """Tell PEFT its adapter layers for GPTQ and AWQ, which it does not recognise without their libraries."""
    if resolved.plan.dtype in PACKED:
        module, adapter = PACKED[resolved.plan.dtype]
        library, _, name = adapter.rpartition(".")
        config._register_custom_module({module: getattr(import_module(library), name)})
        if config.target_modules == "all-linear":
            config.target_modules = set(resolved.spec.config.modules.all_linear)


def _torchao(model: Any, plan: Plan, skipped: list[str]) -> None:
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    from transformers.quantizers.quantizers_utils import should_convert_module

    config = Float8WeightOnlyConfig() if plan.dtype == "float8" else Int8WeightOnlyConfig()

    def chosen(module: Any, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and should_convert_module(name, skipped)

    quantize_(model, config, chosen)
    model.quantization_method = "torchao"


def resident_tensors(model: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """All tensors of a model: its parameters with packed weights, and its buffers with their constants."""
    weights = {name: buffer for name, buffer in model.named_buffers() if name.endswith(".qweight")}
    parameters = list(weights.values())
    buffers = [buffer for name, buffer in model.named_buffers() if name not in weights]
    for parameter in model.parameters():
        packed, constants = _unpacked(local(parameter))
        parameters.append(packed)
        buffers += constants
    for module in model.modules():
        buffers += [t for t in _attributes(getattr(module, "state", None)) if t.data_ptr() != module.weight.data_ptr()]
    return parameters, buffers


def _unpacked(parameter: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A parameter's own data, and the constants that dequantise it."""
    if hasattr(parameter, "__tensor_flatten__"):  # torchao's wrapper
        names, _ = parameter.__tensor_flatten__()
        tensors = [getattr(parameter, name) for name in names]
        return tensors[0], tensors[1:]
    return parameter, list(_attributes(getattr(parameter, "quant_state", None)))


def _attributes(holder: Any) -> Iterator[torch.Tensor]:
    """The tensors of a quantisation state, and of a state nested in it."""
    for value in vars(holder).values() if holder is not None else ():
        if isinstance(value, torch.Tensor):
            yield value
        elif hasattr(value, "absmax"):
            yield from _attributes(value)
