"""The method block of a plan: PEFT's own option names, read from a plan or an adapter_config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest, shown
from ..io.fields import checked
from ..io.files import STANDARD_INPUT, existing, read_json
from .options import HEADS, MethodOptions
from .other import OtherMethod, installed_methods

_CLASSES = {
    "full": "full.FullMethod",
    "lora": "lora.LoraMethod",
    "lora-fa": "lora_fa.LoraFaMethod",
    "adalora": "adalora.AdaLoraMethod",
    "vera": "vera.VeraMethod",
    "trainable_tokens": "trainable_tokens.TrainableTokensMethod",
    "delora": "delora.DeloraMethod",
    "hra": "hra.HraMethod",
    "road": "road.RoadMethod",
    "ia3": "ia3.Ia3Method",
    "lars": "lars.LarsMethod",
    "loha": "loha.LohaMethod",
    "lokr": "lokr.LokrMethod",
    "oft": "oft.OftMethod",
    "boft": "boft.BoftMethod",
    "miss": "miss.MissMethod",
    "fourierft": "fourierft.FourierFTMethod",
    "c3a": "c3a.C3AMethod",
    "shira": "shira.ShiraMethod",
    "randlora": "randlora.RandLoraMethod",
    "hira": "hira.HiraMethod",
    "mezo": "mezo.MezoMethod",
    "forward-ad": "forward_ad.ForwardAdMethod",
    "prompt_tuning": "prompt_tuning.PromptTuningMethod",
    "p_tuning": "p_tuning.PTuningMethod",
    "prefix_tuning": "prefix_tuning.PrefixTuningMethod",
    "adaption_prompt": "adaption_prompt.AdaptionPromptMethod",
    "ln_tuning": "ln_tuning.LnTuningMethod",
    "beft": "beft.BeftMethod",
    "bitfit": "bitfit.BitfitMethod",
    "freeze": "freeze.FreezeMethod",
}
"""Module and class of each method's options, by the method's name: PEFT's peft_type in lower case, or our own."""


class _Methods(Mapping[str, type[MethodOptions]]):
    """Options classes by method name, each imported when it is first asked for."""

    def __getitem__(self, name: str) -> type[MethodOptions]:
        module, _, options = _CLASSES[name].partition(".")
        found: type[MethodOptions] = getattr(import_module(f".{module}", __package__), options)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)

    def __contains__(self, name: object) -> bool:
        return name in _CLASSES


METHODS: Mapping[str, type[MethodOptions]] = _Methods()


HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "fan_in_fan_out",
        "inference_mode",
        "megatron_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "revision",
    }
)
"""Keys of any adapter_config.json that do not change memory."""


def read_adapter_config(path: Path, or_stdin: bool = False) -> dict[str, Any]:
    """A PEFT adapter_config.json as a method block. With ``or_stdin`` the path ``-`` means standard input.

    Raises ``InputError``.
    """
    if or_stdin and str(path) == STANDARD_INPUT:
        found: Path | None = path
    else:
        found = existing(path)
        if found is not None and found.is_dir():
            found = existing(found / "adapter_config.json")
    if found is None:
        hint = nearest(str(path).lower(), METHODS)
        raise InputError(
            f"method '{path}' is neither a known method ({', '.join(METHODS)}) nor an adapter_config.json{hint}"
        )
    raw = read_json(found, "the adapter_config.json that PEFT wrote", or_stdin)
    kind = raw.get("peft_type")
    if not isinstance(kind, str):
        raise InputError(f"'{path}' has no peft_type; give the adapter_config.json that PEFT wrote")
    name = kind.lower()
    if name in installed_methods() and name not in METHODS:
        return {"name": name, **{k: v for k, v in raw.items() if k not in HARMLESS and v is not None}}
    if name not in METHODS or not METHODS[name].peft:
        known = ", ".join(m.upper() for m in METHODS if METHODS[m].peft)
        raise InputError(f"'{path}': peft_type {shown(kind)} has no rules in this version; known are {known}")
    fields = METHODS[name].model_fields.keys() - {"name"}
    harmless = HARMLESS | METHODS[name].harmless
    block: dict[str, Any] = {"name": name}
    for key, value in raw.items():
        if key in fields:
            if value is not None:
                block[key] = value
        elif key == "task_type" and not isinstance(value, (str, type(None))):
            raise InputError(f"'{path}' sets task_type to {shown(value)}; it must be a text")
        elif key == "task_type" and value not in HEADS:
            continue
        elif key not in harmless and (value is True or value not in (None, False, [], {}, "", "default", 1)):
            raise InputError(f"'{path}' sets {key}, for which this version has no rule")
    return block


RECIPES: Mapping[str, str] = {"qlora": "lora"}
"""Names that stand for a method and for other keys of the plan (``plans/presets.py``), with that method."""


def _named(name: Any) -> Any:
    """The name of a known method or recipe in lower case; anything else unchanged."""
    return name.lower() if isinstance(name, str) and name.lower() in (*METHODS, *RECIPES) else name


def method_block(value: Any) -> dict[str, Any]:
    """The block that a plan's ``method`` stands for: a block, a name, or the path of an adapter_config.json.

    Raises ``InputError``.
    """
    if isinstance(value, str):
        value = _named(value)
        known = value in METHODS or value in RECIPES or value in installed_methods()
        return {"name": value} if known else read_adapter_config(Path(value))
    if isinstance(value, Mapping):
        name = _named(value.get("name"))
        if name is None:
            raise InputError(f"method has no name; add name: {', '.join(METHODS)}")
        if not isinstance(name, str) or not (name in METHODS or name in RECIPES or name in installed_methods()):
            hint = nearest(name.lower(), METHODS) if isinstance(name, str) else ""
            raise InputError(f"method {shown(name)} is unknown{hint}; known are {', '.join(METHODS)}")
        ignored = HARMLESS - METHODS[name].model_fields.keys() if name in METHODS else HARMLESS
        return {
            "name": name,
            **{k: v for k, v in value.items() if k != "name" and (name == "full" or k not in ignored)},
        }
    raise InputError(
        "method must be a name, the path of an adapter_config.json, or a block such as {name: lora, r: 16}"
    )


def method_options(value: Any) -> MethodOptions:
    """The checked options of a method block. Raises ``InputError``."""
    if isinstance(value, MethodOptions):
        return value
    block = method_block(value)
    options = METHODS.get(block["name"], OtherMethod)
    for key in block if options is not OtherMethod else ():
        if key not in options.model_fields and (others := [o for o in METHODS if key in METHODS[o].model_fields]):
            raise InputError(
                f"unknown key 'method.{key}' of method {block['name']}; name one that has it: {', '.join(others)}"
            )
    return checked(options, block, f"method {block['name']}", "method.")
