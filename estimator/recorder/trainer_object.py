"""What a user's own trainer is: its step, and what its objects say of its models. Needs PyTorch and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import InputError
from ..ledger import whole
from ..methods.registry import read_adapter_config
from ..programs.libraries import quiet
from ..programs.program import Call, Program, Weight
from ..programs.trainer_calls import MODEL
from ..programs.trainer_programs import TrainerProgram
from ..steps.trainers import DROPOUTS
from .calls import dtype_name
from .hugging_face import first_line, told
from .trainer_step import (
    base_of,
    batches_of_generation,
    is_without_head,
    model_within,
    models_of,
    record_trainer_step,
)


class OwnTrainer(NamedTuple):
    """A trainer's step, at the sizes of its own batches."""

    model: str
    """The name of the model's class, without an adapter's."""
    step: TrainerProgram
    reference: str
    """What its policy is compared with: ``none``, ``copy`` or ``adapter-off``."""
    rows: int
    """Rows that a model gets for each one of the batch."""
    keys: dict[str, Any]
    """Keys of a plan that the trainer's objects say."""
    every: int
    """Batches after which it generates anew; 0 if it does not generate."""
    others: dict[str, tuple[Path, str]]
    """Its other models by their names: the file of each one's config, and its dtype."""


def recorded(trainer: Any, folder: Path) -> OwnTrainer:
    """A trainer's step. What it is made with is written to a folder, as files of a training.

    Raises ``InputError`` where the step has no rule.
    """
    model = model_within(trainer.model)
    adapters = getattr(model, "peft_config", {})
    base = base_of(model)
    if len(adapters) > 1:
        raise InputError(f"the trainer's model has {len(adapters)} adapters, and there is a rule for one")
    with told(lambda error: f"the loop of {type(trainer).__name__} does not run so ({first_line(error)})"), quiet():
        program = record_trainer_step(trainer)
    (folder / "training_args.json").write_text(trainer.args.to_json_string(), encoding="utf-8")
    drops = any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))
    config = {**base.config.to_dict(), "architectures": [type(base).__name__]}
    config |= {} if drops else {key: 0.0 for key in DROPOUTS if key in config}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    others: dict[str, tuple[Path, str]] = {}
    for name, other in models_of(trainer).items():
        if name not in ("model", "reference"):
            others[name] = folder / f"{name}.json", dtype_name(other.dtype)
            keys = {**other.config.to_dict(), "architectures": [type(other).__name__]}
            others[name][0].write_text(json.dumps(keys), encoding="utf-8")
    method: dict[str, Any] = {"name": "full"}
    for adapter in adapters.values():
        adapter.save_pretrained(folder)
        method = read_adapter_config(folder)
        dtypes = {dtype_name(p.dtype) for p in model.parameters() if p.requires_grad}
        if base is model and len(dtypes) == 1 and dtypes != {"float32"}:  # not cast, as transformers adds an adapter
            method["adapter_dtype"] = dtypes.pop()
    if not drops and "lora_dropout" in method:
        method["lora_dropout"] = 0.0
    head = {"head": "feature-extraction"} if is_without_head(base) else {}
    rows, seq = _largest(program)
    batch = trainer.args.per_device_train_batch_size
    return OwnTrainer(
        type(base).__name__,
        TrainerProgram(program),
        _reference(program),
        max(rows // batch, 1),
        {"batch": batch, "seq": seq, "dtype": dtype_name(base.dtype), "method": method, **head},
        batches_of_generation(trainer),
        others,
    )


def _calls(program: Program) -> list[dict[str, Any]]:
    """The keywords of the calls of models."""
    return [dict(event.keywords) for event in program.before if isinstance(event, Call) and event.op == MODEL]


def _largest(program: Program) -> tuple[int, int]:
    """The most rows that a model gets, and the most tokens of a row. Raises ``InputError`` where it gets no tokens."""
    shapes = {made.slot: made.shape for event in program.before if isinstance(event, Call) for made in event.out}
    shapes |= {program.inputs[one.name]: one.shape for one in program.buffers}
    ids = [call["input_ids"] for call in _calls(program)]
    if any(isinstance(one, Weight) for one in ids):  # whose rows and tokens would be numbers
        raise InputError(
            "the trainer generates for several batches, and gives its model input_ids of a batch that it did not "
            "generate; there is no rule for that; take gradient_accumulation_steps: 1"
        )
    given = [shapes[one.slot] for one in ids if one.slot in shapes]
    if not given:
        raise InputError("the trainer's step gives its model no input_ids; there is no rule for that")
    return max(whole(shape[0]) for shape in given), max(whole(shape[1]) for shape in given)


def _reference(program: Program) -> str:
    calls = _calls(program)
    if any(call["model"] == "reference" for call in calls):
        return "copy"
    return "none" if all(call["adapter"] for call in calls) else "adapter-off"
