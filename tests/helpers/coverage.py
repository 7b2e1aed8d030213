"""A class of transformers asked and measured, and the table of what was found: ``tests/data/coverage.tsv``.

Those of causal models are in ``causal_classes.py``, in several variants; those of other heads are all that the registry
of a head has, in one (``small_configs.py``).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from estimator.programs.heads import HEADS
from estimator.witnesses.measure import run_step
from tests.cases.causal_classes import CLASSES
from tests.cases.head_classes import LENGTHS, OWN_LENGTHS
from tests.helpers.routing import routed
from tests.helpers.small_configs import classes, small_config

TABLE = Path(__file__).parents[1] / "data" / "coverage.tsv"
VARIANTS: dict[str, dict[str, Any]] = {
    "full float32": {"dtype": "float32"},
    "full bfloat16": {"dtype": "bfloat16"},
    "LoRA float32": {"dtype": "float32", "method": {"name": "lora", "r": 4, "target_modules": "all-linear"}},
    "eager float32": {"dtype": "float32", "attention": "eager"},
    "checkpointed float32": {"dtype": "float32", "checkpointing": "layer"},
}
QUANTITIES = ("parameters", "buffers", "saved", "peak_above_resident")
TOLERANCE = 64
"""Bytes. PyTorch's allocator rounds a block up to so many; the numbers of an empty tensor's block depend on it."""
ORDINARY = 100
"""Token ids below it have no meaning of their own in any of the classes' configs."""


HEADS_ASKED = (
    "sequence-classification", "token-classification", "question-answering", "masked-lm", "seq2seq-lm",
    "speech-seq2seq", "ctc", "audio-classification", "image-classification", "image-text",
)  # fmt: skip
"""The heads beside a causal language model's."""


def classes_of(head: str) -> list[str]:
    """The classes of a head, by model types."""
    return sorted(CLASSES) if head == "causal-lm" else classes(head)


def variants_of(head: str) -> list[str]:
    """The variants in which the classes of a head are asked about."""
    return list(VARIANTS) if head == "causal-lm" else ["full float32"]


class Row(NamedTuple):
    """What was found for a class and a variant.

    ``equal``, ``apart``; ``refused``: the real step runs; ``neither``: it does not, and the estimate is refused, too;
    ``unmeasured``: there is an estimate of a step that does not run.
    """

    head: str
    name: str
    variant: str
    found: str
    differences: tuple[int, ...] = ()
    """The estimate less the measurement, of each of ``QUANTITIES``."""
    reason: str = ""


def check(head: str, name: str, variant: str, folder: str) -> Row:
    """Compare an estimate with a measured step."""
    where, path = (head, name, variant), Path(folder) / f"{name}.json"
    try:
        config = {**CLASSES[name], "model_type": name} if head == "causal-lm" else small_config(head, name)
    except Exception as error:
        return Row(*where, "neither", (), f"its config: {type(error).__name__}: {_plain(error, folder)}")
    path.write_text(json.dumps(config))
    try:
        plan, estimated = _estimated({"model": str(path), "batch": 2, **_lengths(head, name), **VARIANTS[variant]})
    except InputError as error:
        runs = _runs(name, variant) if head == "causal-lm" else not re.search(_NOT_OURS, str(error))
        return Row(*where, "refused" if runs else "neither", (), _plain(error, folder))
    except Exception as error:
        return Row(*where, "apart", (), f"the estimate fails: {type(error).__name__}: {_plain(error, folder)}")
    try:
        with routed():
            measured = run_step(resolve(plan), ORDINARY)
    except Exception as error:
        return Row(*where, "unmeasured", (), f"{type(error).__name__}: {_plain(error, folder)}")
    differences = [estimated[key] - measured[key] for key in QUANTITIES]
    without = estimated["peak_above_resident"] - measured["peak_without_matmul_scratch"]
    differences[-1] = min(differences[-1], without, key=abs)
    equal = not any(differences[:2]) and all(abs(n) <= TOLERANCE for n in differences)
    return Row(*where, "equal" if equal else "apart", tuple(differences))


_NOT_OURS = "the model does not run with|transformers cannot build the model|transformers refuses the config"
"""What a refusal says that the class itself raises."""
_TOO_SHORT = re.compile(r"is less than the ([\d,]+) tokens of a row's images")


def _estimated(keys: dict[str, Any]) -> tuple[Plan, Any]:
    """A plan and its bytes, with as many tokens as its images take and some more."""
    try:
        plan = parse_plan(keys)
        return plan, estimate(plan).bytes
    except InputError as error:
        found = _TOO_SHORT.search(str(error))
        if not found:
            raise
        return _estimated({**keys, "seq": int(found[1].replace(",", "")) + 20})


def _lengths(head: str, name: str) -> dict[str, Any]:
    if head == "causal-lm":
        return {"seq": _length(name)}
    text = {"seq": _length(name)} if HEADS[head].text else {}
    return {"head": head, **text, **LENGTHS.get(head, {}), **OWN_LENGTHS.get(name, {})}


def _runs(name: str, variant: str) -> bool:
    """Whether the real step of a plan that is refused runs."""
    keys = VARIANTS[variant]
    config = AutoConfig.for_model(name, **{key: x for key, x in CLASSES[name].items() if key != "architectures"})
    options = {"dtype": getattr(torch, keys["dtype"])}
    if "attention" in keys:
        options["attn_implementation"] = keys["attention"]
    try:
        model = AutoModelForCausalLM.from_config(config, **options).train()
        if "method" in keys:
            options = {key: x for key, x in keys["method"].items() if key != "name"}
            model = peft.get_peft_model(model, peft.LoraConfig(**options))
        if "checkpointing" in keys:
            model.gradient_checkpointing_enable()
        ids = torch.arange(2 * _length(name)).reshape(2, -1) + 3
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    except Exception:
        return False
    return True


def _length(name: str) -> int:
    return 11 if name == "reformer" else 12  # it takes multiples of 11


def _plain(error: Exception, folder: str) -> str:
    text = " ".join(str(error).split()).replace(f"{folder}/", "")
    return text if len(text) <= 160 else text[:157] + "..."


def read_table() -> tuple[str, list[Row]]:
    """The first line of the table, and its rows."""
    first, _, *lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = []
    for line in lines:
        head, name, variant, found, *numbers, reason = line.split("\t")
        rows.append(Row(head, name, variant, found, tuple(int(n) for n in numbers if n), reason))
    return first.removeprefix("# "), rows
