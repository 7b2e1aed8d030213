"""The releases of the libraries whose programs a plan's formulas are of."""

from __future__ import annotations

from ..plans.plan import Plan
from ..plans.resolve import resolve
from ..programs.recorded import RecordedConfig
from ..programs.releases import NEWEST


def release_lines(plan: Plan) -> list[str]:
    """A line for each library: its name and its release."""
    if plan.runtime == "llama.cpp":
        return [f"release: llama.cpp, build {plan.llama_cpp.build}"]
    if plan.implementation == "litgpt":
        return [f"release: litgpt {plan.litgpt}"]
    config = resolve(plan).spec.config
    release = config.source.release if isinstance(config, RecordedConfig) else NEWEST
    torch = f", PyTorch {plan.torch}" if plan.runtime == "torch-cuda" else ""
    return [f"release: transformers {release}{torch}"] if release else []
