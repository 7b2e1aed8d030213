"""The public functions: one for each question. A plan's keys are keywords, and those of its blocks stand beside them.

Every function takes a model's name (or a config.json, its folder, a hub id, a .gguf file), a ``Plan``, or a mapping of
a plan's keys. All raise ``InputError`` for wrong input, in one line that says how to mend it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import InputError
from .plans.plan import Plan, parse_plan

if TYPE_CHECKING:
    from typing import Unpack

    from transformers import TrainerCallback

    from .answers.advice import Advice
    from .answers.check import Checked
    from .answers.comparison import Comparison
    from .answers.inverse import DeviceAnswer, Solution
    from .answers.max_context import Row
    from .export.expression import Expression
    from .export.sweep import Sweep
    from .plans.keywords import PlanKeys

    Asked = str | Plan | Mapping[str, Any]


def check(file: str, /, format: str | None = None, **keys: Unpack[PlanKeys]) -> Checked:
    """What a training file needs, and the plan that it means. ``keys`` take the place of what the file says.

    ``file``: its path, a folder that holds one, or a shell line. ``format`` names the tool where its keys fit several.
    A plan that is refused is an answer, too: its ``error`` says why.

    Examples:
        >>> checked = check("trl sft --model_name_or_path Qwen/Qwen3-0.6B --use_peft --max_length 2048")
        >>> checked.plan.method.name, checked.plan.dtype, checked.plan.autocast
        ('lora', 'float32', 'bfloat16')

    """
    from .answers.check import check as checked

    return checked(file, keys, format)


def callback(
    *, on_failure: Literal["warn", "stop"] = "warn", output: str | Path | None = None, **keys: Unpack[PlanKeys]
) -> TrainerCallback:
    """A callback of transformers' Trainer: the estimate before the first step, and afterwards what was measured.

    The plan is read from the Trainer's arguments, the model's config and its adapter; ``keys`` take the place of what
    they say. A Trainer's arguments name no length: give ``seq``, unless they are TRL's. ``on_failure`` is what an
    estimate that does not fit does: a warning, or a ``RuntimeError`` before the first step. To the file ``output`` a
    line of JSON is added, which `estimator report` makes a table of. Needs PyTorch and transformers.
    """
    from .answers.callback import callback as made

    return made(on_failure=on_failure, output=output, **keys)


def compare(
    plan: Asked,
    /,
    methods: Sequence[str | Mapping[str, Any]] = ("full", "lora", "ia3"),
    seqs: Sequence[int] = (512, 1024, 2048, 4096),
    devices: Sequence[str] = (),
    **keys: Unpack[PlanKeys],
) -> Comparison:
    """Each method at each length in tokens, with its shares of full fine-tuning.

    Examples:
        >>> compare("smollm2-135m", methods=["full", "lora"], seqs=[512]).records()[1]["method"]
        'LoRA r=8'

    """
    from .answers.comparison import compare as compared
    from .methods.registry import method_block

    given = _keys(plan, keys)
    for key, instead in (("method", "methods"), ("seq", "seqs")):
        if key in given:
            raise InputError(f"compare takes {instead}; leave {key} out")
    if not seqs or not methods:
        raise InputError("compare needs methods and seqs; give at least one of each")
    device, budget = given.pop("device", None), given.pop("budget", None)
    places = list(devices) or ([device] if device else [])
    return compared(given, [method_block(one) for one in methods], sorted(set(seqs)), max(seqs), places, budget)


def sweep(plan: Asked, /, only: Sequence[str] | None = None, **keys: Any) -> Sweep:
    """A table with a row for each combination of values. A list or a ``range`` as a key's value are several values.

    ``only`` are components of the result, by name. ``write`` makes a file of the table, ``to_frame`` a data frame.

    Examples:
        >>> table = sweep("smollm2-135m", method=["full", "lora"], seq=range(512, 4097, 512))
        >>> table.rows
        16

    """
    from .export.sweep import Sweep

    return Sweep(_flat_keys(plan, keys), only)


def advise(plan: Asked, /, margin: str | None = None, **keys: Unpack[PlanKeys]) -> list[Advice]:
    """The cheapest changes after which a step fits its device or budget, the best method first (``method="any"``).

    ``margin`` is what an answer keeps free, as a size or a share: ``500MiB``, ``5%``. By default it is the stated
    uncertainty.

    Examples:
        >>> advise("smollm2-135m", method="lora", seq=8192, budget="4GiB")[0].verdict
        'fits'

    """
    from .answers.advice import advise as advised
    from .plans.margins import Margin

    return advised(_keys(plan, keys), margin=Margin.parse(margin))


def max_seq(plan: Asked, /, multiple_of: int = 1, margin: str | None = None, **keys: Unpack[PlanKeys]) -> Solution:
    """The longest sequence that fits, and what binds.

    Examples:
        >>> max_seq("smollm2-135m", method="lora", budget="8GiB", multiple_of=256).answer
        5632

    """
    return _solve("max-seq", plan, multiple_of, margin, keys)


def max_batch(plan: Asked, /, multiple_of: int = 1, margin: str | None = None, **keys: Unpack[PlanKeys]) -> Solution:
    """The largest micro-batch that fits, and what binds."""
    return _solve("max-batch", plan, multiple_of, margin, keys)


def max_rank(plan: Asked, /, multiple_of: int = 1, margin: str | None = None, **keys: Unpack[PlanKeys]) -> Solution:
    """The highest rank of an adapter that fits, and what binds."""
    return _solve("max-rank", plan, multiple_of, margin, keys)


def max_context(plan: Asked, /, margin: str | None = None, **keys: Unpack[PlanKeys]) -> Row:
    """The longest context that a device's memory allows llama.cpp, and what binds.

    Examples:
        >>> max_context("qwen3-0.6b", dtype="q4_k_m", device="iphone-15-pro").answer
        23552

    """
    from .answers.max_context import longest
    from .plans.margins import Margin

    return longest(parse_plan({"runtime": "llama.cpp", **_keys(plan, keys)}), margin=Margin.parse(margin))


def smallest_device(
    plan: Asked,
    /,
    kind: str | None = None,
    margin: str | None = None,
    devices: Sequence[str] = (),
    **keys: Unpack[PlanKeys],
) -> DeviceAnswer:
    """The smallest device that a step fits: of ``devices``, by default of the catalogue.

    ``kind``: a text in the device's kind, such as GPU or Apple.

    Examples:
        >>> smallest_device("llama-3.2-1b", method="lora", kind="GPU").found.device.name
        'rtx-3080-10gb'

    """
    from .answers.inverse import smallest_device as smallest
    from .plans.margins import Margin

    return smallest(parse_plan(_keys(plan, keys)), kind, margin=Margin.parse(margin), devices=devices)


def formula(plan: Asked, /, component: str = "peak", symbolic: bool = False, **keys: Unpack[PlanKeys]) -> Expression:
    """The bytes of a component as a formula in batch and sequence; ``symbolic``: in the model's sizes, too.

    Examples:
        >>> saved = formula("smollm2-135m", method="lora", component="saved")
        >>> saved.expression
        844976*B*S + 256*S + 4
        >>> {str(symbol): meaning for symbol, meaning in saved.symbols.items()}["S"]
        'sequence length in tokens'

    """
    from .answers.formulas import compile_plan, general_regime
    from .errors import nearest
    from .export.expression import Expression
    from .export.formula import exported
    from .export.formula import formula as component_of

    asked = parse_plan(_keys(plan, keys))
    known = exported(asked)
    if component not in known:
        raise InputError(f"no component '{component}'{nearest(component, known)}; there are {', '.join(known)}")
    return Expression(component_of(compile_plan(asked, general_regime(asked), symbolic), component))


def _solve(question: str, plan: Asked, multiple_of: int, margin: str | None, keys: Mapping[str, Any]) -> Solution:
    from .answers.inverse import solve
    from .plans.margins import Margin

    if type(multiple_of) is not int:
        raise InputError(f"multiple_of is {multiple_of!r}; it must be a whole number")

    return solve(question, parse_plan(_keys(plan, keys)), multiple_of, margin=Margin.parse(margin))


def _flat_keys(plan: Asked, keys: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's keys and those beside them. Raises ``TypeError`` for a key that is given twice, or another plan."""
    if not isinstance(plan, str | Mapping | Plan):
        raise TypeError(f"a plan is a model's name, a Plan or a mapping of keys, not {type(plan).__name__}")
    if isinstance(plan, str):
        given: dict[str, Any] = {"model": plan}
    else:
        given = dict(plan) if isinstance(plan, Mapping) else plan.model_dump(exclude_unset=True)
    if twice := sorted(given.keys() & keys.keys()):
        raise TypeError(f"{twice[0]} is given twice: in the plan and beside it")
    return {**given, **keys}


def _keys(plan: Asked, keys: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's keys, those of its blocks in their places."""
    from .plans.flat import nested

    return nested({}, _flat_keys(plan, keys))
