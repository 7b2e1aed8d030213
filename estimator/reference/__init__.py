"""The real model of a plan, for the two witnesses that run PyTorch: ``trace`` and ``measure``.

Builds the Hugging Face module from the numbers the estimate used, with random weights, wrapped by
PEFT where the plan says so. Needs the ``trace`` extra.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..estimate import Resolved

try:
    import torch as torch
    import transformers
except ImportError:
    raise InputError(
        "this command runs PyTorch, which is not installed; install it with: pip install 'llm-memory-estimator[trace]'"
    ) from None


def build_config(resolved: Resolved) -> Any:
    """The transformers config of a plan's model."""
    raw = {k: v for k, v in resolved.spec.raw.items() if k not in ("torch_dtype", "dtype", "architectures")}
    config = transformers.AutoConfig.for_model(**raw)
    config._attn_implementation = resolved.plan.attention
    return config


def build_model(resolved: Resolved, device: str = "cpu", attention: str | None = None) -> Any:
    """The plan's model in train mode, with its adapters and checkpointing."""
    plan = resolved.plan
    torch.manual_seed(0)
    config = build_config(resolved)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, plan.dtype), attn_implementation=attention or plan.attention
        )
    if plan.method.peft or plan.method.peft_type:
        import peft

        adapter_dtype = getattr(plan.method, "adapter_dtype", "float32")
        config_class = peft.PEFT_TYPE_TO_CONFIG_MAPPING[plan.method.peft_type or plan.method.name.upper()]
        with torch.device(device):
            model = peft.get_peft_model(
                model,
                config_class(**plan.method.peft_options()),
                autocast_adapter_dtype=adapter_dtype == "float32",
            )
        if device == "meta":
            _cast_adapters(model, getattr(torch, adapter_dtype))
    if plan.method.name == "lora-fa":  # as peft.optimizers.create_lorafa_optimizer does
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "lora_A" not in name)
    model.train()
    if plan.checkpointing == "layer":
        model.gradient_checkpointing_enable()
    return model


def _cast_adapters(model: Any, dtype: torch.dtype) -> None:
    """Give adapters their dtype: PEFT leaves those on the meta device as they were made, in float32."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            for name in layer.adapter_layer_names:
                getattr(layer, name).to(dtype)
            if hasattr(layer, "ranknum"):  # AdaLoRA's: off the meta device the cast makes it a new, trained parameter
                layer.ranknum.to(dtype).requires_grad_(layer.get_base_layer().weight.dtype != torch.float32)


def build_optimizer(resolved: Resolved, model: Any) -> torch.optim.Optimizer:
    """The plan's optimizer over the trainable parameters."""
    trained = [p for p in model.parameters() if p.requires_grad]
    name = resolved.plan.optimizer
    if name == "adamw":
        return torch.optim.AdamW(trained, lr=1e-5)
    return torch.optim.SGD(trained, lr=1e-5, momentum=0.9 if name == "sgd-momentum" else 0.0)


def storage_bytes(tensors: Any) -> int:
    """Bytes of the distinct storages behind tensors."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
