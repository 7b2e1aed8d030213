"""Multimodal projectors of llama.cpp, beside the installed engine's own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from estimator import estimate
from estimator.engines.llama_cpp import projector
from estimator.errors import InputError
from tests.cases import llama_cpp_projectors as cases
from tests.cases.small_models import write_config


@pytest.mark.extra("engine")
@pytest.mark.extra("test")
def test_the_buffer_is_what_the_engine_prints(tmp_path: Path) -> None:
    """Witness: the installed engine, which loads random projectors of each kind and prints what it reserves."""
    for kind, printed, ours in cases.answers(random.Random(32), [*cases.KINDS] * 2, tmp_path):
        assert ours == printed, kind


@pytest.mark.extra("test")
def test_beside_a_model(tmp_path: Path) -> None:
    """By hand: a process holds weights and buffer, and an image of 24 x 24 patches, 2 x 2 merged, has 144 tokens."""
    path, model = tmp_path / "mmproj.gguf", write_config(tmp_path, cases.TEXT)
    keys, tensors = cases.random_file(random.Random(1), "idefics3")
    sizes = {"image_size": 24 * 14, "patch_size": 14, "projector.scale_factor": 2}
    embd = keys["clip.vision.embedding_length"]
    tensors |= {
        "v.patch_embd.weight": cases.TensorInfo("f16", (14, 14, 3, embd)),
        "v.position_embd.weight": cases.TensorInfo("f32", (embd, 576)),
        "mm.model.fc.weight": cases.TensorInfo("f16", (4 * embd, cases.EMBD)),
    }
    cases.write((keys | {f"clip.vision.{key}": value for key, value in sizes.items()}, tensors), path)
    found = projector.read(path)
    assert (found.tokens, found.embd) == (144, cases.EMBD)
    plan = {"model": model, "runtime": "llama.cpp", "dtype": "f16", "seq": 512}
    alone, both = estimate(plan), estimate(plan, mmproj=str(path))
    assert both.bytes["beside"] == found.weights + found.compute
    assert both.bytes["process"] - alone.bytes["process"] == both.bytes["beside"]
    assert both.bytes["dirty"] - alone.bytes["dirty"] == both.bytes["beside"]
    assert any("takes 144 tokens of the context" in warning for warning in both.warnings)


@pytest.mark.extra("test")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip.vision.image_size": 0}, "has no clip.vision.image_size, which gemma3 needs"),
        ({"clip.vision.patch_size": 1.5}, "has no clip.vision.patch_size, which gemma3 needs"),
        ({"clip.vision.block_count": 9}, "has no v.blk.2.attn_q.weight, which gemma3 needs"),
    ],
)
def test_what_is_missing_is_said(change: dict[str, object], words: str, tmp_path: Path) -> None:
    """Asks files that lack a key or a tensor: one line each."""
    keys, tensors = cases.random_file(random.Random(4), "gemma3")
    path = tmp_path / "mmproj.gguf"
    cases.write((keys | change, tensors), path)
    with pytest.raises(InputError, match=words):
        projector.read(path)


@pytest.mark.extra("test")
def test_a_projector_of_another_model_is_refused(tmp_path: Path) -> None:
    """Asks the contract: the engine ends with a mismatch of embeddings, so one line says it here."""
    path = tmp_path / "mmproj.gguf"
    cases.write(cases.random_file(random.Random(5), "internvl"), path)
    with pytest.raises(InputError, match=r"makes embeddings of 256 and smollm2-135m takes 576; name the projector"):
        estimate("smollm2-135m", dtype="q8_0", n_ctx=512, mmproj=str(path))
