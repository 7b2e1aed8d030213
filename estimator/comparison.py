"""Fine-tuning methods side by side: each against full fine-tuning, over sequence lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .errors import InputError
from .estimate import Result, estimate, resolve
from .methods import METHODS
from .plan import Plan, parse_plan
from .quantised import FORMATS

Step = Callable[[], None]


REQUIRED: Mapping[str, Mapping[str, Any]] = {
    "adalora": {"total_step": 1000},
    "trainable_tokens": {"token_indices": [0]},
    "prompt_tuning": {"num_virtual_tokens": 20},
    "p_tuning": {"num_virtual_tokens": 20},
    "prefix_tuning": {"num_virtual_tokens": 20},
    "adaption_prompt": {"adapter_len": 10, "adapter_layers": 4},
    "freeze": {"top_layers": 2},
}
"""Keys that have no default, for ``all_methods``."""


def all_methods(keys: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Blocks of every method that goes with a plan's keys, at its defaults but for ``options`` it can take."""
    found = []
    for name, kind in METHODS.items():
        own = {key: value for key, value in options.items() if key in kind.model_fields}
        plain = {"name": name, **REQUIRED.get(name, {})}
        for block in ({**plain, **own}, plain):
            with suppress(InputError):
                resolve(parse_plan({**keys, "method": block}))
                found.append(block)
                break
    return found


@dataclass(frozen=True)
class Share:
    """What a method needs, as fractions of full fine-tuning of the same model at the same length."""

    trainable: float
    saved: float
    """Activations saved for backward."""
    peak: float
    """Tensors alive at once."""
    process: float
    """What the operating system or the driver shows."""


@dataclass(frozen=True)
class Row:
    """One method."""

    label: str
    method: Mapping[str, Any]
    """The plan's method block, checked."""
    results: Mapping[int, Result]
    """By sequence length in tokens."""
    shares: Mapping[int, Share]


@dataclass(frozen=True)
class Comparison:
    """Methods by sequence lengths, all else of the plan equal."""

    plan: Plan
    """With the first method and the length ``at``."""
    seqs: tuple[int, ...]
    at: int
    """The length in tokens at which methods are broken down; not always one of ``seqs``."""
    rows: tuple[Row, ...]
    limits: Mapping[str, int]
    """Bytes to fit, by name of the device or budget."""

    def longest(self, row: Row, limit: int) -> int | None:
        """The longest of the compared lengths up to which a method's process fits ``limit`` bytes."""
        found = None
        for seq in self.seqs:
            if row.results[seq].bytes["process"] > limit:
                break
            found = seq
        return found


def compare(
    keys: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    seqs: Sequence[int],
    at: int,
    limits: Mapping[str, int] | None = None,
    extra: Sequence[int] = (),
    step: Step = lambda: None,
) -> Comparison:
    """Estimate every method at every length, and full fine-tuning to compare with.

    ``keys`` are a plan's keys without method, seq and budget; a device says whose kernels run. ``extra`` lengths
    are for curves and not among ``seqs``. ``step`` is called after each estimate. Raises ``InputError``.
    """
    lengths = sorted({*seqs, *extra, at})
    blocks: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [(_unquantised(keys), {"name": "full"})]
    blocks += [(keys, block) for block in methods]
    plans = [[parse_plan({**own, "method": block, "seq": seq}) for seq in lengths] for own, block in blocks]
    if plans[0][0].task == "infer":
        raise InputError("a comparison is of training steps; `estimator estimate` answers task infer")
    full, *others = [[_estimated(plan, step) for plan in row] for row in plans]
    dumps = [row[0].method.model_dump(exclude_unset=True) for row in plans[1:]]
    rows = tuple(
        Row(
            label(block),
            block,
            dict(zip(lengths, results, strict=True)),
            {seq: _share(one, whole) for seq, one, whole in zip(lengths, results, full, strict=True)},
        )
        for block, results in zip(dumps, others, strict=True)
    )
    if len({row.label for row in rows}) < len(rows):
        raise InputError("the same method is listed twice; list each once")
    return Comparison(plans[1][lengths.index(at)], tuple(sorted(set(seqs))), at, rows, limits or {})


def _unquantised(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plan of full fine-tuning to compare with: of weights in the dtype that is not quantised."""
    if keys.get("dtype") not in FORMATS:
        return keys
    own = ("rest_dtype", "compute_dtype", "double_quant", "bitsandbytes", "kbit_preparation")
    plain = {key: value for key, value in keys.items() if key not in own}
    return {**plain, "dtype": keys.get("rest_dtype", "bfloat16")}


def _estimated(plan: Plan, step: Step) -> Result:
    result = estimate(plan)
    step()
    return result


def _share(one: Result, full: Result) -> Share:
    return Share(
        one.trainable_parameters / full.trainable_parameters,
        one.bytes["saved"] / full.bytes["saved"],
        one.bytes["peak"] / full.bytes["peak"],
        one.bytes["process"] / full.bytes["process"],
    )


def label(block: Mapping[str, Any]) -> str:
    """A method block in a few words: ``LoRA r=16 (all-linear)``."""
    name = block["name"]
    if name not in METHODS:
        return " ".join([name, *(f"{key}={value}" for key, value in block.items() if key != "name")])
    options = METHODS[name]
    words = [options.title]
    rank = options.rank_key
    if rank in options.model_fields:
        words.append(f"{rank}={block.get(rank, options.model_fields[rank].default)}")
    if block.get("adapter"):
        words.append(f"of {label(block['adapter'])}")
    targets = block.get("target_modules")
    if targets is not None:
        words.append(f"({targets if isinstance(targets, str) else ', '.join(targets)})")
    said = ("name", "adapter", "target_modules", rank)
    words += [f"{key}={value}" for key, value in block.items() if key not in said]
    return " ".join(words)


def figures(value: float, decimals: int = 0) -> str:
    """A number for people: ``decimals`` from ten upwards, two significant figures below."""
    if value >= 9.95 or value <= 0:
        return f"{value:.{decimals}f}"
    return f"{value:.{max(1 - math.floor(math.log10(value)), 0)}f}"


OUTSIDE_TENSORS = "allocator, kernels and libraries"


def process_parts(result: Result, gradients_alive: bool = False) -> dict[str, int]:
    """What the process of a result consists of at its peak, in bytes; the parts add up to the process.

    Only what is live at the peak has a part, and what is beside tensors. When the loss's backward peaks, all saved
    activations are alive but the labels, so the split there is exact to 8 bytes per token. In the blocks' backward,
    activations go as gradients come: one part for both.
    ``gradients_alive``: gradients exist from the start (gradient accumulation).
    """
    sizes = result.bytes
    parts = {"parameters": sizes["parameters"] + sizes["buffers"], "optimizer states": sizes["optimizer"]}
    rest = sizes["peak_above_resident"]
    if gradients_alive or result.peak_at == "optimizer step":
        parts["gradients"] = sizes["gradients"]
        rest -= sizes["gradients"]
    if result.peak_at == "loss backward":
        parts["saved activations"] = sizes["saved"]
        parts["temporaries and logits"] = rest - sizes["saved"]
    elif result.peak_at == "optimizer step":
        parts["temporaries and logits"] = rest
    else:
        parts["activations, gradients and temporaries"] = rest
    parts[OUTSIDE_TENSORS] = sizes["process"] - sizes["peak"]
    return parts
