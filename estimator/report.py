"""Results as people read them: a table with units in the terminal, HTML in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .estimate import Result
    from .plan import Plan

GIB = 1 << 30
_BAR = 22
_ROWS = (
    ("parameters", "parameters"),
    ("adapters", "  of them adapters"),
    ("buffers", "buffers"),
    ("optimizer", "optimizer states"),
    ("resident", "resident"),
    ("saved", "saved activations"),
    ("gradients", "gradients"),
    ("kv_cache", "KV cache"),
    ("peak_above_resident", "peak above resident"),
    ("peak", "peak"),
    ("allocated_peak", "allocated by PyTorch"),
    ("reserved_peak", "reserved by PyTorch"),
    ("process", "process"),
)
"""Rows of a breakdown, of which runtimes leave some out. Saved activations and gradients are each live at some
time, not all at the peak."""
_ENGINE_ROWS = (
    ("weights", "weights"),
    ("mapped", "  mapped from the file"),
    ("repacked", "  repacked beside it"),
    ("kv_cache", "KV cache"),
    ("recurrent_state", "recurrent state"),
    ("output", "output"),
    ("compute", "compute, reserved"),
    ("host_compute", "compute, host's part"),
    ("peak_above_resident", "compute, touched"),
    ("clean", "clean (can be dropped)"),
    ("dirty", "dirty"),
    ("process", "process"),
    ("device", "on the device"),
)
"""Rows of llama.cpp's buffers."""
_TRAINING_ROWS = ("optimizer", "saved", "gradients")
"""Rows that are zero in inference."""


COUNTED = {"dirty": "dirty memory, which is what the device counts", "device": "the device's memory"}
"""What a budget is of, where it is not of the process."""


def human(nbytes: int) -> str:
    """Bytes with a binary unit: ``9.52 GiB``, ``4.30 MiB``, ``512 B``."""
    for unit, size in (("TiB", 1 << 40), ("GiB", GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} B"


def runtime_of(plan: Plan) -> str:
    """The runtime, and on a GPU whose kernels run: ``torch-cuda (rtx-4090)``."""
    return f"{plan.runtime} ({plan.device})" if plan.runtime == "torch-cuda" and plan.device else plan.runtime


def verdict(result: Result) -> str:
    """One sentence: whether it fits, the margin, and how sure that is. Empty without a budget."""
    if result.budget_bytes is None or result.margin_bytes is None:
        return ""
    budget, margin = human(result.budget_bytes), human(abs(result.margin_bytes))
    if result.against != "process":
        budget += f" of {COUNTED[result.against]}"
    sure = f"(measured processes differ by up to {human(result.uncertainty_bytes)})"
    if result.verdict == "does not fit":
        return f"Does not fit in {budget}: {margin} too much {sure}."
    tight = "" if result.verdict == "fits" else ", tightly"
    return f"Fits in {budget}{tight}: {margin} to spare {sure}."


def summary(result: Result) -> str:
    """Trainable share, in training, and the moment of the peak."""
    if result.task == "infer":
        return f"{result.total_parameters:,} parameters. The peak is at: {result.peak_at}."
    share = 100 * result.trainable_parameters / result.total_parameters
    return (
        f"{result.trainable_parameters:,} of {result.total_parameters:,} parameters train ({share:.3g} %). "
        f"The peak is at: {result.peak_at}."
    )


def run_summary(result: Result) -> str:
    """What a run over several lengths meets. Empty for a plan with one length."""
    if result.run is None:
        return ""
    text = f"The longest of the run's {result.run['batches']:,} batches has {result.run['longest_seq']:,} tokens a row."
    if "oom_probability" in result.run:
        fitting, chance = result.run["longest_seq_that_fits"], result.run["oom_probability"]
        text += f" Batches of up to {fitting:,} tokens fit: the run dies with a probability of {100 * chance:.3g} %."
    return text


def result_table(result: Result, title: str) -> RenderableType:
    """The breakdown as a rich table with a bar per row, relative to the peak."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left", header_style="bold")
    table.add_column("component", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", style="dim", no_wrap=True)
    table.add_column("against the process", no_wrap=True)
    largest = max(1, *(result.bytes[key] for key, _ in _rows(result)))
    for key, label in _rows(result):
        nbytes = result.bytes[key]
        bar = "█" * round(_BAR * nbytes / largest) or ("▏" if nbytes else "")
        strong = key in ("resident", "peak", "process")
        table.add_row(
            label,
            human(nbytes),
            f"{nbytes:,}",
            bar,
            style="bold" if strong else "",
            end_section=key in ("resident", "peak_above_resident") or (key == "repacked" and "dirty" in result.bytes),
        )
    return table


def _rows(result: Result) -> list[tuple[str, str]]:
    if "weights" in result.bytes:
        return [(key, label) for key, label in _ENGINE_ROWS if result.bytes.get(key) or key in ("process", "dirty")]
    left_out = _TRAINING_ROWS if result.task == "infer" else ()
    return [(key, label) for key, label in _ROWS if key in result.bytes and key not in left_out]


def result_html(result: Result) -> str:
    """The breakdown as an HTML table, for notebooks."""
    rows = "".join(
        f"<tr><td>{label}</td><td style='text-align:right'>{human(result.bytes[key])}</td>"
        f"<td style='text-align:right'>{result.bytes[key]:,}</td></tr>"
        for key, label in _rows(result)
    )
    notes = " ".join(filter(None, (summary(result), run_summary(result), verdict(result), *result.warnings)))
    return (
        f"<table><caption>{escape(printable(result.model))}, {escape(result.task)}</caption>"
        f"<tr><th>component</th><th>size</th><th>bytes</th></tr>{rows}</table><p>{escape(notes)}</p>"
    )
