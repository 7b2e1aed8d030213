"""What a checkpoint's ``quantization_config`` means: keys of a plan that say how its linear layers are stored.

Source: ``transformers/utils/quantization_config.py``. A format without rules is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ..bases.finegrained_fp8 import BLOCK
from ..bases.formats import FP8_BLOCKS
from ..engines.assumptions import Assumption
from ..engines.devices import DEFAULT_GPU, find
from ..engines.registry import meant
from ..errors import InputError, shown
from ..io.fields import torch_dtype
from .models import ModelSpec, load
from .repacked import packing_of

FLOATS = ("float32", "bfloat16", "float16")
"""Dtypes of weights that are not quantised."""
OUTPUT = ("lm_head", "embed_out", "output")
"""Names of the output embedding, which transformers leaves as it is anyway."""
DEQUANTISED = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config", "compressed-tensors": "CompressedTensorsConfig"}
"""Formats that transformers may dequantise while it loads, and the class that asks for it."""
_SKIPPED = ("modules_to_not_convert", "ignored_layers")
"""Keys of the names of modules that ``FineGrainedFP8Config`` leaves as they are; the second is MiniMax's."""
_KEPT_FROM = (8, 9)
"""The compute capability from which on transformers keeps fp8 blocks as they are (``quantizer_finegrained_fp8.py``)."""
_TORCHAO = {
    "int8_weight_only": "int8-weight-only",
    "Int8WeightOnlyConfig": "int8-weight-only",
    "float8_weight_only": "float8",
    "Float8WeightOnlyConfig": "float8",
}


def with_checkpoint(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A plan's keys with those that its model's ``quantization_config`` says. Raises ``InputError``.

    Of dtypes the plan's own count, but for that of weights which are quantised already.
    """
    model = data.get("model")
    if not isinstance(model, str) or not meant(data).reads_checkpoints or data.get("implementation") == "litgpt":
        return data
    try:
        spec = load(model)
    except InputError:  # is raised where the model is needed
        return data
    if spec.quantization is None:
        return data
    method, given = _method(spec.quantization, model), data.get("dtype")
    if method in DEQUANTISED and given in FLOATS:
        return data
    if given is None and _is_dequantised(method, data):
        return {"dtype": _rest(spec.raw).get("rest_dtype", "bfloat16"), **data}
    said = {**_keys(method, _settings(spec), model), **_rest(spec.raw)}
    for key in ("dtype",) if spec.assumed else ("dtype", "double_quant", "weight_group_size"):
        if key in data and key in said and data[key] != said[key]:
            raise InputError(
                f"{key}: {shown(data[key])} does not go with {model}, whose quantization_config says "
                f"{shown(said[key])}; leave {key} out"
            )
    return {**said, **data}


def checkpoint_assumptions(model: str, values: Callable[[str], Any]) -> Iterator[Assumption]:
    """What a model's name says of its quantised weights, where its config.json was not read.

    ``values`` gives the plan's value of a key; one that the plan replaces is no assumption.
    """
    try:
        spec = load(model)
    except InputError:  # the user's own module, or litgpt's name
        return
    if spec.quantization is None:
        return
    method = _method(spec.quantization, model)
    if method in _WHY and values("dtype") in FLOATS:
        yield Assumption("dtype", values("dtype"), _WHY[method])
    if method in _KEPT_BY and values("dtype") in FP8_BLOCKS:
        yield Assumption("dtype", values("dtype"), _KEPT_BY[method])
    if packing_of(model) is None or not spec.assumed:
        return
    keys = _keys(method, spec.quantization, model)
    for key, value in {**keys, **_rest(spec.raw)}.items():
        if values(key) == value:
            yield Assumption(key, value, f"read off the model's name alone. {spec.assumed}")


_WHY = {
    "fp8": (
        "the checkpoint's fp8 weights are dequantised: transformers does so on a CPU and below compute capability 8.9, "
        "and elsewhere with FineGrainedFP8Config(dequantize=True), which training is taken to ask for"
    ),
    "compressed-tensors": (
        "the checkpoint's compressed weights are decompressed: transformers does so in the first forward pass, and "
        "while it loads with CompressedTensorsConfig(dequantize=True), which training is taken to ask for"
    ),
}
_KEPT_BY = {
    "fp8": (
        "the checkpoint's fp8 weights are kept as they are: transformers does so in inference on a GPU of compute "
        "capability 8.9 and above"
    )
}


def kept_modules(spec: ModelSpec) -> tuple[str, ...] | None:
    """The modules that a checkpoint in fp8 leaves as they are, by name; ``None`` where it names none."""
    names = [(spec.quantization or {}).get(key) for key in _SKIPPED]
    found = next((one for one in names if one is not None), None)
    return None if found is None else tuple(found)


def _settings(spec: ModelSpec) -> Any:
    """A ``quantization_config``, with what DeepSeek V4 says beside it (``DeepseekV4Config.__post_init__``)."""
    beside = {"expert_dtype": spec.raw["expert_dtype"]} if spec.raw.get("expert_dtype") is not None else {}
    return {**beside, **spec.quantization} if isinstance(spec.quantization, Mapping) else spec.quantization


def _is_dequantised(method: str, data: Mapping[str, Any]) -> bool:
    """Whether transformers dequantises a checkpoint, or training is taken to ask for it."""
    if method not in _WHY:
        return False
    if method == "compressed-tensors" or data.get("task", "train") == "train":
        return True
    engine = meant(data)
    if engine.runs_steps and not engine.has_own_memory:
        return True
    with suppress(InputError):  # is raised where the device is needed
        return (find(str(data.get("device") or DEFAULT_GPU)).capability or (0, 0)) < _KEPT_FROM
    return False


def _rest(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The dtype of what is not quantised, which transformers takes from the config."""
    dtype = torch_dtype(raw.get("dtype", raw.get("torch_dtype")))
    return {"rest_dtype": dtype} if dtype in FLOATS else {}


def _method(quantization: Any, where: str) -> str:
    if not isinstance(quantization, Mapping):
        raise InputError(f"{where}: quantization_config is {shown(quantization)}; it must be an object")
    method = quantization.get("quant_method")
    if method is None and any(quantization.get(key) for key in ("load_in_4bit", "load_in_8bit")):
        return "bitsandbytes"
    if not isinstance(method, str):
        raise InputError(f"{where}: quantization_config has no quant_method, so its format is not known; name it there")
    return method


def _keys(method: str, quantization: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys of a plan. Raises ``InputError`` for a format or a setting without a rule."""
    for key in ("llm_int8_skip_modules", "modules_to_not_convert"):
        kept = quantization.get(key) or ()
        others = [name for name in kept if name not in OUTPUT] if isinstance(kept, (list, tuple)) else [kept]
        if others and method not in DEQUANTISED:
            raise InputError(
                f"{where}: quantization_config leaves {shown(others[0])} as it is ({key}), which has no rule; take a "
                "checkpoint of which all linear layers but the output are quantised"
            )
    reader = _READERS.get(method)
    if reader is None:
        asks = f"{DEQUANTISED[method]}(dequantize=True)" if method in DEQUANTISED else ""
        way = f"for {asks} set dtype: bfloat16" if asks else "ask about the model that it was made from, with a dtype"
        raise InputError(f"{where}: quantization_config of format {_named(method, quantization)} has no rule; {way}")
    return reader(quantization, where)


def _named(method: str, quantization: Mapping[str, Any]) -> str:
    kind = quantization.get("format")
    return f"{method} ({kind})" if isinstance(kind, str) else method


def _bitsandbytes(quantization: Mapping[str, Any], where: str) -> dict[str, Any]:
    if quantization.get("load_in_8bit"):
        _only(quantization, where, "bitsandbytes", {"llm_int8_has_fp16_weight": (False, None)})
        return {"dtype": "int8"}
    _only(quantization, where, "bitsandbytes", {"load_in_4bit": (True,), "bnb_4bit_quant_type": ("nf4", "fp4", None)})
    return {
        "dtype": quantization.get("bnb_4bit_quant_type") or "fp4",
        "compute_dtype": torch_dtype(quantization.get("bnb_4bit_compute_dtype") or "float32"),
        "double_quant": bool(quantization.get("bnb_4bit_use_double_quant")),
    }


def _gptq(quantization: Mapping[str, Any], where: str) -> dict[str, Any]:
    whole: dict[str, tuple[Any, ...]] = {"lm_head": (False, None), "modules_in_block_to_quantize": (None,)}
    _only(quantization, where, "gptq", {"bits": (4,), "dynamic": (None, {}), **whole})
    return {"dtype": "gptq", **_group(quantization)}


def _awq(quantization: Mapping[str, Any], where: str) -> dict[str, Any]:
    _only(quantization, where, "awq", {"bits": (4,), "version": ("gemm", "GEMM", None), "zero_point": (True, None)})
    return {"dtype": "awq", **_group(quantization)}


def _fp8(quantization: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = {"weight_block_size": [BLOCK, BLOCK], "scale_fmt": "float", "expert_dtype": "fp8", **quantization}
    fp4 = given["expert_dtype"] == "fp4"
    block: dict[str, tuple[Any, ...]] = {"weight_block_size": ([BLOCK, BLOCK],), "expert_dtype": ("fp8", "fp4")}
    scales = ("ue8m0",) if fp4 else ("float", "ue8m0")
    _only(given, where, "fp8", {**block, "scale_fmt": scales, "activation_scheme": ("dynamic", None)})
    _only(given, where, "fp8", {"modules_to_convert": (None,)})
    for key in _SKIPPED:
        names = given.get(key)
        if names is not None and not (isinstance(names, list) and all(_is_path(name) for name in names)):
            raise InputError(f"{where}: {key} is {shown(names)}; it must be a list of modules' names")
    if fp4:
        return {"dtype": "fp8-blocks-fp4-experts"}
    return {"dtype": "fp8-blocks-ue8m0" if given["scale_fmt"] == "ue8m0" else "fp8-blocks"}


def _is_path(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w.]+", name) is not None


def _group(quantization: Mapping[str, Any]) -> dict[str, Any]:
    return {} if quantization.get("group_size") is None else {"weight_group_size": quantization["group_size"]}


def _torchao(quantization: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = quantization.get("quant_type")
    settings: Any = quantization.get("quant_type_kwargs")
    if isinstance(kind, Mapping):  # {"default": {"_type": ..., "_data": ...}}
        one = kind.get("default")
        one = one if isinstance(one, Mapping) else {}
        kind, settings = one.get("_type"), one.get("_data")
    dtype = _TORCHAO.get(kind) if isinstance(kind, str) else None
    grouped = isinstance(settings, Mapping) and settings.get("group_size")
    if dtype is None or grouped:
        name = f"{kind} of groups of {shown(grouped)}" if grouped else shown(kind)
        raise InputError(
            f"{where}: quantization_config of torchao's {name} has no rule; known are Int8WeightOnlyConfig and "
            "Float8WeightOnlyConfig"
        )
    return {"dtype": dtype}


def _only(quantization: Mapping[str, Any], where: str, method: str, allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise ``InputError`` for a setting that has no rule."""
    for key, values in allowed.items():
        value = quantization.get(key)
        if not any(type(value) is type(x) and value == x for x in values):
            known = " or ".join(shown(x) for x in values if x is not None)
            raise InputError(
                f"{where}: quantization_config of {method} with {key}: {shown(value)} has no rule"
                + (f"; known is {known}" if known else "; take a checkpoint without it")
            )


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {
    "bitsandbytes": _bitsandbytes,
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "torchao": _torchao,
}
