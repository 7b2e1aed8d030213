"""From a plan to its result: resolve the plan, run the step on a ledger, read the totals and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..engines.replay import Usage
from ..engines.shapes import Shapes, totals_of
from ..errors import InputError
from ..ledger import whole
from ..moments.loading import loaded_on_host
from ..moments.options import RunOptions
from ..plans.flat import mapping_of, nested, with_keys
from ..plans.lengths import quantile
from ..plans.models import load
from ..plans.plan import Plan, parse_plan
from ..plans.resolve import Resolved, resolve
from ..programs import Procedure
from ..steps.step import StepTotals, run
from ..text import human, spans
from .result import COMPONENTS, RESIDENT, Result, make_result, result_of

if TYPE_CHECKING:
    from typing import Unpack

    from ..plans.keywords import PlanKeys

Progress = Callable[[], None]
"""A function that is called after each estimate."""


@with_keys
def estimate(plan: Plan | Mapping[str, Any] | str | PathLike[str] | None = None, /, **keys: Unpack[PlanKeys]) -> Result:
    """Answer a plan: a ``Plan``, a mapping of its keys, or a model's name and the keys themselves.

    Keys of a plan's block (of its method, ``generate``, ``sharding``, ``run`` or ``llama_cpp``) may be given beside the
    plan's own. Keys beside a plan take the place of its own.

    Raises:
        InputError: for wrong input.

    Examples:
        >>> estimate("llama-3.2-1b", method="lora", r=16, seq=2048).peak_at
        'loss backward'

    """
    if isinstance(plan, str | PathLike) and "model" in keys:
        raise InputError("the model is given twice, by itself and as a key; keep one of them")
    if not isinstance(plan, Plan) or keys:
        plan = parse_plan(nested({} if plan is None else mapping_of(plan), keys))
    return answer(plan, {}, tells_ranks=True)


def answer(plan: Plan, kept: dict[str, Any], tells_ranks: bool = False) -> Result:
    """The result of ``estimate``. ``kept`` is of the plan that was answered before, and becomes this one's: of plans in
    a row that differ in batch, sequence, rank and budget alone, a step runs once. ``tells_ranks``: the result has the
    bytes of ranks that differ, too. Raises ``InputError``.
    """
    engine = plan.engine
    if not engine.runs_steps:
        return result_of(plan, engine.figures(plan, engine.model(plan, load)))
    resolved = resolve(plan)
    totals, logs = _kept_of(plan, kept)
    found = totals.of(resolved, plan.batch, plan.seq)
    result = to_result(resolved, found, logs=logs)
    if tells_ranks and not engine.replays:
        result = replace(result, ranks=_of_ranks(resolved, found.ranks))
    if plan.lengths is not None:
        result = replace(result, run=_run_of(plan, result, kept))
    if plan.run is not None or plan.precompute_ref_log_probs:
        from .run_moments import with_moments

        result = with_moments(result, resolved)
    return result


def _kept_of(plan: Plan, kept: dict[str, Any]) -> tuple[Shapes[StepTotals], Any]:
    """The totals and the logs of a plan's steps, whatever their batch, sequence and rank."""
    left_out, ranks = ("batch", "seq", "budget", "lengths", "run", "method"), plan.method.open_values()
    others = [one for one in plan if one[0] not in left_out], [one for one in plan.method if one[0] not in ranks]
    alike = repr(others)  # a path may be no text
    if alike not in kept:
        kept.clear()  # of other plans, which come one after the other
        kept[alike] = Shapes(totals_of, with_numbers=1), plan.engine.logs()
    found: tuple[Shapes[StepTotals], Any] = kept[alike]
    return found


def _of_ranks(resolved: Resolved, alike: Sequence[Sequence[range]]) -> tuple[Mapping[str, Any], ...]:
    """The bytes of ranks that differ, by a run of each step; nothing where all have the same."""
    sharding, plan = resolved.step.sharding, resolved.plan
    of: dict[tuple[tuple[str, int], ...], list[range]] = {}
    for ranks in alike:
        assert sharding is not None
        step = resolved.step._replace(sharding=replace(sharding, rank=ranks[0].start))
        totals = run(step, resolved.sizes(), resolved.method, plan.batch, plan.seq)
        of.setdefault(tuple(live_of(resolved, totals).bytes.items()), []).extend(ranks)
    found = [{"ranks": spans(ranks), "bytes": dict(sizes)} for sizes, ranks in of.items()]
    return tuple(found) if len(found) > 1 else ()


def _run_of(plan: Plan, result: Result, kept: dict[str, Any]) -> dict[str, Any]:
    """A run over the plan's lengths: its batches, the longest of them, and how likely it runs out of memory.

    A run fails at the first batch that does not fit. So the longest length that fits is found among the lengths of the
    batches, each with an estimate of its own.
    """
    assert plan.lengths is not None
    lengths = plan.lengths.read()
    batches = lengths.batches(plan.batch, plan.gradient_accumulation_steps)
    found: dict[str, Any] = {"batches": batches, "longest_seq": plan.seq}
    if result.budget_bytes is not None:
        widths = [width for width, _ in lengths.batch_distribution(plan.batch)]
        # The result says whether the longest fits.
        below, above = (len(widths) - 1, len(widths)) if result.fits else (-1, len(widths) - 1)
        while above - below > 1:
            middle = (below + above) // 2
            one = answer(plan.model_copy(update={"lengths": None, "run": None, "seq": widths[middle]}), kept)
            below, above = (middle, above) if one.fits else (below, middle)
        fitting = widths[below] if below >= 0 else 0
        found["longest_seq_that_fits"] = fitting
        found["oom_probability"] = lengths.probability_of_exceeding(fitting, plan.batch, batches)
    if plan.engine.replays:
        found["reserved_quantiles"] = {}
        distribution = lengths.batch_distribution(plan.batch)
        for share in _QUANTILES:
            alone = plan.model_copy(update={"lengths": None, "run": None, "seq": quantile(distribution, share)})
            found["reserved_quantiles"][str(share)] = answer(alone, kept).bytes["reserved_peak"]
    return found


_QUANTILES = (0.5, 0.9, 0.99)
"""Shares of a run's batches whose largest reserved bytes are estimated, with cached memory given back before each."""


def to_result(
    resolved: Resolved,
    totals: StepTotals,
    says_where: bool = True,
    procedure: Procedure | None = None,
    logs: Any = None,
) -> Result:
    """The result from a step's totals, which are integers.

    With ``says_where``, a warning says where a process runs out of a GPU's memory even if it cannot fit.
    ``procedure`` is what a user wrote in place of the plan's step. ``logs`` are by default those of the plan's steps.
    """
    plan = resolved.plan
    if not plan.engine.replays:
        return live_of(resolved, totals)
    peak = live_peak(totals)
    notes = [_math_note(resolved, totals.math_attention, peak)] if totals.math_attention else []
    resident = sum(whole(getattr(totals, name)) for name in RESIDENT)
    usage = plan.engine.usage(resolved, resident + peak, says_where, logs or plan.engine.logs(procedure))
    return live_of(resolved, totals, usage, notes)


def live_result(plan: Plan, kept: dict[str, Any]) -> Result:
    """The result of ``answer`` without a replay, for its live bytes ``peak``.

    They are never more than the bytes of ``process``. Raises ``InputError``.
    """
    resolved = resolve(plan)
    return live_of(resolved, _kept_of(plan, kept)[0].of(resolved, plan.batch, plan.seq))


def live_of(resolved: Resolved, totals: StepTotals, usage: Usage | None = None, warnings: Sequence[str] = ()) -> Result:
    """The result from a step's totals: of a replayed process its ``usage``, else the live bytes."""
    moments = {name: max(whole(v) for v in values) for name, values in totals.moments.items()}
    components = {name: whole(getattr(totals, name)) for name in COMPONENTS}
    on_host = {"host_pinned": totals.host_pinned} if totals.host_pinned else {}
    if (host := totals.host) is not None:
        on_host |= {f"host_{name}": whole(getattr(host, name)) for name in ("parameters", "gradients", "optimizer")}
        above = max((whole(v) for values in host.moments.values() for v in values), default=0)
        pageable = on_host["host_optimizer"] - whole(host.pinned_states)
        on_host["host_peak"] = totals.host_pinned + pageable + above
    missing: list[str] = []
    if resolved.plan.host_memory is not None:
        loaded, missing = loaded_on_host(resolved, resolved.plan.run or RunOptions.model_validate({}))
        on_host |= {"host_loading": loaded} if loaded else {}
    result = make_result(resolved.plan, resolved.spec, components, moments, usage, on_host, [*warnings, *missing])
    if result.fits is False:
        return result
    unknown = [*result.unknown, *(["the host's memory while it loads"] if missing else [])]
    return replace(result, unknown=(*unknown, *resolved.plan.engine.without_rules(resolved.plan)))


def live_peak(totals: StepTotals) -> int:
    """The most bytes above resident in a step."""
    return max(whole(v) for values in totals.moments.values() for v in values)


def _math_note(resolved: Resolved, why: str, peak: int) -> str:
    """A warning that attention's memory is quadratic, with its cost against a kernel whose memory is not."""
    cost, plan = "", resolved.plan
    step = resolved.step._replace(device=plan.engine.kernels(plan.model_copy(update={"sdpa_kernel": "efficient"})))
    with suppress(InputError):  # the kernel may not support this dtype or head size
        totals = run(step, resolved.sizes(), resolved.method, plan.batch, plan.seq)
        cost = (
            f", here {human(max(peak - live_peak(totals), 0))} more at the peak than the memory-efficient kernel needs"
        )
    return f"attention runs PyTorch's math kernel, whose memory grows with the square of the sequence{cost}: {why}"
