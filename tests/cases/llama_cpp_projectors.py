"""Multimodal projectors of random sizes, and the buffer that the installed engine reserves for what they compute.

``python -m tests.cases.llama_cpp_projectors 40 7`` asks so many from a seed, and prints each that differs.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from estimator.engines.llama_cpp import convert, projector
from estimator.engines.llama_cpp.ggml import TYPES, pad
from estimator.engines.llama_cpp.header import TensorInfo
from estimator.witnesses import llama_cpp as engine

EMBD = 256
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": EMBD,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}
KINDS = tuple(projector.GRAPHS)
File = tuple[dict[str, Any], dict[str, TensorInfo]]


def random_file(rng: random.Random, kind: str) -> File:
    """The keys and tensors of a projector's file."""
    patch_size, side, heads = rng.choice([14, 16]), rng.choice([8, 12, 16, 24]), rng.choice([2, 4, 6])
    embd, width, by = heads * rng.choice([32, 64, 72]), rng.choice([128, 256, 544]), rng.choice([2, 4])
    layers, fused = rng.randint(1, 5), kind == "internvl" and rng.random() < 0.3
    tensors: dict[str, TensorInfo] = {}

    def add(name: str, *shape: int, kind: str = "f32") -> None:
        tensors[name] = TensorInfo(kind, shape)

    def linear(name: str, into: int, out: int) -> None:
        add(f"{name}.weight", into, out, kind="f16")
        add(f"{name}.bias", out)

    def norm(name: str, size: int) -> None:
        add(f"{name}.weight", size)
        add(f"{name}.bias", size)

    add("v.patch_embd.weight", patch_size, patch_size, 3, embd, kind=rng.choice(["f16", "f32", "bf16"]))
    add("v.patch_embd.bias", embd)
    add("v.position_embd.weight", embd, side * side + (kind == "internvl"))
    for block in (f"v.blk.{i}" for i in range(layers)):
        for name in ("qkv",) if fused else ("q", "k", "v"):
            linear(f"{block}.attn_{name}", embd, embd * len(name))
        linear(f"{block}.attn_out", embd, embd)
        norm(f"{block}.ln1", embd)
        norm(f"{block}.ln2", embd)
        linear(f"{block}.ffn_up", embd, width)
        linear(f"{block}.ffn_down", width, embd)
        for name in ("ls1", "ls2") if kind == "internvl" else ():
            add(f"{block}.{name}.weight", embd)
    if kind == "gemma3":
        add("mm.input_projection.weight", EMBD, embd, kind=rng.choice(["f16", "f32"]))
        add("mm.soft_emb_norm.weight", embd)
    if kind == "internvl":
        add("v.class_embd", embd)
        norm("mm.model.mlp.0", embd * by * by)
        linear("mm.model.mlp.1", embd * by * by, EMBD)
        linear("mm.model.mlp.3", EMBD, EMBD)
    else:
        norm("v.post_ln", embd)
    if kind == "idefics3":
        add("mm.model.fc.weight", embd * by * by, EMBD, kind="f16")
    if kind == "lfm2":
        linear("mm.1", embd * by * by, 384)
        linear("mm.2", 384, EMBD)
        if rng.random() < 0.5:
            norm("mm.input_norm", embd * by * by)
    vision = {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "embedding_length": embd,
        "feed_forward_length": width,
        "block_count": layers,
        "attention.head_count": heads,
        "attention.layer_norm_epsilon": 1e-6,
        "projection_dim": EMBD,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "projector.scale_factor": by,
        "preproc_image_size": side * patch_size * 2,
    }
    keys = {"clip.has_vision_encoder": True, "clip.projector_type": kind, "clip.use_gelu": True}
    return keys | {f"clip.vision.{key}": value for key, value in vision.items()}, tensors


def write(file: File, path: Path) -> None:
    """A file without data on disk. Needs the gguf package."""
    import gguf
    import numpy

    writer, (keys, tensors) = gguf.GGUFWriter(path, "clip"), file
    add = {bool: writer.add_bool, str: writer.add_string, float: writer.add_float32, list: writer.add_array}
    for key, value in keys.items():
        add.get(type(value), writer.add_uint32)(key, value)
    for name, info in tensors.items():
        kind, shape = gguf.GGMLQuantizationType[info.kind.upper()], info.shape[::-1]
        raw = info.kind == "bf16"
        stored = (*shape[:-1], shape[-1] * TYPES[info.kind][1]) if raw else shape
        dtype = numpy.dtype("uint8" if raw else "float32" if info.kind == "f32" else "float16")
        writer.add_tensor_info(name, stored, dtype, info.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (out,) = writer.fout
    out.flush()
    out.truncate(pad(out.tell(), 32) + sum(pad(info.nbytes, 32) for info in tensors.values()))
    writer.close()


def write_text_model(path: Path) -> None:
    """A small model with a vocabulary, in which the engine looks for the marks of an image."""
    import gguf

    def vocabulary(writer: Any, _name: str) -> None:
        writer.add_string("tokenizer.ggml.model", "llama")
        writer.add_token_list(["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(997))])
        writer.add_token_scores([0.0] * 1000)
        writer.add_token_types([2, 3, 3, *[1] * 997])

    with patch.object(gguf.GGUFWriter, "add_tokenizer_model", vocabulary):
        engine.write_sparse(convert.header(TEXT, "text", "f16"), path)


@contextmanager
def asked(text: Path) -> Iterator[Any]:
    """What asks the installed engine: the MiB that it prints of a projector's compute buffer, and its last words."""
    from llama_cpp_py_sync import _cffi_bindings as bindings

    ffi, lib, _ = engine._libraries()
    mtmd, log, report = bindings.get_mtmd_lib(), [], engine.Report()

    @ffi.callback("void(enum ggml_log_level, const char *, void *)")  # type: ignore[untyped-decorator]
    def keep(_level: int, words: Any, _data: Any) -> None:
        log.append(ffi.string(words).decode(errors="replace"))

    def ask(path: Path) -> str:
        log.clear()
        parameters = mtmd.mtmd_context_params_default()
        parameters.use_gpu, parameters.n_threads, parameters.warmup = False, 1, True
        context = mtmd.mtmd_init_from_file(str(path).encode(), model, parameters)
        if context == ffi.NULL:
            return "".join(log[-4:])
        mtmd.mtmd_free(context)
        return re.findall(r"compute buffer size = *([\d.]+) MiB", "".join(log))[-1]

    lib.llama_log_set(keep, ffi.NULL)
    mtmd.mtmd_log_set(keep, ffi.NULL)
    try:
        with engine._model(ffi, lib, report, text, False, True, False) as model:
            yield ask
    finally:
        lib.llama_log_set(ffi.NULL, ffi.NULL)
        mtmd.mtmd_log_set(ffi.NULL, ffi.NULL)


def answers(rng: random.Random, kinds: list[str], folder: Path) -> Iterator[tuple[str, str, str]]:
    """Of random projectors: their kind, the MiB that the engine prints, and those of the rules."""
    text, path = folder / "text.gguf", folder / "mmproj.gguf"
    write_text_model(text)
    with asked(text) as ask:
        for kind in kinds:
            write(random_file(rng, kind), path)
            yield kind, ask(path), f"{projector.read(path).compute / 2**20:.2f}"


def main(count: int, seed: int) -> None:
    """Ask random projectors."""
    rng, equal = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, printed, ours in answers(rng, [rng.choice(KINDS) for _ in range(count)], Path(folder)):
            equal += printed == ours
            if printed != ours:
                print(kind, printed, ours)
    print(f"{equal} of {count} equal")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
