"""Changes of a plan as keys of the file that it was read from, and as a patch of its text."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from . import hugging_face, torchtune

Edits = Mapping[str, Any]
"""Values by the file's keys; a key of a block has the block's name before it: ``optimizer._component_``."""
Written = str | Mapping[Any, Edits]
"""How a file says a key of the plan: with a key of its own for any value, empty where the tool sets it by itself beside
another one of the same change; or the edits for each value that it can say.
"""


def _optimizers(key: str, names: Mapping[str, str]) -> Mapping[Any, Edits]:
    return {plan: {key: name} for name, plan in reversed([*names.items()])}


_TRANSFORMERS: Mapping[str, Written] = {
    "batch": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "checkpointing": {"layer": {"gradient_checkpointing": True}},
    "optimizer": _optimizers("optim", hugging_face.OPTIMIZERS),
    "loss": {"liger": {"use_liger_kernel": True}},
}
_QUANTISED = {"rest_dtype": "", "compute_dtype": ""}


def _fsdp(asks: Edits, start: str = "") -> Mapping[str, Mapping[Any, Edits]]:
    """What a block ``fsdp_config`` says of sharding, its keys behind ``start``. ``asks``: what asks for FSDP2."""
    block = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "reshard_after_forward": True}
    return {
        "sharding.name": {"fsdp2": {**asks, **{f"fsdp_config.{start}{key}": own for key, own in block.items()}}},
        "sharding.cpu_offload": {True: {f"fsdp_config.{start}offload_params": True}},
        "sharding.reshard_after_forward": {True: {f"fsdp_config.{start}reshard_after_forward": True}},
    }


def _zero(stage: str, device: str) -> Mapping[str, Mapping[Any, Edits]]:
    """What DeepSpeed's keys say of sharding: ``stage``, and ``device`` of the optimizer and the parameters."""
    kinds = ("offload_optimizer", "offload_param")
    return {
        "sharding.name": {f"zero{number}": {stage: number} for number in (2, 3)},
        **{f"sharding.{kind}": {"cpu": {device.format(kind): "cpu"}} for kind in kinds},
    }


_LAUNCHED = _fsdp({"distributed_type": "FSDP", "fsdp_config.fsdp_version": 2}, "fsdp_")
_PLUGIN = _zero("deepspeed_config.zero_stage", "deepspeed_config.{}_device")
_ARGUMENTS: Mapping[str, Written] = {
    **_TRANSFORMERS,
    **_fsdp({"fsdp": True, "fsdp_config.version": 2}),
    "sharding.cpu_offload": {True: {"fsdp_config.cpu_offload": True}},
}
_SIZES = ("batch", "gradient_accumulation_steps")
WRITERS: Mapping[str, Mapping[str, Written]] = {
    "training-arguments": _ARGUMENTS,
    "trl": {
        **{key: write for key, write in _ARGUMENTS.items() if key != "loss"},
        "dtype": {
            "bfloat16": {"dtype": "bfloat16"},
            "int8": {"load_in_8bit": True},
            "nf4": {"load_in_4bit": True},
        },
        **_QUANTISED,
    },
    "axolotl": {
        "batch": "micro_batch_size",
        "gradient_accumulation_steps": "gradient_accumulation_steps",
        "checkpointing": {"layer": {"gradient_checkpointing": True}},
        "optimizer": _optimizers("optimizer", hugging_face.OPTIMIZERS),
        "loss": {
            "liger": {
                "liger_fused_linear_cross_entropy": True,
                "plugins": ["axolotl.integrations.liger.LigerPlugin"],
            },
            "cce": {
                "cut_cross_entropy": True,
                "plugins": ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"],
            },
        },
        "dtype": {"int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True, "adapter": "qlora"}},
        **_QUANTISED,
        **_fsdp({"fsdp_version": 2}),
    },
    "llama-factory": {
        **_ARGUMENTS,
        "checkpointing": {
            "layer": {"disable_gradient_checkpointing": False},
            "offloaded": {"disable_gradient_checkpointing": False, "use_unsloth_gc": True},
        },
        "loss": {"liger": {"enable_liger_kernel": True}},
        "dtype": {"int8": {"quantization_bit": 8}, "nf4": {"quantization_bit": 4}, "bfloat16": {"pure_bf16": True}},
        **_QUANTISED,
    },
    "torchtune": {
        "batch": "batch_size",
        "gradient_accumulation_steps": "gradient_accumulation_steps",
        "checkpointing": {
            "layer": {"enable_activation_checkpointing": True},
            "offloaded": {"enable_activation_checkpointing": True, "enable_activation_offloading": True},
        },
        "optimizer": _optimizers("optimizer._component_", torchtune.OPTIMIZERS),
        "loss": {"ce-chunked-output": {"loss._component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"}},
        "sharding.cpu_offload": {True: {"fsdp_cpu_offload": True}},
        "sharding.reshard_after_forward": {True: {"fsdp_reshard_after_forward": True}},
    },
    "unsloth": {
        "batch": "per_device_train_batch_size",
        "gradient_accumulation_steps": "gradient_accumulation_steps",
        "checkpointing": {
            "layer": {"use_gradient_checkpointing": True},
            "offloaded": {"use_gradient_checkpointing": "unsloth"},
        },
        "optimizer": _optimizers("optim", hugging_face.OPTIMIZERS),
        "dtype": {"int8": {"load_in_8bit": True, "load_in_4bit": False}, "nf4": {"load_in_4bit": True}},
        **_QUANTISED,
    },
    "accelerate": {
        "sharding.world_size": "num_processes",
        **_LAUNCHED,
        **_PLUGIN,
        "sharding.name": {**_LAUNCHED["sharding.name"], **_PLUGIN["sharding.name"]},
    },
    "deepspeed": {
        "batch": "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps": "gradient_accumulation_steps",
        **_zero("zero_optimization.stage", "zero_optimization.{}.device"),
    },
}
"""How each tool says a key of the plan, by the names of ``--format``."""


def edits(
    tool: str, keys: Mapping[str, Any], said_by: Mapping[str, str], shared: Mapping[str, Any] | None = None
) -> Edits | None:
    """The file's keys that say a change of the plan; ``None`` where the tool cannot say all of it.

    ``said_by``: by which of its keys the file says a key of the plan already. Sizes keep these names. ``shared``: the
    plan's block ``sharding``, of which only what changes is written.
    """
    found: dict[str, Any] = {}
    for key, value in _by_key(keys, shared or {}):
        written = WRITERS.get(tool, {}).get(key)
        if isinstance(written, str):
            said: Edits | None = {written: value} if written else {}
        else:
            said = None if written is None else written.get(value)
        if said is None:
            return None
        found |= {said_by.get(key, name) if key in _SIZES else name: own for name, own in said.items()}
    return found or None


def _by_key(keys: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys of a change, those of the block ``sharding`` one by one."""
    for key, value in keys.items():
        if key == "sharding":
            yield from ((f"{key}.{name}", own) for name, own in value.items() if shared.get(name) != own)
        else:
            yield key, value


def edited(text: str, changes: Edits) -> str:
    """A YAML or JSON text with other values; a key that it lacks is added at the end of its block.

    All other characters stay as they are: values are replaced where the parser found them. A list is added to the
    file's own.
    """
    for path, value in changes.items():
        text = _edit(text, path.split("."), value)
    return text


def _edit(text: str, path: list[str], value: Any) -> str:
    import yaml

    node = yaml.compose(text, Loader=yaml.SafeLoader)
    while isinstance(node, yaml.MappingNode):
        name, *path = path
        inner = _under(node, name)
        if inner is None and not path:  # a key that the file has in one of its blocks
            blocks = [own for _, own in node.value if isinstance(own, yaml.MappingNode) and _under(own, name)]
            inner = _under(blocks[0], name) if len(blocks) == 1 else None
        if inner is None:
            return _added(text, node, name, _written(path, value), bool(node.flow_style))
        if not path:
            start, stop = inner.start_mark.index, inner.end_mark.index
            if isinstance(value, list) and isinstance(inner, yaml.SequenceNode):
                value = list(dict.fromkeys([*(one.value for one in inner.value), *value]))
            if isinstance(inner, yaml.CollectionNode) and not inner.flow_style:  # in lines below the key's own
                start = text.rindex(":", 0, start) + 1
            new = json.dumps(value) + ("\n" if text[stop - 1 : stop] == "\n" else "")
            return f"{text[:start]}{'' if text[start - 1 : start] == ' ' else ' '}{new}{text[stop:]}"
        node = inner
    return text


def _under(node: Any, name: str) -> Any:
    return next((own for key, own in node.value if key.value == name), None)


def _written(path: list[str], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def _added(text: str, node: Any, name: str, value: Any, flow: bool) -> str:
    """The text with one more key in a block, as deep as the block's others. No line of another key changes."""
    last = node.value[-1] if node.value else None
    if flow:  # JSON
        at = text.index("{", node.start_mark.index) + 1
        first = node.value[0][0].start_mark if last else None
        line = "\n" + " " * first.column if first is not None and first.line != node.start_mark.line else ""
        between = "," if line or not last else ", "
        return f"{text[:at]}{line}{json.dumps(name)}: {json.dumps(value)}{between if last else ''}{text[at:]}"
    indent = " " * node.start_mark.column
    at = last[1].end_mark.index if last else len(text)
    at += len(text[at:].split("\n", 1)[0]) if text[at - 1 : at] != "\n" else 0
    before = text[:at] if text[:at].endswith("\n") else text[:at] + "\n"
    after = text[at:]
    return f"{before}{indent}{name}: {json.dumps(value)}{'' if after.startswith(chr(10)) else chr(10)}{after}"


def patch(name: str, before: str, after: str, uncounted: Collection[str] = ()) -> str:
    """A unified diff of a file, which ``patch`` and ``git apply`` take (without context, ``--unidiff-zero``).

    Keys that are not ``uncounted`` alone stand in it, since the values of the others may be tokens: there is less
    context where they are near, and no patch where they share a line with a change.
    """
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    hidden = {*_lines_of(old, uncounted), *_lines_of(new, uncounted)}
    for context in (3, 2, 1, 0):
        lines = [*difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", n=context)]
        if hidden.isdisjoint(line[1:] for line in lines):
            return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return ""


def _lines_of(lines: Sequence[str], keys: Collection[str]) -> Iterator[str]:
    """The lines that hold one of the keys, and those of its block."""
    named = re.compile(rf"[\"']?\b(?:{'|'.join(map(re.escape, keys))})[\"']?\s*:")
    deep: int | None = None
    for line in lines if keys else ():
        indent = len(line) - len(line.lstrip())
        if deep is not None and line.strip() and indent <= deep and not line.lstrip().startswith(("-", "}", "]")):
            deep = None
        if named.search(line) and deep is None:
            deep = indent
        if deep is not None:
            yield line
