"""A small config of every class that transformers' ``AutoModelFor...`` of a head builds."""

from __future__ import annotations

from typing import Any

import transformers

from estimator.programs.heads import HEADS
from tests.cases.causal_classes import CLASSES
from tests.cases.head_classes import KEYS, SIZES


def classes(head: str) -> list[str]:
    """The model types that a head's registry has."""
    return sorted(getattr(transformers, HEADS[head].auto_class)._model_mapping._config_mapping.keys() & _types(head))


def _types(head: str) -> set[str]:
    return set(getattr(transformers, HEADS[head].auto_class)._model_mapping._model_mapping)


def small_config(head: str, model_type: str) -> dict[str, Any]:
    """The config.json of a small model."""
    mapping = getattr(transformers, HEADS[head].auto_class)._model_mapping
    name = mapping._model_mapping[model_type]
    raw = {"model_type": model_type, "architectures": [name if isinstance(name, str) else name[0]]}
    if model_type in CLASSES and head != "image-text":
        own = {**CLASSES[model_type], **raw, "num_labels": SIZES["num_labels"], "pad_token_id": 0}
    else:
        own = {**_shrunk(transformers.CONFIG_MAPPING[model_type](), iter(range(5, 100))), **raw}
    if "classification" not in head:
        own.pop("num_labels", None)
    return _merged(own, KEYS.get(model_type, {}))


def _shrunk(config: Any, ids: Any) -> dict[str, Any]:
    """The keys of a config's class that are sizes, with a small model's; ids of tokens are below its vocabulary."""
    found: dict[str, Any] = {}
    for key, value in config.to_dict().items():
        if key in SIZES and (value is None or type(value) is int) and value != 0:
            found[key] = SIZES[key]
        elif key.endswith(("token_id", "token_index")) and type(value) is int and key not in SIZES:
            found[key] = next(ids)
    for key in getattr(config, "sub_configs", {}):
        if (part := getattr(config, key, None)) is not None:
            found[key] = {"model_type": part.model_type, **_shrunk(part, ids)}
    return found


def _merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Keys of ``b`` in place of those of ``a``; a key of ``None`` is left out."""
    out = dict(a)
    for key, value in b.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = _merged(out[key], value)
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = value
    return out
