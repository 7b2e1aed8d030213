"""Calls that a type checker refuses. mypy reads this file: a comment that ignores no error is an error by itself."""

from __future__ import annotations

import estimator


def asked() -> None:
    """Never called."""
    estimator.estimate("llama-3.2-1b", method="lora", r=16, seq=2048)
    estimator.max_seq("llama-3.2-1b", budget="8GiB", dtype="bf16")
    estimator.estimate("llama-3.2-1b", sequence=2048)  # type: ignore[call-arg]
    estimator.compare("llama-3.2-1b", batch="two")  # type: ignore[arg-type]
    estimator.estimate("llama-3.2-1b", dtype="Q4_K_M", type_k="Q8_0", autocast="bf16", optimizer="adamw_8bit")
    estimator.estimate("llama-3.2-1b", transformers="4.48.3", torch="2.10.1", checkpointing="every-2")
    estimator.estimate("llama-3.2-1b", dtype="bfloat17")  # type: ignore[arg-type]
    estimator.estimate("llama-3.2-1b", attention="flash_attention_2")  # type: ignore[arg-type]
    estimator.estimate("llama-3.2-1b", loss="chunky")  # type: ignore[arg-type]
    estimator.max_seq("llama-3.2-1b", optimizer="adam", budget="8GiB")  # type: ignore[arg-type]
    estimator.max_context("qwen3-0.6b", type_v="q8", budget="2GiB")  # type: ignore[arg-type]
    estimator.check("lora.yaml", trainer="trl")  # type: ignore[arg-type]
    estimator.smallest_device("llama-3.2-1b", devices=[4090])  # type: ignore[list-item]
    estimator.smallest_cluster("llama-3.2-1b", max_cards="8")  # type: ignore[arg-type]
