"""Steps of trainers as they come with the package: which there are, and their files.

A file has the steps of one trainer under one release. Their sizes are expressions of the batch B, the sequence S, the
tokens of a prompt, the model's vocabulary and its hidden size. Nothing in a file is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.files import parse_json, read_text, specs_folder
from ..ledger.sizes import Size, whole
from ..operators.table import RULES
from .program import Backward, Call, Event, GradMode, Program, Stored
from .program_files.limits import FORMAT, LONGEST_FILE
from .program_files.reading import Reader
from .program_files.writing import events_text, plain, slot_text
from .rows import Rows, written_out
from .substitution import DTYPE, sizes_symbol, substitute
from .trainer_calls import FUNCTIONS, GENERATE, MODEL, Key

SYMBOLS = (
    "B",
    "S",
    "prompt_seq",
    "vocab_size",
    "hidden_size",
    "num_generations",
    "prompts",
    "completions",
    "desirable",
)
"""The sizes of a step: rows of the batch as the trainer counts them, tokens of a row, and the others by their names.
``prompts`` and ``completions`` are those of a generation, which has several completions of each prompt; ``desirable``
are half of a batch's rows, where some are."""


def folder() -> Path:
    """The folder of the steps that come with the package."""
    return specs_folder() / "trainers"


@dataclass(frozen=True, eq=False)
class TrainerProgram:
    """A step of a trainer for all sizes. Each is read once."""

    program: Program

    def at(self, values: Mapping[str, Size], dtype: str, reference: tuple[Mapping[str, Size], str]) -> Program:
        """The step at these sizes, for a model of a dtype. ``reference``: the same of what the reference gives, from
        its call to the next model's, or to the end of what needs no gradient.
        """
        own = values, dtype

        def substituted(events: Sequence[Any]) -> tuple[Event, ...]:
            return substitute(replace(self.program, before=tuple(events)), *own).before

        made: list[Any] = []
        rows = 0
        for event in self.program.before:
            if isinstance(event, GradMode):
                own = values, dtype
            elif isinstance(event, Call) and event.op == MODEL:
                own = reference if dict(event.keywords)["model"] == "reference" else (values, dtype)
            if isinstance(event, Rows):
                rows = whole(event.number if isinstance(event.number, int) else event.number.substitute(values))
                made.append(Rows(rows, substituted(event.events)))
            else:
                made += [event] if isinstance(event, Backward) else substituted([event])
        around = substitute(replace(self.program, before=()), values, dtype)
        return replace(around, before=written_out(made, rows))


def written(release: str, versions: Mapping[str, str], steps: Mapping[Key, Program]) -> str:
    """The text of a trainer's steps. Of equal ones the first is written, and named by the others."""
    rows: list[dict[str, Any]] = []
    texts: dict[str, int] = {}
    for key, program in steps.items():
        body = {
            "inputs": [
                [one.name, slot_text(program.inputs[one.name]), one.dtype, *plain(one.shape)] for one in program.buffers
            ],
            "attributes": [[one.name, one.dtype, *plain(one.shape)] for one in program.attributes],
            "events": events_text(program.before),
        }
        text = json.dumps(body)
        rows.append({**key._asdict(), **({"like": texts[text]} if text in texts else body)})
        texts.setdefault(text, len(rows) - 1)
    head = json.dumps({"format": FORMAT, "release": release, "versions": dict(versions)})[:-1]
    return head + ', "steps": [\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]}\n"


@lru_cache(maxsize=64)
def _read(trainer: str, release: str, key: Key) -> TrainerProgram:
    """A step of a trainer. Raises ``InputError`` for a file that is damaged."""
    return TrainerProgram(_program(_reader(trainer, release), steps_of(trainer, release)[key]))


def _reader(trainer: str, release: str) -> Reader:
    reader = Reader(str(folder() / f"{trainer}-{release}.json"), {*RULES, MODEL, GENERATE, *FUNCTIONS})
    reader.of_trainer = True
    for name in SYMBOLS:
        sizes_symbol(name)
    reader.symbols.update(SYMBOLS)
    return reader


@lru_cache(maxsize=8)
def steps_of(trainer: str, release: str) -> Mapping[Key, Mapping[str, Any]]:
    """The steps of a trainer under a release, as they are in its file. Raises ``InputError`` for a damaged one."""
    path = folder() / f"{trainer}-{release}.json"
    if not path.is_file():
        return {}
    reader = _reader(trainer, release)
    data = reader.object_(parse_json(read_text(path, "steps of a trainer", LONGEST_FILE)), "the file")
    reader.format(data)
    rows = reader.list_(data.get("steps"), "steps")
    keys = [Key(**{name: row[name] for name in Key._fields if name in row}) for row in rows]
    return {key: rows[row["like"]] if "like" in row else row for key, row in zip(keys, rows, strict=True)}


def _program(reader: Reader, body: Mapping[str, Any]) -> Program:
    reader.count = 0
    inputs = reader.list_(body["inputs"], "inputs")
    return Program(
        modules=(),
        parameters=(),
        buffers=tuple([Stored(row[0], reader.shape(row[3:]), reader.dtype(row[2])) for row in inputs]),
        attributes=tuple([Stored(row[0], reader.shape(row[2:]), reader.dtype(row[1])) for row in body["attributes"]]),
        inputs={row[0]: reader.slot(row[1]) for row in inputs},
        outputs={},
        before=reader.events(body["events"], "events"),
        bodies=(),
        layers=(),
        after=(),
        dtype=DTYPE,
    )


def step_of(trainer: str, release: str, key: Key) -> TrainerProgram:
    """A trainer's step. Raises ``InputError`` where there is none, with those that there are."""
    known = steps_of(trainer, release)
    if not known:
        raise InputError(f"trl: {release} has no rule with trainer: {trainer}; take trl: 1.16", "trl")
    if key in known:
        return _read(trainer, release, key)
    for name, value in (("loss_type", key.loss_type), ("reference", key.reference)):
        others = sorted({str(getattr(one, name)) for one in known})
        if str(value) not in others:
            raise InputError(
                f"{name}: {value} has no rule with trainer: {trainer}; known are {', '.join(others)}", name
            )
    raise InputError(f"trainer: {trainer} of TRL {release} has no rule in this setting")
