"""The real model of a plan, for the two witnesses that run PyTorch: ``trace`` and ``measure``.

The Hugging Face module is built from the sizes that the estimate uses, with random weights, and wrapped by PEFT if the
plan's method is PEFT's. Needs the ``trace`` extra.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ...errors import InputError
from ...methods.patterns import spelt_out
from ...plans.refusals import check_question
from ...plans.resolve import Resolved
from ...programs.releases import NEWEST, installed_release, with_its_keys
from ...recorder import model_classes
from ...recorder.media import is_feature_encoder
from .libraries import torch, transformers


def build_config(resolved: Resolved) -> Any:
    """The transformers config of a plan's model."""
    raw = {k: v for k, v in resolved.spec.raw.items() if k not in ("torch_dtype", "dtype", "architectures")}
    config = transformers.AutoConfig.for_model(**with_its_keys(raw))
    config._attn_implementation = _implementation(resolved.plan.attention)
    return config


def _implementation(attention: str) -> str:
    """The name of an attention implementation in transformers."""
    return "flash_attention_2" if attention == "flash" else attention


def build_model(resolved: Resolved, device: str = "cpu", attention: str | None = None) -> Any:
    """The plan's model in train mode, with its adapters and memory savings."""
    from . import savings

    plan = resolved.plan
    check_question("building the real model", plan)
    if plan.transformers not in (NEWEST, installed_release()):
        raise InputError(
            f"transformers: {plan.transformers} does not go with building the real model, since "
            f"{transformers.__version__} is installed; run it where transformers=={plan.transformers}.* is"
        )
    torch.manual_seed(0)
    config = build_config(resolved)
    options = {} if plan.experts_implementation is None else {"experts_implementation": plan.experts_implementation}
    with torch.device(device):
        model = model_classes.build_model(
            resolved.spec.head,
            config,
            dtype=getattr(torch, plan.dtype if plan.base is None else plan.rest_dtype),
            attn_implementation=_implementation(attention or plan.attention),
            tied=resolved.spec.raw.get("tie_word_embeddings"),
            **options,
        )
    sharding = resolved.step.sharding
    if sharding is not None and (sharding.tp > 1 or getattr(sharding, "by_plan", False)):
        from .tensor_parallel import split

        model = split(model, sharding)
    if plan.base is not None:
        from .quantised import prepare_adapter, quantise

        quantise(model, plan)
    method = plan.method.inner
    if method.peft or method.peft_type:
        import peft

        adapter_dtype = getattr(method, "adapter_dtype", None)
        config_class = peft.PEFT_TYPE_TO_CONFIG_MAPPING[method.peft_type or method.name.upper()]
        try:
            paths = [path for path, _ in model.named_modules()]
            peft_config = config_class(**spelt_out(method.peft_options(), paths))
            if plan.base is not None:
                prepare_adapter(peft_config, resolved)
            values = _permutations_without_values() if device == "meta" else nullcontext()
            with torch.device(device), values, warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of keys that PEFT itself has put into rank_pattern
                model = peft.get_peft_model(
                    model, peft_config, autocast_adapter_dtype=adapter_dtype in ("float32", None)
                )
        except (ImportError, TypeError, ValueError) as error:
            raise InputError(f"PEFT refuses method {method.name}: {str(error).splitlines()[0]}") from None
        if device == "meta" and adapter_dtype:
            _cast_adapters(model, getattr(torch, adapter_dtype))
    elif method.name == "lars":
        from .lars import apply

        model = apply(model, resolved)
    elif plan.task == "train":
        for path, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and resolved.method.updates(path))
    if method.name == "lora-fa":  # as peft.optimizers.create_lorafa_optimizer does
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "lora_A" not in name)
    for path, module in model.named_modules():
        if path.endswith(resolved.method.untrained) and is_feature_encoder(module):
            module._freeze_parameters()  # its input needs no gradient either
    model.train()
    savings.apply(model, resolved)
    return model


@contextmanager
def _permutations_without_values() -> Iterator[None]:
    """On the meta device: replace BOFT's permutation matrices, which are written element by element, by zeros."""
    from peft.tuners.boft.layer import BOFTLayer

    original = BOFTLayer.perm2mat
    BOFTLayer.perm2mat = lambda layer, indices: torch.zeros((len(indices), len(indices)))
    yield
    BOFTLayer.perm2mat = original


def _cast_adapters(model: Any, dtype: torch.dtype) -> None:
    """Cast adapters on the meta device to their dtype, since PEFT leaves them in float32 there."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            for name in layer.adapter_layer_names:
                getattr(layer, name).to(dtype)
            if hasattr(layer, "ranknum"):  # of AdaLoRA; on other devices the cast makes a new parameter that is trained
                layer.ranknum.to(dtype).requires_grad_(layer.get_base_layer().weight.dtype != torch.float32)


def build_optimizer(resolved: Resolved, model: Any) -> Any:
    """The plan's optimizer over the trainable parameters."""
    from .optimizers import make_optimizer

    made = make_optimizer(resolved.plan.optimizer, model.named_parameters(), resolved.step.optimizer_rank)
    if resolved.step.wide_states:
        _keep_wide(model)
    return made


def _keep_wide(model: Any) -> None:
    """States of embeddings in 32 bits, as ``Trainer.create_optimizer`` asks for with an 8-bit optimizer."""
    import bitsandbytes

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


def storage_bytes(tensors: Any) -> int:
    """Bytes of the storages of tensors, each counted once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
