"""The answer to a training file: the plan it means, the estimate, and all that was assumed or ignored."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..engines.assumptions import Assumption
from ..engines.devices import DEFAULT_GPU, find
from ..errors import InputError
from ..methods.default_targets import ADAPTED_EXPERTS
from ..methods.layered import name_of
from ..methods.registry import method_block
from ..moments.options import RunOptions
from ..plans.flat import nested
from ..plans.models import load
from ..plans.plan import Plan, parse_plan
from ..plans.presets import preset_assumptions, with_presets
from ..plans.resolve import resolve
from ..programs.releases import NEWEST, is_older
from ..trainers import formats
from ..trainers.settings import Ignored, Reading
from ..trainers.sharing import settled
from .estimate import estimate
from .result import Result
from .tabular import Brief


@dataclass(frozen=True, repr=False)
class Checked(Brief):
    """What a training file means."""

    tool: str
    """The tool and the release whose keys and defaults are meant."""
    keys: Mapping[str, Any]
    """The keys of the plan as they were understood; every key of it, where there is a plan."""
    assumptions: tuple[Assumption, ...]
    ignored: tuple[Ignored, ...]
    said_by: Mapping[str, str] = field(default_factory=dict)
    """The file's key by the key of the plan, or of its method, that follows from it."""
    format: str = ""
    """The name of the file's format; empty for a shell line."""
    path: Path | None = None
    """The file, where it is one."""
    plan: Plan | None = None
    result: Result | None = None
    error: str = ""
    """Why there is no estimate; empty where there is one."""

    def _brief(self) -> Mapping[str, object]:
        found = {"error": self.error} if self.result is None else self.result._brief()
        return {"tool": self.tool, **found}

    def to_dict(self) -> dict[str, Any]:
        """The result object, or the error, with what the file was understood to mean."""
        answer: dict[str, Any] = {"error": self.error} if self.result is None else self.result.to_dict()
        answer["tool"] = self.tool
        answer["plan"] = dict(self.keys)
        answer["assumptions"] = [asdict(one) for one in self.assumptions]
        rows = (asdict(one) for one in self.ignored)
        answer["ignored"] = [{key: value for key, value in row.items() if value is not False} for row in rows]
        return answer


def check(source: str, keys: Mapping[str, Any] | None = None, tool: str | None = None) -> Checked:
    """Answer a training file, with the plan's ``keys`` in place of what the file says.

    ``source``: the file's path, ``-`` for standard input, a folder, or a shell line. ``tool``: see
    ``trainers.formats.READERS``.

    Raises:
        InputError: for a file that cannot be read. A plan that is refused is an answer with ``error``.

    """
    return answered(formats.read(source, tool), source, keys)


def answered(reading: Reading, source: str, keys: Mapping[str, Any] | None = None) -> Checked:
    """The answer to what a file says. ``source`` and ``keys`` as of ``check``."""
    given = dict(keys or {})
    block = given.get("sharding")
    if isinstance(block, Mapping) and "name" not in block:  # it adds to the file's
        given |= {**block}
        del given["sharding"]
    reading = settled(reading, given)
    if isinstance(given.get("run"), Mapping):
        given["run"] = {**reading.plan.get("run", {}), **given["run"]}
    said = {key: value for key, value in reading.plan.items() if key not in given}
    _where_it_runs(reading, said, given)
    half = {} if _has_bfloat16(given.get("device")) else reading.without_bfloat16
    said |= {key: value for key, value in half.items() if key not in given}
    noted = [one for one in reading.assumptions if one.key not in {*given, *half}]
    if half:
        why = f"{reading.tool} takes it on {given['device']}, which has no bfloat16, and attention is xFormers'"
        noted.append(Assumption("autocast", "float16", why))
    mapping: dict[str, Any] = dict(said)
    read = Checked(
        reading.tool, {}, (), tuple(reading.ignored), reading.said_by, format=reading.format, path=reading.path
    )
    try:
        mapping = nested(said, given)
        for key, problem in reading.problems.items():
            if key not in {*given, *half}:
                raise InputError(problem)
        if "model" not in mapping:
            raise InputError(f"{formats.called(source)} names no model; give --model")
        if reading.lists_layers:
            mapping = _with_listed_layers(mapping)
        if "method" not in mapping and mapping.get("trainer") != "llama-factory":
            noted.append(
                Assumption("method", "full", "neither the file nor an adapter_config.json beside it names one")
            )
        plan, result = _estimated(mapping, noted, given)
        resolved = resolve(plan).plan if plan.engine.runs_steps else plan
        if "target_modules" in set(resolved.preset_keys) - set(plan.preset_keys):
            raise InputError(
                f"PEFT has no default target_modules of {plan.method.title} for {plan.model}; name some in the file"
            )
        plan = resolved
    except InputError as error:
        understood, preset = _understood(mapping)
        return replace(read, keys=understood, assumptions=(*noted, *preset), error=str(error))
    result = replace(result, unknown=(*result.unknown, *(one.key for one in read.ignored if one.unknown)))
    return replace(
        read,
        keys=full_keys(plan),
        assumptions=(*noted, *result.assumptions, *_defaults(plan, mapping)),
        plan=plan,
        result=result,
    )


def _with_listed_layers(mapping: dict[str, Any]) -> dict[str, Any]:
    """A plan with the names of linear layers in the place of all-linear, where PEFT takes experts for such, too.

    The functions of LLaMA-Factory and Axolotl that find the layers see none in experts whose weights are one parameter
    (``find_all_linear_modules``, ``find_all_linear_names``).
    """
    method = mapping.get("method")
    if not isinstance(method, Mapping) or method.get("target_modules") != "all-linear":
        return mapping
    config = load(str(mapping["model"])).config
    if config.family not in ADAPTED_EXPERTS:
        return mapping
    names = sorted({name_of(path) for path in config.modules.all_linear})
    return {**mapping, "method": {**method, "target_modules": names}}


def _estimated(mapping: dict[str, Any], noted: list[Assumption], given: Mapping[str, Any]) -> tuple[Plan, Result]:
    """The plan of a mapping and its estimate.

    Left out, and noted, is what has no rule though no key beside the file asks for it: what presets set, and the
    moments of the run. So is what the file says of a choice that a key beside it takes the place of, such as its
    ``loss_chunk`` where ``loss`` is given.
    """
    while True:
        try:
            plan = parse_plan(mapping)
            return plan, estimate(plan)
        except InputError as error:
            key, replaced = error.key, error.owner
            asked = {"run", *RunOptions.model_fields} & set(given)
            if key in mapping and key not in given and replaced in given:
                noted.append(Assumption(key, None, f"the file's {mapping.pop(key)} goes with its own {replaced}"))
            elif key == "run" and not replaced and mapping.get("run") is not None and not asked:
                mapping["run"] = None
                noted.append(Assumption("run", None, f"the step alone is answered, since {error}"))
            else:
                plan = parse_plan(mapping)
                if replaced or key not in plan.preset_keys or key not in Plan.model_fields:
                    raise
                mapping[key] = Plan.model_fields[key].default
                noted.append(Assumption(key, mapping[key], f"its tool sets {getattr(plan, key)}, but {error}"))


def _understood(mapping: Mapping[str, Any]) -> tuple[dict[str, Any], list[Assumption]]:
    """The keys of a plan that is refused with those of its presets, and what the presets set."""
    filled: dict[str, Any] = dict(mapping)
    whose: dict[str, str] = {}
    with suppress(InputError):
        filled, whose = with_presets(mapping)
        filled["method"] = method_block(filled.get("method", "full"))
    with suppress(InputError):
        spec = load(str(filled.get("model")))
        filled["model"] = spec.name if spec.parameters is not None else filled["model"]
    if filled.get("checkpointing") in ("layer", "offloaded"):
        filled.setdefault("use_reentrant", is_older(str(filled.get("transformers", NEWEST)), "5"))
    values = {**_block(filled.get("method")), **filled}
    defaults = {key: field.default for key, field in Plan.model_fields.items() if not field.is_required()}
    return _plain({**defaults, **filled}), preset_assumptions(values, whose)


def _block(method: Any) -> Mapping[str, Any]:
    return method if isinstance(method, Mapping) else {}


def _where_it_runs(reading: Reading, said: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Training files are for GPUs: where nothing names a device, it is the one that plans of torch-cuda assume."""
    if "runtime" in said or "runtime" in given or ("device" in given and not _is_gpu(given["device"])):
        return
    said["runtime"] = "torch-cuda"
    if "device" not in given:
        reading.note(
            "runtime",
            "torch-cuda",
            f"the file names no device; kernels are those of {DEFAULT_GPU}, and --device names another",
        )


def _has_bfloat16(device: Any) -> bool:
    """Whether a GPU, by default the one that plans of torch-cuda assume, multiplies in bfloat16."""
    with suppress(InputError):  # refused where the plan is read
        return device is None or (find(str(device)).capability or (8, 0)) >= (8, 0)
    return True


def _is_gpu(device: Any) -> bool:
    try:
        return find(str(device)).capability is not None
    except InputError:
        return False  # refused where the plan is read


def _defaults(plan: Plan, mapping: Mapping[str, Any]) -> list[Assumption]:
    """The defaults of the plan that decide most where neither the file, nor its tool, nor an option says them."""
    why = "the plan's default: neither the file nor its tool says it"
    keys = ("batch", "seq", "dtype", "optimizer", *(("torch", "transformers") if plan.engine.runs_steps else ()))
    silent = [
        key
        for key in keys
        if key not in mapping and key not in plan.preset_keys and not (key == "seq" and plan.lengths)
    ]
    return [Assumption(key, getattr(plan, key), why) for key in silent]


def full_keys(plan: Plan) -> dict[str, Any]:
    """Every key of a plan, its method as a block and a built-in model by its name. Their estimate is the plan's."""
    keys = _plain(plan.model_dump(exclude={"method", "model", "llama_cpp"}))
    if plan.checkpointing in ("layer", "offloaded"):
        keys["use_reentrant"] = plan.reentrant
    spec = load(plan.model)
    if spec.asked(plan.transformers, plan.head, plan.sees).head != "seq2seq-lm":
        del keys["target_seq"]  # which a plan without a decoder beside an encoder may not name
    method = {"name": plan.method.name, **plan.method.model_dump(exclude_none=True, exclude={"name"})}
    return {"model": spec.name if spec.parameters is not None else plan.model, "method": method, **keys}


def _plain(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys in the types of JSON."""
    return {
        key: value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value
        for key, value in keys.items()
    }
