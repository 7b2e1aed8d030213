"""The class of transformers that a config is built with."""

from __future__ import annotations

import inspect
from typing import Any

from ..programs.heads import HEADS
from ..programs.releases import dtype_keyword


def causal_class(config: Any) -> Any:
    """The class that gives tokens' logits for a config, as transformers' registries say it; ``None`` where none does.

    The registry of causal models knows some by the config of a larger model alone, of which theirs is the
    ``text_config``. Where the larger model alone has a head, it is that one's class.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    causal = AutoModelForCausalLM._model_mapping
    larger = model_type_to_module_name(config.model_type)
    if larger != config.model_type and larger in CONFIG_MAPPING:
        found = causal.get(CONFIG_MAPPING[larger], None)
        if found is not None and found.config_class is type(config):
            return found
        if type(config) not in causal:
            from transformers import AutoModelForImageTextToText  # which release 4.45 does not have

            return AutoModelForImageTextToText._model_mapping.get(CONFIG_MAPPING[larger], None)
    return causal.get(type(config), None)


def model_class(head: str, config: Any) -> Any:
    """The class of transformers that a config with a head is built with; ``None`` where there is none."""
    if head == "causal-lm":
        return causal_class(config)
    import transformers

    found = getattr(transformers, HEADS[head].auto_class)._model_mapping.get(type(config), None)
    if not isinstance(found, (list, tuple)):
        return found
    return next((one for one in found if one.__name__ in (config.architectures or ())), found[0])


def takes_cache(head: str, model: Any) -> bool:
    """Whether a model with a head makes a cache of keys and values unless it is told not to (``use_cache``)."""
    return HEADS[head].decodes or "use_cache" in inspect.signature(model.forward).parameters


def build_model(head: str, config: Any, dtype: Any, tied: bool | None = None, **options: Any) -> Any:
    """A model of ``model_class``; of a causal one without the parts beside its decoder, such as a vision tower.

    ``tied`` is the config.json's ``tie_word_embeddings``, which such a larger model reads beside its ``text_config``.
    """
    options[dtype_keyword()] = dtype
    found = model_class(head, config)
    if head != "causal-lm" or found.config_class is type(config) or "text_config" not in found.config_class.sub_configs:
        return found._from_config(config, **options)
    own = {} if tied is None else {"tie_word_embeddings": tied}
    model = found._from_config(found.config_class(text_config=config.to_dict(), **own), **options)
    decoder = model.get_decoder()
    for name, part in list(model.base_model.named_children()):
        if all(module is not decoder for module in part.modules()):
            delattr(model.base_model, name)
    return model
