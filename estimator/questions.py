"""The public functions: one for each question. A plan's keys are keywords, and those of its blocks stand beside them.

Every function takes a model's name (or a config.json, its folder, a hub id, a .gguf file), a ``Plan``, or a mapping of
a plan's keys. All raise ``InputError`` for wrong input, in one line that says how to mend it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .answers.result import Result
from .answers.tabular import Drawn
from .errors import InputError, nearest, shown
from .plans.flat import mapping_of, nested, with_keys
from .plans.plan import Plan, parse_plan

if TYPE_CHECKING:
    from typing import Unpack

    from matplotlib.figure import Figure
    from transformers import TrainerCallback

    from .answers.advice import Advice
    from .answers.catalogue import Model
    from .answers.check import Checked
    from .answers.cluster import Cluster
    from .answers.comparison import Comparison
    from .answers.inverse import DeviceAnswer, Solution
    from .answers.max_context import Row
    from .engines.devices import Device
    from .export.expression import Expression
    from .export.sweep import Sweep
    from .plans.keywords import OneDeviceKeys, PlanKeys

    Asked = str | PathLike[str] | Plan | Mapping[str, Any]


def _figure(answer: Drawn) -> Figure:
    from .figures import figure_of

    return figure_of(answer)


def _html(result: Result) -> str:
    from .answers.sentences import result_html

    return result_html(result)


Drawn.figure, Result.html = _figure, _html


@with_keys
def check(file: str | PathLike[str], /, format: str | None = None, **keys: Unpack[PlanKeys]) -> Checked:
    """What a training file needs, and the plan that it means. ``keys`` take the place of what the file says.

    ``file``: its path, a folder that holds one, or a shell line. ``format`` names the tool where its keys fit several.
    A plan that is refused is an answer, too: its ``error`` says why.

    Examples:
        >>> checked = check("trl sft --model_name_or_path Qwen/Qwen3-0.6B --use_peft --max_length 2048")
        >>> checked.plan.method.name, checked.plan.dtype, checked.plan.autocast
        ('lora', 'float32', 'bfloat16')

    """
    from .answers.check import check as checked

    if not isinstance(file, str | PathLike):
        raise InputError(f"file is {shown(file)}; give a path, or a shell line")
    return checked(fspath(file), keys, format)


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


@with_keys
def compare(
    plan: Asked,
    /,
    methods: Sequence[str | Mapping[str, Any]] = ("full", "lora", "ia3"),
    seqs: Sequence[int] | None = None,
    devices: Sequence[str] = (),
    **keys: Unpack[OneDeviceKeys],
) -> Comparison:
    """Each method at each length in tokens, with its shares of full fine-tuning.

    The lengths are those of 512, 1,024, 2,048 and 4,096 that the model takes, where ``seqs`` does not say others.

    Examples:
        >>> compare("smollm2-135m", methods=["full", "lora"], seqs=[512]).records()[1]["method"]
        'LoRA r=8'

    """
    from .answers.comparison import LENGTHS, usual_lengths
    from .answers.comparison import compare as compared
    from .methods.registry import method_block

    given = _keys(plan, keys)
    for key, instead in (("method", "methods"), ("seq", "seqs")):
        if key in given:
            raise InputError(f"compare takes {instead}; leave {key} out")
    blocks = [method_block(one) for one in _listed("methods", methods, str | Mapping)]
    lengths = usual_lengths(given, LENGTHS[:4]) if seqs is None else sorted(set(_listed("seqs", seqs, int)))
    if not lengths or not blocks:
        raise InputError("compare needs methods and seqs; give at least one of each")
    device, budget = given.pop("device", None), given.pop("budget", None)
    places = _listed("devices", devices, str) or ([device] if device else [])
    return compared(given, blocks, lengths, lengths[-1], places, budget)


@with_keys
def sweep(plan: Asked, /, only: Sequence[str] | None = None, **keys: Any) -> Sweep:
    """A table with a row for each combination of values. A list or a ``range`` as a key's value are several values.

    ``only`` are components of the result, by name. ``write`` makes a file of the table, ``to_frame`` a data frame.

    Examples:
        >>> table = sweep("smollm2-135m", method=["full", "lora"], seq=range(512, 4097, 512))
        >>> table.rows
        16

    """
    from .export.sweep import Sweep

    return Sweep(_flat_keys(plan, keys), None if only is None else _listed("only", only, str))


@with_keys
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


@with_keys
def max_seq(plan: Asked, /, multiple_of: int = 1, margin: str | None = None, **keys: Unpack[PlanKeys]) -> Solution:
    """The longest sequence that fits, and what binds.

    Examples:
        >>> max_seq("smollm2-135m", method="lora", budget="8GiB", multiple_of=256).answer
        5632

    """
    return _solve("max-seq", plan, multiple_of, margin, keys)


@with_keys
def max_batch(plan: Asked, /, multiple_of: int = 1, margin: str | None = None, **keys: Unpack[PlanKeys]) -> Solution:
    """The largest micro-batch that fits, and what binds."""
    return _solve("max-batch", plan, multiple_of, margin, keys)


@with_keys
def max_rank(plan: Asked, /, multiple_of: int = 1, margin: str | None = None, **keys: Unpack[PlanKeys]) -> Solution:
    """The highest rank of an adapter that fits, and what binds."""
    return _solve("max-rank", plan, multiple_of, margin, keys)


@with_keys
def max_context(plan: Asked, /, margin: str | None = None, **keys: Unpack[PlanKeys]) -> Row:
    """The longest context that a device's memory allows an engine, llama.cpp if none is named, and what binds.

    Examples:
        >>> max_context("qwen3-0.6b", dtype="q4_k_m", device="iphone-15-pro").answer
        23552

    """
    from .answers.max_context import RUNTIME, longest
    from .engines.registry import claimed
    from .plans.margins import Margin

    asked = _keys(plan, keys)
    return longest(parse_plan({"runtime": claimed(asked) or RUNTIME, **asked}), margin=Margin.parse(margin))


@with_keys
def smallest_device(
    plan: Asked,
    /,
    kind: str | None = None,
    margin: str | None = None,
    devices: Sequence[str] = (),
    **keys: Unpack[OneDeviceKeys],
) -> DeviceAnswer:
    """The smallest device that a step fits: of ``devices``, by default of the catalogue.

    ``kind``: a text in the device's kind, such as GPU or Apple.

    Examples:
        >>> smallest_device("llama-3.2-1b", method="lora", kind="GPU").found.device.name
        'rtx-3080-10gb'

    """
    from .answers.inverse import smallest_device as smallest
    from .plans.margins import Margin

    names = _listed("devices", devices, str)
    return smallest(_keys(plan, keys), _text("kind", kind), margin=Margin.parse(margin), devices=names)


@with_keys
def smallest_cluster(
    plan: Asked,
    /,
    devices: Sequence[str] = (),
    max_cards: int = 8,
    margin: str | None = None,
    **keys: Unpack[OneDeviceKeys],
) -> Cluster:
    """How many of which card a step fits on, and in which layout: all that fit, those with the fewest cards first.

    ``devices``: the cards to choose from, by name. The batch is one rank's.

    Examples:
        >>> smallest_cluster("smollm2-135m", devices=["rtx-4090", "t4"], max_cards=1).best.device.name
        't4'

    """
    from .answers.cluster import smallest_cluster as smallest
    from .plans.margins import Margin

    names = _listed("devices", devices, str)
    return smallest(_keys(plan, keys), names, max_cards, margin=Margin.parse(margin))


@with_keys
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
    from .export.components import exported
    from .export.expression import Expression
    from .export.formula import formula as component_of

    asked = parse_plan(_keys(plan, keys))
    known = exported(asked)
    if not isinstance(component, str) or component not in known:
        raise InputError(
            f"no component {shown(component)}{nearest(shown(component), known)}; there are {', '.join(known)}"
        )
    if not isinstance(symbolic, bool):
        raise InputError(f"symbolic is {shown(symbolic)}; it must be True or False")
    compiled = compile_plan(asked, general_regime(asked), symbolic, images=True)
    return Expression(component_of(compiled, component), compiled.regime)


def models(text: str | None = None) -> list[Model]:
    """The built-in models; of a ``text``, those that have it in name, hub id or family.

    Examples:
        >>> models("qwen3-0.6b")
        [Model(name='qwen3-0.6b', family='qwen3', parameters=596049920)]

    """
    from .answers.catalogue import models as listed

    return listed(_text("text", text))


def devices(text: str | None = None) -> list[Device]:
    """The devices by usable memory; of a ``text``, those that have it in name, label or kind.

    Examples:
        >>> devices("rtx-4090")[-1]
        Device(name='rtx-4090', kind='GPU, consumer', usable='23.51 GiB')

    """
    from .answers.catalogue import devices as listed

    return listed(_text("text", text))


def _text(name: str, value: Any) -> str | None:
    """A text, or ``None``. Raises ``InputError``."""
    if not isinstance(value, str | None):
        raise InputError(f"{name} is {shown(value)}; give a text")
    return value


def _solve(question: str, plan: Asked, multiple_of: int, margin: str | None, keys: Mapping[str, Any]) -> Solution:
    from .answers.inverse import solve
    from .plans.margins import Margin

    if type(multiple_of) is not int:
        raise InputError(f"multiple_of is {multiple_of!r}; it must be a whole number")

    return solve(question, parse_plan(_keys(plan, keys)), multiple_of, margin=Margin.parse(margin))


def _listed(name: str, value: Any, kind: Any) -> list[Any]:
    """A list of values of a kind; one such value is a list of one. Raises ``InputError``."""
    value = value.tolist() if hasattr(value, "tolist") else value
    items = [value] if isinstance(value, kind) or not isinstance(value, Iterable) else list(value)
    items = [one.tolist() if hasattr(one, "tolist") else one for one in items]
    if wrong := [one for one in items if not isinstance(one, kind) or isinstance(one, bool)]:
        what = "whole numbers" if kind is int else "names"
        raise InputError(f"{name} has {shown(wrong[0])}; give a list of {what}")
    return items


def _flat_keys(plan: Asked, keys: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's keys and those beside them. Raises ``InputError`` for a key that is given twice, or another plan."""
    given = mapping_of(plan)
    if twice := sorted(given.keys() & keys.keys()):
        raise InputError(f"{twice[0]} is given twice: in the plan and beside it; keep one of them")
    return {**given, **keys}


def _keys(plan: Asked, keys: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's keys, those of its blocks in their places."""
    return nested({}, _flat_keys(plan, keys))
