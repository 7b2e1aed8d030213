"""A comparison of fine-tuning methods with full fine-tuning, over sequence lengths and devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..bases.formats import FORMATS
from ..engines.assumptions import Assumption
from ..engines.devices import find
from ..errors import InputError
from ..io.fields import parse_size
from ..methods.registry import METHODS
from ..plans.models import load
from ..plans.plan import Plan, parse_plan
from ..plans.refusals import check_question
from ..plans.resolve import resolve, tokens_of_images
from .estimate import Progress, answer, live_result
from .result import Result
from .tabular import Drawn

REQUIRED: Mapping[str, Mapping[str, Any]] = {
    "adalora": {"total_step": 1000},
    "trainable_tokens": {"token_indices": [0]},
    "prompt_tuning": {"num_virtual_tokens": 20},
    "p_tuning": {"num_virtual_tokens": 20},
    "prefix_tuning": {"num_virtual_tokens": 20},
    "adaption_prompt": {"adapter_len": 10, "adapter_layers": 4},
    "freeze": {"top_layers": 2},
}
"""Values that ``all_methods`` uses for keys without a default."""


def all_methods(
    keys: Mapping[str, Any], options: Mapping[str, Any], left_out: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """The block of every method that goes with a plan's keys: its defaults, and the ``options`` that it takes.

    Why others are ``left_out`` is written there, by their titles.
    """
    found = []
    for name, kind in METHODS.items():
        refused = ""
        own = {key: value for key, value in options.items() if key in kind.model_fields}
        plain = {"name": name, **REQUIRED.get(name, {})}
        for block in ({**plain, **own}, plain):
            try:
                live_result(parse_plan({**keys, "method": block}), {})
            except InputError as error:
                refused = refused or str(error)
            else:
                found.append(block)
                break
        else:
            if left_out is not None:
                left_out[kind.title] = refused
    return found


@dataclass(frozen=True)
class Share:
    """The needs of a method, as fractions of those of full fine-tuning of the same model at the same length."""

    trainable: float
    saved: float
    """Activations saved for backward."""
    peak: float
    """The most tensors that are live at once."""
    process: float
    """The memory that the operating system or the driver shows."""


@dataclass(frozen=True)
class Row:
    """The results of one method."""

    label: str
    method: Mapping[str, Any]
    """The method's block of the plan."""
    results: Mapping[int, Result]
    """Results on the first device, by sequence length in tokens."""
    on: Mapping[str, Mapping[int, Result]]
    """Results by device or budget, then by length; lengths for curves only are left out."""
    shares: Mapping[int, Share]
    """Shares by length; lengths for curves only are left out."""


@dataclass(frozen=True, repr=False)
class Comparison(Drawn):
    """Plans that differ only in method, sequence length and device."""

    plan: Plan
    """The plan with the first method, the first device and the length ``at``."""
    seqs: tuple[int, ...]
    at: int
    """The length in tokens at which methods are broken down; not always one of ``seqs``."""
    rows: tuple[Row, ...]
    limits: Mapping[str, int]
    """The bytes of each device or budget, by name."""
    assumptions: tuple[Assumption, ...]
    """The assumptions behind the limits."""

    def _brief(self) -> Mapping[str, object]:
        return {"model": self.plan.model, "methods": [row.label for row in self.rows], "seqs": list(self.seqs)}

    def records(self) -> list[dict[str, Any]]:
        """A row for each method and length, with its components in bytes."""
        return [
            {"method": row.label, "seq": seq, **row.results[seq].bytes, "fits": row.results[seq].fits}
            for row in self.rows
            for seq in self.seqs
        ]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as an object."""
        return {"plan": self.plan.model_dump(mode="json", exclude_unset=True), "rows": self.records()}

    def reach(self, row: Row, name: str) -> str:
        """The longest of ``seqs`` with which a method fits a device, and the longest with which it is tight."""
        verdicts = [row.on[name][seq].verdict for seq in self.seqs]
        tight = next((i for i, verdict in enumerate(verdicts) if verdict != "fits"), len(verdicts))
        beyond = next((i for i, verdict in enumerate(verdicts) if verdict == "does not fit"), len(verdicts))
        words = [f"to {self.seqs[tight - 1]}"] if tight else []
        words += [f"tight to {self.seqs[beyond - 1]}"] if beyond > tight else []
        return f"{', '.join(words)} tokens" if words else "at no length"

    def groups(self) -> list[list[str]]:
        """Groups of devices and budgets where the methods need the same bytes, those of ``Row.results`` first."""
        found: dict[tuple[int, ...], list[str]] = {}
        lengths = sorted({*self.seqs, self.at})
        found[tuple(row.results[seq].bytes["process"] for row in self.rows for seq in lengths)] = []
        for name in self.limits:
            sizes = tuple(row.on[name][seq].bytes["process"] for row in self.rows for seq in lengths)
            found.setdefault(sizes, []).append(name)
        return list(found.values())


LENGTHS = (512, 1024, 2048, 4096, 8192)
"""Tokens of a row that are compared where none are asked for."""


def usual_lengths(keys: Mapping[str, Any], lengths: Sequence[int] = LENGTHS) -> list[int]:
    """Those of ``lengths`` that the model of ``keys`` takes: with room for a row's images, within learned positions.

    Where none is, the one that comes nearest. Raises ``InputError``.
    """
    plan = _trained(keys)
    spec = load(plan.model).asked(plan.transformers, plan.head, plan.sees)
    least, most = tokens_of_images(plan), spec.positions
    return [n for n in lengths if least <= n <= most] or [int(min(max(least, lengths[0]), most))]


def _trained(keys: Mapping[str, Any]) -> Plan:
    """A plan of keys that says which model is trained, by which engine. Raises ``InputError`` where none is."""
    named = ("model", "dtype", "runtime", "llama_cpp", "images", "image_size", "video_frames", "freeze", "head")
    plan = parse_plan({key: value for key, value in keys.items() if key in named})
    check_question("a comparison of training steps", plan)
    return plan


def compare(
    keys: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    seqs: Sequence[int],
    at: int,
    devices: Sequence[str] = (),
    budget: str | None = None,
    extra: Sequence[int] = (),
    progress: Progress = lambda: None,
) -> Comparison:
    """Estimate every method at every length on every device, and full fine-tuning on the first device.

    ``keys`` are a plan's keys without method, seq, device and budget. Each device has its own runtime, kernels and
    context. A ``budget`` is compared with the bytes on the first device. ``extra`` are more lengths for the curves of
    the first device. ``progress`` is called after each estimate. Raises ``InputError``.
    """
    _trained(keys)
    limit = None if budget is None else parse_size(str(budget))
    names = list(dict.fromkeys(find(str(name)).name for name in devices))
    places: list[Mapping[str, Any]] = [{**keys, "device": name} for name in names]
    if not names:
        places = [keys if budget is None else {**keys, "budget": budget}]
    compared = sorted({*seqs, at})
    lengths = sorted({*compared, *extra})

    kept: dict[str, Any] = {}

    def estimated(plan: Plan) -> Result:
        result = answer(plan, kept)
        progress()
        return result

    def plans(place: Mapping[str, Any], block: Mapping[str, Any], wanted: Sequence[int]) -> dict[int, Plan]:
        return {seq: parse_plan({**place, "method": block, "seq": seq}) for seq in wanted}

    reference = plans(_unquantised(places[0]), {"name": "full"}, compared)
    check_question("a comparison of training steps", reference[at])
    own = [
        [plans(place, block, compared if number else lengths) for number, place in enumerate(places)]
        for block in methods
    ]
    dumps = [by_place[0][at].method.model_dump(exclude_unset=True) for by_place in own]
    labels = [label(block) for block in dumps]
    if len(set(labels)) < len(labels):
        raise InputError("the same method is listed twice; list each once")
    full = {seq: estimated(plan) for seq, plan in reference.items()}
    if not own:
        raise InputError("no method goes with these keys; name one, such as lora, to see why")
    first = [by_length[at] for by_length in own[0]]
    like = [next(i for i in range(number + 1) if _answers_for(first[i], plan)) for number, plan in enumerate(first)]
    rows = []
    for title, block, by_place in zip(labels, dumps, own, strict=True):
        found: list[dict[int, Result]] = []
        for number, by_length in enumerate(by_place):
            if like[number] < number:
                found.append({seq: _moved(found[like[number]][seq], plan) for seq, plan in by_length.items()})
                continue
            known = {seq: full[seq] for seq, plan in by_length.items() if reference.get(seq) == plan}
            found.append({seq: known.get(seq) or estimated(plan) for seq, plan in by_length.items()})
        results = found[0]
        on = dict(zip(names, found, strict=False))
        if limit is not None:
            on["budget"] = {seq: results[seq].held_against(limit) for seq in compared}
        rows.append(Row(title, block, results, on, {seq: _share(results[seq], full[seq]) for seq in compared}))
    limits = {} if limit is None else {"budget": limit}
    limits = {**{name: _limit(plan) for name, plan in zip(names, first, strict=False)}, **limits}
    return Comparison(
        first[0],
        tuple(sorted(set(seqs))),
        at,
        tuple(rows),
        limits,
        tuple(dict.fromkeys(one for plan in first for one in plan.assumptions())),
    )


def _answers_for(one: Plan, other: Plan) -> bool:
    """Whether two plans that differ in their device need the same bytes.

    On a GPU the limit matters too, since PyTorch's allocator gives cached memory back before it runs out.
    """
    if one is other:
        return True
    if resolve(one).step != resolve(other).step:
        return False
    if not one.engine.replays:
        return True
    return one.engine.beside(one) == other.engine.beside(other) and one.budget_bytes() == other.budget_bytes()


def _moved(result: Result, plan: Plan) -> Result:
    """A result for another device where the plan needs the same bytes."""
    return replace(result.held_against(_limit(plan)), assumptions=plan.assumptions())


def _limit(plan: Plan) -> int:
    """The bytes of a plan's device."""
    limit = plan.budget_bytes()
    assert limit is not None
    return limit


def _unquantised(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys of full fine-tuning to compare with, which has no quantised weights."""
    if keys.get("dtype") not in FORMATS:
        return keys
    own = (
        *("rest_dtype", "compute_dtype", "double_quant", "quant_storage", "bitsandbytes"),
        *("weight_group_size", "kbit_preparation"),
    )
    plain = {key: value for key, value in keys.items() if key not in own}
    return {**plain, "dtype": keys.get("rest_dtype", "bfloat16")}


def _share(one: Result, full: Result) -> Share:
    return Share(
        one.trainable_parameters / full.trainable_parameters,
        one.bytes["saved"] / full.bytes["saved"],
        one.bytes["peak"] / full.bytes["peak"],
        one.bytes["process"] / full.bytes["process"],
    )


def label_of(plan: Plan) -> str:
    """A plan's method in a few words; of inference without one, that it is inference."""
    if plan.task == "infer" and plan.method.name == "full":
        return "inference"
    return label({"name": plan.method.name, **plan.method.model_dump(exclude_unset=True)})


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
