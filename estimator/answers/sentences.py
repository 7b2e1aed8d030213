"""Results for people: sentences, the rows of a breakdown, and HTML for a notebook."""

from __future__ import annotations

from collections.abc import Iterable

from ..engines.assumptions import Assumption
from ..engines.engine import HOST
from ..engines.registry import engine_of
from ..plans.margins import NOT_SURE, STATED, Margin
from ..plans.plan import Plan
from ..text import human, printable
from .result import Result

_TRAINING_ROWS = ("optimizer", "saved", "gradients")
"""Rows that are left out in inference."""


def counted(result: Result, against: str | None = None) -> str:
    """The memory that a result's budget, or another of its limits, is of: ``dirty memory``; empty for the process."""
    words = {"dirty": "dirty memory", "used": "RAM in use", "device": "the device's memory", HOST: "the host's memory"}
    words |= dict.fromkeys(("process", "run", "peak"), "")
    name = against or result.against
    server = name.removesuffix("_needed")  # in the process, whose share of the card holds what it starts with
    return words.get(name, f"memory of {name}" if name == server else f"{server}'s share of the card")


_ASSUMED = {"device": "limit of one application", "system": "part of the RAM that the system keeps"}
"""The meaning of an assumption's key whose value is a size; the other keys are a plan's own."""


def assumed(assumptions: Iterable[Assumption]) -> list[str]:
    """Sentences on assumptions: their values, the reason, and what replaces them. One for each reason."""
    together: dict[str, list[Assumption]] = {}
    for one in dict.fromkeys(assumptions):
        together.setdefault(one.why, []).append(one)
    return [f"Assumed {'; '.join(map(_assumption, group))}: {why}." for why, group in together.items()]


def _assumption(one: Assumption) -> str:
    if one.key in _ASSUMED:
        return f"{_ASSUMED[one.key]}, {human(one.value) if isinstance(one.value, int) else one.value}"
    return f"{one.key} {shown_value(one.value)}"


def shown_value(value: object) -> str:
    """A plan's value as YAML would have it, in one line."""
    return str(value).lower() if isinstance(value, bool) else printable(str(value))


VERDICTS = {
    "fits": "Fits in",
    "tight": "Tight in",
    "does not fit": "Does not fit in",
    NOT_SURE: "Not sure whether it fits in",
}
"""The beginning of a verdict's sentence, before the budget."""


def runtime_of(plan: Plan) -> str:
    """The runtime, with the GPU if there is one: ``torch-cuda (rtx-4090)``."""
    return f"{plan.runtime} ({plan.device})" if plan.device and plan.engine.has_own_memory else plan.runtime


def verdict(result: Result, margin: Margin = STATED, how: str = "") -> str:
    """The verdict with a margin as a sentence: what is left, and how certain that is. Empty without a budget.

    ``how`` is put behind the budget, such as "with these changes".
    """
    if result.budget_bytes is None or result.margin_bytes is None:
        return ""
    budget, spare = human(result.budget_bytes), human(abs(result.margin_bytes))
    word = str(result.verdict_with(margin))
    if of := counted(result):
        budget += f" of {of}"
    sure = f"(measured processes differ by up to {human(result.uncertainty_bytes)})"
    left = "too much" if word == "does not fit" else "to spare"
    other = []
    for against, limit in result.limits.items():
        if against != result.against:
            of, rest = counted(result, against), limit - result.bytes[against]
            whose = f"of {of}" if of else "for the process"
            other.append(f" Of {human(limit)} {whose} {human(abs(rest))} are {'left' if rest >= 0 else 'missing'}.")
    if word == NOT_SURE:
        left = "too much" if result.margin_bytes < 0 else "to spare"
        left += f" without what has no rule here, {' and '.join(result.unknown)}"
    return f"{VERDICTS[word]} {budget}{how and ' '}{how}: {spare} {left} {sure}.{''.join(other)}"


def summary(result: Result) -> str:
    """The share of trainable parameters, in training, the moment of the peak, and whose adapters run."""
    adapters = f" The adapters are PEFT {result.peft}'s." if result.peft else ""
    sent = f" A rank sends {human(result.communicated)} in a step." if result.communicated else ""
    if result.task != "train":
        return f"{result.total_parameters:,} parameters. The peak is at: {result.peak_at}.{sent}{adapters}"
    share = 100 * result.trainable_parameters / result.total_parameters
    return (
        f"{result.trainable_parameters:,} of {result.total_parameters:,} parameters train ({share:.3g} %). "
        f"The peak is at: {result.peak_at}.{sent}{adapters}"
    )


def run_summary(result: Result) -> str:
    """The longest batch of a run over several lengths, and whether it fits. Empty for a plan with one length."""
    if result.run is None:
        return ""
    text = f"The longest of the run's {result.run['batches']:,} batches has {result.run['longest_seq']:,} tokens a row."
    if "oom_probability" in result.run:
        fitting, chance = result.run["longest_seq_that_fits"], result.run["oom_probability"]
        text += f" Batches of up to {fitting:,} tokens fit: the run dies with a probability of {100 * chance:.3g} %."
    for share, nbytes in result.run.get("reserved_quantiles", {}).items():
        text += f" {100 * float(share):.0f} % of the batches reserve up to {human(nbytes)}."
    return text


def moments_summary(result: Result) -> str:
    """When a run takes most, and what binds then. Empty for a plan without the block ``run``."""
    largest = result.largest
    if largest is None:
        return ""
    return (
        f"The run takes most in its {largest.moment}, {human(result.bytes['run'])} of the process: {largest.why}."
        f"{LESS.get(largest.moment, '')}"
    )


LESS = {
    "evaluation": " A smaller per_device_eval_batch_size takes less and, where logits are kept, "
    "preprocess_logits_for_metrics: argmax; on a GPU eval_accumulation_steps, too.",
}
"""What a moment takes less with."""


def what_binds(result: Result) -> str:
    """The moment that decides, with the live bytes of the step's peak."""
    live = f" ({human(result.bytes['peak'])} live)" if result.binds == result.peak_at else ""
    return f"what binds is: {result.binds}{live}"


def moment_rows(result: Result) -> list[tuple[str, str, str, str]]:
    """A run's moments for people: name, memory, size, and what binds with what the kernel can drop."""
    return [
        (
            one.moment,
            one.where,
            human(one.bytes),
            f"{one.why}; {human(one.droppable)} are pages of files" if one.droppable else one.why,
        )
        for one in result.run_moments
    ]


def breakdown(result: Result) -> list[tuple[str, str]]:
    """The rows of a result's breakdown: keys of ``bytes`` with their labels."""
    engine, sizes = engine_of(result.runtime), result.bytes
    left_out = _TRAINING_ROWS if result.task != "train" else ()
    rows = [(key, label) for key, label in engine.rows if key in sizes and key not in left_out]
    return [row for row in rows if not engine.always or sizes[row[0]] or row[0] in engine.always]


def result_html(result: Result) -> str:
    """The breakdown as an HTML table, for notebooks."""
    from html import escape

    rows = "".join(
        f"<tr><td>{label}</td><td style='text-align:right'>{human(result.bytes[key])}</td>"
        f"<td style='text-align:right'>{result.bytes[key]:,}</td></tr>"
        for key, label in breakdown(result)
    )
    sentences = (summary(result), run_summary(result), moments_summary(result), verdict(result))
    notes = " ".join(filter(None, (*sentences, *assumed(result.assumptions), *result.warnings)))
    return (
        f"<table><caption>{escape(printable(result.model))}, {escape(result.task)}</caption>"
        f"<tr><th>component</th><th>size</th><th>bytes</th></tr>{rows}</table><p>{escape(notes)}</p>"
    )
