"""The files of a checkpoint: ``Trainer._save_checkpoint`` of transformers 5.24, and safetensors' format.

A safetensors file is eight bytes, a header in JSON, padded with spaces to a multiple of eight, and the tensors, by
alignment and then by name (``safetensors/src/tensor.rs: prepare``). A model of more than ``SHARD`` bytes has several,
and an index. PEFT's model writes what it has added, and what ``modules_to_save`` names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..engines.replay import state_sizes
from ..ledger import ITEMSIZE, product, whole
from ..methods.base import AdapterMethod
from .weights import Weight, Weights

if TYPE_CHECKING:
    from ..engines.engine import Job

SHARD = 50 * 10**9
"""The most bytes of a file's tensors: ``save_pretrained``'s ``max_shard_size``, which the Trainer leaves alone."""
PICKLED = 75
"""Bytes of a tensor in the pickle of ``optimizer.pt``, from 70 to 77 measured with torch 2.13."""
OPTIMIZER_FILE = 1700
"""Bytes of an ``optimizer.pt`` without states, from 1,100 to 1,721 measured."""
OTHER_FILES = 32 * 1024
"""Bytes of configs, generator states, scheduler, the Trainer's state and arguments. Approximate: 24 to 31 KB measured.
A tokenizer's files come on top."""
WHOLE = ("full", "freeze", "bitfit")
"""Methods after which the whole model is written."""
ADDED = (
    *("adalora", "adaption_prompt", "beft", "boft", "c3a", "fourierft", "hira", "hra", "ia3", "loha", "lokr", "lora"),
    *("lora-fa", "miss", "oft", "trainable_tokens"),
)
"""Methods of PEFT whose files have the parameters that they added. Others write buffers, too, or other names."""


class Checkpoint(NamedTuple):
    """What one save writes."""

    tensors: tuple[Weight, ...]
    """The tensors of the model's files, in the order in which they are split into files."""
    files: Mapping[str, int]
    """Bytes of the model's files by name, with the index."""
    states: tuple[int, ...]
    """Bytes of each state of the optimizer."""

    @property
    def model(self) -> int:
        """Bytes of the model's files."""
        return sum(self.files.values())

    @property
    def optimizer(self) -> int:
        """Bytes of ``optimizer.pt``, within some bytes for each state.

        It is a zip file: each record has a header and a descriptor, begins at a multiple of 64 bytes
        (``torch/serialization.py: _save``), and has an entry in the directory at the end.
        """
        found = OPTIMIZER_FILE
        for number, nbytes in enumerate(self.states):
            name = len(f"optimizer/data/{number}")
            found += math.ceil((nbytes + 16 + 34 + name) / 64) * 64 + 46 + name + PICKLED
        return found


def unknown(job: Job, weights: Weights) -> str:
    """Why there is no rule for a plan's checkpoints; empty where there is one."""
    method = job.plan.method.inner
    if method.name not in (*WHOLE, *ADDED):
        return f"method: {method.name}, whose files are not known here"
    if method.name in WHOLE:
        # They are written one by one, as copies of their parts.
        return f"experts of {job.spec.config.family}" if weights.experts else ""
    modules = job.spec.config.modules
    embeddings = [modules.path_of(role) for role in ("input embedding", "output embedding")]
    if isinstance(job.method, AdapterMethod) and any(job.method.adapts(path) for path in embeddings):
        return "adapters on an embedding, which PEFT writes whole"
    config = job.spec.config
    recorded = config.source.peft_release
    return f"method: {method.name} on {config.family}, whose names are not known here" if recorded else ""


def checkpoint_of(job: Job, weights: Weights) -> Checkpoint:
    """What a save of a plan's run writes, of a plan with a rule for it (``unknown``)."""
    states = tuple(map(whole, state_sizes(job.step, job.method, weights.trained)))
    if job.plan.method.inner.name in WHOLE:
        tensors = tuple(sorted(weights.parameters, key=lambda weight: _natural(weight.name)))
        return Checkpoint(tensors, model_files(tensors), states)
    added = tuple(
        Weight(_saved_name(p.name), tuple(map(whole, p.shape)), p.dtype, whole(p.nbytes))
        for p in weights.trained.parameters
        if p.added and not p.name.endswith(".ranknum")  # AdaLoRA's number of ranks, which PEFT leaves out
    )
    return Checkpoint(added, {"adapter_model.safetensors": file_bytes(added)}, states)


def _saved_name(name: str) -> str:
    """The name that PEFT's file has for a parameter that it added."""
    return "base_model.model." + name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")


def model_files(tensors: Sequence[Weight], shard: int = SHARD) -> dict[str, int]:
    """Bytes of ``model.safetensors`` by name, of its parts and their index where tensors are split."""
    parts = split(tensors, shard)
    if len(parts) == 1:
        return {"model.safetensors": file_bytes(parts[0])}
    names = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    where = {weight.name: name for name, part in zip(names, parts, strict=True) for weight in part}
    totals = {
        "total_parameters": sum(weight.numel for weight in tensors),
        "total_size": sum(weight.nbytes for weight in tensors),
    }
    index = json.dumps({"metadata": totals, "weight_map": where}, indent=2, sort_keys=True) + "\n"
    files = {name: file_bytes(part) for name, part in zip(names, parts, strict=True)}
    return {**files, "model.safetensors.index.json": len(index)}


def split(tensors: Iterable[Weight], shard: int = SHARD) -> list[list[Weight]]:
    """The tensors of each file (``huggingface_hub/serialization: split_state_dict_into_shards_factory``)."""
    files: list[list[Weight]] = []
    current, size = list[Weight](), 0
    for weight in tensors:
        if weight.nbytes > shard:
            files.append([weight])
            continue
        if size + weight.nbytes > shard:
            files.append(current)
            current, size = [], 0
        current.append(weight)
        size += weight.nbytes
    return [*files, current] if current else files


DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""safetensors' names of dtypes."""


def file_bytes(tensors: Iterable[Weight]) -> int:
    """Bytes of a safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for weight in sorted(tensors, key=lambda weight: (-ITEMSIZE[weight.dtype], weight.name)):
        start, end = end, end + whole(product(weight.shape)) * ITEMSIZE[weight.dtype]
        header[weight.name] = {
            "dtype": DTYPES[weight.dtype],
            "shape": list(weight.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"))
    return 8 + math.ceil(len(text) / 8) * 8 + end


def _natural(name: str) -> tuple[tuple[object, ...], ...]:
    """The order of a loaded model's weights when they are saved (``core_model_loading.py: dot_natural_key``)."""
    found: list[tuple[object, ...]] = []
    for part in name.split("."):
        text = part.rstrip("0123456789")
        number = part[len(text) :]
        if not text:
            found.append((0, int(number)))
        else:
            found.append((1, text, int(number)) if number else (1, text))
    return tuple(found)
