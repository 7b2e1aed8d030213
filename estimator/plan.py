"""The plan: what a user asks about. A pydantic model that forbids unknown keys; the contract of the
project with outside programs (see ``docs/command-reference.md``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError

from .errors import InputError, nearest
from .methods import METHODS, AnyMethod, FullMethod, read_adapter_config

Positive = Annotated[int, Field(ge=1)]
_SIZE = re.compile(r"\s*\d+(\.\d+)?\s*([kmgtpe]i?)?b\s*", re.IGNORECASE)


class Plan(BaseModel):
    """One question: a model, what is done with it, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(description="built-in name, config.json or its folder, or hub id")]
    task: Literal["train"] = Field("train", description="what the model is used for")
    batch: Annotated[int, Field(ge=1, le=10**6, description="micro-batch: sequences per forward")] = 1
    seq: Annotated[int, Field(ge=1, le=10**8, description="sequence length in tokens")] = 2048
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="dtype of the base weights")
    autocast: Literal["bfloat16", "float16"] | None = Field(None, description="torch.autocast dtype")
    attention: Literal["eager", "sdpa"] = Field("sdpa", description="attention implementation")
    checkpointing: Literal["none", "layer"] = Field("none", description="gradient checkpointing")
    method: Annotated[AnyMethod, Field(discriminator="name")] = FullMethod()
    optimizer: Literal["adamw", "sgd", "sgd-momentum"] = Field("adamw", description="optimizer")
    gradient_accumulation_steps: Annotated[
        int, Field(ge=1, le=10**6, description="micro-batches per step; above 1, gradients are alive from the start")
    ] = 1
    keep_logits: bool = Field(True, description="the loop holds the model's output during backward")
    attention_mask: bool = Field(False, description="a padding mask (with padding in it) is passed")
    use_cache: bool = Field(False, description="the model also returns its KV cache")
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
    data = dict(data)
    if "method" in data:
        data["method"] = _method_block(data["method"])
    for (key, value), message in _LATER.items():
        if data.get(key) == value:
            raise InputError(message)
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, data)) from None


def _method_block(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value} if value in METHODS else read_adapter_config(Path(value).expanduser())
    if isinstance(value, Mapping):
        name = value.get("name")
        if name is None:
            raise InputError(f"method has no name; add name: {', '.join(METHODS)}")
        if not isinstance(name, str) or name not in METHODS:
            raise InputError(f"method '{name}' is unknown{nearest(str(name), METHODS)}; known are {', '.join(METHODS)}")
        return dict(value)
    raise InputError("method must be a name, the path of an adapter_config.json, or a block such as {name: lora, r: 16}")


def _explain(error: ValidationError, data: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part not in METHODS and not str(part).startswith(("list[", "constrained"))]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        method = data.get("method")
        known: list[str] = list(Plan.model_fields)
        if path[0] == "method" and isinstance(method, Mapping):
            known = list(METHODS[method["name"]].model_fields)
        return f"unknown key '{key}'{nearest(path[-1], known)}; known keys are {', '.join(known)}"
    if first["type"] == "missing":
        return f"'{key}' is missing; add it to the plan"
    got = first.get("input")
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, not {got!r}"[:400]


def read_plan_mapping(path: Path) -> dict[str, Any]:
    """The keys of a plan in a YAML or JSON file. Raises ``InputError``."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read plan '{path}': {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"plan '{path}' is not text; give a YAML or JSON file") from None
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"plan '{path}' is not valid YAML or JSON{where}; is the file cut off?") from None
    if not isinstance(data, dict):
        raise InputError(f"plan '{path}' holds no mapping; write keys such as model: llama-3.2-1b")
    return data
