"""One optimizer step, from ids to ``zero_grad``: the reference step of ``docs/how-it-works.md``."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..adapters.base import Method
from ..architectures import FAMILIES
from ..architectures.base import Inputs, Sizes
from ..ledger import Ledger, SavedRow
from ..modules import Builder
from ..symbols import Size
from . import optimizers


@dataclass(frozen=True)
class StepOptions:
    """Everything about a step except its sizes: two steps with equal options share their formulas."""

    family: str
    dtype: str
    autocast: str | None = None
    attention: str = "sdpa"
    checkpointing: str = "none"
    optimizer: str = "adamw"
    keep_logits: bool = True
    padding_mask: bool = False
    use_cache: bool = False
    window_reached: bool = False
    gradients_alive: bool = False


@dataclass
class StepTotals:
    """What one step needs, in bytes; integers, or polynomials where sizes were symbols."""

    parameters: Size
    adapters: Size
    buffers: Size
    gradients: Size
    optimizer: Size
    saved: Size
    trainable_parameters: Size
    total_parameters: Size
    moments: dict[str, list[Size]]
    """For each named moment the largest totals above resident (one number, or the undominated ones)."""
    rows: list[SavedRow] = field(default_factory=list)


def run(
    options: StepOptions,
    sizes: Sizes,
    method: Method,
    batch: Size,
    seq: Size,
    symbolic: bool = False,
    keep_rows: bool = False,
    ledger: Ledger | None = None,
) -> StepTotals:
    """Write one step into a ledger and read the totals off it."""
    ledger = ledger or Ledger(symbolic=symbolic, keep_rows=keep_rows)
    build = Builder(ledger, method, options.dtype)
    model = method.wrap_model(build, FAMILIES[options.family](build, sizes))
    inputs = Inputs(
        ledger,
        batch,
        seq,
        "eager" if options.attention == "eager" else "sdpa",
        options.padding_mask,
        options.use_cache and options.checkpointing == "none",
        options.window_reached,
        options.checkpointing == "layer",
    )
    trained = [p for p in ledger.parameters if p.requires_grad]
    gradients: Size = 0
    for p in trained:
        gradients = gradients + p.nbytes * p.copies
    # From the second micro-batch on all are alike: gradients, and the output of the one before.
    for _ in range(2 if options.gradients_alive else 1):
        ledger.phase, ledger.scope = "forward", "inputs"
        ids = ledger.empty((batch, seq), "int64")
        padding = ledger.empty((batch, seq), "int64") if options.padding_mask else None
        ledger.autocast = options.autocast
        out = model(ids, ids, inputs)
        ledger.autocast = None
        ledger.clear_autocast_cache()
        if not options.keep_logits:
            out = out[:1]
        saved, rows = ledger.saved, list(ledger.rows)
        ledger.saved, ledger.rows = 0, []
        ledger.backward(out[0])
    optimizers.step(options.optimizer, ledger, trained)
    del padding

    parameters: Size = 0
    adapters: Size = 0
    trainable: Size = 0
    count: Size = 0
    for p in ledger.parameters:
        count = count + p.numel * p.copies
        parameters = parameters + p.nbytes * p.copies
        if p.added:
            adapters = adapters + p.nbytes * p.copies
        if p.requires_grad:
            trainable = trainable + p.numel * p.copies
    return StepTotals(
        parameters=parameters,
        adapters=adapters,
        buffers=ledger.buffer_bytes,
        gradients=gradients,
        optimizer=optimizers.state_bytes(options.optimizer, trained),
        saved=saved,
        trainable_parameters=trainable,
        total_parameters=count,
        moments={k: v if isinstance(v, list) else [v] for k, v in ledger.peaks.items()},
        rows=rows,
    )
