"""Calls that a type checker refuses. mypy reads this file: a comment that ignores no error is an error by itself."""

from __future__ import annotations

import estimator


def asked() -> None:
    """Never called."""
    estimator.estimate("llama-3.2-1b", method="lora", r=16, seq=2048)
    estimator.max_seq("llama-3.2-1b", budget="8GiB", dtype="bf16")
    estimator.estimate("llama-3.2-1b", sequence=2048)  # type: ignore[call-arg]
    estimator.compare("llama-3.2-1b", batch="two")  # type: ignore[arg-type]
