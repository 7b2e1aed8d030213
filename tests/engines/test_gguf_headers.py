"""The reader of GGUF headers: against the gguf package, and on headers that are damaged or lie."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.answers.estimate import estimate
from estimator.engines.llama_cpp import convert, gguf_file, hparams
from estimator.engines.llama_cpp.context import Parameters
from estimator.engines.llama_cpp.ggml import TYPES
from estimator.engines.llama_cpp.hparams import FACTORS, RANGES
from estimator.errors import InputError
from estimator.plans.models import load
from estimator.witnesses import llama_cpp as engine
from tests.cases.hostile_input import MODELS, gguf, headers
from tests.cases.llama_cpp_runs import real_header
from tests.helpers.commands import child, refused, run


@pytest.mark.extra("engine")
def test_reader_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    """Witness: the gguf package."""
    import gguf

    path = tmp_path / "model.gguf"
    engine.write_sparse(real_header("gemma-3-270m"), path)
    ours, theirs = gguf_file.read(path), gguf.GGUFReader(path)
    assert {t.name: (t.tensor_type.name.lower(), tuple(int(n) for n in t.shape)) for t in theirs.tensors} == {
        name: (tensor.kind, tensor.shape) for name, tensor in ours.tensors.items()
    }
    assert {kind: TYPES[kind] for kind in TYPES if kind not in ("q8_k", "q8_1")} == {
        kind.name.lower(): size
        for kind, size in gguf.GGML_QUANT_SIZES.items()
        if kind.name.lower() in TYPES
        and kind.name not in ("Q8_K", "Q8_1")  # never in a file; the package has them otherwise
    }


@pytest.mark.extra("engine")
def test_vocabulary_is_counted(tmp_path: Path) -> None:
    """Witness: the gguf package."""
    import gguf

    path = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{i}" for i in range(500)])
    writer.add_token_merges([f"a{i} b" for i in range(300)])
    writer.add_tensor_info("token_embd.weight", (500, 64), __import__("numpy").dtype("float32"), 4 * 500 * 64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    file.truncate(file.tell() + 32 + 4 * 500 * 64)
    writer.close()
    header = gguf_file.read(path)
    assert header.n_vocab == 500
    assert header.tokens is not None
    assert header.tokens.count == 500
    assert header.tokens.nbytes == sum(len(f"token{i}") for i in range(500))
    assert header.merges is not None
    assert header.merges.count == 300


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    engine.write_sparse(real_header("smollm2-135m"), path)
    return path


def damaged(whole: Path, tmp_path: Path, at: int, data: bytes) -> Path:
    path = tmp_path / "damaged.gguf"
    head = bytearray(whole.read_bytes()[:200_000])
    head[at : at + len(data)] = data
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(whole.stat().st_size)
    return path


HUGE = (1 << 60).to_bytes(8, "little")


@pytest.mark.extra("engine")
@pytest.mark.parametrize(
    ("at", "data", "message"),
    [
        (0, b"GGML", "no GGUF file"),
        (4, (1).to_bytes(4, "little"), "version 1"),
        (8, HUGE, "claims"),
        (16, HUGE, "claims"),
        (24, HUGE, "past the end"),
        (24 + 8 + len("general.architecture"), (99).to_bytes(4, "little"), "type 99"),
    ],
)
def test_hostile_headers(whole: Path, tmp_path: Path, at: int, data: bytes, message: str) -> None:
    """Asks the contract: one line, or what the undamaged file says."""
    with pytest.raises(InputError, match=message):
        gguf_file.read(damaged(whole, tmp_path, at, data))


@pytest.mark.extra("engine")
def test_hostile_tensor_tables(whole: Path, tmp_path: Path) -> None:
    """Asks the contract: one line, or what the undamaged file says."""
    head = whole.read_bytes()[:200_000]
    name = b"blk.0.attn_k.weight"
    at = head.index(name) + len(name)
    for offset, data, message in (
        (0, (9).to_bytes(4, "little"), "9 dimensions"),
        (4, HUGE, "shape"),
        (4, (577).to_bytes(8, "little"), "do not divide"),
        (20, (77).to_bytes(4, "little"), "type 77"),
        (24, HUGE, "begins at byte 1,152,"),
        (
            24,
            bytes(8),
            "begins at byte 0 of the data, not 30,083,328, which llama.cpp refuses",
        ),  # over the first tensor
        (24, (30_083_329).to_bytes(8, "little"), "begins at byte 30,083,329 of the data"),  # not aligned
    ):
        with pytest.raises(InputError, match=message):
            gguf_file.read(damaged(whole, tmp_path, at + offset, data))


@pytest.mark.share(3)
@pytest.mark.extra("engine")
@settings(max_examples=25, deadline=None)
@given(length=st.integers(0, 60_000))
def test_truncated_files(whole: Path, tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    """Asks the contract: one line, or what the undamaged file says."""
    path = tmp_path_factory.mktemp("cut") / "cut.gguf"
    path.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(InputError):
        gguf_file.read(path)


@pytest.mark.share(3)
@pytest.mark.extra("engine")
@settings(max_examples=20, deadline=None)
@given(at=st.integers(0, 4_000), data=st.binary(min_size=1, max_size=9))
def test_flipped_bytes_end_in_one_line(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, at: int, data: bytes
) -> None:
    """Asks the contract: one line, or what the undamaged file says."""
    path = damaged(whole, tmp_path_factory.mktemp("flip"), at, data)
    with contextlib.suppress(InputError):
        estimate(model=str(path), llama_cpp={"n_ctx": 512})


MODEL = "smollm2-135m"


def sparse(path: Path, head: bytes, size: int) -> Path:
    path.write_bytes(head)
    os.truncate(path, size)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_lengths_are_not_believed(tmp_path: Path) -> None:
    """Asks the contract: files of a few bytes that claim gigabytes, read in little memory."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    cases = [
        struct.pack("<Q", 6 << 30),
        text("general.name") + struct.pack("<IQ", 8, 6 << 30),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 1 << 29),
        text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 1 << 30),
    ]
    for i, body in enumerate(cases):
        assert "no header is" in refused(sparse(tmp_path / f"{i}.gguf", head + body, 8 << 30))
    done = child("estimate", str(tmp_path / "2.gguf"), stdout=subprocess.DEVNULL)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    for n_tensors, n_keys in ((1 << 40, 0), (0, 1 << 40), (1 << 17, 1)):
        path = sparse(tmp_path / "many.gguf", b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys), 8 << 40)
        assert "claims" in refused(path)


def test_a_large_vocabulary(tmp_path: Path) -> None:
    """Witness: what was written; strings across the reader's window, long ones, empty ones."""
    header = headers(MODEL)
    tokens = [b"t" * (i % 11) for i in range(header.n_vocab - 1)] + [b"long" * 100_000]
    content, _ = gguf(header, dict(header.metadata))
    start = content.index(text("tokenizer.ggml.model"))
    value = b"".join(struct.pack("<Q", len(token)) + token for token in tokens)
    more = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, len(tokens)) + value
    n_keys = struct.unpack_from("<Q", content, 16)[0]
    kept = content[:16] + struct.pack("<Q", n_keys + 1) + content[24:start]
    rest = content[start:].replace(text("no_vocab"), text("gpt2"), 1)
    found = gguf_file.read(sparse(tmp_path / "model.gguf", kept + more + rest, 1 << 32))
    assert found.tokens is not None
    assert (found.tokens.count, found.tokens.nbytes) == (len(tokens), sum(map(len, tokens)))
    assert dict(found.metadata) == dict(header.metadata)


@pytest.mark.share(9)
@pytest.mark.parametrize("name", MODELS)
def test_every_number_has_a_range(name: str, tmp_path: Path) -> None:
    """Asks the contract: each number of each architecture's header, beyond both ends of its range."""
    header = headers(name)
    for key in header.metadata.keys() & (RANGES.keys() | FACTORS.keys()):
        least, largest = RANGES.get(key) or FACTORS[key]
        for value in (largest + 1, least - 1, float("nan"), "x"):
            if key in FACTORS and isinstance(value, int):
                value = float(value)
            content, size = gguf(header, {**header.metadata, key: value})
            seen = run(["estimate", str(sparse(tmp_path / "model.gguf", content, size))])
            if seen.status == 0:  # a number that this architecture does not read
                continue
            assert (seen.wrong(), f"{header.architecture}.{key}" in seen.err) == ("", True), (key, value, seen)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("mixtral-8x7b", "expert_used_count", 0),
        ("mixtral-8x7b", "expert_used_count", 10**9),
        ("mixtral-8x7b", "expert_used_count", 9),
        ("granite-4.0-h-tiny", "ssm.group_count", 0),
        ("gemma-3n-e2b", "attention.value_length", 0),
        ("gemma-3n-e2b", "altup.num_inputs", 10**6),
        ("lfm2-1.2b", "shortconv.l_cache", 0),
        ("deepseek-v3", "expert_group_count", 0x7FFFFFFF),
        ("smollm2-135m", "rope.dimension_count", 4096),
    ],
)
def test_numbers_that_broke_things(name: str, key: str, value: int, tmp_path: Path) -> None:
    """Asks the contract: a line with the key and the value."""
    header = headers(name)
    content, size = gguf(header, {**header.metadata, key: value})
    line = refused(sparse(tmp_path / "model.gguf", content, size))
    assert f"{header.architecture}.{key} is {value}" in line


def test_a_header_without_the_size_of_heads() -> None:
    """As older converters wrote it: llama.cpp divides the model's width by the heads (``llama-model.cpp``)."""
    header = headers("smollm2-135m")
    sizes = {"attention.key_length", "attention.value_length"}
    read = hparams.read(replace(header, metadata={k: v for k, v in header.metadata.items() if k not in sizes}))
    assert (read.n_embd_head_k, read.n_embd_head_v) == (576 // 9, 576 // 9)
    rest = {key: value for key, value in header.metadata.items() if key not in sizes}
    heads = {"attention.head_count": [0, *[9] * 29], "attention.head_count_kv": 3}  # the first layer is of another kind
    assert hparams.read(replace(header, metadata=rest | heads)).n_embd_head_k == 576 // 9


@pytest.mark.parametrize(
    ("period", "windowed"),
    [(0, [True] * 6), (1, [False] * 6), (3, [True, True, False] * 2), ([1, 0, 0, 1, 1, 0, 7], [1, 0, 0, 1, 1, 0])],
    ids=str,
)
def test_which_layers_have_a_window(period: Any, windowed: list[Any]) -> None:
    """By hand, from ``llama_hparams::set_swa_pattern``: the last of each period has none; with 0 all have one."""
    header = headers("gemma-3-1b")
    few = {name: tensor for name, tensor in header.tensors.items() if not name.startswith("blk.")}
    keys = {**header.metadata, "block_count": 6, "attention.sliding_window_pattern": period}
    assert list(hparams.read(replace(header, metadata=keys, tensors=few)).is_swa) == windowed


DENSE: dict[str, Any] = {
    "architecture": "llama", "n_layer": 30, "n_embd": 576, "n_vocab": 49152, "n_ctx_train": 8192,
    "n_head": (9,) * 30, "n_head_kv": (3,) * 30, "n_embd_head_k": 64, "n_embd_head_v": 64, "n_rot": 64,
    "n_swa": 0, "is_swa": (False,) * 30, "n_layer_kv_from_start": None, "is_recurrent": (False,) * 30,
    "n_expert": 0, "n_expert_used": 0, "n_expert_groups": 0, "n_expert_groups_used": 1, "expert_gating": 0,
    "n_layer_dense_lead": 0, "expert_weights_scale": 0.0, "expert_weights_norm": False, "mla": None,
    "n_lora_kv": 0, "l_cache": 0, "ssm_conv": 0, "ssm_inner": 0, "ssm_state": 0, "ssm_heads": 0, "ssm_groups": 0,
    "n_altup": 4, "n_embd_altup": 0, "embedding_scale": 0.0, "residual_scale": 0.0, "logit_scale": 0.0,
    "final_softcap": 0.0, "attention_temperature": 0.0, "rotated": (True,) * 30,
}  # fmt: skip
"""The sizes of a dense model: what its header leaves out is none."""


def test_what_a_header_leaves_out_is_none() -> None:
    """By hand, from SmolLM2's config.json and ``llama_model_base::load_hparams``."""
    read = hparams.read(headers("smollm2-135m"))
    assert vars(read) == DENSE
    assert (read.n_embd_k(0), read.n_embd_v(0), read.has_kv(0), read.n_embd_r) == (192, 192, True, 0)


@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_scaled_frequencies_are_a_tensor(key: str) -> None:
    """Asks the converter's rule; earlier releases of transformers wrote ``type``."""
    raw = dict(load("llama-3.2-1b").raw)
    scaling = raw.pop("rope_parameters", None) or raw.pop("rope_scaling")
    scaling = {name: value for name, value in scaling.items() if name not in ("rope_type", "type")}
    for kind, there in (("llama3", True), ("linear", False)):
        header = convert.header({**raw, "rope_scaling": {**scaling, key: kind}}, "m", "q8_0")
        assert ("rope_freqs.weight" in header.tensors) == there


def split(name: str, folder: Path, tensors: int = 100, **changed: int) -> list[Path]:
    """A model's file in parts of so many tensors, as the gguf package writes them."""
    folder.mkdir()
    header = convert.header({**load(name).raw, **changed}, name, "q4_k_m")
    engine.write_sparse(header, folder / "model.gguf", split_max_tensors=tensors)
    return sorted(folder.iterdir())


@pytest.mark.extra("engine")
def test_parts_are_the_whole(whole: Path, tmp_path: Path) -> None:
    """Witness: the engine loads them. By hand: parts and the whole are one answer."""
    parts = split("smollm2-135m", tmp_path / "parts")
    assert len(parts) > 2
    found, one = (gguf_file.read(path) for path in (parts[0], whole))
    assert (found, list(found.tensors)) == (one, list(one.tensors))
    asked = Parameters(n_ctx=512)
    assert engine.ask(parts[0], asked).buffers == engine.ask(whole, asked).buffers
    assert estimate(str(parts[0]), n_ctx=512).bytes == estimate(str(whole), n_ctx=512).bytes


@pytest.mark.extra("engine")
def test_parts_that_are_wrong(tmp_path: Path) -> None:
    """One line names the part."""
    parts = split("smollm2-135m", tmp_path / "parts")
    others = [
        (parts[1].name, split("smollm2-135m", tmp_path / "wider", hidden_size=1152)[1], "are 1152 wide"),
        (parts[1].name, split("qwen3-0.6b", tmp_path / "more")[1], "part 1 of 4 with 310 tensors"),
        (parts[2].name, parts[1], "it says that it is part 1 of 3"),
        (parts[1].name, split("smollm2-135m", tmp_path / "cut", 101)[1], ""),
    ]
    for name, other, why in others:
        folder = tmp_path / f"swapped-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for path in parts:
            (folder / path.name).symlink_to(other if path.name == name else path)
        with pytest.raises(InputError, match="belongs to another model") as refused_with:
            gguf_file.read(folder / parts[0].name)
        assert why in str(refused_with.value)
    with pytest.raises(
        InputError, match=r"is part 1 of 3, counted from 0; give the first one, model-00001-of-00003\.gguf"
    ):
        gguf_file.read(parts[1])
    parts[2].unlink()
    with pytest.raises(InputError, match=r"model-00003-of-00003\.gguf' is missing, part 3 of 3"):
        gguf_file.read(parts[0])
    renamed = parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(InputError, match=r"give the first one, renamed-00001-of-00003\.gguf"):
        gguf_file.read(renamed)


def test_a_layer_beyond_those_of_the_header_is_refused() -> None:
    """llama.cpp refuses such a file, too: wrong number of tensors (``llama-model-loader.cpp``)."""
    header = headers("smollm2-135m")
    assert hparams.read(header).n_layer == 30
    fewer = replace(header, metadata={**header.metadata, "block_count": 29})
    with pytest.raises(InputError, match=r"has 'blk\.29\.\w+\.weight', which is none of the 29 layers that llama"):
        hparams.read(fewer)
    tensor = header.tensors["blk.0.attn_norm.weight"]
    for name in ("blk.30.x", "blk.x.weight", "blk.", f"blk.{'9' * 5000}.x", "blk.²."):
        with pytest.raises(InputError, match="which is none of the 30 layers"):
            hparams.read(replace(header, tensors={**header.tensors, name: tensor}))
