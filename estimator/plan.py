"""The plan: what a user asks about.

A pydantic model that forbids unknown keys; the contract of the project with outside programs (see
``docs/command-reference.md``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SerializeAsAny,
    StrictBool,
    TypeAdapter,
    ValidationError,
)

from .adapters.full import FullMethod
from .adapters.options import MethodOptions, Whole
from .errors import InputError, nearest, shown
from .methods import HARMLESS, METHODS, read_adapter_config
from .specs import read_text

_SIZE = re.compile(r"\s*[0-9]{1,15}(\.[0-9]{1,15})?\s*([kmgtpe]i?)?b\s*", re.IGNORECASE)


def method_options(value: Any) -> MethodOptions:
    """The checked options of a method block. Raises ``InputError``."""
    if isinstance(value, MethodOptions):
        return value
    block = method_block(value)
    options = METHODS[block["name"]]
    try:
        return options.model_validate(block)
    except ValidationError as error:
        raise InputError(_explain(error, list(options.model_fields), f"method {block['name']}", "method.")) from None


class Plan(BaseModel):
    """One question: a model, what is done with it, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(description="built-in name, config.json or its folder, or hub id")]
    task: Literal["train"] = Field("train", description="what the model is used for")
    batch: Annotated[Whole, Field(ge=1, le=10**6, description="micro-batch: sequences per forward")] = 1
    seq: Annotated[Whole, Field(ge=1, le=10**8, description="sequence length in tokens")] = 2048
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="dtype of the base weights")
    autocast: Literal["bfloat16", "float16"] | None = Field(None, description="torch.autocast dtype")
    attention: Literal["eager", "sdpa"] = Field("sdpa", description="attention implementation")
    checkpointing: Literal["none", "layer"] = Field("none", description="gradient checkpointing")
    saved_activations: Literal["as-is", "int8", "int4"] = Field(
        "as-is", description="how activations saved for backward are held: quantised by group, or as they are"
    )
    activation_group_size: Annotated[
        Whole, Field(ge=2, le=10**6, description="elements that share a scale where saved activations are quantised")
    ] = 64
    method: SerializeAsAny[Annotated[MethodOptions, BeforeValidator(method_options)]] = FullMethod()
    optimizer: Literal["adamw", "sgd", "sgd-momentum"] = Field("adamw", description="optimizer")
    gradient_accumulation_steps: Annotated[
        Whole, Field(ge=1, le=10**6, description="micro-batches per step; above 1, gradients are alive from the start")
    ] = 1
    keep_logits: StrictBool = Field(True, description="the loop holds the model's output during backward")
    attention_mask: StrictBool = Field(False, description="a padding mask (with padding in it) is passed")
    use_cache: StrictBool = Field(False, description="the model also returns its KV cache")
    runtime: Literal["torch-cpu"] = Field("torch-cpu", description="where it runs")
    device: str | None = Field(None, description="device to fit, by name (`estimator devices`)")
    budget: str | None = Field(None, description="memory to fit, with a unit: 8GiB, 24GB")

    def budget_bytes(self) -> int | None:
        """Bytes of the budget or of the device's usable memory; ``None`` if neither was given."""
        if self.budget is not None and self.device is not None:
            raise InputError("give either a device or a budget, not both")
        if self.budget is not None:
            return parse_size(self.budget)
        if self.device is not None:
            from .devices import find

            return find(self.device).usable_bytes
        return None


def parse_size(text: str) -> int:
    """Bytes of a size with a unit, as in 24GiB, 8 GB or 512MiB. Raises ``InputError``."""
    if not _SIZE.fullmatch(text):
        raise InputError(f"size '{text}' is not a number with a unit; write it like 24GiB, 8GB or 512MiB")
    value = int(TypeAdapter(ByteSize).validate_python(re.sub(r"\s", "", text)))
    if value < 1:
        raise InputError(f"size '{text}' is not positive; write it like 24GiB")
    return value


_LATER = {
    ("task", "infer"): "task infer has no rules in this version; it knows train",
    ("attention", "flash"): "attention flash needs runtime torch-cuda, which this version does not have yet; use sdpa",
}


def parse_plan(data: Mapping[str, Any]) -> Plan:
    """A plan from a mapping. Raises ``InputError`` with one line for the first thing that is wrong."""
    for (key, value), message in _LATER.items():
        if data.get(key) == value:
            raise InputError(message)
    if "method" in data:
        options = method_options(data["method"])
        data = {**options.plan_defaults, **data, "method": options}
    try:
        return Plan.model_validate(dict(data))
    except ValidationError as error:
        raise InputError(_explain(error, list(Plan.model_fields))) from None


def method_block(value: Any) -> dict[str, Any]:
    """The block that a plan's ``method`` stands for: itself, a name's, or an adapter_config.json's.

    Raises ``InputError``.
    """
    if isinstance(value, str):
        return {"name": value} if value in METHODS else read_adapter_config(Path(value))
    if isinstance(value, Mapping):
        name = value.get("name")
        if name is None:
            raise InputError(f"method has no name; add name: {', '.join(METHODS)}")
        if not isinstance(name, str) or name not in METHODS:
            hint = nearest(name.lower(), METHODS) if isinstance(name, str) else ""
            raise InputError(f"method {shown(name)} is unknown{hint}; known are {', '.join(METHODS)}")
        return {k: v for k, v in value.items() if name == "full" or k not in HARMLESS}
    raise InputError(
        "method must be a name, the path of an adapter_config.json, or a block such as {name: lora, r: 16}"
    )


def _explain(error: ValidationError, known: list[str], owner: str = "", prefix: str = "") -> str:
    # Where several types were tried, each complains; the longest path is of the closest one.
    worst = max(error.errors(include_url=False), key=lambda row: len(row["loc"]))
    cause = worst.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # of a block within the block
        return str(cause)
    name = str(worst["loc"][0])
    key = prefix + name
    if worst["type"] == "extra_forbidden":
        of = f" of {owner}" if owner else ""
        return f"unknown key '{key}'{of}{nearest(name, known)}; known keys are {', '.join(known)}"
    if worst["type"] == "missing":
        return f"'{key}' is missing; add it to the plan"
    problem = worst["msg"].removeprefix("Value error, ")
    return f"{key}: {problem[0].lower()}{problem[1:]}, not {shown(worst['input'])}"


def read_plan_mapping(path: Path) -> dict[str, Any]:
    """The keys of a plan in a YAML or JSON file. Raises ``InputError``."""
    import yaml

    text = read_text(path, "a plan in YAML or JSON", limit=100_000)
    try:
        data = parse_json(text) if text.lstrip().startswith("{") else None
        if data is None:
            data = parse_yaml(text)
    except InputError as error:
        raise InputError(f"plan '{path}': {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"plan '{path}' is not valid YAML or JSON{where}; is the file cut off?") from None
    if not isinstance(data, dict):
        raise InputError(f"plan '{path}' holds no mapping; write keys such as model: llama-3.2-1b")
    return data


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds; ``None`` also where it is not JSON. Raises ``InputError`` for a key given twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            raise InputError(f"'{next(key for key in keys if keys.count(key) > 1)}' is given twice; keep one of them")
        return mapping

    try:
        return json.loads(text, object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError):
        return None


def parse_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises ``InputError`` for an alias (a few can stand for gigabytes) and a key given twice, and as
    PyYAML does for text that is not YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                line = 1 if parent is None else parent.start_mark.line + 1
                raise InputError(f"the block at line {line} has an alias, as in *name; write its value out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            mapping = super().construct_mapping(node, deep)
            if len(mapping) < len(node.value):
                line = node.start_mark.line + 1
                raise InputError(f"the mapping at line {line} has a key twice; keep one of them")
            return mapping

    return yaml.load(text, Loader=Loader)
